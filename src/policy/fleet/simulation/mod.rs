//! A fleet in virtual time: the ledgers, queues and leases of its replicas, one pool in a register, and DevRev. Messages take time, get
//! lost and come twice; the register forgets, goes back and stops; replicas freeze and die.

mod properties;
mod register;
mod upstream;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use self::{register::Register, upstream::Upstream};
use super::{Hinted, Lease, Pool, ReplicaId, Reply, Statement, orders, use_dealt};
use crate::policy::{
    dealing::{Waits, deal},
    fair::{Priority, Queue, Share},
    feedback::{Admitted, Feedback},
    ledger::{AttemptKind, Grant, Ledger, LedgerRules, Payload, Settlement},
    operation::OperationId,
};

const RULES: LedgerRules = LedgerRules {
    spread_above: 0.5,
    reserve: 0.0,
    max_retry_after: Duration::from_secs(600),
};

const TIMEOUT: Duration = Duration::from_millis(50);

/// Numbers that look random and are the same for the same seed.
pub(super) struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most.max(1)
    }

    fn chance(&mut self, of: f64) -> bool {
        (self.below(1_000_000) as f64) < of * 1e6
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.below(u64::try_from(most.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// What a simulated fleet is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scenario {
    pub seed: u64,
    pub replicas: u64,
    pub limit: u64,
    pub window: Duration,
    /// The longest way of a message to the register, and of an answer of DevRev's.
    pub delay: Duration,
    pub latency: Duration,
    /// How often a message is lost.
    pub loss: f64,
}

/// A request that waits.
pub(super) struct Waiter {
    id: u64,
    caller: Arc<str>,
    kind: AttemptKind,
    deadline: Duration,
}

impl Waits for Waiter {
    fn kind(&self) -> AttemptKind {
        self.kind
    }
}

pub(super) struct Replica {
    id: ReplicaId,
    ledger: Ledger,
    queue: Queue<Waiter>,
    /// What it wrote or found last, and when by its own and by the register's clock.
    cached: Option<(u64, Pool, Duration, Duration)>,
    exchange: Option<Exchange>,
    exchanges: u64,
    failures: u32,
    retry_at: Duration,
    /// Its process ran no longer, or does not run now.
    dead: bool,
    frozen: bool,
    /// No message reaches the register.
    cut: bool,
}

struct Exchange {
    number: u64,
    statement: Statement,
    began: Duration,
    /// What it tries to write, over which version, and the answer if that succeeds.
    write: (Option<u64>, u64, Pool, Reply),
}

pub(super) struct Attempt {
    replica: usize,
    caller: Arc<str>,
    grant: Option<Grant>,
    /// When it was sent, and whether its replica went by itself then.
    sent: Duration,
    alone: bool,
}

enum Event {
    Wake(usize),
    AtRegister(usize, u64),
    Answered(usize, u64, Option<(u64, Option<(u64, Pool)>, Duration)>),
    Hint(usize),
    AtUpstream(u64),
    Back(u64, Feedback, Admitted),
    Arrives(usize, Share, Duration),
}

pub(super) struct Fleet {
    pub scenario: Scenario,
    pub dice: Dice,
    pub now: Duration,
    pub upstream: Upstream,
    pub register: Register,
    pub replicas: Vec<Replica>,
    events: BinaryHeap<Reverse<(Duration, u64)>>,
    bodies: BTreeMap<u64, Event>,
    next: u64,
    attempts: BTreeMap<u64, Attempt>,
    /// Attempts that DevRev has not counted yet.
    on_wire: u64,
    dealt_numbers: std::collections::BTreeSet<u64>,
    pub served: BTreeMap<Arc<str>, u64>,
    pub given_up: u64,
    pub sent: u64,
    pub sent_alone: u64,
    pub longest_wait: Duration,
    pub explains: bool,
    /// Whether the pool must never think that more is left than there is.
    pub is_exact: bool,
}

impl Fleet {
    pub(super) fn new(scenario: Scenario) -> Fleet {
        let replica = |id: u64| {
            let mut ledger = Ledger::default();
            ledger.join(Lease::new(ReplicaId(id)));
            Replica {
                id: ReplicaId(id),
                ledger,
                queue: Queue::default(),
                cached: None,
                exchange: None,
                exchanges: 0,
                failures: 0,
                retry_at: Duration::ZERO,
                dead: false,
                frozen: false,
                cut: false,
            }
        };
        Fleet {
            scenario,
            dice: Dice(scenario.seed | 1),
            now: Duration::from_secs(1),
            upstream: Upstream::new(scenario.limit, scenario.window),
            register: Register::default(),
            replicas: (1..=scenario.replicas).map(replica).collect(),
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            next: 0,
            attempts: BTreeMap::new(),
            on_wire: 0,
            dealt_numbers: std::collections::BTreeSet::new(),
            served: BTreeMap::new(),
            given_up: 0,
            sent: 0,
            sent_alone: 0,
            longest_wait: Duration::ZERO,
            explains: true,
            is_exact: true,
        }
    }

    fn after(&mut self, time: Duration, event: Event) {
        self.next += 1;
        self.events.push(Reverse((self.now + time, self.next)));
        self.bodies.insert(self.next, event);
    }

    /// A request of this caller comes to a replica in this time, and waits so long at most.
    pub(super) fn request(
        &mut self,
        after: Duration,
        replica: usize,
        share: Share,
        wait: Duration,
    ) {
        self.after(after, Event::Arrives(replica, share, wait));
    }

    /// Runs until then, and checks after each step what must always be true.
    pub(super) fn run(&mut self, until: Duration) {
        while let Some(Reverse((at, id))) = self.events.peek().copied() {
            if at > until {
                break;
            }
            self.events.pop();
            self.now = self.now.max(at);
            if let Some(event) = self.bodies.remove(&id) {
                self.step(event);
                self.check();
            }
        }
        self.now = self.now.max(until);
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Wake(index) => self.wake(index),
            Event::Hint(index) => {
                if let Some(lease) = self.replicas[index].ledger.supply_mut() {
                    lease.hinted();
                }
                self.wake(index);
            }
            Event::AtRegister(index, number) => self.at_register(index, number),
            Event::Answered(index, number, answer) => self.answered(index, number, answer),
            Event::Arrives(index, share, wait) => self.arrives(index, &share, wait),
            Event::AtUpstream(id) => {
                self.on_wire -= 1;
                let (feedback, admitted) = self.upstream.count(self.now);
                if admitted == Admitted::No && self.explains {
                    let attempt = &self.attempts[&id];
                    eprintln!(
                        "{:?}: 429, sent {:?} by {} alone {} {:?}, reset {}, on wire {}",
                        self.now,
                        attempt.sent,
                        attempt.replica,
                        attempt.alone,
                        attempt.grant,
                        self.upstream.reset(self.now),
                        self.on_wire
                    );
                    if let Some(pool) = self.pool() {
                        eprintln!("{:?}", pool.ledger());
                    }
                }
                let latency = self.scenario.latency;
                let back = self.dice.up_to(latency);
                self.after(back, Event::Back(id, feedback, admitted));
            }
            Event::Back(id, feedback, admitted) => self.back(id, feedback, admitted),
        }
    }

    fn arrives(&mut self, index: usize, share: &Share, wait: Duration) {
        let now = self.now;
        self.next += 1;
        let id = self.next;
        let replica = &mut self.replicas[index];
        if replica.dead {
            self.given_up += 1;
            return;
        }
        let kind = AttemptKind {
            operation: OperationId::NONE,
            payload: Payload::Whole,
            standing: share.priority.into(),
        };
        let waiter = Waiter {
            id,
            caller: share.caller.clone(),
            kind,
            deadline: now + wait,
        };
        replica.queue.push(share, (now, now + wait), now, waiter);
        self.after(wait, Event::Wake(index));
        self.wake(index);
    }

    /// What a replica does whenever something has changed: serves who can be served, gives up who has waited too long, and exchanges.
    fn wake(&mut self, index: usize) {
        let now = self.now;
        let replica = &mut self.replicas[index];
        if replica.dead || replica.frozen {
            return;
        }
        let mut given = Vec::new();
        let Replica { ledger, queue, .. } = replica;
        let name = |key: &str| Some(Arc::from(key));
        use_dealt(ledger, queue, name, now, |waiter: Waiter, _, grant| {
            given.push((waiter, grant))
        });
        let grant = |ledger: &mut Ledger, _: &Waiter, kind| ledger.grant(kind, &RULES, now);
        let rest = deal(
            ledger,
            queue,
            (now, usize::MAX),
            grant,
            |waiter, _, grant| given.push((waiter, grant)),
        );
        let late = queue
            .entries()
            .filter(|(.., waiter)| waiter.deadline <= now);
        let late: Vec<_> = late
            .map(|(share, .., waiter)| (share.caller, waiter.id))
            .collect();
        for (caller, id) in late {
            queue.take_dealt(&caller, |waiter| waiter.id == id);
            self.given_up += 1;
        }
        let alone = ledger.supply().is_some_and(Lease::is_alone);
        for (waiter, grant) in given {
            self.send(index, waiter, grant, alone);
        }
        if let Some(next) = rest.next {
            self.after(
                next.saturating_sub(now).max(Duration::from_micros(1)),
                Event::Wake(index),
            );
        }
        self.exchange(index);
    }

    fn send(&mut self, index: usize, waiter: Waiter, grant: Grant, alone: bool) {
        let (now, id) = (self.now, waiter.id);
        let asked = waiter.deadline;
        let _ = asked;
        self.sent += 1;
        self.sent_alone += u64::from(alone);
        self.on_wire += 1;
        self.attempts.insert(
            id,
            Attempt {
                replica: index,
                caller: waiter.caller,
                grant: Some(grant),
                sent: now,
                alone,
            },
        );
        let latency = self.scenario.latency;
        let there = self.dice.up_to(latency);
        self.after(there, Event::AtUpstream(id));
    }

    fn back(&mut self, id: u64, feedback: Feedback, admitted: Admitted) {
        let Some(mut attempt) = self.attempts.remove(&id) else {
            return;
        };
        if admitted == Admitted::Yes {
            *self.served.entry(attempt.caller.clone()).or_default() += 1;
        }
        let (index, now) = (attempt.replica, self.now);
        let replica = &mut self.replicas[index];
        if replica.dead {
            return;
        }
        if replica.frozen {
            // It reads the answer when it runs again.
            self.attempts.insert(id, attempt);
            self.after(
                Duration::from_millis(100),
                Event::Back(id, feedback, admitted),
            );
            return;
        }
        if let Some(grant) = attempt.grant.take() {
            let settlement = Settlement::Answered { feedback, admitted };
            let _ = replica.ledger.settle(grant, settlement, &RULES, now);
        }
        self.wake(index);
    }

    /// Begins an exchange if one is due, or sees to it that the replica wakes when it is.
    fn exchange(&mut self, index: usize) {
        let now = self.now;
        let replica = &mut self.replicas[index];
        if replica.exchange.is_some() {
            return;
        }
        let claimed = replica.ledger.in_flight() + replica.ledger.in_doubt() > 0;
        let waits = !replica.queue.is_empty();
        let due = replica
            .ledger
            .supply()
            .and_then(|lease| lease.due(waits, claimed, now));
        // Alone it asks on until it is heard.
        let is_alone = replica.ledger.supply().is_some_and(Lease::is_alone);
        let due = if is_alone {
            Some(replica.retry_at.max(now))
        } else {
            due
        };
        let Some(due) = due else {
            return;
        };
        if due > now {
            self.after(due - now, Event::Wake(index));
            return;
        }
        let waiting = orders(&replica.queue, Arc::clone, now);
        let Some(statement) = replica.ledger.state(waiting, RULES, now) else {
            return;
        };
        replica.exchanges += 1;
        let number = replica.exchanges;
        let (over, pool, register) = match &replica.cached {
            Some((tag, pool, own, register)) => {
                (Some(*tag), pool.clone(), *register + (now - *own))
            }
            None => (None, Pool::default(), now),
        };
        self.try_write(index, number, (statement, now), (over, pool, register));
        self.after(TIMEOUT, Event::Answered(index, number, None));
    }

    fn try_write(
        &mut self,
        index: usize,
        number: u64,
        (statement, began): (Statement, Duration),
        (over, mut pool, register): (Option<u64>, Pool, Duration),
    ) {
        let reply = pool.sync(&statement, register);
        let tag = self.dice.next();
        self.replicas[index].exchange = Some(Exchange {
            number,
            statement,
            began,
            write: (over, tag, pool, reply),
        });
        self.message(index, |_| Event::AtRegister(index, number));
    }

    /// A message between a replica and the register: it takes time, may be lost, and may come twice.
    fn message(&mut self, index: usize, event: impl Fn(&mut Fleet) -> Event) {
        let (loss, delay) = (self.scenario.loss, self.scenario.delay);
        let lost = self.replicas[index].cut || self.register.stopped || self.dice.chance(loss);
        if !lost {
            let time = self.dice.up_to(delay);
            let event = event(self);
            self.after(time, event);
        }
    }

    fn at_register(&mut self, index: usize, number: u64) {
        let Some(exchange) = &self.replicas[index].exchange else {
            return;
        };
        if exchange.number != number || self.register.stopped {
            return;
        }
        let (over, tag, pool, reply) = exchange.write.clone();
        let hint = reply.hint.clone();
        let now = self.register.now(self.now);
        let answer = match self.register.replace(over, (tag, pool), self.now) {
            true => {
                self.hint(index, &hint);
                (tag, None, now)
            }
            false => (tag, self.register.value.clone(), now),
        };
        self.message(index, move |_| {
            Event::Answered(index, number, Some(answer.clone()))
        });
    }

    fn hint(&mut self, from: usize, hint: &Hinted) {
        for index in 0..self.replicas.len() {
            let id = self.replicas[index].id;
            if index != from && hint.concerns(id) {
                self.message(index, |_| Event::Hint(index));
            }
        }
    }

    fn answered(
        &mut self,
        index: usize,
        number: u64,
        answer: Option<(u64, Option<(u64, Pool)>, Duration)>,
    ) {
        let now = self.now;
        let replica = &mut self.replicas[index];
        if replica.dead
            || replica
                .exchange
                .as_ref()
                .is_none_or(|exchange| exchange.number != number)
        {
            return;
        }
        if replica.frozen {
            self.after(
                Duration::from_millis(50),
                Event::Answered(index, number, answer),
            );
            return;
        }
        let Some(exchange) = replica.exchange.take() else {
            return;
        };
        let (_, tag, pool, reply) = exchange.write;
        match answer {
            None => {
                // Whether it was written is not known.
                replica.cached = None;
                replica.failures += 1;
                replica.retry_at = now + Duration::from_millis(250);
                if let Some(lease) = replica.ledger.supply_mut() {
                    lease.fail(now);
                }
                self.after(Duration::from_millis(250), Event::Wake(index));
            }
            Some((written, None, register)) if written == tag => {
                replica.ledger.hear(&reply, &pool, exchange.began, now);
                replica.cached = Some((tag, pool, exchange.began, register));
            }
            Some((_, found, register)) => {
                let (over, pool) = match found {
                    Some((tag, pool)) => (Some(tag), pool),
                    None => (None, Pool::default()),
                };
                let statement = (exchange.statement, exchange.began);
                self.try_write(index, number, statement, (over, pool, register));
                return;
            }
        }
        self.wake(index);
    }

    /// Nothing of it is heard any more.
    pub(super) fn kill(&mut self, index: usize) {
        self.replicas[index].dead = true;
    }

    pub(super) fn freeze(&mut self, index: usize, frozen: bool) {
        self.replicas[index].frozen = frozen;
        self.wake(index);
    }

    /// What is known at the register.
    pub(super) fn pool(&self) -> Option<&Pool> {
        self.register.value.as_ref().map(|(_, pool)| pool)
    }

    /// What must always be true.
    fn check(&mut self) {
        if !self.is_exact {
            return;
        }
        let (reset, left) = (self.upstream.reset(self.now), self.upstream.left(self.now));
        let Some(pool) = self.pool() else {
            return;
        };
        if let Some(free) = pool.free(reset) {
            assert!(
                left >= free + self.on_wire,
                "{:?}: the pool says that {free} are free, {left} are left, {} on the wire: {pool:#?}",
                self.now,
                self.on_wire
            );
        }
    }
}

pub(super) fn share(caller: &str, weight: u32, priority: Priority) -> Share {
    Share {
        caller: caller.into(),
        weight,
        priority,
    }
}
