//! What answers tell of the window.

use std::time::Duration;

use super::{
    Ledger, Rules,
    doubt::Doubt,
    window::{Report, Window},
};
use crate::policy::feedback::Feedback;

/// What upstream last said of a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub limit: u64,
    pub remaining: u64,
    pub reset: u64,
    pub opened: Duration,
    pub length: Duration,
}

impl Said {
    fn of(window: &Window) -> Said {
        Said {
            limit: window.limit,
            remaining: window.remaining,
            reset: window.reset,
            opened: window.opened,
            length: window.length(),
        }
    }
}

impl Ledger {
    /// Learns from the answer to attempt `number`. False when it told nothing of what remains.
    pub(super) fn learn(
        &mut self,
        told: &Feedback,
        number: u64,
        rules: &Rules,
        now: Duration,
    ) -> bool {
        let (Some(remaining), Some(reset), Some(resets_in)) =
            (told.remaining, told.reset, told.resets_in)
        else {
            return false;
        };
        let report = Report {
            limit: told.limit,
            remaining,
            reset,
            resets_in: resets_in.min(rules.longest),
        };
        let before = self.is_before(&report, now);
        match &mut self.window {
            Some(window) if window.is_told_by(&report, now) => {
                let (spent, external) = window.learn(&report, now);
                self.external = self.external.saturating_add(external);
                self.said = Some(Said::of(window));
                self.spending.add(spent, now);
                self.doubt.answered(number);
            }
            // Of a window that is over, or of no time at all.
            _ if before || report.resets_in.is_zero() => {}
            _ => self.open(report, now),
        }
        true
    }

    /// An answer told of this group, to an attempt that was sent before it was known to be this group's: the unit that it
    /// took is ours.
    pub fn adopt(&mut self, told: &Feedback, rules: &Rules, now: Duration) {
        self.roll(now);
        if let Some(window) = &mut self.window {
            window.sent();
            window.ended();
        }
        // What went without a word may have gone after it: its answer clears no doubt.
        if !self.learn(told, 0, rules, now) {
            self.may_be_gone();
        }
    }

    /// Whether it is of a window that is over.
    fn is_before(&self, report: &Report, now: Duration) -> bool {
        self.said
            .is_some_and(|said| Window::is_before(report, said.reset, said.opened, now))
    }

    fn open(&mut self, mut report: Report, now: Duration) {
        // A window that is over by our clock goes on by upstream's: it has no more left than it had.
        if let Some(said) = self.said.filter(|said| said.reset == report.reset) {
            report.remaining = report.remaining.min(said.remaining);
        }
        // A window that follows one that was over was whole. Of the first one, of one that goes on, and of one whose end
        // moves before it has come (which is no window at all), we do not know what there was.
        let over = self.window.as_ref().is_none_or(|w| w.is_over(now));
        let whole = self
            .said
            .filter(|said| over && report.reset > said.reset)
            .map(|said| report.limit.unwrap_or(said.limit));
        self.close();
        let previous = self.said.map(|said| said.reset);
        let window = Window::open(report, previous, whole, self.in_flight + 1, now);
        self.external = self.external.saturating_add(window.external);
        self.said = Some(Said::of(&window));
        self.window = Some(window);
        self.windows += 1;
        self.spending.add(1, now);
    }

    pub(super) fn close(&mut self) -> Option<Window> {
        let window = self.window.take()?;
        if let Some(rate) = window.external_rate() {
            self.external_rate = (self.external_rate + rate) / 2.0;
        }
        self.doubt = Doubt::default();
        self.windows += 1;
        Some(window)
    }
}
