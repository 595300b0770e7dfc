//! Several replicas in one process, on one pool. The clock is paused.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::{
    sync::mpsc,
    time::{sleep, sleep_until, timeout},
};

use http::HeaderValue;

use super::*;
use crate::{
    plan::RatePlan,
    policy::{
        fleet::{ReplicaId, tokens::Limits},
        rate::RateLimit,
    },
    state::limiters::{Limiters, PlanLimiters},
    types::{Caller, CallerToken},
};

const TIMEOUT: Duration = Duration::from_millis(50);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A register with one group, and how it behaves.
#[derive(Default)]
struct Register {
    pool: Lock<Limits>,
    /// One way, in milliseconds.
    delay: AtomicU64,
    /// It takes statements and answers none.
    hangs: AtomicBool,
    exchanges: AtomicUsize,
}

struct ToDriver(mpsc::UnboundedSender<Arc<str>>);

impl Teller for ToDriver {
    fn wants_changed(&self, group: &Arc<str>) {
        self.0.send(group.clone()).unwrap();
    }
}

struct Replica {
    limiters: Limiters,
    purses: Arc<Purses>,
}

impl Replica {
    fn start(id: u64, limit: RateLimit, register: &Arc<Register>, clock: Clock) -> Replica {
        let (sender, wants) = mpsc::unbounded_channel();
        let purses = Purses::new(
            clock,
            TIMEOUT,
            Arc::new(ToDriver(sender)),
            NameHash::new(Some(b"secret")),
        );
        let rates = RatePlan {
            callers: [("billing".into(), limit), ("support".into(), limit)].into(),
            default: limit,
        };
        tokio::spawn(drive(
            ReplicaId(id),
            register.clone(),
            purses.clone(),
            clock,
            wants,
        ));
        Replica {
            limiters: Limiters::in_fleet(&rates, clock, purses.clone()),
            purses,
        }
    }

    async fn request(&self) -> Verdict {
        request(&self.limiters.of_plan(), &Caller::named("billing"), None).await
    }
}

async fn request(plan: &PlanLimiters, caller: &Caller, token: Option<&CallerToken>) -> Verdict {
    let limiter = plan.of_request(caller, token).unwrap();
    match plan.check(caller, token, &limiter) {
        Check::Decided(verdict) => verdict,
        Check::Asks(waiting) => waiting.verdict().await,
    }
}

/// One exchange after another, whenever there is something to say.
async fn drive(
    id: ReplicaId,
    register: Arc<Register>,
    purses: Arc<Purses>,
    clock: Clock,
    mut wants: mpsc::UnboundedReceiver<Arc<str>>,
) {
    let mut group: Option<Arc<str>> = None;
    loop {
        let due = group.as_ref().and_then(|group| purses.due(group));
        let due = due.map_or_else(
            || clock.instant(Duration::from_secs(1_000_000)),
            |due| clock.instant(due),
        );
        tokio::select! {
            changed = wants.recv() => {
                let Some(changed) = changed else { return };
                group = Some(changed);
                continue;
            }
            () = sleep_until(due) => {}
        }
        let name = group.clone().unwrap();
        let statement = purses.statement(&name);
        register.exchanges.fetch_add(1, Ordering::Relaxed);
        sleep(ms(register.delay.load(Ordering::Relaxed))).await;
        if register.hangs.load(Ordering::Relaxed) {
            // As the timeout of an exchange.
            sleep(TIMEOUT).await;
            continue;
        }
        let now = Duration::from_secs(1_700_000_000) + clock.now();
        let sales = register.pool.lock().sync(id, &statement, now);
        sleep(ms(register.delay.load(Ordering::Relaxed))).await;
        purses.apply(&name, &sales);
    }
}

fn fleet(replicas: u64, count: u32, burst: u32) -> (Arc<Register>, Vec<Replica>) {
    let register = Arc::new(Register::default());
    register.delay.store(1, Ordering::Relaxed);
    let clock = Clock::start();
    let limit = RateLimit {
        count,
        per: Duration::from_secs(1),
        burst,
    };
    let start = |id| Replica::start(id, limit, &register, clock);
    let replicas = (0..replicas).map(start).collect();
    (register, replicas)
}

#[tokio::test(start_paused = true)]
async fn three_replicas_let_one_rate_through() {
    let (register, replicas) = fleet(3, 10, 5);
    let mut passed = 0;
    for _ in 0..20 * 200 {
        for replica in &replicas {
            passed += u32::from(replica.request().await.allowed);
        }
        sleep(ms(5)).await;
    }
    // The waits take a little time as well.
    assert!((195..=10 * 26 + 5).contains(&passed), "{passed}");
    let exchanges = register.exchanges.load(Ordering::Relaxed);
    assert!(exchanges < 3 * 20 * 25, "{exchanges} for 12,000 requests");
}

