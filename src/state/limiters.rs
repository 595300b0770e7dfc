//! The rate limiters of callers and of their tokens.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use http::HeaderValue;

use super::Clock;
use crate::{
    lock::Lock,
    plan::RatePlan,
    policy::rate::{self, KeyedLimiters, RateLimit},
    types::{Caller, CallerToken},
};

/// One caller's limiter.
pub(crate) type Limiter = rate::Limiter<Clock>;

/// The limiters of the plan that was reconciled last.
pub struct Limiters {
    clock: Clock,
    current: ArcSwap<PlanLimiters>,
}

/// The limiters of one plan. Two plans share the limiters whose limit is the same in both.
pub struct PlanLimiters {
    callers: HashMap<Arc<str>, (RateLimit, Arc<Limiter>)>,
    /// In mode "validate", by the hash of the token or of its user.
    tokens: (RateLimit, Arc<Lock<KeyedLimiters<Clock>>>),
}

impl Limiters {
    /// Every limiter starts with a full burst.
    pub fn new(rates: &RatePlan, clock: Clock) -> Self {
        let none = PlanLimiters {
            callers: HashMap::new(),
            tokens: (rates.default, keyed(rates.default, clock)),
        };
        Limiters {
            clock,
            current: ArcSwap::from_pointee(none.next(rates, clock)),
        }
    }

    /// A limiter whose limit stays the same keeps its state.
    pub fn reconcile(&self, rates: &RatePlan) {
        let next = self.current.load().next(rates, self.clock);
        self.current.store(Arc::new(next));
    }

    /// The limiters of the plan that was reconciled last.
    pub fn of_plan(&self) -> Arc<PlanLimiters> {
        self.current.load_full()
    }
}

impl PlanLimiters {
    fn next(&self, rates: &RatePlan, clock: Clock) -> PlanLimiters {
        let callers = rates.callers.iter().map(|(name, limit)| {
            let kept = self.callers.get(name).filter(|(old, _)| old == limit);
            let limiter = kept.map_or_else(
                || Arc::new(Limiter::new(*limit, clock)),
                |(_, limiter)| limiter.clone(),
            );
            (name.clone(), (*limit, limiter))
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

    /// The limiter that applies to a request: that of its own token, if it has one, else that of its caller.
    pub fn of_request(
        &self,
        caller: &Caller,
        caller_token: Option<&CallerToken>,
    ) -> Option<Arc<Limiter>> {
        match caller_token {
            Some(caller_token) => Some(self.tokens.1.lock().get(&caller_token.hash)),
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

fn keyed(limit: RateLimit, clock: Clock) -> Arc<Lock<KeyedLimiters<Clock>>> {
    let keyed = KeyedLimiters::new(limit, clock, rate::DEFAULT_CAPACITY);
    Arc::new(Lock::new(keyed))
}
