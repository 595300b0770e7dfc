//! Retries on the caller's behalf. Below this layer everything happens once per attempt. A wait here holds no upstream
//! connection.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use tokio::time::{Instant, timeout};
use tower::Service;

use super::{BodyLimits, BoxFuture, Buffered, attempt_end, id_of, quota_group, record};
use crate::{
    allocation::Place,
    body::{Body, Guard, InboundFault},
    error::Error,
    policy::{
        allocator::Claim,
        duration_words::duration_words,
        feedback::whole_seconds,
        operation::Operation,
        retry::{Attempt, AttemptEnd, Decision, Reason, RetryRules, decide},
    },
    random,
    record::{Facts, Record},
    state::{
        draining::Draining,
        retry_budget::{BudgetKey, RetryBudget},
    },
    telemetry::{
        labels::{AttemptOutcome, WaitReason},
        metrics::Metrics,
    },
    types::{Caller, Deadline, RetryAfter, UnknownUser},
};

/// What [`Retry`] needs.
pub(crate) struct RetryParams {
    pub rules: RetryRules,
    pub budget: Arc<RetryBudget>,
    /// Retries that the budget allows per request.
    pub budget_ratio: f64,
    /// Of retries after a 429 for which no pause of a group makes the request wait. A budget of their own, since such a 429 was refused before
    /// any work: it may be as many as there are requests, and leaves the other budget to failures.
    pub throttled: Arc<RetryBudget>,
    pub max_replay_body: usize,
    /// Of a replayable body, which arrives before the first attempt.
    pub body: BodyLimits,
    pub draining: Draining,
    pub metrics: Arc<Metrics>,
}

/// See [`RetryParams::throttled`].
const THROTTLED_RATIO: f64 = 1.0;

/// See the module.
#[derive(Clone)]
pub(crate) struct Retry<S> {
    inner: S,
    params: Arc<RetryParams>,
}

impl<S> Retry<S> {
    pub(crate) fn new(inner: S, params: Arc<RetryParams>) -> Self {
        Retry { inner, params }
    }
}

impl<S> Service<Request<Body>> for Retry<S>
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
        let inner = std::mem::replace(&mut self.inner, clone);
        let params = self.params.clone();
        Box::pin(async move {
            let call = params.prepare(request).await?;
            params.run(inner, call).await
        })
    }
}

/// A request that can be sent more than once if its body is replayable.
struct Call {
    head: request::Parts,
    payload: Payload,
    reads: bool,
    /// Whether its attempts take the quota of a group.
    in_group: bool,
    budget: BudgetKey,
    deadline: Instant,
    record: Record,
}

enum Payload {
    /// Its bytes, and what holds their memory.
    Replayable(
        Bytes,
        #[allow(dead_code, reason = "held, not read")] Option<Box<dyn Guard>>,
    ),
    Once(Option<Body>),
}

impl Call {
    fn attempt(&mut self) -> Request<Body> {
        let body = match &mut self.payload {
            Payload::Replayable(bytes, _) => Body::full(bytes.clone()),
            Payload::Once(body) => body.take().unwrap_or_else(Body::empty),
        };
        Request::from_parts(self.head.clone(), body)
    }
}

impl RetryParams {
    async fn prepare(&self, request: Request<Body>) -> Result<Call, Error> {
        let record = record(&request);
        let (mut head, mut body) = request.into_parts();
        let reads = head
            .extensions
            .get::<Operation>()
            .is_some_and(|operation| operation.is_read(&head.method));
        let in_group = quota_group(&head.extensions)?.is_some();
        let budget = match head.extensions.get::<Arc<Caller>>() {
            Some(caller) if head.extensions.get::<UnknownUser>().is_none() => BudgetKey::of(caller),
            _ => BudgetKey::of_unknown(),
        };
        let deadline = head
            .extensions
            .get::<Deadline>()
            .map_or_else(Instant::now, |deadline| deadline.0);
        let known_larger = http_body::Body::size_hint(&body).lower() > self.max_replay_body as u64;
        let payload = if http_body::Body::is_end_stream(&body) {
            Payload::Replayable(Bytes::new(), None)
        } else if known_larger {
            Payload::Once(Some(body))
        } else if let Some((bytes, guards)) = body.take_read() {
            Payload::Replayable(bytes, Some(Box::new(guards)))
        } else {
            let fault = head.extensions.get::<InboundFault>();
            let claim = Place::claim(&head.extensions);
            let read_ahead = self.max_replay_body;
            let read = self.body.read(&mut body, fault, read_ahead, &claim).await?;
            let Buffered { read, memory } = read;
            if read.complete {
                // Its size is known now, whatever its framing was.
                head.headers.remove(header::TRANSFER_ENCODING);
                if !read.bytes.is_empty() {
                    let length = HeaderValue::from(read.bytes.len());
                    head.headers.insert(header::CONTENT_LENGTH, length);
                }
                Payload::Replayable(read.bytes, Some(Box::new(memory)))
            } else {
                let body = Body::prefixed(read.bytes, body).guarded(memory);
                Payload::Once(Some(body))
            }
        };
        // RFC 9110 section 8.6: a method that anticipates content sends `Content-Length: 0` when there is none.
        if matches!(&payload, Payload::Replayable(bytes, _) if bytes.is_empty())
            && matches!(head.method, Method::POST | Method::PUT | Method::PATCH)
        {
            head.headers
                .insert(header::CONTENT_LENGTH, HeaderValue::from(0));
        }
        Ok(Call {
            head,
            payload,
            reads,
            in_group,
            budget,
            deadline,
            record,
        })
    }

