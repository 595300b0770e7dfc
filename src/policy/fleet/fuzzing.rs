//! For fuzzing: a replica with its ledger, its queue and its lease.

use std::{sync::Arc, time::Duration};

use super::{Hinted, Lease, Pool, ReplicaId, Reply, Statement, Timing, orders, use_dealt};
use crate::policy::{
    dealing::{Waits, deal},
    fair::{Queue, Share},
    ledger::{AttemptKind, Grant, Ledger, LedgerRules, Settlement, Source},
};

/// A request that waits.
#[derive(Debug)]
pub struct Waiter {
    pub kind: AttemptKind,
    pub deadline: Duration,
}

impl Waits for Waiter {
    fn kind(&self) -> AttemptKind {
        self.kind
    }
}

pub struct Replica {
    pub ledger: Ledger,
    pub queue: Queue<Waiter>,
    rules: LedgerRules,
}

impl Replica {
    pub fn new(id: u64, rules: LedgerRules) -> Replica {
        let mut ledger = Ledger::default();
        ledger.join(Lease::new(ReplicaId(id)));
        Replica {
            ledger,
            queue: Queue::default(),
            rules,
        }
    }

    pub fn request(&mut self, share: &Share, kind: AttemptKind, wait: Duration, now: Duration) {
        let deadline = now.saturating_add(wait);
        let waiter = Waiter { kind, deadline };
        self.queue.push(share, (now, deadline), now, waiter);
    }

    /// Who may go now; those who have waited too long leave.
    pub fn serve(&mut self, now: Duration) -> Vec<Grant> {
        let rules = self.rules;
        let mut given = Vec::new();
        let Replica { ledger, queue, .. } = self;
        let name = |key: &str| Some(Arc::from(key));
        use_dealt(ledger, queue, name, now, |_, _, grant| given.push(grant));
        let grant = |ledger: &mut Ledger, _: &Waiter, kind| ledger.grant(kind, &rules, now);
        let give = |_, _, grant| given.push(grant);
        deal(ledger, queue, (now, usize::MAX), grant, give);
        let late = queue
            .entries()
            .filter(|(.., waiter)| waiter.deadline <= now);
        let late: Vec<_> = late.map(|(share, ..)| share.caller).collect();
        for caller in late {
            queue.take_dealt(&caller, |waiter| waiter.deadline <= now);
        }
        given
    }

    pub fn settle(&mut self, grant: Grant, settlement: Settlement, now: Duration) {
        let _ = self.ledger.settle(grant, settlement, &self.rules, now);
    }

    pub fn is_due(&self, now: Duration) -> bool {
        let (waits, claims) = (!self.queue.is_empty(), self.ledger.is_claiming());
        let due = self
            .ledger
            .supply()
            .and_then(|lease| lease.due(waits, claims, now));
        due.is_some_and(|due| due <= now)
    }

    /// # Panics
    /// Never: it has a lease.
    pub fn state(&mut self, now: Duration) -> Statement {
        let orders = orders(&self.queue, Arc::clone, now);
        let statement = self.ledger.state(orders, self.rules, now);
        statement.expect("it is in a fleet")
    }

    pub fn hear(&mut self, reply: &Reply, pool: &Pool, began: Duration, now: Duration) {
        let timing = Timing {
            began,
            round_trip: Duration::from_millis(1),
        };
        self.ledger.hear(reply, pool, timing, now);
        let elsewhere = reply.elsewhere.iter().cloned();
        self.queue.set_elsewhere(elsewhere);
    }

    pub fn fail(&mut self, now: Duration) {
        if let Some(lease) = self.ledger.supply_mut() {
            lease.fail(now);
        }
        self.queue.set_elsewhere([]);
    }

    pub fn hint(&mut self, hint: &Hinted, now: Duration) {
        if let Some(lease) = self.ledger.supply_mut() {
            lease.hinted(hint, now);
        }
    }

    pub fn leave(&mut self) {
        if let Some(lease) = self.ledger.supply_mut() {
            lease.leave();
        }
        self.ledger.count_held();
    }

    /// Units that it may spend without asking.
    pub fn held(&self) -> u64 {
        self.ledger.supply().map_or(0, Lease::units)
    }

    pub fn is_alone(&self) -> bool {
        self.ledger.supply().is_some_and(Lease::is_alone)
    }
}

impl Pool {
    /// Units of the window with this reset that nobody may take yet.
    pub fn free_of(&self, reset: u64) -> Option<u64> {
        self.free(reset)
    }
}

impl Grant {
    /// The number of the unit, if it was dealt.
    pub fn dealt(&self) -> Option<u64> {
        match self.source() {
            Source::Dealt(number) => Some(number),
            Source::Own | Source::Lease => None,
        }
    }
}
