//! The caller's own rate, once per request, by governor's GCRA.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use governor::clock::Clock;
use http::{Request, Response};
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{Either, record};
use crate::{
    body::Body,
    error::Error,
    policy::rate::{Keyed, Limiter},
    telemetry::metrics::Metrics,
    types::{Caller, OwnToken},
};

/// tokio's clock in governor's terms, so that a test can stop it.
#[derive(Clone, Debug)]
pub struct TokioClock(Instant);

impl TokioClock {
    pub fn start() -> Self {
        TokioClock(Instant::now())
    }
}

impl Clock for TokioClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

pub struct Parameters {
    /// By the name of the caller.
    pub callers: HashMap<Arc<str>, Arc<Limiter<TokioClock>>>,
    /// In mode "validate", by the hash of the token.
    pub tokens: Arc<Mutex<Keyed<TokioClock>>>,
    pub metrics: Arc<Metrics>,
}

/// See the module.
#[derive(Clone)]
pub struct RateLimitLayer(Arc<Parameters>);

impl RateLimitLayer {
    pub fn new(parameters: Parameters) -> Self {
        RateLimitLayer(Arc::new(parameters))
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit {
            inner,
            parameters: self.0.clone(),
        }
    }
}

#[derive(Clone)]
pub struct RateLimit<S> {
    inner: S,
    parameters: Arc<Parameters>,
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
        let Some(caller) = request.extensions().get::<Arc<Caller>>() else {
            return Either::refused(Error::Internal);
        };
        let limiter = match request.extensions().get::<OwnToken>() {
            Some(own) => Some(
                self.parameters
                    .tokens
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get(&own.hash),
            ),
            None => self.parameters.callers.get(&caller.name).cloned(),
        };
        let Some(limiter) = limiter else {
            return Either::refused(Error::Internal);
        };
        let verdict = limiter.check();
        record(&request).facts().rate = Some((limiter.policy_header(), verdict.header()));
        if !verdict.allowed {
            let refusal = Error::CallerRateLimited {
                retry_after: verdict.retry_after,
            };
            if caller.enforce {
                return Either::refused(refusal);
            }
            let code = refusal.code();
            record(&request).facts().would_refuse.get_or_insert(code);
            self.parameters.metrics.would_refuse(&caller.name, code);
        }
        Either::below(self.inner.call(request))
    }
}
