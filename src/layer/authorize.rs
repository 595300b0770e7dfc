//! Which operations a caller may use; before rate and quota, because a forbidden call costs nothing.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response};
use tower::{Layer, Service};

use super::{Either, record};
use crate::{
    body::Body,
    error::{Code, Error},
    telemetry::metrics::Metrics,
    types::{Caller, Named, OwnToken},
};

pub struct Parameters {
    /// Where the caller's own limit stands: a refusal tells it too, and takes nothing from it.
    pub rate: Rate,
    pub metrics: Arc<Metrics>,
}

/// `RateLimit-Policy` and `RateLimit` of a caller, which may have brought a token of its own.
pub type Rate =
    Arc<dyn Fn(&Caller, Option<&OwnToken>) -> Option<(HeaderValue, HeaderValue)> + Send + Sync>;

/// See the module.
#[derive(Clone)]
pub struct AuthorizeLayer(Arc<Parameters>);

impl AuthorizeLayer {
    pub fn new(parameters: Parameters) -> Self {
        AuthorizeLayer(Arc::new(parameters))
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize {
            inner,
            parameters: self.0.clone(),
        }
    }
}

#[derive(Clone)]
pub struct Authorize<S> {
    inner: S,
    parameters: Arc<Parameters>,
}

impl<S> Service<Request<Body>> for Authorize<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = Either<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let extensions = request.extensions();
        let (Some(caller), Some(Named(operation))) =
            (extensions.get::<Arc<Caller>>(), extensions.get())
        else {
            return Either::refused(Error::Internal);
        };
        if !caller.access.permits(operation.name()) {
            if caller.enforce {
                record(&request).facts().rate = (self.parameters.rate)(caller, extensions.get());
                return Either::refused(Error::Forbidden);
            }
            let code = Code::Forbidden;
            record(&request).facts().would_refuse.get_or_insert(code);
            self.parameters.metrics.would_refuse(&caller.name, code);
        }
        Either::below(self.inner.call(request))
    }
}
