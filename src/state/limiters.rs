//! Where everybody's own rate stands.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use http::HeaderValue;

use super::Clock;
use crate::{
    plan::Rates,
    policy::rate::{self, Keyed},
    types::{Caller, CallerToken},
};

/// One caller's limiter.
pub type Limiter = rate::Limiter<Clock>;

/// The limiters of the plan that was reconciled last.
pub struct Limiters {
    clock: Clock,
    current: ArcSwap<PlanLimiters>,
}

/// The limiters of one plan. A limiter whose rate stays the same from one plan to the next is the same in both.
pub struct PlanLimiters {
    callers: HashMap<Arc<str>, (rate::Quota, Arc<Limiter>)>,
    /// In mode "validate", by the hash of the token or of its user.
    tokens: (rate::Quota, Arc<Mutex<Keyed<Clock>>>),
}

impl Limiters {
    /// Full bursts for everybody.
    pub fn new(rates: &Rates, clock: Clock) -> Self {
        let none = PlanLimiters {
            callers: HashMap::new(),
            tokens: (rates.default, keyed(rates.default, clock)),
        };
        Limiters {
            clock,
            current: ArcSwap::from_pointee(none.next(rates, clock)),
        }
    }

    /// Whoever's rate stays the same keeps where it stands.
    pub fn reconcile(&self, rates: &Rates) {
        let next = self.current.load().next(rates, self.clock);
        self.current.store(Arc::new(next));
    }

    /// Those of the plan that was reconciled last.
    pub fn of_plan(&self) -> Arc<PlanLimiters> {
        self.current.load_full()
    }
}

impl PlanLimiters {
    fn next(&self, rates: &Rates, clock: Clock) -> PlanLimiters {
        let callers = rates.callers.iter().map(|(name, quota)| {
            let kept = self.callers.get(name).filter(|(old, _)| old == quota);
            let limiter = kept.map_or_else(
                || Arc::new(Limiter::new(*quota, clock)),
                |(_, limiter)| limiter.clone(),
            );
            (name.clone(), (*quota, limiter))
        });
        let tokens = if self.tokens.0 == rates.default {
            self.tokens.1.clone()
        } else {
            keyed(rates.default, clock)
        };
        PlanLimiters {
            callers: callers.collect(),
            tokens: (rates.default, tokens),
        }
    }

    /// The limiter of a caller of the file.
    pub fn of_caller(&self, name: &str) -> Option<&Arc<Limiter>> {
        self.callers.get(name).map(|(_, limiter)| limiter)
    }

    /// The limiter that applies to a request: that of the token it brought, if it brought one, else that of its caller.
    pub fn of_request(
        &self,
        caller: &Caller,
        caller_token: Option<&CallerToken>,
    ) -> Option<Arc<Limiter>> {
        match caller_token {
            Some(caller_token) => {
                let mut tokens = self.tokens.1.lock().unwrap_or_else(PoisonError::into_inner);
                Some(tokens.get(&caller_token.hash))
            }
            None => self.of_caller(&caller.name).cloned(),
        }
    }

    /// `RateLimit-Policy` and `RateLimit`: the state of the limit, read without using any of it.
    pub fn headers(
        &self,
        caller: &Caller,
        caller_token: Option<&CallerToken>,
    ) -> Option<(HeaderValue, HeaderValue)> {
        let limiter = self.of_request(caller, caller_token)?;
        Some((limiter.policy_header(), limiter.peek().header()))
    }
}

fn keyed(quota: rate::Quota, clock: Clock) -> Arc<Mutex<Keyed<Clock>>> {
    let keyed = Keyed::new(quota, clock, rate::DEFAULT_CAPACITY);
    Arc::new(Mutex::new(keyed))
}
