//! Idle HTTP/1.1 connections.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use hyper::client::conn::http1;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::Inner;
use crate::body::Body;

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
