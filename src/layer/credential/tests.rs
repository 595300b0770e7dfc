use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderValue, StatusCode};
use secrecy::SecretString;
use tokio::time::advance;
use tower::{ServiceExt, service_fn, util::BoxCloneService};

use super::*;
use crate::{
    plan::TokenValue,
    state::{Clock, tokens::Tokens},
    telemetry::metrics::Metrics,
};

/// The gate and the credential layer with nothing between them, above an upstream that answers by the credential.
struct Rig {
    tokens: Arc<Tokens>,
    metrics: Arc<Metrics>,
    statuses: Arc<Mutex<HashMap<String, u16>>>,
    sent_count: Arc<AtomicUsize>,
}

impl Rig {
    fn new() -> Rig {
        let metrics = Arc::new(Metrics::new());
        let values = values(&[("a", "one"), ("b", "two")]);
        Rig {
            tokens: Arc::new(Tokens::new(&values, Clock::start(), metrics.clone())),
            metrics,
            statuses: Arc::default(),
            sent_count: Arc::default(),
        }
    }

    /// What a reload does.
    fn reconcile(&self, values: &[(&str, &str)]) {
        self.tokens.reconcile(&self::values(values));
    }

    fn says(&self, value: &str, status: u16) {
        let mut statuses = self.statuses.lock().unwrap();
        statuses.insert(format!("Bearer {value}"), status);
    }

