//! A fleet of three on one register against a model of DevRev's window. Statements and replies are lost, late and repeated; replicas die and join;
//! attempts end in every way. As long as nobody calls DevRev but they, and the register forgets nothing, the pool never takes for free
//! what somebody may still use, and no unit that was dealt is used twice.
#![no_main]

use std::{collections::BTreeSet, time::Duration};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use revgate::policy::{
    fair::{Priority, Share, Standing},
    feedback::{Admitted, Feedback},
    fleet::{Pool, Reply, Statement, fuzzing::Replica},
    ledger::{AttemptKind, Grant, LedgerRules, Payload, Settlement},
    operation::Operation,
};

#[derive(Arbitrary, Debug)]
enum Step {
    Request(u8, u8),
    /// A replica makes a statement, if it has none on the way.
    State(u8),
    /// The oldest statement on the way arrives; perhaps its reply is lost, and it comes again.
    Arrive(u8, Fate),
    /// A reply comes back.
    Hear(u8),
    /// DevRev counts an attempt.
    Count(u8),
    Answer(u8),
    /// Its caller has gone, before or after it was sent.
    Cancel(u8, bool),
    Wait(u16),
    Die(u8),
    Leave(u8),
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Fate {
    Good,
    ReplyLost,
    Lost,
    Repeated,
}

#[derive(Arbitrary, Debug)]
struct Run {
    limit: u8,
    length: u8,
    steps: Vec<Step>,
}

const RULES: LedgerRules = LedgerRules {
    spread_above: 0.5,
    reserve: 0.0,
    max_retry_after: Duration::from_secs(600),
};

/// An attempt is counted by then, and its answer is there. Much less than it takes until a replica counts as dead.
const LATEST: Duration = Duration::from_secs(5);

struct Upstream {
    limit: u64,
    length: Duration,
    ends: Duration,
    left: u64,
}

impl Upstream {
    fn roll(&mut self, now: Duration) {
        while now >= self.ends {
            self.ends += self.length;
            self.left = self.limit;
        }
    }

    fn count(&mut self, now: Duration) -> (Feedback, Admitted) {
        self.roll(now);
        let admitted = match self.left {
            0 => Admitted::No,
            _ => Admitted::Yes,
        };
        self.left = self.left.saturating_sub(1);
        let feedback = Feedback {
            limit: Some(self.limit),
            remaining: Some(self.left),
            reset: Some(self.ends.as_secs()),
            resets_in: Some(self.ends - now),
            retry_after: (admitted == Admitted::No).then_some(self.ends - now),
        };
        (feedback, admitted)
    }
}

struct Attempt {
    replica: usize,
    /// `None` once nobody waits for its answer.
    grant: Option<Grant>,
    sent: Duration,
    counted: Option<(Feedback, Admitted)>,
}

struct Member {
    replica: Replica,
    statement: Option<(Statement, Duration)>,
    reply: Option<(Reply, Pool, Duration)>,
}

impl Member {
    fn new(id: u64) -> Member {
        Member {
            replica: Replica::new(id, RULES),
            statement: None,
            reply: None,
        }
    }
}

struct Fleet {
    now: Duration,
    upstream: Upstream,
    members: Vec<Member>,
    value: Option<Vec<u8>>,
    attempts: Vec<Attempt>,
    dealt: BTreeSet<u64>,
    joined: u64,
}

impl Fleet {
    fn register(&self) -> Duration {
        self.now + Duration::from_secs(1_800_000_000)
    }

    fn read(&self) -> Pool {
        let value = self.value.as_deref();
        value.map_or_else(Pool::default, |value| {
            Pool::from_bytes(value).expect("it is a pool that was written")
        })
    }

    fn arrive(&mut self, which: usize, fate: Fate) {
        let Some((statement, began)) = self.members[which].statement.clone() else {
            return;
        };
        if !matches!(fate, Fate::ReplyLost | Fate::Repeated) {
            self.members[which].statement = None;
        }
        if matches!(fate, Fate::Lost) {
            return;
        }
        let mut pool = self.read();
        let reply = pool.sync(&statement, self.register());
        self.value = Some(pool.to_bytes().expect("three replicas fit"));
        if matches!(fate, Fate::Good | Fate::Repeated) {
            self.members[which].reply = Some((reply, pool, began));
        }
    }

    fn hear(&mut self, which: usize) {
        if let Some((reply, pool, began)) = self.members[which].reply.take() {
            let now = self.now;
            self.members[which].replica.hear(&reply, &pool, began, now);
            // As in the driver, an exchange has ended with its reply.
            self.members[which].statement = None;
        }
    }

    fn serve(&mut self) {
        for index in 0..self.members.len() {
            for grant in self.members[index].replica.serve(self.now) {
                if let Some(number) = grant.dealt() {
                    assert!(self.dealt.insert(number), "unit {number} is used twice");
                }
                self.attempts.push(Attempt {
                    replica: index,
                    grant: Some(grant),
                    sent: self.now,
                    counted: None,
                });
            }
        }
    }

