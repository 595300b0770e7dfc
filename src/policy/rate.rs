//! A caller's own rate: GCRA by governor, over a clock that is passed in.
//!
//! ```
//! use std::time::Duration;
//! use governor::clock::FakeRelativeClock;
//! use revgate::policy::rate::{Limiter, Quota};
//!
//! let clock = FakeRelativeClock::default();
//! let quota = Quota { count: 10, per: Duration::from_secs(1), burst: 2 };
//! let limiter = Limiter::new(quota, clock.clone());
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

/// How many limiters [`Keyed`] holds unless told otherwise: some 2 MB, and more callers than a sidecar has.
pub const DEFAULT_CAPACITY: usize = 10_000;

/// A sweep that made no room is not repeated sooner: some 10,000 limiters a second are no load.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The slowest a full burst may come back: GCRA counts nanoseconds in 64 bits, and must not overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// So many requests in so long, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Requests per `per`.
    pub count: u32,
    /// The time they are counted over.
    pub per: Duration,
    /// How many may come at once.
    pub burst: u32,
}

impl Quota {
    fn burst(&self) -> NonZeroU32 {
        NonZeroU32::new(self.burst).unwrap_or(NonZeroU32::MIN)
    }

    /// The time one request takes to come back.
    fn interval(&self) -> Duration {
        let longest = LONGEST / self.burst().get();
        (self.per / self.count.max(1)).clamp(Duration::from_nanos(1), longest)
    }

    fn governor(&self) -> governor::Quota {
        governor::Quota::with_period(self.interval())
            .unwrap_or_else(|| governor::Quota::per_second(NonZeroU32::MIN))
            .allow_burst(self.burst())
    }
}

/// What the limiter says of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the request is within the rate.
    pub allowed: bool,
    /// How many more would be, at once.
    pub remaining: u32,
    /// How long until one is again; zero when this one was allowed.
    pub retry_after: Duration,
    /// How long until the whole burst is there again.
    pub reset: Duration,
}

impl Verdict {
    /// `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10 section 4. Seconds are rounded up, so that whoever comes back then is
    /// not refused.
    pub fn header(&self) -> HeaderValue {
        // While nothing remains, the time that matters is that of the next request.
        let wait = if self.allowed {
            self.reset
        } else {
            self.retry_after
        };
        value(format!("\"caller\";r={};t={}", self.remaining, ceil(wait)))
    }
}

/// What is wanted of the state: governor hands a key through, and one word has no other use for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ask {
    Take,
    Look,
}

/// governor's state in one word, kept here because governor does not let its own be read.
#[derive(Debug, Clone, Default)]
struct Tat(Arc<AtomicU64>);

impl StateStore for Tat {
    type Key = Ask;

