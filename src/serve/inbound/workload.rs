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
const HEAD_START: Duration = Duration::from_millis(1);

/// Connections that it takes at most before it gives way again.
const MOST: usize = 64;

/// Of one worker, beside the others.
pub(crate) struct Workload {
    all: Arc<[AtomicUsize]>,
    own: usize,
    /// So many it took when it had given way the last time; 0 if none has been left since.
    taken: AtomicUsize,
    /// So many of them it may still take.
    left: AtomicUsize,
}

impl Workload {
    /// One for each worker.
    pub(super) fn of_workers(workers: usize) -> Vec<Workload> {
        let all: Arc<[AtomicUsize]> = (0..workers).map(|_| AtomicUsize::new(0)).collect();
        let of = |own| Workload {
            all: all.clone(),
            own,
            taken: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
        };
        (0..workers).map(of).collect()
    }

    /// Gives way to another worker that has fewer connections, before it takes one. Of many, an eighth more is no reason. And if none of the
    /// others has taken what has come meanwhile, it takes twice as many as the last time before it gives way again: in a flood of
    /// connections, even of those that end at once, all workers must take what they can.
    pub(super) async fn give_way(&self) {
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let least = self.all.iter().map(count).min().unwrap_or(0);
        if count(&self.all[self.own]) <= least + least / 8 {
            return;
        }
        let left = self.left.load(Ordering::Relaxed);
        if let Some(left) = left.checked_sub(1) {
            return self.left.store(left, Ordering::Relaxed);
        }
        tokio::time::sleep(HEAD_START).await;
        let taken = self.taken.load(Ordering::Relaxed);
        let taken = (2 * taken).clamp(1, MOST);
        self.taken.store(taken, Ordering::Relaxed);
        self.left.store(taken - 1, Ordering::Relaxed);
    }

    /// No connection is left to take.
    pub(super) fn none_left(&self) {
        self.taken.store(0, Ordering::Relaxed);
        self.left.store(0, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// How long a worker with one connection more than the other gives way, for so many connections.
    async fn given_way(connections: usize, one_after_another: bool) -> Duration {
        let workers = Workload::of_workers(2);
        let _one = workers[0].count();
        let begun = Instant::now();
        for _ in 0..connections {
            workers[0].give_way().await;
            if one_after_another {
                workers[0].none_left();
            }
            // It ends at once.
            drop(workers[0].count());
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_taken_without_giving_way() {
        let millis = Duration::from_millis;
        assert_eq!(given_way(1, false).await, millis(1));
        assert_eq!(given_way(20, true).await, millis(20));
        assert_eq!(given_way(7, false).await, millis(3));
        assert!(given_way(10_000, false).await < millis(200));
    }
}
