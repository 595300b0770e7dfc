//! The rate limiters of callers and of their tokens.
//!
//! In a fleet a request needs a token of its group's pool as well; see [`purses`].

pub mod purses;

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use http::HeaderValue;

use self::purses::{Check, Purses};
use super::Clock;
use crate::{
    lock::Lock,
    plan::RatePlan,
    policy::{
        fleet::tokens::CallerKey,
        rate::{self, KeyedLimiters, RateLimit, Verdict},
    },
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
    callers: HashMap<Arc<str>, Named>,
    /// In mode "validate", by the hash of the token or of its user.
    tokens: (RateLimit, Arc<Lock<KeyedLimiters<Clock>>>),
    /// `None` for a single process.
    purses: Option<Arc<Purses>>,
}

/// Of a caller of the file.
struct Named {
    limiter: Arc<Limiter>,
    limit: RateLimit,
    key: CallerKey,
}

impl Limiters {
    /// Every limiter starts with a full burst.
    pub fn new(rates: &RatePlan, clock: Clock) -> Self {
        Limiters::of(rates, clock, None)
    }

    /// Of one replica of a fleet.
    pub fn in_fleet(rates: &RatePlan, clock: Clock, purses: Arc<Purses>) -> Self {
        Limiters::of(rates, clock, Some(purses))
    }

    fn of(rates: &RatePlan, clock: Clock, purses: Option<Arc<Purses>>) -> Self {
        let none = PlanLimiters {
            callers: HashMap::new(),
            tokens: (rates.default, keyed(rates.default, clock)),
            purses,
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
        // In a single process nobody sees the keys.
        let hashes = self.purses.as_ref().map(|purses| purses.hashes());
        let key = |name: &str| {
            let hash = hashes.map(|hashes| hashes.of(name));
            hash.map_or(CallerKey::ONLY, |hash| CallerKey::of_name(&hash))
        };
        let callers = rates.callers.iter().map(|(name, limit)| {
            let kept = self.callers.get(name).filter(|old| old.limit == *limit);
            let limiter = kept.map_or_else(
                || Arc::new(Limiter::new(*limit, clock)),
                |old| old.limiter.clone(),
            );
            let named = Named {
                limiter,
                limit: *limit,
                key: key(name),
            };
            (name.clone(), named)
        });
        let tokens = if self.tokens.0 == rates.default {
            self.tokens.1.clone()
        } else {
            keyed(rates.default, clock)
        };
        PlanLimiters {
            callers: callers.collect(),
            tokens: (rates.default, tokens),
            purses: self.purses.clone(),
        }
    }

    /// The limiter of a caller of the file.
    pub fn of_caller(&self, name: &str) -> Option<&Arc<Limiter>> {
        self.callers.get(name).map(|named| &named.limiter)
    }

    /// What is left to a caller of the file, in a fleet as far as it is known. Takes nothing.
    pub fn peek_caller(&self, name: &str, group: Option<&str>) -> Option<Verdict> {
        let named = self.callers.get(name)?;
        Some(match (&self.purses, group) {
            (Some(purses), Some(group)) => purses.peek(group, named.key, &named.limiter),
            _ => named.limiter.peek(),
        })
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

    /// Takes a request from the limit, if it is within it. `limiter` is that [of the request](Self::of_request).
    pub fn check(
        &self,
        caller: &Caller,
        caller_token: Option<&CallerToken>,
        limiter: &Arc<Limiter>,
    ) -> Check {
        let Some(purses) = &self.purses else {
            return Check::Decided(limiter.check());
        };
        match self.key(caller, caller_token) {
            Some(key) => purses.check(&caller.group, key, limiter),
            None => Check::Decided(limiter.check()),
        }
    }

    /// `RateLimit-Policy` and `RateLimit`: the state of the limit, read without using any of it.
    pub fn headers(
        &self,
        caller: &Caller,
        caller_token: Option<&CallerToken>,
    ) -> Option<(HeaderValue, HeaderValue)> {
        let limiter = self.of_request(caller, caller_token)?;
        let verdict = match (&self.purses, self.key(caller, caller_token)) {
            (Some(purses), Some(key)) => purses.peek(&caller.group, key, &limiter),
            _ => limiter.peek(),
        };
        Some((limiter.policy_header(), verdict.header()))
    }

    /// Under which the pool of its group knows this caller.
    fn key(&self, caller: &Caller, caller_token: Option<&CallerToken>) -> Option<CallerKey> {
        match caller_token {
            Some(_) => Some(CallerKey::ONLY),
            None => self.callers.get(&caller.name).map(|named| named.key),
        }
    }
}

fn keyed(limit: RateLimit, clock: Clock) -> Arc<Lock<KeyedLimiters<Clock>>> {
    let keyed = KeyedLimiters::new(limit, clock, rate::DEFAULT_CAPACITY);
    Arc::new(Lock::new(keyed))
}
