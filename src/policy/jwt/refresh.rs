//! When an issuer's keys are fetched: by their age, and when a token names one that is not known.

use std::time::Duration;

/// Between two fetches that tokens caused. A rotated key is taken up at once, and then whoever sends made-up names cannot
/// make the gateway ask more often than this.
const ASKED_AGAIN: Duration = Duration::from_secs(10);

/// After a fetch that failed: an issuer that comes back is noticed soon, and one small request is no load for it.
pub const FAILED_AGAIN: Duration = Duration::from_secs(10);

/// Without a `Cache-Control` that says otherwise. A key that was taken back verifies for so long.
const FRESH: Duration = Duration::from_secs(5 * 60);

/// Whatever it says: neither hammered, nor believed for a day.
const FRESH_WITHIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60 * 60));

/// How long an answer with this `Cache-Control` is good (RFC 9111 section 5.2.2).
pub fn freshness(cache_control: Option<&str>) -> Duration {
    let (least, most) = FRESH_WITHIN;
    let mut fresh = FRESH;
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

/// Whether a fetch is under way, and when the next may be. One for all workers.
#[derive(Debug)]
pub struct Plan {
    flying: bool,
    due: Duration,
    asked: Option<Duration>,
}

/// What becomes of a wish for other keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Have them fetched, and wait.
    Fetch,
    /// Somebody had it done already; wait too.
    Join,
    /// Not again so soon.
    Refused,
}

impl Plan {
    /// With the first fetch under way.
    pub fn new() -> Plan {
        Plan {
            flying: true,
            due: Duration::ZERO,
            asked: None,
        }
    }

    /// A token needs keys that are not there.
    pub fn ask(&mut self, now: Duration) -> Asked {
        if self.flying {
            return Asked::Join;
        }
        if self.asked.is_some_and(|asked| now < asked + ASKED_AGAIN) {
            return Asked::Refused;
        }
        self.asked = Some(now);
        self.flying = true;
        Asked::Fetch
    }

    /// The time of [`Plan::due`] has come.
    pub fn begin(&mut self) {
        self.flying = true;
    }

    pub fn is_flying(&self) -> bool {
        self.flying
    }

    /// A fetch has ended; what it brought is good for `fresh`.
    pub fn end(&mut self, now: Duration, fresh: Duration) {
        self.flying = false;
        self.due = now + fresh;
    }

    /// When to fetch unasked.
    pub fn due(&self) -> Duration {
        self.due
    }
}

impl Default for Plan {
    fn default() -> Self {
        Plan::new()
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
        let mut plan = Plan::new();
        assert_eq!(plan.ask(secs(0)), Asked::Join);
        plan.end(secs(1), secs(300));
        assert_eq!(plan.due(), secs(301));
        // The first after a fetch by age goes at once, for a key may just have been rotated.
        assert_eq!(plan.ask(secs(2)), Asked::Fetch);
        assert_eq!(plan.ask(secs(2)), Asked::Join);
        plan.end(secs(3), secs(300));
        assert_eq!(plan.ask(secs(3)), Asked::Refused);
        assert_eq!(plan.ask(secs(11)), Asked::Refused);
        assert_eq!(plan.ask(secs(12)), Asked::Fetch);
        plan.end(secs(40), FAILED_AGAIN);
        assert_eq!(plan.due(), secs(50));
        plan.begin();
        assert_eq!(plan.ask(secs(50)), Asked::Join);
    }
}
