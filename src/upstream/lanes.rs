//! The places on connections to DevRev. Attempts take them one level up, where waits are counted.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::time::Instant;

use crate::{
    allocation::{Allocation, PlanPool, Pool},
    error::Error,
    policy::allocator::Claim,
};

/// The lanes of one worker. Each attempt holds one: an HTTP/1.1 connection, or a stream of an HTTP/2 connection.
#[derive(Clone)]
pub struct Lanes(Arc<Inner>);

struct Inner {
    pool: Arc<Pool>,
    /// As many as there are places on the connections that are open or may be opened.
    capacity: AtomicUsize,
}

/// An extension: the lane of an attempt.
#[derive(Clone)]
pub(crate) struct Lane {
    #[allow(dead_code, reason = "held, not read")]
    allocation: Arc<Allocation>,
    turn: Arc<dyn Turn>,
}

/// How an attempt waits for a lane.
pub(crate) trait Turn: Send + Sync {
    /// Waits in turn, as it did the first time.
    fn again(&self) -> Pin<Box<dyn Future<Output = Result<Allocation, Error>> + Send>>;
}

impl Lane {
    pub(crate) fn new(allocation: Allocation, turn: Arc<dyn Turn>) -> Lane {
        Lane {
            allocation: Arc::new(allocation),
            turn,
        }
    }

    /// Gives the lane back and waits for another, because DevRev allows fewer than it did.
    ///
    /// # Errors
    /// If none is free before the wait is over.
    pub(super) async fn again(self) -> Result<Lane, Error> {
        let Lane { allocation, turn } = self;
        drop(allocation);
        let allocation = turn.again().await?;
        Ok(Lane::new(allocation, turn))
    }
}

impl Lanes {
    pub(super) fn new(capacity: usize) -> Lanes {
        Lanes(Arc::new(Inner {
            pool: Pool::new(),
            capacity: AtomicUsize::new(capacity),
        }))
    }

    /// There are so many from now on.
    pub(super) fn set_capacity(&self, capacity: usize) {
        if self.0.capacity.swap(capacity, Ordering::Relaxed) != capacity {
            self.0.pool.resize(capacity as u64);
        }
    }

    fn plan_pool(&self) -> PlanPool {
        PlanPool {
            pool: self.0.pool.clone(),
            capacity: self.0.capacity.load(Ordering::Relaxed) as u64,
        }
    }

    /// Takes a lane that is free.
    ///
    /// # Errors
    /// If none is, for this claim.
    pub fn try_take(&self, claim: &Claim) -> Result<Allocation, Error> {
        self.plan_pool().take(claim, 1)
    }

    /// Waits for a lane in turn.
    ///
    /// # Errors
    /// If none is free by then.
    pub async fn take(&self, claim: &Claim, until: Instant) -> Result<Allocation, Error> {
        let PlanPool { pool, capacity } = self.plan_pool();
        let lane = pool.take(capacity, claim, 1, until).await;
        lane.ok_or(Error::OVERLOADED)
    }
}
