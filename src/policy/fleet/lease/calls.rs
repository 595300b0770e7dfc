//! What makes a replica exchange, and whether the register can be used.

use std::time::Duration;

use super::{super::Hinted, FRESH, Lease};

/// So many exchanges in a row that others overtake, and this replica goes by itself.
const MOST_OVERTAKEN: u32 = 3;

impl Lease {
    /// The register cannot be used: from now on this replica goes by itself.
    pub fn fail(&mut self, now: Duration) {
        self.alone.get_or_insert(now);
        self.exchanged = Some(now);
        self.overtaken = 0;
    }

    /// In an exchange others were always faster. The register is there, so who waits for a turn goes on waiting; but not one for whom there
    /// may be a unit at once, nor for ever. Then it goes by itself, and this is false.
    pub fn bears_being_overtaken(&mut self, now: Duration) -> bool {
        self.overtaken += 1;
        let bears = !self.knows_plenty() && self.overtaken < MOST_OVERTAKEN && !self.is_alone();
        if bears {
            self.exchanged = Some(now);
            // The same would happen again if all came back at once.
            self.in_turn = Some(now.saturating_add(self.rhythm.turn()));
        }
        bears
    }

    /// Whether what the pool told is new enough to judge by, or the only thing there is.
    pub fn is_informed(&self, now: Duration) -> bool {
        self.is_alone()
            || self
                .known
                .is_some_and(|heard| heard.at.saturating_add(FRESH * 2) > now)
    }

    /// How long it takes at most until the fleet is asked for a unit; `None` while nobody can be asked.
    pub fn asks_after(&self) -> Option<Duration> {
        (!self.is_alone()).then(|| self.rhythm.interval())
    }

    /// A request begins to wait. The fleet is told soon, also where it is a pause or a probe that holds it, so that no unit was asked for.
    pub fn begins_to_wait(&mut self) {
        self.newcomer = true;
    }

    /// Whether an exchange is wanted at once, or soon.
    pub fn calls(&self) -> bool {
        self.news || self.wanted || self.newcomer || self.in_turn.is_some()
    }

    /// A hint says whom something concerns. They exchange one after another.
    pub fn hinted(&mut self, hint: &Hinted, now: Duration) {
        let after = match hint {
            Hinted::Nobody => None,
            Hinted::These(replicas) => {
                let place = replicas.iter().position(|id| *id == self.replica);
                place.map(|place| self.rhythm.after(place))
            }
            Hinted::All => Some(self.rhythm.turn()),
        };
        let at = after.map(|after| now.saturating_add(after));
        self.in_turn = self.in_turn.into_iter().chain(at).min();
    }
}
