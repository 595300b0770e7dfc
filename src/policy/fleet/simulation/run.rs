//! The events of a fleet's life, in the order of their times.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BinaryHeap},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::{
    super::{Hinted, Pool},
    Dice, SECOND, Scenario,
    checks::Checks,
    register::{Register, Tagged},
    replica::{Replica, Waiter},
    upstream::Upstream,
};
use crate::policy::{
    fair::Share,
    feedback::Admitted,
    ledger::{Grant, Settlement},
};

/// More than any case needs.
const MOST_STEPS: u64 = 500_000;

/// After so long an attempt without an answer is given up.
const NO_ANSWER: Duration = Duration::from_secs(3);

/// An attempt that was sent.
pub(super) struct Attempt {
    pub replica: usize,
    pub caller: Arc<str>,
    pub grant: Option<Grant>,
    pub sent: Duration,
}

pub(super) enum Event {
    Wake(usize),
    /// A message arrives at the register.
    Asked(Rc<Write>),
    /// Its answer arrives, or it is given up.
    Answered(usize, u64, Option<(u64, Answer)>),
    Hinted(usize, Hinted),
    AtUpstream(u64),
    Back(u64, Settlement),
    Arrives(usize, Share, Duration),
    Incident(Box<dyn FnOnce(&mut Fleet)>),
}

/// What a replica asks the register to write.
pub(super) struct Write {
    pub replica: usize,
    /// The numbers of its exchange, and of the message.
    pub number: u64,
    pub message: u64,
    pub over: Option<u64>,
    /// Nothing if it only reads.
    pub value: Option<Tagged>,
    pub hint: Hinted,
}

#[derive(Clone)]
pub(super) enum Answer {
    /// At this time of the register's.
    Written(Duration),
    Found(Option<Tagged>, Duration),
}

struct Scheduled {
    at: Duration,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

pub(super) struct Fleet {
    pub scenario: Scenario,
    pub dice: Dice,
    pub now: Duration,
    pub upstream: Upstream,
    /// The second one is there only while the network is split.
    pub registers: [Register; 2],
    pub replicas: Vec<Replica>,
    events: BinaryHeap<Reverse<Scheduled>>,
    next: u64,
    steps: u64,
    pub attempts: BTreeMap<u64, Attempt>,
    /// Attempts that DevRev has not counted yet.
    pub on_wire: u64,
    pub checks: Checks,
    /// Answers other than a 429, by caller.
    pub served: BTreeMap<Arc<str>, u64>,
    pub sent_for: BTreeMap<Arc<str>, u64>,
    pub given_up: u64,
    pub sent: u64,
    pub sent_alone: u64,
    pub longest_waits: BTreeMap<Arc<str>, Duration>,
    /// By then every request has been served or given up.
    pub last_deadline: Duration,
}

impl Fleet {
    pub(super) fn new(scenario: Scenario) -> Fleet {
        let mut dice = Dice::new(scenario.seed);
        let replicas =
            (1..=scenario.replicas).map(|id| Replica::new(id, dice.up_to(SECOND * 1000)));
        Fleet {
            scenario,
            replicas: replicas.collect(),
            dice,
            now: SECOND,
            upstream: Upstream::new(scenario.limit, scenario.window),
            registers: Default::default(),
            events: BinaryHeap::new(),
            next: 0,
            steps: 0,
            attempts: BTreeMap::new(),
            on_wire: 0,
            checks: Checks::default(),
            served: BTreeMap::new(),
            sent_for: BTreeMap::new(),
            given_up: 0,
            sent: 0,
            sent_alone: 0,
            longest_waits: BTreeMap::new(),
            last_deadline: Duration::ZERO,
        }
    }

