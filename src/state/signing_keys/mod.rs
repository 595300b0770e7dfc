//! An issuer's keys as all workers share them, and the wish for newer ones.

mod fetch;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use self::fetch::Issuer;
use super::Clock;
use crate::{
    plan::KeySource,
    policy::jwt::{Asked, KeySet, Plan},
    telemetry::metrics::Metrics,
};

/// The keys of the plan that was reconciled last.
pub struct SigningKeyStore {
    runtime: Handle,
    clock: Clock,
    metrics: Arc<Metrics>,
    current: ArcSwapOption<(KeySource, Arc<SigningKeys>)>,
}

impl SigningKeyStore {
    /// No keys yet; `runtime` is where they are fetched.
    pub fn new(runtime: Handle, clock: Clock, metrics: Arc<Metrics>) -> Self {
        SigningKeyStore {
            runtime,
            clock,
            metrics,
            current: ArcSwapOption::empty(),
        }
    }

    /// Keys that come from where they came before stay as they are; others are fetched from now on. The issuer may be down: it
    /// is asked again.
    pub fn reconcile(&self, source: Option<&KeySource>) {
        let old = self.current.load_full();
        if old.as_ref().map(|old| &old.0) == source {
            return;
        }
        let next = source.map(|source| {
            let keys = match source {
                KeySource::Fixed(set) => SigningKeys::fixed(set.clone(), self.clock),
                KeySource::Published { url, roots } => {
                    let (keys, wishes) = SigningKeys::fetched(self.clock);
                    let issuer = Issuer::new(url.clone(), roots.clone());
                    let kept = Arc::downgrade(&keys);
                    let fetching = issuer.keep_new(kept, wishes, self.metrics.clone());
                    self.runtime.spawn(fetching);
                    keys
                }
            };
            Arc::new((source.clone(), keys))
        });
        self.current.store(next);
    }

    /// Those of the plan that was reconciled last; none where it asks for none.
    pub fn current(&self) -> Option<Arc<SigningKeys>> {
        Some(self.current.load().as_ref()?.1.clone())
    }
}

/// The keys that tokens are verified with. Whoever is given the [`Wishes`] keeps them new.
pub struct SigningKeys {
    set: ArcSwapOption<KeySet>,
    clock: Clock,
    /// Held for a few lines, never across an await.
    plan: Mutex<Plan>,
    /// Room for one: a second wish would be for the same fetch.
    wish: mpsc::Sender<()>,
    /// Counts the fetches that have ended, whatever they brought.
    ended: watch::Sender<u64>,
}

/// Requests that wait for keys at once: whoever makes tokens up must not take all the places that requests have
/// (`limits.max_in_flight`, 1024 by default).
const MAX_WAITING: usize = 256;

/// Ends when the last who could wish for keys is gone.
pub type Wishes = mpsc::Receiver<()>;

impl SigningKeys {
    /// Keys of a file: they are what they are until the file changes.
    pub fn fixed(set: KeySet, clock: Clock) -> Arc<SigningKeys> {
        let (keys, _) = SigningKeys::fetched(clock);
        keys.set.store(Some(Arc::new(set)));
        keys
    }

    /// Keys that somebody fetches: none yet, and the first fetch under way.
    pub fn fetched(clock: Clock) -> (Arc<SigningKeys>, Wishes) {
        let (wish, wishes) = mpsc::channel(1);
        let keys = SigningKeys {
            set: ArcSwapOption::empty(),
            clock,
            plan: Mutex::new(Plan::new()),
            wish,
            ended: watch::Sender::new(0),
        };
        (Arc::new(keys), wishes)
    }

    /// None before the first were had.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        self.set.load_full()
    }

    /// Waits for a fetch if there may be one now; false at once, or after `patience`, when there was none.
    pub async fn newer(&self, patience: Duration) -> bool {
        if self.wish.is_closed() || self.ended.receiver_count() >= MAX_WAITING {
            return false;
        }
        // Before asking, so that no end is missed.
        let mut ended = self.ended.subscribe();
        match self.ask() {
            Asked::Refused => return false,
            Asked::Join => {}
            // Full means that it is heard already.
            Asked::Fetch => drop(self.wish.try_send(())),
        }
        matches!(timeout(patience, ended.changed()).await, Ok(Ok(())))
    }

    fn ask(&self) -> Asked {
        self.plan().ask(self.clock.now())
    }

    /// A fetch begins because the keys are old.
    pub fn begin(&self) {
        self.plan().begin();
    }

    /// Whether somebody waits for a fetch.
    pub fn is_wanted(&self) -> bool {
        self.plan().is_flying()
    }

    /// A fetch has ended; without new keys the old ones stay. The next is after `fresh`.
    pub fn end(&self, set: Option<KeySet>, fresh: Duration) {
        if let Some(set) = set {
            self.set.store(Some(Arc::new(set)));
        }
        self.plan().end(self.clock.now(), fresh);
        self.ended.send_modify(|count| *count += 1);
    }

    /// When the keys are to be fetched unasked.
    pub fn due(&self) -> Instant {
        self.clock.instant(self.plan().due())
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
