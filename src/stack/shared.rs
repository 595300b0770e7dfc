//! What all workers share, and what of it outlives a change of the configuration.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use tokio::time::Instant;

use crate::{
    config::{CallerCredential, CallerRules, Config},
    layer::{
        Draining,
        authenticate::{Memory, SigningKeys},
        credential::{Token, Tokens},
        quota::{Groups, Wanted},
        rate_limit::TokioClock,
    },
    policy::{
        circuit::{self, Circuit},
        ledger,
        rate::{self, Keyed, Limiter},
        retry::Budget,
    },
    telemetry::{keys::Keys, metrics::Metrics, tally::Tally, trace::Spans},
    types::{Caller, OwnToken},
    upstream::token,
};

/// What all workers share.
pub struct Shared {
    pub metrics: Arc<Metrics>,
    pub tally: Arc<Tally>,
    pub groups: Arc<Groups>,
    pub budget: Arc<Mutex<Budget>>,
    /// All workers ask the same upstream, so what one learns of it holds for all.
    pub circuit: Arc<Mutex<Circuit>>,
    /// Requests in flight.
    pub in_flight: Arc<AtomicUsize>,
    pub limiters: ArcSwap<Limiters>,
    /// How callers' keys are used.
    pub keys: Keys,
    /// Upstream credentials as they go on the wire, and whether DevRev takes them.
    pub tokens: Arc<ArcSwap<Tokens>>,
    /// What is known of tokens that callers bring.
    pub memory: Arc<Memory>,
    /// Of the issuer of callers' tokens, where it publishes them. For the stacks that are built next.
    pub signing_keys: ArcSwapOption<SigningKeys>,
    pub draining: Draining,
    pub epoch: Instant,
    /// Where spans go; `None` where none are exported.
    pub spans: Option<Arc<Spans>>,
}

impl Shared {
    /// # Errors
    /// When a token cannot stand in a header.
    pub fn new(config: &Config, draining: Draining) -> Result<Self, http::Error> {
        let groups = Arc::new(Groups::new(wanted(config)));
        let mut metrics = Metrics::new();
        let watched = groups.clone();
        metrics.watch_quota(move || watched.samples());
        Ok(Shared {
            metrics: Arc::new(metrics),
            tally: Arc::default(),
            groups,
            budget: Arc::new(Mutex::new(Budget::new(config.retry.budget))),
            circuit: Arc::new(Mutex::new(Circuit::new(circuit_of(config)))),
            in_flight: Arc::default(),
            limiters: ArcSwap::from_pointee(Limiters::new(config)),
            keys: Keys::default(),
            tokens: Arc::new(ArcSwap::from_pointee(tokens(config, &Tokens::new())?)),
            memory: Arc::new(Memory::new(strangers(config))),
            signing_keys: ArcSwapOption::empty(),
            draining,
            epoch: Instant::now(),
            spans: None,
        })
    }

    /// Limits of the new configuration; whoever's limit stays keeps where it stands. For the stacks that are built next.
    pub fn prepare(&self, config: &Config) {
        let next = self.limiters.load().next(config);
        self.limiters.store(Arc::new(next));
    }

    /// Makes the rest hold. Cannot fail, so that a change is whole or is not.
    pub fn adopt(&self, config: &Config, tokens: Tokens) {
        self.groups.set(wanted(config));
        // Each is held for its own line only: every worker takes them, and there are more locks to take below.
        self.budget
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .set_ratio(config.retry.budget);
        self.circuit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .set_rules(circuit_of(config));
        // Names that are gone stay for requests that began before; nobody need hear of them.
        let named = |name: &&Arc<str>| config.tokens.contains_key(&***name);
        for (name, token) in tokens.iter().filter(|(name, _)| named(name)) {
            let refused = token.refused_for(self.epoch.elapsed()).is_some();
            self.metrics.token_refused(name, refused);
        }
        self.tokens.store(Arc::new(tokens));
        self.keys.retain(|hash| {
            let mut callers = config.callers.values();
            callers.any(|caller| {
                matches!(&caller.credential, CallerCredential::Keys(hashes) if hashes.contains(hash))
            })
        });
    }

    /// The tokens of a configuration. What is known of one that stays as it is stays too.
    ///
    /// # Errors
    /// When a token cannot stand in a header.
    pub fn next_tokens(&self, config: &Config) -> Result<Tokens, http::Error> {
        tokens(config, &self.tokens.load())
    }

    /// Until a probe of this token may go, zero when it may; `None` while DevRev takes it, as far as is known.
    pub fn token_refused_for(&self, name: &str) -> Option<Duration> {
        let tokens = self.tokens.load();
        tokens.get(name)?.refused_for(self.epoch.elapsed())
    }

    /// Somebody has touched this token, though its value is the same: the next attempt finds out.
    pub fn try_token_again(&self, name: &str) {
        if let Some(token) = self.tokens.load().get(name) {
            token.try_again(self.epoch.elapsed());
        }
    }
}

