//! The answer of each operation without faults.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::plan::Status;

/// The number of works, and of accounts.
const OBJECTS: u64 = 120;
const PAGE: u64 = 50;
const PAGE_MAX: u64 = 100;

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
        Self::new(
            status,
            "application/json",
            Content::Whole(body.to_string().into()),
        )
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

    fn new(status: StatusCode, media: &'static str, content: Content) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        Self {
            status,
            headers,
            content,
        }
    }

    fn ok(body: &Value) -> Self {
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

fn field(kind: &str, name: &str, message: &str) -> Answer {
    let body = json!({"type": kind, "message": message, "field_name": name});
    Answer::json(StatusCode::BAD_REQUEST, &body)
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

pub(super) fn answer(
    method: &Method,
    operation: &str,
    query: &str,
    body: &[u8],
    user: Option<String>,
) -> Answer {
    let post = method == Method::POST;
    let reads = post || method == Method::GET;
    match operation {
        "rev-users.link" | "rev-users.unlink" if post => link(body),
        "works.list" if reads => list("works", work, post, query, body),
        "accounts.list" if reads => list("accounts", account, post, query, body),
        "works.get" if reads => get_work(post, query, body),
        "dev-users.self" if reads => Answer::ok(&json!({"dev_user": dev_user()})),
        "auth-tokens.info" if reads => {
            let user = user.map_or_else(|| dev_user()["id"].clone(), Value::from);
            Answer::ok(&json!({
                "token_id": "don:identity:dvrv-us-1:devo/0:token/1",
                "dev_org_id": "don:identity:dvrv-us-1:devo/0",
                "user_id": user,
                "subject": user,
                "issued_at": "2026-01-01T00:00:00.000Z",
                "expires_at": "2099-01-01T00:00:00.000Z",
            }))
        }
        "recommendations.chat.completions" if post => {
            let mut events: Vec<Bytes> = ["Linking", " a", " user", " is", " easy."]
                .iter()
                .map(|text| format!("data: {}\n\n", json!({"text_response": text})).into())
                .collect();
            events.push(Bytes::from_static(b"data: [DONE]\n\n"));
            Answer::new(StatusCode::OK, "text/event-stream", Content::Events(events))
        }
        "_blob" if method == Method::GET => match param(query, "bytes").map(|text| text.parse()) {
            Some(Ok(bytes)) => Answer::new(
                StatusCode::OK,
                "application/octet-stream",
                Content::Blob(bytes),
            ),
            _ => field("invalid_field", "bytes", "bytes must be a whole number"),
        },
        "mcp/v1" => Answer::ok(&json!({})),
        _ if operation.starts_with("internal/") => Answer::ok(&json!({})),
        _ => {
            let body = json!({"message": "route not found"});
            Answer::json(StatusCode::NOT_FOUND, &body)
        }
    }
}

/// A parameter's value, decoded.
pub(super) fn param<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (decoded(key), decoded(value)))
        .find_map(|(key, value)| (key == name).then_some(value))
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Box<Answer>> {
    let refuse =
        |kind, message: &str| Box::new(Answer::error(StatusCode::BAD_REQUEST, kind, message));
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(refuse("bad_request", "the body must be a JSON object")),
        Err(error) => Err(refuse("parse_error", &error.to_string())),
    }
}

