//! Requests in flight, of all workers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::body::Guard;

/// A count and not a semaphore, because the bound belongs to the configuration and may change while requests are in flight.
#[derive(Debug, Default)]
pub struct InFlight(AtomicUsize);

/// A place among the requests in flight; given back when dropped.
pub struct InFlightPermit(Arc<InFlight>);

impl Guard for InFlightPermit {}

impl InFlight {
    /// A place, unless `max` are taken.
    pub fn try_take(self: &Arc<Self>, max: usize) -> Option<InFlightPermit> {
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now < max).then_some(now + 1)
            });
        taken.ok().map(|_| InFlightPermit(self.clone()))
    }

    /// Takes a request out of the count until the guard is dropped: one that waits for quota is not in flight, or a crowd that
    /// waits would shut out those who need not.
    pub fn park(&self) -> Parked<'_> {
        self.0.fetch_sub(1, Ordering::AcqRel);
        Parked(self)
    }

    /// How many there are now.
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
