//! What a replica does, as the dispatcher does it: it serves those who can be served.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    super::{Hinted, Lease, ReplicaId, use_dealt},
    RULES, SECOND,
    exchange::Exchange,
    register::Tagged,
    run::{Event, Fleet},
};
use crate::policy::{
    dealing::{Waits, deal},
    fair::{Queue, Share, Ticket},
    feedback::Admitted,
    ledger::{AttemptKind, Ledger, Payload, Settlement},
    operation::OperationId,
};

/// A request that waits.
pub(super) struct Waiter {
    pub id: u64,
    pub caller: Arc<str>,
    pub arrived: Duration,
    kind: AttemptKind,
}

impl Waits for Waiter {
    fn kind(&self) -> AttemptKind {
        self.kind
    }
}

pub(super) struct Replica {
    pub id: ReplicaId,
    pub ledger: Ledger,
    pub queue: Queue<Waiter>,
    deadlines: BTreeMap<(Duration, u64), Ticket>,
    /// A request has arrived.
    newcomer: bool,
    /// What its clock is ahead.
    pub clock: Duration,
    /// What it wrote or found last, and when by its own and by the register's clock.
    pub cached: Option<(Tagged, Duration, Duration)>,
    pub exchange: Option<Exchange>,
    pub exchanges: u64,
    pub failures: u32,
    pub retry_at: Duration,
    /// It will wake then.
    wakes: Option<Duration>,
    /// Nothing of it is heard any more.
    pub dead: bool,
    /// It does not run; what happens to it waits.
    pub frozen: bool,
    parked: VecDeque<Event>,
    /// No message reaches the register.
    pub cut: bool,
    /// Which of the registers it talks to, and since when.
    pub register: usize,
    pub joined: Duration,
    /// Since when somebody waits here who could be served.
    pub could_serve: Option<Duration>,
}

impl Replica {
    pub(super) fn new(id: u64, clock: Duration) -> Replica {
        let mut ledger = Ledger::default();
        ledger.join(Lease::new(ReplicaId(id)));
        Replica {
            id: ReplicaId(id),
            ledger,
            queue: Queue::default(),
            deadlines: BTreeMap::new(),
            newcomer: false,
            clock,
            cached: None,
            exchange: None,
            exchanges: 0,
            failures: 0,
            retry_at: Duration::ZERO,
            wakes: None,
            dead: false,
            frozen: false,
            parked: VecDeque::new(),
            cut: false,
            register: 0,
            joined: Duration::ZERO,
            could_serve: None,
        }
    }

    pub(super) fn is_alone(&self) -> bool {
        self.ledger.supply().is_some_and(Lease::is_alone)
    }

    /// The time by its own clock.
    pub(super) fn own(&self, now: Duration) -> Duration {
        now + self.clock
    }
}

impl Fleet {
    /// Whether this replica takes part in nothing now; then what happens to it waits until it runs again.
    pub(super) fn is_away(&mut self, index: usize, event: impl FnOnce() -> Event) -> bool {
        let replica = &mut self.replicas[index];
        if replica.frozen && !replica.dead {
            replica.parked.push_back(event());
        }
        replica.dead || replica.frozen
    }

    pub(super) fn thaw(&mut self, index: usize) {
        let replica = &mut self.replicas[index];
        replica.frozen = false;
        for event in std::mem::take(&mut replica.parked) {
            self.after(Duration::ZERO, event);
        }
        self.wake(index);
    }

    pub(super) fn arrives(&mut self, index: usize, share: Share, wait: Duration) {
        if self.replicas[index].dead {
            self.given_up += 1;
        }
        if self.is_away(index, || Event::Arrives(index, share.clone(), wait)) {
            return;
        }
        let (arrived, id) = (self.now, self.number());
        let replica = &mut self.replicas[index];
        let kind = AttemptKind {
            operation: OperationId::NONE,
            payload: Payload::Whole,
            standing: share.priority.into(),
        };
        let waiter = Waiter {
            id,
            caller: share.caller.clone(),
            arrived,
            kind,
        };
        let now = replica.own(arrived);
        replica.newcomer = true;
        let ticket = replica.queue.push(&share, (now, now + wait), now, waiter);
        replica.deadlines.insert((now + wait, id), ticket);
        self.wake(index);
    }

