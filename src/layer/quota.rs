//! Every attempt needs leave from its quota group; every answer tells the group what upstream thinks of it.
//!
//! A 429 that names a time stops the whole group until then. The longest demand wins; who waits, waits by
//! itself, so that none stands in another's way, and leaves no trace when its caller goes.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use tokio::{sync::watch, time::Instant};
use tower::{Layer, Service};

use super::{BoxFuture, DRAIN_RETRY_AFTER, Draining, record};
use crate::{
    body::Body,
    error::Error,
    policy::feedback,
    record::Record,
    telemetry::metrics::Metrics,
    types::{Caller, Deadline, Demand, Named},
};

pub struct Parameters {
    pub groups: Arc<Groups>,
    pub max_waiting: usize,
    pub max_retry_after: Duration,
    pub draining: Draining,
    pub metrics: Arc<Metrics>,
}

/// What is known of every group. One for the whole process.
pub struct Groups {
    known: Mutex<HashMap<Arc<str>, Group>>,
    waiting: AtomicUsize,
}

/// One upstream user's quota, as far as its answers told.
struct Group {
    paused_until: watch::Sender<Option<Instant>>,
    last: feedback::Feedback,
    seen: Instant,
}

/// Groups come from the file; in mode "validate" from tokens, which are without number.
const MAX_GROUPS: usize = 10_000;

impl Default for Groups {
    fn default() -> Self {
        Groups {
            known: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl Groups {
    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Group>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, name: &Arc<str>, act: impl FnOnce(&mut Group) -> T) -> T {
        let mut known = self.known();
        if known.len() >= MAX_GROUPS && !known.contains_key(name) {
            let now = Instant::now();
            known
                .retain(|_, group| (*group.paused_until.borrow()).is_some_and(|until| until > now));
            if known.len() >= MAX_GROUPS {
                // All paused: the one silent for longest gives way.
                if let Some(oldest) = known
                    .iter()
                    .min_by_key(|(_, group)| group.seen)
                    .map(|(name, _)| name.clone())
                {
                    known.remove(&oldest);
                }
            }
        }
        let group = known.entry(name.clone()).or_insert_with(|| Group {
            paused_until: watch::Sender::new(None),
            last: feedback::Feedback::default(),
            seen: Instant::now(),
        });
        act(group)
    }

    fn pause_of(&self, name: &Arc<str>) -> Option<watch::Receiver<Option<Instant>>> {
        let known = self.known();
        let receiver = known.get(name)?.paused_until.subscribe();
        let paused = receiver
            .borrow()
            .is_some_and(|until| until > Instant::now());
        paused.then_some(receiver)
    }

    /// Stops a group until `until`, or for longer if it was stopped for longer already.
    fn pause(&self, name: &Arc<str>, until: Instant) {
        self.with(name, |group| {
            group.paused_until.send_if_modified(|current| {
                let longer = current.is_none_or(|current| until > current);
                if longer {
                    *current = Some(until);
                }
                longer
            });
        });
    }

    /// Ends a pause by hand; false when there is no such group.
    pub fn resume(&self, name: &str) -> bool {
        match self.known().get(name) {
            None => false,
            Some(group) => {
                group.paused_until.send_replace(None);
                true
            }
        }
    }

    /// For the admin listener: per group what upstream last said, and the pause.
    pub fn view(&self) -> serde_json::Value {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let groups: serde_json::Map<_, _> = self
            .known()
            .iter()
            .map(|(name, group)| {
                let left = group
                    .paused_until
                    .borrow()
                    .map(|until| until.saturating_duration_since(now));
                let paused_until = left
                    .filter(|left| !left.is_zero())
                    .and_then(|left| (wall + left).duration_since(UNIX_EPOCH).ok())
                    .map(|epoch| epoch.as_secs_f64().ceil());
                let view = serde_json::json!({
                    "limit": group.last.limit,
                    "remaining": group.last.remaining,
                    "reset": group.last.reset,
                    "paused_until": paused_until,
                    "waiting": group.paused_until.receiver_count(),
                });
                (name.to_string(), view)
            })
            .collect();
        groups.into()
    }
}

/// A place in the waiting room, given back however the wait ends.
struct Place<'a> {
    groups: &'a Groups,
    metrics: &'a Metrics,
    group: Arc<str>,
    caller: Arc<str>,
}

impl<'a> Place<'a> {
    fn take(groups: &'a Groups, metrics: &'a Metrics, caller: &Caller, max: usize) -> Option<Self> {
        let taken = groups
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                (n < max).then_some(n + 1)
            });
        taken.ok()?;
        metrics.quota_waiting(&caller.group, &caller.name, 1);
        Some(Place {
            groups,
            metrics,
            group: caller.group.clone(),
            caller: caller.name.clone(),
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.groups.waiting.fetch_sub(1, Ordering::AcqRel);
        self.metrics.quota_waiting(&self.group, &self.caller, -1);
    }
}

/// See the module.
#[derive(Clone)]
pub struct QuotaLayer(Arc<Parameters>);

impl QuotaLayer {
    pub fn new(parameters: Parameters) -> Self {
        QuotaLayer(Arc::new(parameters))
    }
}

impl<S> Layer<S> for QuotaLayer {
    type Service = Quota<S>;

