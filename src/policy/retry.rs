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
//!     in_group: true,
//!     end,
//!     wait_left: Duration::from_secs(30),
//! };
//! let retry_after = Some(Duration::from_secs(2));
//! let throttled = AttemptEnd::Status { status: StatusCode::TOO_MANY_REQUESTS, retry_after };
//! let again = Decision::Retry { after: Duration::from_secs(2), draws_budget: false };
//! assert_eq!(decide(&rules, &write(throttled), 0.5), again);
//! assert_eq!(decide(&rules, &write(AttemptEnd::Lost), 0.5), Decision::Stop { retry_after: None });
//! ```

use std::{collections::HashMap, hash::Hash, time::Duration};

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
    /// As `NotWritten`, for one of several attempts that waited for the same connection. One of them ended as `NotWritten`.
    AlsoNotWritten,
    /// Upstream said that it has not begun to process the request: it refused the stream, or its GOAWAY left it out.
    NotProcessed,
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
        /// See [`AttemptEnd::NotProcessed`].
        NotProcessed = "not_processed",
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
            AttemptEnd::NotWritten | AttemptEnd::AlsoNotWritten => Reason::NotWritten,
            AttemptEnd::NotProcessed => Reason::NotProcessed,
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
    /// Whether it takes the quota of a group. DevRev's retry-after then pauses its operation there, or the whole group.
    pub in_group: bool,
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
        // Refused before any work. A time pauses the group, whose ledger then limits these retries. Without a time, or without a
        // group, nothing else does.
        Reason::Throttled => (retry_after.is_none() || !attempt.in_group, retry_after),
        // Nothing took effect, so any operation may be sent again.
        Reason::Unavailable | Reason::NotWritten => (true, retry_after),
        // Usually the connection is about to end, and another one takes it at once. A server that goes on refusing is left alone.
        Reason::NotProcessed if attempt.number == 1 => (true, Some(Duration::ZERO)),
        Reason::NotProcessed => (true, None),
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

