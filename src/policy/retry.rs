//! Whether and when a failed attempt is retried.
//!
//! An attempt that DevRev refused before doing any work is retried for every operation. One that may have taken effect is
//! retried only if the operation reads.
//!
//! ```
//! use std::time::Duration;
//! use http::StatusCode;
//! use revgate::policy::retry::{Attempt, AttemptEnd, Decision, RetryRules, decide};
//!
//! let rules = RetryRules {
//!     max_attempts: 4,
//!     backoff_min: Duration::from_millis(250),
//!     backoff_max: Duration::from_secs(10),
//! };
//! let write = |end| Attempt {
//!     number: 1,
//!     reads: false,
//!     replayable: true,
//!     end,
//!     wait_left: Duration::from_secs(30),
//! };
//! let retry_after = Some(Duration::from_secs(2));
//! let throttled = AttemptEnd::Status { status: StatusCode::TOO_MANY_REQUESTS, retry_after };
//! let again = Decision::Retry { after: Duration::from_secs(2), draws_budget: false };
//! assert_eq!(decide(&rules, &write(throttled), 0.5), again);
//! assert_eq!(decide(&rules, &write(AttemptEnd::Lost), 0.5), Decision::Stop { retry_after: None });
//! ```

use std::time::Duration;

use http::StatusCode;

use crate::label::label_enum;

/// The operator's limits on retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryRules {
    /// Attempts per request, the first included.
    pub max_attempts: u32,
    /// Upper bound of the first backoff; it doubles with each further one.
    pub backoff_min: Duration,
    /// Upper bound of every backoff.
    pub backoff_max: Duration,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// Upstream answered, possibly with a retry-after.
    Status {
        /// The answer's status.
        status: StatusCode,
        /// How long upstream says to wait.
        retry_after: Option<Duration>,
    },
    /// The connection failed before any of the request was written.
    NotWritten,
    /// The connection broke after the request, or some of it, was written.
    Lost,
    /// No response head arrived in time.
    TimedOut,
}

label_enum! {
    /// Why an attempt failed, as retries are counted by.
    pub enum Reason {
        /// 429.
        Throttled = "throttled",
        /// 503.
        Unavailable = "unavailable",
        /// 500, 502 or 504.
        ServerError = "server_error",
        /// See [`AttemptEnd::NotWritten`].
        NotWritten = "not_written",
        /// See [`AttemptEnd::Lost`].
        Lost = "lost",
        /// See [`AttemptEnd::TimedOut`].
        TimedOut = "timeout",
    }
}

impl AttemptEnd {
    /// Why the attempt failed; `None` if its answer is final.
    pub fn reason(self) -> Option<Reason> {
        Some(match self {
            AttemptEnd::NotWritten => Reason::NotWritten,
            AttemptEnd::Lost => Reason::Lost,
            AttemptEnd::TimedOut => Reason::TimedOut,
            AttemptEnd::Status { status, .. } => match status {
                StatusCode::TOO_MANY_REQUESTS => Reason::Throttled,
                StatusCode::SERVICE_UNAVAILABLE => Reason::Unavailable,
                StatusCode::INTERNAL_SERVER_ERROR
                | StatusCode::BAD_GATEWAY
                | StatusCode::GATEWAY_TIMEOUT => Reason::ServerError,
                _ => return None,
            },
        })
    }
}

/// An attempt that has just ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Counts from 1.
    pub number: u32,
    /// Whether the operation only reads.
    pub reads: bool,
    /// Whether the body can be sent again.
    pub replayable: bool,
    /// How it ended.
    pub end: AttemptEnd,
    /// What remains of the caller's maximum wait.
    pub wait_left: Duration,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Retry.
    Retry {
        /// How long to wait before it.
        after: Duration,
        /// Whether it needs a retry from the budget.
        draws_budget: bool,
    },
    /// Return the last result.
    Stop {
        /// Upstream's full retry-after, even if it exceeds the wait.
        retry_after: Option<Duration>,
    },
}

