//! The configured DevRev tokens: each as its header value, with its health.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{HeaderValue, StatusCode};

use super::Clock;
use crate::{
    lock::Lock,
    plan::TokenValue,
    policy::token_health::{Change, Evidence, Generation, Pass, TokenHealth, evidence},
    telemetry::metrics::Metrics,
};

type ByName = HashMap<Arc<str>, Arc<Token>>;

/// The tokens of the plan that was reconciled last.
pub struct Tokens {
    clock: Clock,
    metrics: Arc<Metrics>,
    current: ArcSwap<ByName>,
}

/// One value of a token. A new value is a new `Token`, so that it starts with its own health.
pub struct Token {
    name: Arc<str>,
    value: TokenValue,
    clock: Clock,
    health: Lock<TokenHealth>,
}

impl Tokens {
    /// All of them count as good.
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

    /// A token whose value stays the same keeps its health.
    pub fn reconcile(&self, values: &BTreeMap<Arc<str>, TokenValue>) {
        let old = self.current.load();
        let next = values.iter().map(|(name, value)| {
            let kept = old.get(name).filter(|old| old.value == *value);
            let token = kept.cloned().unwrap_or_else(|| {
                self.metrics.token_refused(name, false);
                Arc::new(Token {
                    name: name.clone(),
                    value: value.clone(),
                    clock: self.clock,
                    health: Lock::default(),
                })
            });
            (name.clone(), token)
        });
        self.current.store(Arc::new(next.collect()));
    }

    /// For the requests of the plan that was reconciled last.
    pub fn of_plan(self: &Arc<Self>) -> PlanTokens {
        PlanTokens {
            tokens: self.clone(),
            planned: self.current.load_full(),
        }
    }

    /// The time until a probe of this token may go, zero when one may go now; `None` while the token is not refused.
    pub fn refused_for(&self, name: &str) -> Option<Duration> {
        self.current.load().get(name)?.refused_for()
    }

    /// Ends the pause of this token, because its file was written again with the same value: the next attempt is a probe.
    pub fn end_pause(&self, name: &str) {
        if let Some(token) = self.current.load().get(name) {
            token.health.lock().end_pause(self.clock.now());
        }
    }
}

/// The tokens as the requests of one plan see them.
#[derive(Clone)]
pub struct PlanTokens {
    tokens: Arc<Tokens>,
    planned: Arc<ByName>,
}

impl PlanTokens {
    /// The current value, so that an attempt after a change uses the new one. For a token that was removed from the file after
    /// this plan, the plan's value.
    pub fn get(&self, name: &str) -> Option<Arc<Token>> {
        let current = self.tokens.current.load();
        let token = current.get(name).or_else(|| self.planned.get(name));
        token.cloned()
    }

    /// Whether this is still the current value.
    pub fn is_current(&self, token: &Arc<Token>) -> bool {
        let tokens = self.tokens.current.load();
        tokens
            .get(&token.name)
            .is_some_and(|current| Arc::ptr_eq(current, token))
    }

    /// Applies what the answer to an attempt with this token says about it. Returns whether it refuses the token.
    pub fn settle(&self, token: &Arc<Token>, generation: Generation, status: StatusCode) -> bool {
        let evidence = evidence(status);
        let change = {
            let mut health = token.health.lock();
            let change = health.settle(generation, evidence, self.tokens.clock.now());
            // Set under the lock, so that changes by two workers reach the metric in order. The metric is about the current
            // value, so a change of a replaced one is left out.
            if let Some(change) = change.filter(|_| self.is_current(token)) {
                let refused = change == Change::Refused;
                self.tokens.metrics.token_refused(&token.name, refused);
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
            Some(Change::Accepted) => tracing::info!(token, "DevRev accepts the token again"),
            None => {}
        }
        evidence == Evidence::Refused
    }
}

impl Token {
    /// See [`Tokens::refused_for`].
    pub fn refused_for(&self) -> Option<Duration> {
        self.health.lock().probe_in(self.clock.now())
    }

    /// `Bearer TOKEN`, marked sensitive.
    pub fn header(&self) -> HeaderValue {
        self.value.header().clone()
    }

    /// See [`TokenHealth::try_pass`].
    ///
    /// # Errors
    /// The time until the next probe may go.
    pub fn try_pass(&self) -> Result<Pass, Duration> {
        self.health.lock().try_pass(self.clock.now())
    }

    /// See [`TokenHealth::release_probe`].
    pub fn release_probe(&self, probe: u64) {
        self.health.lock().release_probe(probe);
    }

    /// See [`TokenHealth::try_send`].
    ///
    /// # Errors
    /// The time until the next probe may go.
    pub fn try_send(&self, probe: Option<u64>) -> Result<Generation, Duration> {
        self.health.lock().try_send(probe, self.clock.now())
    }
}
