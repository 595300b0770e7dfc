//! The ranges of the histograms: as far as callers may wait, in as few steps as tell something.

use prometheus_client::metrics::{family::Family, histogram::Histogram};

pub(super) type Timings<L> = Family<L, Histogram, fn() -> Histogram>;

/// Buckets from 5 ms to the 30 s that an attempt and a wait may take by default, and more for retries and for callers that wait ten minutes.
/// Most are between 50 ms and 1 s, where the time of an API call usually is.
pub(super) fn durations() -> Histogram {
    Histogram::new([
        0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
        120.0, 300.0, 600.0, 1200.0,
    ])
}

/// The same range in fewer steps, because each caller has them.
pub(super) fn durations_of_callers() -> Histogram {
    Histogram::new([
        0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0,
    ])
}

/// Requests wait for a window's reset or a `Retry-After`, up to `max_retry_after` (600 s), and some for two of them, so the buckets reach
/// from seconds to beyond that. More buckets below a second would only cost series.
pub(super) fn waits() -> Histogram {
    Histogram::new([
        0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0,
    ])
}

/// Buckets from half a millisecond, which an exchange with a register nearby takes, to the second that `shared.timeout` may be at most. Most
/// are below its default, 50 ms: there it shows early that the register becomes slow.
pub(in crate::telemetry) fn exchanges() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.25, 0.5, 1.0,
    ])
}

pub(super) fn timings<L: Clone + Eq + std::hash::Hash>(new: fn() -> Histogram) -> Timings<L> {
    Family::new_with_constructor(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A caller may wait for two windows of DevRev's, of five minutes, or for `retry.max_retry_after`, which is as long by default.
    #[test]
    fn they_reach_beyond_what_callers_wait() {
        for (histogram, beyond) in [
            (durations(), 1200.0),
            (durations_of_callers(), 1200.0),
            (waits(), 1800.0),
        ] {
            histogram.observe(601.0);
            histogram.observe(beyond);
            let mut registry = prometheus_client::registry::Registry::default();
            registry.register("h", "", histogram);
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String");
            let bucket = |bound: &str| {
                let of = format!("h_bucket{{le=\"{bound}\"}} ");
                let mut lines = text.lines();
                let count = lines.find_map(|line| line.strip_prefix(&of)?.parse::<u64>().ok());
                count.unwrap_or_else(|| panic!("{bound} in {text}"))
            };
            assert_eq!(bucket("600.0"), 0);
            assert_eq!(bucket(&format!("{beyond:.1}")), 2);
        }
    }
}