/// Decides what follows an attempt. `jitter` is a random number in `0..1`.
pub fn decide(rules: &RetryRules, attempt: &Attempt, jitter: f64) -> Decision {
    let retry_after = match attempt.end {
        AttemptEnd::Status { retry_after, .. } => retry_after,
        _ => None,
    };
    let stop = Decision::Stop { retry_after };
    if !attempt.replayable || attempt.number >= rules.max_attempts {
        return stop;
    }
    let Some(reason) = attempt.end.reason() else {
        return stop;
    };
    let (draws_budget, named) = match reason {
        // Refused before any work. The group's ledger limits these retries, so the budget need not.
        Reason::Throttled => (false, retry_after),
        // Nothing took effect, so any operation may be sent again.
        Reason::Unavailable | Reason::NotWritten => (true, retry_after),
        // It may have taken effect, so only a read may be sent again. DevRev documents a retry-after for 429 and 503 only, so
        // it is ignored here.
        Reason::ServerError | Reason::Lost | Reason::TimedOut if attempt.reads => (true, None),
        Reason::ServerError | Reason::Lost | Reason::TimedOut => return stop,
    };
    let after = named.unwrap_or_else(|| backoff(rules, attempt.number, jitter));
    if after > attempt.wait_left {
        return stop;
    }
    Decision::Retry {
        after,
        draws_budget,
    }
}

/// Exponential with full jitter: uniform between zero and a ceiling that doubles, so that requests that failed
/// together are not retried together.
fn backoff(rules: &RetryRules, number: u32, jitter: f64) -> Duration {
    let doubled = 1u32
        .checked_shl(number.saturating_sub(1))
        .unwrap_or(u32::MAX);
    let ceiling = rules
        .backoff_min
        .saturating_mul(doubled)
        .min(rules.backoff_max);
    // `clamp` lets NaN through, and a duration of NaN seconds would panic.
    let jitter = if jitter.is_finite() {
        jitter.clamp(0.0, 1.0)
    } else {
        1.0
    };
    Duration::try_from_secs_f64(ceiling.as_secs_f64() * jitter)
        .unwrap_or(ceiling)
        .min(ceiling)
}

/// Free retries per ten seconds, so that a gateway with little traffic can retry at all.
const FREE: f64 = 10.0;
const BUCKETS: u64 = 10;

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    second: u64,
    requests: u64,
    retries: u64,
}

/// Bounds retries to a share of the requests of the last ten seconds, so that they cannot multiply the load on an
/// upstream that already fails.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    buckets: [Bucket; BUCKETS as usize],
    latest: u64,
}

impl Budget {
    /// Counts a request. `now` is the time since any fixed instant.
    pub fn request(&mut self, now: Duration) {
        let bucket = self.bucket(now);
        bucket.requests = bucket.requests.saturating_add(1);
    }

    /// Counts a retry if the budget allows it. `ratio` is the retries allowed per request, on top of ten free ones per ten
    /// seconds; a ratio that is not finite counts as zero.
    pub fn try_retry(&mut self, ratio: f64, now: Duration) -> bool {
        let ratio = if ratio.is_finite() {
            ratio.max(0.0)
        } else {
            0.0
        };
        self.bucket(now);
        let oldest = self.latest.saturating_sub(BUCKETS - 1);
        let live = self.buckets.iter().filter(|bucket| bucket.second >= oldest);
        let (requests, retries) = live.fold((0u64, 0u64), |(requests, retries), bucket| {
            (
                requests.saturating_add(bucket.requests),
                retries.saturating_add(bucket.retries),
            )
        });
        if retries as f64 >= FREE + ratio * requests as f64 {
            return false;
        }
        self.bucket(now).retries += 1;
        true
    }

