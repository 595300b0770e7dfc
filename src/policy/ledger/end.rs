//! How an attempt ended, as far as that concerns pauses and what is learnt: not what it told of the window.

use serde::{Deserialize, Serialize};

use super::{Admitted, Grant, Ledger, Settlement, learning::Untold, recovery::ProbeResult};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// DevRev answered.
    Answered {
        admitted: Admitted,
        /// Whether it is a 429, or names a time to wait.
        refused: bool,
        /// Whether it reported the window.
        told: bool,
    },
    /// There was no answer.
    InDoubt,
    /// It was never sent.
    Unsent,
    /// It was never sent, because DevRev cannot be reached.
    Unreachable,
}

impl End {
    pub(super) fn of(settlement: &Settlement) -> End {
        match settlement {
            Settlement::Answered { feedback, admitted } => End::Answered {
                admitted: *admitted,
                refused: *admitted == Admitted::No || feedback.retry_after.is_some(),
                told: feedback.tells_window(),
            },
            Settlement::InDoubt => End::InDoubt,
            Settlement::Unsent => End::Unsent,
            Settlement::Unreachable => End::Unreachable,
        }
    }
}

impl Ledger {
    /// What the end of an attempt says about pauses, and to a group that is learning. What it told of the window has been learnt.
    pub(super) fn conclude(&mut self, grant: &Grant, end: End) {
        let asked = (grant.number, grant.kind.payload);
        let mut result = ProbeResult::Inconclusive;
        match end {
            End::Answered {
                admitted,
                refused,
                told,
            } => {
                // It was sent after the last window's end, so no other has begun.
                let between = grant.window == self.window_id && self.window.is_none();
                if !told && admitted == Admitted::Yes && between {
                    self.ended = None;
                }
                match admitted {
                    Admitted::Yes if self.learning.is_asked_by(grant.number) => {
                        self.learning.told();
                    }
                    Admitted::No => self.learning.settled(asked, Untold::Nothing),
                    _ => self.learning.settled(asked, Untold::Silence),
                }
                if !refused {
                    result = ProbeResult::Success;
                }
            }
            End::InDoubt => self.learning.settled(asked, Untold::Silence),
            End::Unsent => self.learning.settled(asked, Untold::Nothing),
            End::Unreachable => self.learning.settled(asked, Untold::Unreachable),
        }
        self.pauses.settled(grant.number, &grant.kind, result);
    }
}
