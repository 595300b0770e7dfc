//! An answer that tells far less than the fleet can have spent.
//!
//! One that is wrong, of an endpoint with a count of its own or by a fault, would stop all replicas to the window's end. So it is believed
//! when a second one agrees. Until then units are dealt one by one, so that there is a second one soon.

use serde::{Deserialize, Serialize};

use super::{ReplicaId, Statement};

/// By less than this, answers may differ that came out of order.
const LEAST: u64 = 16;

/// Whether so many units are far less than there should be.
pub(super) fn is_far_below(told: u64, expected: u64) -> bool {
    told < expected / 2 && expected - told >= LEAST
}

/// What the answer told that is not believed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Low {
    pub remaining: u64,
    /// Its attempt was sent after this revision of the pool was known.
    pub sent_after: u64,
}

/// The fleet's doubt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Doubt {
    /// The window.
    reset: u64,
    remaining: u64,
    /// Who said it first, and the revision of the pool since when it is doubted.
    replica: ReplicaId,
    revision: u64,
}

impl Doubt {
    /// What this statement makes of a doubt. `free` units should be left at least. True if what it says is low is believed.
    pub(super) fn judge(
        doubt: &mut Option<Doubt>,
        statement: &Statement,
        (reset, free): (u64, u64),
        revision: u64,
    ) -> bool {
        let Some(told) = &statement.told else {
            return false;
        };
        doubt.take_if(|doubt| doubt.reset.abs_diff(reset) > 1);
        if let Some(low) = told.low {
            let first = doubt
                .as_ref()
                .filter(|doubt| low.remaining <= doubt.remaining);
            let agrees = first.is_some_and(|first| {
                first.replica != statement.replica || low.sent_after >= first.revision
            });
            if agrees || !is_far_below(low.remaining, free) {
                *doubt = None;
                return true;
            }
            doubt.get_or_insert(Doubt {
                reset,
                remaining: low.remaining,
                replica: statement.replica,
                revision,
            });
        } else {
            // Sent later, it says that nothing is amiss.
            doubt.take_if(|doubt| told.sent_after >= doubt.revision);
        }
        false
    }
}
