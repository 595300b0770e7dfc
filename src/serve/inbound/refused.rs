//! A refusal of a request that no layer has seen, as bytes.

use http::{HeaderValue, header};
use http_body_util::BodyExt;

use crate::{
    error::Error,
    event::Event,
    policy::{first_bytes::go_away, operation::OperationLabel},
    state::State,
    telemetry::{client_lines::Topic, labels::Source},
    types::{PeerAddress, RequestId, other},
    wall_clock,
};

/// Counts and logs the refusal, and returns it in HTTP/1.1; in HTTP/2 where the client speaks that.
pub(super) fn refuse(
    state: &State,
    peer: Option<&PeerAddress>,
    error: &Error,
    http2: bool,
) -> Vec<u8> {
    let status = error.status().as_u16();
    let metrics = &state.metrics;
    metrics.request(
        &other(),
        OperationLabel::OTHER,
        status,
        Source::Gateway,
        0.0,
    );
    metrics.refused(&other(), error.code());
    let code = error.code();
    let id = RequestId::random();
    let ip = peer.and_then(PeerAddress::ip);
    if state.client_lines.try_pass(Topic::Request(Some(code)), ip) {
        tracing::info!(
            event = Event::RequestRefused.label(),
            request_id = id.as_str(),
            peer = peer.map(PeerAddress::shown),
            code = code.label(),
            "a request was refused by its head: {error}"
        );
    }
    match error {
        Error::Protocol(wrong) if http2 => go_away(*wrong),
        error => http1(error, id),
    }
}

fn http1(error: &Error, id: RequestId) -> Vec<u8> {
    let (mut head, body) = error.response(None).into_parts();
    // A refusal's body is one buffer, so this is ready at once.
    let body = body.collect();
    let body = futures_util::FutureExt::now_or_never(body).and_then(Result::ok);
    let body = body
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    head.headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    head.headers
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(wall_clock::now())) {
        head.headers.insert(header::DATE, date);
    }
    head.headers.insert(RequestId::HEADER, id.0);
    let mut out = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&body);
    out
}
