//! One group's quota: what DevRev has reported about it, which attempts are in flight, and whether another may be sent.
//!
//! Everything is learnt from answers. Within a window the remaining units only fall, in whatever order answers arrive. An attempt
//! in flight reserves one unit until its answer reports what remains. A configured share of the window is first come, first
//! served, for interactive callers; the rest is spread evenly over the time to the window's end. Batch is dealt from the even spread
//! of the whole window, from its beginning. A retry-after from DevRev pauses the group, or one operation in it. After the pause one
//! attempt probes, and the others follow in a ramp. So they do while nothing is known yet.
//!
//! ```
//! use std::time::Duration;
//! use revgate::policy::{
//!     fair::Standing,
//!     feedback::{Admitted, Feedback},
//!     ledger::{AttemptKind, Ledger, LedgerRules, Payload, Settlement},
//!     operation::Operation,
//! };
//!
//! let operation = Operation::from_path("/works.list").id();
//! let standing = Standing::Interactive;
//! let list = AttemptKind { operation, payload: Payload::Whole, standing };
//! let second = Duration::from_secs;
//! let rules = LedgerRules { spread_above: 0.5, reserve: 0.0, max_retry_after: second(600) };
//! let mut ledger = Ledger::default();
//! let first = ledger.grant(list, &rules, second(0)).expect("it finds out what the window is");
//! assert!(ledger.grant(list, &rules, second(0)).is_err(), "one at a time");
//!
//! let feedback = Feedback { retry_after: Some(second(30)), ..Feedback::default() };
//! ledger.settle(first, Settlement::Answered { feedback, admitted: Admitted::No }, &rules, second(0));
//! assert!(ledger.grant(list, &rules, second(1)).is_err(), "paused");
//!
//! assert!(ledger.grant(list, &rules, second(30)).is_ok(), "the probe");
//! assert!(ledger.grant(list, &rules, second(30)).is_err(), "one at a time");
//! ```

mod end;
mod fleet;
mod forecast;
mod gate;
mod grant;
mod in_doubt;
mod learn;
mod learning;
mod outlook;
mod recovery;
mod replica;
#[cfg(test)]
mod tests;
mod view;
mod window;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(in crate::policy) use self::view::SMOOTHING;
pub use self::{
    end::End,
    fleet::{Claims, Leasable, Source},
    gate::{AttemptKind, Gate, Paused, REMEMBERED},
    grant::{Grant, Hold, HoldReason, Settlement},
    recovery::{PROBE_TIMEOUT, Payload},
    view::{SpendRate, Status, View},
};
pub(crate) use self::{fleet::SAME, replica::Shift};
use self::{
    gate::Pauses,
    in_doubt::InDoubt,
    learn::LastReport,
    learning::Learning,
    recovery::Recovery,
    window::{RESOLUTION, Taken, Window},
};
use super::{
    fair::Standing,
    feedback::{Admitted, Feedback},
    fleet::Lease,
    operation::OperationId,
};

/// The operator's settings for sharing a quota.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerRules {
    /// Share of a window that is first come, first served for interactive callers; the rest is spread. From 0 to 1.
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

/// The account of one group; see the module. Times are since any fixed instant and do not run backwards. A new ledger knows
/// nothing, so its first attempt finds out. The rules belong to the configuration and are passed with each call; the ledger keeps
/// only what it has learnt.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    pauses: Pauses,
    learning: Learning,
    window: Option<Window>,
    /// Between windows: when the last one ended, or an attempt was granted since.
    ended: Option<Duration>,
    /// Identifies the current window, or the gap between two, in grants.
    window_id: u64,
    last_report: Option<LastReport>,
    /// The number of the next attempt; attempts are numbered in the order of their grants.
    next_number: u64,
    in_flight: u64,
    /// How many of them have a streamed body.
    streamed: u64,
    /// Units that others may take: leased to replicas of the fleet, or held here by a lease, and not sent yet.
    leased: u64,
    /// How many of these are for interactive callers of the fleet.
    in_advance: u64,
    in_doubt: InDoubt,
    basis: u64,
    /// Units per second taken outside revgate in earlier windows.
    external_rate: f64,
    external: u64,
    throttled: u64,
    spend_rate: SpendRate,
    external_spend: SpendRate,
    /// This replica's part in a fleet, if it has one.
    #[serde(skip)]
    supply: Option<Box<Lease>>,
}

