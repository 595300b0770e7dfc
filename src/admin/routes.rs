//! The paths and their answers.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{Control, READ_TIMEOUT, guard::AccessGuard, page};
use crate::policy::exposition;

const MAX_BODY: usize = 64 * 1024;
type Answer = Response<Full<Bytes>>;

pub(super) struct AdminState {
    pub guard: AccessGuard,
    pub control: Arc<dyn Control>,
}

pub(super) async fn answer(
    state: Arc<AdminState>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let mut response = route(&state, request).await;
    let headers = response.headers_mut();
    let policy = HeaderValue::from_str(&page::POLICY);
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        policy.unwrap_or(HeaderValue::from_static("default-src 'none'")),
    );
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // A page that opened this one gets no reference to its window.
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

async fn route(state: &AdminState, request: Request<Incoming>) -> Answer {
    if let Err((status, why)) = state.guard.host(&request) {
        return error(status, why);
    }
    let path = request.uri().path().to_owned();
    let group = path
        .strip_prefix("/quota/")
        .and_then(|p| p.strip_suffix("/resume"))
        .filter(|g| !g.contains('/'));
    let acts = group.is_some() || matches!(path.as_str(), "/reload" | "/log-level");
    let method = request.method();
    let reads = [Method::GET, Method::HEAD].contains(method);
    match view(&path) {
        _ if acts && *method == Method::POST => post(state, &path, group, request).await,
        Some(view) if reads => {
            let asked = Asked {
                query: request.uri().query().unwrap_or_default(),
                headers: request.headers(),
            };
            view(&*state.control, &asked)
        }
        Some(_) if acts => not_allowed("GET, HEAD, POST"),
        Some(_) => not_allowed("GET, HEAD"),
        None if acts => not_allowed("POST"),
        None => error(
            StatusCode::NOT_FOUND,
            "no such path: this is the admin listener; calls of DevRev's API go to listen.address",
        ),
    }
}

/// What a request that changes nothing asks for, besides its path.
struct Asked<'a> {
    query: &'a str,
    headers: &'a HeaderMap,
}

/// Answers such a request.
type View = fn(&dyn Control, &Asked<'_>) -> Answer;

fn view(path: &str) -> Option<View> {
    let view: View = match path {
        "/" => |_, _| text("text/html; charset=utf-8", page::HTML.clone()),
        "/healthz" | "/livez" => |_, _| text("text/plain; charset=utf-8", "ok\n".into()),
        "/readyz" => |control, _| readiness(control),
        "/metrics" => |control, asked| {
            let form = exposition::choose(asked.headers.get_all(header::ACCEPT));
            let mut answer = text(form.content_type(), control.metrics(form));
            let vary = HeaderValue::from_static("Accept");
            answer.headers_mut().insert(header::VARY, vary);
            answer
        },
        "/config" => |control, _| value(StatusCode::OK, &control.config()),
        "/status" => |control, _| value(StatusCode::OK, &control.status()),
        "/quota" => |control, _| value(StatusCode::OK, &control.quota()),
        "/callers" => |control, _| value(StatusCode::OK, &control.callers()),
        "/deprecations" => |control, _| value(StatusCode::OK, &control.deprecations()),
        "/log-level" => |control, _| match control.level() {
            Ok(level) => value(StatusCode::OK, &json!({"level": level})),
            Err(why) => error(StatusCode::NOT_FOUND, &why),
        },
        "/explain" => |control, asked| match control.explain(asked.query) {
            Ok(explanation) => value(StatusCode::OK, &explanation),
            Err(why) => error(StatusCode::BAD_REQUEST, &why),
        },
        _ => return None,
    };
    Some(view)
}

fn readiness(control: &dyn Control) -> Answer {
    let reasons = control.unready();
    let (status, mut answer) = if reasons.is_empty() {
        let mut ready = json!({"ready": true});
        let warnings = control.warnings();
        if !warnings.is_empty() {
            ready["warnings"] = json!(warnings);
        }
        (StatusCode::OK, ready)
    } else {
        let unready = json!({"ready": false, "reasons": reasons});
        (StatusCode::SERVICE_UNAVAILABLE, unready)
    };
    if let Some(shared) = control.shared() {
        answer["shared"] = json!(shared);
    }
    value(status, &answer)
}

async fn post(
    state: &AdminState,
    path: &str,
    group: Option<&str>,
    request: Request<Incoming>,
) -> Answer {
    if let Err((status, why)) = state.guard.post(&request) {
        let mut refused = error(status, why);
        if status == StatusCode::UNAUTHORIZED {
            refused
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        return refused;
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    let body = match tokio::time::timeout(READ_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            let why = "the body is larger than 64 KiB";
            return error(StatusCode::PAYLOAD_TOO_LARGE, why);
        }
        Ok(Err(_)) => return error(StatusCode::BAD_REQUEST, "the body ended early"),
        Err(_elapsed) => {
            let why = "the body did not arrive in time";
            return error(StatusCode::REQUEST_TIMEOUT, why);
        }
    };
    if let Some(group) = group {
        return match percent_decode_str(group).decode_utf8() {
            Ok(group) if state.control.resume(&group) => {
                value(StatusCode::OK, &json!({"resumed": group}))
            }
            _ => error(StatusCode::NOT_FOUND, "no such quota group"),
        };
    }
    if path == "/log-level" {
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let Some(level) = body["level"].as_str() else {
            return error(StatusCode::BAD_REQUEST, "send {\"level\":\"debug\"}");
        };
        return match state.control.set_level(level) {
            Ok(()) => value(StatusCode::OK, &json!({"level": level})),
            Err(why) => error(StatusCode::BAD_REQUEST, &why),
        };
    }
    let control = Arc::clone(&state.control);
    match tokio::task::spawn_blocking(move || control.reload()).await {
        Ok(Ok(done)) => value(StatusCode::OK, &done),
        Ok(Err(why)) => value(StatusCode::CONFLICT, &why),
        Err(_) => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the reload panicked; see the log",
        ),
    }
}

fn text(kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn value(status: StatusCode, body: &Value) -> Answer {
    // With a line's end, for those who read it in a terminal.
    let mut response = text("application/json", format!("{body}\n"));
    *response.status_mut() = status;
    response
}

fn error(status: StatusCode, why: &str) -> Answer {
    value(status, &json!({"error": why}))
}

fn not_allowed(allow: &'static str) -> Answer {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}
