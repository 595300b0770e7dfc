use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
};

use futures_util::future::join_all;
use http::HeaderValue;
use secrecy::SecretString;
use tokio::time::{Instant, advance};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

use super::*;
use crate::{
    plan::TokenValue,
    policy::{
        operation::TOKEN_INFO,
        token_health::{CONFIRMATION_TIME, FIRST_PAUSE},
    },
    state::{
        Clock,
        draining::{Drain, Draining},
        tokens::{REPLACED, Tokens},
    },
    telemetry::{captured::Captured, metrics::Metrics},
    types::{Deadline, RequestId},
};

/// What upstream answers to calls of this kind; it answers 200 to all others.
#[derive(Clone, Copy, Debug)]
enum Says {
    Status(u16),
    Nothing,
}

/// A credential, and the operation if it is about one alone.
type Kind = (String, Option<&'static str>);

/// The gate and the credential layer with nothing between them, above an upstream that answers by credential and operation.
struct Rig {
    tokens: Arc<Tokens>,
    metrics: Arc<Metrics>,
    says: Arc<Mutex<HashMap<Kind, Says>>>,
    sent: Arc<Mutex<Vec<String>>>,
    drain: Drain,
    draining: Draining,
}

impl Rig {
    fn new() -> Rig {
        let (drain, draining) = Draining::new();
        let metrics = Arc::new(Metrics::new());
        let values = values(&[("a", "one"), ("b", "two")]);
        Rig {
            tokens: Arc::new(Tokens::new(
                &values,
                Clock::start(),
                metrics.clone(),
                Arc::default(),
            )),
            metrics,
            says: Arc::default(),
            sent: Arc::default(),
            drain,
            draining,
        }
    }

    /// What a reload does.
    fn reconcile(&self, values: &[(&str, &str)]) {
        self.tokens.reconcile(&self::values(values));
    }

    fn says(&self, value: &str, status: u16) {
        self.says_to(value, None, Says::Status(status));
    }

    fn says_to(&self, value: &str, operation: Option<&'static str>, says: Says) {
        let kind = (format!("Bearer {value}"), operation);
        self.says.lock().unwrap().insert(kind, says);
    }

    /// `between` is how long an attempt waits between the two layers, as it does in the queue of the quota.
    fn send(
        &self,
        request: Request<Body>,
        between: Duration,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send + use<> {
        let (says, sent) = (self.says.clone(), self.sent.clone());
        let devrev = service_fn(move |request: Request<Body>| {
            let extensions = request.extensions();
            let operation = extensions.get::<Operation>().expect("named");
            let operation = operation.label().label();
            let credential = request.headers().get(AUTHORIZATION);
            let credential = credential.map_or("", |value| value.to_str().unwrap());
            if operation == TOKEN_INFO.trim_start_matches('/') {
                assert!(extensions.get::<RequestId>().is_some());
                assert_eq!(http_body::Body::size_hint(request.body()).exact(), Some(0));
            }
            sent.lock().unwrap().push(operation.to_owned());
            let (says, credential) = (says.clone(), credential.to_owned());
            async move {
                let said = {
                    let says = says.lock().unwrap();
                    let of_one = says.get(&(credential.clone(), Some(operation)));
                    let said = of_one.or_else(|| says.get(&(credential, None)));
                    said.copied().unwrap_or(Says::Status(200))
                };
                tokio::time::sleep(Duration::from_millis(10)).await;
                let Says::Status(status) = said else {
                    return std::future::pending().await;
                };
                let mut response = Response::new(Body::full("DevRev's own".into()));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok(response)
            }
        });
        let devrev = BoxCloneSyncService::<_, _, Error>::new(devrev);
        let credential = Credential::new(devrev, self.tokens.of_plan());
        let waits = service_fn(move |request: Request<Body>| {
            let credential = credential.clone();
            async move {
                tokio::time::sleep(between).await;
                credential.oneshot(request).await
            }
        });
        let (tokens, draining) = (self.tokens.of_plan(), self.draining.clone());
        token_gate::TokenGate::new(waits, tokens, draining).oneshot(request)
    }

    async fn call(&self, token: &str) -> Result<u16, Error> {
        self.call_of(token, "/works.list").await
    }

    async fn call_of(&self, token: &str, operation: &str) -> Result<u16, Error> {
        let request = request(Some(token), operation);
        let response = self.send(request, Duration::ZERO).await?;
        Ok(response.status().as_u16())
    }

    /// Whether the metric has this value for the token "a".
    fn metric_says(&self, value: u8) -> bool {
        let line = format!("revgate_token_refused{{token=\"a\"}} {value}\n");
        self.metrics.encode().contains(&line)
    }

    /// How many confirmations had this result.
    fn confirmations(&self, result: &str) -> u64 {
        let start = format!("revgate_token_confirmations_total{{result=\"{result}\"}} ");
        let text = self.metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0, |count| count.parse().unwrap())
    }

    /// How many calls were sent since the last time: of callers, and confirmations.
    fn take_sent(&self) -> (usize, usize) {
        let sent = std::mem::take(&mut *self.sent.lock().unwrap());
        let own = |operation: &&String| TOKEN_INFO.ends_with(operation.as_str());
        let own = sent.iter().filter(own).count();
        (sent.len() - own, own)
    }
}

fn request(token: Option<&str>, operation: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    let extensions = request.extensions_mut();
    extensions.insert(Operation::from_path(operation));
    extensions.insert(Deadline(Instant::now() + seconds(30)));
    extensions.insert(Arc::new(Caller {
        token: token.map(Arc::from),
        ..Caller::named("x")
    }));
    request
}

fn values(values: &[(&str, &str)]) -> BTreeMap<Arc<str>, TokenValue> {
    let values = values.iter().map(|(name, value)| {
        let value = TokenValue::new(&SecretString::from(*value)).unwrap();
        (Arc::from(*name), value)
    });
    values.collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Refused without being sent, with about this `Retry-After`.
fn held(result: &Result<u16, Error>, want: u64) {
    match result {
        Err(Error::TokenUnavailable { retry_after }) => {
            let most = seconds(want);
            let fits = *retry_after <= most && *retry_after + seconds(1) > most;
            assert!(fits, "{retry_after:?} and not {want} s");
        }
        other => panic!("{other:?}"),
    }
}

/// Refused because of DevRev's answer to this very attempt.
fn refused(result: &Result<u16, Error>) {
    assert!(
        matches!(result, Err(Error::TokenRefused { .. })),
        "{result:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_not_sent_until_a_probe_succeeds() {
    let rig = Rig::new();
    rig.says("one", 401);
    let first = rig.call("a").await;
    assert!(
        matches!(first, Err(Error::TokenRefused { retry_after }) if retry_after == seconds(5)),
        "{first:?}"
    );
    assert_eq!(rig.take_sent(), (1, 1));
    for _ in 0..100 {
        held(&rig.call("a").await, 5);
    }
    assert_eq!(rig.take_sent(), (0, 0));
    assert_eq!(rig.call("b").await.unwrap(), 200, "another token");
    assert!(rig.metric_says(1));
    assert_eq!(rig.take_sent(), (1, 0));
    advance(seconds(5)).await;
    // One request starts the probe and waits for it. The others are refused with the time that it may take.
    let crowd = join_all((0..20).map(|_| rig.call("a"))).await;
    held(&crowd[0], 10);
    crowd[1..].iter().for_each(|other| held(other, 4));
    assert_eq!(rig.take_sent(), (0, 1), "no request of a caller's");
    rig.says("one", 200);
    held(&rig.call("a").await, 10);
    advance(seconds(10)).await;
    for _ in 0..3 {
        assert_eq!(rig.call("a").await.unwrap(), 200);
    }
    assert_eq!(rig.take_sent(), (3, 1));
    assert!(rig.metric_says(0));
    assert_eq!(
        (rig.confirmations("refused"), rig.confirmations("good")),
        (2, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_401_of_one_operation_is_its_callers_alone() {
    let rig = Rig::new();
    let says = Says::Status(401);
    rig.says_to("one", Some("works.get"), says);
    let attempts = (0..20).map(|_| rig.send(request(Some("a"), "/works.get"), Duration::ZERO));
    for answer in join_all(attempts).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 401);
        let body = http_body_util::BodyExt::collect(answer.into_body()).await;
        assert_eq!(body.unwrap().to_bytes(), "DevRev's own");
    }
    assert_eq!(rig.take_sent(), (20, 1), "one confirmation for all");
    for _ in 0..50 {
        assert_eq!(rig.call_of("a", "/works.get").await.unwrap(), 401);
        assert_eq!(rig.call("a").await.unwrap(), 200);
    }
    assert_eq!(rig.take_sent(), (100, 0));
    advance(FIRST_PAUSE).await;
    assert_eq!(rig.call_of("a", "/works.get").await.unwrap(), 401);
    assert_eq!(rig.take_sent(), (1, 1));
    // The token is revoked: the next operation that is not known for its 401 tells, and all are refused.
    rig.says("one", 401);
    advance(FIRST_PAUSE).await;
    refused(&rig.call("a").await);
    held(&rig.call_of("a", "/works.get").await, 5);
    assert_eq!(rig.take_sent(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_401_that_cannot_be_confirmed_is_passed_on_in_seconds() {
    for (says, waits) in [
        (Says::Nothing, CONFIRMATION_TIME),
        (Says::Status(429), Duration::ZERO),
        (Says::Status(500), Duration::ZERO),
    ] {
        let rig = Rig::new();
        rig.says("one", 401);
        rig.says_to("one", Some("auth-tokens.info"), says);
        let start = Instant::now();
        assert_eq!(rig.call("a").await.unwrap(), 401, "{says:?}");
        let slack = start.elapsed().saturating_sub(waits);
        assert!(slack < seconds(1), "{says:?}: {:?}", start.elapsed());
        assert_eq!(rig.confirmations("unknown"), 1);
        assert!(rig.metric_says(0), "{says:?}: as it was");
        for _ in 0..10 {
            assert_eq!(rig.call("a").await.unwrap(), 401, "{says:?}");
        }
        assert_eq!(rig.take_sent(), (11, 1), "{says:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_the_wait_for_a_confirmation_in_time() {
    let rig = Rig::new();
    rig.says("one", 401);
    rig.says_to("one", Some("auth-tokens.info"), Says::Nothing);
    let start = Instant::now();
    rig.drain.begin(seconds(2));
    assert_eq!(rig.call("a").await.unwrap(), 401, "DevRev's own");
    assert!(start.elapsed() < seconds(2), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn each_confirmation_has_at_most_one_log_line() {
    let captured = Captured::default();
    let _logging = tracing::subscriber::set_default(captured.subscriber());
    let rig = Rig::new();
    rig.says_to("one", Some("works.get"), Says::Status(401));
    for _ in 0..50 {
        assert_eq!(rig.call_of("a", "/works.get").await.unwrap(), 401);
    }
    advance(FIRST_PAUSE).await;
    rig.says("one", 401);
    for _ in 0..50 {
        assert!(rig.call("a").await.is_err());
    }
    let text = captured.text();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let about = |line: &serde_json::Value| {
        assert!(line["request_id"].is_string(), "{line}");
        let of = |name: &str| line[name].as_str().unwrap().to_owned();
        (of("level"), of("token"), of("operation"))
    };
    let want = [("INFO", "works.get"), ("ERROR", "works.list")];
    let want = want.map(|(level, operation)| (level.into(), "a".into(), operation.into()));
    assert_eq!(lines.iter().map(about).collect::<Vec<_>>(), want, "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_holds_its_request_for_seconds_and_nobody_else() {
    let rig = Rig::new();
    rig.says("one", 401);
    refused(&rig.call("a").await);
    advance(FIRST_PAUSE).await;
    rig.says_to("one", Some("auth-tokens.info"), Says::Nothing);
    let start = Instant::now();
    let probe = tokio::spawn(rig.send(request(Some("a"), "/works.list"), Duration::ZERO));
    tokio::task::yield_now().await;
    held(&rig.call("a").await, 4);
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(matches!(
        probe.await.unwrap(),
        Err(Error::TokenUnavailable { .. })
    ));
    assert!(start.elapsed() < CONFIRMATION_TIME + seconds(1));
    // A request that may not wait starts the probe too, and the next one finds its result.
    advance(FIRST_PAUSE).await;
    rig.says("one", 200);
    rig.says_to("one", Some("auth-tokens.info"), Says::Status(200));
    let mut hurried = request(Some("a"), "/works.list");
    hurried.extensions_mut().insert(Deadline(Instant::now()));
    let start = Instant::now();
    let hurried = rig.send(hurried, Duration::ZERO).await;
    assert!(matches!(hurried, Err(Error::TokenUnavailable { .. })));
    assert!(start.elapsed() < Duration::from_millis(10));
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(rig.call("a").await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_probe_goes_on_without_the_request_that_started_it() {
    let rig = Rig::new();
    rig.says("one", 401);
    refused(&rig.call("a").await);
    advance(seconds(5)).await;
    rig.says("one", 200);
    let _ = rig.take_sent();
    let leaves = tokio::spawn(rig.send(request(Some("a"), "/works.list"), Duration::ZERO));
    tokio::task::yield_now().await;
    leaves.abort();
    assert!(leaves.await.is_err());
    held(&rig.call("a").await, 4);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(rig.call("a").await.unwrap(), 200);
    assert_eq!(rig.take_sent(), (1, 1));
}

#[tokio::test]
async fn a_probe_whose_worker_ends_is_forgotten() {
    let rig = Arc::new(Rig::new());
    rig.says("one", 401);
    refused(&rig.call("a").await);
    rig.tokens.end_pause("a");
    rig.says_to("one", Some("auth-tokens.info"), Says::Nothing);
    let of_worker = rig.clone();
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut request = request(Some("a"), "/works.list");
            request.extensions_mut().insert(Deadline(Instant::now()));
            let _ = of_worker.send(request, Duration::ZERO).await;
        });
    });
    worker.join().unwrap();
    rig.says("one", 200);
    rig.says_to("one", Some("auth-tokens.info"), Says::Status(200));
    assert_eq!(rig.call("a").await.unwrap(), 200, "at once");
}

#[tokio::test(start_paused = true)]
async fn a_new_value_is_used_at_once_and_that_of_another_token_changes_nothing() {
    let rig = Rig::new();
    rig.says("one", 401);
    refused(&rig.call("a").await);
    rig.reconcile(&[("a", "one"), ("b", "three")]);
    held(&rig.call("a").await, 5);
    // A request that waits for the probe of the old value goes on with the new one.
    rig.tokens.end_pause("a");
    let probes = tokio::spawn(rig.send(request(Some("a"), "/works.list"), Duration::ZERO));
    tokio::task::yield_now().await;
    rig.reconcile(&[("a", "four"), ("b", "three")]);
    assert_eq!(rig.call("a").await.unwrap(), 200);
    assert_eq!(probes.await.unwrap().unwrap().status(), 200);
    assert_eq!(rig.call("a").await.unwrap(), 200);
    assert!(rig.metric_says(0));
    // A late answer to an attempt with the old value says nothing about the new one, and is not worth a question.
    let late = tokio::spawn(rig.send(request(Some("a"), "/works.list"), Duration::ZERO));
    rig.says("four", 401);
    tokio::task::yield_now().await;
    let _ = rig.take_sent();
    rig.reconcile(&[("a", "five"), ("b", "three")]);
    let late = late.await.unwrap();
    assert!(
        matches!(late, Err(Error::TokenRefused { retry_after }) if retry_after == REPLACED),
        "the new value may be tried soon"
    );
    assert_eq!(rig.call("a").await.unwrap(), 200);
    assert_eq!(rig.take_sent(), (1, 0));
    // The old value comes back with fresh health.
    rig.says("one", 200);
    rig.reconcile(&[("a", "one"), ("b", "three")]);
    assert_eq!(rig.call("a").await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_of_a_replaced_value_says_nothing_about_the_new_one() {
    let rig = Rig::new();
    rig.says("one", 401);
    rig.says_to("one", Some("auth-tokens.info"), Says::Status(401));
    let first = tokio::spawn(rig.send(request(Some("a"), "/works.list"), Duration::ZERO));
    // The attempt is answered, and its confirmation is not yet.
    tokio::time::sleep(Duration::from_millis(15)).await;
    rig.reconcile(&[("a", "new"), ("b", "two")]);
    let first = first.await.unwrap();
    assert!(matches!(first, Err(Error::TokenRefused { retry_after }) if retry_after == REPLACED));
    assert_eq!(rig.confirmations("refused"), 1);
    assert!(rig.metric_says(0), "the metric is about the new value");
    assert_eq!(rig.tokens.refused_for("a"), None);
    assert_eq!(rig.call("a").await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_waited_are_not_sent_with_a_token_that_was_refused_meanwhile() {
    let rig = Rig::new();
    let crowd: Vec<_> = (0..50)
        .map(|_| {
            let request = request(Some("a"), "/works.list");
            tokio::spawn(rig.send(request, seconds(1)))
        })
        .collect();
    tokio::task::yield_now().await;
    rig.says("one", 401);
    refused(&rig.call("a").await);
    assert_eq!(rig.take_sent(), (1, 1));
    for waited in crowd {
        let result = waited.await.unwrap();
        assert!(matches!(result, Err(Error::TokenUnavailable { .. })));
    }
    assert_eq!(rig.take_sent(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn attempts_without_a_configured_token_pass() {
    let rig = Rig::new();
    rig.says("one", 401);
    rig.says("mine", 401);
    refused(&rig.call("a").await);
    let callback = request(Some("a"), "/keyrings.authorize");
    let answer = rig.send(callback, Duration::ZERO).await.unwrap();
    assert_eq!(answer.status(), 200);
    let _ = rig.take_sent();
    // A 401 for a caller's own token is passed to the caller, and revgate asks nothing about it.
    for _ in 0..2 {
        let mut request = request(None, "/works.list");
        request.extensions_mut().insert(CallerToken {
            header: HeaderValue::from_static("Bearer mine"),
            hash: [0; 32],
        });
        let answer = rig.send(request, Duration::ZERO).await.unwrap();
        assert_eq!(answer.status(), 401);
    }
    assert_eq!(rig.take_sent(), (2, 0));
    // A token that is no longer in the file.
    held(&rig.call("gone").await, 5);
}
