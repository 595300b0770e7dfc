//! Metrics, access log and spans of every request. The outermost layer, so it sees refusals, panics and clients that leave as well.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response};
use tokio::time::Instant;
use tower::Service;

use crate::{
    body::{Body, Guard, InboundFault},
    error::Code,
    policy::{headers::sane_request_id, http1::MAX_METHOD, operation::OperationLabel},
    record::{Facts, Record},
    telemetry::{
        client_lines::{ClientLines, Ending, Topic},
        labels::Source,
        log::{ACCESS, short},
        metrics::Metrics,
        tally::{FinishedRequest, Tally},
        trace::{RequestSpan, Spans, Trace, short_method},
    },
    types::{AccessLog, PeerAddress, RequestId, other},
    wall_clock,
};

/// What [`Telemetry`] needs.
pub(crate) struct TelemetryParams {
    pub metrics: Arc<Metrics>,
    pub tally: Arc<Tally>,
    pub access: AccessLog,
    pub client_lines: Arc<ClientLines>,
    /// `None` if no spans are exported.
    pub spans: Option<Arc<Spans>>,
}

#[derive(Clone)]
pub(crate) struct Telemetry<S> {
    inner: S,
    params: Arc<TelemetryParams>,
}

impl<S> Telemetry<S> {
    pub(crate) fn new(inner: S, params: Arc<TelemetryParams>) -> Self {
        Telemetry { inner, params }
    }
}

impl<S> Service<Request<Body>> for Telemetry<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let id = request_id(&request);
        let start = Instant::now();
        let spans = self.params.spans.as_ref();
        let record = Record::new(Trace::begin(request.headers(), spans, start));
        request.extensions_mut().insert(id.clone());
        request.extensions_mut().insert(record.clone());
        self.params.metrics.in_flight(1);
        let mut report = ReportAtEnd {
            params: self.params.clone(),
            record,
            id,
            method: request.method().clone(),
            start,
            inbound: request.extensions().get::<InboundFault>().cloned(),
            peer: request.extensions().get::<PeerAddress>().copied(),
            status: None,
            bytes: 0,
            complete: false,
            reported: false,
        };
        let below = self.inner.call(request);
        Box::pin(async move {
            let response = below.await?;
            report.status = Some(response.status().as_u16());
            report.complete = http_body::Body::is_end_stream(response.body());
            Ok(response.map(|body| body.guarded(report)))
        })
    }
}

fn request_id<B>(request: &Request<B>) -> RequestId {
    match request.headers().get(RequestId::HEADER) {
        // A copy: log, span and answer would keep the buffer of the whole head otherwise.
        Some(id) if sane_request_id(id) => RequestId(
            HeaderValue::from_bytes(id.as_bytes()).unwrap_or_else(|_| RequestId::random().0),
        ),
        _ => RequestId::random(),
    }
}

/// Reports the request when the answer's body ends or the client leaves. The body itself may be held longer, until it is written.
struct ReportAtEnd {
    params: Arc<TelemetryParams>,
    record: Record,
    id: RequestId,
    method: http::Method,
    start: Instant,
    /// Has the size of the request's body.
    inbound: Option<InboundFault>,
    peer: Option<PeerAddress>,
    status: Option<u16>,
    /// Size of the answer's body.
    bytes: u64,
    complete: bool,
    reported: bool,
}

impl Guard for ReportAtEnd {
    fn finished(&mut self) {
        self.complete = true;
        self.report();
    }

