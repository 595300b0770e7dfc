//! Whether a request's target and framing are unambiguous. What two servers could read differently is refused.
//!
//! ```
//! use http::{HeaderMap, Method, Version, header::HOST};
//! use revgate::policy::target::{TargetFault, check};
//!
//! let mut headers = HeaderMap::new();
//! headers.insert(HOST, "gateway".parse().unwrap());
//! let check = |target: &str| check(&Method::POST, &target.parse().unwrap(), Version::HTTP_11, &headers);
//! assert_eq!(check("/works.list"), Ok(()));
//! assert_eq!(check("http://user@elsewhere/works.list"), Err(TargetFault::UserInfo));
//! ```

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderMap, Method, Uri, Version};
use thiserror::Error;

/// A fault of a request's target or Host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TargetFault {
    /// CONNECT asks for a tunnel (RFC 9110 section 9.3.6).
    #[error("CONNECT is not served")]
    Connect,
    /// TRACE would echo the token in the answer (RFC 9110 section 9.3.8).
    #[error("TRACE is not served")]
    Trace,
    /// `OPTIONS *` is about a server as a whole (RFC 9112 section 3.2.4).
    #[error("the target * is not served")]
    Asterisk,
    /// A path must begin with a slash (RFC 9112 section 3.2.1).
    #[error("the target's path does not begin with a slash")]
    NoSlash,
    /// `.` or `..`, plain or encoded (RFC 3986 section 3.3).
    #[error("the path contains a dot segment")]
    DotSegment,
    /// Escapes nested deeper than they are decoded here.
    #[error("the path is percent-encoded too many times over")]
    NestedEscapes,
    /// `%u` and four digits, which is an escape for some servers only.
    #[error("the path contains an escape that is none in RFC 3986")]
    ForeignEscape,
    /// Octets that are not UTF-8, such as an overlong slash.
    #[error("the path is not UTF-8 when it is decoded")]
    NotUtf8,
    /// A control character, plain or encoded. Servers drop it, or end the path there.
    #[error("the path contains a control character")]
    ControlCharacter,
    /// No authority and no Host, or an empty one (RFC 9112 section 3.2).
    #[error("no host is named")]
    HostMissing,
    #[error("more than one Host is named")]
    HostRepeated,
    /// Not a host and an optional port.
    #[error("the host is malformed")]
    HostMalformed,
    /// In HTTP/2, `:authority` and Host must agree (RFC 9113 section 8.3.1).
    #[error("Host and :authority differ")]
    HostDiffers,
    /// User information is not allowed in a request (RFC 9110 section 4.2.4).
    #[error("the host carries user information")]
    UserInfo,
}

/// A fault of a request's framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FramingFault {
    /// A transfer coding other than exactly one `chunked` (RFC 9112 section 6.1), or any in a version that has none.
    #[error("the only transfer coding is one chunked")]
    TransferEncoding,
    /// Both Transfer-Encoding and Content-Length, as in request smuggling (RFC 9112 section 6.1).
    #[error("Transfer-Encoding and Content-Length exclude each other")]
    Both,
    /// A Content-Length that is not a number, or several that differ (RFC 9112 section 6.3).
    #[error("Content-Length is malformed or contradicts itself")]
    ContentLength,
}

/// Checks method, form of the target and Host. The path itself is the [operation](super::operation)'s. A target in absolute form may name
/// any authority, since requests go to the configured upstream.
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
    check_host(uri.authority(), version, headers)
}

/// Whether a header section is within its bounds. A field counts as name, colon, space, value, CR LF.
pub fn head_fits(headers: &HeaderMap, max_fields: usize, max_bytes: usize) -> bool {
    headers.len() <= max_fields && head_bytes(headers) <= max_bytes
}