    async fn run<S>(&self, mut inner: S, mut call: Call) -> Result<Response<Body>, Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
    {
        self.budget.request(&call.budget);
        self.throttled.request(&call.budget);
        let mut number = 0;
        // Upstream's last answer: what comes back when no further try is allowed.
        let mut last: Option<(Response<Body>, Duration)> = None;
        loop {
            number += 1;
            let result = inner.call(call.attempt()).await;
            let id = || id_of(&call.head.extensions);
            tracing::debug!(
                request_id = id(),
                attempt = number,
                status = result
                    .as_ref()
                    .ok()
                    .map(|response| response.status().as_u16()),
                code = result.as_ref().err().map(|error| error.code().label()),
                wait_ms = spent(&call.record, |facts| facts.waited),
                upstream_ms = spent(&call.record, |facts| facts.upstream),
                "attempt {number} has ended"
            );
            let Some((end, reason)) = failure(&result) else {
                let reached = reached(&result);
                call.record.facts().attempts = if reached { number } else { number - 1 };
                if reached {
                    self.metrics.attempt(match result {
                        Ok(_) => AttemptOutcome::Success,
                        Err(_) => AttemptOutcome::Refused,
                    });
                }
                return match (result, last) {
                    (Err(error), Some((response, after))) if gives_way(&error) => {
                        finish(Ok(response), Some(after))
                    }
                    (result, _) => result,
                };
            };
            self.metrics.attempt(AttemptOutcome::Failed(reason));
            call.record.facts().attempts = number;
            let attempt = Attempt {
                number,
                reads: call.reads,
                replayable: matches!(call.payload, Payload::Replayable(..)),
                in_group: call.in_group,
                end,
                wait_left: call.deadline.saturating_duration_since(Instant::now()),
            };
            // The quota layer has paused the operation or the whole group for this time and makes the retry wait: there the request
            // keeps its turn, and an operator can end the pause. Without a group the time concerns this request alone.
            let paused_in_group = call.in_group
                && matches!(reason, Reason::Throttled | Reason::Unavailable)
                && result
                    .as_ref()
                    .is_ok_and(|r| r.extensions().get::<RetryAfter>().is_some());
            let (after, retries) = match decide(&self.rules, &attempt, random::jitter()) {
                Decision::Retry {
                    after,
                    draws_budget,
                } => {
                    let in_budget = !draws_budget
                        || match reason {
                            Reason::Throttled => {
                                self.throttled.try_retry(&call.budget, THROTTLED_RATIO)
                            }
                            _ => self.budget.try_retry(&call.budget, self.budget_ratio),
                        };
                    (Some(after), in_budget)
                }
                Decision::Stop { retry_after } => (retry_after, false),
            };
            let Some(wait) = after.filter(|_| retries) else {
                tracing::debug!(
                    request_id = id(),
                    reason = reason.label(),
                    in_budget = retries || after.is_none(),
                    "no other attempt"
                );
                return match (result, last) {
                    (Err(_), Some((response, after))) => finish(Ok(response), Some(after)),
                    (result, _) => finish(result, after),
                };
            };
            if let Ok(response) = result {
                let slack = attempt.wait_left.saturating_sub(wait);
                let claim = Place::claim(&call.head.extensions);
                if let Some(response) = self.keep(response, slack, &claim).await {
                    last = Some((response, wait));
                }
            }
            self.metrics.retry(reason);
            tracing::debug!(
                request_id = id_of(&call.head.extensions),
                reason = reason.label(),
                after_ms = wait.as_millis() as u64,
                in_group = paused_in_group,
                "another attempt in {}",
                duration_words(wait)
            );
            if !paused_in_group {
                self.wait(wait, &call.record).await?;
            }
        }
    }

    async fn wait(&self, time: Duration, record: &Record) -> Result<(), Error> {
        if time.is_zero() {
            return Ok(());
        }
        let waiting = record.waiting(WaitReason::Retry);
        let until = Instant::now() + time;
        let pause = tokio::time::sleep_until(until);
        let result = self.draining.bound_by(pause, |end| until <= end).await;
        self.metrics
            .wait(WaitReason::Retry, waiting.end().as_secs_f64());
        result
    }
}

/// A time of the record in milliseconds. The record's lock is free again when this returns, which matters among the fields of one line.
fn spent(record: &Record, time: impl FnOnce(&Facts) -> Duration) -> u64 {
    time(&record.facts()).as_millis() as u64
}

