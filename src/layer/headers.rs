//! Strips hop-by-hop fields and fields about the caller, both ways, joins cookies, and sets Host, Via and the request id.

use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response, header};
use tower::Service;

use super::BoxFuture;
use crate::{
    body::Body,
    error::Error,
    policy::{cookies, headers},
    types::RequestId,
};

const VIA: HeaderValue = HeaderValue::from_static("1.1 revgate");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// See the module.
#[derive(Clone)]
pub(crate) struct Headers<S> {
    inner: S,
    host: HeaderValue,
}

impl<S> Headers<S> {
    /// `host` is the upstream's authority.
    pub(crate) fn new(inner: S, host: HeaderValue) -> Self {
        Headers { inner, host }
    }
}

impl<S> Service<Request<Body>> for Headers<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error, Future = BoxFuture>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> BoxFuture {
        let exact = http_body::Body::size_hint(request.body()).exact();
        let id = request.extensions().get::<RequestId>().cloned();
        let fields = request.headers_mut();
        let takes_trailers = headers::takes_trailers(fields);
        let ignored = headers::strip_request(fields);
        if !ignored.is_empty() {
            tracing::debug!(
                request_id = id.as_ref().map(RequestId::as_str),
                fields = ?ignored,
                "header fields that would say what is to be done, or that a server may take for others, are not forwarded"
            );
        }
        cookies::join(fields);
        if exact.is_none() {
            // Without it, hyper sends a GET without its body.
            fields.remove(header::CONTENT_LENGTH);
            fields.insert(
                header::TRANSFER_ENCODING,
                HeaderValue::from_static("chunked"),
            );
        }
        if takes_trailers {
            // DevRev's trailers are passed on, and DevRev may send some only to who takes them (RFC 9110 section 6.5.1).
            fields.insert(header::TE, TRAILERS);
        }
        fields.insert(header::HOST, self.host.clone());
        fields.append(header::VIA, VIA);
        if let Some(RequestId(id)) = id {
            fields.insert(RequestId::HEADER, id);
        }
        let below = self.inner.call(request);
        Box::pin(async move {
            let mut response = below.await?;
            let fields = response.headers_mut();
            headers::strip_response(fields);
            fields.append(header::VIA, VIA);
            Ok(response)
        })
    }
}
