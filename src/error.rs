//! The errors with which revgate answers by itself. Only this module knows their codes, statuses, DevRev's `type` and the messages.

mod code;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use tower::BoxError;

pub use self::code::Code;
use crate::{
    body::{Body, Fault},
    label::label_enum,
    policy::{
        browser::BrowserFault,
        feedback::whole_seconds,
        first_bytes::WrongProtocol,
        http1::HeadFault,
        jwt,
        target::{FramingFault, TargetFault},
    },
    types::RequestId,
};

/// The cause of an error, for the log; callers never see it. An `Arc`, because one failure may answer several requests.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("no credential")]
    NoCredential,
    /// A scrape or a probe that has come to the wrong port, most likely.
    #[error("no credential, for a path of the admin listener")]
    AdminPath,
    /// The anonymous caller is for clients on this machine.
    #[error("no credential, and a proxy says that the client is not on this machine")]
    Elsewhere,
    #[error("unknown credential")]
    UnknownCredential,
    #[error("expired credential")]
    ExpiredCredential,
    #[error("DevRev refuses the caller's token")]
    RefusedCredential,
    #[error("DevRev did not say whether the caller's token is good")]
    TokenUnverified { retry_after: Duration },
    /// The fault is for the operator. The caller gets the same answer for each.
    #[error("bad signed token: {0}")]
    BadToken(jwt::Fault),
    #[error("unknown certificate")]
    UnknownCertificate,
    #[error("expired certificate")]
    ExpiredCertificate,
    #[error("operation not allowed")]
    Forbidden,
    /// It carries no credential that only its sender can have, and a page may have sent it.
    #[error("no credential, and {0}")]
    Browser(BrowserFault),
    #[error("bad request target: {0}")]
    Target(TargetFault),
    #[error("bad message framing: {0}")]
    Framing(FramingFault),
    #[error("the request has been through this gateway already")]
    Loop,
    #[error("malformed request head")]
    Malformed,
    #[error("{0}")]
    Protocol(WrongProtocol),
    #[error("request head not acceptable: {0}")]
    Head(HeadFault),
    #[error("the request's body was malformed or broke off")]
    BrokenBody,
    #[error("the body is not one JSON object with distinct keys")]
    Parse,
    #[error("old and new field differ: {field}")]
    FieldConflict { field: Arc<str> },
    #[error("deprecated field: {field}")]
    DeprecatedField { field: Arc<str> },
    #[error("the request's body made no progress")]
    RequestTimeout,
    /// RFC 9110 section 15.5.18: the client repeats the request without the expectation.
    #[error("the caller waits for a 100, which HTTP/2 cannot send here")]
    Expects,
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
    /// As `TokenUnavailable`, for a request that DevRev answered with 401, which was confirmed.
    #[error("DevRev refused the upstream token")]
    TokenRefused { retry_after: Duration },
    #[error("no connection to the upstream")]
    Unreachable(#[source] Cause),
    /// As `Unreachable`, for one of several that waited for the same connection. One of them is `Unreachable`.
    #[error("no connection to the upstream")]
    AlsoUnreachable(#[source] Cause),
    #[error("the upstream connection broke before a response")]
    Broken(#[source] Cause),
    /// As `Broken`, but upstream said that it has not begun to process the request.
    #[error("the upstream refused the request before any work")]
    NotProcessed(#[source] Cause),
    #[error("the upstream did not answer in time")]
    UpstreamTimeout,
    #[error("internal error")]
    Internal,
}

/// Why a credential was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthFailure {
    Credential(CredentialFault),
    /// The fault of a signed token.
    Token(jwt::Fault),
}

impl AuthFailure {
    /// All values.
    pub fn all() -> impl Iterator<Item = AuthFailure> {
        let credentials = CredentialFault::ALL.iter().copied();
        let tokens = jwt::Fault::ALL.iter().copied();
        credentials
            .map(AuthFailure::Credential)
            .chain(tokens.map(AuthFailure::Token))
    }

    /// Its name in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            AuthFailure::Credential(fault) => fault.label(),
            AuthFailure::Token(fault) => fault.label(),
        }
    }
}

label_enum! {
    /// The fault of a key, a caller's DevRev token or a client certificate.
    pub enum CredentialFault {
        Missing = "no_credential",
        Unknown = "unknown_credential",
        Expired = "expired_credential",
        /// DevRev refused it.
        Refused = "refused_credential",
        UnknownCertificate = "unknown_certificate",
        ExpiredCertificate = "expired_certificate",
        /// None is needed, and another site's name may stand for this machine.
        ForeignHost = "foreign_host",
        /// None is needed, and a page of another origin sends the request.
        ForeignPage = "foreign_page",
    }
}

impl From<HeadFault> for Error {
    fn from(fault: HeadFault) -> Error {
        match fault {
            HeadFault::Framing(fault) => Error::Framing(fault),
            HeadFault::FieldNameTooLong => Error::HeadersTooLarge,
            fault => Error::Head(fault),
        }
    }
}

