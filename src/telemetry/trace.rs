//! The trace of a request in flight: the `traceparent` for DevRev, and the spans to export.
//!
//! Every request has a trace id. Spans are recorded only for sampled traces, and only with an exporter; without one a trace is a few
//! numbers.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderValue, Method};
use tokio::{sync::mpsc, time::Instant};

use super::{
    labels::{Decision, SpanDrop, WaitReason},
    metrics::Metrics,
};
use crate::{
    error::Code,
    policy::{
        headers::MAX_REQUEST_ID,
        operation::OperationLabel,
        trace::{Context, Flags, SpanId, TraceId, sampled},
    },
    random, wall_clock,
};

/// The trace that a request is part of.
pub struct Trace {
    id: TraceId,
    flags: Flags,
    /// The caller's span, if the request came with a trace.
    parent: Option<SpanId>,
    live: Option<Live>,
}

/// For a request whose spans are recorded.
struct Live {
    spans: Arc<Spans>,
    root: SpanId,
    /// The same moment on both clocks. It is taken per request, because the monotonic clock stops while the machine sleeps, and only
    /// the spans of one request must agree with each other.
    anchor: (Instant, SystemTime),
}

impl Trace {
    /// Continues the caller's trace, or begins a new one.
    pub fn begin(headers: &HeaderMap, spans: Option<&Arc<Spans>>, now: Instant) -> Trace {
        let (id, flags, parent) = match Context::of(headers) {
            Some(Context { trace, span, flags }) => (trace, flags, Some(span)),
            None => {
                // Not cryptographic: W3C Trace Context requires unique ids, and knowing one gives no access.
                let id = TraceId::from_random(random::id128());
                let sampled = spans.is_some_and(|spans| sampled(id, spans.sample));
                (id, Flags::new(sampled), None)
            }
        };
        let spans = spans.filter(|_| flags.sampled());
        let live = spans.map(|spans| Live {
            spans: spans.clone(),
            root: span_id(),
            anchor: (now, wall_clock::now()),
        });
        Trace {
            id,
            flags,
            parent,
            live,
        }
    }

    pub fn id(&self) -> TraceId {
        self.id
    }

    /// Whether the caller's `traceparent` was valid. Only then does its `tracestate` count.
    pub fn is_continued(&self) -> bool {
        self.parent.is_some()
    }

    /// The id of an attempt's span, and the `traceparent` that carries it to DevRev.
    pub fn attempt(&self) -> (SpanId, Option<HeaderValue>) {
        let context = Context {
            trace: self.id,
            span: span_id(),
            flags: self.flags,
        };
        (
            context.span,
            HeaderValue::from_bytes(&context.format()).ok(),
        )
    }

    /// Records a wait of the request, from `start` until now.
    pub fn record_wait(&self, start: Instant, reason: WaitReason) {
        if let Some(live) = &self.live {
            self.push_child(live, span_id(), start, SpanDetails::Wait(reason));
        }
    }

    /// Records an attempt, from `start` until now. `details` is called only if spans are recorded.
    pub fn record_attempt(
        &self,
        id: SpanId,
        start: Instant,
        details: impl FnOnce() -> AttemptSpan,
    ) {
        if let Some(live) = &self.live {
            self.push_child(live, id, start, SpanDetails::Attempt(details()));
        }
    }

    fn push_child(&self, live: &Live, id: SpanId, start: Instant, details: SpanDetails) {
        live.spans.push(Span {
            parent: Some(live.root),
            remote_parent: false,
            ..self.span(live, id, start, details)
        });
    }

    /// Records the request itself, from `start` until now. `details` is called only if spans are recorded.
    pub fn record_request(&self, start: Instant, details: impl FnOnce() -> RequestSpan) {
        if let Some(live) = &self.live {
            let details = SpanDetails::Request(details());
            let span = self.span(live, live.root, start, details);
            live.spans.push(span);
        }
    }

    fn span(&self, live: &Live, id: SpanId, start: Instant, details: SpanDetails) -> Span {
        Span {
            trace: self.id,
            id,
            parent: self.parent,
            remote_parent: true,
            start: live.wall(start),
            end: live.wall(Instant::now()),
            details,
        }
    }
}

impl Live {
    fn wall(&self, at: Instant) -> Duration {
        let (instant, time) = self.anchor;
        let time = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        time + at.saturating_duration_since(instant)
    }
}

/// Not cryptographic, as trace ids.
fn span_id() -> SpanId {
    SpanId::from_random(random::id64())
}

/// Bytes that one span may hold in the queue: itself, a request id and its buffer. Everything else in it is a number, shared, or a name of
/// the program's own.
pub(crate) const MAX_SPAN: usize = 512;

const _: () = assert!(size_of::<Span>() + MAX_REQUEST_ID + BUFFER <= MAX_SPAN);

/// What an allocator and a `HeaderValue` add to the bytes of a text.
const BUFFER: usize = 64;