impl Ledger {
    /// A grant for one attempt, if it may be sent now.
    ///
    /// # Errors
    /// Why it must wait, and until when.
    pub fn grant(
        &mut self,
        kind: AttemptKind,
        rules: &LedgerRules,
        now: Duration,
    ) -> Result<Grant, Hold> {
        if let Some(hold) = self.gate(now).hold(&kind) {
            return Err(hold);
        }
        if let Some(leased) = self.grant_by_lease(kind, now) {
            return Ok(self.record_grant(kind, leased?, now));
        }
        if let Some(hold) = self.hold_by_window(&kind, rules, now) {
            return Err(hold);
        }
        let (claimed, outside) = (self.claimed(), self.outside());
        let grant = self.record_grant(kind, Source::Own, now);
        if let (Some(window), Standing::Aged) = (&mut self.window, kind.standing) {
            window.record_aged(rules, outside, claimed, now);
        }
        Ok(grant)
    }

    fn record_grant(&mut self, kind: AttemptKind, source: Source, now: Duration) -> Grant {
        let number = self.next_number;
        self.next_number += 1;
        self.in_flight += 1;
        self.streamed += u64::from(kind.payload == Payload::Streamed);
        self.pauses.granted(number, &kind, now);
        self.learning.granted((number, kind.payload), now);
        self.ended = self.ended.map(|_| now);
        let window = self.window.as_mut();
        let spread = window.is_some_and(|window| window.record_sent(kind.standing));
        if let Some(lease) = &mut self.supply {
            lease.sent(source, kind.standing, now);
        }
        Grant {
            number,
            kind,
            window: self.window_id,
            spread,
            source,
        }
    }

    /// Which kinds of attempts must wait now, apart from the window.
    pub fn gate(&mut self, now: Duration) -> Gate {
        self.roll(now);
        if self.follows() {
            return self.own_pauses(now);
        }
        let remaining = self.window.as_ref().map(|window| window.remaining);
        let supply = self.supply.as_ref();
        let is_stale = supply.is_some_and(|lease| lease.is_stale(remaining, now));
        if is_stale && !self.learning.goes_on() {
            self.learning.begin(self.next_number);
        }
        let mut gate = self.pauses.gate(now, self.next_number);
        gate.group = gate.group.or(self.learning.holds(now));
        gate
    }

