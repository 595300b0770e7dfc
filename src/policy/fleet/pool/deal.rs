//! How the pool gives units away: dealt one by one to those that wait, or leased.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{
        Order, ReplicaId, Statement,
        member::{Dealt, Granted, What},
    },
    Pool,
};
use crate::policy::{
    dealing::{Waits, deal},
    fair::{Queue, Share, Standing},
    ledger::{AttemptKind, Leasable, Ledger, LedgerRules},
};

/// Units that one sync deals: what one reply and one value hold without growing much. The next sync is a moment later.
const DEALT_AT_ONCE: usize = 64;

/// Requests of one order that a sync looks at: all units may be one caller's.
const LOOKED_AT: u32 = DEALT_AT_ONCE as u32;

/// A lease is for at most so much time of a replica's own rate.
const LEASED_TIME: f64 = 20.0;

/// But for so many units if there are enough, so that a slow replica does not exchange for each request.
const SMALLEST_LEASE: f64 = 8.0;

/// Below this rate, in units a second, a replica gets no lease: it would return most of it.
const LEASED_RATE: f64 = 0.2;

/// A group of which DevRev reports no window needs no units. A lease counts them all the same, so that it is clear that it ends.
const UNLIMITED: u64 = 1000;

/// A request that waits on some replica.
struct Place {
    replica: ReplicaId,
    order: usize,
    kind: AttemptKind,
}

impl Waits for Place {
    fn kind(&self) -> AttemptKind {
        self.kind
    }
}

impl Pool {
    /// Deals units to those that wait on any replica.
    pub(super) fn deal(
        &mut self,
        rules: &LedgerRules,
        (replica, now): (ReplicaId, Duration),
        hint: &mut BTreeMap<ReplicaId, ()>,
    ) {
        let mut entries = Vec::new();
        for (id, member) in &self.members {
            for (index, order) in member.waiting(now).iter().enumerate() {
                entries.extend(places(*id, index, order, now));
            }
        }
        let mut queue = Queue::resume(std::mem::take(&mut self.turns), entries, now);
        let most = if self.quarantine.is_some() {
            1
        } else {
            DEALT_AT_ONCE
        };
        let mut given = Vec::new();
        deal(
            &mut self.ledger,
            &mut queue,
            (now, most),
            |ledger, _, kind| ledger.grant(kind, rules, now),
            |place, _, grant| given.push((place, grant)),
        );
        self.turns = queue.turns();
        for (place, grant) in given {
            let Some(member) = self.members.get_mut(&place.replica) else {
                continue;
            };
            let Some(order) = member.orders.get_mut(place.order) else {
                continue;
            };
            order.count = order.count.saturating_sub(1);
            let dealt = Dealt {
                grant,
                caller: order.caller.clone(),
                operation: order.operation,
                payload: order.payload,
                at: now,
            };
            member.granted.push(Granted {
                revision: self.revision,
                what: What::Dealt(dealt),
            });
            if place.replica != replica {
                hint.insert(place.replica, ());
            }
        }
        for member in self.members.values_mut() {
            member.orders.retain(|order| order.count > 0);
        }
    }

    /// Whether leases may be had, for interactive callers and for batch: while nobody waits whom the window holds.
    pub(super) fn keeps(&mut self, rules: &LedgerRules, now: Duration) -> [bool; 2] {
        if self.quarantine.is_some() {
            return [false; 2];
        }
        let waits = |is_batch: bool| {
            let mut orders = self.members.values().flat_map(|member| member.waiting(now));
            orders.any(|order| order.is_batch == is_batch)
        };
        let waits = [waits(false), waits(true)];
        let of = |class: usize, ledger: &mut Ledger| {
            ledger.leasable(standing(class), rules, now).is_open()
        };
        [
            !waits[0] && of(0, &mut self.ledger),
            !waits[0] && !waits[1] && of(1, &mut self.ledger),
        ]
    }

    /// Gives this replica more units in advance.
    pub(super) fn lease(&mut self, statement: &Statement, keeps: [bool; 2], now: Duration) {
        let active = self.active(now).max(1);
        let mut units = [0; 2];
        for class in [0, 1] {
            let rate = statement.rate[class];
            if !keeps[class] || rate < LEASED_RATE {
                continue;
            }
            let Leasable::Units(free) =
                self.ledger.leasable(standing(class), &statement.rules, now)
            else {
                continue;
            };
            let free = free.min(UNLIMITED * 2 * active);
            let held = self
                .members
                .get(&statement.replica)
                .map_or(0, |member| member.leased(class));
            let wanted = (rate * LEASED_TIME).max(SMALLEST_LEASE) as u64;
            let most = (free + held) / (2 * active);
            units[class] = wanted.min(most).saturating_sub(held);
            self.ledger.lease(units[class]);
            let Some(member) = self
                .members
                .get_mut(&statement.replica)
                .filter(|_| units[class] > 0)
            else {
                continue;
            };
            let mut lease = [0; 2];
            lease[class] = units[class];
            member.granted.push(Granted {
                revision: self.revision,
                what: What::Lease(lease),
            });
        }
    }
}

/// The places of an order in the queue. When each but the oldest arrived is not known: evenly since then.
fn places(
    replica: ReplicaId,
    index: usize,
    order: &Order,
    now: Duration,
) -> impl Iterator<Item = (Share, (Duration, Duration), Place)> {
    let share = order.share();
    let standing = Standing::from(share.priority);
    let kind = AttemptKind {
        operation: order.operation,
        payload: order.payload,
        standing,
    };
    let (oldest, count) = (order.oldest, order.count);
    let ageing_time = order.ageing_time;
    (0..count.min(LOOKED_AT)).map(move |n| {
        let after = now
            .saturating_sub(oldest)
            .mul_f64(f64::from(n) / f64::from(count));
        let arrived = oldest.saturating_add(after);
        let deadline = arrived.saturating_add(ageing_time.saturating_mul(3));
        let place = Place {
            replica,
            order: index,
            kind,
        };
        (share.clone(), (arrived, deadline), place)
    })
}

fn standing(class: usize) -> Standing {
    if class == 0 {
        Standing::Interactive
    } else {
        Standing::Batch
    }
}
