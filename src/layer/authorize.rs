//! Which operations a caller may use. Above the rate limit and the quota, because a forbidden call costs nothing.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower::Service;

use super::{Either, record, refuse_if_enforced};
use crate::{
    body::Body,
    error::Error,
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
        if !caller.access.permits(operation) {
            let record = record(&request);
            let refused = refuse_if_enforced(Error::Forbidden, caller, &record, &self.metrics);
            if let Err(error) = refused {
                let caller_token = extensions.get::<CallerToken>();
                record.facts().rate = self.limiters.headers(caller, caller_token);
                return Either::refused(error);
            }
        }
        Either::inner(self.inner.call(request))
    }
}
