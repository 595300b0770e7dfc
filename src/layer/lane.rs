//! Each attempt waits in turn for a lane: a connection to DevRev, or a stream on it. The wait ends with the caller's own, as a wait for
//! quota does.
//!
//! Below `quota`, so that no wait for quota holds a lane.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tokio::time::Instant;
use tower::Service;

use super::{Either, id_of, record};
use crate::{
    allocation::{Allocation, Place},
    body::Body,
    error::Error,
    policy::allocator::Claim,
    record::Record,
    state::draining::Draining,
    telemetry::{labels::WaitReason, metrics::Metrics},
    types::Deadline,
    upstream::{Lane as UpstreamLane, Lanes, Turn},
};

/// See the module.
#[derive(Clone)]
pub(crate) struct Lane<S> {
    inner: S,
    /// `None` for a model of DevRev without connections.
    lanes: Option<Lanes>,
    draining: Draining,
    metrics: Arc<Metrics>,
}

impl<S> Lane<S> {
    pub(crate) fn new(
        inner: S,
        lanes: Option<Lanes>,
        draining: Draining,
        metrics: Arc<Metrics>,
    ) -> Self {
        Lane {
            inner,
            lanes,
            draining,
            metrics,
        }
    }
}

impl<S> Service<Request<Body>> for Lane<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = Either<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(lanes) = &self.lanes else {
            return Either::inner(self.inner.call(request));
        };
        let extensions = request.extensions();
        let deadline = extensions.get::<Deadline>();
        let turn = Arc::new(LaneTurn {
            lanes: lanes.clone(),
            claim: Place::claim(extensions),
            until: deadline.map_or_else(Instant::now, |deadline| deadline.0),
            place: extensions.get::<Place>().cloned(),
            record: record(&request),
            draining: self.draining.clone(),
            metrics: self.metrics.clone(),
        });
        if let Ok(lane) = lanes.try_take(&turn.claim) {
            let lane = UpstreamLane::new(lane, turn);
            request.extensions_mut().insert(lane);
            return Either::inner(self.inner.call(request));
        }
        tracing::debug!(
            request_id = id_of(extensions),
            "the attempt waits for a connection to DevRev: all that may be open are in use"
        );
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Either::boxed(Box::pin(async move {
            let lane = UpstreamLane::new(turn.again().await?, turn);
            request.extensions_mut().insert(lane);
            inner.call(request).await
        }))
    }
}

struct LaneTurn {
    lanes: Lanes,
    claim: Claim,
    until: Instant,
    place: Option<Place>,
    record: Record,
    draining: Draining,
    metrics: Arc<Metrics>,
}

impl Turn for LaneTurn {
    fn again(&self) -> Pin<Box<dyn Future<Output = Result<Allocation, Error>> + Send>> {
        let (lanes, claim, until) = (self.lanes.clone(), self.claim.clone(), self.until);
        let (record, metrics) = (self.record.clone(), self.metrics.clone());
        let (place, draining) = (self.place.clone(), self.draining.clone());
        Box::pin(async move {
            // As while it waits for quota, the request is not in flight: otherwise those of one caller that come back from a pause together
            // would take all places.
            let parked = place.as_ref().map(|place| place.in_flight.park());
            let waiting = record.waiting(WaitReason::Connection);
            let lane = draining.bound(lanes.take(&claim, until)).await;
            metrics.wait(WaitReason::Connection, waiting.end().as_secs_f64());
            drop(parked);
            lane?
        })
    }
}
