//! The pool's side: the buckets of all callers of a group.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CallerKey, ReplicaId, Sale, Want, bucket::Shared, nanos};

/// Callers of one group: more than a file names, and some 60 KB. For more of them each replica goes by its own limiters.
pub const MAX_CALLERS: usize = 1000;

/// Replicas that deal with a caller, over all callers: three hundred replicas with six callers each. They take 40 bytes each, less for each purchase, of
/// which there are four at most, and a dozen for what one was refused.
pub const MAX_HOLDERS: usize = 2000;

/// The tokens of a group's callers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// In the order of their keys.
    callers: Vec<(CallerKey, Shared)>,
}

impl Limits {
    /// Settles and sells what this replica states. `now` is the register's time; it may be set back or forward.
    pub fn sync(&mut self, replica: ReplicaId, wants: &[Want], now: Duration) -> Vec<Sale> {
        let now = nanos(now);
        self.callers.retain_mut(|(_, shared)| shared.keep(now));
        let mut holders = self.holders();
        let mut sales = Vec::with_capacity(wants.len());
        for want in wants {
            sales.push(self.sale(replica, want, now, &mut holders));
        }
        sales
    }

    /// Forgets a replica that is dead or leaves. What it had bought counts as spent.
    pub fn forget(&mut self, replica: ReplicaId) {
        for (_, shared) in &mut self.callers {
            shared.forget(replica);
        }
    }

    /// How many callers it knows.
    pub fn callers(&self) -> usize {
        self.callers.len()
    }

    /// Replicas that deal with a caller, over all callers.
    pub fn holders(&self) -> usize {
        self.callers
            .iter()
            .map(|(_, shared)| shared.holders())
            .sum()
    }

    fn sale(&mut self, replica: ReplicaId, want: &Want, now: u64, holders: &mut usize) -> Sale {
        let place = self
            .callers
            .binary_search_by_key(&want.caller, |(key, _)| *key);
        let shared = place.ok().map(|at| &self.callers[at].1);
        let is_known = shared.is_some_and(|shared| shared.knows(replica));
        let has_room = match shared {
            _ if is_known => true,
            Some(_) => *holders < MAX_HOLDERS,
            None => *holders < MAX_HOLDERS && self.callers.len() < MAX_CALLERS,
        };
        if !has_room {
            return Sale {
                caller: want.caller,
                purchase: want.purchase,
                first: want.purchase,
                open: Vec::new(),
                keeps: false,
                share: 0,
                wait: Duration::ZERO,
                pause: Duration::ZERO,
                reset: Duration::ZERO,
                has_room,
            };
        }
        *holders += usize::from(!is_known);
        let at = place.unwrap_or_else(|at| {
            self.callers.insert(at, (want.caller, Shared::default()));
            at
        });
        let shared = &mut self.callers[at].1;
        let met = shared.sync(replica, want, now);
        let purchases = shared.purchases(replica);
        Sale {
            caller: want.caller,
            purchase: purchases.decided,
            first: purchases.first,
            open: purchases.open,
            keeps: met.keeps,
            share: met.share,
            wait: Duration::from_nanos(met.wait),
            pause: Duration::from_nanos(met.pause),
            reset: Duration::from_nanos(shared.reset(now)),
            has_room,
        }
    }
}