/// Bounds one caller's retries to a share of its requests of the last ten seconds, so that they cannot multiply the load on an
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

    /// Whether all that it has counted is forgotten by now.
    fn is_idle(&self, now: Duration) -> bool {
        self.latest.saturating_add(BUCKETS) <= now.as_secs()
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

/// The most callers whose budgets are kept, in about a megabyte. Configured callers are fewer; users of tokens, in mode
/// "validate", may be more.
pub const MAX_BUDGETS: usize = 4096;

/// A budget for each caller, so that the failures of one use none of another's retries.
///
/// All callers together may retry `ratio` times their requests, and ten times per caller, in ten seconds. A caller that was
/// forgotten starts with the free retries.
#[derive(Clone, Debug)]
pub struct Budgets<K> {
    by_caller: HashMap<K, Budget>,
    max: usize,
}

impl<K: Clone + Eq + Hash> Budgets<K> {
    /// Keeps the budgets of `max` callers; see [`MAX_BUDGETS`].
    pub fn new(max: usize) -> Self {
        Budgets {
            by_caller: HashMap::new(),
            max: max.max(1),
        }
    }

    /// Counts a request of this caller.
    pub fn request(&mut self, caller: &K, now: Duration) {
        self.of(caller, now).request(now);
    }

    /// Counts a retry if this caller's budget allows it; see [`Budget::try_retry`].
    pub fn try_retry(&mut self, caller: &K, ratio: f64, now: Duration) -> bool {
        self.of(caller, now).try_retry(ratio, now)
    }

    fn of(&mut self, caller: &K, now: Duration) -> &mut Budget {
        if self.by_caller.len() >= self.max && !self.by_caller.contains_key(caller) {
            self.forget_one(now);
        }
        self.by_caller.entry(caller.clone()).or_default()
    }

    /// Forgets the idle callers, or, if none is idle, the one without a request for longest.
    fn forget_one(&mut self, now: Duration) {
        self.by_caller.retain(|_, budget| !budget.is_idle(now));
        if self.by_caller.len() < self.max {
            return;
        }
        let oldest = self.by_caller.iter().min_by_key(|(_, b)| b.latest);
        if let Some(oldest) = oldest.map(|(caller, _)| caller.clone()) {
            self.by_caller.remove(&oldest);
        }
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
        decide(&RULES, &first(end, reads, true), 1.0)
    }

    fn first(end: AttemptEnd, reads: bool, in_group: bool) -> Attempt {
        Attempt {
            number: 1,
            reads,
            replayable: true,
            in_group,
            end,
            wait_left: SECOND * 30,
        }
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
        assert_eq!(after(status(429, None), false), retry(backoff, true));
        assert_eq!(after(status(503, None), false), retry(backoff, true));
        for end in [AttemptEnd::NotWritten, AttemptEnd::AlsoNotWritten] {
            assert_eq!(after(end, false), retry(backoff, true));
        }
    }

    #[test]
    fn what_was_not_processed_goes_again_at_once_and_then_with_pauses() {
        for reads in [false, true] {
            let first = first(AttemptEnd::NotProcessed, reads, true);
            assert_eq!(decide(&RULES, &first, 1.0), retry(Duration::ZERO, true));
            let second = Attempt { number: 2, ..first };
            assert_eq!(
                decide(&RULES, &second, 1.0),
                retry(RULES.backoff_min * 2, true)
            );
            let streamed = Attempt {
                replayable: false,
                ..first
            };
            assert_eq!(decide(&RULES, &streamed, 1.0), STOP);
        }
    }

    #[test]
    fn only_retries_that_a_group_holds_back_draw_nothing_on_the_budget() {
        for (code, time, in_group, draws) in [
            (429, Some(SECOND), true, false),
            (429, Some(SECOND), false, true),
            (429, None, true, true),
            (429, None, false, true),
            (503, Some(SECOND), true, true),
            (503, Some(SECOND), false, true),
        ] {
            let attempt = first(status(code, time), false, in_group);
            let after = time.unwrap_or(RULES.backoff_min);
            assert_eq!(decide(&RULES, &attempt, 1.0), retry(after, draws));
        }
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
            in_group: true,
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
        assert_labels!(Reason: "throttled" "unavailable" "server_error" "not_written" "not_processed" "lost" "timeout");
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

    #[test]
    fn a_callers_failures_leave_the_others_their_retries() {
        let mut budgets = Budgets::new(MAX_BUDGETS);
        (0..60).for_each(|_| budgets.request(&"a", SECOND));
        let of_a = (0..180).filter(|_| budgets.try_retry(&"a", 0.2, SECOND));
        assert_eq!(of_a.count(), 22);
        for _ in 0..8 {
            budgets.request(&"b", SECOND);
            assert!(budgets.try_retry(&"b", 0.2, SECOND));
        }
    }

    #[test]
    fn of_too_many_callers_the_idle_are_forgotten_first_and_then_the_oldest() {
        let mut budgets = Budgets::new(3);
        let spent = |budgets: &mut Budgets<_>, caller, now| {
            budgets.request(&caller, now);
            while budgets.try_retry(&caller, 0.0, now) {}
        };
        let remembered = |budgets: &Budgets<_>| {
            let mut names: Vec<_> = budgets.by_caller.keys().copied().collect();
            names.sort_unstable();
            names
        };
        for (n, caller) in ["a", "b", "c"].into_iter().enumerate() {
            spent(&mut budgets, caller, SECOND * (n as u32 + 1));
        }
        budgets.request(&"d", SECOND * 4);
        assert_eq!(remembered(&budgets), ["b", "c", "d"], "the oldest");
        assert!(!budgets.try_retry(&"b", 0.0, SECOND * 11));
        budgets.request(&"e", SECOND * 15);
        assert_eq!(remembered(&budgets), ["b", "e"], "the idle");
        assert!(budgets.try_retry(&"a", 0.0, SECOND * 15), "starts anew");
    }

    proptest! {
        #[test]
        fn a_caller_changes_nothing_for_another_and_the_sum_is_bounded(
            ratio in 0.0f64..1.0,
            max in 4usize..8,
            events in prop::collection::vec((0u8..4, any::<bool>(), 0u64..3), 0..300),
        ) {
            let mut together = Budgets::new(max);
            let mut alone: HashMap<u8, Budget> = HashMap::new();
            let (mut now, mut requests, mut retries) = (0u64, Vec::new(), Vec::new());
            for (caller, is_request, step) in events {
                now += step;
                let at = Duration::from_secs(now);
                let own = alone.entry(caller).or_default();
                if is_request {
                    own.request(at);
                    together.request(&caller, at);
                    requests.push(now);
                } else {
                    let allowed = own.try_retry(ratio, at);
                    prop_assert_eq!(together.try_retry(&caller, ratio, at), allowed);
                    retries.extend(allowed.then_some(now));
                }
                let recent = |times: &[u64]| times.iter().filter(|&&at| at + 10 > now).count() as f64;
                prop_assert!(recent(&retries) < 4.0 * 11.0 + ratio * recent(&requests));
            }
        }

        #[test]
        fn the_number_of_budgets_is_bounded(
            max in 1usize..8,
            events in prop::collection::vec((any::<u8>(), any::<bool>(), 0u64..5), 0..300),
        ) {
            let (mut budgets, mut now) = (Budgets::new(max), 0);
            for (caller, is_request, step) in events {
                now += step;
                let at = Duration::from_secs(now);
                if is_request {
                    budgets.request(&caller, at);
                } else {
                    budgets.try_retry(&caller, 0.2, at);
                }
                prop_assert!(budgets.by_caller.len() <= max);
            }
        }

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
