//! The caller's rate limit, once per request (GCRA by governor).

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower::Service;

use super::{Either, id_of, record, refuse_if_enforced};
use crate::{
    body::Body,
    error::Error,
    state::limiters::PlanLimiters,
    telemetry::metrics::Metrics,
    types::{Caller, CallerToken},
};

/// See the module.
#[derive(Clone)]
pub(crate) struct RateLimit<S> {
    inner: S,
    limiters: Arc<PlanLimiters>,
    metrics: Arc<Metrics>,
}

impl<S> RateLimit<S> {
    pub(crate) fn new(inner: S, limiters: Arc<PlanLimiters>, metrics: Arc<Metrics>) -> Self {
        RateLimit {
            inner,
            limiters,
            metrics,
        }
    }
}

impl<S> Service<Request<Body>> for RateLimit<S>
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
        let Some(caller) = extensions.get::<Arc<Caller>>() else {
            return Either::refused(Error::Internal);
        };
        let Some(limiter) = self
            .limiters
            .of_request(caller, extensions.get::<CallerToken>())
        else {
            return Either::refused(Error::Internal);
        };
        let verdict = limiter.check();
        tracing::debug!(
            request_id = id_of(extensions),
            caller = &*caller.name,
            allowed = verdict.allowed,
            remaining = verdict.remaining,
            "the caller's rate: {}",
            if verdict.allowed {
                "within it"
            } else {
                "above it"
            }
        );
        let record = record(&request);
        record.facts().rate = Some((limiter.policy_header(), verdict.header()));
        if !verdict.allowed {
            let refusal = Error::CallerRateLimited {
                retry_after: verdict.retry_after,
            };
            if let Err(error) = refuse_if_enforced(refusal, caller, &record, &self.metrics) {
                return Either::refused(error);
            }
        }
        Either::inner(self.inner.call(request))
    }
}
