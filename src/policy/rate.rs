//! The rate limit of a caller: GCRA by governor, with a clock that is passed in.
//!
//! ```
//! use std::time::Duration;
//! use governor::clock::FakeRelativeClock;
//! use revgate::policy::rate::{Limiter, RateLimit};
//!
//! let clock = FakeRelativeClock::default();
//! let limit = RateLimit { count: 10, per: Duration::from_secs(1), burst: 2 };
//! let limiter = Limiter::new(limit, clock.clone());
//! assert!(limiter.check().allowed && limiter.check().allowed);
//! let third = limiter.check();
//! assert!(!third.allowed);
//! assert_eq!(third.retry_after, Duration::from_millis(100));
//!
//! clock.advance(Duration::from_millis(100));
//! assert!(limiter.check().allowed);
//! ```

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::RateLimiter;
use governor::clock::{Clock, Reference};
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use http::HeaderValue;

use super::feedback::{seconds_rounded_up, whole_seconds};

/// Capacity of [`KeyedLimiters`]: some 2 MB, and more than a sidecar has callers.
pub const DEFAULT_CAPACITY: usize = 10_000;

/// The time between two sweeps that free nothing. A sweep reads all limiters; 10,000 a second are no load.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The longest time a full burst may take to refill. GCRA counts nanoseconds in 64 bits and must not overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A rate and a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests per `per`.
    pub count: u32,
    /// The time they are counted over.
    pub per: Duration,
    /// How many may come at once.
    pub burst: u32,
}

impl RateLimit {
    pub(super) fn burst(&self) -> NonZeroU32 {
        NonZeroU32::new(self.burst).unwrap_or(NonZeroU32::MIN)
    }

    /// The time in which one request is refilled.
    pub(super) fn interval(&self) -> Duration {
        let longest = LONGEST / self.burst().get();
        (self.per / self.count.max(1)).clamp(Duration::from_nanos(1), longest)
    }

    fn governor(&self) -> governor::Quota {
        governor::Quota::with_period(self.interval())
            .unwrap_or_else(|| governor::Quota::per_second(NonZeroU32::MIN))
            .allow_burst(self.burst())
    }
}

/// The limiter's answer for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the request is within the rate.
    pub allowed: bool,
    /// How many more are within it now.
    pub remaining: u32,
    /// How long until one is within it again; zero if this one is.
    pub retry_after: Duration,
    /// How long until the whole burst is refilled.
    pub reset: Duration,
}

impl Verdict {
    /// `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10 section 4. Seconds are rounded up, so that a retry after them is not
    /// refused.
    pub fn header(&self) -> HeaderValue {
        // Once a request is refused, the time that matters is that of the next one.
        let wait = if self.allowed {
            self.reset
        } else {
            self.retry_after
        };
        value(format!(
            "\"caller\";r={};t={}",
            self.remaining,
            seconds_rounded_up(wait)
        ))
    }
}

/// Whether a check takes a request or only looks. It reaches the store as governor's key, which a store of one limiter does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum CheckKind {
    Take,
    Peek,
}

/// GCRA's theoretical arrival time, in nanoseconds. Kept here because governor's own store cannot be read.
#[derive(Debug, Clone, Default)]
struct Tat(Arc<AtomicU64>);

impl StateStore for Tat {
    type Key = CheckKind;

    fn measure_and_replace<T, F, E>(&self, kind: &CheckKind, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut seen = self.0.load(Ordering::Acquire);
        loop {
            let (answer, next) = decide((seen != 0).then(|| seen.into()))?;
            if *kind == CheckKind::Peek {
                return Ok(answer);
            }
            match self.0.compare_exchange_weak(
                seen,
                next.into(),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Ok(answer),
                Err(now) => seen = now,
            }
        }
    }
}

/// One caller's limiter.
#[derive(Debug)]
pub struct Limiter<C: Clock> {
    inner: RateLimiter<CheckKind, Tat, C, StateInformationMiddleware>,
    tat: Tat,
    start: C::Instant,
    limit: RateLimit,
}

impl<C: Clock> Limiter<C> {
    /// A limiter with a full burst. A count or burst of 0 counts as 1.
    pub fn new(limit: RateLimit, clock: C) -> Limiter<C> {
        let tat = Tat::default();
        let start = clock.now();
        let inner = RateLimiter::new(limit.governor(), tat.clone(), clock);
        Limiter {
            inner,
            tat,
            start,
            limit,
        }
    }

