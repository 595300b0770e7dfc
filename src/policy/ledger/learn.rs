//! How the ledger learns the window from answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Ledger, LedgerRules,
    in_doubt::InDoubt,
    window::{Report, Window},
};
use crate::policy::{fair::Standing, feedback::Feedback};

/// What upstream last reported about a window.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct LastReport {
    pub limit: u64,
    pub remaining: u64,
    pub reset: u64,
    pub opened: Duration,
    pub length: Duration,
}

impl LastReport {
    fn of(window: &Window) -> LastReport {
        LastReport {
            limit: window.limit,
            remaining: window.remaining,
            reset: window.reset,
            opened: window.opened,
            length: window.length(),
        }
    }
}

impl Ledger {
    /// Learns from the answer to attempt `number`. False if it does not report what remains.
    pub(super) fn learn(
        &mut self,
        feedback: &Feedback,
        number: u64,
        rules: &LedgerRules,
        now: Duration,
    ) -> bool {
        let (Some(remaining), Some(reset), Some(resets_in)) =
            (feedback.remaining, feedback.reset, feedback.resets_in)
        else {
            return false;
        };
        let report = Report {
            limit: feedback.limit,
            remaining,
            reset,
            resets_in: resets_in.min(rules.max_retry_after),
        };
        let outdated = self.is_outdated(&report, now);
        let (is_replica, follows) = (self.supply.is_some(), self.follows());
        if let Some(lease) = &mut self.supply {
            lease.tell(feedback, number, now);
            if lease.is_alone() {
                self.learning.told();
            }
        }
        match &mut self.window {
            Some(window) if window.is_reported_by(&report, now) => {
                let (limit, known) = (window.limit, window.external);
                // Replicas may have used what is leased to them, and not have said so yet.
                let unsaid = if is_replica { 0 } else { self.leased };
                let (spent, mut external) = window.learn(&report, unsaid, now);
                if follows {
                    // The others' attempts look the same here. The pool tells them apart.
                    (window.external, external) = (known, 0);
                }
                self.basis += u64::from(external > 0 || window.limit != limit);
                if !is_replica {
                    self.external = self.external.saturating_add(external);
                }
                self.last_report = Some(LastReport::of(window));
                self.spend_rate.add(spent, now);
                self.external_spend.add(external, now);
                self.in_doubt.answered(number);
            }
            // It is about a window that is over, or its reset has passed.
            _ if outdated || report.resets_in.is_zero() => {}
            _ => self.open_window(report, now),
        }
        true
    }

    /// Attributes an answer to this group, whose attempt was sent before the group of its token was known. Its unit was taken by
    /// revgate and is not external.
    pub fn attribute(&mut self, feedback: &Feedback, rules: &LedgerRules, now: Duration) {
        self.roll(now);
        if let Some(window) = &mut self.window {
            window.record_sent(Standing::Interactive);
            window.record_end();
        }
        // An answer about a token is one of DevRev's own.
        self.learning.told();
        // Attempts in doubt may have been sent later, so this answer resolves none of them.
        if !self.learn(feedback, 0, rules, now) {
            self.add_in_doubt();
        }
    }

    /// Whether it is about a window that is over.
    fn is_outdated(&self, report: &Report, now: Duration) -> bool {
        self.last_report
            .is_some_and(|last| Window::is_before(report, last.reset, last.opened, now))
    }

    fn open_window(&mut self, mut report: Report, now: Duration) {
        // A window that is over by our clock and not by upstream's has no more units left than before.
        if let Some(last) = self.last_report.filter(|last| last.reset == report.reset) {
            report.remaining = report.remaining.min(last.remaining);
        }
        // The initial units are known only of a window that follows one that was over. They are unknown of the first window, of
        // one that continues, and of one whose reset moves before it is reached.
        let over = self.window.as_ref().is_none_or(|w| w.may_be_over(now));
        let initial_if_known = self
            .last_report
            .filter(|last| over && report.reset > last.reset)
            .map(|last| report.limit.unwrap_or(last.limit));
        self.close_window();
        let previous = self.last_report.map(|last| last.reset);
        let mut window = Window::open(report, previous, initial_if_known, self.in_flight + 1, now);
        if self.follows() {
            window.external = 0;
        }
        if self.supply.is_none() {
            self.external = self.external.saturating_add(window.external);
        }
        self.last_report = Some(LastReport::of(&window));
        self.window = Some(window);
        self.window_id += 1;
        self.basis += 1;
        self.ended = None;
        self.learning.told();
        self.spend_rate.add(1, now);
    }

    pub(super) fn close_window(&mut self) -> Option<Window> {
        let window = self.window.take()?;
        if let Some(rate) = window.external_rate() {
            self.external_rate = (self.external_rate + rate) / 2.0;
        }
        self.in_doubt = InDoubt::default();
        self.window_id += 1;
        Some(window)
    }

    /// Ends all pauses on an operator's command, and forgets the window. The next attempt is a probe.
    pub fn resume(&mut self) {
        self.window = None;
        self.window_id += 1;
        self.in_doubt = InDoubt::default();
        self.last_report = None;
        self.ended = None;
        self.learning.begin(self.next_number);
        self.pauses.resume(self.next_number);
        if let Some(lease) = &mut self.supply {
            lease.resume();
        }
    }

    /// Whether it waits for an answer that tells the window, or that there is none.
    pub fn is_learning(&self) -> bool {
        self.learning.goes_on()
    }
}
