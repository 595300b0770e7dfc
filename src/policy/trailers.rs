//! Which trailer fields of an answer are passed on. Those of requests are not.

use http::{HeaderMap, header::HeaderName};

/// What has no meaning behind a body, or a dangerous one if it is merged into the head (RFC 9110 section 6.5.1).
const FORBIDDEN: &[&str] = &[
    // Framing, and fields of one connection.
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    // Routing.
    "alt-svc",
    "forwarded",
    "host",
    "location",
    "max-forwards",
    "refresh",
    "via",
    "x-real-ip",
    "x-request-id",
    // Authentication.
    "authorization",
    "cookie",
    "proxy-authenticate",
    "proxy-authorization",
    "set-cookie",
    "www-authenticate",
    // Modifiers of requests.
    "cache-control",
    "expect",
    "pragma",
    "prefer",
    "range",
    // Control of answers. `ratelimit` and `ratelimit-policy` of an answer are revgate's own.
    "age",
    "allow",
    "date",
    "deprecation",
    "expires",
    "last-modified",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "strict-transport-security",
    "vary",
    "warning",
];

const FORBIDDEN_PREFIXES: &[&str] = &[
    "accept",
    "access-control-",
    // The format of the content, and its length.
    "content-",
    "if-",
    "x-forwarded-",
];

/// Made for trailers, whatever the prefix says (RFC 9530 section 2).
const ALLOWED: &[&str] = &["content-digest"];

/// Strips from an answer's trailers what must not be there. A connection field would also break HTTP/2, which cannot send it.
pub fn strip(trailers: &mut HeaderMap) {
    let gone: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| is_forbidden(name))
        .cloned()
        .collect();
    for name in gone {
        trailers.remove(name);
    }
}

fn is_forbidden(name: &HeaderName) -> bool {
    let name = name.as_str();
    let has_prefix = |prefix: &&str| name.starts_with(prefix);
    let forbidden = FORBIDDEN.contains(&name) || FORBIDDEN_PREFIXES.iter().any(has_prefix);
    forbidden && !ALLOWED.contains(&name)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_may_not_come_behind_a_body_is_stripped() {
        let kept = [
            "authentication-info",
            "content-digest",
            "grpc-status",
            "proxy-status",
            "repr-digest",
            "server-timing",
            "x-checksum",
            "x-ratelimit-remaining",
        ];
        let stripped = [
            "accept-ranges",
            "authorization",
            "cache-control",
            "connection",
            "content-encoding",
            "content-length",
            "content-type",
            "cookie",
            "expect",
            "expires",
            "host",
            "if-match",
            "keep-alive",
            "location",
            "proxy-connection",
            "range",
            "retry-after",
            "set-cookie",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "via",
            "www-authenticate",
            "x-forwarded-for",
        ];
        let mut trailers = HeaderMap::new();
        for name in kept.iter().chain(&stripped) {
            for _ in 0..2 {
                trailers.append(*name, HeaderValue::from_static("x"));
            }
        }
        strip(&mut trailers);
        let mut names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, kept);
    }
}