/// Bytes of a head's fields, as HTTP/1.1 writes them.
pub fn head_bytes(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    fields
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
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
    match (version, authority, host) {
        (Version::HTTP_2 | Version::HTTP_3, Some(authority), Some(host))
            if !authority
                .as_str()
                .as_bytes()
                .eq_ignore_ascii_case(host.as_bytes()) =>
        {
            Err(TargetFault::HostDiffers)
        }
        // HTTP/1.1 requires Host even with a target in absolute form; HTTP/1.0 does not have it.
        (Version::HTTP_2 | Version::HTTP_3, None, None) | (Version::HTTP_11, _, None) => {
            Err(TargetFault::HostMissing)
        }
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
    use http::HeaderValue;

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
        let (uri, headers) = (target.parse().unwrap(), with(&fields));
        check(&method, &uri, Version::HTTP_11, &headers)
    }

    #[test]
    fn forms_of_the_target() {
        use TargetFault::{Asterisk, Connect, NoSlash, Trace, UserInfo};
        assert_eq!(go("GET", "/works.list?a=../b", &["a"]), Ok(()));
        assert_eq!(go("GET", "http://elsewhere/works.list", &["a"]), Ok(()));
        for (method, target, fault) in [
            ("CONNECT", "a:1", Connect),
            ("TRACE", "/", Trace),
            ("OPTIONS", "*", Asterisk),
            ("GET", "a:1", NoSlash),
            ("GET", "http://u@elsewhere/", UserInfo),
        ] {
            assert_eq!(go(method, target, &["a"]), Err(fault));
        }
    }

    #[test]
    fn hosts() {
        use TargetFault::{HostDiffers, HostMalformed, HostMissing, HostRepeated, UserInfo};
        let of = |hosts: &[&str]| go("GET", "/", hosts);
        for host in ["api.devrev.ai", "localhost:8080", "[::1]:80", "[::1]", "a:"] {
            assert_eq!(of(&[host]), Ok(()), "{host}");
        }
        for host in [
            "a b", "a,b", "a/b", "a:x", "a:65536", "[::1", "[x]", "a:1:2", "[::1]x",
        ] {
            assert_eq!(of(&[host]), Err(HostMalformed), "{host}");
        }
        assert_eq!(of(&["u@a"]), Err(UserInfo));
        assert_eq!(of(&[]), Err(HostMissing));
        assert_eq!(of(&[""]), Err(HostMissing));
        assert_eq!(of(&["a", "a"]), Err(HostRepeated));
        let uri: Uri = "https://a/x".parse().unwrap();
        let h2 = |fields: &[(&'static str, &str)]| {
            check(&Method::GET, &uri, Version::HTTP_2, &with(fields))
        };
        assert_eq!(h2(&[]), Ok(()));
        assert_eq!(h2(&[("host", "A")]), Ok(()));
        assert_eq!(h2(&[("host", "b")]), Err(HostDiffers));
    }

    #[test]
    fn framings() {
        use FramingFault::{Both, ContentLength, TransferEncoding};
        let of = |fields: &[(&'static str, &str)]| framing(&with(fields), &Version::HTTP_11);
        let (te, cl) = ("transfer-encoding", "content-length");
        assert_eq!(of(&[]), Ok(()));
        assert_eq!(of(&[(te, "Chunked")]), Ok(()));
        assert_eq!(of(&[(cl, "5"), (cl, "5"), ("upgrade", "h2c")]), Ok(()));
        for coding in ["gzip, chunked", "chunked, chunked", "identity", ""] {
            assert_eq!(of(&[(te, coding)]), Err(TransferEncoding), "{coding}");
        }
        let twice = [(te, "chunked"), (te, "chunked")];
        assert_eq!(of(&twice), Err(TransferEncoding));
        assert_eq!(of(&[(te, "chunked"), (cl, "5")]), Err(Both));
        for length in ["5, 6", "-1", "+5", "", "5 5"] {
            assert_eq!(of(&[(cl, length)]), Err(ContentLength), "{length}");
        }
    }
}