    fn count(&mut self, which: usize) {
        if let Some(attempt) = self.attempts.get_mut(which) {
            let now = self.now;
            attempt
                .counted
                .get_or_insert_with(|| self.upstream.count(now));
        }
    }

    fn answer(&mut self, which: usize) {
        let Some((feedback, admitted)) = self.attempts.get(which).and_then(|a| a.counted) else {
            return;
        };
        let attempt = self.attempts.remove(which);
        if let Some(grant) = attempt.grant {
            let settlement = Settlement::Answered { feedback, admitted };
            let replica = &mut self.members[attempt.replica].replica;
            replica.settle(grant, settlement, self.now);
        }
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(which) = self.attempts.iter().position(|a| a.sent + LATEST <= until) {
            self.now = self.now.max(self.attempts[which].sent + LATEST);
            self.count(which);
            self.answer(which);
        }
        self.now = until;
    }

    /// Another process takes the place of one that has ended. Nobody hears of its attempts.
    fn end(&mut self, which: usize) {
        self.joined += 1;
        self.members[which] = Member::new(100 + self.joined);
        for attempt in self.attempts.iter_mut().filter(|a| a.replica == which) {
            attempt.grant = None;
        }
    }

    fn check(&mut self) {
        self.upstream.roll(self.now);
        let on_wire = self.attempts.iter().filter(|a| a.counted.is_none()).count() as u64;
        let pool = self.read();
        if let Some(free) = pool.free_of(self.upstream.ends.as_secs()) {
            let left = self.upstream.left;
            assert!(
                left >= free + on_wire,
                "at {:?} {left} are left, the pool says that {free} are free, and {on_wire} are on the wire: {pool:#?}",
                self.now
            );
        }
    }
}

fuzz_target!(|run: Run| {
    let length = Duration::from_secs(u64::from(run.length).max(10));
    let limit = u64::from(run.limit).max(4);
    let mut fleet = Fleet {
        now: Duration::from_secs(1),
        upstream: Upstream {
            limit,
            length,
            ends: length,
            left: limit,
        },
        members: (1..=3).map(Member::new).collect(),
        value: None,
        attempts: Vec::new(),
        dealt: BTreeSet::new(),
        joined: 0,
    };
    for step in run.steps {
        let now = fleet.now;
        match step {
            Step::Request(which, caller) => {
                let priority = match caller % 3 {
                    2 => Priority::Batch,
                    _ => Priority::Interactive,
                };
                let share = Share {
                    caller: ["a", "b", "c"][usize::from(caller % 3)].into(),
                    weight: 1,
                    priority,
                };
                let kind = AttemptKind {
                    operation: Operation::from_path("/works.list").id(),
                    payload: Payload::Whole,
                    standing: Standing::from(priority),
                };
                let replica = &mut fleet.members[usize::from(which) % 3].replica;
                for _ in 0..=(caller / 3) % 16 {
                    replica.request(&share, kind, Duration::from_secs(30), now);
                }
            }
            Step::State(which) => {
                let member = &mut fleet.members[usize::from(which) % 3];
                if member.statement.is_none() && member.reply.is_none() {
                    member.statement = Some((member.replica.state(now), now));
                }
            }
            Step::Arrive(which, fate) => fleet.arrive(usize::from(which) % 3, fate),
            Step::Hear(which) => fleet.hear(usize::from(which) % 3),
            Step::Count(which) => fleet.count(usize::from(which)),
            Step::Answer(which) => fleet.answer(usize::from(which)),
            Step::Cancel(which, sent) => {
                let which = usize::from(which);
                if which < fleet.attempts.len() {
                    let mut attempt = fleet.attempts.remove(which);
                    let settlement = match sent || attempt.counted.is_some() {
                        true => Settlement::InDoubt,
                        false => Settlement::Unsent,
                    };
                    if sent && attempt.counted.is_none() {
                        let _ = fleet.upstream.count(now);
                    }
                    if let Some(grant) = attempt.grant.take() {
                        let replica = &mut fleet.members[attempt.replica].replica;
                        replica.settle(grant, settlement, now);
                    }
                }
            }
            Step::Wait(time) => fleet.wait(Duration::from_millis(time.into())),
            Step::Die(which) => fleet.end(usize::from(which) % 3),
            Step::Leave(which) => {
                let which = usize::from(which) % 3;
                if fleet
                    .attempts
                    .iter()
                    .all(|attempt| attempt.replica != which)
                {
                    let member = &mut fleet.members[which];
                    member.replica.leave();
                    member.statement = Some((member.replica.state(now), now));
                    fleet.arrive(which, Fate::Good);
                    fleet.end(which);
                }
            }
        }
        fleet.serve();
        fleet.check();
    }
});
