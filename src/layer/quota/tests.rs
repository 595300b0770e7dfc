use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use proptest::prelude::*;
use tokio::{io::AsyncWriteExt, task::JoinHandle, time::sleep};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    plan::QuotaPlan,
    policy::{
        fair::Priority,
        ledger::{LedgerRules, Status, View},
        progress::ProgressRules,
    },
    state::{Clock, draining::Drain},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A model of upstream, and a record of when each attempt arrived.
struct Upstream {
    limit: u64,
    length: Duration,
    latency: Duration,
    /// Until when it answers 429.
    refuses_until: Mutex<Option<Instant>>,
    /// Until when it answers 503 to an operation.
    unavailable: Mutex<BTreeMap<String, Instant>>,
    window: Mutex<(Option<Instant>, u64)>,
    seen: Mutex<Vec<(Instant, Arc<str>)>>,
    start: Instant,
}

const EPOCH: u64 = 1_800_000_000;

impl Upstream {
    fn new(limit: u64, length: Duration) -> Arc<Upstream> {
        Arc::new(Upstream {
            limit,
            length,
            latency: Duration::from_millis(50),
            refuses_until: Mutex::default(),
            unavailable: Mutex::default(),
            window: Mutex::default(),
            seen: Mutex::default(),
            start: Instant::now(),
        })
    }

    fn answers_503(&self, operation: &str, until: Instant) {
        let mut unavailable = self.unavailable.lock().unwrap();
        unavailable.insert(operation.to_owned(), until);
    }

    fn since(&self, at: Instant) -> u64 {
        EPOCH + (at - self.start).as_secs()
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Error> {
        let caller = &request.extensions().get::<Arc<Caller>>().unwrap().name;
        let now = Instant::now();
        self.seen.lock().unwrap().push((now, caller.clone()));
        if !request.body().is_read() {
            // An upload that never ends.
            return std::future::pending().await;
        }
        let operation = request.extensions().get::<Operation>().unwrap().name();
        let unavailable = self.unavailable.lock().unwrap().get(operation).copied();
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        let date = std::time::UNIX_EPOCH + Duration::from_secs(self.since(now));
        let date = httpdate::fmt_http_date(date);
        headers.insert("date", date.parse().unwrap());
        let refuses_until = *self.refuses_until.lock().unwrap();
        if let Some(left) = refuses_until.and_then(|until| until.checked_duration_since(now))
            && !left.is_zero()
        {
            headers.insert("retry-after", feedback::whole_seconds(left).into());
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        } else if let Some(left) = unavailable.and_then(|until| until.checked_duration_since(now))
            && !left.is_zero()
        {
            headers.insert("retry-after", feedback::whole_seconds(left).into());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        } else {
            let mut window = self.window.lock().unwrap();
            if window.0.is_none_or(|end| end <= now) {
                *window = (Some(now + self.length), 0);
            }
            let end = window.0.unwrap();
            let over = window.1 >= self.limit;
            window.1 += u64::from(!over);
            headers.insert("x-ratelimit-limit", self.limit.into());
            headers.insert("x-ratelimit-remaining", (self.limit - window.1).into());
            headers.insert("x-ratelimit-reset", self.since(end).into());
            if over {
                headers.insert("retry-after", feedback::whole_seconds(end - now).into());
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            }
        }
        sleep(self.latency).await;
        Ok(response)
    }

    fn turns(&self) -> BTreeMap<String, usize> {
        let mut turns = BTreeMap::new();
        for (_, caller) in self.seen.lock().unwrap().iter() {
            *turns.entry(caller.to_string()).or_default() += 1;
        }
        turns
    }
}

struct Rig {
    params: Arc<QuotaParams>,
    groups: Arc<Groups>,
    upstream: Arc<Upstream>,
    drain: Drain,
}

impl Rig {
    fn new(max_waiting: usize, upstream: Arc<Upstream>) -> Rig {
        let (drain, draining) = Draining::new();
        let rules = QuotaRules {
            ledger: LedgerRules {
                spread_above: 0.5,
                reserve: 0.0,
                max_retry_after: MINUTE * 10,
            },
            max_waiting,
        };
        let quota = QuotaPlan {
            rules,
            groups: BTreeMap::from([("main".into(), vec!["a".into(), "b".into()])]),
        };
        let groups = Arc::new(Groups::new(Arc::new(quota), Clock::start()));
        let params = Arc::new(QuotaParams {
            groups: groups.clone(),
            rules,
            draining,
            metrics: Arc::default(),
            tally: Arc::default(),
        });
        Rig {
            params,
            groups,
            upstream,
            drain,
        }
    }

    /// Reconciles with a plan that has these rules.
    fn plan(&self, ledger: LedgerRules) {
        self.groups.reconcile(Arc::new(QuotaPlan {
            rules: QuotaRules {
                ledger,
                ..self.params.rules
            },
            groups: BTreeMap::from([("main".into(), vec!["a".into(), "b".into()])]),
        }));
    }

    fn attempt(
        &self,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send + 'static {
        let upstream = self.upstream.clone();
        let service = service_fn(move |request| upstream.clone().answer(request));
        Quota::new(service, self.params.clone()).oneshot(request)
    }

    fn send(&self, request: Request<Body>) -> JoinHandle<Result<Response<Body>, Error>> {
        tokio::spawn(self.attempt(request))
    }

    fn call(&self, caller: &str, max_wait: Duration) -> JoinHandle<Result<Response<Body>, Error>> {
        self.send(request(caller, 1, max_wait))
    }

    /// Sends one after another, each of which is answered.
    async fn spend(&self, count: usize) {
        for _ in 0..count {
            status(self.call("x", MINUTE)).await.unwrap();
        }
    }

    /// Asserts that a request of this caller is served.
    async fn serves(&self, caller: &str) {
        assert_eq!(status(self.call(caller, MINUTE)).await.unwrap(), 200);
    }

    fn group(&self) -> Arc<Group> {
        self.groups.get(&"main".into())
    }

    /// From now on upstream answers 503 to this operation for this long, and has told so.
    async fn pause_operation(&self, operation: &str, time: Duration) {
        let until = Instant::now() + time;
        self.upstream.answers_503(operation, until);
        let told = self.attempt(call_of(operation, "a", time)).await.unwrap();
        assert_eq!(told.status(), 503);
    }