    pub(super) fn hinted(&mut self, index: usize, hint: &Hinted) {
        if self.is_away(index, || Event::Hinted(index, hint.clone())) {
            return;
        }
        let replica = &mut self.replicas[index];
        let now = replica.own(self.now);
        if let Some(lease) = replica.ledger.supply_mut() {
            lease.hinted(hint, now);
        }
        self.wake(index);
    }

    /// The time has come for which it was to wake, or another since.
    pub(super) fn woken(&mut self, index: usize) {
        let replica = &mut self.replicas[index];
        if replica.wakes.is_some_and(|at| at <= self.now) {
            replica.wakes = None;
            self.wake(index);
        }
    }

    fn wake_at(&mut self, index: usize, at: Duration) {
        let replica = &mut self.replicas[index];
        let at = at.saturating_sub(replica.clock);
        let at = at.max(self.now + Duration::from_micros(1));
        if replica.wakes.is_none_or(|wakes| at < wakes) {
            replica.wakes = Some(at);
            self.after(at - self.now, Event::Wake(index));
        }
    }

    /// What a replica does whenever something has changed.
    pub(super) fn wake(&mut self, index: usize) {
        let replica = &mut self.replicas[index];
        if replica.dead || replica.frozen {
            return;
        }
        let now = replica.own(self.now);
        let Replica {
            ledger,
            queue,
            deadlines,
            newcomer,
            ..
        } = replica;
        let mut given = Vec::new();
        let name = |key: &str| Some(Arc::from(key));
        use_dealt(ledger, queue, name, now, |waiter: Waiter, _, grant| {
            given.push((waiter, grant));
        });
        let grant = |ledger: &mut Ledger, _: &Waiter, kind| ledger.grant(kind, &RULES, now);
        let give = |waiter, _, grant| given.push((waiter, grant));
        let rest = deal(ledger, queue, (now, usize::MAX), grant, give);
        let begins_to_wait = std::mem::take(newcomer) && !queue.is_empty();
        if let Some(lease) = ledger.supply_mut().filter(|_| begins_to_wait) {
            lease.begins_to_wait();
        }
        while let Some(first) = deadlines.first_entry().filter(|entry| entry.key().0 <= now) {
            let gone = queue.remove(&first.remove()).is_some();
            self.given_up += u64::from(gone);
        }
        let deadline = deadlines.first_key_value().map(|((at, _), _)| *at);
        for (waiter, grant) in given {
            self.send(index, waiter, grant);
        }
        let exchange = self.exchange(index);
        let deadline = deadline.filter(|_| !self.replicas[index].queue.is_empty());
        if let Some(at) = [rest.next, deadline, exchange].into_iter().flatten().min() {
            self.wake_at(index, at);
        }
    }

    pub(super) fn back(&mut self, id: u64, settlement: Settlement) {
        let Some(index) = self.attempts.get(&id).map(|attempt| attempt.replica) else {
            return;
        };
        if self.is_away(index, || Event::Back(id, settlement)) {
            return;
        }
        let replica = &mut self.replicas[index];
        let now = replica.own(self.now);
        let attempt = self.attempts.remove(&id);
        let Some((grant, sent)) = attempt.and_then(|attempt| Some((attempt.grant?, attempt.sent)))
        else {
            return;
        };
        replica.ledger.settle(grant, settlement, &RULES, now);
        if let Settlement::Answered {
            admitted: Admitted::Yes,
            ..
        } = settlement
        {
            self.check_let_in(sent);
        }
        self.wake(index);
    }

    /// An operator ends pauses on this replica.
    pub(super) fn resume(&mut self, index: usize) {
        self.replicas[index].ledger.resume();
        self.wake(index);
    }

    pub(super) fn is_paused(&self, index: usize) -> bool {
        let replica = &self.replicas[index];
        replica.ledger.paused_until(replica.own(self.now)).is_some()
    }

    /// Requests of this caller at random times from now on, so many a second on these replicas together, until then.
    pub(super) fn demand(
        &mut self,
        share: &Share,
        replicas: &[usize],
        (rate, until): (f64, Duration),
        wait: Duration,
    ) {
        let gap = SECOND.div_f64(rate);
        let mut at = self.now;
        while at < until {
            let time = at + self.dice.up_to(gap) - self.now;
            self.last_deadline = self.last_deadline.max(at + gap + wait);
            let index = replicas[self.dice.below(replicas.len() as u64) as usize];
            self.after(time, Event::Arrives(index, share.clone(), wait));
            at += gap;
        }
    }
}
