//! Whether a request's target and framing are unambiguous. What two servers could read differently is refused.
//!
//! ```
//! use http::{HeaderMap, Method, Version, header::HOST};
//! use revgate::policy::target::{TargetFault, check};
//!
//! let mut headers = HeaderMap::new();
//! headers.insert(HOST, "gateway".parse().unwrap());
//! let check = |path: &str| check(&Method::POST, &path.parse().unwrap(), Version::HTTP_11, &headers);
//! assert_eq!(check("/works.list"), Ok(()));
//! assert_eq!(check("/a/%2e%2e/works.list"), Err(TargetFault::DotSegment));
//! ```

use std::fmt;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use percent_encoding::percent_decode;

/// A fault of a request's target or Host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetFault {
    /// CONNECT asks for a tunnel (RFC 9110 section 9.3.6).
    Connect,
    /// TRACE would echo the token in the answer (RFC 9110 section 9.3.8).
    Trace,
    /// `OPTIONS *` is about a server as a whole (RFC 9112 section 3.2.4).
    Asterisk,
    /// A path must begin with a slash (RFC 9112 section 3.2.1).
    NoSlash,
    /// `.` or `..`, plain or encoded (RFC 3986 section 3.3).
    DotSegment,
    /// Escapes nested deeper than they are decoded here.
    NestedEscapes,
    /// No authority and no Host, or an empty one (RFC 9112 section 3.2).
    HostMissing,
    /// More than one Host.
    HostRepeated,
    /// Not a host and an optional port.
    HostMalformed,
    /// In HTTP/2, `:authority` and Host must agree (RFC 9113 section 8.3.1).
    HostDiffers,
    /// User information is not allowed in a request (RFC 9110 section 4.2.4).
    UserInfo,
}

impl fmt::Display for TargetFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TargetFault::Connect => "CONNECT is not served",
            TargetFault::Trace => "TRACE is not served",
            TargetFault::Asterisk => "the target * is not served",
            TargetFault::NoSlash => "the target's path does not begin with a slash",
            TargetFault::DotSegment => "the path contains a dot segment",
            TargetFault::NestedEscapes => "the path is percent-encoded too many times over",
            TargetFault::HostMissing => "no host is named",
            TargetFault::HostRepeated => "more than one Host is named",
            TargetFault::HostMalformed => "the host is malformed",
            TargetFault::HostDiffers => "Host and :authority differ",
            TargetFault::UserInfo => "the host carries user information",
        })
    }
}

impl std::error::Error for TargetFault {}

/// A fault of a request's framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramingFault {
    /// A transfer coding other than exactly one `chunked` (RFC 9112 section 6.1), or any in a version that has none.
    TransferEncoding,
    /// Both Transfer-Encoding and Content-Length, as in request smuggling (RFC 9112 section 6.1).
    Both,
    /// A Content-Length that is not a number, or several that differ (RFC 9112 section 6.3).
    ContentLength,
}

impl fmt::Display for FramingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FramingFault::TransferEncoding => "the only transfer coding is one chunked",
            FramingFault::Both => "Transfer-Encoding and Content-Length exclude each other",
            FramingFault::ContentLength => "Content-Length is malformed or contradicts itself",
        })
    }
}

impl std::error::Error for FramingFault {}

/// Checks method, target and Host. A target in absolute form may name any authority, since requests go to the configured upstream.
///
/// # Errors
///
/// The first fault found.
pub fn check(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<(), TargetFault> {
    if method == Method::CONNECT {
        return Err(TargetFault::Connect);
    }
    if method == Method::TRACE {
        return Err(TargetFault::Trace);
    }
    if uri.path() == "*" {
        return Err(TargetFault::Asterisk);
    }
    if !uri.path().starts_with('/') {
        return Err(TargetFault::NoSlash);
    }
    check_path(uri.path())?;
    check_host(uri.authority(), version, headers)
}

/// Whether a header section is within its bounds. A field counts as name, colon, space, value, CR LF.
pub fn head_fits(headers: &HeaderMap, max_fields: usize, max_bytes: usize) -> bool {
    let fields = headers.iter();
    let bytes: usize = fields
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    headers.len() <= max_fields && bytes <= max_bytes
}

/// Checks the fields that say where the body ends.
///
/// # Errors
///
/// The first fault found.
pub fn framing(headers: &HeaderMap, version: &Version) -> Result<(), FramingFault> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked");
        if !chunked || codings.next().is_some() || *version != Version::HTTP_11 {
            return Err(FramingFault::TransferEncoding);
        }
        if headers.contains_key(CONTENT_LENGTH) {
            return Err(FramingFault::Both);
        }
    }
    let mut length = None;
    let values = headers.get_all(CONTENT_LENGTH).iter();
    for value in values.flat_map(|value| value.as_bytes().split(|&b| b == b',')) {
        let value = value.trim_ascii();
        // Compared as text, because not all servers read `5` and `05` alike.
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        if !digits || *length.get_or_insert(value) != value {
            return Err(FramingFault::ContentLength);
        }
    }
    Ok(())
}

