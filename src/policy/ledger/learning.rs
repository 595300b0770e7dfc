//! How a group begins that knows nothing about DevRev's window: one attempt finds out, and while no answer tells, more and more may go
//! beside it. Otherwise all that wait for a start would be sent at once, and most of them refused where others have used up the window.
//!
//! Nobody is held for long. An attempt that has no answer after a second was let in, so it makes room for two more. So does one that
//! ended without telling anything: it may have been answered by something in front of DevRev's limiter, or not at all. One that found
//! no connection makes room for all: they fail together. An answer of DevRev's own that reports no window tells that there is none.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    AttemptKind, Hold, HoldReason, Ledger, LedgerRules,
    recovery::{Holds, InFlight, LET_IN, Payload, RAMP_END, full_until},
    window::RESOLUTION,
};
use crate::policy::fair::Standing;

/// Whether an answer has told the window, or that there is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Learning(Option<Ramp>);

/// How an attempt ended that told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untold {
    /// It was sent, perhaps, and no answer of the limiter's came.
    Silence,
    /// It was not sent, or the limiter itself refused it.
    Nothing,
    /// DevRev cannot be reached, so there is nobody to be asked.
    Unreachable,
}

/// Until an answer has told.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ramp {
    /// Attempts from this number on were granted in it.
    first: u64,
    /// How many may be in flight, apart from those that were let in.
    allowed: u64,
    whole: InFlight,
    streamed: InFlight,
}

impl Default for Learning {
    fn default() -> Self {
        Learning(Some(Ramp::new(0)))
    }
}

impl Ramp {
    fn new(first: u64) -> Ramp {
        Ramp {
            first,
            allowed: 1,
            whole: InFlight::default(),
            streamed: InFlight::default(),
        }
    }

    fn allowed(&self, now: Duration) -> u64 {
        let sent = self.whole.0.values().chain(self.streamed.0.values());
        let let_in = sent.filter(|sent| sent.saturating_add(LET_IN) <= now);
        (self.allowed + let_in.count() as u64).min(RAMP_END)
    }
}

impl Learning {
    /// What was known no longer is; the next attempt has the number `next`.
    pub(super) fn begin(&mut self, next: u64) {
        self.0 = Some(Ramp::new(next));
    }

    pub(super) fn told(&mut self) {
        self.0 = None;
    }

    /// Whether attempt `number` finds out what the window is.
    pub(super) fn is_asked_by(&self, number: u64) -> bool {
        self.0.as_ref().is_some_and(|ramp| number >= ramp.first)
    }

    /// Which attempts must wait. As after a pause, streamed ones hold no whole ones.
    pub(super) fn holds(&self, now: Duration) -> Holds {
        let Some(ramp) = &self.0 else {
            return Holds::default();
        };
        let allowed = ramp.allowed(now);
        let hold = |until| Hold {
            reason: HoldReason::Probing,
            until: Some(until),
        };
        let all = ramp.whole.counting(now).chain(ramp.streamed.counting(now));
        Holds {
            whole: full_until(ramp.whole.counting(now), allowed).map(hold),
            streamed: full_until(all, allowed).map(hold),
        }
    }

    pub(super) fn granted(&mut self, (number, payload): (u64, Payload), now: Duration) {
        if let Some(ramp) = &mut self.0 {
            let Ramp {
                whole, streamed, ..
            } = ramp;
            payload.choose(whole, streamed).0.insert(number, now);
        }
    }

    pub(super) fn goes_on(&self) -> bool {
        self.0.is_some()
    }

    /// An attempt ended, and told nothing.
    pub(super) fn settled(&mut self, (number, payload): (u64, Payload), end: Untold) {
        let Some(ramp) = self.0.as_mut().filter(|ramp| number >= ramp.first) else {
            return;
        };
        let Ramp {
            allowed,
            whole,
            streamed,
            ..
        } = ramp;
        payload.choose(whole, streamed).0.remove(&number);
        *allowed = match end {
            Untold::Silence => (*allowed + 1).min(RAMP_END),
            Untold::Nothing => *allowed,
            Untold::Unreachable => RAMP_END,
        };
    }
}

impl Ledger {
    /// Whether an attempt must wait although no window is known. Apart from the ramp.
    pub(super) fn hold_between_windows(
        &self,
        kind: &AttemptKind,
        rules: &LedgerRules,
    ) -> Option<Hold> {
        // An answer has told that there is none any more.
        if self.ended.is_none() && !self.learning.goes_on() {
            return None;
        }
        let claimed = self.claimed();
        let unanswered = match kind.payload {
            Payload::Whole => claimed.saturating_sub(self.streamed),
            Payload::Streamed => claimed,
        };
        // One attempt always finds out, beside uploads that may never end.
        if unanswered == 0 {
            return None;
        }
        let hold = |until| Hold {
            reason: HoldReason::Probing,
            until,
        };
        // The next window may not hold more units than the last.
        let limit = self.last_report?.limit;
        if claimed as f64 >= limit as f64 - rules.reserved(limit) {
            return Some(hold(None));
        }
        // Batch has no part in what is first come, first served, and more is not known. If no answer tells it in a moment, batch
        // follows in the ramp, so that a slow call holds it no longer.
        let ended = self.ended.filter(|_| kind.standing == Standing::Batch)?;
        Some(hold(Some(ended.saturating_add(RESOLUTION))))
    }
}
