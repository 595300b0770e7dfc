//! How high a chart is, so that one burst does not flatten the rest of it.

/// Fewer steps than this say nothing about what is usual.
const FEW: usize = 8;

/// A highest step of so many times what is usual is shown whole.
const WHOLE: u64 = 3;

/// The count at the top of a chart of these counts, at least 1. Usually the highest one; if a few steps stand far above the others, a
/// quarter more than what nineteen of twenty do not exceed, so that those few are cut. Steps without a count say nothing.
pub fn top(counts: impl IntoIterator<Item = u64>) -> u64 {
    let mut counts: Vec<u64> = counts.into_iter().filter(|count| *count > 0).collect();
    counts.sort_unstable();
    let highest = counts.last().copied().unwrap_or(0).max(1);
    if counts.len() < FEW {
        return highest;
    }
    let usual = counts[(counts.len() - 1) * 19 / 20];
    if highest <= usual.saturating_mul(WHOLE) {
        return highest;
    }
    usual.saturating_add(usual.div_ceil(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_burst_does_not_flatten_the_rest() {
        let steady = |n: usize, count: u64| vec![count; n];
        let with = |mut counts: Vec<u64>, more: &[u64]| {
            counts.extend(more);
            counts
        };
        for (counts, want) in [
            (vec![], 1),
            (vec![0, 0], 1),
            (vec![3], 3),
            (steady(180, 40), 40),
            // A wave is no burst.
            ((1..=100).collect(), 100),
            (with(steady(170, 40), &[110, 118]), 118),
            (with(steady(170, 40), &[2000]), 50),
            (with(steady(170, 40), &[2000, 1900, 1500]), 50),
            // Too little is known to call it a burst.
            (vec![1, 1, 1, 500], 500),
            // More than a few are usual.
            (with(steady(20, 1), &[900; 5]), 900),
            // An idle gateway says nothing.
            (with(steady(170, 0), &[5, 6, 7]), 7),
            (with(steady(30, u64::MAX / 2), &[u64::MAX]), u64::MAX),
        ] {
            assert_eq!(top(counts.clone()), want, "{counts:?}");
        }
    }
}