/// Deeper nesting is refused, because each round reads the whole path.
const DECODINGS: usize = 8;

/// Looks for dot segments in every decoding of the path that some server may use.
fn check_path(path: &str) -> Result<(), TargetFault> {
    if has_dot_segment(path.as_bytes()) {
        return Err(TargetFault::DotSegment);
    }
    if !path.contains('%') {
        return Ok(());
    }
    let mut path = path.as_bytes().to_owned();
    for _ in 0..DECODINGS {
        if !path.contains(&b'%') {
            return Ok(());
        }
        let decoded: Vec<u8> = percent_decode(&path).collect();
        if decoded == path {
            return Ok(());
        }
        if has_dot_segment(&decoded) {
            return Err(TargetFault::DotSegment);
        }
        path = decoded;
    }
    Err(TargetFault::NestedEscapes)
}

fn has_dot_segment(path: &[u8]) -> bool {
    path.split(|&b| b == b'/' || b == b'\\').any(|segment| {
        // Some servers strip parameters first, so `..;x` is `..` for them.
        let name = segment.split(|&b| b == b';').next().unwrap_or_default();
        name == b"." || name == b".."
    })
}

fn check_host(
    authority: Option<&Authority>,
    version: Version,
    headers: &HeaderMap,
) -> Result<(), TargetFault> {
    if let Some(authority) = authority {
        check_authority(authority.as_str().as_bytes())?;
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(TargetFault::HostRepeated);
    }
    if let Some(host) = host {
        check_authority(host.as_bytes())?;
    }
    match version {
        Version::HTTP_2 | Version::HTTP_3 => match (authority, host.map(HeaderValue::as_bytes)) {
            (None, None) => Err(TargetFault::HostMissing),
            (Some(authority), Some(host))
                if !authority.as_str().as_bytes().eq_ignore_ascii_case(host) =>
            {
                Err(TargetFault::HostDiffers)
            }
            _ => Ok(()),
        },
        // HTTP/1.1 requires Host even with a target in absolute form; HTTP/1.0 does not have it.
        Version::HTTP_11 if host.is_none() => Err(TargetFault::HostMissing),
        _ => Ok(()),
    }
}

