//! A queue that is kept between two uses without its entries: whoever shares the order of turns with others says anew each time who
//! waits, and the turns that callers have had stay.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Entry, Flow, Priority, Queue, Share, ageing_time};

/// How far each caller is in the order of turns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Turns {
    callers: BTreeMap<Arc<str>, Turn>,
    virtual_times: [f64; 2],
    aged_start: f64,
}

/// A caller that waits, or that is ahead of the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Turn {
    start: f64,
    weight: f64,
    is_batch: bool,
    waiting_since: Duration,
    is_new: bool,
    is_waiting: bool,
}

impl<T> Queue<T> {
    /// The queue of these turns, in which these wait: each entry arrived then and waits until its deadline at most. Those of callers that
    /// did not wait before begin to wait now.
    pub fn resume(
        turns: Turns,
        entries: impl IntoIterator<Item = (Share, (Duration, Duration), T)>,
        now: Duration,
    ) -> Queue<T> {
        let mut queue = Queue {
            virtual_times: turns.virtual_times,
            aged_start: turns.aged_start,
            ..Queue::default()
        };
        let mut absent = BTreeMap::new();
        for (caller, turn) in turns.callers {
            let flow = Flow {
                waiting: BTreeMap::new(),
                weight: turn.weight,
                priority: priority(turn.is_batch),
                start: turn.start,
                waiting_since: turn.waiting_since,
                is_new: turn.is_new,
            };
            queue.flows.insert(caller.clone(), flow);
            if turn.is_waiting {
                absent.insert(caller, (turn.start, turn.waiting_since, turn.is_new));
            }
        }
        for (share, (arrived, deadline), item) in entries {
            let goes_on = absent.remove(&share.caller);
            if let Some((start, waiting_since, is_new)) = goes_on {
                // Not as `push` does: it has not left the queue in between.
                let position = (arrived, queue.next_entry);
                queue.next_entry += 1;
                queue.len += 1;
                let ageing_time = ageing_time(deadline.saturating_sub(arrived));
                let flow = queue.flows.get_mut(&share.caller);
                if let Some(flow) = flow {
                    flow.weight = f64::from(share.weight.max(1));
                    flow.priority = share.priority;
                    (flow.start, flow.waiting_since, flow.is_new) = (start, waiting_since, is_new);
                    flow.waiting.insert(position, Entry { item, ageing_time });
                }
            } else {
                queue.push(&share, (arrived, deadline), now, item);
            }
        }
        queue.forget_level();
        queue
    }

    /// Forgets callers that do not wait and are not ahead of the others.
    fn forget_level(&mut self) {
        if self.len == 0 {
            *self = Queue::default();
            return;
        }
        let virtual_times = self.virtual_times;
        let is_ahead = |flow: &Flow<T>| flow.start > virtual_times[flow.class()];
        self.flows
            .retain(|_, flow| !flow.waiting.is_empty() || is_ahead(flow));
    }

    /// How far each caller is.
    pub fn turns(&self) -> Turns {
        let callers = self.flows.iter().map(|(caller, flow)| {
            let turn = Turn {
                start: flow.start,
                weight: flow.weight,
                is_batch: flow.priority == Priority::Batch,
                waiting_since: flow.waiting_since,
                is_new: flow.is_new,
                is_waiting: !flow.waiting.is_empty(),
            };
            (caller.clone(), turn)
        });
        Turns {
            callers: callers.collect(),
            virtual_times: self.virtual_times,
            aged_start: self.aged_start,
        }
    }

    /// Says who waits elsewhere and takes turns with those that wait here; for forecasts.
    pub fn set_elsewhere(&mut self, waiting: impl IntoIterator<Item = (Share, u64)>) {
        self.elsewhere = waiting
            .into_iter()
            .map(|(share, count)| (share.caller, (share.weight, share.priority, count)))
            .collect();
    }

    /// See [`Queue::set_elsewhere`].
    pub fn elsewhere(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.elsewhere
            .iter()
            .map(|(caller, (_, _, count))| (caller, *count))
    }

    /// The oldest entry of this caller that `is_it` is true of; it leaves the queue. For a unit that others have dealt.
    pub fn take_dealt(&mut self, caller: &str, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let (caller, flow) = self.flows.get_key_value(caller)?;
        let caller = caller.clone();
        let mut waiting = flow.waiting.iter();
        let position = *waiting.find(|(_, entry)| is_it(&entry.item))?.0;
        let entry = self.flows.get_mut(&caller)?.waiting.remove(&position)?;
        self.removed_one(&caller);
        Some(entry.item)
    }

    /// All entries with their callers' shares, oldest first within a caller, and when each arrived.
    pub fn entries(&self) -> impl Iterator<Item = (Share, Duration, Duration, &T)> {
        self.flows.iter().flat_map(|(caller, flow)| {
            flow.waiting.iter().map(|((arrived, _), entry)| {
                let share = Share {
                    caller: caller.clone(),
                    weight: flow.weight as u32,
                    priority: flow.priority,
                };
                (share, *arrived, entry.ageing_time, &entry.item)
            })
        })
    }
}

fn priority(is_batch: bool) -> Priority {
    if is_batch {
        Priority::Batch
    } else {
        Priority::Interactive
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAR: Duration = Duration::from_secs(1_000);

    fn share(which: usize) -> Share {
        Share {
            caller: ["a", "b", "c", "d"][which].into(),
            weight: [1, 2, 4, 1][which],
            priority: priority(which == 3),
        }
    }

    proptest! {
        /// Kept as turns after each step, the order is the same as in a queue that was never taken apart.
        #[test]
        fn turns_that_are_kept_make_the_same_order(steps in prop::collection::vec((0..6_usize, 0..3_u64), 0..80)) {
            let mut whole = Queue::default();
            let mut kept = Turns::default();
            let mut waiting: Vec<(usize, Duration, usize)> = Vec::new();
            let mut now = Duration::ZERO;
            for (number, (step, seconds)) in steps.into_iter().enumerate() {
                now += Duration::from_secs(seconds);
                let entries = waiting.iter().map(|(who, at, number)| (share(*who), (*at, *at + FAR), *number));
                let mut parts = Queue::resume(kept, entries.collect::<Vec<_>>(), now);
                if step < 4 {
                    whole.push(&share(step), (now, now + FAR), now, number);
                    parts.push(&share(step), (now, now + FAR), now, number);
                    waiting.push((step, now, number));
                } else {
                    let taken = whole.take(now);
                    prop_assert_eq!(parts.take(now), taken);
                    waiting.retain(|(_, _, number)| Some(*number) != taken);
                }
                prop_assert_eq!(parts.len(), whole.len());
                kept = parts.turns();
            }
        }
    }
}
