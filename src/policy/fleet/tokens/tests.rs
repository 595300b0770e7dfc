//! Whole fleets in virtual time: the production code of both sides, and messages that are lost, repeated and late.

use proptest::prelude::*;

use super::*;

const CALLER: CallerKey = CallerKey([7; 16]);

/// The register's time at the beginning.
const EPOCH: Duration = Duration::from_secs(1_700_000_000);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn rule(interval: Duration, burst: u32) -> Rule {
    Rule {
        interval: nanos(interval),
        burst,
    }
}

/// What happens to one exchange.
#[derive(Clone, Debug, Default)]
struct Fate {
    /// Until the statement is there; `None` if it never is.
    there: Option<u64>,
    /// How long after that it comes once more.
    again: Option<u64>,
    /// Until the answers are back; `None` if they never are.
    back: Option<u64>,
}

enum Message {
    Statement(usize, Vec<Want>, Option<u64>),
    Answer(usize, Vec<Sale>),
}

struct Replica {
    id: ReplicaId,
    purse: Purse,
}

struct Fleet {
    rule: Rule,
    /// In milliseconds; replicas and register have it alike, which they don't know.
    now: u64,
    pool: Limits,
    replicas: Vec<Replica>,
    on_the_way: Vec<(u64, Message)>,
    /// When requests were let through with a token.
    passed: Vec<Duration>,
    exchanges: usize,
}

impl Fleet {
    fn new(rule: Rule, replicas: usize) -> Fleet {
        let mut fleet = Fleet {
            rule,
            now: 0,
            pool: Limits::default(),
            replicas: Vec::new(),
            on_the_way: Vec::new(),
            passed: Vec::new(),
            exchanges: 0,
        };
        for _ in 0..replicas {
            fleet.join();
        }
        fleet
    }

    fn join(&mut self) {
        self.replicas.push(Replica {
            id: ReplicaId(self.replicas.len() as u64),
            purse: Purse::new(self.rule),
        });
    }

    fn local(&self) -> Duration {
        ms(self.now)
    }

    fn request(&mut self, replica: usize) -> Take {
        let now = self.local();
        let took = self.replicas[replica].purse.take(now);
        if took == Take::Token {
            self.passed.push(now);
        }
        took
    }

    fn exchange(&mut self, replica: usize, fate: &Fate) {
        let now = self.local();
        let Some(want) = self.replicas[replica].purse.want(CALLER, u32::MAX, now) else {
            return;
        };
        self.exchanges += 1;
        let Some(there) = fate.there else { return };
        let statement = || Message::Statement(replica, vec![want.clone()], fate.back);
        self.on_the_way.push((self.now + there, statement()));
        if let Some(again) = fate.again {
            self.on_the_way
                .push((self.now + there + again, statement()));
        }
    }

    /// Time goes on; messages arrive in the order of their times.
    fn advance(&mut self, by: u64) {
        let end = self.now + by;
        loop {
            let times = self.on_the_way.iter().enumerate();
            let next = times.min_by_key(|(_, (at, _))| *at);
            let Some((index, at)) = next.map(|(index, (at, _))| (index, *at)) else {
                break;
            };
            if at > end {
                break;
            }
            self.now = self.now.max(at);
            match self.on_the_way.swap_remove(index).1 {
                Message::Statement(replica, wants, back) => {
                    let id = self.replicas[replica].id;
                    let sales = self.pool.sync(id, &wants, EPOCH + self.local());
                    // The value goes through the register each time.
                    let stored = serde_json::to_string(&self.pool).unwrap();
                    self.pool = serde_json::from_str(&stored).unwrap();
                    if let Some(back) = back {
                        let answer = Message::Answer(replica, sales);
                        self.on_the_way.push((self.now + back, answer));
                    }
                }
                Message::Answer(replica, sales) => {
                    let now = self.local();
                    for sale in &sales {
                        self.replicas[replica].purse.apply(sale, now);
                    }
                }
            }
        }
        self.now = end;
    }

    /// A millisecond, in which each replica that has something to say says it and has its answer.
    fn tick(&mut self) {
        let prompt = Fate {
            there: Some(0),
            again: None,
            back: Some(0),
        };
        let now = self.local();
        for replica in 0..self.replicas.len() {
            let due = self.replicas[replica].purse.due(now);
            if due.is_some_and(|due| due <= now) {
                self.exchange(replica, &prompt);
            }
        }
        self.advance(1);
    }