#[tokio::test(start_paused = true)]
async fn each_replica_keeps_the_burst() {
    let (_, replicas) = fleet(1, 10, 3);
    for remaining in [2, 1, 0] {
        let verdict = replicas[0].request().await;
        assert_eq!((verdict.allowed, verdict.remaining), (true, remaining));
    }
    let verdict = replicas[0].request().await;
    assert!(
        !verdict.allowed && verdict.retry_after <= ms(100),
        "{verdict:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_burst_on_one_replica_is_refused_and_told_on_another() {
    let limit = RateLimit {
        count: 1,
        per: Duration::from_secs(30),
        burst: 4,
    };
    let register = Arc::new(Register::default());
    let clock = Clock::start();
    let of = |id| Replica::start(id, limit, &register, clock);
    let (one, two) = (of(1), of(2));
    for _ in 0..3 {
        assert!(one.request().await.allowed);
    }
    let verdict = two.request().await;
    assert_eq!((verdict.allowed, verdict.remaining), (true, 0));
    let verdict = two.request().await;
    assert!(!verdict.allowed);
    assert!(verdict.retry_after > Duration::from_secs(28), "{verdict:?}");
    let exchanges = register.exchanges.load(Ordering::Relaxed);
    for _ in 0..1000 {
        let again = two.request().await;
        assert!(!again.allowed && again.retry_after == verdict.retry_after);
    }
    assert_eq!(register.exchanges.load(Ordering::Relaxed), exchanges);
    let plan = two.limiters.of_plan();
    let (policy, state) = plan.headers(&Caller::named("billing"), None).unwrap();
    assert_eq!(policy, "\"caller\";q=4;w=120");
    let seconds = verdict.retry_after.as_secs_f64().ceil();
    assert_eq!(state, format!("\"caller\";r=0;t={seconds}"));
    let peeked = plan.peek_caller("billing", Some("main")).unwrap();
    assert_eq!((peeked.allowed, peeked.remaining), (false, 0));
    // Another caller of the group has its own.
    let support = request(&plan, &Caller::named("support"), None).await;
    assert_eq!((support.allowed, support.remaining), (true, 3));
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_timeout_at_most_and_is_decided_by_its_limiter() {
    let (register, replicas) = fleet(1, 1, 2);
    register.hangs.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let start = Instant::now();
        assert!(replicas[0].request().await.allowed);
        assert_eq!(start.elapsed(), TIMEOUT);
    }
    // Its own limiter refuses without asking.
    let start = Instant::now();
    assert!(!replicas[0].request().await.allowed);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn alone_nobody_waits_and_what_was_let_through_is_charged_afterwards() {
    let limit = RateLimit {
        count: 1,
        per: Duration::from_secs(60),
        burst: 4,
    };
    let register = Arc::new(Register::default());
    let clock = Clock::start();
    let of = |id| Replica::start(id, limit, &register, clock);
    let (one, two) = (of(1), of(2));
    let group: Arc<str> = "main".into();
    one.purses.set_alone(&group, true);
    let start = Instant::now();
    for _ in 0..3 {
        assert!(one.request().await.allowed);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(register.exchanges.load(Ordering::Relaxed), 0);
    one.purses.set_alone(&group, false);
    assert!(one.request().await.allowed);
    assert!(!two.request().await.allowed, "four of four are spent");
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_are_decided_when_the_register_is_lost() {
    let (register, replicas) = fleet(1, 1, 2);
    register.hangs.store(true, Ordering::Relaxed);
    let lost = async {
        sleep(ms(10)).await;
        replicas[0].purses.set_alone(&"main".into(), true);
    };
    let start = Instant::now();
    let (verdict, ()) = tokio::join!(replicas[0].request(), lost);
    assert!(verdict.allowed);
    assert_eq!(start.elapsed(), ms(10));
}

#[tokio::test(start_paused = true)]
async fn many_that_wait_share_an_exchange() {
    let (register, replicas) = fleet(1, 100, 100);
    let requests = (0..60).map(|_| replicas[0].request());
    let verdicts = futures_util::future::join_all(requests).await;
    assert!(verdicts.iter().all(|verdict| verdict.allowed));
    let exchanges = register.exchanges.load(Ordering::Relaxed);
    assert!(exchanges <= 2, "{exchanges}");
}

#[tokio::test(start_paused = true)]
async fn one_that_leaves_while_it_waits_leaves_nothing_behind() {
    let (register, replicas) = fleet(1, 1, 2);
    register.hangs.store(true, Ordering::Relaxed);
    assert!(timeout(ms(5), replicas[0].request()).await.is_err());
    register.hangs.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(30)).await;
    // What was bought for it has been given back, and the purse is gone.
    assert_eq!(replicas[0].purses.due("main"), None);
    assert!(replicas[0].purses.groups.lock().by_name.is_empty());
    assert_eq!(replicas[0].purses.groups.lock().count, 0);
    let mut pool = register.pool.lock();
    let later = Duration::from_secs(1_700_000_000 + 100);
    pool.sync(ReplicaId(9), &[], later);
    assert_eq!(pool.callers(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_changes_begins_anew() {
    let (_, replicas) = fleet(1, 1, 2);
    for allowed in [true, true, false] {
        assert_eq!(replicas[0].request().await.allowed, allowed);
    }
    let limit = RateLimit {
        count: 1,
        per: Duration::from_secs(1),
        burst: 5,
    };
    replicas[0].limiters.reconcile(&RatePlan {
        callers: [("billing".into(), limit)].into(),
        default: limit,
    });
    for allowed in [true, true, true, true, true, false] {
        assert_eq!(replicas[0].request().await.allowed, allowed);
    }
}

#[tokio::test(start_paused = true)]
async fn callers_own_tokens_share_the_limit_of_their_user() {
    let (_, replicas) = fleet(2, 1, 3);
    let token = CallerToken {
        header: HeaderValue::from_static("Bearer x"),
        hash: [3; 32],
    };
    let caller = Caller {
        group: "DEVU-1".into(),
        ..Caller::named("other")
    };
    let mut allowed = 0;
    for replica in &replicas {
        for _ in 0..4 {
            let plan = replica.limiters.of_plan();
            allowed += u32::from(request(&plan, &caller, Some(&token)).await.allowed);
        }
    }
    // The burst, and the second of credit.
    assert_eq!(allowed, 4);
}

#[tokio::test(start_paused = true)]
async fn at_capacity_new_callers_go_by_their_own_limiters() {
    let (register, replicas) = fleet(1, 1, 3);
    let limiter = replicas[0].limiters.of_plan();
    let limiter = limiter.of_caller("billing").unwrap();
    let purses = &replicas[0].purses;
    {
        let mut groups = purses.groups.lock();
        for n in 0..DEFAULT_CAPACITY {
            let group: Arc<str> = n.to_string().into();
            let (_, entry) = groups
                .entry(&group, CallerKey::ONLY, limiter, Duration::ZERO)
                .unwrap();
            // In use.
            entry.purse.wait();
        }
    }
    let start = Instant::now();
    assert!(replicas[0].request().await.allowed);
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(register.exchanges.load(Ordering::Relaxed), 0);
    assert_eq!(purses.groups.lock().count, DEFAULT_CAPACITY);
    for n in 0..DEFAULT_CAPACITY {
        let group: Arc<str> = n.to_string().into();
        let mut groups = purses.groups.lock();
        let of_group = groups.by_name.get_mut(&group).unwrap();
        of_group
            .callers
            .values_mut()
            .for_each(|entry| entry.purse.leave());
    }
    // A second after the last sweep they are gone.
    sleep(Duration::from_secs(1)).await;
    assert!(replicas[0].request().await.allowed);
    assert_eq!(purses.groups.lock().count, 1);
}

#[tokio::test(start_paused = true)]
async fn a_check_allocates_nothing() {
    let limit = RateLimit {
        count: 1000,
        per: Duration::from_secs(1),
        burst: 1000,
    };
    let clock = Clock::start();
    let register = Arc::new(Register::default());
    let replica = Replica::start(1, limit, &register, clock);
    // A few requests, and there are tokens for what follows.
    for _ in 0..20 {
        assert!(replica.request().await.allowed);
        sleep(ms(10)).await;
    }
    let rates = RatePlan {
        callers: [("billing".into(), limit)].into(),
        default: limit,
    };
    let single = Limiters::new(&rates, clock).of_plan();
    let in_fleet = replica.limiters.of_plan();
    let caller = Caller::named("billing");
    for plan in [single, in_fleet] {
        let limiter = plan.of_request(&caller, None).unwrap();
        let cost = allocation_counter::measure(|| {
            let Check::Decided(verdict) = plan.check(&caller, None, &limiter) else {
                panic!("there is a token");
            };
            assert!(verdict.allowed);
        });
        assert_eq!(cost.count_total, 0);
    }
}
