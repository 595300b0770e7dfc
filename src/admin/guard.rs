//! Which requests the admin listener accepts.

use std::net::SocketAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, USER_AGENT};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use secrecy::{ExposeSecret, SecretString};

use crate::{hash::sha256, policy::browser};

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

    /// Against DNS rebinding, through which another site could read this listener in a browser on this machine.
    ///
    /// On other addresses the right names are not known. There a POST needs the key, which no such site has, and GET is open to the
    /// network anyway.
    pub(super) fn host<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let (uri, headers) = (request.uri(), request.headers());
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts
            .next()
            .map(|host| Authority::try_from(host.as_bytes()));
        let is_good = match host {
            // HTTP/1.0 knows no Host, and probes of load balancers speak it.
            None => request.version() <= Version::HTTP_10 && uri.authority().is_none(),
            Some(host) => host.is_ok() && hosts.next().is_none(),
        };
        if !is_good {
            // RFC 9112 section 3.2.
            return Err((
                StatusCode::BAD_REQUEST,
                "the request needs one valid Host field",
            ));
        }
        if !self.loopback {
            return Ok(());
        }
        browser::check_host(&[], uri, request.version(), headers).map_err(|_| {
            (
                StatusCode::FORBIDDEN,
                "the Host must be localhost or a loopback address",
            )
        })
    }

    /// Refuses what a page of another site can send: what its browser says comes from another origin, and what needs no preflight (a
    /// form, a beacon), in case the browser sends no origin.
    pub(super) fn post<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let headers = request.headers();
        if browser::check_page(request.uri(), headers).is_err() {
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
