//! Where a replica stands.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Low, ReplicaId, tokens::Want};
use crate::policy::{
    fair::{Priority, Share, Standing},
    ledger::{AttemptKind, End, LedgerRules, Payload},
    operation::OperationId,
};

/// See the module. Times are relative to when it was made, because replicas' clocks differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    pub replica: ReplicaId,
    /// Grows with each.
    pub number: u64,
    /// The last reply that arrived.
    pub known: Option<Known>,
    /// Units leased for interactive callers and for batch that are not used yet.
    pub held: [u64; 2],
    /// Attempts in flight, with units that were dealt and will be used at once; and how many of them have a streamed body.
    pub in_flight: u64,
    pub streamed: u64,
    /// Attempts that ended without an answer, of which nothing is known yet.
    pub in_doubt: u64,
    /// Attempts sent since the process started, other than on units that were dealt: of interactive callers, and of batch.
    pub sent: [u64; 2],
    /// What answers told.
    pub told: Option<Told>,
    pub pauses: Pauses,
    /// How the attempts ended for which units were dealt, by the units' numbers. Those of which the pool has not heard.
    pub ended: Vec<(u64, End)>,
    /// Who waits, by caller and kind of attempt.
    pub orders: Vec<Order>,
    /// Tokens of callers' limits that it buys and settles.
    pub wants: Vec<Want>,
    /// Units spent per second.
    pub rate: [f64; 2],
    /// Whether it will not be heard of again, and holds nothing.
    pub leaves: bool,
    pub rules: LedgerRules,
}

/// What a replica knows of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The pool's revision.
    pub revision: u64,
    /// The number of the replica's own statement that was in it.
    pub number: u64,
    /// The highest number of a unit that was dealt to it.
    pub dealt: u64,
    /// The fleet's time then, and how long ago that was.
    pub fleet: Duration,
    pub age: Duration,
}

/// What answers told of the window, at the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub limit: Option<u64>,
    pub remaining: u64,
    pub reset: u64,
    /// By this replica's answers.
    pub ends_in: Option<Duration>,
    /// As the pool told it.
    pub known_end: Option<Ending>,
    /// An attempt told it that was sent after this revision of the pool was known.
    pub sent_after: u64,
    /// What a single answer told, if that was far less.
    pub low: Option<Low>,
}

/// Pauses that last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    /// The fleet's number of the last `resume`, as it was heard; pauses from before a later one are over.
    pub heard: u64,
    /// How often an operator has ended them here, since the process started; and how often the fleet may not know of.
    pub resumes: u64,
    pub unheard: u64,
    pub group: Option<Ending>,
    pub operation: Option<(OperationId, Ending)>,
}

/// The end of a pause or of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// As the pool told it, in the fleet's time. Said again as it was, because with each way through two clocks it would move a little.
    pub told: Option<Duration>,
    pub left: Duration,
}

impl Ending {
    /// When that is in the fleet's time, which is `now`; `is_known` if the replica's idea of it is right.
    pub(super) fn at(self, now: Duration, is_known: bool) -> Duration {
        let told = self.told.filter(|_| is_known);
        told.unwrap_or(now.saturating_add(self.left))
    }
}

/// Requests that wait, of one caller and one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The caller's name, hashed.
    pub caller: Arc<str>,
    pub weight: u32,
    pub is_batch: bool,
    pub operation: OperationId,
    pub payload: Payload,
    pub count: u32,
    /// In a statement how long ago the oldest arrived; in the pool when.
    pub oldest: Duration,
    /// After which time a batch caller's request has aged.
    pub ageing_time: Duration,
}

impl Order {
    /// The attempts of these requests.
    pub fn kind(&self) -> AttemptKind {
        AttemptKind {
            operation: self.operation,
            payload: self.payload,
            standing: Standing::from(self.share().priority),
        }
    }

    pub fn share(&self) -> Share {
        Share {
            caller: self.caller.clone(),
            weight: self.weight,
            priority: if self.is_batch {
                Priority::Batch
            } else {
                Priority::Interactive
            },
        }
    }
}
