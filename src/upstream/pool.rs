//! The connections that lie idle between requests.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard, PoisonError, Weak, atomic::Ordering},
    time::Duration,
};

use hyper::client::conn::http1;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use super::Inner;
use crate::body::{Body, Guard};

pub(super) struct Idle {
    sender: http1::SendRequest<Body>,
    since: Instant,
}

impl Inner {
    pub(super) fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout.load(Ordering::Relaxed))
    }

    pub(super) fn check_in(&self, sender: http1::SendRequest<Body>) {
        self.idle().push_back(Idle {
            sender,
            since: Instant::now(),
        });
    }

    /// The connection that was used last, so that the others can grow old.
    pub(super) fn check_out(&self) -> Option<http1::SendRequest<Body>> {
        let mut idle = self.idle();
        while let Some(candidate) = idle.pop_back() {
            let fresh = candidate.since.elapsed() < self.idle_timeout();
            if fresh && !candidate.sender.is_closed() && candidate.sender.is_ready() {
                return Some(candidate.sender);
            }
        }
        None
    }

    pub(super) fn drop_expired(&self) {
        let limit = self.idle_timeout();
        self.idle()
            .retain(|idle| idle.since.elapsed() < limit && !idle.sender.is_closed());
    }
}

/// Returns a connection to the pool when the answer on it was read whole, and closes it otherwise.
pub(super) struct GiveBack {
    pub inner: Arc<Inner>,
    pub lease: Option<(http1::SendRequest<Body>, OwnedSemaphorePermit)>,
    pub whole: bool,
}

impl Guard for GiveBack {
    fn finished(&mut self) {
        self.whole = true;
        let Some((mut sender, permit)) = self.lease.take() else {
            return;
        };
        if sender.is_ready() {
            self.inner.check_in(sender);
            drop(permit);
        } else if !sender.is_closed() {
            // Its task has still to notice the end, or the request's body is not all written: wait a little.
            let inner = self.inner.clone();
            tokio::spawn(async move {
                let settle = Instant::now() + SETTLE;
                if matches!(timeout_at(settle, sender.ready()).await, Ok(Ok(()))) {
                    inner.check_in(sender);
                }
                drop(permit);
            });
        }
    }
}

/// How long a connection whose answer has ended may take to be ready again. It is a turn of its task when all
/// is well; a request's body that upstream never read is not worth more than this.
const SETTLE: Duration = Duration::from_secs(1);

/// Closes connections that have been idle too long; ends with the pool.
pub(super) async fn reap(pool: Weak<Inner>) {
    loop {
        let Some(pause) = pool.upgrade().map(|inner| inner.idle_timeout()) else {
            return;
        };
        tokio::time::sleep(pause.max(Duration::from_secs(1)) / 2).await;
        let Some(inner) = pool.upgrade() else { return };
        inner.drop_expired();
    }
}
