//! What the ledger answers to an attempt, and how the attempt ends.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Admitted, AttemptKind, Feedback, Source};

/// Permission to send one attempt. [`Ledger::settle`](super::Ledger::settle) takes it back when the attempt has ended.
// A copy is made only where a pool is kept, which remembers what it dealt.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[must_use]
pub struct Grant {
    pub(super) number: u64,
    pub(super) kind: AttemptKind,
    /// The window in which it was granted.
    pub(super) window: u64,
    /// Whether it took a token of the spread.
    pub(super) spread: bool,
    pub(super) source: Source,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub enum Settlement {
    /// Upstream answered.
    Answered {
        /// What the answer reported.
        feedback: Feedback,
        /// Whether its status says that the limiter let it in.
        admitted: Admitted,
    },
    /// It may have been sent and there was no answer, so DevRev may have counted it.
    InDoubt,
    /// It was never sent.
    Unsent,
    /// It was never sent, because DevRev cannot be reached.
    Unreachable,
}

/// Why an attempt must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldReason {
    /// The group or the operation is paused by a retry-after.
    Paused,
    /// Attempts already in flight must first show that upstream accepts more, or what its window is.
    Probing,
    /// The rest of the window is spread, or for batch all of it, and the next unit is not due yet.
    Spread,
    /// The fleet is asked for a unit. It has plenty, as far as is known.
    Asks,
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