    fn pause(&self, time: Duration) {
        *self.upstream.refuses_until.lock().unwrap() = Some(Instant::now() + time);
        self.pause_only(time);
    }

    /// As an answer that comes now would, without upstream's doing so to the next attempt.
    fn pause_only(&self, time: Duration) {
        let operation = Operation::from_path("/works.list").id();
        self.group().refused(operation, true, time);
    }

    fn waiting(&self) -> usize {
        self.group()
            .view(&self.params.rules)
            .1
            .iter()
            .map(|(_, count)| count)
            .sum()
    }

    fn view(&self) -> View {
        self.group().view(&self.params.rules).0
    }

    fn is_at_rest(&self) -> bool {
        self.waiting() == 0 && self.view().in_flight == 0 && self.groups.waiting_room_is_empty()
    }

    /// Lets every task run until it waits for time.
    async fn settle(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

fn request(caller: &str, weight: u32, max_wait: Duration) -> Request<Body> {
    let mut caller = Caller::named(caller);
    caller.max_wait = max_wait;
    caller.share.weight = weight;
    if &*caller.name == "batch" {
        caller.share.priority = Priority::Batch;
    }
    let mut request = Request::new(Body::empty());
    let now = Instant::now();
    request.extensions_mut().insert(Arc::new(caller));
    let operation = Operation::from_path("/works.list");
    request.extensions_mut().insert(operation);
    request.extensions_mut().insert(ArrivedAt(now));
    request.extensions_mut().insert(Deadline(now + max_wait));
    request
}

/// A call of this operation.
fn call_of(operation: &str, caller: &str, max_wait: Duration) -> Request<Body> {
    let mut request = request(caller, 1, max_wait);
    let operation = Operation::from_path(operation);
    request.extensions_mut().insert(operation);
    request
}

fn upload(caller: &str, max_wait: Duration) -> Request<Body> {
    request(caller, 1, max_wait).map(|body| Body::prefixed(bytes::Bytes::from_static(b"x"), body))
}

fn plenty() -> Arc<Upstream> {
    Upstream::new(100_000, MINUTE * 5)
}

async fn status(task: JoinHandle<Result<Response<Body>, Error>>) -> Result<u16, Error> {
    let response = task.await.expect("no panic")?;
    Ok(response.status().as_u16())
}

async fn all_served(calls: Vec<JoinHandle<Result<Response<Body>, Error>>>) {
    for call in calls {
        assert_eq!(status(call).await.unwrap(), 200);
    }
}

/// Asserts that the waiting room had no slot for it, or no longer has one.
async fn is_evicted(call: JoinHandle<Result<Response<Body>, Error>>) {
    let result = status(call).await;
    let evicted = matches!(result, Err(Error::WaitingRoomFull { .. }));
    assert!(evicted, "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn while_quota_is_plentiful_nothing_queues_and_no_task_runs() {
    let rig = Rig::new(1, plenty());
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    for _ in 0..100 {
        let call = rig.attempt(request("a", 1, MINUTE));
        assert_eq!(call.await.expect("an answer").status(), 200);
    }
    let now = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert_eq!(now, tasks);
    assert!(rig.is_at_rest());
}

#[tokio::test(start_paused = true)]
async fn the_longest_retry_after_wins() {
    let rig = Rig::new(8, plenty());
    let start = Instant::now();
    rig.pause(SECOND * 30);
    rig.pause_only(SECOND * 10);
    rig.serves("a").await;
    assert!(start.elapsed() >= SECOND * 30, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_a_429_nothing_is_sent_until_its_time_is_over() {
    let rig = Rig::new(64, plenty());
    *rig.upstream.refuses_until.lock().unwrap() = Some(Instant::now() + SECOND * 20);
    assert_eq!(status(rig.call("a", MINUTE)).await.unwrap(), 429);
    let waiting: Vec<_> = (0..30).map(|_| rig.call("b", MINUTE)).collect();
    sleep(SECOND * 19).await;
    assert_eq!(rig.upstream.seen.lock().unwrap().len(), 1);
    // Then one is sent, and after its success the others, two at first.
    sleep(SECOND + Duration::from_millis(60)).await;
    rig.settle().await;
    assert!((2..=4).contains(&rig.upstream.seen.lock().unwrap().len()));
    all_served(waiting).await;
    assert!(rig.is_at_rest());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_grows_past_the_deadline_is_refused_with_the_true_time() {
    let rig = Rig::new(8, plenty());
    rig.pause(SECOND * 30);
    let waiting = rig.call("a", MINUTE);
    rig.settle().await;
    rig.pause(SECOND * 300);
    let start = Instant::now();
    match status(waiting).await {
        Err(Error::QuotaExhausted { retry_after }) => assert_eq!(retry_after.as_secs(), 300),
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed().is_zero(), "at once");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_served_in_time_is_refused_at_once() {
    let rig = Rig::new(1000, Upstream::new(20, MINUTE));
    rig.spend(10).await;
    // Ten units are left for a minute, so they are 7 s apart.
    let calls: Vec<_> = (0..10).map(|_| rig.call("a", SECOND * 30)).collect();
    let start = Instant::now();
    let mut refused = Vec::new();
    for call in calls {
        match status(call).await {
            Ok(status) => assert_eq!(status, 200),
            Err(Error::QuotaExhausted { retry_after }) => refused.push(retry_after),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(refused.len(), 5, "{refused:?}");
    assert!(
        refused.iter().all(|after| *after > SECOND * 30),
        "{refused:?}"
    );
    assert!(start.elapsed() <= SECOND * 30);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_disconnects_returns_its_slot() {
    let rig = Rig::new(1, plenty());
    rig.pause(SECOND * 30);
    let waiting = rig.call("a", MINUTE);
    rig.settle().await;
    let full = status(rig.call("a", MINUTE)).await;
    assert!(
        matches!(full, Err(Error::WaitingRoomFull { retry_after }) if retry_after == SECOND * 30)
    );
    waiting.abort();
    assert!(waiting.await.is_err());
    assert!(rig.is_at_rest());
    rig.serves("a").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_disconnects_during_an_attempt_leaves_no_reservation() {
    let rig = Rig::new(8, Upstream::new(20, MINUTE));
    rig.spend(1).await;
    for _ in 0..100 {
        let call = rig.call("a", MINUTE);
        rig.settle().await;
        call.abort();
        let _ = call.await;
    }
    assert_eq!(rig.view().in_flight, 0);
    // Upstream's window is over by then, and no reservation is left.
    sleep(MINUTE).await;
    rig.serves("a").await;
    assert!(rig.is_at_rest());
}

#[tokio::test(start_paused = true)]
async fn a_grant_for_a_client_that_has_just_disconnected_goes_to_the_next() {
    let rig = Rig::new(8, plenty());
    rig.pause_only(SECOND * 30);
    let (first, second) = (rig.call("a", MINUTE), rig.call("b", MINUTE));
    rig.settle().await;
    // The grant is made here, and its receiver is gone before it is polled.
    rig.group().resume();
    first.abort();
    assert!(first.await.is_err());
    let start = Instant::now();
    assert_eq!(status(second).await.unwrap(), 200);
    assert!(start.elapsed() < SECOND);
    assert_eq!(rig.upstream.turns(), BTreeMap::from([("b".into(), 1)]));
    assert!(rig.is_at_rest());
}

#[tokio::test(start_paused = true)]
async fn a_full_waiting_room_evicts_from_the_caller_with_the_largest_share() {
    let rig = Rig::new(10, plenty());
    rig.pause(SECOND * 30);
    let mut greedy: Vec<_> = (0..10).map(|_| rig.call("greedy", MINUTE)).collect();
    rig.settle().await;
    let modest = rig.call("modest", MINUTE);
    rig.settle().await;
    // The newest request of `greedy` was evicted, and another one is not admitted.
    is_evicted(greedy.pop().unwrap()).await;
    is_evicted(rig.call("greedy", MINUTE)).await;
    assert_eq!(rig.waiting(), 10);
    assert_eq!(rig.groups.waiting(), 10);
    assert_eq!(status(modest).await.unwrap(), 200);
    all_served(greedy).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_serves_those_that_can_be_served_and_refuses_the_others_at_once() {
    let rig = Rig::new(100, Upstream::new(100, MINUTE));
    rig.spend(51).await;
    let start = Instant::now();
    // The units of the spread are a good second apart.
    let mut calls: Vec<_> = (0..40).map(|_| rig.call("a", MINUTE)).collect();
    rig.settle().await;
    rig.drain.begin(SECOND * 20);
    rig.settle().await;
    let refused = calls.extract_if(.., |call| call.is_finished());
    let refused: Vec<_> = refused.collect();
    assert!((22..27).contains(&refused.len()), "{}", refused.len());
    for call in refused {
        assert!(matches!(status(call).await, Err(Error::Draining { .. })));
    }
    // One that comes late, on a connection that has not ended yet, is treated no otherwise.
    let late = rig.call("b", SECOND * 5);
    let later = rig.call("a", MINUTE);
    assert_eq!(status(late).await.unwrap(), 200);
    assert!(matches!(status(later).await, Err(Error::Draining { .. })));
    let mut served = 0;
    for call in calls {
        match status(call).await {
            Ok(200) => served += 1,
            // It was foreseen for the last moment, and then the late one came before it.
            Err(Error::Draining { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!((12..=16).contains(&served), "{served}");
    assert!(start.elapsed() < SECOND * 20, "{:?}", start.elapsed());
    assert!(rig.is_at_rest());
}

#[tokio::test(start_paused = true)]
async fn a_drain_refuses_at_once_what_a_pause_outlasts_and_serves_what_it_does_not() {
    for (pause, served) in [(SECOND * 15, true), (SECOND * 30, false)] {
        let rig = Rig::new(8, plenty());
        rig.serves("a").await;
        rig.pause(pause);
        let waiting = rig.call("a", MINUTE);
        rig.settle().await;
        let start = Instant::now();
        rig.drain.begin(SECOND * 25);
        let result = status(waiting).await;
        if served {
            assert_eq!(result.unwrap(), 200);
        } else {
            assert!(matches!(result, Err(Error::Draining { .. })), "{result:?}");
            assert!(start.elapsed().is_zero(), "at once");
        }
        assert!(rig.is_at_rest());
    }
    // Whose answers are awaited cannot be foreseen. It ends in time to be told so.
    let rig = Rig::new(8, plenty());
    rig.pause(SECOND * 5);
    let upload = rig.send(upload("a", MINUTE));
    rig.settle().await;
    let start = Instant::now();
    rig.drain.begin(SECOND * 4);
    assert!(matches!(status(upload).await, Err(Error::Draining { .. })));
    assert!(start.elapsed() < SECOND * 4);
}

#[tokio::test(start_paused = true)]
async fn batch_that_has_aged_is_served_beside_units_that_are_first_come() {
    let rig = Rig::new(100, Upstream::new(1000, MINUTE * 5));
    // Much more than is due by now, and nothing else happens.
    rig.spend(300).await;
    let calls: Vec<_> = (0..3).map(|_| rig.call("batch", MINUTE)).collect();
    rig.settle().await;
    for turn in 1..=3 {
        let batch = || rig.upstream.turns().get("batch").copied();
        assert_eq!(batch().unwrap_or(0), turn - 1);
        sleep(SECOND * 10 + Duration::from_millis(100)).await;
        assert_eq!(batch(), Some(turn));
    }
    all_served(calls).await;
    assert!(rig.is_at_rest());
}

/// The dispatcher runs where the first request that waited does, and that worker may end first.
#[test]
fn those_that_wait_elsewhere_are_served_when_the_dispatchers_runtime_ends() {
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().expect("a runtime")
    };
    let (first, second) = (runtime(), runtime());
    let rig = first.block_on(async {
        let rig = Rig::new(8, plenty());
        rig.pause_only(Duration::from_millis(200));
        rig
    });
    let mut elsewhere = None;
    first.block_on(async {
        elsewhere = Some(rig.call("a", MINUTE));
        rig.settle().await;
    });
    second.block_on(async {
        let waiting = rig.call("b", MINUTE);
        rig.settle().await;
        assert_eq!(rig.waiting(), 2);
        first.shutdown_background();
        assert_eq!(status(waiting).await.unwrap(), 200);
    });
    drop(elsewhere);
    assert!(rig.is_at_rest());
}

#[tokio::test(start_paused = true)]
async fn a_burst_at_a_start_is_held_until_one_answer_has_told_the_window() {
    // Others have used up most of the window.
    let rig = Rig::new(10_000, Upstream::new(1000, MINUTE * 5));
    *rig.upstream.window.lock().unwrap() = (Some(Instant::now() + MINUTE), 900);
    let calls: Vec<_> = (0..1000).map(|_| rig.call("a", SECOND * 30)).collect();
    let start = Instant::now();
    let mut served = 0;
    for call in calls {
        match status(call).await {
            Ok(200) => served += 1,
            Err(Error::QuotaExhausted { retry_after }) => {
                assert!(
                    retry_after > SECOND * 30 - start.elapsed(),
                    "{retry_after:?}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(
        (45..55).contains(&served),
        "{served} of the 50 that are due in 30 s"
    );
}

/// The calls that were served, and of those refused after how long each was, and what time it was told.
async fn outcomes(
    calls: Vec<JoinHandle<Result<Response<Body>, Error>>>,
) -> (usize, Vec<(Duration, Duration)>) {
    let start = Instant::now();
    // Each in a task of its own, so that the order in which they are awaited does not matter.
    let timed = calls.into_iter().map(|call| {
        tokio::spawn(async move {
            let result = status(call).await;
            (start.elapsed(), result)
        })
    });
    let (mut served, mut refused) = (0, Vec::new());
    for call in timed.collect::<Vec<_>>() {
        match call.await.expect("no panic") {
            (_, Ok(200)) => served += 1,
            (after, Err(Error::QuotaExhausted { retry_after })) => {
                refused.push((after, retry_after));
            }
            other => panic!("{other:?}"),
        }
    }
    (served, refused)
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_for_the_first_answer_are_judged_by_their_places_when_it_has_come() {
    // In three windows there is time for 300.
    for callers in [
        &["batch"] as &[&str],
        &["a"],
        &["a", "batch"],
        &["a", "b", "c", "d"],
    ] {
        let rig = Rig::new(1024, Upstream::new(100, SECOND * 20));
        let calls = (0..330).map(|n| rig.call(callers[n % callers.len()], MINUTE));
        let (served, refused) = outcomes(calls.collect()).await;
        assert_eq!(served, 300, "{callers:?}");
        for (after, retry_after) in refused {
            assert!(after < SECOND, "{callers:?}: refused after {after:?}");
            assert!(
                after + retry_after > MINUTE && retry_after < SECOND * 90,
                "{callers:?}: {retry_after:?}"
            );
        }
        assert!(rig.is_at_rest());
    }
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_are_judged_again_when_less_is_left_than_was_assumed() {
    // What happens while 90 calls wait for one answer, which then tells of ten units only.
    for (what, caller) in [
        ("smaller", "a"),
        ("smaller", "batch"),
        ("resume", "a"),
        ("resume", "batch"),
    ] {
        let rig = Rig::new(1024, Upstream::new(100, SECOND * 20));
        rig.spend(1).await;
        let others = |rig: &Rig, used| {
            let end = Instant::now() + MINUTE * 2;
            *rig.upstream.window.lock().unwrap() = (Some(end), used);
        };
        match what {
            // The next window is assumed to be like this one. Others have used most of it, and it is longer.
            "smaller" => sleep(SECOND * 22).await,
            _ => rig.group().resume(),
        }
        others(&rig, 89);
        let calls = (0..90).map(|_| rig.call(caller, SECOND * 90));
        let (served, refused) = outcomes(calls.collect()).await;
        // Half of what is left is kept for the others.
        assert!((4..=10).contains(&served), "{what} {caller}: {served}");
        for (after, retry_after) in refused {
            assert!(after < SECOND, "{what} {caller}: refused after {after:?}");
            assert!(
                after + retry_after > SECOND * 90 && retry_after < MINUTE * 5,
                "{what} {caller}: {retry_after:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_are_judged_again_when_others_use_up_the_window() {
    for caller in ["a", "batch"] {
        let rig = Rig::new(1024, Upstream::new(100, MINUTE * 2));
        rig.spend(51).await;
        // 49 units for two minutes: there is time for all of these.
        let calls: Vec<_> = (0..20).map(|_| rig.call(caller, SECOND * 100)).collect();
        rig.settle().await;
        assert_eq!(
            rig.waiting() + rig.view().in_flight as usize,
            20,
            "{caller}"
        );
        rig.upstream.window.lock().unwrap().1 = 90;
        let (served, refused) = outcomes(calls).await;
        assert!((4..=11).contains(&served), "{caller}: {served}");
        // The first answer after that tells.
        let told = refused[0].0;
        assert!(told < SECOND * 70, "{caller}: {told:?}");
        let late = refused
            .iter()
            .filter(|(after, _)| *after > told + SECOND)
            .count();
        assert!(late <= 2, "{caller}: {refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_no_quota_waits_a_moment_for_the_first_answer() {
    // Plenty is left, or next to nothing.
    for (used, served) in [(0, 200), (996, 2)] {
        let rig = Rig::new(10_000, Upstream::new(1000, MINUTE * 5));
        *rig.upstream.window.lock().unwrap() = (Some(Instant::now() + MINUTE), used);
        let calls: Vec<_> = (0..200).map(|_| rig.call("a", Duration::ZERO)).collect();
        let start = Instant::now();
        let (mut went, mut times) = (0, Vec::new());
        for call in calls {
            match status(call).await {
                Ok(200) => went += 1,
                Err(Error::QuotaExhausted { retry_after }) => times.push(retry_after),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(went, served);
        assert!(
            start.elapsed() <= rig.upstream.latency * 2,
            "{:?}",
            start.elapsed()
        );
        // Two more units are due in this window, and the rest waits for the next.
        let next = |time: &Duration| *time > SECOND * 58;
        assert_eq!(
            times.len() - times.iter().filter(|time| next(time)).count(),
            times.len().min(1)
        );
    }
    // An answer that does not come in this moment is not awaited.
    let rig = Rig::new(10_000, plenty());
    let start = Instant::now();
    let hangs = service_fn(|_: Request<Body>| std::future::pending());
    let _first =
        tokio::spawn(Quota::new(hangs, rig.params.clone()).oneshot(request("a", 1, MINUTE)));
    rig.settle().await;
    let calls: Vec<_> = (0..3).map(|_| rig.call("a", Duration::ZERO)).collect();
    all_served(calls).await;
    assert!(start.elapsed() < SECOND * 2, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn where_devrev_reports_no_window_a_start_costs_one_round_trip() {
    let rig = Rig::new(10_000, plenty());
    let sent = Arc::new(Mutex::new(Vec::new()));
    let seen = sent.clone();
    let plain = service_fn(move |_: Request<Body>| {
        seen.lock().unwrap().push(Instant::now());
        async {
            sleep(Duration::from_millis(50)).await;
            Ok(Response::new(Body::empty()))
        }
    });
    let start = Instant::now();
    let calls = (0..1000).map(|_| {
        let quota = Quota::new(plain.clone(), rig.params.clone());
        tokio::spawn(quota.oneshot(request("a", 1, MINUTE)))
    });
    all_served(calls.collect()).await;
    let sent = sent.lock().unwrap();
    let at_once = sent
        .iter()
        .filter(|at| **at - start < Duration::from_millis(5));
    assert_eq!((at_once.count(), sent.len()), (1, 1000));
    assert!(start.elapsed() < SECOND / 5, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_backlog_of_batch_leaves_the_first_come_part_to_interactive_callers() {
    let rig = Rig::new(1000, Upstream::new(100, MINUTE));
    rig.spend(1).await;
    // They have waited for the window's opening longer than batch ages.
    rig.pause_only(MINUTE + SECOND);
    let mut batch: Vec<_> = (0..90).map(|_| rig.call("batch", MINUTE * 10)).collect();
    sleep(MINUTE + SECOND * 2).await;
    // It has begun, and batch is dealt evenly from its beginning.
    rig.settle().await;
    let went = rig.upstream.turns()["batch"];
    assert!(went <= 8, "{went}");
    for _ in 0..40 {
        let start = Instant::now();
        rig.serves("a").await;
        assert_eq!(start.elapsed(), rig.upstream.latency, "at once");
    }
    // It waits for the even line then, and gets what nobody else wants before the window ends.
    let more = rig.upstream.turns()["batch"];
    assert!(more <= 12, "{more}");
    sleep(SECOND * 57).await;
    let all = rig.upstream.turns();
    assert!((98..=101).contains(&(all["a"] + all["batch"])), "{all:?}");
    batch.iter().for_each(JoinHandle::abort);
    batch.clear();
}

#[tokio::test(start_paused = true)]
async fn a_retried_request_keeps_its_age() {
    let rig = Rig::new(8, plenty());
    rig.pause(SECOND * 30);
    let old = ArrivedAt(Instant::now());
    sleep(SECOND).await;
    let newer = rig.call("a", MINUTE);
    rig.settle().await;
    let mut again = request("a", 1, MINUTE);
    again.extensions_mut().insert(old);
    let again = rig.send(again);
    let order = Mutex::new(Vec::new());
    tokio::join!(
        async {
            status(newer).await.unwrap();
            order.lock().unwrap().push("newer");
        },
        async {
            status(again).await.unwrap();
            order.lock().unwrap().push("again");
        },
    );
    assert_eq!(*order.lock().unwrap(), ["again", "newer"]);
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_window_is_shared_by_weight_and_without_a_429() {
    let rig = Rig::new(1000, Upstream::new(100, MINUTE));
    // Half of the window is first come, first served.
    rig.spend(51).await;
    rig.upstream.seen.lock().unwrap().clear();
    let mut calls = Vec::new();
    for (caller, weight) in [("a", 1), ("b", 3)] {
        for _ in 0..100 {
            calls.push(rig.send(request(caller, weight, MINUTE * 10)));
        }
    }
    sleep(SECOND * 56).await;
    let turns = rig.upstream.turns();
    let (a, b) = (turns["a"], turns["b"]);
    assert!((44..=49).contains(&(a + b)), "{turns:?}");
    assert!((b as f64 / a as f64 - 3.0).abs() < 0.4, "{turns:?}");
    let late = Instant::now();
    status(rig.send(request("late", 1, MINUTE))).await.unwrap();
    assert!(late.elapsed() < SECOND * 2, "{:?}", late.elapsed());
    all_served(calls).await;
    assert!(rig.is_at_rest());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_becomes_shorter_wakes_the_dispatcher() {
    let rig = Rig::new(100, Upstream::new(100, MINUTE));
    rig.spend(51).await;
    rig.pause_only(SECOND * 50);
    let calls: Vec<_> = (0..10).map(|_| rig.call("a", MINUTE * 2)).collect();
    rig.settle().await;
    // The dispatcher sleeps until the end of the pause. Without the pause some 49 units are due within a minute, and no new
    // request wakes it.
    let start = Instant::now();
    rig.group().resume();
    all_served(calls).await;
    assert!(start.elapsed() < SECOND * 20, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn relaxed_rules_release_the_requests_that_wait() {
    for reserve in [0.0, 0.25] {
        let rig = Rig::new(100, Upstream::new(100, MINUTE));
        rig.spend(60).await;
        let calls: Vec<_> = (0..10).map(|_| rig.call("a", MINUTE * 2)).collect();
        rig.settle().await;
        // Half of the window goes first come, first served, so these are spread.
        assert!(rig.waiting() >= 9, "{}", rig.waiting());
        let start = Instant::now();
        rig.plan(LedgerRules {
            spread_above: 1.0,
            reserve,
            ..rig.params.rules.ledger
        });
        rig.serves("b").await;
        all_served(calls).await;
        assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
        assert!(rig.is_at_rest());
    }
}

#[tokio::test(start_paused = true)]
async fn stricter_rules_hold_no_request_that_waits() {
    let rig = Rig::new(100, Upstream::new(100, MINUTE));
    rig.spend(60).await;
    let calls: Vec<_> = (0..10).map(|_| rig.call("a", MINUTE / 2)).collect();
    rig.settle().await;
    let start = Instant::now();
    rig.plan(LedgerRules {
        reserve: 1.0,
        ..rig.params.rules.ledger
    });
    all_served(calls).await;
    assert!(start.elapsed() < MINUTE / 2, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_dispatcher_ends_with_the_last_wait() {
    let rig = Rig::new(8, plenty());
    let metrics = tokio::runtime::Handle::current().metrics();
    let tasks = metrics.num_alive_tasks();
    rig.pause(SECOND * 30);
    let waiting = rig.call("a", MINUTE);
    rig.settle().await;
    waiting.abort();
    assert!(waiting.await.is_err());
    rig.settle().await;
    assert_eq!(metrics.num_alive_tasks(), tasks);
}

#[tokio::test(start_paused = true)]
async fn no_newcomer_jumps_the_queue() {
    // Timers of the same instant fire in an unspecified order, so the newcomer's is set before the dispatcher's and after it.
    for before in [true, false] {
        let rig = Rig::new(8, plenty());
        let end = Instant::now() + SECOND * 30;
        rig.pause(SECOND * 30);
        let newcomer = || {
            let call = rig.attempt(request("new", 1, MINUTE * 2));
            tokio::spawn(async move {
                tokio::time::sleep_until(end).await;
                call.await
            })
        };
        let early = before.then(newcomer);
        rig.settle().await;
        let waiting = rig.call("old", MINUTE);
        rig.settle().await;
        let late = (!before).then(newcomer);
        status(waiting).await.unwrap();
        let first = rig.upstream.seen.lock().unwrap()[0].1.clone();
        assert_eq!(&*first, "old", "{before}");
        for call in early.into_iter().chain(late) {
            status(call).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_429_counts_and_pauses_the_group_before_its_body_arrives() {
    let rig = Rig::new(8, plenty());
    let refusal = service_fn(|_: Request<Body>| async {
        let (near, mut far) = tokio::io::duplex(1024);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(near))
                .await
                .unwrap();
        tokio::spawn(connection);
        tokio::spawn(async move {
            let head = b"HTTP/1.1 429 \r\nretry-after: 30\r\ncontent-length: 9\r\n\r\n";
            far.write_all(head).await.unwrap();
            sleep(MINUTE * 2).await;
        });
        let request = Request::new(http_body_util::Empty::<bytes::Bytes>::new());
        let response = sender.send_request(request).await.unwrap();
        let rules = ProgressRules {
            stall: MINUTE * 3,
            min_rate: None,
        };
        Ok(response.map(|body| Body::answer(body, rules)))
    });
    let refused = Quota::new(refusal, rig.params.clone()).oneshot(request("a", 1, MINUTE));
    let refused = tokio::spawn(refused);
    rig.settle().await;
    assert!(!refused.is_finished());
    let metrics = rig.groups.samples();
    assert_eq!((rig.view().throttled, metrics[0].throttled), (1, 1));
    let traffic = rig.params.tally.traffic(0, wall_clock::epoch_seconds());
    let points = traffic["points"].as_array().unwrap().iter();
    let counted = points.map(|point| point["throttled"].as_u64().unwrap());
    assert_eq!(counted.sum::<u64>(), 1);
    let start = Instant::now();
    rig.serves("a").await;
    assert!(start.elapsed() >= SECOND * 30, "{:?}", start.elapsed());
    assert_eq!(status(refused).await.unwrap(), 429);
    assert_eq!(rig.view().throttled, 1);
}

#[tokio::test(start_paused = true)]
async fn only_attempts_that_may_have_been_sent_are_in_doubt() {
    for (unreachable, state) in [(true, Status::Open), (false, Status::Spread)] {
        let rig = Rig::new(8, Upstream::new(20, MINUTE * 5));
        rig.spend(1).await;
        for _ in 0..10 {
            let fails = service_fn(move |_: Request<Body>| async move {
                sleep(Duration::from_millis(1)).await;
                Err::<Response<Body>, _>(if unreachable {
                    Error::unreachable("refused")
                } else {
                    Error::broken("reset")
                })
            });
            let call = Quota::new(fails, rig.params.clone()).oneshot(request("a", 1, SECOND));
            assert!(call.await.is_err());
        }
        assert_eq!(rig.view().state, state);
    }
    // An attempt whose client disconnected while it was in flight may have been counted too.
    let rig = Rig::new(8, Upstream::new(20, MINUTE * 5));
    rig.spend(1).await;
    for _ in 0..10 {
        let call = rig.call("a", MINUTE);
        rig.settle().await;
        call.abort();
        let _ = call.await;
    }
    assert_eq!(rig.view().state, Status::Spread);
}

#[derive(Clone, Debug)]
enum Step {
    Call {
        who: usize,
        operation: usize,
        max_wait: u64,
    },
    Upload {
        who: usize,
        max_wait: u64,
    },
    Leave(usize),
    Refuse(u64),
    /// One of two operations answers 503.
    Unavailable(usize, u64),
    Resume,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0usize..4, 0usize..3, 0u64..120).prop_map(|(who, operation, max_wait)| Step::Call { who, operation, max_wait }),
        1 => (0usize..4, 0u64..120).prop_map(|(who, max_wait)| Step::Upload { who, max_wait }),
        1 => (0usize..2, 1u64..60).prop_map(|(operation, time)| Step::Unavailable(operation, time)),
        3 => any::<usize>().prop_map(Step::Leave),
        1 => (1u64..60).prop_map(Step::Refuse),
        1 => Just(Step::Resume),
        4 => (0u64..20_000).prop_map(Step::Wait),
    ]
}

async fn play(limit: u64, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let rig = Rig::new(16, Upstream::new(limit, MINUTE));
    let operations = ["works.list", "works.get", "accounts.get"];
    let callers = [("a", 1), ("b", 1), ("c", 2), ("batch", 1)];
    let (mut calls, mut uploads) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Call {
                who,
                operation,
                max_wait,
            } => {
                let (caller, weight) = callers[who];
                let max_wait = Duration::from_secs(max_wait);
                let mut request = request(caller, weight, max_wait);
                let operation = Operation::from_path(operations[operation]);
                request.extensions_mut().insert(operation);
                let call = rig.attempt(request);
                let start = Instant::now();
                calls.push(tokio::spawn(async move {
                    let result = call.await.map(|response| response.status());
                    // Never past the maximum wait, apart from the moment for the first answer, and the latency of its own.
                    (result, start.elapsed() > max_wait + SECOND * 2)
                }));
            }
            Step::Upload { who, max_wait } => {
                let max_wait = Duration::from_secs(max_wait);
                uploads.push(rig.send(upload(callers[who].0, max_wait)));
            }
            Step::Unavailable(n, seconds) => {
                let until = Instant::now() + Duration::from_secs(seconds);
                rig.upstream.answers_503(operations[n], until);
            }
            Step::Leave(n) if !calls.is_empty() => {
                calls.swap_remove(n % calls.len()).abort();
            }
            Step::Leave(_) => {}
            Step::Refuse(seconds) => {
                *rig.upstream.refuses_until.lock().unwrap() =
                    Some(Instant::now() + Duration::from_secs(seconds));
            }
            Step::Resume => rig.group().resume(),
            Step::Wait(milliseconds) => sleep(Duration::from_millis(milliseconds)).await,
        }
    }
    for call in calls {
        let (result, late) = call.await.expect("no panic");
        prop_assert!(!late, "{result:?}");
        if let Err(error) = result {
            let known = matches!(
                error,
                Error::QuotaExhausted { .. } | Error::WaitingRoomFull { .. }
            );
            prop_assert!(known, "{error:?}");
        }
    }
    // Those that still wait leave, and those in flight end.
    for upload in uploads {
        upload.abort();
        let _ = upload.await;
    }
    sleep(SECOND).await;
    prop_assert!(
        rig.is_at_rest(),
        "{:?}",
        rig.group().view(&rig.params.rules)
    );
    // A request that can wait long enough is served now.
    *rig.upstream.refuses_until.lock().unwrap() = None;
    let last = status(rig.call("a", MINUTE * 20)).await;
    prop_assert!(last.is_ok(), "{last:?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_wait_ends_and_nothing_is_left_behind(
        limit in prop_oneof![1u64..4, Just(20u64), Just(1000)],
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(limit, steps))?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_is_not_in_flight() {
    use crate::{
        allocation::Pool,
        layer::{Places, admission},
    };
    let rig = Rig::new(1024, plenty());
    let in_flight = Pool::new();
    let places = Places {
        pool: in_flight.clone(),
        max: 16,
        heads: Pool::new(),
    };
    rig.pause(SECOND * 30);
    let send = |who: &str| {
        let upstream = rig.upstream.clone();
        let service = service_fn(move |request| upstream.clone().answer(request));
        let quota = Quota::new(service, rig.params.clone());
        let stack = admission::Admission::new(quota, places.clone(), true);
        tokio::spawn(stack.oneshot(request(who, 1, MINUTE)))
    };
    let greedy: Vec<_> = (0..200).map(|_| send("greedy")).collect();
    rig.settle().await;
    assert_eq!(in_flight.used(), 0);
    assert_eq!(status(send("modest")).await.unwrap(), 200);
    all_served(greedy).await;
    assert_eq!(in_flight.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_wait_of_a_retried_request_is_predicted_from_its_position() {
    let rig = Rig::new(10_000, Upstream::new(100, MINUTE));
    let mut again = request("a", 1, SECOND * 30);
    rig.spend(51).await;
    let _others: Vec<_> = (0..40).map(|_| rig.call("a", MINUTE * 10)).collect();
    rig.settle().await;
    again
        .extensions_mut()
        .insert(Deadline(Instant::now() + SECOND * 5));
    assert_eq!(status(rig.send(again)).await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_full_waiting_room_evicts_batch_for_interactive() {
    let rig = Rig::new(1, plenty());
    rig.pause(SECOND * 30);
    let batch = rig.call("batch", MINUTE);
    rig.settle().await;
    let interactive = rig.call("a", MINUTE);
    is_evicted(batch).await;
    rig.settle().await;
    is_evicted(rig.call("batch", MINUTE)).await;
    assert_eq!(status(interactive).await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_missing_token_costs_no_quota() {
    let rig = Rig::new(100, Upstream::new(20, MINUTE * 5));
    rig.spend(1).await;
    for _ in 0..40 {
        let broken = service_fn(|_: Request<Body>| async {
            Err::<Response<Body>, _>(Error::TokenUnavailable {
                retry_after: SECOND,
            })
        });
        let result = Quota::new(broken, rig.params.clone()).oneshot(request("a", 1, SECOND));
        assert!(matches!(result.await, Err(Error::TokenUnavailable { .. })));
    }
    let (one, two) = (rig.call("a", SECOND), rig.call("a", SECOND));
    assert_eq!(status(one).await.unwrap(), 200);
    assert_eq!(status(two).await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn requests_that_a_pause_makes_unservable_are_refused_at_once() {
    let rig = Rig::new(1000, Upstream::new(20, MINUTE));
    rig.spend(1).await;
    rig.upstream.window.lock().unwrap().1 = 20;
    assert_eq!(status(rig.call("x", SECOND * 5)).await.unwrap(), 429);
    sleep(SECOND * 40).await;
    let calls: Vec<_> = (0..200).map(|_| rig.call("a", SECOND * 30)).collect();
    rig.settle().await;
    let at_once = calls.iter().filter(|call| call.is_finished()).count();
    assert!(at_once > 180, "{at_once}");
}

#[tokio::test(start_paused = true)]
async fn batch_is_served_beside_interactive_callers_that_never_stop() {
    let rig = Rig::new(10_000, Upstream::new(500, MINUTE * 5));
    rig.spend(251).await;
    let mut busy = Vec::new();
    for _ in 0..5 {
        while rig.waiting() < 60 {
            busy.push(rig.call("a", MINUTE * 10));
            rig.settle().await;
        }
        assert_eq!(status(rig.call("batch", SECOND * 30)).await.unwrap(), 200);
    }
}

/// An answer with this status and these fields.
fn answer(status: u16, fields: &[(&'static str, &'static str)]) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in fields {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_a_token_teaches_no_group_anything_and_waits_for_none() {
    const SPENT: [(&str, &str); 3] = [
        ("x-ratelimit-limit", "20"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "4000000000"),
    ];
    let callback = |max_wait| call_of("/keyrings.authorize", "a", max_wait);
    for (status, fields, retry_after) in [
        (200, &SPENT[..], None),
        (429, &[("retry-after", "300")][..], Some(300)),
        (429, &[][..], None),
        (503, &[("retry-after", "20")][..], Some(20)),
    ] {
        let rig = Rig::new(8, plenty());
        let upstream = service_fn(move |_| std::future::ready(Ok(answer(status, fields))));
        for _ in 0..30 {
            let quota = Quota::new(upstream, rig.params.clone());
            let response = quota.oneshot(callback(MINUTE)).await.unwrap();
            assert_eq!(response.status(), status);
            let named = response.extensions().get().map(|RetryAfter(time)| *time);
            assert_eq!(named.map(|time| time.as_secs()), retry_after);
        }
        assert_eq!(rig.groups.view()["main"]["throttled"], 0);
        assert_eq!(
            rig.view(),
            Rig::new(8, plenty()).view(),
            "nothing is learnt"
        );
        let start = Instant::now();
        rig.serves("b").await;
        assert!(start.elapsed() < SECOND, "{status}: {:?}", start.elapsed());
    }
    // Nor does it wait for a group that is paused or spent.
    let rig = Rig::new(8, Upstream::new(1, MINUTE * 5));
    rig.spend(1).await;
    rig.pause(SECOND * 30);
    let upstream = service_fn(|_| std::future::ready(Ok(answer(200, &[]))));
    let quota = Quota::new(upstream, rig.params.clone());
    let response = quota.oneshot(callback(Duration::ZERO)).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn while_an_operation_is_paused_the_others_go_at_once() {
    let rig = Rig::new(1000, plenty());
    let start = Instant::now();
    rig.pause_operation("works.get", SECOND * 20).await;
    let held: Vec<_> = (0..200)
        .map(|_| rig.send(call_of("works.get", "a", MINUTE)))
        .collect();
    rig.settle().await;
    assert_eq!(rig.waiting(), 200);
    let latency = rig.upstream.latency;
    for _ in 0..50 {
        let sent = Instant::now();
        rig.serves("b").await;
        assert_eq!(sent.elapsed(), latency);
        let own = rig.attempt(call_of("accounts.get", "a", Duration::ZERO));
        assert_eq!(own.await.unwrap().status(), 200);
    }
    let quota = &rig.groups.view()["main"];
    assert_eq!(quota["state"], "open");
    assert_eq!(quota["paused_until"], serde_json::Value::Null);
    assert_eq!(quota["paused_operation"]["operation"], "works.get");
    let seen = || rig.upstream.seen.lock().unwrap().len();
    // It runs from the answer.
    tokio::time::sleep_until(start + SECOND * 20 + latency - Duration::from_millis(1)).await;
    assert_eq!(seen(), 101, "none of the paused operation");
    // One probes, and the rest follow in a ramp.
    sleep(Duration::from_millis(2)).await;
    rig.settle().await;
    assert_eq!(seen(), 102);
    all_served(held).await;
    assert!(rig.is_at_rest());
}

#[tokio::test(start_paused = true)]
async fn a_second_operation_with_a_503_pauses_the_group() {
    let rig = Rig::new(8, plenty());
    let start = Instant::now();
    rig.pause_operation("works.get", SECOND * 5).await;
    rig.pause_operation("works.update", SECOND * 20).await;
    assert_eq!(rig.view().state, Status::Paused);
    rig.serves("b").await;
    assert!(start.elapsed() >= SECOND * 20, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_outlast_its_operations_pause_is_refused_at_once() {
    let rig = Rig::new(8, plenty());
    rig.pause_operation("works.get", SECOND * 30).await;
    let start = Instant::now();
    let refused = |result| match result {
        Err(Error::QuotaExhausted { retry_after }) => feedback::whole_seconds(retry_after),
        other => panic!("{other:?}"),
    };
    let late = status(rig.send(call_of("works.get", "a", SECOND * 10))).await;
    assert_eq!(refused(late), 30);
    // Also when the pause grows while it waits. Requests of other operations stay.
    let rig = Rig::new(8, plenty());
    rig.pause_operation("works.get", SECOND * 30).await;
    let waiting = rig.send(call_of("works.get", "a", MINUTE));
    rig.settle().await;
    let operation = Operation::from_path("works.get").id();
    rig.group().refused(operation, false, SECOND * 300);
    assert_eq!(refused(status(waiting).await), 300);
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    rig.serves("b").await;
}

#[tokio::test(start_paused = true)]
async fn a_room_full_of_requests_for_a_paused_operation_refuses_no_other() {
    let rig = Rig::new(10, plenty());
    rig.pause_operation("works.get", SECOND * 20).await;
    let held: Vec<_> = (0..10)
        .map(|_| rig.send(call_of("works.get", "a", MINUTE)))
        .collect();
    rig.settle().await;
    rig.serves("a").await;
    rig.serves("b").await;
    all_served(held).await;
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_paused_operation_delay_no_turn() {
    let rig = Rig::new(1000, Upstream::new(100, MINUTE));
    rig.spend(51).await;
    rig.pause_operation("works.get", SECOND * 20).await;
    let held: Vec<_> = (0..100)
        .map(|_| rig.send(call_of("works.get", "a", SECOND * 50)))
        .collect();
    rig.settle().await;
    // The units of the spread are about a second apart, and go to those who may take them.
    let calls: Vec<_> = (0..10).map(|_| rig.call("b", SECOND * 18)).collect();
    let own: Vec<_> = (0..2).map(|_| rig.call("a", SECOND * 18)).collect();
    all_served(calls).await;
    all_served(own).await;
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn uploads_that_never_end_do_not_hold_the_others_after_a_pause() {
    let rig = Rig::new(1000, plenty());
    rig.pause_only(SECOND * 10);
    let uploads: Vec<_> = (0..20).map(|_| rig.send(upload("a", MINUTE))).collect();
    rig.settle().await;
    let others: Vec<_> = (0..20).map(|_| rig.call("b", MINUTE)).collect();
    let start = Instant::now();
    all_served(others).await;
    assert!(start.elapsed() < SECOND * 11, "{:?}", start.elapsed());
    for upload in uploads {
        assert!(!upload.is_finished());
        upload.abort();
        let _ = upload.await;
    }
    assert!(rig.is_at_rest());
}