fn link(body: &[u8]) -> Answer {
    let map = match object(body) {
        Ok(map) => map,
        Err(refused) => return *refused,
    };
    for (name, value) in &map {
        if !["id", "user_don", "rev_org", "rev_org_don"].contains(&name.as_str()) {
            return field("bad_request", name, "unexpected field");
        }
        if !value.is_string() && !value.is_null() {
            return field("invalid_field", name, "must be a string");
        }
    }
    let given = |new: &str, old: &str| {
        let value = map.get(new).or_else(|| map.get(old));
        value.and_then(Value::as_str).map(str::to_owned)
    };
    let (user, org) = (given("id", "user_don"), given("rev_org", "rev_org_don"));
    // DevRev's specification makes both optional, but without either there is nothing to link.
    if user.is_none() && org.is_none() {
        return field("missing_required_field", "id", "id is required");
    }
    let org = org.unwrap_or_else(|| "don:identity:dvrv-us-1:devo/0:revo/7".to_owned());
    Answer::ok(&json!({"rev_user": {
        "type": "rev_user",
        "id": user.unwrap_or_else(|| "don:identity:dvrv-us-1:devo/0:revu/131".to_owned()),
        "display_id": "REVU-131",
        "display_name": "Ada Lovelace",
        "full_name": "Ada Lovelace",
        "email": "ada@example.com",
        "external_ref": "ada@example.com",
        "rev_org": {
            "type": "rev_org", "id": org, "display_id": "REV-7", "display_name": "Analytical Engines",
        },
        "created_date": "2025-03-01T09:30:00.000Z",
        "modified_date": "2025-03-27T12:00:00.000Z",
        "is_verified": true,
        "state": "active",
    }}))
}

fn list(name: &str, make: fn(u64) -> Value, post: bool, query: &str, body: &[u8]) -> Answer {
    let (limit, cursor) = if post && !body.is_empty() {
        let map = match object(body) {
            Ok(map) => map,
            Err(refused) => return *refused,
        };
        let text = |key: &str| match map.get(key) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Null) | None => None,
            Some(other) => Some(other.to_string()),
        };
        (text("limit"), text("cursor"))
    } else {
        let text = |key| param(query, key).map(Cow::into_owned);
        (text("limit"), text("cursor"))
    };
    let limit = match limit.map_or(Ok(PAGE), |text| text.parse()) {
        Ok(limit) if limit > 0 => limit.min(PAGE_MAX),
        _ => return field("invalid_field", "limit", "limit must be a positive number"),
    };
    let start = match cursor.filter(|text| !text.is_empty()) {
        None => 0,
        Some(text) => match text.strip_prefix("after-").map(str::parse::<u64>) {
            Some(Ok(start)) if start <= OBJECTS => start,
            _ => return field("invalid_field", "cursor", "not a cursor of this list"),
        },
    };
    let end = (start + limit).min(OBJECTS);
    let mut page = json!({name: (start + 1..=end).map(make).collect::<Vec<_>>()});
    if end < OBJECTS {
        page["next_cursor"] = format!("after-{end}").into();
    }
    Answer::ok(&page)
}

fn get_work(post: bool, query: &str, body: &[u8]) -> Answer {
    let id = if post {
        match object(body) {
            Ok(map) => map.get("id").and_then(Value::as_str).map(str::to_owned),
            Err(refused) => return *refused,
        }
    } else {
        param(query, "id").map(Cow::into_owned)
    };
    let Some(id) = id else {
        return field("missing_required_field", "id", "id is required");
    };
    let number = id.rsplit(['-', '/']).next().map(str::parse);
    match number {
        Some(Ok(number)) if (1..=OBJECTS).contains(&number) => {
            Answer::ok(&json!({"work": work(number)}))
        }
        _ => Answer::error(StatusCode::NOT_FOUND, "not_found", "work not found"),
    }
}

fn work(number: u64) -> Value {
    json!({
        "type": "ticket",
        "id": format!("don:core:dvrv-us-1:devo/0:ticket/{number}"),
        "display_id": format!("TKT-{number}"),
        "title": format!("Ticket {number}"),
        "created_date": "2025-03-01T09:30:00.000Z",
        "owned_by": [dev_user()],
        "stage": {"name": "queued"},
    })
}

fn account(number: u64) -> Value {
    json!({
        "type": "account",
        "id": format!("don:identity:dvrv-us-1:devo/0:account/{number}"),
        "display_id": format!("ACC-{number}"),
        "display_name": format!("Account {number}"),
        "created_date": "2025-03-01T09:30:00.000Z",
    })
}

fn dev_user() -> Value {
    json!({
        "type": "dev_user",
        "id": "don:identity:dvrv-us-1:devo/0:devu/1",
        "display_id": "DEVU-1",
        "display_name": "Grace Hopper",
        "email": "grace@example.com",
        "state": "active",
    })
}