fn tokens(config: &Config, old: &Tokens) -> Result<Tokens, http::Error> {
    let values = config.tokens.iter();
    values
        .map(|(name, token)| {
            let name: Arc<str> = name.as_str().into();
            let new = Token::new(name.clone(), token::bearer(&token.secret.value)?);
            let kept = old.get(&name).filter(|old| old.is(&new)).cloned();
            Ok((name, kept.unwrap_or_else(|| Arc::new(new))))
        })
        .collect()
}

/// Everybody's own rate.
pub struct Limiters {
    clock: TokioClock,
    callers: HashMap<Arc<str>, (rate::Quota, Arc<Limiter<TokioClock>>)>,
    /// In mode "validate", by token.
    tokens: (rate::Quota, Arc<Mutex<Keyed<TokioClock>>>),
}

impl Limiters {
    fn new(config: &Config) -> Limiters {
        let clock = TokioClock::start();
        let quota = quota_of(&config.defaults);
        let none = Limiters {
            callers: HashMap::new(),
            tokens: (quota, keyed(quota, &clock)),
            clock,
        };
        none.next(config)
    }

    fn next(&self, config: &Config) -> Limiters {
        let callers = config.callers.iter().map(|(name, caller)| {
            let quota = quota_of(&caller.rules);
            let kept = self.callers.get(name.as_str());
            let limiter = kept.filter(|(old, _)| *old == quota).map_or_else(
                || Arc::new(Limiter::new(quota, self.clock.clone())),
                |(_, limiter)| limiter.clone(),
            );
            (Arc::from(name.as_str()), (quota, limiter))
        });
        let quota = quota_of(&config.defaults);
        let tokens = if self.tokens.0 == quota {
            self.tokens.1.clone()
        } else {
            keyed(quota, &self.clock)
        };
        Limiters {
            clock: self.clock.clone(),
            callers: callers.collect(),
            tokens: (quota, tokens),
        }
    }

    pub fn of_caller(&self, name: &str) -> Option<Arc<Limiter<TokioClock>>> {
        self.callers.get(name).map(|(_, limiter)| limiter.clone())
    }

    pub fn of_callers(&self) -> HashMap<Arc<str>, Arc<Limiter<TokioClock>>> {
        self.callers
            .iter()
            .map(|(name, (_, limiter))| (name.clone(), limiter.clone()))
            .collect()
    }

    /// The header fields that tell where a caller's limit stands.
    pub fn told(
        &self,
        caller: &Caller,
        own: Option<&OwnToken>,
    ) -> Option<(HeaderValue, HeaderValue)> {
        let limiter = match own {
            Some(own) => {
                let mut tokens = self.tokens.1.lock().unwrap_or_else(PoisonError::into_inner);
                tokens.get(&own.hash)
            }
            None => self.callers.get(&caller.name)?.1.clone(),
        };
        Some((limiter.policy_header(), limiter.peek().header()))
    }

    pub fn of_tokens(&self) -> Arc<Mutex<Keyed<TokioClock>>> {
        self.tokens.1.clone()
    }
}

fn keyed(quota: rate::Quota, clock: &TokioClock) -> Arc<Mutex<Keyed<TokioClock>>> {
    let keyed = Keyed::new(quota, clock.clone(), rate::DEFAULT_CAPACITY);
    Arc::new(Mutex::new(keyed))
}

pub(crate) fn quota_of(rules: &CallerRules) -> rate::Quota {
    rate::Quota {
        count: rules.rate.count,
        per: rules.rate.per,
        burst: rules.burst,
    }
}

pub(crate) fn circuit_of(config: &Config) -> circuit::Rules {
    let circuit = config.upstream.circuit;
    circuit::Rules {
        failures: usize::try_from(circuit.failures).unwrap_or(usize::MAX),
        within: circuit.within,
        open: circuit.open,
    }
}

/// How many unknown tokens are asked about at once: a quarter of a worker's connections, and with those that wait for it
/// about a quarter of the requests in flight. The rest is for those who are known.
fn strangers(config: &Config) -> usize {
    let connections = config.upstream.max_connections / 4;
    connections.min(config.limits.max_in_flight / 36)
}

/// The groups of the file, with the callers that draw on each.
fn wanted(config: &Config) -> Wanted {
    let mut named = BTreeMap::<Arc<str>, Vec<Arc<str>>>::new();
    for token in config.tokens.values() {
        named.entry(token.quota_group.clone()).or_default();
    }
    for (name, caller) in &config.callers {
        let token = caller.token.as_ref();
        if let Some(token) = token.and_then(|token| config.tokens.get(token)) {
            let callers = named.entry(token.quota_group.clone()).or_default();
            callers.push(name.as_str().into());
        }
    }
    Wanted {
        rules: ledger::Rules {
            spread_above: config.quota.spread_above,
            reserve: config.quota.reserve,
            longest: config.retry.max_retry_after,
        },
        max_waiting: config.quota.max_waiting,
        named,
    }
}
