//! The places on connections to DevRev. Attempts take them one level up, where waits are counted.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::time::Instant;

use crate::{
    allocation::{Allocation, PlanPool, Pool},
    error::Error,
    policy::allocator::Claim,
};

/// The lanes of one worker. Each attempt holds one: an HTTP/1.1 connection, or a stream of the HTTP/2 connection.
#[derive(Clone)]
pub struct Lanes(Arc<Inner>);

struct Inner {
    pool: Arc<Pool>,
    /// DevRev speaks HTTP/2.
    http2: AtomicBool,
    max_connections: u64,
}

/// Attempts at once on the HTTP/2 connection. RFC 9113 section 6.5.2 recommends that servers allow at least as many.
pub(super) const MAX_STREAMS: u32 = 100;

/// An extension: the lane of an attempt.
#[derive(Clone)]
pub struct Lane(#[allow(dead_code, reason = "held, not read")] pub Arc<Allocation>);

impl Lanes {
    pub(super) fn new(max_connections: usize, http2: bool) -> Lanes {
        Lanes(Arc::new(Inner {
            pool: Pool::new(),
            http2: AtomicBool::new(http2),
            max_connections: max_connections as u64,
        }))
    }

    /// What the latest connection has negotiated.
    pub(super) fn set_http2(&self, http2: bool) {
        self.0.http2.store(http2, Ordering::Relaxed);
    }

    fn plan_pool(&self) -> PlanPool {
        PlanPool {
            pool: self.0.pool.clone(),
            capacity: match self.0.http2.load(Ordering::Relaxed) {
                true => u64::from(MAX_STREAMS),
                false => self.0.max_connections,
            },
        }
    }

    /// Takes a lane that is free.
    ///
    /// # Errors
    /// If none is, for this claim.
    pub fn try_take(&self, claim: &Claim) -> Result<Lane, Error> {
        let lane = self.plan_pool().take(claim, 1);
        lane.map(|lane| Lane(Arc::new(lane)))
    }

    /// Waits for a lane in turn.
    ///
    /// # Errors
    /// If none is free by then.
    pub async fn take(&self, claim: &Claim, until: Instant) -> Result<Lane, Error> {
        let PlanPool { pool, capacity } = self.plan_pool();
        let lane = pool.take(capacity, claim, 1, until).await;
        lane.map(|lane| Lane(Arc::new(lane)))
            .ok_or(Error::OVERLOADED)
    }
}
