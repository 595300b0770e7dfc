//! Sets `traceparent` for each attempt, measures its time, and records its span if the trace is exported.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderName, Method, Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::record;
use crate::{
    body::Body,
    error::Error,
    policy::{
        operation::{Class, Operation, OperationLabel},
        trace::{SpanId, TRACEPARENT, TRACESTATE},
    },
    record::Record,
    telemetry::{
        metrics::Metrics,
        tally::Tally,
        trace::{AttemptSpan, SpanEnd, Trace, short_method},
    },
    wall_clock,
};

/// See the module.
#[derive(Clone)]
pub(crate) struct Attempt<S> {
    inner: S,
    metrics: Arc<Metrics>,
    tally: Arc<Tally>,
}

impl<S> Attempt<S> {
    pub(crate) fn new(inner: S, metrics: Arc<Metrics>, tally: Arc<Tally>) -> Self {
        Attempt {
            inner,
            metrics,
            tally,
        }
    }
}

impl<S> Service<Request<Body>> for Attempt<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = AttemptFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let record = record(&request);
        let span = record
            .trace()
            .map(|trace| propagate(trace, request.headers_mut()));
        let operation = request.extensions().get::<Operation>();
        let class = operation.map_or(Class::Write, |operation| operation.class(request.method()));
        let in_progress = AttemptInProgress {
            span,
            method: request.method().clone(),
            operation: operation.map_or(OperationLabel::OTHER, Operation::label),
            record,
            start: Instant::now(),
            ended: false,
        };
        AttemptFuture {
            below: self.inner.call(request),
            in_progress,
            class,
            metrics: self.metrics.clone(),
            tally: self.tally.clone(),
        }
    }
}

/// Keeps `tracestate` if the caller's trace is continued, and removes it if a new one begins here.
fn propagate(trace: &Trace, headers: &mut HeaderMap) -> SpanId {
    let (span, traceparent) = trace.attempt();
    if let Some(traceparent) = traceparent {
        headers.insert(HeaderName::from_static(TRACEPARENT), traceparent);
    }
    if !trace.is_continued() {
        headers.remove(TRACESTATE);
    }
    span
}

/// An attempt in progress. If it is dropped before it has ended, the client has left.
struct AttemptInProgress {
    record: Record,
    span: Option<SpanId>,
    method: Method,
    operation: OperationLabel,
    start: Instant,
    ended: bool,
}

impl AttemptInProgress {
    fn end(&mut self, end: SpanEnd) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let earlier_attempts = {
            let mut facts = self.record.facts();
            facts.upstream += self.start.elapsed();
            let earlier_attempts = facts.attempts;
            if matches!(end, SpanEnd::Left) {
                // `retry` counts the attempts that end.
                facts.attempts += 1;
            }
            earlier_attempts
        };
        if let (Some(trace), Some(span)) = (self.record.trace(), self.span) {
            trace.record_attempt(span, self.start, || AttemptSpan {
                method: short_method(&self.method),
                operation: self.operation,
                earlier_attempts,
                end,
            });
        }
    }
}

impl Drop for AttemptInProgress {
    fn drop(&mut self) {
        self.end(SpanEnd::Left);
    }
}

pin_project! {
    pub struct AttemptFuture<F> {
        #[pin]
        below: F,
        in_progress: AttemptInProgress,
        class: Class,
        metrics: Arc<Metrics>,
        tally: Arc<Tally>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Error>>> Future for AttemptFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let result = ready!(this.below.poll(cx));
        if result.is_ok() {
            let time = this.in_progress.start.elapsed();
            this.metrics
                .upstream_duration(*this.class, time.as_secs_f64());
            this.tally.answered(time, wall_clock::epoch_seconds());
        }
        this.in_progress.end(match &result {
            Ok(response) => SpanEnd::Answered(response.status().as_u16()),
            Err(error) => SpanEnd::Failed(error.code()),
        });
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::{Arc, Mutex},
        time::Duration,
    };

    use http::HeaderValue;
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// The headers of two attempts of a request with these fields.
    async fn sent(fields: &[(&'static str, &'static str)]) -> Vec<HeaderMap> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        let inner = service_fn(move |request: Request<Body>| {
            noted.lock().unwrap().push(request.headers().clone());
            ready(Ok::<_, Error>(Response::new(Body::empty())))
        });
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let record = Record::new(Trace::begin(&headers, None, Instant::now()));
        for _ in 0..2 {
            let mut request = Request::new(Body::empty());
            *request.headers_mut() = headers.clone();
            request.extensions_mut().insert(record.clone());
            let service = Attempt::new(inner.clone(), Arc::default(), Arc::default());
            service.oneshot(request).await.unwrap();
        }
        let seen = seen.lock().unwrap();
        seen.clone()
    }

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[tokio::test]
    async fn a_good_traceparent_is_continued_with_a_span_for_each_attempt() {
        let sent = sent(&[
            ("traceparent", GOOD),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
        ])
        .await;
        let parents: Vec<_> = sent
            .iter()
            .map(|h| h["traceparent"].to_str().unwrap())
            .collect();
        for parent in &parents {
            assert_eq!(parent[..36], GOOD[..36]);
            assert_ne!(parent[36..52], GOOD[36..52]);
            assert_eq!(parent[52..], GOOD[52..]);
        }
        assert_ne!(parents[0], parents[1]);
        assert_eq!(sent[0].get_all("tracestate").iter().count(), 2);
    }

    #[tokio::test]
    async fn a_bad_or_missing_traceparent_begins_a_new_trace() {
        for fields in [
            &[("traceparent", "00-nonsense"), ("tracestate", "a=1")][..],
            &[("tracestate", "a=1")],
            &[
                ("traceparent", GOOD),
                ("traceparent", GOOD),
                ("tracestate", "a=1"),
            ],
            &[],
        ] {
            let sent = sent(fields).await;
            assert_eq!(sent[0].get_all("traceparent").iter().count(), 1);
            let parent = sent[0]["traceparent"].to_str().unwrap();
            assert!(
                parent.starts_with("00-") && parent.ends_with("-00"),
                "{parent}"
            );
            assert!(!parent.contains("4bf92f"), "{parent}");
            assert_eq!(parent[..36], sent[1]["traceparent"].to_str().unwrap()[..36]);
            assert!(!sent[0].contains_key("tracestate"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_counts_even_if_the_client_leaves() {
        let inner = service_fn(|_: Request<Body>| pending::<Result<Response<Body>, Error>>());
        let record = Record::default();
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(record.clone());
        let call = Attempt::new(inner, Arc::default(), Arc::default()).oneshot(request);
        let left = tokio::time::timeout(Duration::from_secs(3), call).await;
        assert!(left.is_err());
        let facts = record.facts();
        assert_eq!(
            (facts.attempts, facts.upstream),
            (1, Duration::from_secs(3))
        );
    }
}