    fn data(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

/// nginx's status for a client that left before the answer.
const CALLER_LEFT: u16 = 499;

impl Drop for ReportAtEnd {
    fn drop(&mut self) {
        self.report();
    }
}

impl ReportAtEnd {
    fn report(&mut self) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        let TelemetryParams { metrics, tally, .. } = &*self.params;
        metrics.in_flight(-1);
        let facts = self.record.facts();
        let caller = facts.caller.clone().unwrap_or_else(other);
        let operation = facts.operation.unwrap_or(OperationLabel::OTHER);
        let seconds = self.start.elapsed().as_secs_f64();
        let source = if facts.code.is_some() || self.status.is_none() {
            Source::Gateway
        } else {
            Source::Upstream
        };
        metrics.request(&caller, operation, self.status(), source, seconds);
        metrics.caller_times(&caller, seconds, facts.waited.as_secs_f64());
        if let Some(code) = facts.code {
            metrics.refused(&caller, code);
        }
        for field in &facts.deprecated {
            metrics.deprecated(&caller, operation, field);
        }
        if facts.deprecated_operation {
            metrics.deprecated_operation(&caller, operation);
        }
        let finished = FinishedRequest {
            caller: &caller,
            operation,
            status: self.status(),
            code: facts.code,
            would_refuse: facts.would_refuse.is_some(),
            attempts: facts.attempts,
            waited: facts.waited,
            fields: &facts.deprecated,
            deprecated_operation: facts.deprecated_operation,
        };
        tally.note(finished, wall_clock::epoch_seconds());
        self.trace(&facts, &caller, operation);
        if self.is_logged(&facts) {
            self.log_access(&facts, &caller, operation, source);
        }
    }

    fn status(&self) -> u16 {
        self.status.unwrap_or(CALLER_LEFT)
    }

    fn is_logged(&self, facts: &Facts) -> bool {
        let chosen = match self.params.access {
            AccessLog::All => true,
            AccessLog::Refused => {
                facts.code.is_some() || facts.would_refuse.is_some() || self.status() >= 499
            }
            AccessLog::None => false,
        };
        // Anybody can be an unknown client, so its lines are limited. Those of a caller are limited unless each is wanted.
        chosen
            && match &facts.caller {
                None => self.unknown_client_passes(facts),
                Some(_) if self.params.access == AccessLog::All => true,
                Some(caller) => {
                    let lines = &self.params.client_lines;
                    lines.try_pass_caller(caller, self.ending(facts))
                }
            }
    }

    fn ending(&self, facts: &Facts) -> Ending {
        match (facts.code, facts.would_refuse) {
            (Some(code), _) => Ending::Refused(code),
            _ if self.status.is_none() => Ending::Left,
            (None, Some(code)) => Ending::WouldBeRefused(code),
            (None, None) => Ending::Failed,
        }
    }

    fn unknown_client_passes(&self, facts: &Facts) -> bool {
        let peer = self.peer.and_then(|peer| peer.ip());
        let topic = Topic::Request(facts.code);
        self.params.client_lines.try_pass(topic, peer)
    }

    /// Writes the access line. Names and numbers only: no target, query, header or body.
    fn log_access(&self, facts: &Facts, caller: &str, operation: OperationLabel, source: Source) {
        let trace_id = self.record.trace().map(Trace::id);
        tracing::info!(
            target: ACCESS,
            request_id = self.id.as_str(),
            trace_id = trace_id.map(tracing::field::display),
            peer = self.peer.as_ref().map(PeerAddress::shown),
            caller,
            method = short(self.method.as_str(), MAX_METHOD),
            operation = operation.label(),
            status = self.status(),
            source = source.label(),
            code = facts.code.map_or("", Code::label),
            would_refuse = facts.would_refuse.map_or("", Code::label),
            decision = facts.decision(self.status.is_some()).label(),
            attempts = facts.attempts,
            wait_ms = milliseconds(facts.waited),
            upstream_ms = milliseconds(facts.upstream),
            duration_ms = milliseconds(self.start.elapsed()),
            bytes_in = self.inbound.as_ref().map_or(0, InboundFault::bytes),
            bytes_out = self.bytes,
            complete = self.complete,
            "request"
        );
    }

    fn trace(&self, facts: &Facts, caller: &Arc<str>, operation: OperationLabel) {
        let Some(trace) = self.record.trace() else {
            return;
        };
        trace.record_request(self.start, || RequestSpan {
            method: short_method(&self.method),
            operation,
            caller: caller.clone(),
            request_id: self.id.0.clone(),
            status: self.status,
            code: facts.code,
            would_refuse: facts.would_refuse,
            decision: facts.decision(self.status.is_some()),
            attempts: facts.attempts,
            waited: facts.waited,
        });
    }
}

/// To the microsecond.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::telemetry::captured::Captured;

    /// The decisions in the lines of three requests: one is forwarded, one would have been refused, and one is left by its client.
    async fn lines(access: AccessLog) -> Vec<String> {
        let captured = Captured::default();
        let _logging = tracing::subscriber::set_default(captured.subscriber());
        let params = Arc::new(TelemetryParams {
            metrics: Arc::default(),
            tally: Arc::default(),
            access,
            client_lines: Arc::default(),
            spans: None,
        });
        let inner = service_fn(|request: Request<Body>| async move {
            match request.uri().path() {
                "/leave" => std::future::pending::<()>().await,
                "/let-pass" => {
                    super::super::record(&request).facts().would_refuse = Some(Code::Forbidden);
                }
                _ => {}
            }
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        let service = Telemetry::new(inner, params);
        for path in ["/", "/let-pass", "/leave"] {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = path.parse().unwrap();
            let call = service.clone().oneshot(request);
            let _ = tokio::time::timeout(Duration::from_millis(20), call).await;
        }
        let text = captured.text();
        let lines = text.lines().filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            (line["target"] == ACCESS)
                .then(|| format!("{}{}", line["decision"], line["would_refuse"]))
        });
        lines.collect()
    }

    #[tokio::test]
    async fn a_request_that_would_be_refused_is_logged_as_a_refusal() {
        let (pass, left) = (r#""forwarded""forbidden""#, r#""left""""#);
        assert_eq!(lines(AccessLog::Refused).await, [pass, left]);
        assert_eq!(
            lines(AccessLog::All).await,
            [r#""forwarded""""#, pass, left]
        );
        assert!(lines(AccessLog::None).await.is_empty());
    }
}
