//! Checks what hyper does not: the target, Host, framing and the size of the header section. Names the operation.

use std::task::{Context, Poll};

use http::{Request, Response};
use tower::Service;

use super::{Either, id_of, record};
use crate::{
    body::Body,
    error::Error,
    policy::{headers, http1, operation::Operation, target},
    telemetry::log::short,
    types::RequestLimits,
};

/// See the module.
#[derive(Clone)]
pub(crate) struct Protocol<S> {
    inner: S,
    limits: RequestLimits,
}

impl<S> Protocol<S> {
    pub(crate) fn new(inner: S, limits: RequestLimits) -> Self {
        Protocol { inner, limits }
    }
}

impl<S> Service<Request<Body>> for Protocol<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = Either<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Err(error) = check(&request, &self.limits) {
            return Either::refused(error);
        }
        let operation = Operation::from_path(request.uri().path());
        if let Some(fault) = operation.fault() {
            return Either::refused(Error::Target(fault));
        }
        let extensions = request.extensions();
        tracing::trace!(
            request_id = id_of(extensions),
            method = short(request.method().as_str(), http1::MAX_METHOD),
            operation = operation.label().label(),
            version = ?request.version(),
            fields = request.headers().len(),
            body = http_body::Body::size_hint(request.body()).exact(),
            "a request's head is accepted"
        );
        let record = record(&request);
        record.facts().operation = Some(operation.label());
        record.facts().deprecated_operation = operation.is_deprecated();
        request.extensions_mut().insert(operation);
        Either::inner(self.inner.call(request))
    }
}

fn check(request: &Request<Body>, limits: &RequestLimits) -> Result<(), Error> {
    let fields = request.headers();
    if !target::head_fits(fields, limits.max_headers, limits.max_header_bytes) {
        return Err(Error::HeadersTooLarge);
    }
    http1::check(request.method(), request.uri(), fields)?;
    target::check(request.method(), request.uri(), request.version(), fields)
        .map_err(Error::Target)?;
    target::framing(fields, &request.version()).map_err(Error::Framing)?;
    if headers::is_loop(fields) {
        return Err(Error::Loop);
    }
    let size = http_body::Body::size_hint(request.body()).lower();
    if size > limits.max_body {
        return Err(Error::BodyTooLarge {
            max_bytes: limits.max_body,
        });
    }
    Ok(())
}