    /// `between` is how long an attempt waits between the two layers, as it does in the queue of the quota.
    fn send(
        &self,
        request: Request<Body>,
        between: Duration,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send + use<> {
        let (statuses, sent_count) = (self.statuses.clone(), self.sent_count.clone());
        let devrev = service_fn(move |request: Request<Body>| {
            let (statuses, sent_count) = (statuses.clone(), sent_count.clone());
            async move {
                sent_count.fetch_add(1, Ordering::Relaxed);
                let credential = request.headers().get(AUTHORIZATION);
                let credential = credential.map_or("", |value| value.to_str().unwrap());
                let status = statuses.lock().unwrap().get(credential).copied();
                tokio::time::sleep(Duration::from_millis(10)).await;
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::from_u16(status.unwrap_or(200)).unwrap();
                Ok(response)
            }
        });
        let devrev = BoxCloneService::<_, _, Error>::new(devrev);
        let credential = Credential::new(devrev, self.tokens.of_plan());
        let waits = service_fn(move |request: Request<Body>| {
            let credential = credential.clone();
            async move {
                tokio::time::sleep(between).await;
                let response = credential.oneshot(request).await?;
                // As the quota layer does.
                match response.extensions().get::<TokenRefused>() {
                    Some(TokenRefused(retry_after)) => Err(Error::TokenRefused {
                        retry_after: *retry_after,
                    }),
                    None => Ok(response),
                }
            }
        });
        let gate = |inner| token_gate::TokenGate::new(inner, self.tokens.of_plan());
        gate(waits).oneshot(request)
    }

    async fn call(&self, token: &str) -> Result<u16, Error> {
        let request = request(Some(token), "/works.list");
        let response = self.send(request, Duration::ZERO).await?;
        Ok(response.status().as_u16())
    }

    /// Whether the metric has this value for the token "a".
    fn metric_says(&self, value: u8) -> bool {
        let line = format!("revgate_token_refused{{token=\"a\"}} {value}\n");
        self.metrics.encode().contains(&line)
    }

    fn take_sent(&self) -> usize {
        self.sent_count.swap(0, Ordering::Relaxed)
    }
}

fn request(token: Option<&str>, operation: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    let extensions = request.extensions_mut();
    extensions.insert(Operation::from_path(operation));
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

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_not_sent_until_a_probe_succeeds() {
    let rig = Rig::new();
    rig.says("one", 401);
    let first = rig.call("a").await;
    assert!(
        matches!(first, Err(Error::TokenRefused { retry_after }) if retry_after == seconds(5)),
        "{first:?}"
    );
    let _ = rig.take_sent();
    for _ in 0..100 {
        held(&rig.call("a").await, 5);
    }
    assert_eq!(rig.take_sent(), 0);
    assert_eq!(rig.call("b").await.unwrap(), 200, "another token");
    assert!(rig.metric_says(1));
    advance(seconds(5)).await;
    // One attempt is the probe, and the others are refused with a time.
    let crowd = futures_util::future::join_all((0..20).map(|_| rig.call("a"))).await;
    let probes = crowd
        .iter()
        .filter(|r| matches!(r, Err(Error::TokenRefused { .. })));
    assert_eq!(probes.count(), 1, "{crowd:?}");
    assert_eq!(rig.take_sent(), 2);
    held(&rig.call("a").await, 10);
    rig.says("one", 200);
    held(&rig.call("a").await, 10);
    advance(seconds(10)).await;
    for _ in 0..3 {
        assert_eq!(rig.call("a").await.unwrap(), 200);
    }
    assert!(rig.metric_says(0));
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_caller_leaves_is_released() {
    let rig = Rig::new();
    rig.says("one", 401);
    assert!(rig.call("a").await.is_err());
    advance(seconds(5)).await;
    rig.says("one", 200);
    let request = request(Some("a"), "/works.list");
    let probe = tokio::spawn(rig.send(request, seconds(60)));
    tokio::task::yield_now().await;
    held(&rig.call("a").await, 10);
    probe.abort();
    assert!(probe.await.is_err());
    assert_eq!(rig.call("a").await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_new_value_is_used_at_once_and_that_of_another_token_changes_nothing() {
    let rig = Rig::new();
    rig.says("one", 401);
    assert!(rig.call("a").await.is_err());
    rig.reconcile(&[("a", "one"), ("b", "three")]);
    held(&rig.call("a").await, 5);
    // A late answer to an attempt with the old value is no evidence about the new one.
    rig.tokens.end_pause("a");
    let request = request(Some("a"), "/works.list");
    let late = tokio::spawn(rig.send(request, Duration::ZERO));
    tokio::task::yield_now().await;
    rig.reconcile(&[("a", "four"), ("b", "three")]);
    assert_eq!(rig.call("a").await.unwrap(), 200);
    let late = late.await.unwrap();
    assert!(
        matches!(late, Err(Error::TokenRefused { retry_after }) if retry_after == REPLACED),
        "the new value may be tried soon"
    );
    assert_eq!(rig.call("a").await.unwrap(), 200);
    // The old value comes back with fresh health.
    rig.says("one", 200);
    rig.reconcile(&[("a", "one"), ("b", "three")]);
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
    assert!(rig.call("a").await.is_err());
    assert_eq!(rig.take_sent(), 1);
    for waited in crowd {
        let result = waited.await.unwrap();
        assert!(matches!(result, Err(Error::TokenUnavailable { .. })));
    }
    assert_eq!(rig.take_sent(), 0);
}

#[tokio::test(start_paused = true)]
async fn attempts_without_a_configured_token_pass() {
    let rig = Rig::new();
    rig.says("one", 401);
    rig.says("mine", 401);
    assert!(rig.call("a").await.is_err());
    let callback = request(Some("a"), "/keyrings.authorize");
    let answer = rig.send(callback, Duration::ZERO).await.unwrap();
    assert_eq!(answer.status(), 200);
    // A 401 for a caller's own token is passed to the caller.
    for _ in 0..2 {
        let mut request = request(None, "/works.list");
        request.extensions_mut().insert(CallerToken {
            header: HeaderValue::from_static("Bearer mine"),
            hash: [0; 32],
        });
        let answer = rig.send(request, Duration::ZERO).await.unwrap();
        assert_eq!(answer.status(), 401);
    }
    // A token that is no longer in the file.
    held(&rig.call("gone").await, 5);
}