    fn measure_and_replace<T, F, E>(&self, ask: &Ask, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut seen = self.0.load(Ordering::Acquire);
        loop {
            let (answer, next) = decide((seen != 0).then(|| seen.into()))?;
            if *ask == Ask::Look {
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
    inner: RateLimiter<Ask, Tat, C, StateInformationMiddleware>,
    tat: Tat,
    start: C::Instant,
    quota: Quota,
}

impl<C: Clock> Limiter<C> {
    /// A limiter whose whole burst is there. A count or burst of 0 counts as 1.
    pub fn new(quota: Quota, clock: C) -> Limiter<C> {
        let tat = Tat::default();
        let start = clock.now();
        let inner = RateLimiter::new(quota.governor(), tat.clone(), clock);
        Limiter {
            inner,
            tat,
            start,
            quota,
        }
    }

    /// Asks for one request.
    pub fn check(&self) -> Verdict {
        self.ask(Ask::Take)
    }

    /// What [`check`](Self::check) would say, without asking: `remaining` is how many would be let through.
    pub fn peek(&self) -> Verdict {
        let verdict = self.ask(Ask::Look);
        Verdict {
            // governor counts what remains after the request that it was asked for.
            remaining: verdict.remaining + u32::from(verdict.allowed),
            ..verdict
        }
    }

    fn ask(&self, ask: Ask) -> Verdict {
        let now = self.inner.clock().now();
        match self.inner.check_key(&ask) {
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

    /// `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-10 section 3: the burst, and the time it takes to come back.
    pub fn policy_header(&self) -> HeaderValue {
        let burst = self.quota.burst().get();
        let window = ceil(self.quota.interval().saturating_mul(burst)).max(1);
        value(format!("\"caller\";q={burst};w={window}"))
    }

    fn until_full(&self, now: C::Instant) -> Duration {
        let elapsed: Duration = now.duration_since(self.start).into();
        Duration::from_nanos(self.tat.0.load(Ordering::Acquire)).saturating_sub(elapsed)
    }

    /// Whether it can no longer be told from a new one.
    fn is_full(&self) -> bool {
        self.until_full(self.inner.clock().now()).is_zero()
    }
}

/// Limiters by the hash of a credential, never more than so many.
///
/// At capacity, limiters that are full again go first: nobody can tell them from new ones. If none is, the newcomers
/// share one limiter; memory stays bounded and nobody escapes a limit by showing up under many names.
#[derive(Debug)]
pub struct Keyed<C: Clock + Clone> {
    limiters: HashMap<[u8; 32], Arc<Limiter<C>>>,
    overflow: Arc<Limiter<C>>,
    capacity: usize,
    /// When the map was last swept in vain.
    swept: Option<C::Instant>,
    quota: Quota,
    clock: C,
}

impl<C: Clock + Clone> Keyed<C> {
    /// See [`DEFAULT_CAPACITY`].
    pub fn new(quota: Quota, clock: C, capacity: usize) -> Keyed<C> {
        let overflow = Arc::new(Limiter::new(quota, clock.clone()));
        Keyed {
            limiters: HashMap::new(),
            overflow,
            capacity,
            swept: None,
            quota,
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
        let limiter = Arc::new(Limiter::new(self.quota, self.clock.clone()));
        self.limiters.insert(*key, limiter.clone());
        limiter
    }

    /// How many limiters it holds.
    pub fn len(&self) -> usize {
        self.limiters.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.limiters.is_empty()
    }

    /// Makes room if it can. A sweep reads the whole map, so a flood of newcomers must not cause one each.
    fn sweep(&mut self) -> bool {
        let now = self.clock.now();
        let recent = |swept: C::Instant| Duration::from(now.duration_since(swept)) < SWEEP_INTERVAL;
        if self.swept.is_some_and(recent) {
            return false;
        }
        // One that is in use may be full only because its request has not asked yet.
        self.limiters
            .retain(|_, limiter| Arc::strong_count(limiter) > 1 || !limiter.is_full());
        let room = self.limiters.len() < self.capacity;
        self.swept = (!room).then_some(now);
        room
    }
}

fn ceil(time: Duration) -> u64 {
    time.as_secs()
        .saturating_add(u64::from(time.subsec_nanos() > 0))
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("\"caller\""))
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;

    const QUOTA: Quota = Quota {
        count: 10,
        per: Duration::from_secs(1),
        burst: 3,
    };

    #[test]
    fn a_burst_then_the_rate() {
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::new(QUOTA, clock.clone());
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
    fn a_peek_foretells_and_takes_nothing() {
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::new(QUOTA, clock.clone());
        for _ in 0..12 {
            let foretold = limiter.peek();
            assert_eq!(foretold, limiter.peek());
            let verdict = limiter.check();
            assert_eq!(foretold.allowed, verdict.allowed);
            assert_eq!(foretold.retry_after, verdict.retry_after);
            assert_eq!(
                foretold.remaining,
                verdict.remaining + u32::from(verdict.allowed)
            );
            clock.advance(Duration::from_millis(30));
        }
    }

    #[test]
    fn the_policy_tells_burst_and_window() {
        let header = |quota| Limiter::new(quota, FakeRelativeClock::default()).policy_header();
        assert_eq!(header(QUOTA), "\"caller\";q=3;w=1");
        let slow = Quota {
            count: 7,
            per: Duration::from_secs(60),
            burst: 2,
        };
        assert_eq!(header(slow), "\"caller\";q=2;w=18");
    }

    #[test]
    fn absurd_quotas_do_not_overflow() {
        for count in [0, 1, u32::MAX] {
            for per in [Duration::ZERO, Duration::MAX] {
                for burst in [0, 1, u32::MAX] {
                    let limiter =
                        Limiter::new(Quota { count, per, burst }, FakeRelativeClock::default());
                    assert!(limiter.check().allowed);
                    limiter.check();
                    limiter.policy_header();
                }
            }
        }
    }

    #[test]
    fn the_full_make_room_and_the_rest_share() {
        let clock = FakeRelativeClock::default();
        let mut keyed = Keyed::new(QUOTA, clock.clone(), 2);
        keyed.get(&[1; 32]).check();
        keyed.get(&[2; 32]).check();
        assert!(Arc::ptr_eq(&keyed.get(&[3; 32]), &keyed.get(&[4; 32])));
        clock.advance(Duration::from_secs(1));
        assert!(!Arc::ptr_eq(&keyed.get(&[3; 32]), &keyed.get(&[4; 32])));
        assert_eq!(keyed.len(), 2);
    }

    proptest! {
        #[test]
        fn a_peek_tells_how_many_a_check_would_allow(steps in prop::collection::vec((0u64..250, any::<bool>()), 0..60)) {
            let clock = FakeRelativeClock::default();
            let limiter = Limiter::new(QUOTA, clock.clone());
            for (step, asks) in steps {
                clock.advance(Duration::from_millis(step));
                let peeked = limiter.peek().remaining;
                prop_assert_eq!(limiter.peek().remaining, peeked);
                if asks {
                    let verdict = limiter.check();
                    prop_assert_eq!(verdict.allowed, peeked > 0);
                    prop_assert_eq!(verdict.remaining, peeked.saturating_sub(1));
                }
            }
        }

        #[test]
        fn it_never_holds_more_than_its_capacity(keys in prop::collection::vec((any::<u8>(), 0u64..200), 0..200), capacity in 0usize..20) {
            let clock = FakeRelativeClock::default();
            let mut keyed = Keyed::new(QUOTA, clock.clone(), capacity);
            for (key, step) in keys {
                clock.advance(Duration::from_millis(step));
                keyed.get(&[key; 32]).check();
                prop_assert!(keyed.len() <= capacity);
            }
        }
    }
}
