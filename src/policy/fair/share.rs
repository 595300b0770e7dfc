//! A caller's entitlement to turns, and how a request stands in their order.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::label::label_enum;

label_enum! {
    /// A class of turns.
    #[derive(Default)]
    pub enum Priority {
        /// A user waits for the answer. Its turns come first.
        #[default]
        Interactive = "interactive",
        /// Gets a turn when no interactive caller wants it, or when it has aged; see [`ageing_time`].
        Batch = "batch",
    }
}

/// The longest [`ageing_time`].
pub const MAX_AGEING: Duration = Duration::from_secs(10);

/// The shortest [`ageing_time`]: otherwise a short `max_wait` would buy priority.
const MIN_AGEING: Duration = Duration::from_secs(2);

/// How long a batch caller waits without a turn until it competes as if it were interactive. A third of the request's
/// `max_wait`: late enough to leave interactive callers alone, early enough to be served before the wait ends.
pub fn ageing_time(max_wait: Duration) -> Duration {
    (max_wait / 3).clamp(MIN_AGEING, MAX_AGEING)
}

/// How an entry stands in the order of turns. Whatever holds one of these holds those after it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Standing {
    /// Of an interactive caller.
    Interactive,
    /// Of a batch caller that has aged, so that it takes turns with interactive ones.
    Aged,
    /// Of a batch caller.
    Batch,
}

impl Standing {
    /// Of a caller with this standing.
    pub fn priority(self) -> Priority {
        match self {
            Standing::Interactive => Priority::Interactive,
            Standing::Aged | Standing::Batch => Priority::Batch,
        }
    }
}

impl From<Priority> for Standing {
    /// Of a newcomer.
    fn from(priority: Priority) -> Standing {
        match priority {
            Priority::Interactive => Standing::Interactive,
            Priority::Batch => Standing::Batch,
        }
    }
}

/// A caller's entitlement to turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The caller's name.
    pub caller: Arc<str>,
    /// Its turns are in proportion to this; 0 counts as 1.
    pub weight: u32,
    /// The class of its turns.
    pub priority: Priority,
}
