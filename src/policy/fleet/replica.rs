//! What waits on a replica: said as orders, and served by what is dealt.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::Order;
use crate::policy::{
    dealing::Waits,
    fair::{Priority, Queue},
    ledger::{AttemptKind, Grant, Ledger},
};

/// The orders of these requests, oldest first. `key` is the name by which the fleet knows a caller.
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
    orders
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
