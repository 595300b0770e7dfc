//! Room for a bounded number of requests. The permit lives until the answer's body has ended, not only its head.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tower::{Layer, Service};

use super::BoxFuture;
use crate::{
    body::{Body, Guard},
    error::Error,
};

pub struct Parameters {
    /// Requests in flight, of all workers.
    pub in_flight: Arc<AtomicUsize>,
    pub max_in_flight: usize,
}

/// See the module.
#[derive(Clone)]
pub struct AdmissionLayer(Arc<Parameters>);

impl AdmissionLayer {
    pub fn new(parameters: Parameters) -> Self {
        AdmissionLayer(Arc::new(parameters))
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission {
            inner,
            parameters: self.0.clone(),
        }
    }
}

#[derive(Clone)]
pub struct Admission<S> {
    inner: S,
    parameters: Arc<Parameters>,
}

/// A full house empties at the pace of single requests; a second is long for one and short for a caller.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

struct Permit(Arc<AtomicUsize>);
impl Guard for Permit {}

impl Permit {
    /// A count and not a semaphore, because the bound may change while requests are in flight.
    fn take(parameters: &Parameters) -> Option<Permit> {
        let (count, max) = (&parameters.in_flight, parameters.max_in_flight);
        let taken = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            (now < max).then_some(now + 1)
        });
        taken.ok().map(|_| Permit(count.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

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
        let Some(permit) = Permit::take(&self.parameters) else {
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
