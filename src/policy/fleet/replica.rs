//! What waits on a replica: said as orders, and served by what is dealt.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::Order;
use crate::policy::{
    dealing::Waits,
    fair::{Priority, Queue},
    ledger::{AttemptKind, Grant, Ledger},
};

/// The orders of these requests. If there is no room for all, the last are left out: so the first is each caller's oldest, then each one's next, and
/// batch comes after the others until it has aged. `key` is the name by which the fleet knows a caller.
pub fn orders<T: Waits>(
    queue: &Queue<T>,
    mut key: impl FnMut(&Arc<str>) -> Arc<str>,
    now: Duration,
) -> Vec<Order> {
    let mut orders: Vec<Order> = Vec::new();
    let mut first = BTreeMap::new();
    for (share, arrived, ageing_time, item) in queue.entries() {
        let AttemptKind {
            operation, payload, ..
        } = item.kind();
        let age = now.saturating_sub(arrived);
        let index = *first
            .entry((share.caller.clone(), operation, payload))
            .or_insert_with(|| {
                orders.push(Order {
                    caller: key(&share.caller),
                    weight: share.weight,
                    is_batch: share.priority == Priority::Batch,
                    operation,
                    payload,
                    count: 0,
                    oldest: age,
                    ageing_time,
                });
                orders.len() - 1
            });
        let order = &mut orders[index];
        order.count += 1;
        order.oldest = order.oldest.max(age);
        order.ageing_time = order.ageing_time.min(ageing_time);
    }
    orders.sort_by_key(|order| std::cmp::Reverse(order.oldest));
    let mut of_caller: BTreeMap<Arc<str>, u32> = BTreeMap::new();
    let mut ranked: Vec<_> = orders
        .into_iter()
        .map(|order| {
            let rank = of_caller.entry(order.caller.clone()).or_default();
            *rank += 1;
            let comes_later = order.is_batch && order.oldest < order.ageing_time;
            ((*rank, comes_later), order)
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, order)| order).collect()
}

/// Gives dealt units to the requests for which they were dealt. Those whose requests have gone go back. `name` is the name of the caller
/// that the fleet knows by a key.
pub fn use_dealt<T: Waits>(
    ledger: &mut Ledger,
    queue: &mut Queue<T>,
    name: impl Fn(&str) -> Option<Arc<str>>,
    now: Duration,
    mut give: impl FnMut(T, AttemptKind, Grant),
) {
    let Some(lease) = ledger.supply_mut() else {
        return;
    };
    for dealt in lease.take_dealt(now) {
        let is_it = |item: &T| {
            let kind = item.kind();
            kind.operation == dealt.operation && kind.payload == dealt.payload
        };
        let waiter = name(&dealt.caller).and_then(|caller| queue.take_dealt(&caller, is_it));
        let number = dealt.number();
        if let Some(waiter) = waiter {
            let kind = waiter.kind();
            let grant = ledger.grant_dealt(number, kind, now);
            give(waiter, kind, grant);
        } else if let Some(lease) = ledger.supply_mut() {
            lease.put_back(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        fair::Share,
        ledger::Payload,
        operation::{Operation, OperationId},
    };

    const SECOND: Duration = Duration::from_secs(1);

    struct One(OperationId);

    impl Waits for One {
        fn kind(&self) -> AttemptKind {
            AttemptKind {
                operation: self.0,
                payload: Payload::Whole,
                standing: Priority::Interactive.into(),
            }
        }
    }

    #[test]
    fn every_caller_has_a_place_among_the_first() {
        let mut queue = Queue::default();
        let mut wait = |caller: &str, priority, path: String, at: u32| {
            let share = Share {
                caller: caller.into(),
                weight: 1,
                priority,
            };
            let arrived = SECOND * at;
            let times = (arrived, arrived + SECOND * 30);
            let one = One(Operation::from_path(&path).id());
            drop(queue.push(&share, times, arrived, one));
        };
        for n in 0..300 {
            wait("batch", Priority::Batch, format!("/a.b{n}"), 1);
            wait("busy", Priority::Interactive, format!("/a.b{n}"), 2);
        }
        wait("late", Priority::Interactive, "/works.list".into(), 9);
        let orders = orders(&queue, Arc::clone, SECOND * 10);
        assert_eq!(orders.len(), 601);
        let first: Vec<_> = orders.iter().take(4).map(|order| &*order.caller).collect();
        assert_eq!(first, ["busy", "late", "batch", "busy"]);
    }
}
