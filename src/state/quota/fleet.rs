//! A group whose quota is shared with other replicas: what the fleet's driver asks of it and tells it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::Notify;

use super::{
    dispatcher::deliver,
    group::{Deliveries, Group, GroupState, Waiter},
};
use crate::{
    hash::{NameHash, hex},
    policy::{
        fleet::{Hinted, Lease, Pool, ReplicaId, Reply, Statement, Timing, orders, use_dealt},
        ledger::Ledger,
    },
    types::other,
};

/// Makes the exchanges of all groups.
pub(crate) trait Drive: Send + Sync {
    /// This group is new. Called without its lock.
    fn take_on(self: Arc<Self>, group: Weak<Group>, name: &Arc<str>, wake: &Arc<Notify>);

    /// The longest that an exchange takes.
    fn timeout(&self) -> Duration;

    /// What the fleet calls a group that is new. Another each time.
    fn new_id(&self) -> ReplicaId;
}

/// The fleet to which all groups of this process belong.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub driver: Arc<dyn Drive>,
    /// By which the pool names callers.
    pub hashes: NameHash,
}

/// A group's part in the fleet. When it is dropped its driver is woken, and ends.
pub(super) struct Membership {
    wake: Arc<Notify>,
    /// For one exchange.
    timeout: Duration,
}

