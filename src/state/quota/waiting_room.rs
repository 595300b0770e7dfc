//! The waiting room: the slots of requests that wait, shared by all groups. A caller cannot keep all of them by arriving first.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use super::group::{Group, Waiter};
use crate::{
    error::Error,
    lock::Lock,
    policy::{
        fair::{Priority, Share},
        ledger::AttemptKind,
    },
};

#[derive(Default)]
pub(super) struct WaitingRoom {
    taken: Lock<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    /// By group and caller; callers without a slot have no entry.
    by_caller: BTreeMap<Key, CallerSlots>,
}

type Key = (Arc<str>, Arc<str>);

struct CallerSlots {
    count: usize,
    weight: f64,
    batch: bool,
    group: Weak<Group>,
}

impl CallerSlots {
    fn per_weight(&self) -> f64 {
        self.count as f64 / self.weight
    }
}

/// A slot that is taken; dropping it frees it.
pub(super) struct Slot {
    waiting_room: Arc<WaitingRoom>,
    key: Key,
}

/// Another request may take a slot that was just freed for this one. After this many tries it gives up.
const MAX_EVICTIONS: usize = 8;

impl WaitingRoom {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let taken = self.taken.lock();
        taken.all == 0 && taken.by_caller.is_empty()
    }

    /// How many slots are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.lock().all
    }

    /// Takes a slot if fewer than `max` are taken. In a full room it evicts the newest request of the caller with the most slots
    /// per weight, unless this caller would then have more. Batch callers are evicted first, and a batch request evicts only
    /// other batch requests. Must not be called while a group is locked.
    pub(super) fn enter(
        self: &Arc<Self>,
        group: &Arc<Group>,
        share: &Share,
        max: usize,
    ) -> Option<Slot> {
        let key = (group.name.clone(), share.caller.clone());
        let weight = f64::from(share.weight.max(1));
        let batch = share.priority == Priority::Batch;
        for _ in 0..MAX_EVICTIONS {
            let (other_group, caller) = {
                let mut taken = self.taken.lock();
                if taken.all < max {
                    taken.all += 1;
                    let slots = taken
                        .by_caller
                        .entry(key.clone())
                        .or_insert_with(|| CallerSlots {
                            count: 0,
                            weight,
                            batch,
                            group: Arc::downgrade(group),
                        });
                    slots.count += 1;
                    slots.weight = weight;
                    slots.batch = batch;
                    return Some(Slot {
                        waiting_room: self.clone(),
                        key,
                    });
                }
                let own_count = taken.by_caller.get(&key).map_or(0, |slots| slots.count);
                let (largest, slots) = taken
                    .by_caller
                    .iter()
                    .filter(|(_, slots)| slots.batch || !batch)
                    .max_by(|(_, a), (_, b)| {
                        let size = a.per_weight().total_cmp(&b.per_weight());
                        a.batch.cmp(&b.batch).then(size)
                    })?;
                let yields = slots.batch && !batch;
                if !yields && slots.per_weight() <= (own_count + 1) as f64 / weight {
                    return None;
                }
                (slots.group.upgrade()?, largest.1.clone())
            };
            other_group.evict_newest(&caller);
        }
        None
    }
}

impl Group {
    /// Ends the wait of this caller's newest request, to free its slot.
    fn evict_newest(self: &Arc<Self>, caller: &Arc<str>) {
        let mut state = self.state.lock();
        let Some(waiter) = state.queue.remove_newest(caller) else {
            return;
        };
        let ahead = state.queue.len() as u64;
        let rules = self.wait_rules(&waiter.rules);
        let AttemptKind {
            operation,
            standing,
            ..
        } = waiter.kind;
        let behind = (standing, ahead);
        let retry_after = rules.predict_wait(&state.ledger, Some(operation), behind, self.now());
        drop(state);
        let Waiter { sender, .. } = waiter;
        let _ = sender.send(Err(Error::WaitingRoomFull { retry_after }));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.waiting_room.taken.lock();
        taken.all -= 1;
        if let Some(slots) = taken.by_caller.get_mut(&self.key) {
            slots.count -= 1;
            if slots.count == 0 {
                taken.by_caller.remove(&self.key);
            }
        }
    }
}
