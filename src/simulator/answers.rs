//! Answers, and errors in the shape of DevRev's.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::plan::Status;

#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Whole(Bytes),
    Events(Vec<Bytes>),
    Blob(u64),
}

impl Answer {
    pub(super) fn json(status: StatusCode, body: &Value) -> Self {
        Self::text(status, body.to_string())
    }

    /// JSON that is text already.
    pub(super) fn text(status: StatusCode, body: String) -> Self {
        Self::new(status, "application/json", Content::Whole(body.into()))
    }

    pub(super) fn error(status: StatusCode, kind: &str, message: &str) -> Self {
        Self::json(status, &json!({"type": kind, "message": message}))
    }

    pub(super) fn from_plan(status: &Status) -> Self {
        let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = match &status.body {
            Some(Value::String(text)) => {
                Self::new(code, "text/plain", Content::Whole(text.clone().into()))
            }
            Some(value) => Self::json(code, value),
            None => {
                let mut body = json!({"type": kind_of(status.code), "message": "as planned"});
                if let Some(seconds) = status.retry_after {
                    body["retry_after"] = seconds.into();
                }
                Self::json(code, &body)
            }
        };
        if let Some(seconds) = status.retry_after {
            answer.headers.insert(header::RETRY_AFTER, seconds.into());
        }
        for (name, value) in &status.headers {
            if let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), value.parse::<HeaderValue>())
            {
                answer.headers.insert(name, value);
            }
        }
        answer
    }

    pub(super) fn new(status: StatusCode, media: &'static str, content: Content) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        Self {
            status,
            headers,
            content,
        }
    }

    pub(super) fn ok(body: &Value) -> Self {
        Self::json(StatusCode::OK, body)
    }
}

fn kind_of(status: u16) -> &'static str {
    match status {
        401 => "unauthenticated",
        403 => "forbidden",
        404 => "not_found",
        409 => "conflict",
        413 => "request_entity_too_large",
        429 => "too_many_requests",
        503 => "service_unavailable",
        500..=599 => "internal_error",
        _ => "bad_request",
    }
}

pub(super) fn bad_request(body: Value) -> Answer {
    Answer::json(StatusCode::BAD_REQUEST, &body)
}

/// A 400 about one field.
pub(super) fn field(kind: &str, name: &str, message: &str) -> Answer {
    bad_request(json!({"type": kind, "message": message, "field_name": name}))
}

pub(super) fn not_found(message: &str) -> Answer {
    Answer::error(StatusCode::NOT_FOUND, "not_found", message)
}

/// DevRev's answer to a path that it does not know has no type.
pub(super) fn no_route() -> Answer {
    let body = json!({"message": "route not found"});
    Answer::json(StatusCode::NOT_FOUND, &body)
}

/// `allowed` as in the field of this name.
pub(super) fn method_not_allowed(allowed: &'static str) -> Answer {
    let message = format!("method not allowed; use {allowed}");
    let mut answer = Answer::error(StatusCode::METHOD_NOT_ALLOWED, "bad_request", &message);
    answer
        .headers
        .insert(header::ALLOW, HeaderValue::from_static(allowed));
    answer
}

pub(super) fn too_large(bytes: usize) -> Answer {
    let body = json!({
        "type": "request_entity_too_large",
        "message": format!("the body must have at most {bytes} bytes"),
        "max_bytes": bytes,
    });
    Answer::json(StatusCode::PAYLOAD_TOO_LARGE, &body)
}

pub(super) fn unauthenticated() -> Answer {
    let message = "Authentication information is missing or invalid";
    Answer::error(StatusCode::UNAUTHORIZED, "unauthenticated", message)
}

pub(super) fn too_many(seconds: u64) -> Answer {
    let body = json!({
        "type": "too_many_requests",
        "message": "Too many requests, retry after the time given",
        "retry_after": seconds,
    });
    let mut answer = Answer::json(StatusCode::TOO_MANY_REQUESTS, &body);
    answer.headers.insert(header::RETRY_AFTER, seconds.into());
    answer
}

/// A parameter's value, decoded.
pub(super) fn param<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (decoded(key), decoded(value)))
        .find_map(|(key, value)| (key == name).then_some(value))
}

pub(super) fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// # Errors
/// When it is none.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, Box<Answer>> {
    let refuse =
        |kind, message: &str| Box::new(Answer::error(StatusCode::BAD_REQUEST, kind, message));
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(refuse("bad_request", "the body must be a JSON object")),
        Err(error) => Err(refuse("parse_error", &error.to_string())),
    }
}
