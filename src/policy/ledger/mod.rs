//! One group's quota: what upstream told of it, what is under way, and whether one more attempt may go.
//!
//! Everything is learnt from answers. In a window of upstream's what remains only falls, in whatever order answers
//! arrive; an attempt under way holds one unit of it until its answer tells what was taken. Up to a share of the window
//! is first come, first served; the rest is spread evenly to the window's end. A time that upstream names stops the group,
//! and after it one attempt probes and the others follow in a ramp.

mod gate;
#[cfg(test)]
mod tests;
mod view;
mod window;

use std::time::Duration;

pub use self::{gate::PATIENCE, view::View};
use self::{
    gate::{Gate, Verdict},
    view::Spending,
    window::{Report, Window},
};
use super::feedback::Feedback;

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Share of a window that goes first come, first served; the rest is spread. From 0 to 1.
    pub spread_above: f64,
    /// Share of a window that is left to others. From 0 to 1.
    pub reserve: f64,
    /// A window's end that is further away is not believed: it is asked again by then.
    pub longest: Duration,
}

/// Leave to send one attempt. Its end is told by [`Ledger::settle`], once.
#[derive(Debug)]
#[must_use]
pub struct Grant {
    number: u64,
    /// Of the window that it was granted in.
    window: u64,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// Upstream answered.
    Answered {
        /// What it told.
        told: Feedback,
        /// With 429.
        throttled: bool,
    },
    /// It was sent, perhaps, and nothing was told: a unit may be gone.
    Doubtful,
    /// Nothing was sent.
    Unsent,
}

/// Why an attempt may not go yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Upstream named a time.
    Paused,
    /// Others find out whether it may.
    Probing,
    /// The rest of the window is spread.
    Spread,
    /// Nothing is left in the window, or nothing that is ours.
    Spent,
}

/// An attempt may not go yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The reason.
    pub why: Why,
    /// When to ask again, if no answer comes before.
    pub until: Option<Duration>,
}

/// See the module. Times are since any fixed instant, and do not step back.
#[derive(Debug)]
pub struct Ledger {
    rules: Rules,
    gate: Gate,
    window: Option<Window>,
    /// Counts windows, so that an attempt knows its own.
    windows: u64,
    /// As upstream last said: limit, remaining, reset.
    said: Option<(u64, u64, u64)>,
    /// Attempts ever granted; the next one's number.
    numbers: u64,
    in_flight: u64,
    /// Attempts of this window of which nothing was told, and the number from which an answer makes up for that.
    doubtful: u64,
    doubted: u64,
    /// What others took in the windows before, in units a second.
    external_rate: f64,
    external: u64,
    throttled: u64,
    spending: Spending,
}

impl Ledger {
    /// A ledger that knows nothing, and so holds nobody.
    pub fn new(rules: Rules) -> Ledger {
        Ledger {
            rules,
            gate: Gate::Open,
            window: None,
            windows: 0,
            said: None,
            numbers: 0,
            in_flight: 0,
            doubtful: 0,
            doubted: 0,
            external_rate: 0.0,
            external: 0,
            throttled: 0,
            spending: Spending::default(),
        }
    }

    /// From now on the operator wants this.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Asks for one attempt.
    ///
    /// # Errors
    /// Why it may not go, and when to ask again.
    pub fn grant(&mut self, now: Duration) -> Result<Grant, Hold> {
        self.roll(now);
        if let Some(hold) = self.gate.hold(now, self.numbers) {
            return Err(hold);
        }
        if let Some(hold) = self.window_holds(now) {
            return Err(hold);
        }
        let number = self.numbers;
        self.numbers += 1;
        self.in_flight += 1;
        self.gate.granted(number, now);
        if let Some(window) = &mut self.window {
            window.sent();
        }
        Ok(Grant {
            number,
            window: self.windows,
        })
    }

    fn window_holds(&mut self, now: Duration) -> Option<Hold> {
        let claimed = self.claimed();
        let Some(window) = &mut self.window else {
            // Between windows: the next one is not known to hold more than the last.
            let (limit, ..) = self.said?;
            return (claimed > 0 && claimed >= limit).then_some(Hold {
                why: Why::Probing,
                until: None,
            });
        };
        let hold = window.hold(&self.rules, self.external_rate, claimed, now)?;
        // Held by doubt alone: one attempt at a time finds out what is left.
        let doubt = hold.why == Why::Spent && self.in_flight == 0 && self.doubtful > 0;
        if doubt
            && window
                .hold(&self.rules, self.external_rate, 0, now)
                .is_none_or(|hold| hold.why != Why::Spent)
        {
            return None;
        }
        Some(hold)
    }

    /// Units that attempts under way, or gone without a word, may take.
    fn claimed(&self) -> u64 {
        self.in_flight + self.doubtful
    }

    /// Ends the window when its time is over.
    fn roll(&mut self, now: Duration) {
        if self
            .window
            .as_ref()
            .is_some_and(|window| window.ends <= now)
            && let Some(window) = self.close()
            && window.crowded
            && !matches!(self.gate, Gate::Paused { .. })
        {
            // Whoever waited for the reset must not all come with it.
            self.gate.probe(self.numbers);
        }
    }