    /// A request that waits for its exchange if it has to.
    fn request_and_wait(&mut self, replica: usize) -> Take {
        let took = self.request(replica);
        if took != Take::Ask {
            return took;
        }
        self.replicas[replica].purse.wait();
        self.tick();
        self.replicas[replica].purse.leave();
        self.request(replica)
    }

    /// The bound of the contract, for every interval.
    fn check_bound(&self) -> Result<(), TestCaseError> {
        let mut passed = self.passed.clone();
        passed.sort();
        for (first, from) in passed.iter().enumerate() {
            for (last, to) in passed.iter().enumerate().skip(first) {
                let count = (last - first + 1) as u128;
                let time = (*to - *from + Duration::from_secs(5)).as_nanos();
                let allowed = u128::from(self.rule.burst) + time / u128::from(self.rule.interval);
                prop_assert!(
                    count <= allowed,
                    "{count} from {from:?} to {to:?}, at most {allowed}"
                );
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Requests(usize, u8),
    /// Requests that wait, and the exchange that they cause.
    Asks(usize, u8, Fate),
    Exchange(usize, Fate),
    Advance(u64),
    /// It is never heard of again; its successor has a new id. Others may or may not notice.
    Dies(usize, bool),
}

fn fate() -> impl Strategy<Value = Fate> {
    let delay = || prop_oneof![3 => 0u64..20, 1 => 20u64..2000, 1 => 2000u64..12_000];
    (
        prop::option::weighted(0.9, delay()),
        prop::option::weighted(0.2, delay()),
        prop::option::weighted(0.9, delay()),
    )
        .prop_map(|(there, again, back)| Fate { there, again, back })
}

fn step() -> impl Strategy<Value = Step> {
    let replica = || 0usize..4;
    prop_oneof![
        4 => (replica(), 1u8..40).prop_map(|(replica, n)| Step::Requests(replica, n)),
        4 => (replica(), 1u8..40, fate()).prop_map(|(replica, n, fate)| Step::Asks(replica, n, fate)),
        3 => (replica(), fate()).prop_map(|(replica, fate)| Step::Exchange(replica, fate)),
        4 => prop_oneof![0u64..50, 50u64..1000, 1000u64..5000].prop_map(Step::Advance),
        1 => (replica(), any::<bool>()).prop_map(|(replica, noticed)| Step::Dies(replica, noticed)),
    ]
}

fn limits() -> impl Strategy<Value = Rule> {
    let interval = prop_oneof![1u64..50, 50u64..1000, 1000u64..20_000];
    (interval, 1u32..30).prop_map(|(interval, burst)| rule(ms(interval), burst))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_interval_has_more_than_the_bound_whatever_happens_to_messages(rule in limits(), steps in prop::collection::vec(step(), 1..80)) {
        let mut fleet = Fleet::new(rule, 4);
        // The process that each of the four is now.
        let mut lives: Vec<usize> = (0..4).collect();
        for step in steps {
            match step {
                Step::Requests(replica, n) => {
                    for _ in 0..n {
                        fleet.request(lives[replica]);
                    }
                }
                Step::Asks(replica, n, fate) => {
                    let replica = lives[replica];
                    for _ in 0..n {
                        fleet.replicas[replica].purse.wait();
                    }
                    fleet.exchange(replica, &fate);
                    fleet.advance(10);
                    for _ in 0..n {
                        fleet.replicas[replica].purse.leave();
                        fleet.request(replica);
                    }
                }
                Step::Exchange(replica, fate) => fleet.exchange(lives[replica], &fate),
                Step::Advance(by) => fleet.advance(by),
                Step::Dies(replica, noticed) => {
                    if noticed {
                        let id = fleet.replicas[lives[replica]].id;
                        fleet.pool.forget(id);
                    }
                    fleet.join();
                    lives[replica] = fleet.replicas.len() - 1;
                }
            }
            for replica in &fleet.replicas {
                prop_assert!(replica.purse.lots() <= 3 && replica.purse.unconfirmed() <= 8);
            }
        }
        fleet.check_bound()?;
    }
}
