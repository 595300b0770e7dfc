//! Attempts that were sent, perhaps, and ended without an answer: DevRev may have counted each of them.

use serde::{Deserialize, Serialize};

/// Later than every attempt, and no more than a number in a pool may be.
const NEVER: u64 = 1 << 44;

/// The units in doubt, in two generations. An answer to an attempt that was granted after the last unit of a generation
/// reports what remains and so resolves that generation. Under load there is always a unit newer than that answer, so a
/// single generation would never be resolved.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct InDoubt {
    older: Generation,
    younger: Generation,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Generation {
    units: u64,
    /// The number of the next attempt when the last of them was added.
    until: u64,
}

impl InDoubt {
    /// So many, of which others say when they are resolved.
    pub(super) fn of(units: u64) -> InDoubt {
        let older = Generation {
            units,
            until: NEVER,
        };
        InDoubt {
            older,
            younger: Generation::default(),
        }
    }

    pub(super) fn units(&self) -> u64 {
        self.older.units + self.younger.units
    }

    /// Adds a unit; `next` is the number of the next attempt.
    pub(super) fn add(&mut self, next: u64) {
        let generation = if self.older.units == 0 {
            &mut self.older
        } else {
            &mut self.younger
        };
        generation.units += 1;
        generation.until = next;
    }

    /// The answer to attempt `number` reported what remains, which includes every unit added before that attempt.
    pub(super) fn answered(&mut self, number: u64) {
        if number >= self.older.until {
            self.older = std::mem::take(&mut self.younger);
            if number >= self.older.until {
                self.older = Generation::default();
            }
        }
    }
}
