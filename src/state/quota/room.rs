//! The waiting room: so many places for all groups together, and none of them one caller's by right of having come first.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::group::Group;
use crate::policy::fair::{Priority, Share};

#[derive(Default)]
pub(super) struct Room {
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    /// By group and caller; none with no place.
    by: BTreeMap<Key, Places>,
}

type Key = (Arc<str>, Arc<str>);

struct Places {
    count: usize,
    weight: f64,
    batch: bool,
    group: Weak<Group>,
}

impl Places {
    fn per_weight(&self) -> f64 {
        self.count as f64 / self.weight
    }
}

/// A place taken; given back when dropped.
pub(super) struct Place {
    room: Arc<Room>,
    key: Key,
}

/// Others leave while one enters; more turns than this would be a fight and not bad luck.
const TURNS: usize = 8;

impl Room {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        let taken = self.taken();
        taken.all == 0 && taken.by.is_empty()
    }

    /// Takes a place of `max`; a room with more in it than that empties as places are given back. In a full room the caller that has most of it for its weight makes room with its newest request, but
    /// not for one that would then have more; batch callers make room first, and for batch callers only they do. Must not be called while a group is locked.
    pub fn enter(self: &Arc<Self>, group: &Arc<Group>, share: &Share, max: usize) -> Option<Place> {
        let key = (group.name.clone(), share.caller.clone());
        let weight = f64::from(share.weight.max(1));
        let batch = share.priority == Priority::Batch;
        for _ in 0..TURNS {
            let (greedy, caller) = {
                let mut taken = self.taken();
                if taken.all < max {
                    taken.all += 1;
                    let places = taken.by.entry(key.clone()).or_insert_with(|| Places {
                        count: 0,
                        weight,
                        batch,
                        group: Arc::downgrade(group),
                    });
                    places.count += 1;
                    places.weight = weight;
                    places.batch = batch;
                    return Some(Place {
                        room: self.clone(),
                        key,
                    });
                }
                let own = taken.by.get(&key).map_or(0, |places| places.count);
                let (most, places) = taken
                    .by
                    .iter()
                    .filter(|(_, places)| places.batch || !batch)
                    .max_by(|(_, a), (_, b)| {
                        let size = a.per_weight().total_cmp(&b.per_weight());
                        a.batch.cmp(&b.batch).then(size)
                    })?;
                let first = places.batch && !batch;
                if !first && places.per_weight() <= (own + 1) as f64 / weight {
                    return None;
                }
                (places.group.upgrade()?, most.1.clone())
            };
            greedy.evict_newest(&caller);
        }
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        taken.all -= 1;
        if let Some(places) = taken.by.get_mut(&self.key) {
            places.count -= 1;
            if places.count == 0 {
                taken.by.remove(&self.key);
            }
        }
    }
}