    /// Takes one request from the limit, if it is within it.
    pub fn check(&self) -> Verdict {
        self.decide(CheckKind::Take)
    }

    /// What [`check`](Self::check) would answer, without taking anything. `remaining` counts this request too.
    pub fn peek(&self) -> Verdict {
        let verdict = self.decide(CheckKind::Peek);
        Verdict {
            // governor counts what remains after the request.
            remaining: verdict.remaining + u32::from(verdict.allowed),
            ..verdict
        }
    }

    fn decide(&self, kind: CheckKind) -> Verdict {
        let now = self.inner.clock().now();
        match self.inner.check_key(&kind) {
            Ok(state) => Verdict {
                allowed: true,
                remaining: state.remaining_burst_capacity(),
                retry_after: Duration::ZERO,
                reset: self.until_full(now),
            },
            Err(refusal) => Verdict {
                allowed: false,
                remaining: 0,
                retry_after: refusal.wait_time_from(now).max(Duration::from_nanos(1)),
                reset: self.until_full(now),
            },
        }
    }

    /// Its rate and burst.
    pub fn limit(&self) -> &RateLimit {
        &self.limit
    }

    /// How many of the burst are used up now.
    pub fn used(&self) -> u32 {
        let left = self.peek().remaining;
        self.limit.burst().get().saturating_sub(left)
    }

    /// `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-10 section 3: the burst, and the time in which it is refilled.
    pub fn policy_header(&self) -> HeaderValue {
        let burst = self.limit.burst().get();
        let window = whole_seconds(self.limit.interval().saturating_mul(burst));
        value(format!("\"caller\";q={burst};w={window}"))
    }

    fn until_full(&self, now: C::Instant) -> Duration {
        let elapsed: Duration = now.duration_since(self.start).into();
        Duration::from_nanos(self.tat.0.load(Ordering::Acquire)).saturating_sub(elapsed)
    }

    /// Whether the burst is full, so that a new limiter would behave the same.
    fn is_full(&self) -> bool {
        self.until_full(self.inner.clock().now()).is_zero()
    }
}

/// Limiters by the hash of a credential, up to a capacity.
///
/// At capacity, full limiters are evicted: new ones behave the same. If none is full, new credentials share one limiter. So memory
/// is bounded, and no client escapes its limit by using many credentials.
#[derive(Debug)]
pub struct KeyedLimiters<C: Clock + Clone> {
    limiters: HashMap<[u8; 32], Arc<Limiter<C>>>,
    overflow: Arc<Limiter<C>>,
    capacity: usize,
    /// When the last sweep that freed nothing was.
    swept: Option<C::Instant>,
    limit: RateLimit,
    clock: C,
}

impl<C: Clock + Clone> KeyedLimiters<C> {
    /// See [`DEFAULT_CAPACITY`].
    pub fn new(limit: RateLimit, clock: C, capacity: usize) -> KeyedLimiters<C> {
        let overflow = Arc::new(Limiter::new(limit, clock.clone()));
        KeyedLimiters {
            limiters: HashMap::new(),
            overflow,
            capacity,
            swept: None,
            limit,
            clock,
        }
    }

    /// The limiter of this credential.
    pub fn get(&mut self, key: &[u8; 32]) -> Arc<Limiter<C>> {
        if let Some(limiter) = self.limiters.get(key) {
            return limiter.clone();
        }
        if self.limiters.len() >= self.capacity && !self.sweep() {
            return self.overflow.clone();
        }
        let limiter = Arc::new(Limiter::new(self.limit, self.clock.clone()));
        self.limiters.insert(*key, limiter.clone());
        limiter
    }

