//! Everything that can make revgate answer by itself, and how each is told: the only place that knows codes,
//! statuses, DevRev's `type` and the words.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use tower::BoxError;

use crate::{
    body::Body,
    policy::{
        feedback::whole_seconds,
        jwt,
        target::{FramingFault, TargetFault},
    },
    types::RequestId,
};

/// A cause kept for the log; never shown to a caller. Shared, so that one failure can be told to every request it concerns.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("no credential")]
    NoCredential,
    #[error("unknown credential")]
    UnknownCredential,
    #[error("expired credential")]
    ExpiredCredential,
    #[error("DevRev refuses the caller's token")]
    RefusedCredential,
    #[error("DevRev did not say whether the caller's token is good")]
    TokenUnverified { retry_after: Duration },
    /// The reason is for the operator; a caller reads the same for each.
    #[error("bad signed token: {0}")]
    BadToken(jwt::Fault),
    #[error("unknown certificate")]
    UnknownCertificate,
    #[error("expired certificate")]
    ExpiredCertificate,
    #[error("operation not allowed")]
    Forbidden,
    #[error("bad request target: {0}")]
    Target(TargetFault),
    #[error("bad message framing: {0}")]
    Framing(FramingFault),
    #[error("the request has been through this gateway already")]
    Loop,
    #[error("malformed request head")]
    Malformed,
    #[error("the request's body was malformed or broke off")]
    BrokenBody,
    #[error("the body is not one JSON object with distinct keys")]
    Parse,
    #[error("old and new field differ: {field}")]
    FieldConflict { field: Arc<str> },
    #[error("deprecated field: {field}")]
    DeprecatedField { field: Arc<str> },
    #[error("body too large")]
    BodyTooLarge { max_bytes: u64 },
    #[error("headers too large")]
    HeadersTooLarge,
    #[error("over the caller's own rate")]
    CallerRateLimited { retry_after: Duration },
    #[error("the upstream quota is spent for longer than the caller waits")]
    QuotaExhausted { retry_after: Duration },
    #[error("too many requests wait already")]
    WaitingRoomFull { retry_after: Duration },
    #[error("too many requests in flight")]
    Overloaded { retry_after: Duration },
    #[error("the gateway is draining")]
    Draining { retry_after: Duration },
    #[error("the circuit is open")]
    CircuitOpen { retry_after: Duration },
    #[error("the upstream token cannot be used")]
    TokenUnavailable { retry_after: Duration },
    /// The same, learnt just now: this request was sent and DevRev answered 401.
    #[error("DevRev refused the upstream token")]
    TokenRefused { retry_after: Duration },
    #[error("no connection to the upstream")]
    Unreachable(#[source] Cause),
    #[error("the upstream connection broke before a response")]
    Broken(#[source] Cause),
    #[error("the upstream did not answer in time")]
    UpstreamTimeout,
    #[error("internal error")]
    Internal,
}

impl Error {
    /// No connection could be made.
    pub fn unreachable(cause: impl Into<BoxError>) -> Error {
        Error::Unreachable(Cause::from(cause.into()))
    }

    /// The connection was lost before there was a response.
    pub fn broken(cause: impl Into<BoxError>) -> Error {
        Error::Broken(Cause::from(cause.into()))
    }

    /// The code: metric label, start of `detail`, and `details` of `Proxy-Status`.
    pub fn code(&self) -> &'static str {
        match self {
            Error::NoCredential
            | Error::UnknownCredential
            | Error::ExpiredCredential
            | Error::RefusedCredential
            | Error::BadToken(_)
            | Error::UnknownCertificate
            | Error::ExpiredCertificate => "unauthenticated",
            Error::Forbidden => "forbidden",
            Error::Target(_)
            | Error::Framing(_)
            | Error::Loop
            | Error::Malformed
            | Error::BrokenBody => "bad_request",
            Error::Parse => "parse_error",
            Error::FieldConflict { .. } => "field_conflict",
            Error::DeprecatedField { .. } => "deprecated_field",
            Error::BodyTooLarge { .. } => "body_too_large",
            Error::HeadersTooLarge => "headers_too_large",
            Error::CallerRateLimited { .. } => "caller_rate_limited",
            Error::QuotaExhausted { .. } => "quota_exhausted",
            Error::WaitingRoomFull { .. } => "waiting_room_full",
            Error::Overloaded { .. } => "overloaded",
            Error::Draining { .. } => "draining",
            Error::CircuitOpen { .. } => "circuit_open",
            Error::TokenUnavailable { .. } | Error::TokenRefused { .. } => "token_unavailable",
            Error::TokenUnverified { .. } => "token_unverified",
            Error::Unreachable(_) => "upstream_unreachable",
            Error::Broken(_) => "upstream_broken",
            Error::UpstreamTimeout => "upstream_timeout",
            Error::Internal => "internal",
        }
    }

    pub fn status(&self) -> StatusCode {
        match self.code() {
            "unauthenticated" => StatusCode::UNAUTHORIZED,
            "forbidden" => StatusCode::FORBIDDEN,
            "bad_request" | "parse_error" | "field_conflict" | "deprecated_field" => {
                StatusCode::BAD_REQUEST
            }
            "body_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
            "headers_too_large" => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "caller_rate_limited" | "quota_exhausted" => StatusCode::TOO_MANY_REQUESTS,
            "upstream_unreachable" | "upstream_broken" => StatusCode::BAD_GATEWAY,
            "upstream_timeout" => StatusCode::GATEWAY_TIMEOUT,
            "internal" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// DevRev's own word for it, so that its SDKs map it to the exception they know.
    fn kind(&self) -> &'static str {
        match self.status() {
            StatusCode::UNAUTHORIZED => "unauthenticated",
            StatusCode::FORBIDDEN => "forbidden",
            StatusCode::PAYLOAD_TOO_LARGE => "request_entity_too_large",
            StatusCode::TOO_MANY_REQUESTS => "too_many_requests",
            StatusCode::INTERNAL_SERVER_ERROR => "internal_error",
            StatusCode::BAD_REQUEST | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                match self.code() {
                    "parse_error" => "parse_error",
                    "field_conflict" | "deprecated_field" => "invalid_field",
                    _ => "bad_request",
                }
            }
            _ => "service_unavailable",
        }
    }

    /// Why nobody was known to call: a label of the metrics, never told to a caller.
    pub fn auth_reason(&self) -> Option<&'static str> {
        match self {
            Error::NoCredential => Some("no_credential"),
            Error::UnknownCredential => Some("unknown_credential"),
            Error::ExpiredCredential => Some("expired_credential"),
            Error::RefusedCredential => Some("refused_credential"),
            Error::UnknownCertificate => Some("unknown_certificate"),
            Error::ExpiredCertificate => Some("expired_certificate"),
            Error::BadToken(fault) => Some(fault.label()),
            _ => None,
        }
    }

    /// How long the caller should stay away; on every 429 and 503.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::CallerRateLimited { retry_after }
            | Error::QuotaExhausted { retry_after }
            | Error::WaitingRoomFull { retry_after }
            | Error::Overloaded { retry_after }
            | Error::Draining { retry_after }
            | Error::CircuitOpen { retry_after }
            | Error::TokenUnavailable { retry_after }
            | Error::TokenRefused { retry_after }
            | Error::TokenUnverified { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    /// The error type of RFC 9209 section 2.3 that comes nearest.
    fn proxy_error(&self) -> &'static str {
        match self.code() {
            "unauthenticated" | "forbidden" | "caller_rate_limited" | "quota_exhausted" => {
                "http_request_denied"
            }
            "overloaded" | "waiting_room_full" => "connection_limit_reached",
            "circuit_open" | "draining" | "token_unverified" => "destination_unavailable",
            "upstream_unreachable" => "destination_unavailable",
            "upstream_broken" => "connection_terminated",
            "upstream_timeout" => "http_response_timeout",
            "token_unavailable" => "proxy_configuration_error",
            "internal" => "proxy_internal_error",
            _ => "http_request_error",
        }
    }

    /// What the caller reads: fixed per code, nothing of the cause.
    fn message(&self) -> &'static str {
        match self {
            Error::NoCredential => "Send your revgate key as `Authorization: Bearer KEY`.",
            Error::UnknownCredential | Error::BadToken(_) => {
                "This key or token is not known to revgate."
            }
            Error::ExpiredCredential => "This token has expired.",
            Error::RefusedCredential => "DevRev refuses this token.",
            Error::UnknownCertificate => "This client certificate belongs to no caller of revgate.",
            Error::ExpiredCertificate => "This client certificate has expired.",
            Error::Forbidden => "This caller may not use this operation.",
            Error::Target(_) => "The request's target or Host is not acceptable.",
            Error::Framing(_) => "The request's framing is ambiguous or malformed.",
            Error::Loop => "This request has been through revgate already: it runs in a circle.",
            Error::Malformed => "The request is not well-formed HTTP.",
            Error::BrokenBody => "The request's body is malformed or ended early.",
            Error::Parse => "The body is not one JSON object with distinct keys.",
            Error::FieldConflict { .. } => {
                "The deprecated field and its replacement are both present and differ; send only the new one."
            }
            Error::DeprecatedField { .. } => {
                "This field is deprecated and refused here; send its replacement."
            }
            Error::BodyTooLarge { .. } => "The request's body is larger than is accepted.",
            Error::HeadersTooLarge => "The request's header section is larger than is accepted.",
            Error::CallerRateLimited { .. } => "This caller is over its own rate.",
            Error::QuotaExhausted { .. } => {
                "The shared DevRev quota will not be free within this request's wait."
            }
            Error::WaitingRoomFull { .. } => "Too many requests wait for quota already.",
            Error::Overloaded { .. } => "Too many requests are in flight.",
            Error::Draining { .. } => "This gateway is shutting down; another one will answer.",
            Error::CircuitOpen { .. } => "DevRev has been failing; it is being probed.",
            Error::TokenUnavailable { .. } | Error::TokenRefused { .. } => {
                "The gateway's DevRev token cannot be used at present."
            }
            Error::TokenUnverified { .. } => "DevRev did not say whether this token is good.",
            Error::Unreachable(_) => "No connection to DevRev could be made.",
            Error::Broken(_) => "The connection to DevRev broke before it answered.",
            Error::UpstreamTimeout => "DevRev did not answer in time.",
            Error::Internal => "Something went wrong inside the gateway.",
        }
    }

    /// After these the connection's state is not to be trusted (RFC 9112 section 11.2).
    fn closes(&self) -> bool {
        matches!(
            self,
            Error::Target(_) | Error::Framing(_) | Error::BrokenBody | Error::HeadersTooLarge
        )
    }

    /// The answer the caller gets.
    pub fn response(&self, id: Option<&RequestId>) -> Response<Body> {
        let code = self.code();
        let mut body = json!({
            "type": self.kind(),
            "message": self.message(),
            "detail": match self {
                Error::Target(fault) => format!("{code}: {fault}"),
                Error::Framing(fault) => format!("{code}: {fault}"),
                _ => format!("{code}: {}", self.message()),
            },
        });
        match self {
            Error::FieldConflict { field } | Error::DeprecatedField { field } => {
                body["field_name"] = json!(&**field)
            }
            Error::BodyTooLarge { max_bytes } => body["max_bytes"] = json!(max_bytes),
            Error::Internal => body["reference_id"] = json!(id.map_or("", RequestId::as_str)),
            _ => {}
        }
        let seconds = self.retry_after().map(whole_seconds);
        if let Some(seconds) = seconds {
            body["retry_after"] = json!(seconds);
        }
        let mut response = Response::new(Body::full(Bytes::from(body.to_string())));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let status = format!("revgate; error={}; details=\"{code}\"", self.proxy_error());
        if let Ok(status) = HeaderValue::try_from(status) {
            headers.insert("proxy-status", status);
        }
        if let Some(seconds) = seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.closes() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_429_and_503_names_a_time_in_whole_seconds() {
        let second = Duration::from_millis(1);
        for error in [
            Error::CallerRateLimited {
                retry_after: second,
            },
            Error::QuotaExhausted {
                retry_after: second,
            },
            Error::WaitingRoomFull {
                retry_after: second,
            },
            Error::Overloaded {
                retry_after: second,
            },
            Error::Draining {
                retry_after: second,
            },
            Error::CircuitOpen {
                retry_after: second,
            },
            Error::TokenUnavailable {
                retry_after: second,
            },
            Error::TokenRefused {
                retry_after: second,
            },
            Error::TokenUnverified {
                retry_after: second,
            },
        ] {
            let response = error.response(None);
            assert!(matches!(response.status().as_u16(), 429 | 503), "{error:?}");
            assert_eq!(response.headers()["retry-after"], "1", "{error:?}");
            let status = response.headers()["proxy-status"].to_str().unwrap();
            assert!(
                status.ends_with(&format!("details=\"{}\"", error.code())),
                "{status}"
            );
        }
    }

    #[test]
    fn whoever_is_not_known_is_told_so_and_counted_with_a_reason() {
        let mut reasons = std::collections::BTreeSet::new();
        let all = [
            Error::NoCredential,
            Error::UnknownCredential,
            Error::ExpiredCredential,
            Error::RefusedCredential,
            Error::BadToken(jwt::Fault::Expired),
            Error::UnknownCertificate,
            Error::ExpiredCertificate,
        ];
        for error in &all {
            let response = error.response(None);
            assert_eq!(error.code(), "unauthenticated", "{error:?}");
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{error:?}");
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
            reasons.extend(error.auth_reason());
        }
        assert_eq!(reasons.len(), all.len(), "{reasons:?}");
        assert_eq!(Error::Forbidden.auth_reason(), None);
    }

    #[test]
    fn the_cause_never_reaches_the_caller() {
        let error = Error::unreachable("secret host");
        assert!(!format!("{error}").contains("secret"));
        assert_eq!(error.response(None).status(), StatusCode::BAD_GATEWAY);
    }
}
