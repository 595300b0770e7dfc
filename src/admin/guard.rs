//! Which requests the admin listener accepts.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, USER_AGENT};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use secrecy::{ExposeSecret, SecretString};

use crate::hash::sha256;

type Refusal = (StatusCode, &'static str);

#[derive(Debug)]
pub(super) struct AccessGuard {
    loopback: bool,
    /// Its hash, so that a comparison takes the same time for any length.
    key: Option<[u8; 32]>,
}

impl AccessGuard {
    pub(super) fn new(bound: SocketAddr, key: Option<&SecretString>) -> Self {
        Self {
            loopback: bound.ip().to_canonical().is_loopback(),
            key: key.map(|k| sha256(k.expose_secret().as_bytes())),
        }
    }

    /// Against DNS rebinding: another site can point a name of its own at 127.0.0.1 and read this listener through a browser on
    /// this machine. Such a request has that name in Host.
    ///
    /// On other addresses the right names are not known. There a POST needs the key, which no such site has, and GET is open to the
    /// network anyway.
    pub(super) fn host<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let (uri, headers) = (request.uri(), request.headers());
        // HTTP/1.0 knows no Host, and probes of load balancers speak it. No browser does.
        if request.version() == Version::HTTP_10
            && !headers.contains_key(HOST)
            && uri.authority().is_none()
        {
            return Ok(());
        }
        let host = host(headers);
        if host.is_none() {
            // RFC 9112 section 3.2.
            return Err((
                StatusCode::BAD_REQUEST,
                "the request needs one valid Host field",
            ));
        }
        // RFC 9112 section 3.2.2: the authority of a target in absolute form overrides Host. Browsers never send one.
        let same = uri.authority().is_none_or(|a| Some(a) == host.as_ref());
        if same && (!self.loopback || host.is_some_and(|h| is_loopback(&h))) {
            return Ok(());
        }
        Err((
            StatusCode::FORBIDDEN,
            "the Host must be localhost or a loopback address",
        ))
    }

    /// Against cross-site requests: refuses what a browser says comes from another origin. It also refuses what a page can send
    /// without a preflight (a form, a beacon), in case the browser sends no origin.
    pub(super) fn post(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let site = headers
            .get_all("sec-fetch-site")
            .iter()
            .all(|s| s == "same-origin" || s == "none");
        let authority = |origin: &HeaderValue| {
            let (_, authority) = origin.to_str().ok()?.split_once("://")?;
            authority.parse::<Authority>().ok()
        };
        let origin = headers.get_all(ORIGIN).iter().all(|origin| {
            let origin = authority(origin);
            origin.is_some() && origin == host(headers)
        });
        if !site || !origin {
            return Err((
                StatusCode::FORBIDDEN,
                "a page of another site may not do this",
            ));
        }
        // `curl -d` also declares a form, so only browsers must send JSON.
        if is_browser(headers) && !headers.get_all(CONTENT_TYPE).iter().all(is_json) {
            return Err((
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "a browser must send a body as Content-Type: application/json",
            ));
        }
        if self.loopback {
            return Ok(());
        }
        let Some(key) = &self.key else {
            return Err((
                StatusCode::FORBIDDEN,
                "set admin.key to allow this on an address that is not loopback",
            ));
        };
        let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let (scheme, given) = given
            .and_then(|a| a.split_at_checked(7))
            .unwrap_or_default();
        let is_key = || verify_slices_are_equal(&sha256(given), key).is_ok();
        if scheme.eq_ignore_ascii_case(b"bearer ") && is_key() {
            return Ok(());
        }
        Err((
            StatusCode::UNAUTHORIZED,
            "the admin key is needed: Authorization: Bearer KEY",
        ))
    }
}

/// The only Host; `None` if there are none or several, or it is malformed.
fn host(headers: &HeaderMap) -> Option<Authority> {
    let mut all = headers.get_all(HOST).iter();
    let first = all.next()?;
    if all.next().is_some() {
        return None;
    }
    Authority::try_from(first.as_bytes()).ok()
}

/// Every browser's User-Agent begins with "Mozilla/", and no page can change it.
fn is_browser(headers: &HeaderMap) -> bool {
    let named = |name: &HeaderValue| name.as_bytes().starts_with(b"Mozilla/");
    headers.contains_key(ORIGIN)
        || headers.contains_key("sec-fetch-site")
        || headers.get_all(USER_AGENT).iter().any(named)
}

fn is_json(kind: &HeaderValue) -> bool {
    let essence = kind.as_bytes().split(|b| *b == b';').next();
    essence.is_some_and(|e| e.trim_ascii().eq_ignore_ascii_case(b"application/json"))
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let bare = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    let named = host.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback());
    named && !authority.as_str().contains('@')
}