/// A client may send any method, as long as a head. Those that are not standard all become one in a span (see `otlp`).
pub(crate) fn short_method(method: &Method) -> Method {
    const MAX: usize = 7;
    match method.as_str().len() <= MAX {
        true => method.clone(),
        false => Method::from_bytes(b"_OTHER").unwrap_or_default(),
    }
}

/// A finished span.
#[derive(Debug)]
pub struct Span {
    pub trace: TraceId,
    pub id: SpanId,
    pub parent: Option<SpanId>,
    /// The parent is the caller's span.
    pub remote_parent: bool,
    /// Since the Unix epoch.
    pub start: Duration,
    pub end: Duration,
    pub details: SpanDetails,
}

/// What the span is about. Never a query, a body or a header other than the request id.
#[derive(Debug)]
pub enum SpanDetails {
    Request(RequestSpan),
    Wait(WaitReason),
    Attempt(AttemptSpan),
}

#[derive(Debug)]
pub struct RequestSpan {
    pub method: Method,
    pub operation: OperationLabel,
    pub caller: Arc<str>,
    pub request_id: HeaderValue,
    pub status: Option<u16>,
    /// If the gateway made the answer.
    pub code: Option<Code>,
    pub would_refuse: Option<Code>,
    pub decision: Decision,
    pub attempts: u32,
    pub waited: Duration,
}

#[derive(Debug)]
pub struct AttemptSpan {
    pub method: Method,
    pub operation: OperationLabel,
    /// Attempts of the request before this one.
    pub earlier_attempts: u32,
    pub end: SpanEnd,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanEnd {
    /// DevRev answered with this status.
    Answered(u16),
    /// There was no answer.
    Failed(Code),
    /// The client left before the answer.
    Left,
}

/// The queue of finished spans for the exporter. Bounded; a full queue drops spans and never blocks.
pub struct Spans {
    queue: mpsc::Sender<Span>,
    /// The share of new traces that is recorded.
    sample: f64,
    metrics: Arc<Metrics>,
}

impl Spans {
    pub fn new(
        sample: f64,
        capacity: usize,
        metrics: Arc<Metrics>,
    ) -> (Spans, mpsc::Receiver<Span>) {
        let (queue, spans) = mpsc::channel(capacity);
        let sender = Spans {
            queue,
            sample,
            metrics,
        };
        (sender, spans)
    }

    fn push(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.metrics.spans_dropped(SpanDrop::QueueFull, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(traceparent: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static(traceparent));
        headers
    }

    fn spans(sample: f64, capacity: usize) -> (Arc<Spans>, mpsc::Receiver<Span>) {
        let (spans, queue) = Spans::new(sample, capacity, Arc::default());
        (Arc::new(spans), queue)
    }

    #[tokio::test]
    async fn without_an_exporter_a_trace_allocates_nothing_and_keeps_nothing() {
        let (none, some) = (HeaderMap::new(), headers(PARENT));
        random::id64();
        let cost = allocation_counter::measure(|| {
            for headers in [&none, &some] {
                let now = Instant::now();
                let trace = Trace::begin(headers, None, now);
                trace.record_wait(now, WaitReason::Quota);
                trace.record_request(now, || unreachable!());
                assert!(trace.live.is_none());
            }
        });
        assert_eq!(cost.count_total, 0);
        // The caller's sampled flag is passed on; a new trace without an exporter is not sampled.
        assert!(Trace::begin(&some, None, Instant::now()).flags.sampled());
        assert!(!Trace::begin(&none, None, Instant::now()).flags.sampled());
    }

    #[tokio::test]
    async fn the_callers_sampled_flag_overrides_the_share() {
        let now = Instant::now();
        let kept = |headers: &HeaderMap, sample| {
            let (spans, _queue) = spans(sample, 1);
            Trace::begin(headers, Some(&spans), now).live.is_some()
        };
        assert!(kept(&headers(PARENT), 0.0));
        let not = headers("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        assert!(!kept(&not, 1.0));
        assert!(kept(&HeaderMap::new(), 1.0));
        assert!(!kept(&HeaderMap::new(), 0.0));
    }

    #[test]
    fn a_method_of_any_length_is_short_in_a_span() {
        let long = Method::from_bytes(&[b'A'; 60_000]).unwrap();
        assert_eq!(short_method(&long).as_str(), "_OTHER");
        for method in ["GET", "OPTIONS", "CONNECT", "PURGE"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(short_method(&method), method);
        }
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts() {
        let (spans, mut queue) = spans(1.0, 2);
        let trace = Trace::begin(&HeaderMap::new(), Some(&spans), Instant::now());
        for _ in 0..5 {
            trace.record_wait(Instant::now(), WaitReason::Quota);
        }
        let mut kept = Vec::new();
        assert_eq!(queue.recv_many(&mut kept, 9).await, 2);
        let text = spans.metrics.encode();
        let row = r#"revgate_trace_spans_dropped_total{reason="queue_full"} 3"#;
        assert!(text.contains(row), "{text}");
        assert_ne!(kept[0].id, kept[1].id);
        assert_eq!(kept[0].parent, kept[1].parent);
    }
}
