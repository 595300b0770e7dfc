//! One group's quota: what DevRev told about it, what is under way, and whether one more attempt may go.
//!
//! Everything is learnt from answers. Within a window the remaining units only fall, in whatever order answers arrive. An attempt under way
//! holds one unit until its answer tells what was taken. Up to a share of the window is first come, first served; the rest is
//! spread evenly to the window's end. A time that DevRev names stops the group. After it one attempt probes, and the others
//! follow in a ramp.
//!
//! ```
//! use std::time::Duration;
//! use revgate::policy::{feedback::Feedback, ledger::{Ledger, Outcome, Rules}};
//!
//! let second = Duration::from_secs;
//! let rules = Rules { spread_above: 0.5, reserve: 0.0, longest: second(600) };
//! let mut ledger = Ledger::default();
//! let first = ledger.grant(&rules, second(0)).expect("nothing is known, so nothing is held");
//!
//! let told = Feedback { retry_after: Some(second(30)), ..Feedback::default() };
//! ledger.settle(first, Outcome::Answered { told, throttled: true }, &rules, second(0));
//! assert!(ledger.grant(&rules, second(1)).is_err(), "paused");
//!
//! assert!(ledger.grant(&rules, second(30)).is_ok(), "the probe");
//! assert!(ledger.grant(&rules, second(30)).is_err(), "one at a time");
//! ```

mod doubt;
mod gate;
mod learn;
#[cfg(test)]
mod tests;
mod view;
mod window;

use std::time::Duration;

use self::{
    doubt::Doubt,
    gate::{Gate, Verdict},
    learn::Said,
    view::Spending,
    window::{Window, fresh},
};
pub use self::{
    gate::PATIENCE,
    view::{Status, View},
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

impl Rules {
    /// Units of a window that are left to others.
    fn reserved(&self, limit: u64) -> f64 {
        (self.reserve * limit as f64).ceil()
    }
}

/// Leave to send one attempt. Its end is told by [`Ledger::settle`], once.
#[derive(Debug)]
#[must_use]
pub struct Grant {
    number: u64,
    /// Of the window that it was granted in.
    window: u64,
    /// It took a unit of the spread.
    spread: bool,
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

/// See the module. Times are since any fixed instant, and do not step back. A new ledger knows nothing, and so holds
/// nobody. The rules come with each call: they are the configuration's, and what is kept here is only what was learnt.
#[derive(Debug, Default)]
pub struct Ledger {
    gate: Gate,
    window: Option<Window>,
    /// Counts windows, so that an attempt knows its own.
    windows: u64,
    said: Option<Said>,
    /// Attempts ever granted; the next one's number.
    numbers: u64,
    in_flight: u64,
    doubt: Doubt,
    /// What others took in the windows before, in units a second.
    external_rate: f64,
    external: u64,
    throttled: u64,
    spending: Spending,
}

impl Ledger {
    /// Asks for one attempt.
    ///
    /// # Errors
    /// Why it may not go, and when to ask again.
    pub fn grant(&mut self, rules: &Rules, now: Duration) -> Result<Grant, Hold> {
        self.roll(now);
        if let Some(hold) = self.gate.hold(now, self.numbers) {
            return Err(hold);
        }
        if let Some(hold) = self.window_holds(rules, now) {
            return Err(hold);
        }
        let number = self.numbers;
        self.numbers += 1;
        self.in_flight += 1;
        self.gate.granted(number, now);
        let spread = self.window.as_mut().is_some_and(Window::sent);
        Ok(Grant {
            number,
            window: self.windows,
            spread,
        })
    }

    fn window_holds(&mut self, rules: &Rules, now: Duration) -> Option<Hold> {
        let claimed = self.claimed();
        let Some(window) = &mut self.window else {
            // Between windows: the next one is not known to hold more than the last.
            let limit = self.said?.limit;
            let ours = limit as f64 - rules.reserved(limit);
            return (claimed > 0 && claimed as f64 >= ours).then_some(Hold {
                why: Why::Probing,
                until: None,
            });
        };
        let hold = window.hold(rules, self.external_rate, claimed, now)?;
        if self.in_flight == 0 && self.doubt.units() > 0 {
            // Held by doubt alone: one attempt at a time finds out what is left.
            let plain = window.hold(rules, self.external_rate, 0, now);
            if plain.is_none_or(|plain| hold.why == Why::Spent && plain.why != Why::Spent) {
                return None;
            }
        }
        Some(hold)
    }

    /// Units that attempts under way, or gone without a word, may take.
    fn claimed(&self) -> u64 {
        self.in_flight + self.doubt.units()
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

    /// An attempt has ended.
    pub fn settle(&mut self, grant: Grant, outcome: Outcome, rules: &Rules, now: Duration) {
        self.roll(now);
        self.in_flight = self.in_flight.saturating_sub(1);
        let mut window = self.window.as_mut();
        let current = window.as_mut().filter(|_| grant.window == self.windows);
        if let Some(window) = current {
            window.ended();
            if matches!(outcome, Outcome::Unsent) {
                window.unsent(grant.spread);
            }
        }
        let (told, throttled) = match outcome {
            Outcome::Answered { told, throttled } => (told, throttled),
            Outcome::Doubtful => {
                self.gate.settled(grant.number, Verdict::Nothing);
                return self.may_be_gone();
            }
            Outcome::Unsent => return self.gate.settled(grant.number, Verdict::Nothing),
        };
        if !self.learn(&told, grant.number, rules, now) {
            self.may_be_gone();
        }
        self.throttled += u64::from(throttled);
        match told.retry_after {
            Some(retry_after) => self.gate.pause(now.saturating_add(retry_after)),
            None if throttled => self.gate.settled(grant.number, Verdict::Nothing),
            None => self.gate.settled(grant.number, Verdict::Good),
        }
    }

    /// A unit of this window may be gone, also if the attempt was granted before the window was known.
    fn may_be_gone(&mut self) {
        if self.window.is_some() {
            self.doubt.add(self.numbers);
        }
    }

    /// Stops the group until then, or for longer if it was stopped for longer.
    pub fn pause(&mut self, until: Duration) {
        self.gate.pause(until);
    }

    /// Ends a pause by hand, and forgets what else holds the group. The next attempt is a probe.
    pub fn resume(&mut self) {
        self.window = None;
        self.windows += 1;
        self.doubt = Doubt::default();
        self.said = None;
        self.gate.probe(self.numbers);
    }

    /// How long until an attempt may go that comes after `ahead` others, as far as can be told now. Zero where only
    /// an answer will tell.
    pub fn wait(&self, ahead: u64, rules: &Rules, now: Duration) -> Duration {
        let at = self.gate.paused_until().unwrap_or(now).max(now);
        let at = match (&self.window, &self.said) {
            (Some(window), _) if window.ends > at => {
                window.when(rules, self.external_rate, ahead, now).max(at)
            }
            // By then another window begins, which is taken to be like the last.
            (_, Some(said)) => {
                let wanted = ahead as f64 + 1.0;
                fresh(rules, (said.limit, said.length), wanted, at)
            }
            (_, None) => at,
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