impl Error {
    /// A connection could not be made.
    pub fn unreachable(cause: impl Into<BoxError>) -> Error {
        Error::Unreachable(Cause::from(cause.into()))
    }

    /// What callers share is used up. What holds it moves, and most of it ends within a second.
    pub const OVERLOADED: Error = Error::Overloaded {
        retry_after: Duration::from_secs(1),
    };

    /// The fault of a request's body, of which `max_bytes` are accepted.
    pub fn of_body(fault: Fault, max_bytes: u64) -> Error {
        match fault {
            Fault::Broken => Error::BrokenBody,
            Fault::TooLarge => Error::BodyTooLarge { max_bytes },
            Fault::TooSlow => Error::RequestTimeout,
            Fault::Expects => Error::Expects,
        }
    }

    /// The connection was lost before there was a response.
    pub fn broken(cause: impl Into<BoxError>) -> Error {
        Error::Broken(Cause::from(cause.into()))
    }

    /// Upstream has not begun to process the request.
    pub fn not_processed(cause: impl Into<BoxError>) -> Error {
        Error::NotProcessed(Cause::from(cause.into()))
    }

    /// The code of the answer.
    pub fn code(&self) -> Code {
        match self {
            Error::NoCredential
            | Error::AdminPath
            | Error::Elsewhere
            | Error::UnknownCredential
            | Error::ExpiredCredential
            | Error::RefusedCredential
            | Error::BadToken(_)
            | Error::UnknownCertificate
            | Error::ExpiredCertificate => Code::Unauthenticated,
            Error::Forbidden | Error::Browser(_) => Code::Forbidden,
            Error::Target(_)
            | Error::Framing(_)
            | Error::Protocol(_)
            | Error::Loop
            | Error::Malformed
            | Error::Head(_)
            | Error::BrokenBody => Code::BadRequest,
            Error::RequestTimeout => Code::RequestTimeout,
            Error::Expects => Code::ExpectationFailed,
            Error::Parse => Code::ParseError,
            Error::FieldConflict { .. } => Code::FieldConflict,
            Error::DeprecatedField { .. } => Code::DeprecatedField,
            Error::BodyTooLarge { .. } => Code::BodyTooLarge,
            Error::HeadersTooLarge => Code::HeadersTooLarge,
            Error::CallerRateLimited { .. } => Code::CallerRateLimited,
            Error::QuotaExhausted { .. } => Code::QuotaExhausted,
            Error::WaitingRoomFull { .. } => Code::WaitingRoomFull,
            Error::Overloaded { .. } => Code::Overloaded,
            Error::Draining { .. } => Code::Draining,
            Error::CircuitOpen { .. } => Code::CircuitOpen,
            Error::TokenUnavailable { .. } | Error::TokenRefused { .. } => Code::TokenUnavailable,
            Error::TokenUnverified { .. } => Code::TokenUnverified,
            Error::Unreachable(_) | Error::AlsoUnreachable(_) => Code::UpstreamUnreachable,
            Error::Broken(_) | Error::NotProcessed(_) => Code::UpstreamBroken,
            Error::UpstreamTimeout => Code::UpstreamTimeout,
            Error::Internal => Code::Internal,
        }
    }

    pub fn status(&self) -> StatusCode {
        self.code().status()
    }

    /// Why the credential was not accepted, for log and metrics; the caller does not see it.
    pub fn auth_failure(&self) -> Option<AuthFailure> {
        let fault = match self {
            Error::NoCredential | Error::AdminPath | Error::Elsewhere => CredentialFault::Missing,
            Error::UnknownCredential => CredentialFault::Unknown,
            Error::ExpiredCredential => CredentialFault::Expired,
            Error::RefusedCredential => CredentialFault::Refused,
            Error::UnknownCertificate => CredentialFault::UnknownCertificate,
            Error::ExpiredCertificate => CredentialFault::ExpiredCertificate,
            Error::Browser(BrowserFault::Host) => CredentialFault::ForeignHost,
            Error::Browser(BrowserFault::Page) => CredentialFault::ForeignPage,
            Error::BadToken(fault) => return Some(AuthFailure::Token(*fault)),
            _ => return None,
        };
        Some(AuthFailure::Credential(fault))
    }

    /// When the caller should retry; set for every 429 and 503.
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