    fn layer(&self, inner: S) -> Quota<S> {
        Quota {
            inner,
            parameters: self.0.clone(),
        }
    }
}

#[derive(Clone)]
pub struct Quota<S> {
    inner: S,
    parameters: Arc<Parameters>,
}

impl<S> Service<Request<Body>> for Quota<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> BoxFuture {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let parameters = self.parameters.clone();
        Box::pin(async move {
            let Some(caller) = request.extensions().get::<Arc<Caller>>().cloned() else {
                return Err(Error::Internal);
            };
            let deadline = request
                .extensions()
                .get::<Deadline>()
                .map_or_else(Instant::now, |deadline| deadline.0);
            parameters
                .admit(&caller, deadline, &record(&request))
                .await?;
            let class = class(&request);
            let start = Instant::now();
            let response = inner.call(request).await?;
            parameters
                .metrics
                .upstream_duration(class, start.elapsed().as_secs_f64());
            Ok(parameters.learn(&caller, response).await)
        })
    }
}

fn class(request: &Request<Body>) -> &'static str {
    let named = request.extensions().get::<Named>();
    named.map_or("write", |Named(operation)| {
        operation.class(request.method())
    })
}

impl Parameters {
    async fn admit(
        &self,
        caller: &Caller,
        deadline: Instant,
        record: &Record,
    ) -> Result<(), Error> {
        let Some(mut pause) = self.groups.pause_of(&caller.group) else {
            return Ok(());
        };
        let start = Instant::now();
        let place = Place::take(&self.groups, &self.metrics, caller, self.max_waiting);
        let result = loop {
            let until = *pause.borrow_and_update();
            let now = Instant::now();
            let Some(until) = until.filter(|until| *until > now) else {
                break Ok(());
            };
            if until > deadline {
                break Err(Error::QuotaExhausted {
                    retry_after: until - now,
                });
            }
            if place.is_none() {
                break Err(Error::WaitingRoomFull {
                    retry_after: until - now,
                });
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                // Longer now, or ended by hand.
                _ = pause.changed() => {}
                () = self.draining.begun() => break Err(Error::Draining { retry_after: DRAIN_RETRY_AFTER }),
            }
        };
        record.facts().waited += start.elapsed();
        self.metrics.wait("pause", start.elapsed().as_secs_f64());
        result
    }

    async fn learn(&self, caller: &Caller, response: Response<Body>) -> Response<Body> {
        let status = response.status();
        let refusal = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        let (mut response, text) = if refusal {
            peek(response).await
        } else {
            (response, None)
        };
        let told = feedback::read(
            status,
            response.headers(),
            text.as_deref(),
            SystemTime::now(),
            self.max_retry_after,
        );
        if let Some(demand) = told.demand {
            response.extensions_mut().insert(Demand(demand));
        }
        self.metrics
            .quota(&caller.group, told.limit, told.remaining, told.reset);
        if status == StatusCode::TOO_MANY_REQUESTS {
            self.metrics.throttled(&caller.group);
            if let Some(demand) = told.demand {
                self.groups.pause(&caller.group, Instant::now() + demand);
                if let Ok(epoch) = (SystemTime::now() + demand).duration_since(UNIX_EPOCH) {
                    self.metrics
                        .quota_paused_until(&caller.group, epoch.as_secs_f64());
                }
            }
        }
        if told.limit.is_some() || told.remaining.is_some() {
            self.groups.with(&caller.group, |group| {
                group.last = told;
                group.seen = Instant::now();
            });
        }
        response
    }
}

/// A refusal's JSON is far smaller.
const MAX_PEEK: usize = 64 * 1024;
/// A refusal that drips is judged by its headers.
const PEEK_TIME: Duration = Duration::from_secs(1);

/// Reads the start of a refusal for its `retry_after`, and puts it back.
async fn peek(response: Response<Body>) -> (Response<Body>, Option<Bytes>) {
    let (head, mut body) = response.into_parts();
    let mut seen = Vec::new();
    let read = tokio::time::timeout(PEEK_TIME, async {
        use http_body_util::BodyExt;
        while seen.len() < MAX_PEEK {
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        seen.extend_from_slice(&data);
                    }
                }
                // What breaks off here breaks off for the caller as well.
                Some(Err(_)) | None => break,
            }
        }
    });
    let _ = read.await;
    let bytes = Bytes::from(seen);
    let text = decode(&head.headers, &bytes);
    (
        Response::from_parts(head, Body::prefixed(bytes, body)),
        text,
    )
}

/// Answers are compressed as the caller's `Accept-Encoding` allows; what cannot be decoded is judged by its headers.
fn decode(headers: &HeaderMap, bytes: &Bytes) -> Option<Bytes> {
    use std::io::Read;
    let mut out = Vec::new();
    let coding = headers
        .get(header::CONTENT_ENCODING)
        .map(|value| value.as_bytes().to_ascii_lowercase());
    match coding.as_deref() {
        None | Some(b"identity") => return Some(bytes.clone()),
        Some(b"gzip") => flate2::read::GzDecoder::new(&bytes[..])
            .take(MAX_PEEK as u64)
            .read_to_end(&mut out)
            .ok()?,
        Some(b"deflate") => flate2::read::ZlibDecoder::new(&bytes[..])
            .take(MAX_PEEK as u64)
            .read_to_end(&mut out)
            .ok()?,
        Some(_) => return None,
    };
    Some(out.into())
}
