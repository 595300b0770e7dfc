//! The error codes, and what all answers with one code have in common.

use http::StatusCode;

use crate::label::label_enum;

/// What all answers with one code have in common.
struct Row {
    status: StatusCode,
    /// DevRev's `type`, which its SDKs map to their exceptions.
    kind: &'static str,
    /// The nearest error type of RFC 9209 section 2.3.
    proxy_error: &'static str,
    /// The message for the caller, unless the error has a more exact one. Never holds the cause.
    message: &'static str,
}

macro_rules! codes {
    ($($variant:ident = $label:literal, $status:ident, $kind:literal, $proxy_error:literal, $message:literal;)+) => {
        label_enum! {
            /// The code of an answer made by revgate. It is a metric label, the start of `detail`, and `details` of `Proxy-Status`.
            pub enum Code {
                $($variant = $label,)+
            }
        }

        impl Code {
            const fn row(self) -> Row {
                match self {
                    $(Code::$variant => Row {
                        status: StatusCode::$status,
                        kind: $kind,
                        proxy_error: $proxy_error,
                        message: $message,
                    },)+
                }
            }
        }
    };
}

// The code, its status, DevRev's type, the error of Proxy-Status, and the message.
codes! {
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "unauthenticated", "http_request_denied",
        "This key or token is not known to revgate.";
    Forbidden = "forbidden", FORBIDDEN, "forbidden", "http_request_denied",
        "This caller may not use this operation.";
    BadRequest = "bad_request", BAD_REQUEST, "bad_request", "http_request_error",
        "The request is not well-formed HTTP.";
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "bad_request", "http_request_error",
        "The request's body did not arrive in time.";
    ExpectationFailed = "expectation_failed", EXPECTATION_FAILED, "bad_request", "http_request_error",
        "Over HTTP/2 revgate sends no 100 (Continue); send the body without waiting for it, or repeat the request without Expect.";
    ParseError = "parse_error", BAD_REQUEST, "parse_error", "http_request_error",
        "The body is not one JSON object with distinct keys.";
    FieldConflict = "field_conflict", BAD_REQUEST, "invalid_field", "http_request_error",
        "The deprecated field and its replacement are both present and differ; send only the new one.";
    DeprecatedField = "deprecated_field", BAD_REQUEST, "invalid_field", "http_request_error",
        "This field is deprecated and refused here; send its replacement.";
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "request_entity_too_large", "http_request_error",
        "The request's body is larger than is accepted.";
    HeadersTooLarge = "headers_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, "bad_request", "http_request_error",
        "The request's header section is larger than is accepted.";
    CallerRateLimited = "caller_rate_limited", TOO_MANY_REQUESTS, "too_many_requests", "http_request_denied",
        "This caller is over its own rate.";
    QuotaExhausted = "quota_exhausted", TOO_MANY_REQUESTS, "too_many_requests", "http_request_denied",
        "The shared DevRev quota will not be free within this request's wait.";
    WaitingRoomFull = "waiting_room_full", SERVICE_UNAVAILABLE, "service_unavailable", "connection_limit_reached",
        "Too many requests wait for quota already.";
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "service_unavailable", "connection_limit_reached",
        "This caller's share of the gateway is in use: requests in flight, connections or memory.";
    Draining = "draining", SERVICE_UNAVAILABLE, "service_unavailable", "destination_unavailable",
        "This gateway is shutting down; another one will answer.";
    CircuitOpen = "circuit_open", SERVICE_UNAVAILABLE, "service_unavailable", "destination_unavailable",
        "DevRev has been failing; it is being probed.";
    TokenUnavailable = "token_unavailable", SERVICE_UNAVAILABLE, "service_unavailable", "proxy_configuration_error",
        "The gateway's DevRev token cannot be used now.";
    TokenUnverified = "token_unverified", SERVICE_UNAVAILABLE, "service_unavailable", "destination_unavailable",
        "DevRev did not say whether this token is good.";
    UpstreamUnreachable = "upstream_unreachable", BAD_GATEWAY, "service_unavailable", "destination_unavailable",
        "No connection to DevRev could be made.";
    UpstreamBroken = "upstream_broken", BAD_GATEWAY, "service_unavailable", "connection_terminated",
        "The connection to DevRev broke before it answered.";
    UpstreamTimeout = "upstream_timeout", GATEWAY_TIMEOUT, "service_unavailable", "http_response_timeout",
        "DevRev did not answer in time.";
    Internal = "internal", INTERNAL_SERVER_ERROR, "internal_error", "proxy_internal_error",
        "Something went wrong inside the gateway.";
}

impl Code {
    /// The status of every answer with this code.
    pub const fn status(self) -> StatusCode {
        self.row().status
    }

    /// DevRev's `type`.
    pub(super) const fn kind(self) -> &'static str {
        self.row().kind
    }

    /// The error type of RFC 9209.
    pub(super) const fn proxy_error(self) -> &'static str {
        self.row().proxy_error
    }

    /// The message for the caller.
    pub(super) const fn message(self) -> &'static str {
        self.row().message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Callers and dashboards rely on these to the letter.
    #[test]
    fn codes_statuses_and_types_are_as_documented() {
        let codes: Vec<_> = Code::ALL
            .iter()
            .map(|code| (code.label(), code.status().as_u16(), code.kind()))
            .collect();
        let want = [
            ("unauthenticated", 401, "unauthenticated"),
            ("forbidden", 403, "forbidden"),
            ("bad_request", 400, "bad_request"),
            ("request_timeout", 408, "bad_request"),
            ("expectation_failed", 417, "bad_request"),
            ("parse_error", 400, "parse_error"),
            ("field_conflict", 400, "invalid_field"),
            ("deprecated_field", 400, "invalid_field"),
            ("body_too_large", 413, "request_entity_too_large"),
            ("headers_too_large", 431, "bad_request"),
            ("caller_rate_limited", 429, "too_many_requests"),
            ("quota_exhausted", 429, "too_many_requests"),
            ("waiting_room_full", 503, "service_unavailable"),
            ("overloaded", 503, "service_unavailable"),
            ("draining", 503, "service_unavailable"),
            ("circuit_open", 503, "service_unavailable"),
            ("token_unavailable", 503, "service_unavailable"),
            ("token_unverified", 503, "service_unavailable"),
            ("upstream_unreachable", 502, "service_unavailable"),
            ("upstream_broken", 502, "service_unavailable"),
            ("upstream_timeout", 504, "service_unavailable"),
            ("internal", 500, "internal_error"),
        ];
        assert_eq!(codes, want);
    }
}
