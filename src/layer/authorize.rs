//! Which operations a caller may use. Above the rate limit and the quota, because a forbidden call costs nothing.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower::Service;

use super::{Either, record};
use crate::{
    body::Body,
    error::{Code, Error},
    policy::operation::Operation,
    state::limiters::PlanLimiters,
    telemetry::metrics::Metrics,
    types::{Caller, CallerToken},
};

/// See the module.
#[derive(Clone)]
pub(crate) struct Authorize<S> {
    inner: S,
    limiters: Arc<PlanLimiters>,
    metrics: Arc<Metrics>,
}

impl<S> Authorize<S> {
    pub(crate) fn new(inner: S, limiters: Arc<PlanLimiters>, metrics: Arc<Metrics>) -> Self {
        Authorize {
            inner,
            limiters,
            metrics,
        }
    }
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
        let (Some(caller), Some(operation)) = (
            extensions.get::<Arc<Caller>>(),
            extensions.get::<Operation>(),
        ) else {
            return Either::refused(Error::Internal);
        };
        if !caller.access.permits(operation.name()) {
            if caller.enforce {
                record(&request).facts().rate = self
                    .limiters
                    .headers(caller, extensions.get::<CallerToken>());
                return Either::refused(Error::Forbidden);
            }
            let code = Code::Forbidden;
            record(&request).facts().would_refuse.get_or_insert(code);
            self.metrics.would_refuse(&caller.name, code);
        }
        Either::inner(self.inner.call(request))
    }
}