    /// The bucket of the current second. Time never runs backwards here; otherwise old buckets would be reset.
    fn bucket(&mut self, now: Duration) -> &mut Bucket {
        self.latest = self.latest.max(now.as_secs());
        let second = self.latest;
        let bucket = &mut self.buckets[(second % BUCKETS) as usize];
        if bucket.second != second {
            *bucket = Bucket {
                second,
                ..Bucket::default()
            };
        }
        bucket
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::label::assert_labels;

    const RULES: RetryRules = RetryRules {
        max_attempts: 4,
        backoff_min: Duration::from_millis(250),
        backoff_max: Duration::from_secs(10),
    };
    const SECOND: Duration = Duration::from_secs(1);

    fn status(code: u16, retry_after: Option<Duration>) -> AttemptEnd {
        AttemptEnd::Status {
            status: StatusCode::from_u16(code).unwrap(),
            retry_after,
        }
    }

    fn after(end: AttemptEnd, reads: bool) -> Decision {
        let wait_left = SECOND * 30;
        let attempt = Attempt {
            number: 1,
            reads,
            replayable: true,
            end,
            wait_left,
        };
        decide(&RULES, &attempt, 1.0)
    }

    fn retry(after: Duration, draws_budget: bool) -> Decision {
        Decision::Retry {
            after,
            draws_budget,
        }
    }

    const STOP: Decision = Decision::Stop { retry_after: None };

    #[test]
    fn what_was_refused_before_any_work_is_retried() {
        let backoff = RULES.backoff_min;
        let named = |code| after(status(code, Some(SECOND)), false);
        assert_eq!(named(429), retry(SECOND, false));
        assert_eq!(named(503), retry(SECOND, true));
        assert_eq!(after(status(429, None), false), retry(backoff, false));
        assert_eq!(after(status(503, None), false), retry(backoff, true));
        assert_eq!(after(AttemptEnd::NotWritten, false), retry(backoff, true));
    }

    #[test]
    fn what_may_have_taken_effect_is_retried_for_reads_only() {
        for end in [
            status(500, None),
            status(502, None),
            status(504, None),
            AttemptEnd::Lost,
            AttemptEnd::TimedOut,
        ] {
            assert_eq!(after(end, true), retry(RULES.backoff_min, true));
            assert_eq!(after(end, false), STOP);
        }
        for code in [200, 301, 400, 401, 404, 501] {
            assert_eq!(after(status(code, None), true), STOP);
        }
    }

    #[test]
    fn no_retry_past_the_wait_or_the_attempts_or_without_the_body() {
        let retry_after = Some(SECOND * 31);
        let stop = Decision::Stop { retry_after };
        assert_eq!(after(status(429, retry_after), true), stop);
        let base = Attempt {
            number: 3,
            reads: true,
            replayable: true,
            end: AttemptEnd::Lost,
            wait_left: SECOND * 9,
        };
        assert_eq!(decide(&RULES, &base, 0.0), retry(Duration::ZERO, true));
        let last = Attempt { number: 4, ..base };
        assert_eq!(decide(&RULES, &last, 0.0), STOP);
        let once = Attempt {
            replayable: false,
            ..base
        };
        assert_eq!(decide(&RULES, &once, 0.0), STOP);
    }

    #[test]
    fn reasons_have_the_names_that_dashboards_use() {
        assert_labels!(Reason: "throttled" "unavailable" "server_error" "not_written" "lost" "timeout");
    }

    #[test]
    fn a_budget_forgets_after_ten_seconds() {
        let mut budget = Budget::default();
        for _ in 0..4 {
            budget.request(SECOND);
        }
        let granted = (0..20).filter(|_| budget.try_retry(0.5, SECOND)).count();
        assert_eq!(granted, 12);
        assert!(!budget.try_retry(0.5, SECOND * 10));
        assert!(budget.try_retry(0.5, SECOND * 11));
    }

    proptest! {
        #[test]
        fn a_backoff_stays_under_its_ceiling(number in 0u32.., jitter in any::<f64>()) {
            let ceiling = RULES.backoff_min.saturating_mul(1u32.checked_shl(number.saturating_sub(1)).unwrap_or(u32::MAX));
            prop_assert!(backoff(&RULES, number, jitter) <= ceiling.min(RULES.backoff_max));
        }

        #[test]
        fn retries_stay_a_share_of_requests(
            ratio in 0.0f64..1.0,
            events in prop::collection::vec((any::<bool>(), 0u64..3), 0..300),
        ) {
            let mut budget = Budget::default();
            let (mut now, mut requests, mut retries) = (0u64, Vec::new(), Vec::new());
            for (is_request, step) in events {
                now += step;
                if is_request {
                    budget.request(Duration::from_secs(now));
                    requests.push(now);
                } else if budget.try_retry(ratio, Duration::from_secs(now)) {
                    retries.push(now);
                    let recent = |times: &[u64]| times.iter().filter(|&&at| at + 10 > now).count() as f64;
                    prop_assert!(recent(&retries) < 11.0 + ratio * recent(&requests));
                }
            }
        }
    }
}
