//! Whole fleets in virtual time: the production code of both sides, and messages that are lost, repeated and late.

mod floods;

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

fn sold(purchase: u64, needed: u32, ahead: u32) -> Sold {
    Sold {
        purchase,
        needed,
        ahead,
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

    /// The bound of the contract, for every interval: its tokens' time is at most the burst's, its own and five seconds.
    fn check_bound(&self) -> Result<(), TestCaseError> {
        let mut passed = self.passed.clone();
        passed.sort();
        let interval = i128::from(self.rule.interval);
        let most = interval * i128::from(self.rule.burst) + 5_000_000_000;
        let mut before = i128::MAX;
        for (count, at) in (0i128..).zip(&passed) {
            let at = at.as_nanos() as i128;
            before = before.min(count * interval - at);
            let excess = (count + 1) * interval - at - before;
            prop_assert!(excess <= most, "{excess} ns, at most {most}");
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
    let burst = prop_oneof![3 => 1u32..30, 1 => 30u32..300];
    (interval, burst).prop_map(|(interval, burst)| rule(ms(interval), burst))
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
        let stored = serde_json::to_string(&fleet.pool).unwrap();
        prop_assert_eq!(serde_json::from_str::<Limits>(&stored).unwrap(), fleet.pool);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Although replicas buy ahead and then stop.
    #[test]
    fn in_the_long_run_a_flood_gets_the_rate(
        interval in prop_oneof![5u64..100, 100u64..3000],
        burst in 1u32..20,
        floods in prop::collection::vec((0usize..3, 200u64..3000), 20..40),
    ) {
        let mut fleet = Fleet::new(rule(ms(interval), burst), 3);
        for (replica, time) in floods {
            for _ in 0..time {
                // A thousand requests a second at one, and at another now and then.
                fleet.request_and_wait(replica);
                if fleet.now.is_multiple_of(300) {
                    fleet.request_and_wait((replica + 1) % 3);
                }
            }
        }
        let (count, time) = (fleet.passed.len() as u64, fleet.now);
        fleet.check_bound()?;
        let rate = time / interval;
        prop_assert!(count <= rate + u64::from(burst) + 1000 / interval + 1, "{count} of {rate}");
        // What is bought ahead by one that stops comes back when its life is over.
        let held = 4000 / interval + 2;
        prop_assert!(count + held >= rate + u64::from(burst).min(2), "{count} of {rate}");
    }

    #[test]
    fn a_flood_costs_an_exchange_for_each_pause(interval in 1u64..2000, burst in 1u32..20, replicas in 1usize..5) {
        let mut fleet = Fleet::new(rule(ms(interval), burst), replicas);
        for _ in 0..5000 {
            for replica in 0..replicas {
                let asks = (0..3).filter(|_| fleet.request(replica) == Take::Ask).count();
                (0..asks).for_each(|_| fleet.replicas[replica].purse.wait());
            }
            fleet.tick();
            for replica in 0..replicas {
                for _ in 0..fleet.replicas[replica].purse.waiting() {
                    fleet.replicas[replica].purse.leave();
                    fleet.request(replica);
                }
            }
        }
        // Ten a second for those that are refused, as many to buy ahead. The first few double what is known of the demand; the first burst
        // may be bought one by one.
        let most = (5000 / 100 * 2 + 20) * replicas + burst as usize;
        prop_assert!(fleet.exchanges <= most, "{}, at most {most}", fleet.exchanges);
    }

    /// Its requests go to one replica after another that had taken all.
    #[test]
    fn a_caller_within_its_rate_is_refused_for_a_second_at_most(interval in 5u64..900, burst in 1u32..20, flood in 0u64..4000) {
        let mut fleet = Fleet::new(rule(ms(interval), burst), 2);
        for _ in 0..flood {
            fleet.request_and_wait(0);
        }
        let (mut refused_since, start) = (None, fleet.now);
        while fleet.now < start + 10_000 {
            match fleet.request_and_wait(1) {
                Take::Token => refused_since = None,
                took => {
                    let since = *refused_since.get_or_insert(fleet.now);
                    prop_assert!(fleet.now - since <= 1000, "{took:?} for {} ms", fleet.now - since);
                }
            }
            let next = fleet.now + interval;
            while fleet.now < next {
                fleet.tick();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    /// A third of the rate at most, and at least two requests a second at each replica.
    #[test]
    fn in_plenty_an_exchange_serves_more_than_twenty_requests_and_none_asks(
        replicas in 1usize..11,
        more in 1.5..4.0,
        load in 0.0..1.0,
        burst in 20u32..200,
    ) {
        // So that each may have 30 at hand. With a burst of one request it is less.
        let rate = 24.0 * replicas as f64 * more;
        let most = rate / 3.0 / replicas as f64;
        let pace = 1000.0 / (2.0 + load * (most - 2.0));
        let mut fleet = Fleet::new(rule(Duration::from_secs_f64(1.0 / rate), burst), replicas);
        let mut next: Vec<f64> = (0..replicas).map(|replica| 37.0 * replica as f64).collect();
        let (mut asked, mut requests, mut before) = (0, 0, 0);
        while fleet.now < 120_000 {
            for (replica, next) in next.iter_mut().enumerate() {
                while *next <= fleet.now as f64 {
                    *next += pace;
                    requests += 1;
                    let took = fleet.request(replica);
                    asked += usize::from(took == Take::Ask);
                    let took = if took == Take::Ask { fleet.request_and_wait(replica) } else { took };
                    prop_assert_eq!(took, Take::Token);
                }
            }
            fleet.tick();
            if before == 0 && fleet.now > 30_000 {
                // From here on it is known what they need.
                (before, requests) = (fleet.exchanges, 0);
            }
        }
        // Once, and once more where the first purchase was too small.
        prop_assert!(asked <= 2 * replicas, "{asked}");
        let exchanges = fleet.exchanges - before;
        prop_assert!(exchanges * 20 < requests, "{exchanges} for {requests}");
        fleet.check_bound()?;
    }

    /// All have bought ahead and are idle. Then all spend what they have and what the bucket has.
    #[test]
    fn what_is_kept_for_long_does_not_add_to_the_bound(
        interval in prop_oneof![1 => 2u64..50, 3 => 50u64..1000],
        burst in prop_oneof![1u32..60, 60u32..1000],
        replicas in 1usize..8,
        busy in 1000u64..30_000,
        idle in 0u64..29_000,
        share in 1u64..4,
    ) {
        let mut fleet = Fleet::new(rule(ms(interval), burst), replicas);
        let step = (interval * share).max(5);
        while fleet.now < busy {
            let replica = (fleet.now / step) as usize % replicas;
            fleet.request_and_wait(replica);
            let next = fleet.now + step;
            while fleet.now < next {
                fleet.tick();
            }
        }
        let end = fleet.now + idle;
        while fleet.now < end {
            fleet.tick();
        }
        let idle_at = fleet.now;
        let mut went_on = true;
        while went_on || fleet.now < idle_at + 1000 {
            went_on = false;
            for replica in 0..replicas {
                while fleet.request(replica) == Take::Token {
                    went_on = true;
                }
                went_on |= fleet.request_and_wait(replica) == Take::Token;
            }
            went_on &= fleet.now < idle_at + 1000;
            fleet.tick();
        }
        fleet.check_bound()?;
    }

    /// Some have bought ahead and are idle.
    #[test]
    fn what_others_keep_takes_nothing_from_a_flood_in_the_long_run(
        interval in prop_oneof![2u64..50, 50u64..500],
        burst in 1u32..100,
        idle in 1usize..8,
        busy in 1000u64..20_000,
    ) {
        let mut fleet = Fleet::new(rule(ms(interval), burst), idle + 1);
        let step = interval * 3;
        while fleet.now < busy {
            let replica = (fleet.now / step) as usize % idle;
            fleet.request_and_wait(replica);
            let next = fleet.now + step;
            while fleet.now < next {
                fleet.tick();
            }
        }
        let (start, before) = (fleet.now, fleet.passed.len());
        while fleet.now < start + 40_000 {
            fleet.request_and_wait(idle);
            fleet.tick();
        }
        let count = (fleet.passed.len() - before) as u64;
        let rate = (fleet.now - start) / interval;
        prop_assert!(count + 1 + 500 / interval >= rate, "{count} of {rate}");
        fleet.check_bound()?;
    }
}

#[test]
fn a_caller_that_calls_now_and_then_asks_once() {
    let mut fleet = Fleet::new(rule(ms(100), 10), 3);
    let mut asked = 0;
    for request in 0..300 {
        let replica = request % 3;
        asked += usize::from(fleet.request(replica) == Take::Ask);
        if asked > fleet.passed.len() {
            assert_eq!(fleet.request_and_wait(replica), Take::Token);
        }
        for _ in 0..1000 {
            fleet.tick();
        }
    }
    assert_eq!((fleet.passed.len(), asked), (300, 3));
    // Each may have four.
    assert!(fleet.exchanges < 110, "{}", fleet.exchanges);
}

#[test]
fn a_pool_that_lost_everything_is_noticed_by_one_that_buys_nothing() {
    let mut fleet = Fleet::new(rule(ms(100), 50), 1);
    for _ in 0..20 {
        assert_eq!(fleet.request_and_wait(0), Take::Token);
    }
    assert!(fleet.replicas[0].purse.at_hand(fleet.local()) > 0);
    fleet.pool = Limits::default();
    // As the exchange of others would.
    let prompt = Fate {
        there: Some(0),
        again: None,
        back: Some(0),
    };
    fleet.exchange(0, &prompt);
    fleet.advance(1);
    let now = fleet.local();
    let purse = &mut fleet.replicas[0].purse;
    assert_eq!(purse.due(now), Some(now));
    assert_eq!(purse.want(CALLER, 9, now).unwrap().charge, 9);
    assert_eq!(purse.want(CALLER, 9, now).unwrap().charge, 9);
    fleet.exchange(0, &prompt);
    fleet.advance(1);
    assert_eq!(
        fleet.replicas[0]
            .purse
            .due(fleet.local())
            .filter(|due| *due <= fleet.local()),
        None
    );
}

#[test]
fn a_slow_rate_is_bought_one_by_one_and_what_is_spent_is_not_given_back() {
    let mut fleet = Fleet::new(rule(Duration::from_secs(60), 2), 2);
    assert_eq!(fleet.request_and_wait(0), Take::Token);
    assert_eq!(fleet.request_and_wait(1), Take::Token);
    let Take::Refused(wait) = fleet.request_and_wait(0) else {
        panic!("there were two");
    };
    // A second of credit.
    assert!(
        wait <= Duration::from_secs(59) && wait > Duration::from_secs(58),
        "{wait:?}"
    );
    let exchanges = fleet.exchanges;
    for _ in 0..5000 {
        assert!(matches!(fleet.request_and_wait(0), Take::Refused(_)));
    }
    assert_eq!(fleet.exchanges, exchanges, "the refusal is remembered");
    fleet.advance(59_000);
    assert_eq!(fleet.request_and_wait(1), Take::Token);
}

#[test]
fn a_purse_is_kept_while_it_knows_what_is_spent() {
    // One that refills at once: after each request all of it is there again, and what is bought ahead is all that a purse knows.
    let mut fleet = Fleet::new(rule(Duration::from_micros(100), 10_000), 1);
    assert_eq!(fleet.request_and_wait(0), Take::Token);
    fleet.advance(100);
    assert!(!fleet.replicas[0].purse.is_idle(fleet.local()));
    assert_eq!(fleet.request_and_wait(0), Take::Token);
    assert_eq!(fleet.request(0), Take::Token, "bought ahead");
    fleet.advance(1000);
    // What it holds it keeps for half a minute, and may buy once more before it notices that nobody calls.
    for _ in 0..90_000 {
        fleet.tick();
    }
    assert!(fleet.replicas[0].purse.is_idle(fleet.local()));
}

#[test]
fn what_is_left_goes_back_and_an_idle_purse_says_nothing() {
    let mut fleet = Fleet::new(rule(ms(100), 50), 2);
    for _ in 0..20 {
        assert_eq!(fleet.request_and_wait(0), Take::Token);
    }
    assert!(fleet.replicas[0].purse.at_hand(fleet.local()) > 0);
    for _ in 0..90_000 {
        fleet.tick();
    }
    let exchanges = fleet.exchanges;
    for _ in 0..90_000 {
        fleet.tick();
    }
    assert_eq!(fleet.exchanges, exchanges);
    assert!(fleet.replicas[0].purse.is_idle(fleet.local()));
    let now = EPOCH + fleet.local();
    fleet.pool.sync(ReplicaId(1), &[], now);
    assert_eq!((fleet.pool.callers(), fleet.pool.holders()), (0, 0));
}

#[test]
fn a_purchase_is_decided_once() {
    let mut pool = Limits::default();
    let want = |purchase, ahead| Want {
        caller: CALLER,
        rule: rule(ms(1000), 10),
        purchase,
        needed: 0,
        ahead,
        long: 0,
        charge: 0,
        held: Vec::new(),
        settled: Vec::new(),
    };
    let id = ReplicaId(1);
    let first = pool.sync(id, &[want(5, 3)], EPOCH);
    assert_eq!(first[0].open, [sold(5, 0, 3)]);
    let first = (first[0].purchase, first[0].open.clone());
    let decided = |sales: Vec<Sale>| (sales[0].purchase, sales[0].open.clone());
    assert_eq!(decided(pool.sync(id, &[want(5, 9)], EPOCH)), first);
    // An older one is too late, whatever it was.
    assert_eq!(decided(pool.sync(id, &[want(4, 1)], EPOCH)), first);
    let mut settles = want(5, 0);
    settles.settled = vec![Settled {
        purchase: 5,
        unspent: 3,
    }];
    for _ in 0..3 {
        let sales = pool.sync(id, &[settles.clone()], EPOCH);
        assert_eq!((sales[0].purchase, &*sales[0].open), (5, &[][..]));
        assert_eq!(
            sales[0].reset,
            Duration::ZERO,
            "given back once and as a whole"
        );
    }
}

#[test]
fn what_is_at_large_keeps_its_room_in_the_bucket() {
    let mut pool = Limits::default();
    let mut say = |purchase, ahead, unspent: Option<u32>, seconds| {
        let settled = unspent.map(|unspent| Settled { purchase, unspent });
        let want = Want {
            caller: CALLER,
            rule: rule(ms(1000), 20),
            purchase,
            needed: 0,
            ahead,
            long: 0,
            charge: 0,
            held: Vec::new(),
            settled: settled.into_iter().collect(),
        };
        let now = EPOCH + Duration::from_secs(seconds);
        pool.sync(ReplicaId(1), &[want], now)[0].reset
    };
    let seconds = Duration::from_secs;
    assert_eq!(say(1, 7, None, 0), seconds(7));
    // 2.5 s beside the burst, and no more.
    assert_eq!(say(1, 0, None, 4), ms(4500));
    assert_eq!(say(1, 0, None, 10), ms(4500));
    assert_eq!(say(1, 0, Some(7), 10), seconds(0));
    assert_eq!(say(2, 7, None, 20), seconds(7));
    // Spent; it is refilled from now on.
    assert_eq!(say(2, 0, Some(0), 30), ms(4500));
    assert_eq!(say(2, 0, Some(7), 31), ms(3500));
    assert_eq!(say(2, 0, None, 35), seconds(0));
}

#[test]
fn what_is_sold_for_long_is_a_share_of_what_may_be_at_large() {
    let mut buy = {
        let mut pool = Limits::default();
        move |replica, purchase, (needed, ahead, long), held: Option<(u64, u32)>, seconds| {
            let held = held.map(|(purchase, left)| Held { purchase, left });
            let want = Want {
                caller: CALLER,
                rule: rule(ms(10), 100),
                purchase,
                needed,
                ahead,
                long,
                charge: 0,
                held: held.into_iter().collect(),
                settled: Vec::new(),
            };
            let now = EPOCH + Duration::from_secs(seconds);
            let sale = pool.sync(ReplicaId(replica), &[want], now).remove(0);
            let sold = sale.open.iter().find(|sold| sold.purchase == purchase);
            (sold.map_or(0, |sold| sold.ahead), sale.keeps)
        }
    };
    // Of 200 in the bucket half is left to others. 250 and a quarter of the burst may be at large.
    assert_eq!(buy(1, 1, (0, 0, 1000), None, 0), (100, true));
    assert_eq!(buy(1, 2, (0, 0, 1000), Some((1, 100)), 10), (37, true));
    assert_eq!(buy(2, 1, (0, 0, 1000), None, 20), (68, true));
    assert_eq!(
        buy(3, 1, (0, 0, 1000), None, 30),
        (2, true),
        "a quarter is left"
    );
}

#[test]
fn in_scarcity_nothing_is_sold_for_long() {
    let mut pool = Limits::default();
    let mut buy = |purchase, needed, ahead, long| {
        let want = Want {
            caller: CALLER,
            rule: rule(ms(10), 100),
            purchase,
            needed,
            ahead,
            long,
            charge: 0,
            held: Vec::new(),
            settled: Vec::new(),
        };
        let sale = pool.sync(ReplicaId(1), &[want], EPOCH).remove(0);
        (sale.open.last().copied(), sale.keeps)
    };
    assert_eq!(buy(1, 120, 0, 0), (Some(sold(1, 120, 0)), true));
    assert_eq!(buy(2, 0, 3, 50), (Some(sold(2, 0, 3)), false));
}

#[test]
fn what_a_replica_that_leaves_has_at_hand_stays_at_large() {
    let mut pool = Limits::default();
    let want = |purchase, needed, ahead| Want {
        caller: CALLER,
        rule: rule(ms(1000), 20),
        purchase,
        needed,
        ahead,
        long: 0,
        charge: 0,
        held: Vec::new(),
        settled: Vec::new(),
    };
    let seconds = Duration::from_secs;
    pool.sync(ReplicaId(1), &[want(1, 0, 7)], EPOCH);
    pool.sync(ReplicaId(2), &[want(1, 1, 0)], EPOCH);
    (1..3).for_each(|replica| pool.forget(ReplicaId(replica)));
    assert_eq!(pool.holders(), 1);
    let reset = |pool: &mut Limits, after| {
        let sales = pool.sync(ReplicaId(3), &[want(0, 0, 0)], EPOCH + seconds(after));
        sales[0].reset
    };
    assert_eq!(reset(&mut pool, 44), ms(4500));
    assert_eq!(reset(&mut pool, 46), ms(4500), "until now");
    assert_eq!(reset(&mut pool, 51), Duration::ZERO);
}

#[test]
fn what_a_purse_no_longer_speaks_of_is_spent() {
    let mut pool = Limits::default();
    let mut want = Want {
        caller: CALLER,
        rule: rule(ms(10), 10),
        purchase: 1,
        needed: 2,
        ahead: 20,
        long: 0,
        charge: 0,
        held: Vec::new(),
        settled: Vec::new(),
    };
    let id = ReplicaId(1);
    let sale = pool.sync(id, &[want.clone()], EPOCH).remove(0);
    assert_eq!(sale.open, [sold(1, 2, 20)]);
    let held = |purchase, left| Held { purchase, left };
    let late = want.clone();
    (want.purchase, want.needed, want.held) = (2, 0, vec![held(1, 12)]);
    let sale = pool.sync(id, &[want.clone()], EPOCH).remove(0);
    assert_eq!(sale.open, [sold(1, 2, 12), sold(2, 0, 20)]);
    // A late statement takes nothing away, and brings nothing back.
    assert_eq!(pool.sync(id, &[late], EPOCH)[0].open, sale.open);
    want.held = vec![held(2, 5)];
    assert_eq!(pool.sync(id, &[want], EPOCH)[0].open, [sold(2, 0, 5)]);
}

#[test]
fn what_was_let_through_alone_is_charged_once() {
    let mut fleet = Fleet::new(rule(Duration::from_secs(10), 5), 2);
    let now = fleet.local();
    for _ in 0..3 {
        fleet.replicas[0].purse.let_through(now);
    }
    for _ in 0..10 {
        fleet.tick();
    }
    assert_eq!(fleet.exchanges, 1);
    assert_eq!(fleet.request_and_wait(1), Take::Token);
    assert_eq!(fleet.request_and_wait(1), Take::Token);
    assert!(matches!(fleet.request_and_wait(1), Take::Refused(_)));
}

#[test]
fn those_that_went_without_their_token_have_spent_it() {
    let mut fleet = Fleet::new(rule(Duration::from_secs(10), 5), 1);
    let slow = Fate {
        there: Some(5),
        again: None,
        back: Some(100),
    };
    fleet.replicas[0].purse.wait();
    fleet.exchange(0, &slow);
    fleet.advance(50);
    fleet.replicas[0].purse.leave();
    let now = fleet.local();
    fleet.replicas[0].purse.let_through(now);
    fleet.advance(100);
    let purse = &fleet.replicas[0].purse;
    assert_eq!(
        (purse.at_hand(fleet.local()), purse.due(fleet.local())),
        (0, None)
    );
    for _ in 0..4 {
        assert_eq!(fleet.request_and_wait(0), Take::Token);
    }
    assert!(matches!(fleet.request_and_wait(0), Take::Refused(_)));
}

#[test]
fn a_pool_that_lost_everything_hears_what_was_spent() {
    let mut fleet = Fleet::new(rule(ms(900), 10), 1);
    for _ in 0..6 {
        assert_eq!(fleet.request_and_wait(0), Take::Token);
    }
    fleet.pool = Limits::default();
    let mut passed = 6;
    for _ in 0..10 {
        passed += usize::from(fleet.request_and_wait(0) == Take::Token);
        fleet.tick();
    }
    let Take::Refused(_) = fleet.request_and_wait(0) else {
        panic!("{passed} went, and none was charged");
    };
    assert!(passed <= 16, "{passed}");
}

#[test]
fn a_clock_that_is_set_back_refuses_for_no_longer_than_an_empty_bucket() {
    let mut pool = Limits::default();
    let want = |purchase, needed| Want {
        caller: CALLER,
        rule: rule(ms(1000), 10),
        purchase,
        needed,
        ahead: 0,
        long: 0,
        charge: 0,
        held: Vec::new(),
        settled: Vec::new(),
    };
    let id = ReplicaId(1);
    pool.sync(id, &[want(1, 10)], EPOCH + Duration::from_secs(3600));
    let sale = pool.sync(id, &[want(2, 1)], EPOCH).remove(0);
    assert!(sale.wait <= Duration::from_secs(1), "{:?}", sale.wait);
    let after = EPOCH + sale.wait;
    assert_eq!(
        pool.sync(id, &[want(3, 1)], after)[0].open.last(),
        Some(&sold(3, 1, 0))
    );
}

#[test]
fn limits_that_differ_during_a_rollout_count_all_that_is_sold() {
    let mut pool = Limits::default();
    let mut number = 0;
    let mut buy = |replica, rule, needed, now| {
        number += 1;
        let want = Want {
            caller: CALLER,
            rule,
            purchase: number,
            needed,
            ahead: 0,
            long: 0,
            charge: 0,
            held: Vec::new(),
            settled: Vec::new(),
        };
        let sale = pool.sync(ReplicaId(replica), &[want], now).remove(0);
        let sold = sale.open.iter().find(|sold| sold.purchase == number);
        sold.map_or(0, |sold| sold.needed)
    };
    let (old, new) = (rule(ms(2000), 20), rule(ms(2000), 5));
    assert_eq!(buy(1, old, 12, EPOCH), 12);
    // It begins full, as the limiter of one process does when its limit changes.
    assert_eq!(buy(2, new, 100, EPOCH), 5);
    for _ in 0..20 {
        assert_eq!(buy(2, new, 1, EPOCH), 0);
    }
    assert_eq!(
        buy(1, old, 100, EPOCH),
        3,
        "20 in all, however often they take turns"
    );
}

#[test]
fn the_value_is_bounded() {
    let mut pool = Limits::default();
    let want = |caller: u64, purchase| {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&caller.to_be_bytes());
        Want {
            caller: CallerKey(key),
            rule: rule(ms(1000), 10),
            purchase,
            needed: 1,
            ahead: 0,
            long: 0,
            charge: 0,
            held: Vec::new(),
            settled: Vec::new(),
        }
    };
    for replica in 0..4 {
        let wants: Vec<Want> = (0..2000).map(|caller| want(caller, 1)).collect();
        let sales = pool.sync(ReplicaId(replica), &wants, EPOCH);
        let with_room = sales.iter().filter(|sale| sale.has_room).count();
        assert_eq!(with_room, if replica < 2 { MAX_CALLERS } else { 0 });
    }
    assert_eq!((pool.callers(), pool.holders()), (MAX_CALLERS, MAX_HOLDERS));
    // One that settles nothing.
    for purchase in 2..50 {
        pool.sync(
            ReplicaId(0),
            &[want(0, purchase)],
            EPOCH + ms(purchase * 1000),
        );
    }
    let open = pool.sync(ReplicaId(0), &[want(0, 50)], EPOCH + ms(50_000));
    assert!(open[0].open.len() <= 4);
    // All of it is forgotten.
    pool.sync(ReplicaId(9), &[], EPOCH + Duration::from_secs(100));
    assert_eq!((pool.callers(), pool.holders()), (0, 0));
}

/// It would exchange without end, each time in vain.
#[test]
fn a_purse_that_found_no_room_leaves_the_pool_alone_for_a_while() {
    let rule = rule(ms(1000), 10);
    let mut full = Limits::default();
    let mut other = [0; 16];
    let mut purse = Purse::new(rule);
    purse.wait();
    let caller = CallerKey([255; 16]);
    let want = purse.want(caller, 0, EPOCH).expect("somebody waits");
    for replica in 1..=2 {
        let wants: Vec<Want> = (0..MAX_CALLERS as u64)
            .map(|n| {
                other[..8].copy_from_slice(&n.to_be_bytes());
                let caller = CallerKey(other);
                Want {
                    caller,
                    ..want.clone()
                }
            })
            .collect();
        full.sync(ReplicaId(replica), &wants, EPOCH);
    }
    // It holds what it is to give back, owes what it let through, and somebody waits.
    purse.follow(Rule { burst: 20, ..rule });
    purse.let_through(EPOCH);
    assert_eq!(purse.due(EPOCH), Some(EPOCH));
    let want = purse.want(caller, 1, EPOCH).expect("it has to say a lot");
    assert!(!want.settled.is_empty() && want.needed == 1 && want.charge == 1);
    let sale = full.sync(ReplicaId(9), &[want], EPOCH).remove(0);
    assert!(!sale.has_room);
    purse.apply(&sale, EPOCH);
    assert_eq!(purse.take(EPOCH), Take::Free);
    let later = EPOCH + ms(5000);
    assert_eq!(purse.due(EPOCH), Some(later));
    assert_eq!(purse.want(caller, 1, later - ms(1)), None);
    let want = purse.want(caller, 1, later).expect("it is time again");
    assert_eq!((want.needed, want.charge), (1, 1));
}
