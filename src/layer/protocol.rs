//! What hyper leaves unchecked: the target, Host, framing and the size of the header section. Names the operation.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower::{Layer, Service};

use super::{Either, record};
use crate::{
    body::Body,
    error::Error,
    policy::{headers, operation::Operation, target},
    types::{AmbiguousFraming, Named},
};

pub struct Parameters {
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub max_body: u64,
}

/// See the module.
#[derive(Clone)]
pub struct ProtocolLayer(Arc<Parameters>);

impl ProtocolLayer {
    pub fn new(parameters: Parameters) -> Self {
        ProtocolLayer(Arc::new(parameters))
    }
}

impl<S> Layer<S> for ProtocolLayer {
    type Service = Protocol<S>;

    fn layer(&self, inner: S) -> Protocol<S> {
        Protocol {
            inner,
            parameters: self.0.clone(),
        }
    }
}

#[derive(Clone)]
pub struct Protocol<S> {
    inner: S,
    parameters: Arc<Parameters>,
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
        if let Err(error) = self.parameters.check(&request) {
            return Either::refused(error);
        }
        let operation = Operation::from_path(request.uri().path());
        let record = record(&request);
        record.facts().operation = Some(operation.label());
        record.facts().deprecated_operation = operation.is_deprecated();
        request.extensions_mut().insert(Named(operation));
        Either::below(self.inner.call(request))
    }
}

impl Parameters {
    fn check(&self, request: &Request<Body>) -> Result<(), Error> {
        let fields = request.headers();
        if !target::head_fits(fields, self.max_headers, self.max_header_bytes) {
            return Err(Error::HeadersTooLarge);
        }
        target::check(request.method(), request.uri(), request.version(), fields)
            .map_err(Error::Target)?;
        if request.extensions().get::<AmbiguousFraming>().is_some() {
            return Err(Error::Framing(target::FramingFault::Both));
        }
        target::framing(fields, &request.version()).map_err(Error::Framing)?;
        if headers::is_loop(fields) {
            return Err(Error::Loop);
        }
        let size = http_body::Body::size_hint(request.body()).lower();
        if size > self.max_body {
            return Err(Error::BodyTooLarge {
                max_bytes: self.max_body,
            });
        }
        Ok(())
    }
}
