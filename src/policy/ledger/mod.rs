//! One group's quota: what DevRev has reported about it, which attempts are in flight, and whether another may be sent.
//!
//! Everything is learnt from answers. Within a window the remaining units only fall, in whatever order answers arrive. An attempt
//! in flight reserves one unit until its answer reports what remains. A configured share of the window is first come, first
//! served; the rest is spread evenly over the time to the window's end. A retry-after from DevRev pauses the group. After
//! the pause one attempt probes, and the others follow in a ramp.
//!
//! ```
//! use std::time::Duration;
//! use revgate::policy::{feedback::Feedback, ledger::{Ledger, LedgerRules, Settlement}};
//!
//! let second = Duration::from_secs;
//! let rules = LedgerRules { spread_above: 0.5, reserve: 0.0, max_retry_after: second(600) };
//! let mut ledger = Ledger::default();
//! let first = ledger.grant(&rules, second(0)).expect("without a known window nothing is held");
//!
//! let feedback = Feedback { retry_after: Some(second(30)), ..Feedback::default() };
//! ledger.settle(first, Settlement::Answered { feedback, throttled: true }, &rules, second(0));
//! assert!(ledger.grant(&rules, second(1)).is_err(), "paused");
//!
//! assert!(ledger.grant(&rules, second(30)).is_ok(), "the probe");
//! assert!(ledger.grant(&rules, second(30)).is_err(), "one at a time");
//! ```

mod in_doubt;
mod learn;
mod recovery;
#[cfg(test)]
mod tests;
mod view;
mod window;

use std::time::Duration;

use self::{
    in_doubt::InDoubt,
    learn::LastReport,
    recovery::{ProbeResult, Recovery},
    view::SpendRate,
    window::{Window, when_in_later_windows},
};
pub use self::{
    recovery::PROBE_TIMEOUT,
    view::{Status, View},
};
use super::feedback::Feedback;

/// The operator's settings for sharing a quota.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LedgerRules {
    /// Share of a window that is first come, first served; the rest is spread. From 0 to 1.
    pub spread_above: f64,
    /// Share of a window that is reserved for use outside revgate. From 0 to 1.
    pub reserve: f64,
    /// Upper bound of a retry-after. A window's end that is further away is not trusted: an attempt checks again by then.
    pub max_retry_after: Duration,
}

impl LedgerRules {
    /// Units of a window that are reserved for use outside revgate.
    fn reserved(&self, limit: u64) -> f64 {
        (self.reserve * limit as f64).ceil()
    }
}

/// Permission to send one attempt. [`Ledger::settle`] takes it back when the attempt has ended.
#[derive(Debug)]
#[must_use]
pub struct Grant {
    number: u64,
    /// The window in which it was granted.
    window: u64,
    /// Whether it took a token of the spread.
    spread: bool,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub enum Settlement {
    /// Upstream answered.
    Answered {
        /// What the answer reported.
        feedback: Feedback,
        /// Whether its status was 429.
        throttled: bool,
    },
    /// It may have been sent and there was no answer, so DevRev may have counted it.
    InDoubt,
    /// It was never sent.
    Unsent,
}

/// Why an attempt must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldReason {
    /// The group is paused by a retry-after.
    Paused,
    /// Attempts already in flight must first show that upstream accepts more.
    Probing,
    /// The rest of the window is spread, and its next unit is not due yet.
    Spread,
    /// No unit is left in the window, apart from the reserve.
    Spent,
}

/// An attempt must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    pub reason: HoldReason,
    /// When to try again, if no answer arrives before.
    pub until: Option<Duration>,
}

/// The account of one group; see the module. Times are since any fixed instant and do not run backwards. A new ledger knows no
/// window, so it holds nothing. The rules belong to the configuration and are passed with each call; the ledger keeps only
/// what it has learnt.
#[derive(Debug, Default)]
pub struct Ledger {
    recovery: Recovery,
    window: Option<Window>,
    /// Identifies the current window, or the gap between two, in grants.
    window_id: u64,
    last_report: Option<LastReport>,
    /// The number of the next attempt; attempts are numbered in the order of their grants.
    next_number: u64,
    in_flight: u64,
    in_doubt: InDoubt,
    /// Units per second taken outside revgate in earlier windows.
    external_rate: f64,
    external: u64,
    throttled: u64,
    spend_rate: SpendRate,
}

impl Ledger {
    /// A grant for one attempt, if it may be sent now.
    ///
    /// # Errors
    /// Why it must wait, and until when.
    pub fn grant(&mut self, rules: &LedgerRules, now: Duration) -> Result<Grant, Hold> {
        self.roll(now);
        if let Some(hold) = self.recovery.hold(now, self.next_number) {
            return Err(hold);
        }
        if let Some(hold) = self.hold_by_window(rules, now) {
            return Err(hold);
        }
        let number = self.next_number;
        self.next_number += 1;
        self.in_flight += 1;
        self.recovery.granted(number, now);
        let spread = self.window.as_mut().is_some_and(Window::record_sent);
        Ok(Grant {
            number,
            window: self.window_id,
            spread,
        })
    }

