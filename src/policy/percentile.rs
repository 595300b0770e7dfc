//! How times are distributed: counts in buckets of fixed size, from which percentiles are read.

/// Bounds grow by the square root of two, so that a percentile is off by two fifths at most, and mostly by less than a fifth.
const PER_DOUBLING: f64 = 2.0;

/// Seconds. What is shorter counts as no time.
const SHORTEST: f64 = 0.001;

/// One for what is shorter, and 21 doublings: up to 35 minutes, above the longest wait that the configuration allows.
const BUCKETS: usize = 1 + 2 * 21;

/// A number of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times([u32; BUCKETS]);

impl Default for Times {
    fn default() -> Self {
        Times([0; BUCKETS])
    }
}

impl Times {
    pub fn add(&mut self, seconds: f64) {
        let count = &mut self.0[bucket(seconds)];
        *count = count.saturating_add(1);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Times) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.saturating_add(more);
        }
    }

    /// The time in seconds that this share of the times does not exceed; `None` if there are none. What is shorter than a millisecond
    /// is 0, and what is longer than the last bound is that bound.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let all: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        if all == 0 {
            return None;
        }
        let rank = (share.clamp(0.0, 1.0) * all as f64).max(1.0);
        let mut below = 0.0;
        for (place, count) in self.0.iter().enumerate() {
            let count = f64::from(*count);
            if count > 0.0 && below + count >= rank {
                return Some(within(place, (rank - below) / count));
            }
            below += count;
        }
        Some(lower_bound(BUCKETS - 1))
    }
}

fn bucket(seconds: f64) -> usize {
    if seconds < SHORTEST || seconds.is_nan() {
        return 0;
    }
    let place = 1.0 + (PER_DOUBLING * (seconds / SHORTEST).log2()).floor();
    (place as usize).min(BUCKETS - 1)
}

fn lower_bound(place: usize) -> f64 {
    SHORTEST * ((place as f64 - 1.0) / PER_DOUBLING).exp2()
}

/// The time at this share of a bucket, as if its times were spread evenly by their logarithm.
fn within(place: usize, share: f64) -> f64 {
    match place {
        0 => 0.0,
        _ if place == BUCKETS - 1 => lower_bound(place),
        _ => lower_bound(place) * (share / PER_DOUBLING).exp2(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(all: &[f64]) -> Times {
        let mut times = Times::default();
        all.iter().for_each(|seconds| times.add(*seconds));
        times
    }

    #[test]
    fn the_ends() {
        assert_eq!(Times::default().percentile(0.5), None);
        assert_eq!(times(&[0.0, 0.0004, f64::NAN]).percentile(1.0), Some(0.0));
        assert!(times(&[1e9]).percentile(0.5) > Some(1000.0));
        // Most do not wait at all.
        let mut most = vec![0.0; 95];
        most.extend([30.0; 5]);
        assert_eq!(times(&most).percentile(0.5), Some(0.0));
        assert_eq!(times(&most).percentile(0.95), Some(0.0));
        assert!(times(&most).percentile(0.99) > Some(20.0));
    }

    #[test]
    fn sums_are_as_if_all_had_been_counted_at_once() {
        let mut sum = times(&[0.01, 2.0]);
        sum.merge(&times(&[0.0, 700.0]));
        assert_eq!(sum, times(&[0.0, 0.01, 2.0, 700.0]));
    }

    proptest! {
        #[test]
        fn a_percentile_is_close_to_that_of_the_list(
            mut all in prop::collection::vec(0.001f64..2000.0, 1..200),
            share in 0.01f64..1.0,
        ) {
            let found = times(&all).percentile(share).unwrap();
            all.sort_by(f64::total_cmp);
            let rank = (share * all.len() as f64).max(1.0).ceil() as usize;
            let exact = all[rank - 1];
            prop_assert!(found >= exact / 1.42 && found <= exact * 1.42, "{found} for {exact}");
        }
    }
}