impl Membership {
    pub(super) fn new(fleet: &Fleet) -> Membership {
        Membership {
            wake: Arc::default(),
            timeout: fleet.driver.timeout(),
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// The names by which the fleet knows the callers that wait. No name leaves the process.
#[derive(Default)]
pub(super) struct CallerKeys {
    hashes: NameHash,
    by_name: BTreeMap<Arc<str>, Arc<str>>,
    by_key: BTreeMap<Arc<str>, Arc<str>>,
}

/// More callers than a file has. Then it begins anew.
const MAX_KEYS: usize = 4096;

/// Bytes of a hash that tell callers of one file apart.
const KEY: usize = 12;

impl CallerKeys {
    /// Without a fleet nobody sees them.
    pub(super) fn of(fleet: Option<&Fleet>) -> CallerKeys {
        CallerKeys {
            hashes: fleet.map_or_else(NameHash::default, |fleet| fleet.hashes.clone()),
            ..CallerKeys::default()
        }
    }

    fn key(&mut self, name: &Arc<str>) -> Arc<str> {
        if let Some(key) = self.by_name.get(name) {
            return key.clone();
        }
        if self.by_name.len() >= MAX_KEYS {
            self.by_name.clear();
            self.by_key.clear();
        }
        let key: Arc<str> = hex(&self.hashes.of(name)[..KEY]).into();
        self.by_name.insert(name.clone(), key.clone());
        self.by_key.insert(key.clone(), name.clone());
        key
    }

    fn name(&self, key: &str) -> Option<Arc<str>> {
        self.by_key.get(key).cloned()
    }

    /// The name of one that waits elsewhere, and perhaps never has here. `callers` are those of the file.
    fn name_among(&mut self, key: &str, callers: &[Arc<str>]) -> Option<Arc<str>> {
        if !self.by_key.contains_key(key) {
            callers.iter().for_each(|caller| drop(self.key(caller)));
        }
        self.name(key)
    }
}

impl Group {
    /// Makes it one of the fleet's.
    pub(super) fn join(self: &Arc<Self>, fleet: &Fleet) {
        let Some(membership) = &self.membership else {
            return;
        };
        let wake = &membership.wake;
        let driver = fleet.driver.clone();
        driver.take_on(Arc::downgrade(self), &self.name, wake);
    }

    /// Wakes the driver if there is something to tell. Called under the lock.
    pub(super) fn call_driver(&self, state: &GroupState) {
        if let Some(membership) = &self.membership
            && state.ledger.supply().is_some_and(Lease::calls)
        {
            membership.wake.notify_one();
        }
    }

    /// Gives units that were dealt to those for whom they were.
    pub(super) fn hand_out_dealt(
        self: &Arc<Self>,
        state: &mut GroupState,
        now: Duration,
        deliveries: &mut Deliveries,
    ) {
        if self.membership.is_none() {
            return;
        }
        let GroupState {
            ledger,
            queue,
            keys,
            ..
        } = state;
        let name = |key: &str| keys.name(key);
        let give = |waiter: Waiter, kind, grant| {
            let permit = self.permit(grant, kind, waiter.rules);
            deliveries.push((waiter.sender, Ok(permit)));
        };
        use_dealt(ledger, queue, name, now, give);
    }

    /// When the next exchange is due.
    pub(crate) fn exchange_due(&self) -> Option<Duration> {
        let now = self.now();
        let state = self.state.lock();
        let claimed = state.ledger.is_claiming();
        let waits = !state.queue.is_empty();
        state.ledger.supply()?.due(waits, claimed, now)
    }

    /// Where this replica stands now, and when that is.
    pub(crate) fn statement(&self) -> Option<(Statement, Duration)> {
        let rules = self.planned_rules();
        let now = self.now();
        let mut state = self.state.lock();
        let GroupState {
            ledger,
            queue,
            keys,
            ..
        } = &mut *state;
        let orders = orders(queue, |name| keys.key(name), now);
        Some((ledger.state(orders, rules, now)?, now))
    }

    /// The reply to a statement, and what the pool is now.
    pub(crate) fn hear(self: &Arc<Self>, reply: &Reply, pool: &Pool, timing: Timing) {
        let planned = self.planned();
        let callers = planned.groups.get(&self.name).map_or(&[][..], |all| all);
        self.apply(|state, now| {
            let GroupState {
                ledger,
                queue,
                keys,
                ..
            } = state;
            ledger.hear(reply, pool, timing, now);
            let elsewhere = reply.elsewhere.iter().map(|(share, count)| {
                let mut share = share.clone();
                let name = keys.name_among(&share.caller, callers);
                share.caller = name.unwrap_or(share.caller);
                (share, *count)
            });
            queue.set_elsewhere(elsewhere);
        });
    }

    /// The register cannot be used: who waits goes by what is known here.
    pub(crate) fn go_alone(self: &Arc<Self>) {
        self.apply(|state, now| {
            if let Some(lease) = state.ledger.supply_mut() {
                lease.fail(now);
            }
            state.queue.set_elsewhere([]);
        });
    }

    /// Others have told something that concerns these replicas.
    pub(crate) fn hinted(&self, hint: &Hinted) {
        let now = self.now();
        let mut state = self.state.lock();
        if let Some(lease) = state.ledger.supply_mut() {
            lease.hinted(hint, now);
        }
        self.call_driver(&state);
    }

    /// In an exchange others were always faster. False if this replica goes by itself now; see [`Self::go_alone`].
    pub(crate) fn bears_being_overtaken(&self) -> bool {
        let now = self.now();
        let mut state = self.state.lock();
        let lease = state.ledger.supply_mut();
        lease.is_some_and(|lease| lease.bears_being_overtaken(now))
    }

    /// This replica ends.
    pub(crate) fn leave(&self) {
        let mut state = self.state.lock();
        if let Some(lease) = state.ledger.supply_mut() {
            lease.leave();
        }
        state.ledger.count_held();
        self.call_driver(&state);
    }

    /// Units that this replica holds in advance.
    pub(crate) fn held(&self) -> u64 {
        let state = self.state.lock();
        state.ledger.supply().map_or(0, Lease::units)
    }

    /// How many wait in the whole fleet, by caller; as the last exchange told, of other replicas. Callers that are not known here are one.
    pub(crate) fn waiting_in_fleet(&self) -> Vec<(Arc<str>, u64)> {
        let state = self.state.lock();
        let here = state.queue.waiting();
        let here = here.map(|(caller, count)| (caller.clone(), count as u64));
        let elsewhere = state.queue.elsewhere();
        let elsewhere = elsewhere.map(|(caller, count)| match state.keys.by_name.get(caller) {
            Some(_) => (caller.clone(), count),
            None => (other(), count),
        });
        let mut waiting = BTreeMap::new();
        for (caller, count) in here.chain(elsewhere).filter(|(_, count)| *count > 0) {
            *waiting.entry(caller).or_insert(0) += count;
        }
        waiting.into_iter().collect()
    }

    /// Also where nothing waits: what it holds counts.
    fn apply(self: &Arc<Self>, change: impl FnOnce(&mut GroupState, Duration)) {
        let now = self.now();
        let mut state = self.state.lock();
        change(&mut state, now);
        let (deliveries, _) = self.dispatch(&mut state, now);
        self.call_driver(&state);
        drop(state);
        self.changed.notify_one();
        deliver(deliveries);
    }
}

/// A ledger for a group of a fleet.
pub(super) fn ledger(fleet: Option<&Fleet>) -> Ledger {
    let mut ledger = Ledger::default();
    if let Some(fleet) = fleet {
        // A group that is dropped and made anew is another: its statements begin anew too.
        ledger.join(Lease::new(fleet.driver.new_id()));
    }
    ledger
}
