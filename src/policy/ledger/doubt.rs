//! Attempts that went without a word: each may have taken a unit.

/// In two generations, because under load there is always one that has just gone: the older is made up for by an answer to
/// an attempt granted after the last of it, and then the younger takes its place.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    older: Generation,
    younger: Generation,
}

#[derive(Debug, Default)]
struct Generation {
    units: u64,
    /// The number of the next attempt when the last of them went.
    until: u64,
}

impl Doubt {
    pub fn units(&self) -> u64 {
        self.older.units + self.younger.units
    }

    /// One more went; `next` is the number of the next attempt.
    pub fn add(&mut self, next: u64) {
        let generation = if self.older.units == 0 {
            &mut self.older
        } else {
            &mut self.younger
        };
        generation.units += 1;
        generation.until = next;
    }

    /// An attempt's answer told what remains: whatever went before that attempt is in it.
    pub fn answered(&mut self, number: u64) {
        if number >= self.older.until {
            self.older = std::mem::take(&mut self.younger);
            if number >= self.older.until {
                self.older = Generation::default();
            }
        }
    }
}
