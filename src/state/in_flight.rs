//! The count of requests in flight, over all workers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::body::Guard;

/// A counter and not a semaphore, because a reload may change the bound while requests are in flight.
#[derive(Debug, Default)]
pub struct InFlight(AtomicUsize);

/// Counts one request as in flight until it is dropped.
pub struct InFlightPermit(Arc<InFlight>);

impl Guard for InFlightPermit {}

impl InFlight {
    /// A permit, unless `max` requests are in flight.
    pub fn try_take(self: &Arc<Self>, max: usize) -> Option<InFlightPermit> {
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now < max).then_some(now + 1)
            });
        taken.ok().map(|_| InFlightPermit(self.clone()))
    }

    /// Takes a request out of the count until the guard is dropped. A request that waits for quota does not count as in flight;
    /// otherwise many of them would shut out requests that need not wait.
    pub fn park(&self) -> Parked<'_> {
        self.0.fetch_sub(1, Ordering::AcqRel);
        Parked(self)
    }

    /// How many requests are in flight.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// See [`InFlight::park`].
pub struct Parked<'a>(&'a InFlight);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::AcqRel);
    }
}
