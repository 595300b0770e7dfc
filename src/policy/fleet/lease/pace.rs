//! How fast a replica spends. Known soon after it has begun, so that it is not taken for a slow one at first.

use std::time::Duration;

use crate::policy::ledger::{SMOOTHING, SpendRate};

/// A replica that has begun is taken to have spent nothing for the rest of this time.
const SOONEST: Duration = Duration::from_secs(10);

/// Below this rate, in units a second, it begins anew.
const NOTHING: f64 = 0.01;

#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    average: SpendRate,
    began: Duration,
}

impl Pace {
    pub(super) fn add(&mut self, now: Duration) {
        if self.average.at(now) < NOTHING {
            self.began = now;
        }
        self.average.add(1, now);
    }

    /// In units a second. The average over a time that has not passed yet would be too low.
    pub(super) fn at(&self, now: Duration) -> f64 {
        let passed = now.saturating_sub(self.began).max(SOONEST);
        self.average.at(now) / (1.0 - (-passed.as_secs_f64() / SMOOTHING).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_known_after_ten_seconds() {
        let mut pace = Pace::default();
        let start = Duration::from_secs(1000);
        for n in 0..400_u32 {
            let now = start + Duration::from_millis(500) * n;
            pace.add(now);
            if n >= 20 {
                assert!((pace.at(now) - 2.0).abs() < 0.2, "{n}: {}", pace.at(now));
            }
        }
        // One request after a long time is no rate to speak of.
        let later = start + Duration::from_secs(3600);
        pace.add(later);
        assert!(pace.at(later) < 0.15);
    }
}
