//! How many connections each worker has. All accept from one socket, and whoever wakes first would take what has come; a few connections
//! that stay for long, as those of HTTP/2 do, could all be on one worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// How long a worker leaves a connection to others that have fewer. One of them may be busy, or hang, so this is short.
const COURTESY: Duration = Duration::from_millis(1);

/// Of one worker, beside the others.
pub(crate) struct Workload {
    all: Arc<[AtomicUsize]>,
    own: usize,
}

impl Workload {
    /// One for each worker.
    pub(super) fn of_workers(workers: usize) -> Vec<Workload> {
        let all: Arc<[AtomicUsize]> = (0..workers).map(|_| AtomicUsize::new(0)).collect();
        let of = |own| Workload {
            all: all.clone(),
            own,
        };
        (0..workers).map(of).collect()
    }

    /// Gives way to another worker that has fewer connections. Of many, an eighth more is no reason: in a flood of connections all workers
    /// must take what they can.
    pub(super) async fn give_way(&self) {
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let least = self.all.iter().map(count).min().unwrap_or(0);
        if count(&self.all[self.own]) > least + least / 8 {
            tokio::time::sleep(COURTESY).await;
        }
    }

    /// Counts a connection until it is dropped.
    pub(super) fn count(&self) -> Counted {
        self.all[self.own].fetch_add(1, Ordering::Relaxed);
        Counted {
            all: self.all.clone(),
            own: self.own,
        }
    }
}

/// A connection that counts for its worker.
pub(super) struct Counted {
    all: Arc<[AtomicUsize]>,
    own: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.all[self.own].fetch_sub(1, Ordering::Relaxed);
    }
}
