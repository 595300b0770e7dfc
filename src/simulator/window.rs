//! The quota: a window of `limit` units for each user, or for each token that names no user.

use std::collections::HashMap;
use std::time::Duration;

/// Above this many windows, those that have ended are removed.
const CROWDED: usize = 1024;

/// The quota after one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    pub limit: u64,
    pub remaining: u64,
    /// The end of the window in epoch seconds, rounded up.
    pub reset: u64,
    /// Set when the request is over the limit: whole seconds, at least one.
    pub retry_after: Option<u64>,
}

#[derive(Debug)]
struct Window {
    end: Duration,
    used: u64,
}

#[derive(Debug)]
pub struct Windows {
    limit: u64,
    length: Duration,
    tokens: HashMap<Vec<u8>, Window>,
}

impl Windows {
    pub fn new(limit: u64, length: Duration) -> Self {
        Self {
            limit,
            length,
            tokens: HashMap::new(),
        }
    }

    /// Takes one unit, unless the window is used up. `now` is the time since the epoch.
    pub fn charge(&mut self, token: &[u8], now: Duration) -> Charge {
        if self.tokens.len() > CROWDED {
            self.tokens.retain(|_, window| window.end > now);
        }
        let window = self.tokens.entry(token.to_vec()).or_insert(Window {
            end: Duration::ZERO,
            used: 0,
        });
        if window.end <= now {
            *window = Window {
                end: now.saturating_add(self.length),
                used: 0,
            };
        }
        let retry_after = if window.used < self.limit {
            window.used += 1;
            None
        } else {
            Some(ceil(window.end.saturating_sub(now)).max(1))
        };
        Charge {
            limit: self.limit,
            remaining: self.limit - window.used,
            reset: ceil(window.end),
            retry_after,
        }
    }
}

fn ceil(time: Duration) -> u64 {
    time.as_secs()
        .saturating_add(u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_down_refuses_and_reopens() {
        let mut windows = Windows::new(2, Duration::from_secs(10));
        // token, now in ms, remaining, reset, retry_after
        let steps = [
            ("a", 100_500, 1, 111, None),
            ("a", 101_000, 0, 111, None),
            ("a", 101_000, 0, 111, Some(10)),
            ("b", 101_000, 1, 111, None),
            ("a", 110_499, 0, 111, Some(1)),
            ("a", 110_500, 1, 121, None),
            ("b", 110_999, 0, 111, None),
        ];
        for (token, now, remaining, reset, retry_after) in steps {
            let expected = Charge {
                limit: 2,
                remaining,
                reset,
                retry_after,
            };
            let charged = windows.charge(token.as_bytes(), Duration::from_millis(now));
            assert_eq!(charged, expected, "at {now} ms");
        }
    }
}
