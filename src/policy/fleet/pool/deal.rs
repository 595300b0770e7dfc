//! How the pool gives units away: dealt one by one to those that wait, or leased.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

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

/// Requests that one sync looks at, beside the first of each order: so many that all units may be one of thirty callers', and so few that it
/// takes no longer than a millisecond.
const LOOKED_AT: usize = 2048;

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
    /// Deals units to those that wait on any replica. Returns when the next is due, if that is known.
    pub(super) fn deal(
        &mut self,
        rules: &LedgerRules,
        (replica, now): (ReplicaId, Duration),
        hint: &mut BTreeSet<ReplicaId>,
    ) -> Option<Duration> {
        let waiting = || {
            let members = self.members.iter();
            members.map(|(id, member)| (*id, member.waiting(now)))
        };
        // A caller has as many places on one replica as on many.
        let mut callers: BTreeMap<&str, usize> = BTreeMap::new();
        for order in waiting().flat_map(|(_, orders)| orders) {
            *callers.entry(&order.caller).or_default() += 1;
        }
        let of_each = LOOKED_AT / callers.len().max(1);
        let mut entries = Vec::new();
        for (id, orders) in waiting() {
            for (index, order) in orders.iter().enumerate() {
                let orders = callers.get(&*order.caller).copied().unwrap_or(1);
                let most = (of_each / orders).clamp(1, DEALT_AT_ONCE);
                entries.extend(places((id, index), order, most, now));
            }
        }
        let mut queue = Queue::resume(std::mem::take(&mut self.turns), entries, now);
        let most = self.at_once().clamp(1, DEALT_AT_ONCE as u64) as usize;
        let mut given = Vec::new();
        let rest = deal(
            &mut self.ledger,
            &mut queue,
            (now, most),
            |ledger, _, kind| ledger.grant(kind, rules, now),
            |place, _, grant| given.push((place, grant)),
        );
        self.turns = queue.turns();
        let all = given.len() < most;
        if let Some(lost) = &mut self.quarantine {
            lost.given = lost.given.saturating_add(given.len() as u64);
        }
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
                hint.insert(place.replica);
            }
        }
        for member in self.members.values_mut() {
            member.orders.retain(|order| order.count > 0);
        }
        if all { rest.next } else { Some(now) }
    }

    /// Units that may be given now, whoever asks. Leases that nobody has stated yet are at most half of what was free when they were given, so after
    /// a loss the other half is given meanwhile.
    fn at_once(&self) -> u64 {
        if self.doubt.is_some() {
            return 1;
        }
        match (&self.quarantine, self.ledger.free()) {
            (Some(lost), Some(free)) => {
                (free.saturating_add(lost.given) / 2).saturating_sub(lost.given)
            }
            (Some(_), None) => 0,
            (None, _) => u64::MAX,
        }
    }

    /// Whether leases may be had, for interactive callers and for batch: while nobody waits whom the window holds.
    pub(super) fn keeps(&mut self, rules: &LedgerRules, now: Duration) -> [bool; 2] {
        if self.doubt.is_some() {
            return [false; 2];
        }
        let gate = self.ledger.gate(now);
        let waits = |is_batch: bool| {
            let mut orders = self.members.values().flat_map(|member| member.waiting(now));
            // Not those that a pause of their operation holds.
            orders.any(|order| order.is_batch == is_batch && gate.hold(&order.kind()).is_none())
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
            units[class] = units[class].min(self.at_once());
            if let Some(lost) = &mut self.quarantine {
                lost.given = lost.given.saturating_add(units[class]);
            }
            self.ledger.lease(units[class], standing(class));
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

/// The places of an order in the queue, `most` of them. When each but the oldest arrived is not known: evenly since then.
fn places(
    (replica, index): (ReplicaId, usize),
    order: &Order,
    most: usize,
    now: Duration,
) -> impl Iterator<Item = (Share, (Duration, Duration), Place)> {
    let (share, kind) = (order.share(), order.kind());
    let (oldest, count) = (order.oldest, order.count);
    let ageing_time = order.ageing_time;
    let most = u32::try_from(most).unwrap_or(u32::MAX);
    (0..count.min(most)).map(move |n| {
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