    /// The message for the caller: the code's, or one of its own if several errors share the code.
    fn message(&self) -> &'static str {
        match self {
            Error::Protocol(wrong) => wrong.message(),
            Error::AdminPath => {
                "This is the port for calls of DevRev's API, which take a key; metrics, probes and the status page are on the admin listener, at admin.address."
            }
            Error::Elsewhere => {
                "Only clients on the gateway's own machine need no key. Send yours as `Authorization: Bearer KEY`."
            }
            Error::NoCredential => "Send your revgate key as `Authorization: Bearer KEY`.",
            Error::ExpiredCredential => "This token has expired.",
            Error::RefusedCredential => "DevRev refuses this token.",
            Error::Browser(_) => "This request may come from a page of another site.",
            Error::UnknownCertificate => "This client certificate belongs to no caller of revgate.",
            Error::ExpiredCertificate => "This client certificate has expired.",
            Error::Target(_) => "The request's target or Host is not acceptable.",
            Error::Framing(_) => "The request's framing is ambiguous or malformed.",
            Error::Loop => "This request has been through revgate already: it is in a loop.",
            Error::BrokenBody => "The request's body is malformed or ended early.",
            _ => self.code().message(),
        }
    }

    /// Whether to close the connection, because its state is unknown (RFC 9112 section 11.2).
    fn closes(&self) -> bool {
        matches!(
            self,
            Error::Target(_)
                | Error::Framing(_)
                | Error::Head(_)
                | Error::Protocol(_)
                | Error::BrokenBody
                | Error::RequestTimeout
                | Error::HeadersTooLarge
        )
    }

    /// The answer for the caller.
    pub fn response(&self, id: Option<&RequestId>) -> Response<Body> {
        let code = self.code();
        let label = code.label();
        let mut body = json!({
            "type": code.kind(),
            "message": self.message(),
            "detail": match self {
                Error::Target(fault) => format!("{label}: {fault}"),
                Error::Framing(fault) => format!("{label}: {fault}"),
                Error::Browser(fault) => format!("{label}: {fault}"),
                Error::Head(fault) => format!("{label}: {fault}"),
                _ => format!("{label}: {}", self.message()),
            },
        });
        match self {
            Error::FieldConflict { field } | Error::DeprecatedField { field } => {
                body["field_name"] = json!(&**field);
            }
            Error::BodyTooLarge { max_bytes } => body["max_bytes"] = json!(max_bytes),
            Error::Internal => body["reference_id"] = json!(id.map_or("", RequestId::as_str)),
            _ => {}
        }
        let seconds = self.retry_after().map(whole_seconds);
        if let Some(seconds) = seconds {
            body["retry_after"] = json!(seconds);
        }
        let mut response = Response::new(Body::full(Bytes::from(format!("{body}\n"))));
        *response.status_mut() = code.status();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        let status = format!("revgate; error={}; details=\"{label}\"", code.proxy_error());
        if let Ok(status) = HeaderValue::try_from(status) {
            headers.insert("proxy-status", status);
        }
        if let Some(seconds) = seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if code == Code::Unauthenticated {
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
    use crate::label::assert_labels;

    #[test]
    fn every_429_and_503_names_a_time_in_whole_seconds() {
        let retry_after = Duration::from_millis(1);
        for error in [
            Error::CallerRateLimited { retry_after },
            Error::QuotaExhausted { retry_after },
            Error::WaitingRoomFull { retry_after },
            Error::Overloaded { retry_after },
            Error::Draining { retry_after },
            Error::CircuitOpen { retry_after },
            Error::TokenUnavailable { retry_after },
            Error::TokenRefused { retry_after },
            Error::TokenUnverified { retry_after },
        ] {
            let response = error.response(None);
            assert!(matches!(response.status().as_u16(), 429 | 503), "{error:?}");
            assert_eq!(response.headers()["retry-after"], "1", "{error:?}");
            let status = response.headers()["proxy-status"].to_str().unwrap();
            let details = format!("details=\"{}\"", error.code().label());
            assert!(status.ends_with(&details), "{status}");
        }
    }

    #[test]
    fn every_authentication_error_is_a_401_with_a_reason_of_its_own() {
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
            assert_eq!(error.code(), Code::Unauthenticated, "{error:?}");
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{error:?}");
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
            reasons.extend(error.auth_failure().map(AuthFailure::label));
        }
        assert_eq!(reasons.len(), all.len(), "{reasons:?}");
        for fault in [BrowserFault::Host, BrowserFault::Page] {
            let error = Error::Browser(fault);
            assert_eq!(error.status(), StatusCode::FORBIDDEN);
            assert!(
                error
                    .auth_failure()
                    .is_some_and(|failure| reasons.insert(failure.label()))
            );
        }
        assert_eq!(Error::Forbidden.auth_failure(), None);
    }

    #[test]
    fn labels_are_as_documented() {
        assert_labels!(CredentialFault: "no_credential" "unknown_credential" "expired_credential"
            "refused_credential" "unknown_certificate" "expired_certificate" "foreign_host" "foreign_page");
    }

    #[test]
    fn the_cause_never_reaches_the_caller() {
        let error = Error::unreachable("secret host");
        assert!(!format!("{error}").contains("secret"));
        assert_eq!(error.response(None).status(), StatusCode::BAD_GATEWAY);
    }
}