    fn hold_by_window(&mut self, rules: &LedgerRules, now: Duration) -> Option<Hold> {
        let claimed = self.claimed();
        let Some(window) = &mut self.window else {
            // Between windows: the next one may not hold more units than the last.
            let limit = self.last_report?.limit;
            let grantable = limit as f64 - rules.reserved(limit);
            return (claimed > 0 && claimed as f64 >= grantable).then_some(Hold {
                reason: HoldReason::Probing,
                until: None,
            });
        };
        let hold = window.hold(rules, self.external_rate, claimed, now)?;
        if self.in_flight == 0 && self.in_doubt.units() > 0 {
            // Held only because of units in doubt: one attempt at a time finds out what is left.
            let without = window.hold(rules, self.external_rate, 0, now);
            if without.is_none_or(|without| {
                hold.reason == HoldReason::Spent && without.reason != HoldReason::Spent
            }) {
                return None;
            }
        }
        Some(hold)
    }

    /// Units that attempts in flight or in doubt may take.
    fn claimed(&self) -> u64 {
        self.in_flight + self.in_doubt.units()
    }

    /// Closes the window when its time is over.
    fn roll(&mut self, now: Duration) {
        if self
            .window
            .as_ref()
            .is_some_and(|window| window.ends <= now)
            && let Some(window) = self.close_window()
            && window.contended
            && !matches!(self.recovery, Recovery::Paused { .. })
        {
            // The attempts that waited for the reset must not all be sent at that moment.
            self.recovery.probe(self.next_number);
        }
    }

    /// Records how an attempt ended.
    pub fn settle(
        &mut self,
        grant: Grant,
        settlement: Settlement,
        rules: &LedgerRules,
        now: Duration,
    ) {
        self.roll(now);
        self.in_flight = self.in_flight.saturating_sub(1);
        let mut window = self.window.as_mut();
        let current = window.as_mut().filter(|_| grant.window == self.window_id);
        if let Some(window) = current {
            window.record_end();
            if matches!(settlement, Settlement::Unsent) {
                window.record_unsent(grant.spread);
            }
        }
        let (feedback, throttled) = match settlement {
            Settlement::Answered {
                feedback,
                throttled,
            } => (feedback, throttled),
            Settlement::InDoubt => {
                self.recovery
                    .settled(grant.number, ProbeResult::Inconclusive);
                return self.add_in_doubt();
            }
            Settlement::Unsent => {
                return self
                    .recovery
                    .settled(grant.number, ProbeResult::Inconclusive);
            }
        };
        if !self.learn(&feedback, grant.number, rules, now) {
            self.add_in_doubt();
        }
        self.throttled += u64::from(throttled);
        match feedback.retry_after {
            Some(retry_after) => self.recovery.pause(now.saturating_add(retry_after)),
            None if throttled => self
                .recovery
                .settled(grant.number, ProbeResult::Inconclusive),
            None => self.recovery.settled(grant.number, ProbeResult::Success),
        }
    }

    /// DevRev may have counted an attempt in this window, even one granted before the window was known.
    fn add_in_doubt(&mut self) {
        if self.window.is_some() {
            self.in_doubt.add(self.next_number);
        }
    }

    /// Pauses the group until then; a pause that already lasts longer stays.
    pub fn pause(&mut self, until: Duration) {
        self.recovery.pause(until);
    }

    /// Ends a pause on an operator's command, and forgets the window. The next attempt is a probe.
    pub fn resume(&mut self) {
        self.window = None;
        self.window_id += 1;
        self.in_doubt = InDoubt::default();
        self.last_report = None;
        self.recovery.probe(self.next_number);
    }

    /// The expected wait of an attempt that comes after `ahead` others. Zero if it depends on the answers of attempts in
    /// flight.
    pub fn predict_wait(&self, ahead: u64, rules: &LedgerRules, now: Duration) -> Duration {
        let at = self.recovery.paused_until().unwrap_or(now).max(now);
        let at = match (&self.window, &self.last_report) {
            (Some(window), _) if window.ends > at => window
                .when_available(rules, self.external_rate, ahead, now)
                .max(at),
            // Another window will have begun by then. It is assumed to be like the last.
            (_, Some(last)) => {
                let wanted = ahead as f64 + 1.0;
                when_in_later_windows(rules, (last.limit, last.length), wanted, at)
            }
            (_, None) => at,
        };
        at.saturating_sub(now)
    }

    /// The end of the current pause.
    pub fn paused_until(&self, now: Duration) -> Option<Duration> {
        self.recovery.paused_until().filter(|until| *until > now)
    }

    /// Whether this ledger can be dropped without forgetting anything that would hold an attempt.
    pub fn is_idle(&self, now: Duration) -> bool {
        let over = self.window.as_ref().is_none_or(|w| w.ends <= now);
        self.in_flight == 0 && over && self.paused_until(now).is_none()
    }
}
