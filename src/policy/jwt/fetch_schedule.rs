//! When an issuer's keys are fetched: when they expire, and when a token names an unknown one.

use std::time::Duration;

/// The time between two fetches that tokens cause. A rotated key is fetched at once, and made-up key ids cannot make the
/// gateway fetch more often than this.
const MIN_REQUEST_INTERVAL: Duration = Duration::from_secs(10);

/// The time from a failed fetch to the next. Short, because one small request is no load for an issuer that recovers.
pub const RETRY_AFTER_FAILURE: Duration = Duration::from_secs(10);

/// How long keys are fresh without a `Cache-Control` that says otherwise. A revoked key verifies for that long.
const DEFAULT_FRESHNESS: Duration = Duration::from_secs(5 * 60);

/// Bounds of what `Cache-Control` may say: the issuer isn't overloaded, and a revoked key does not verify for a day.
const FRESHNESS_BOUNDS: (Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(60 * 60));

/// How long an answer with this `Cache-Control` is fresh (RFC 9111 section 5.2.2).
pub fn freshness(cache_control: Option<&str>) -> Duration {
    let (least, most) = FRESHNESS_BOUNDS;
    let mut fresh = DEFAULT_FRESHNESS;
    for directive in cache_control.unwrap_or_default().split(',') {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return least,
            "max-age" => {
                let seconds = value.trim().trim_matches('"').parse().ok();
                fresh = seconds.map_or(fresh, Duration::from_secs);
            }
            _ => {}
        }
    }
    fresh.clamp(least, most)
}

/// When to fetch next, and whether a fetch is under way. One for all workers.
#[derive(Debug)]
pub struct FetchSchedule {
    in_flight: bool,
    due: Duration,
    last_request: Option<Duration>,
}

/// The answer to a request for newer keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchDecision {
    /// Start a fetch, and wait for it.
    Fetch,
    /// A fetch is under way: wait for it.
    Join,
    /// The last request is too recent: don't wait.
    TooSoon,
}

impl FetchSchedule {
    /// With the first fetch under way.
    pub fn new() -> FetchSchedule {
        FetchSchedule {
            in_flight: true,
            due: Duration::ZERO,
            last_request: None,
        }
    }

    /// A token names an unknown key.
    pub fn request(&mut self, now: Duration) -> FetchDecision {
        if self.in_flight {
            return FetchDecision::Join;
        }
        let recent = |last: Duration| now < last + MIN_REQUEST_INTERVAL;
        if self.last_request.is_some_and(recent) {
            return FetchDecision::TooSoon;
        }
        self.last_request = Some(now);
        self.in_flight = true;
        FetchDecision::Fetch
    }

    /// A fetch starts because [`FetchSchedule::due`] has passed.
    pub fn start(&mut self) {
        self.in_flight = true;
    }

    pub fn in_flight(&self) -> bool {
        self.in_flight
    }

    /// A fetch has ended. The next one is due after `fresh`.
    pub fn finish(&mut self, now: Duration, fresh: Duration) {
        self.in_flight = false;
        self.due = now + fresh;
    }

    /// When the next fetch starts without a request.
    pub fn due(&self) -> Duration {
        self.due
    }
}

impl Default for FetchSchedule {
    fn default() -> Self {
        FetchSchedule::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn freshness_is_bounded_whatever_the_issuer_says() {
        for (text, want) in [
            (None, 300),
            (Some(""), 300),
            (Some("public, max-age=600"), 600),
            (Some("Max-Age=\"600\""), 600),
            (Some("max-age=0"), 60),
            (Some("max-age=99999999999"), 3600),
            (Some("max-age=99999999999999999999999"), 300),
            (Some("max-age=-1"), 300),
            (Some("no-store"), 60),
            (Some("max-age=600, no-cache"), 60),
            (Some("s-maxage=5"), 300),
        ] {
            assert_eq!(freshness(text), secs(want), "{text:?}");
        }
    }

    #[test]
    fn one_fetch_at_a_time_and_not_too_often() {
        let mut schedule = FetchSchedule::new();
        assert_eq!(schedule.request(secs(0)), FetchDecision::Join);
        schedule.finish(secs(1), secs(300));
        assert_eq!(schedule.due(), secs(301));
        // The first request after a scheduled fetch starts one at once, because a key may just have been rotated.
        assert_eq!(schedule.request(secs(2)), FetchDecision::Fetch);
        assert_eq!(schedule.request(secs(2)), FetchDecision::Join);
        schedule.finish(secs(3), secs(300));
        assert_eq!(schedule.request(secs(3)), FetchDecision::TooSoon);
        assert_eq!(schedule.request(secs(11)), FetchDecision::TooSoon);
        assert_eq!(schedule.request(secs(12)), FetchDecision::Fetch);
        schedule.finish(secs(40), RETRY_AFTER_FAILURE);
        assert_eq!(schedule.due(), secs(50));
        schedule.start();
        assert_eq!(schedule.request(secs(50)), FetchDecision::Join);
    }
}