    fn hold_by_window(
        &mut self,
        kind: &AttemptKind,
        rules: &LedgerRules,
        now: Duration,
    ) -> Option<Hold> {
        let (taken, outside) = (self.taken(), self.outside());
        let Some(window) = &mut self.window else {
            return self.hold_between_windows(kind, rules);
        };
        let standing = kind.standing;
        let hold = window.hold(rules, outside, (taken, standing), now)?;
        if self.in_flight == 0 && self.in_doubt.units() > 0 {
            // Held only because of units in doubt: one attempt at a time finds out what is left.
            let taken = Taken {
                all: self.leased,
                in_advance: self.in_advance,
            };
            let without = window.hold(rules, outside, (taken, standing), now);
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
        self.in_flight + self.leased + self.in_doubt.units()
    }

    fn taken(&self) -> Taken {
        Taken {
            all: self.claimed(),
            in_advance: self.in_advance,
        }
    }

    /// Closes the window when its time is over.
    fn roll(&mut self, now: Duration) {
        if self
            .window
            .as_ref()
            .is_some_and(|window| window.ends <= now)
            && let Some(window) = self.close_window()
        {
            self.ended = Some(window.ends);
            if window.contended && !matches!(self.pauses.group, Recovery::Paused { .. }) {
                // The attempts that waited for the reset must not all be sent at that moment.
                self.pauses.group.probe(self.next_number);
            }
        }
        // For a moment the next window is as good as unused. Later, others may have used it.
        let is_past = |ended: &Duration| ended.saturating_add(RESOLUTION) <= now;
        if self.ended.take_if(|ended| is_past(ended)).is_some() {
            self.learning.begin(self.next_number);
        }
    }

    /// Takes back a grant of an attempt that is not made after all.
    pub fn put_back(&mut self, grant: Grant, now: Duration) {
        // No answer is read, so the rules decide nothing.
        let rules = LedgerRules {
            spread_above: 1.0,
            reserve: 0.0,
            max_retry_after: Duration::ZERO,
        };
        self.settle(grant, Settlement::Unsent, &rules, now);
    }

    /// Records how an attempt ended. Returns what its retry-after has just paused, if that was not paused before.
    pub fn settle(
        &mut self,
        grant: Grant,
        settlement: Settlement,
        rules: &LedgerRules,
        now: Duration,
    ) -> Option<Paused> {
        self.roll(now);
        self.in_flight = self.in_flight.saturating_sub(1);
        if grant.kind.payload == Payload::Streamed {
            self.streamed = self.streamed.saturating_sub(1);
        }
        let mut window = self.window.as_mut();
        let current = window.as_mut().filter(|_| grant.window == self.window_id);
        if let Some(window) = current {
            window.record_end();
            if matches!(settlement, Settlement::Unsent | Settlement::Unreachable) {
                window.record_unsent(grant.spread, grant.kind.standing);
            }
        }
        let end = End::of(&settlement);
        let Settlement::Answered { feedback, admitted } = settlement else {
            self.conclude(&grant, end);
            if end == End::InDoubt {
                self.add_in_doubt();
            }
            self.tell_supply(&grant, end, now);
            return None;
        };
        let throttled = admitted == Admitted::No;
        if !self.learn(&feedback, grant.number, rules, now) {
            self.add_in_doubt();
        }
        // A window that it told has ended the learning by now.
        self.conclude(&grant, end);
        self.tell_supply(&grant, end, now);
        let until = now.saturating_add(feedback.retry_after?);
        self.refused(grant.kind.operation, throttled, until, now)
    }

    /// An answer to this operation names the time `until`: a 429, by which it pauses the group, or a 503, by which it pauses the
    /// operation, and the group if a second one says so too. A pause that already lasts longer stays. Returns what has just been
    /// paused, if that was not paused before.
    pub fn refused(
        &mut self,
        operation: OperationId,
        throttled: bool,
        until: Duration,
        now: Duration,
    ) -> Option<Paused> {
        let before = (self.paused_until(now), self.paused_operation(now));
        let paused = if throttled {
            self.pauses.group.pause(until);
            Paused::Group
        } else {
            self.pauses.pause(operation, until, now)
        };
        if before != (self.paused_until(now), self.paused_operation(now)) {
            self.basis += 1;
        }
        let was = match paused {
            Paused::Group => before.0.is_some(),
            Paused::Operation => before.1.is_some_and(|(id, _)| id == operation),
        };
        (!was).then_some(paused)
    }

    /// Counts a 429.
    pub fn count_throttled(&mut self) {
        self.throttled += 1;
    }

    /// DevRev may have counted an attempt in this window, even one granted before the window was known.
    fn add_in_doubt(&mut self) {
        if self.window.is_some() {
            self.in_doubt.add(self.next_number);
        }
    }

    /// Identifies the current window, or the gap between two.
    pub fn window_id(&self) -> u64 {
        self.window_id
    }

    /// The end of the group's current pause.
    pub fn paused_until(&self, now: Duration) -> Option<Duration> {
        let until = self.pauses.group.paused_until();
        until.filter(|until| *until > now)
    }

    /// The operation that is paused by itself, and the end of that pause.
    pub fn paused_operation(&self, now: Duration) -> Option<(OperationId, Duration)> {
        self.pauses.operation(now)
    }

    /// Whether this ledger can be dropped without forgetting anything that would hold an attempt.
    pub fn is_idle(&self, now: Duration) -> bool {
        let over = self.window.as_ref().is_none_or(|w| w.ends <= now);
        let paused = self.paused_until(now).is_some() || self.paused_operation(now).is_some();
        self.in_flight == 0 && over && !paused
    }
}