    pub(super) fn after(&mut self, time: Duration, event: Event) {
        let number = self.number();
        self.events.push(Reverse(Scheduled {
            at: self.now + time,
            number,
            event,
        }));
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Something happens at this time.
    pub(super) fn at(&mut self, time: Duration, incident: impl FnOnce(&mut Fleet) + 'static) {
        let event = Event::Incident(Box::new(incident));
        self.after(time.saturating_sub(self.now), event);
    }

    /// Runs until then, and checks after each step what must always be true.
    pub(super) fn run(&mut self, until: Duration) {
        while let Some(Reverse(next)) = self.events.peek() {
            if next.at > until {
                break;
            }
            let Some(Reverse(scheduled)) = self.events.pop() else {
                break;
            };
            self.now = self.now.max(scheduled.at);
            self.steps += 1;
            assert!(self.steps < MOST_STEPS, "{:?}: it spins", self.now);
            let changed = self.step(scheduled.event);
            self.check(changed);
        }
        self.now = self.now.max(until);
    }

    /// True if the pool or DevRev's count may have changed.
    fn step(&mut self, event: Event) -> bool {
        match event {
            Event::Wake(index) => self.woken(index),
            Event::Hinted(index, hint) => self.hinted(index, &hint),
            Event::Asked(write) => {
                self.asked(&write);
                return true;
            }
            Event::Answered(index, number, answer) => self.answered(index, number, answer),
            Event::Arrives(index, share, wait) => self.arrives(index, share, wait),
            Event::AtUpstream(id) => {
                self.at_upstream(id);
                return true;
            }
            Event::Back(id, settlement) => self.back(id, settlement),
            Event::Incident(incident) => {
                incident(self);
                return true;
            }
        }
        false
    }

    /// A message arrives at the register.
    fn asked(&mut self, write: &Rc<Write>) {
        let index = write.replica;
        let which = self.replicas[index].register;
        let register = &mut self.registers[which];
        if register.stopped {
            return;
        }
        let at = register.now(self.now);
        let number = write.number;
        let written = write.value.clone();
        let written = written.filter(|value| register.replace(write.over, value.clone(), self.now));
        let answer = if written.is_some() {
            for other in 0..self.replicas.len() {
                let replica = &self.replicas[other];
                if other != index && replica.register == which && write.hint.concerns(replica.id) {
                    self.message(other, || Event::Hinted(other, write.hint.clone()));
                }
            }
            Answer::Written(at)
        } else {
            Answer::Found(register.value.clone(), at)
        };
        self.message(index, || {
            Event::Answered(index, number, Some((write.message, answer.clone())))
        });
    }

    /// A message between a replica and the register.
    pub(super) fn message(&mut self, index: usize, event: impl Fn() -> Event) {
        let Scenario {
            loss,
            late,
            twice,
            delay,
            ..
        } = self.scenario;
        let stopped = self.registers[self.replicas[index].register].stopped;
        let times = 1 + u64::from(self.dice.chance(twice));
        for _ in 0..times {
            if self.replicas[index].cut || stopped || self.dice.chance(loss) {
                continue;
            }
            let late = self.dice.chance(late);
            let time = self.dice.up_to(if late { SECOND / 2 } else { delay });
            self.after(time, event());
        }
    }

    /// A replica sends an attempt.
    pub(super) fn send(&mut self, index: usize, waiter: Waiter, grant: Grant) {
        let replica = &self.replicas[index];
        let alone = replica.is_alone();
        self.check_sent(index, &grant);
        let longest = self.longest_waits.entry(waiter.caller.clone()).or_default();
        *longest = (*longest).max(self.now - waiter.arrived);
        *self.sent_for.entry(waiter.caller.clone()).or_default() += 1;
        self.sent += 1;
        self.sent_alone += u64::from(alone);
        self.on_wire += 1;
        let id = waiter.id;
        let attempt = Attempt {
            replica: index,
            caller: waiter.caller,
            grant: Some(grant),
            sent: self.now,
        };
        self.attempts.insert(id, attempt);
        let latency = self.scenario.latency;
        let there = self.dice.up_to(latency);
        self.after(there, Event::AtUpstream(id));
    }

    fn at_upstream(&mut self, id: u64) {
        self.on_wire -= 1;
        let (feedback, admitted) = self.upstream.count(self.on_wire, self.now);
        let attempt = self.attempts.get(&id);
        if let Some(attempt) = attempt.filter(|_| admitted == Admitted::Yes) {
            *self.served.entry(attempt.caller.clone()).or_default() += 1;
        }
        let Scenario {
            latency, silence, ..
        } = self.scenario;
        if self.dice.chance(silence) {
            self.after(NO_ANSWER, Event::Back(id, Settlement::InDoubt));
        } else {
            let back = self.dice.up_to(latency);
            let settlement = Settlement::Answered { feedback, admitted };
            self.after(back, Event::Back(id, settlement));
        }
    }

    /// The pool, as it is at the register.
    pub(super) fn pool(&self) -> Option<&Pool> {
        self.registers[0].value.as_ref().map(|(_, pool)| &**pool)
    }
}
