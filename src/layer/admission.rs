//! Bounds the requests in flight. A permit is held until the answer's body has ended, not only its head.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tower::Service;

use super::BoxFuture;
use crate::{body::Body, error::Error, state::in_flight::InFlight};

/// See the module.
#[derive(Clone)]
pub(crate) struct Admission<S> {
    inner: S,
    in_flight: Arc<InFlight>,
    max: usize,
}

impl<S> Admission<S> {
    /// At most `max` of the requests of all workers are in flight.
    pub(crate) fn new(inner: S, in_flight: Arc<InFlight>, max: usize) -> Self {
        Admission {
            inner,
            in_flight,
            max,
        }
    }
}

/// A second is long for a place to become free, and short for a caller to wait.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

impl<S> Service<Request<Body>> for Admission<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> BoxFuture {
        let Some(permit) = self.in_flight.try_take(self.max) else {
            return Box::pin(std::future::ready(Err(Error::Overloaded {
                retry_after: RETRY_AFTER,
            })));
        };
        let below = self.inner.call(request);
        Box::pin(async move {
            let response = below.await?;
            Ok(response.map(|body| body.guarded(permit)))
        })
    }
}
