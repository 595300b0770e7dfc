//! Outermost: sees every request's end, also of refusals, panics and callers that left.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response};
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{headers::X_REQUEST_ID, other};
use crate::{
    body::{Body, Guard},
    policy::headers::sane_request_id,
    record::Record,
    telemetry::{
        metrics::Metrics,
        tally::{self, Ended, Tally},
    },
    types::RequestId,
};

pub struct Parameters {
    pub metrics: Arc<Metrics>,
    pub tally: Arc<Tally>,
    pub access: Access,
}

/// Which requests get a line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    All,
    /// Made by revgate, or failed.
    Refused,
    None,
}

#[derive(Clone)]
pub struct TelemetryLayer(Arc<Parameters>);

impl TelemetryLayer {
    pub fn new(parameters: Parameters) -> Self {
        TelemetryLayer(Arc::new(parameters))
    }
}

impl<S> Layer<S> for TelemetryLayer {
    type Service = Telemetry<S>;

    fn layer(&self, inner: S) -> Telemetry<S> {
        Telemetry {
            inner,
            parameters: self.0.clone(),
        }
    }
}

#[derive(Clone)]
pub struct Telemetry<S> {
    inner: S,
    parameters: Arc<Parameters>,
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
        let record = Record::default();
        request.extensions_mut().insert(id.clone());
        request.extensions_mut().insert(record.clone());
        self.parameters.metrics.in_flight(1);
        let mut end = End {
            parameters: self.parameters.clone(),
            record,
            id,
            method: request.method().clone(),
            start: Instant::now(),
            status: None,
            bytes: 0,
            whole: false,
        };
        let below = self.inner.call(request);
        Box::pin(async move {
            let response = below.await?;
            end.status = Some(response.status().as_u16());
            end.whole = http_body::Body::is_end_stream(response.body());
            Ok(response.map(|body| body.guarded(end)))
        })
    }
}

fn request_id<B>(request: &Request<B>) -> RequestId {
    match request.headers().get(X_REQUEST_ID) {
        Some(id) if sane_request_id(id) => RequestId(id.clone()),
        _ => {
            let id = format!("{:032x}", fastrand::u128(..));
            RequestId(HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("unknown")))
        }
    }
}

/// Lives until the answer's body ends or the caller leaves, and then tells what became of the request.
struct End {
    parameters: Arc<Parameters>,
    record: Record,
    id: RequestId,
    method: http::Method,
    start: Instant,
    status: Option<u16>,
    bytes: u64,
    whole: bool,
}

impl Guard for End {
    fn finished(&mut self) {
        self.whole = true;
    }

    fn data(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

/// nginx's number for a caller that left before its answer.
const CALLER_LEFT: u16 = 499;

impl Drop for End {
    fn drop(&mut self) {
        let Parameters {
            metrics,
            tally,
            access,
        } = &*self.parameters;
        metrics.in_flight(-1);
        let facts = self.record.facts();
        let caller = facts.caller.clone().unwrap_or_else(other);
        let operation = facts.operation.unwrap_or("other");
        let seconds = self.start.elapsed().as_secs_f64();
        let status = self.status.unwrap_or(CALLER_LEFT);
        let source = if facts.code.is_some() || self.status.is_none() {
            "gateway"
        } else {
            "upstream"
        };
        metrics.request(&caller, operation, status, source, seconds);
        if let Some(code) = facts.code {
            metrics.refused(&caller, code);
        }
        for field in &facts.deprecated {
            metrics.deprecated(&caller, operation, field);
        }
        let ended = Ended {
            caller: &caller,
            operation,
            status,
            code: facts.code,
            attempts: facts.attempts,
            throttled: facts.throttled,
            fields: &facts.deprecated,
            deprecated_operation: facts.deprecated_operation,
        };
        tally.note(ended, tally::now());
        let failed = facts.code.is_some() || status >= 500 || self.status.is_none();
        if *access == Access::All || (*access == Access::Refused && failed) {
            tracing::info!(
                request_id = self.id.as_str(),
                caller = &*caller,
                method = self.method.as_str(),
                operation,
                status,
                source,
                code = facts.code.unwrap_or(""),
                attempts = facts.attempts,
                wait_ms = facts.waited.as_millis() as u64,
                duration_ms = self.start.elapsed().as_millis() as u64,
                bytes = self.bytes,
                complete = self.whole,
                "request"
            );
        }
    }
}