    /// How many limiters it holds.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.limiters.len()
    }

    /// Evicts full limiters; returns whether there is room. A sweep reads the whole map, so a flood of new credentials must not cause
    /// one each.
    fn sweep(&mut self) -> bool {
        let now = self.clock.now();
        let recent = |swept: C::Instant| Duration::from(now.duration_since(swept)) < SWEEP_INTERVAL;
        if self.swept.is_some_and(recent) {
            return false;
        }
        // One in use may be full only because its request has not called `check` yet.
        self.limiters
            .retain(|_, limiter| Arc::strong_count(limiter) > 1 || !limiter.is_full());
        let room = self.limiters.len() < self.capacity;
        self.swept = (!room).then_some(now);
        room
    }
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("\"caller\""))
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;

    const LIMIT: RateLimit = RateLimit {
        count: 10,
        per: Duration::from_secs(1),
        burst: 3,
    };

    #[test]
    fn a_burst_then_the_rate() {
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::new(LIMIT, clock.clone());
        for remaining in [2, 1, 0] {
            let verdict = limiter.check();
            assert_eq!((verdict.allowed, verdict.remaining), (true, remaining));
        }
        let verdict = limiter.check();
        assert!(!verdict.allowed);
        assert_eq!(verdict.retry_after, Duration::from_millis(100));
        assert_eq!(verdict.reset, Duration::from_millis(300));
        assert_eq!(verdict.header(), "\"caller\";r=0;t=1");
        clock.advance(verdict.retry_after);
        assert!(limiter.check().allowed);
    }

    #[test]
    fn a_peek_predicts_the_check_and_takes_nothing() {
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::new(LIMIT, clock.clone());
        for _ in 0..12 {
            let peeked = limiter.peek();
            assert_eq!(peeked, limiter.peek());
            let verdict = limiter.check();
            assert_eq!(peeked.allowed, verdict.allowed);
            assert_eq!(peeked.retry_after, verdict.retry_after);
            assert_eq!(
                peeked.remaining,
                verdict.remaining + u32::from(verdict.allowed)
            );
            clock.advance(Duration::from_millis(30));
        }
    }

    #[test]
    fn the_policy_states_burst_and_window() {
        let header = |limit| Limiter::new(limit, FakeRelativeClock::default()).policy_header();
        assert_eq!(header(LIMIT), "\"caller\";q=3;w=1");
        let slow = RateLimit {
            count: 7,
            per: Duration::from_secs(60),
            burst: 2,
        };
        assert_eq!(header(slow), "\"caller\";q=2;w=18");
    }

    #[test]
    fn extreme_limits_do_not_overflow() {
        for count in [0, 1, u32::MAX] {
            for per in [Duration::ZERO, Duration::MAX] {
                for burst in [0, 1, u32::MAX] {
                    let limiter = Limiter::new(
                        RateLimit { count, per, burst },
                        FakeRelativeClock::default(),
                    );
                    assert!(limiter.check().allowed);
                    limiter.check();
                    limiter.policy_header();
                }
            }
        }
    }

    #[test]
    fn full_limiters_are_evicted_and_new_credentials_share_one() {
        let clock = FakeRelativeClock::default();
        let mut limiters = KeyedLimiters::new(LIMIT, clock.clone(), 2);
        limiters.get(&[1; 32]).check();
        limiters.get(&[2; 32]).check();
        assert!(Arc::ptr_eq(
            &limiters.get(&[3; 32]),
            &limiters.get(&[4; 32])
        ));
        clock.advance(Duration::from_secs(1));
        assert!(!Arc::ptr_eq(
            &limiters.get(&[3; 32]),
            &limiters.get(&[4; 32])
        ));
        assert_eq!(limiters.len(), 2);
    }

    proptest! {
        #[test]
        fn a_peek_tells_how_many_a_check_would_allow(steps in prop::collection::vec((0u64..250, any::<bool>()), 0..60)) {
            let clock = FakeRelativeClock::default();
            let limiter = Limiter::new(LIMIT, clock.clone());
            for (step, checks) in steps {
                clock.advance(Duration::from_millis(step));
                let peeked = limiter.peek().remaining;
                prop_assert_eq!(limiter.peek().remaining, peeked);
                if checks {
                    let verdict = limiter.check();
                    prop_assert_eq!(verdict.allowed, peeked > 0);
                    prop_assert_eq!(verdict.remaining, peeked.saturating_sub(1));
                }
            }
        }

        #[test]
        fn it_never_holds_more_than_its_capacity(keys in prop::collection::vec((any::<u8>(), 0u64..200), 0..200), capacity in 0usize..20) {
            let clock = FakeRelativeClock::default();
            let mut limiters = KeyedLimiters::new(LIMIT, clock.clone(), capacity);
            for (key, step) in keys {
                clock.advance(Duration::from_millis(step));
                limiters.get(&[key; 32]).check();
                prop_assert!(limiters.len() <= capacity);
            }
        }
    }
}