/// How an attempt failed; `None` if its result is final.
fn failure(result: &Result<Response<Body>, Error>) -> Option<(AttemptEnd, Reason)> {
    let end = attempt_end(result)?;
    Some((end, end.reason()?))
}

/// Whether upstream's own last answer tells the caller more than this error of revgate's.
fn gives_way(error: &Error) -> bool {
    matches!(
        error,
        Error::QuotaExhausted { .. }
            | Error::WaitingRoomFull { .. }
            | Error::Overloaded { .. }
            | Error::CircuitOpen { .. }
            | Error::TokenUnavailable { .. }
    )
}

/// Whether upstream received the attempt.
fn reached(result: &Result<Response<Body>, Error>) -> bool {
    matches!(
        result,
        Ok(_)
            | Err(Error::TokenRefused { .. }
                | Error::BrokenBody
                | Error::RequestTimeout
                | Error::BodyTooLarge { .. })
    )
}

/// Upstream's error bodies are far smaller.
const MAX_KEPT: usize = 64 * 1024;
/// A body that trickles in is not worth a longer delay of the retry.
const KEEP_TIME: Duration = Duration::from_secs(1);

impl RetryParams {
    /// Buffers an answer, so that the caller can get it if no later attempt is answered. One that is large or slow is dropped along
    /// with its connection, because a wait holds no upstream connection.
    async fn keep(
        &self,
        response: Response<Body>,
        slack: Duration,
        claim: &Claim,
    ) -> Option<Response<Body>> {
        if response.body().is_read() {
            return Some(response);
        }
        let (head, mut body) = response.into_parts();
        let read = self.body.read(&mut body, None, MAX_KEPT, claim);
        let Buffered { read, memory } = timeout(KEEP_TIME.min(slack), read).await.ok()?.ok()?;
        let body = || Body::full(read.bytes).guarded(memory);
        read.complete.then(|| Response::from_parts(head, body()))
    }
}

/// The final result, upstream's own answer where there is one. DevRev's SDKs read the time of a 429 only from a
/// `Retry-After` in whole seconds, so a 429 without one gets one.
fn finish(
    result: Result<Response<Body>, Error>,
    retry_after: Option<Duration>,
) -> Result<Response<Body>, Error> {
    let mut response = result?;
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        // A value that clients cannot parse as seconds counts as missing.
        let named = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        let whole = named.is_some_and(|value| value.parse::<u32>().is_ok());
        if !whole {
            let seconds = whole_seconds(retry_after.unwrap_or(Duration::from_secs(1)));
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::{convert::identity, sync::atomic::AtomicU32, sync::atomic::Ordering};

    use tower::service_fn;

    use super::*;
    use crate::allocation::{PlanPool, Pool};

    /// How long a request of `path` takes that is answered 200 after one refusal.
    async fn time_after(path: &str, refusal: fn(Response<Body>) -> Response<Body>) -> Duration {
        let (_drain, draining) = Draining::new();
        let backoff = Duration::from_secs(5);
        let params = RetryParams {
            rules: RetryRules {
                max_attempts: 2,
                backoff_min: backoff,
                backoff_max: backoff,
            },
            budget: Arc::new(RetryBudget::new(crate::state::Clock::start())),
            budget_ratio: 1.0,
            throttled: Arc::new(RetryBudget::new(crate::state::Clock::start())),
            max_replay_body: 1024,
            body: BodyLimits {
                max: 1024,
                buffered: PlanPool {
                    pool: Pool::new(),
                    capacity: 1024,
                },
            },
            draining,
            metrics: Arc::default(),
        };
        let sent = AtomicU32::new(0);
        let below = service_fn(|_: Request<Body>| {
            let mut response = Response::new(Body::empty());
            if sent.fetch_add(1, Ordering::Relaxed) == 0 {
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                response = refusal(response);
            }
            std::future::ready(Ok::<_, Error>(response))
        });
        let mut request = Request::new(Body::empty());
        let start = Instant::now();
        let deadline = Deadline(start + Duration::from_secs(60));
        request.extensions_mut().insert(deadline);
        request
            .extensions_mut()
            .insert(Arc::new(Caller::named("a")));
        request.extensions_mut().insert(Operation::from_path(path));
        let call = params.prepare(request).await.expect("a call");
        let answer = params.run(below, call).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        start.elapsed()
    }

    fn named(mut refusal: Response<Body>) -> Response<Body> {
        let retry_after = RetryAfter(Duration::from_secs(30));
        refusal.extensions_mut().insert(retry_after);
        refusal
    }

    #[tokio::test(start_paused = true)]
    async fn upstreams_retry_after_is_waited_out_by_the_group() {
        assert_eq!(time_after("/works.get", named).await, Duration::ZERO);
        assert!(time_after("/works.get", identity).await > Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_group_the_request_waits_by_itself() {
        let waited = time_after("/keyrings.authorize", named).await;
        assert_eq!(waited, Duration::from_secs(30));
    }
}
