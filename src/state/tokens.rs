//! The upstream credentials: each in the form it has on the wire, and whether DevRev takes it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{HeaderValue, StatusCode};

use super::Clock;
use crate::{
    plan::TokenValue,
    policy::token_health::{Change, Health, Outcome, Pass, Turn, outcome},
    telemetry::metrics::Metrics,
};

type ByName = HashMap<Arc<str>, Arc<Token>>;

/// The tokens of the plan that was reconciled last.
pub struct Tokens {
    clock: Clock,
    metrics: Arc<Metrics>,
    current: ArcSwap<ByName>,
}

/// One value of a token. A new value is a new `Token`, so that nothing that is known of the old one holds for it.
pub struct Token {
    name: Arc<str>,
    value: TokenValue,
    clock: Clock,
    health: Mutex<Health>,
}

impl Tokens {
    /// Nothing is known against any of them.
    pub fn new(
        values: &BTreeMap<Arc<str>, TokenValue>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let tokens = Tokens {
            clock,
            metrics,
            current: ArcSwap::default(),
        };
        tokens.reconcile(values);
        tokens
    }

    /// What is known of a value that stays as it is stays too.
    pub fn reconcile(&self, values: &BTreeMap<Arc<str>, TokenValue>) {
        let old = self.current.load();
        let next = values.iter().map(|(name, value)| {
            let kept = old.get(name).filter(|old| old.value == *value);
            let token = kept.cloned().unwrap_or_else(|| {
                self.metrics.token_refused(name, false);
                Arc::new(self.token(name.clone(), value.clone()))
            });
            (name.clone(), token)
        });
        self.current.store(Arc::new(next.collect()));
    }

    fn token(&self, name: Arc<str>, value: TokenValue) -> Token {
        Token {
            name,
            value,
            clock: self.clock,
            health: Mutex::default(),
        }
    }

    /// For the requests of the plan that was reconciled last.
    pub fn of_plan(self: &Arc<Self>) -> PlanTokens {
        PlanTokens {
            live: self.clone(),
            planned: self.current.load_full(),
        }
    }

    /// Until a probe of this token may go, zero when it may; `None` while DevRev takes it, as far as is known.
    pub fn refused_for(&self, name: &str) -> Option<Duration> {
        self.current.load().get(name)?.refused_for()
    }

    /// Somebody has touched this token, though its value is the same: the next attempt finds out.
    pub fn try_again(&self, name: &str) {
        if let Some(token) = self.current.load().get(name) {
            token.health().try_again(self.clock.now());
        }
    }
}

/// The tokens as the requests of one plan see them.
#[derive(Clone)]
pub struct PlanTokens {
    live: Arc<Tokens>,
    planned: Arc<ByName>,
}

impl PlanTokens {
    /// The value in use now, so that an attempt after a change uses the new one; for a token that has gone from the file since
    /// this plan, the last value that the plan knew.
    pub fn get(&self, name: &str) -> Option<Arc<Token>> {
        let live = self.live.current.load();
        live.get(name).or_else(|| self.planned.get(name)).cloned()
    }

    /// Whether this is still the value in use.
    pub fn is_current(&self, token: &Arc<Token>) -> bool {
        let live = self.live.current.load();
        live.get(&token.name)
            .is_some_and(|current| Arc::ptr_eq(current, token))
    }

    /// Takes in what an answer to an attempt with this token says; tells whether it refuses the token.
    pub fn settle(&self, token: &Arc<Token>, turn: Turn, status: StatusCode) -> bool {
        let outcome = outcome(status);
        let change = {
            let mut health = token.health();
            let change = health.settle(turn, outcome, self.live.clock.now());
            // Under the lock, or two workers' changes could be written in the wrong order and stay so. Of a value that was
            // replaced meanwhile nobody need hear.
            if let Some(change) = change.filter(|_| self.is_current(token)) {
                let refused = change == Change::Refused;
                self.live.metrics.token_refused(&token.name, refused);
            }
            change
        };
        let token = &*token.name;
        match change {
            Some(Change::Refused) => {
                tracing::error!(
                    token,
                    "DevRev refused the token; callers get token_unavailable until a probe succeeds or the token changes"
                );
            }
            Some(Change::Accepted) => tracing::info!(token, "DevRev takes the token again"),
            None => {}
        }
        outcome == Outcome::Refused
    }
}

impl Token {
    /// Until a probe may go, zero when it may; `None` while it is not refused.
    pub fn refused_for(&self) -> Option<Duration> {
        self.health().wait(self.clock.now())
    }

    /// `Bearer TOKEN`, marked sensitive.
    pub fn header(&self) -> HeaderValue {
        self.value.header().clone()
    }

    /// See [`Health::ask`].
    ///
    /// # Errors
    /// The time until the next probe may go.
    pub fn ask(&self) -> Result<Pass, Duration> {
        self.health().ask(self.clock.now())
    }

    /// See [`Health::give_back`].
    pub fn give_back(&self, probe: u64) {
        self.health().give_back(probe);
    }

    /// See [`Health::send`].
    ///
    /// # Errors
    /// The time until the next probe may go.
    pub fn send(&self, probe: Option<u64>) -> Result<Turn, Duration> {
        self.health().send(probe, self.clock.now())
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
