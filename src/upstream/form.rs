//! Request targets in the form of HTTP/1.1 and of HTTP/2.

use http::{HeaderValue, Request, Uri, Version, header, uri};

use crate::body::Body;

pub(super) fn set_origin_form(request: &mut Request<Body>, upstream: &Uri) {
    let mut parts = uri::Parts::default();
    parts.path_and_query = request.uri().path_and_query().cloned();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    if *request.version_mut() == Version::HTTP_2 && !request.headers().contains_key(header::HOST) {
        // The request was prepared for an HTTP/2 connection that closed before it was sent.
        let host = upstream
            .authority()
            .and_then(|authority| HeaderValue::try_from(authority.as_str()).ok());
        request
            .headers_mut()
            .extend(host.map(|host| (header::HOST, host)));
        if http_body::Body::size_hint(request.body()).exact().is_none() {
            request.headers_mut().insert(
                header::TRANSFER_ENCODING,
                HeaderValue::from_static("chunked"),
            );
        }
    }
    if request.headers().contains_key(header::TE) {
        // RFC 9110 section 10.1.4.
        let te = HeaderValue::from_static("te");
        request.headers_mut().insert(header::CONNECTION, te);
    }
    *request.version_mut() = Version::HTTP_11;
}

/// hyper takes `:scheme` and `:authority` from the URI. HTTP/2 uses no Host (RFC 9113 section 8.3.1).
pub(super) fn set_absolute_form(request: &mut Request<Body>, upstream: &Uri) {
    let mut parts = upstream.clone().into_parts();
    parts.path_and_query = request.uri().path_and_query().cloned();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request.headers_mut().remove(header::HOST);
    request.headers_mut().remove(header::TRANSFER_ENCODING);
    // It lists TE, which HTTP/2 has without it (RFC 9113 section 8.2.2).
    request.headers_mut().remove(header::CONNECTION);
    *request.version_mut() = Version::HTTP_2;
}