/// `host [":" port]` of RFC 3986 section 3.2.2, without the comma, which joins repeated fields.
fn check_authority(authority: &[u8]) -> Result<(), TargetFault> {
    if authority.is_empty() {
        return Err(TargetFault::HostMissing);
    }
    if authority.contains(&b'@') {
        return Err(TargetFault::UserInfo);
    }
    let (host, rest) = if authority[0] == b'[' {
        let end = authority
            .iter()
            .position(|&b| b == b']')
            .ok_or(TargetFault::HostMalformed)?;
        let address = std::str::from_utf8(&authority[1..end]).unwrap_or_default();
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(TargetFault::HostMalformed);
        }
        authority.split_at(end + 1)
    } else {
        let end = authority
            .iter()
            .position(|&b| b == b':')
            .unwrap_or(authority.len());
        let (host, rest) = authority.split_at(end);
        if !host
            .iter()
            .all(|&b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(&b))
        {
            return Err(TargetFault::HostMalformed);
        }
        (host, rest)
    };
    if host.is_empty() {
        return Err(TargetFault::HostMissing);
    }
    match rest {
        [] | [b':'] => Ok(()),
        [b':', port @ ..] if port.iter().all(u8::is_ascii_digit) => {
            let port = std::str::from_utf8(port).unwrap_or_default();
            port.parse::<u16>()
                .map(drop)
                .map_err(|_| TargetFault::HostMalformed)
        }
        _ => Err(TargetFault::HostMalformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn go(method: &str, target: &str, hosts: &[&str]) -> Result<(), TargetFault> {
        let fields: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        check(
            &method,
            &target.parse().unwrap(),
            Version::HTTP_11,
            &with(&fields),
        )
    }

    #[test]
    fn forms_of_the_target() {
        assert_eq!(go("GET", "/works.list?a=../b", &["a"]), Ok(()));
        assert_eq!(go("GET", "http://elsewhere/works.list", &["a"]), Ok(()));
        assert_eq!(go("CONNECT", "a:1", &["a"]), Err(TargetFault::Connect));
        assert_eq!(go("TRACE", "/", &["a"]), Err(TargetFault::Trace));
        assert_eq!(go("OPTIONS", "*", &["a"]), Err(TargetFault::Asterisk));
        assert_eq!(go("GET", "a:1", &["a"]), Err(TargetFault::NoSlash));
        assert_eq!(
            go("GET", "http://u@elsewhere/", &["a"]),
            Err(TargetFault::UserInfo)
        );
    }

    #[test]
    fn dot_segments_in_any_encoding() {
        for path in [
            "/..",
            "/.",
            "/a/../b",
            "/%2e%2E/b",
            "/.%2e/b",
            "/a%2f..",
            "/a%5C..%5cb",
            "/a/..%3bx/b",
            "/a/..;x/b",
            "/%252e%252e/b",
            "/%25252e",
        ] {
            assert_eq!(
                go("GET", path, &["a"]),
                Err(TargetFault::DotSegment),
                "{path}"
            );
        }
        for path in [
            "/works.list",
            "/...",
            "/.well-known",
            "/a%20b",
            "/100%",
            "/a..b/c",
        ] {
            assert_eq!(go("GET", path, &["a"]), Ok(()), "{path}");
        }
        let deep = format!("/%{}2e", "25".repeat(20));
        assert_eq!(go("GET", &deep, &["a"]), Err(TargetFault::NestedEscapes));
    }

    #[test]
    fn hosts() {
        for host in ["api.devrev.ai", "localhost:8080", "[::1]:80", "[::1]", "a:"] {
            assert_eq!(go("GET", "/", &[host]), Ok(()), "{host}");
        }
        for host in [
            "a b", "a,b", "a/b", "a:x", "a:65536", "[::1", "[x]", "a:1:2", "[::1]x",
        ] {
            assert_eq!(
                go("GET", "/", &[host]),
                Err(TargetFault::HostMalformed),
                "{host}"
            );
        }
        assert_eq!(go("GET", "/", &["u@a"]), Err(TargetFault::UserInfo));
        assert_eq!(go("GET", "/", &[]), Err(TargetFault::HostMissing));
        assert_eq!(go("GET", "/", &[""]), Err(TargetFault::HostMissing));
        assert_eq!(go("GET", "/", &["a", "a"]), Err(TargetFault::HostRepeated));
        let uri: Uri = "https://a/x".parse().unwrap();
        let h2 = |fields: &[(&'static str, &str)]| {
            check(&Method::GET, &uri, Version::HTTP_2, &with(fields))
        };
        assert_eq!(h2(&[]), Ok(()));
        assert_eq!(h2(&[("host", "A")]), Ok(()));
        assert_eq!(h2(&[("host", "b")]), Err(TargetFault::HostDiffers));
    }

    #[test]
    fn framings() {
        let go = |fields: &[(&'static str, &str)]| framing(&with(fields), &Version::HTTP_11);
        let (te, cl) = ("transfer-encoding", "content-length");
        assert_eq!(go(&[]), Ok(()));
        assert_eq!(go(&[(te, "Chunked")]), Ok(()));
        assert_eq!(go(&[(cl, "5"), (cl, "5"), ("upgrade", "h2c")]), Ok(()));
        for coding in ["gzip, chunked", "chunked, chunked", "identity", ""] {
            assert_eq!(
                go(&[(te, coding)]),
                Err(FramingFault::TransferEncoding),
                "{coding}"
            );
        }
        assert_eq!(
            go(&[(te, "chunked"), (te, "chunked")]),
            Err(FramingFault::TransferEncoding)
        );
        assert_eq!(go(&[(te, "chunked"), (cl, "5")]), Err(FramingFault::Both));
        for length in ["5, 6", "-1", "+5", "", "5 5"] {
            assert_eq!(
                go(&[(cl, length)]),
                Err(FramingFault::ContentLength),
                "{length}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_dot_segment_passes(path in "(/|%2[fF]|%5[cC]|\\.|%2[eE]|%25|2e|a|;){0,12}") {
            let path = format!("/{path}");
            let Ok(uri) = path.parse::<Uri>() else { return Ok(()) };
            if check(&Method::GET, &uri, Version::HTTP_11, &with(&[("host", "a")])).is_ok() {
                let mut text = path.clone();
                for _ in 0..16 {
                    let parts = text.split(['/', '\\']).map(|part| part.split(';').next().unwrap());
                    prop_assert!(!parts.into_iter().any(|part| part == "." || part == ".."), "{}", path);
                    text = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
                }
            }
        }
    }
}
