//! An issuer's keys, shared by all workers, and requests to fetch newer ones.

mod fetch;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use self::fetch::Issuer;
use super::Clock;
use crate::{
    lock::Lock,
    plan::KeySource,
    policy::jwt::{FetchDecision, FetchSchedule, KeySet},
    telemetry::metrics::Metrics,
    upstream::Proxy,
};

/// The keys of the plan that was reconciled last.
pub struct SigningKeyStore {
    runtime: Handle,
    clock: Clock,
    metrics: Arc<Metrics>,
    proxy: Option<Proxy>,
    current: ArcSwapOption<(KeySource, Arc<SigningKeys>)>,
}

impl SigningKeyStore {
    /// No keys yet; `runtime` is where they are fetched.
    pub(crate) fn new(
        runtime: Handle,
        clock: Clock,
        metrics: Arc<Metrics>,
        proxy: Option<Proxy>,
    ) -> Self {
        SigningKeyStore {
            runtime,
            clock,
            metrics,
            proxy,
            current: ArcSwapOption::empty(),
        }
    }

    /// Keys of an unchanged source stay. Keys of a new one are fetched from now on; if the issuer is down, the fetch is repeated.
    pub fn reconcile(&self, source: Option<&KeySource>) {
        let old = self.current.load_full();
        if old.as_ref().map(|old| &old.0) == source {
            return;
        }
        let next = source.map(|source| {
            let keys = match source {
                KeySource::Fixed(set) => SigningKeys::fixed(set.clone(), self.clock),
                KeySource::Published { url, roots, proxy } => {
                    let (keys, fetch_requests) = SigningKeys::fetched(self.clock);
                    let proxy = self.proxy.clone().filter(|_| *proxy);
                    let issuer = Issuer::new(url.clone(), roots.clone(), proxy);
                    let weak = Arc::downgrade(&keys);
                    let fetcher = issuer.keep_fresh(weak, fetch_requests, self.metrics.clone());
                    self.runtime.spawn(fetcher);
                    keys
                }
            };
            Arc::new((source.clone(), keys))
        });
        self.current.store(next);
    }

    /// The keys of the plan that was reconciled last; `None` if it has no signed tokens.
    pub fn current(&self) -> Option<Arc<SigningKeys>> {
        Some(self.current.load().as_ref()?.1.clone())
    }
}

/// The keys that verify signed tokens. The receiver of the [`FetchRequests`] keeps them fresh.
pub struct SigningKeys {
    set: ArcSwapOption<KeySet>,
    clock: Clock,
    schedule: Lock<FetchSchedule>,
    /// Holds one: a second request would be for the same fetch.
    fetch_request: mpsc::Sender<()>,
    /// Counts the fetches that have ended, successful or not.
    ended: watch::Sender<u64>,
}

/// Requests that may wait for keys at once, so that made-up tokens can't take all places in flight (`limits.max_in_flight`,
/// 1024 by default).
const MAX_WAITING: usize = 256;

/// Ends when no [`SigningKeys`] are left that could request a fetch.
pub(crate) type FetchRequests = mpsc::Receiver<()>;

impl SigningKeys {
    /// Keys of a file. They change only with the file.
    pub fn fixed(set: KeySet, clock: Clock) -> Arc<SigningKeys> {
        let (keys, _) = SigningKeys::fetched(clock);
        keys.set.store(Some(Arc::new(set)));
        keys
    }

    /// Keys of an issuer. There are none yet, and the first fetch is under way.
    pub fn fetched(clock: Clock) -> (Arc<SigningKeys>, FetchRequests) {
        let (fetch_request, fetch_requests) = mpsc::channel(1);
        let keys = SigningKeys {
            set: ArcSwapOption::empty(),
            clock,
            schedule: Lock::new(FetchSchedule::new()),
            fetch_request,
            ended: watch::Sender::new(0),
        };
        (Arc::new(keys), fetch_requests)
    }

    /// `None` until the first fetch succeeds.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        self.set.load_full()
    }

    /// Waits up to `max_wait` for a fetch, if one may start now or is under way. Returns whether one ended.
    pub async fn wait_for_newer(&self, max_wait: Duration) -> bool {
        if self.fetch_request.is_closed() || self.ended.receiver_count() >= MAX_WAITING {
            return false;
        }
        // Subscribe before the request, so that no end is missed.
        let mut ended = self.ended.subscribe();
        let decision = self.schedule.lock().request(self.clock.now());
        match decision {
            FetchDecision::TooSoon => return false,
            FetchDecision::Join => {}
            // A full channel holds a request already.
            FetchDecision::Fetch => drop(self.fetch_request.try_send(())),
        }
        matches!(timeout(max_wait, ended.changed()).await, Ok(Ok(())))
    }

    /// A fetch starts because the keys have expired.
    pub fn start_fetch(&self) {
        self.schedule.lock().start();
    }

    /// Whether a fetch was requested that has not ended.
    pub fn is_fetch_requested(&self) -> bool {
        self.schedule.lock().in_flight()
    }

    /// A fetch has ended. The old keys stay if it found none. The next one is due after `fresh`.
    pub fn finish_fetch(&self, set: Option<KeySet>, fresh: Duration) {
        if let Some(set) = set {
            self.set.store(Some(Arc::new(set)));
        }
        self.schedule.lock().finish(self.clock.now(), fresh);
        self.ended.send_modify(|count| *count += 1);
    }

    /// When the next fetch starts without a request.
    pub fn due(&self) -> Instant {
        self.clock.instant(self.schedule.lock().due())
    }
}
