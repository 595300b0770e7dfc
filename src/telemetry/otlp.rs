//! Spans as OTLP says them: the few messages of `opentelemetry.proto.collector.trace.v1` that are used here, and the names of
//! OpenTelemetry's semantic conventions for HTTP. Field numbers are fixed since OTLP 1.0.

use std::{borrow::Cow, time::Duration};

use http::Method;
use prost::Message;

use super::trace::{End, Span, What};
use crate::policy::operation::OperationLabel;

#[derive(Clone, PartialEq, Message)]
pub struct Request {
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

/// What a receiver answers.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub rejected_spans: i64,
}

const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const STATUS_ERROR: i32 = 2;
/// The trace is sampled; whether the parent is remote is known; it is.
const SAMPLED: u32 = 0x001;
const KNOWS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// What is the same for every span of a process.
#[derive(Clone, Debug)]
pub struct Origin {
    pub service_name: String,
    /// DevRev's side of an attempt.
    pub server_address: String,
    pub server_port: u16,
}

/// Some spans as one message.
pub fn request(origin: &Origin, spans: &[Span]) -> Request {
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
    let (name, kind, attributes, failed) = match &span.what {
        What::Request { .. } => of_request(&span.what),
        What::Attempt { .. } => of_attempt(origin, &span.what),
        What::Wait { reason } => (
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

type Parts = (String, i32, Vec<KeyValue>, bool);

fn of_request(what: &What) -> Parts {
    let What::Request {
        method,
        operation,
        caller,
        request_id,
        status,
        code,
        would_refuse,
        decision,
        attempts,
        waited,
    } = what
    else {
        return Parts::default();
    };
    let mut all = http(method, *operation);
    all.push(text("revgate.caller", caller));
    all.push(text("revgate.decision", decision.label()));
    all.push(text(
        "revgate.request_id",
        request_id.to_str().unwrap_or(""),
    ));
    all.push(integer("revgate.attempts", i64::from(*attempts)));
    all.push(number("revgate.wait_ms", waited.as_micros() as f64 / 1e3));
    if let Some(code) = would_refuse {
        all.push(text("revgate.would_refuse", code.label()));
    }
    if let Some(operation) = operation.known() {
        all.push(text("http.route", &format!("/{operation}")));
    }
    // A server's span failed when the server did; what a caller did wrong, or that it left, is not that.
    let failed = status.is_some_and(|status| status >= 500);
    if let Some(status) = status {
        all.push(integer("http.response.status_code", i64::from(*status)));
        match code {
            Some(code) => all.push(text("error.type", code.label())),
            None if failed => all.push(text("error.type", &status.to_string())),
            None => {}
        }
    }
    (name(method, *operation), SERVER, all, failed)
}

fn of_attempt(origin: &Origin, what: &What) -> Parts {
    let What::Attempt {
        method,
        operation,
        before,
        end,
    } = what
    else {
        return Parts::default();
    };
    let mut all = http(method, *operation);
    all.push(text("server.address", &origin.server_address));
    all.push(integer("server.port", i64::from(origin.server_port)));
    if *before > 0 {
        all.push(integer("http.request.resend_count", i64::from(*before)));
    }
    let error = match end {
        End::Answered(status) => {
            all.push(integer("http.response.status_code", i64::from(*status)));
            (*status >= 400).then(|| status.to_string().into())
        }
        End::Failed(code) => Some(Cow::from(code.label())),
        End::Left => Some(CALLER_LEFT.into()),
    };
    let failed = error.is_some();
    if let Some(error) = error {
        all.push(text("error.type", &error));
    }
    (name(method, *operation), CLIENT, all, failed)
}

/// The error of an attempt whose caller did not wait for it.
const CALLER_LEFT: &str = "caller_left";

/// Of an operation that is not known, the path may hold anything: it is not told.
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

/// A method is whatever a caller writes; the conventions ask for those of RFC 9110 and RFC 5789 alone.
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
