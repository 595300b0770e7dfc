//! Idle HTTP/1.1 connections.

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
    /// By the idle timeout of the request that used it last.
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

    /// The most recently used connection, so that surplus ones expire.
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

    /// Drops expired connections. Returns when the next one expires; `None` if none is idle.
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

/// Returns a connection to the pool if its answer was read completely, and closes it otherwise.
pub(super) struct ReturnToPool {
    pub inner: Arc<Inner>,
    pub idle_timeout: Duration,
    pub lease: Option<(http1::SendRequest<Body>, OwnedSemaphorePermit)>,
    pub whole: bool,
}

impl Guard for ReturnToPool {
    fn finished(&mut self) {
        self.whole = true;
        let Some((mut sender, permit)) = self.lease.take() else {
            return;
        };
        if sender.is_ready() {
            self.inner.check_in(sender, self.idle_timeout);
            drop(permit);
        } else if !sender.is_closed() {
            // Its task has not noticed the end yet, or the request's body is not written completely: wait a little.
            let (inner, idle_timeout) = (self.inner.clone(), self.idle_timeout);
            tokio::spawn(async move {
                let deadline = Instant::now() + READY_TIMEOUT;
                if matches!(timeout_at(deadline, sender.ready()).await, Ok(Ok(()))) {
                    inner.check_in(sender, idle_timeout);
                }
                drop(permit);
            });
        }
    }
}

/// How long a connection may take to be ready after its answer has ended. Usually its task needs one poll. It takes longer if DevRev
/// answers without reading the request's body; then a new connection is cheaper.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// Closes connections that have been idle too long. Ends when the pool is dropped.
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

/// Between two sweeps at least: each reads the whole pool.
const MIN_PAUSE: Duration = Duration::from_millis(500);

/// Between two sweeps at most, so that connections which DevRev has closed free their descriptors.
const MAX_PAUSE: Duration = Duration::from_secs(15);
