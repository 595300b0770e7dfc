//! The connections that lie idle between requests.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use hyper::client::conn::http1;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::{Instant, sleep_until, timeout_at},
};

use super::Inner;
use crate::body::{Body, Guard};

pub(super) struct Idle {
    sender: http1::SendRequest<Body>,
    since: Instant,
    /// By the bounds of the request that used it last.
    until: Instant,
}

impl Inner {
    pub(super) fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn check_in(&self, sender: http1::SendRequest<Body>, idle_timeout: Duration) {
        let since = Instant::now();
        self.idle().push_back(Idle {
            sender,
            since,
            until: since + idle_timeout,
        });
        self.idle_changed.notify_one();
    }

    /// The connection that was used last, so that the others can grow old.
    pub(super) fn check_out(&self, idle_timeout: Duration) -> Option<http1::SendRequest<Body>> {
        let now = Instant::now();
        let mut idle = self.idle();
        while let Some(candidate) = idle.pop_back() {
            let fresh = now < candidate.until && now - candidate.since < idle_timeout;
            if fresh && !candidate.sender.is_closed() && candidate.sender.is_ready() {
                return Some(candidate.sender);
            }
        }
        None
    }

    /// When the next one expires; `None` while none is idle.
    pub(super) fn drop_expired(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut idle = self.idle();
        idle.retain(|idle| now < idle.until && !idle.sender.is_closed());
        idle.iter().map(|idle| idle.until).min()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.idle_changed.notify_one();
    }
}

/// Returns a connection to the pool when the answer on it was read whole, and closes it otherwise.
pub(super) struct GiveBack {
    pub inner: Arc<Inner>,
    pub idle_timeout: Duration,
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
            self.inner.check_in(sender, self.idle_timeout);
            drop(permit);
        } else if !sender.is_closed() {
            // Its task has still to notice the end, or the request's body is not all written: wait a little.
            let (inner, idle_timeout) = (self.inner.clone(), self.idle_timeout);
            tokio::spawn(async move {
                let settle = Instant::now() + SETTLE;
                if matches!(timeout_at(settle, sender.ready()).await, Ok(Ok(()))) {
                    inner.check_in(sender, idle_timeout);
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
pub(super) async fn reap(pool: Weak<Inner>, idle_changed: Arc<Notify>) {
    while let Some(inner) = pool.upgrade() {
        let next = inner.drop_expired();
        drop(inner);
        match next {
            Some(until) => {
                let now = Instant::now();
                sleep_until(until.clamp(now + MIN_PAUSE, now + MAX_PAUSE)).await;
            }
            None => idle_changed.notified().await,
        }
    }
}

/// Connections come and go with each request; a sweep reads the whole pool.
const MIN_PAUSE: Duration = Duration::from_millis(500);

/// One that upstream has closed gives its descriptor back in this time.
const MAX_PAUSE: Duration = Duration::from_secs(15);