    fn close(&mut self) -> Option<Window> {
        let window = self.window.take()?;
        self.external_rate = (self.external_rate + window.external_rate()) / 2.0;
        self.doubtful = 0;
        self.windows += 1;
        Some(window)
    }

    /// An attempt has ended.
    pub fn settle(&mut self, grant: Grant, outcome: Outcome, now: Duration) {
        self.roll(now);
        self.in_flight = self.in_flight.saturating_sub(1);
        let current = grant.window == self.windows;
        let (told, throttled) = match outcome {
            Outcome::Answered { told, throttled } => (told, throttled),
            Outcome::Doubtful => {
                self.gate.settled(grant.number, Verdict::Nothing);
                return self.doubt(current);
            }
            Outcome::Unsent => {
                self.gate.settled(grant.number, Verdict::Nothing);
                if let Some(window) = self.window.as_mut().filter(|_| current) {
                    window.unsent();
                }
                return;
            }
        };
        if !self.learn(&told, &grant, now) {
            self.doubt(current);
        }
        self.throttled += u64::from(throttled);
        match told.demand {
            Some(demand) => self.gate.pause(now.saturating_add(demand)),
            None if throttled => self.gate.settled(grant.number, Verdict::Nothing),
            None => self.gate.settled(grant.number, Verdict::Good),
        }
    }

    /// A unit of this window may be gone.
    fn doubt(&mut self, current: bool) {
        if current && self.window.is_some() {
            self.doubtful += 1;
            self.doubted = self.numbers;
        }
    }

    /// False when the answer told nothing of what remains.
    fn learn(&mut self, told: &Feedback, grant: &Grant, now: Duration) -> bool {
        let (Some(remaining), Some(reset), Some(resets_in)) =
            (told.remaining, told.reset, told.resets_in)
        else {
            return false;
        };
        let report = Report {
            limit: told.limit,
            remaining,
            reset,
            resets_in: resets_in.min(self.rules.longest),
        };
        match &mut self.window {
            Some(window) if window.is_told_by(&report, now) => {
                let (spent, external) = window.learn(&report, now);
                self.external = self.external.saturating_add(external);
                self.said = Some((window.limit, window.remaining, window.reset));
                self.spending.add(spent, now);
                // Whatever went without a word before this attempt is in what its answer tells.
                if grant.number >= self.doubted {
                    self.doubtful = 0;
                }
            }
            Some(window) if report.reset < window.reset => {}
            // Of a window that is over, or of no time at all.
            None if report.resets_in.is_zero()
                || self.said.is_some_and(|(.., last)| report.reset < last) => {}
            _ => self.open(report, now),
        }
        true
    }

    fn open(&mut self, mut report: Report, now: Duration) {
        // A window that is over by our clock goes on by upstream's: it has no more left than it had.
        if let Some((_, remaining, reset)) = self.said
            && reset == report.reset
        {
            report.remaining = report.remaining.min(remaining);
        }
        // A window that follows one that was over was whole. Of the first one, of one that goes on, and of one whose end
        // moves before it has come (which is no window at all), we do not know what there was.
        let over = self
            .window
            .as_ref()
            .is_none_or(|window| window.is_over(now));
        let whole = self
            .said
            .filter(|(.., reset)| over && report.reset > *reset)
            .map(|(limit, ..)| report.limit.unwrap_or(limit));
        self.close();
        let window = Window::open(report, whole, self.in_flight + 1, now);
        self.external = self.external.saturating_add(window.external);
        self.said = Some((window.limit, window.remaining, window.reset));
        self.window = Some(window);
        self.windows += 1;
        self.spending.add(1, now);
    }

    /// Stops the group until then, or for longer if it was stopped for longer.
    pub fn pause(&mut self, until: Duration) {
        self.gate.pause(until);
    }

    /// Ends a pause by hand, and forgets what else holds the group. The next attempt is a probe.
    pub fn resume(&mut self) {
        self.window = None;
        self.windows += 1;
        self.doubtful = 0;
        self.said = None;
        self.gate.probe(self.numbers);
    }

    /// How long until an attempt may go that comes after `ahead` others, as far as can be told now. Zero where only
    /// an answer will tell.
    pub fn wait(&self, ahead: u64, now: Duration) -> Duration {
        let at = self.gate.paused_until().unwrap_or(now).max(now);
        let at = match &self.window {
            Some(window) if window.ends > at => window
                .when(&self.rules, self.external_rate, self.claimed(), ahead, now)
                .max(at),
            _ => at,
        };
        at.saturating_sub(now)
    }

    /// Until when upstream asked for silence.
    pub fn paused_until(&self, now: Duration) -> Option<Duration> {
        self.gate.paused_until().filter(|until| *until > now)
    }

    /// Whether forgetting it would lose nothing that holds anybody.
    pub fn is_idle(&self, now: Duration) -> bool {
        let over = self.window.as_ref().is_none_or(|w| w.ends <= now);
        self.in_flight == 0 && over && self.paused_until(now).is_none()
    }
}
