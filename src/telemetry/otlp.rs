//! Spans in OTLP: the messages of `opentelemetry.proto.collector.trace.v1` that are used here, with attributes by OpenTelemetry's
//! semantic conventions for HTTP. OTLP 1.0 froze the field numbers.

use std::{borrow::Cow, time::Duration};

use http::Method;
use prost::Message;

use super::trace::{AttemptSpan, RequestSpan, Span, SpanDetails, SpanEnd};
use crate::policy::operation::OperationLabel;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<WireSpan>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3, 4")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Integer(i64),
    #[prost(double, tag = "4")]
    Number(f64),
}

/// A receiver's answer.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub rejected_spans: i64,
}

const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const STATUS_ERROR: i32 = 2;
/// Span flags: the trace is sampled, it is known whether the parent is remote, the parent is remote.
const SAMPLED: u32 = 0x001;
const KNOWS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// The attributes that all spans of a process share.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub service_name: String,
    /// DevRev's side of an attempt.
    pub server_address: String,
    pub server_port: u16,
}

/// The message that exports these spans.
pub(crate) fn request(origin: &Origin, spans: &[Span]) -> Request {
    let version = env!("CARGO_PKG_VERSION");
    Request {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![
                    text("service.name", &origin.service_name),
                    text("service.version", version),
                ],
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(Scope {
                    name: "revgate".into(),
                    version: version.into(),
                }),
                spans: spans.iter().map(|span| wire(origin, span)).collect(),
            }],
        }],
    }
}

fn wire(origin: &Origin, span: &Span) -> WireSpan {
    let (name, kind, attributes, failed) = match &span.details {
        SpanDetails::Request(request) => of_request(request),
        SpanDetails::Attempt(attempt) => of_attempt(origin, attempt),
        SpanDetails::Wait(reason) => (
            format!("wait {}", reason.label()),
            INTERNAL,
            vec![text("revgate.reason", reason.label())],
            false,
        ),
    };
    let remote = if span.remote_parent && span.parent.is_some() {
        IS_REMOTE
    } else {
        0
    };
    WireSpan {
        trace_id: span.trace.to_bytes().to_vec(),
        span_id: span.id.to_bytes().to_vec(),
        parent_span_id: span
            .parent
            .map_or_else(Vec::new, |id| id.to_bytes().to_vec()),
        name,
        kind,
        start_time_unix_nano: nanoseconds(span.start),
        end_time_unix_nano: nanoseconds(span.end),
        attributes,
        status: failed.then_some(Status { code: STATUS_ERROR }),
        flags: SAMPLED | KNOWS_REMOTE | remote,
    }
}

/// Name, kind, attributes, and whether it failed.
type Parts = (String, i32, Vec<KeyValue>, bool);

fn of_request(span: &RequestSpan) -> Parts {
    let mut all = http(&span.method, span.operation);
    all.push(text("revgate.caller", &span.caller));
    all.push(text("revgate.decision", span.decision.label()));
    let request_id = span.request_id.to_str().unwrap_or("");
    all.push(text("revgate.request_id", request_id));
    all.push(integer("revgate.attempts", i64::from(span.attempts)));
    let waited = span.waited.as_micros() as f64 / 1e3;
    all.push(number("revgate.wait_ms", waited));
    if let Some(code) = span.would_refuse {
        all.push(text("revgate.would_refuse", code.label()));
    }
    if let Some(operation) = span.operation.known() {
        all.push(text("http.route", &format!("/{operation}")));
    }
    // By the conventions a server span fails with the server, not because the client erred or left.
    let failed = span.status.is_some_and(|status| status >= 500);
    if let Some(status) = span.status {
        all.push(integer("http.response.status_code", i64::from(status)));
        match span.code {
            Some(code) => all.push(text("error.type", code.label())),
            None if failed => all.push(text("error.type", &status.to_string())),
            None => {}
        }
    }
    (name(&span.method, span.operation), SERVER, all, failed)
}

fn of_attempt(origin: &Origin, span: &AttemptSpan) -> Parts {
    let mut all = http(&span.method, span.operation);
    all.push(text("server.address", &origin.server_address));
    all.push(integer("server.port", i64::from(origin.server_port)));
    if span.earlier_attempts > 0 {
        let count = i64::from(span.earlier_attempts);
        all.push(integer("http.request.resend_count", count));
    }
    let error = match span.end {
        SpanEnd::Answered(status) => {
            all.push(integer("http.response.status_code", i64::from(status)));
            (status >= 400).then(|| status.to_string().into())
        }
        SpanEnd::Failed(code) => Some(Cow::from(code.label())),
        SpanEnd::Left => Some(CALLER_LEFT.into()),
    };
    let failed = error.is_some();
    if let Some(error) = error {
        all.push(text("error.type", &error));
    }
    (name(&span.method, span.operation), CLIENT, all, failed)
}

/// The `error.type` of an attempt whose client left.
const CALLER_LEFT: &str = "caller_left";

/// The path is left out for unknown operations, since it may hold anything.
fn http(method: &Method, operation: OperationLabel) -> Vec<KeyValue> {
    let mut all = vec![text(
        "http.request.method",
        known(method).unwrap_or("_OTHER"),
    )];
    if let Some(operation) = operation.known() {
        all.push(text("url.path", &format!("/{operation}")));
    }
    all
}

fn name(method: &Method, operation: OperationLabel) -> String {
    let method = known(method).unwrap_or("HTTP");
    match operation.known() {
        Some(operation) => format!("{method} /{operation}"),
        None => method.into(),
    }
}

/// The conventions allow only the methods of RFC 9110 and RFC 5789, while a client may send any.
fn known(method: &Method) -> Option<&str> {
    match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE"
        | "PATCH") => Some(known),
        _ => None,
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::Text(value.into()))
}

fn integer(key: &str, value: i64) -> KeyValue {
    pair(key, Value::Integer(value))
}

fn number(key: &str, value: f64) -> KeyValue {
    pair(key, Value::Number(value))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
    }
}
