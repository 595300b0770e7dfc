//! A duration in words, for people who read the log, an error or an explanation. A machine reads a number, with the unit in the field's name.
//!
//! ```
//! use std::time::Duration;
//! use revgate::policy::duration_words::duration_words;
//!
//! let left = Duration::from_secs_f64(251.998123);
//! assert_eq!(format!("the next in {}", duration_words(left)), "the next in 4 min 12 s");
//! ```

use std::{
    fmt::{self, Display},
    time::Duration,
};

/// Writes the duration with two units at most, rounded to the nearest: 250 ms, 4.2 s, 12 s, 4 min 12 s, 3 h 20 min, 2 d 4 h.
pub fn duration_words(duration: Duration) -> DurationWords {
    DurationWords(duration)
}

/// See [`duration_words`]. It allocates nothing until it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationWords(Duration);

/// Up to which duration something is written in multiples of a step, both in milliseconds. Rounding up may lead into the next row.
const STEPS: [(u128, u128); 5] = [
    (SECOND, 1),
    (10 * SECOND, SECOND / 10),
    (HOUR, SECOND),
    (DAY, MINUTE),
    (u128::MAX, HOUR),
];

const SECOND: u128 = 1000;
const MINUTE: u128 = 60 * SECOND;
const HOUR: u128 = 60 * MINUTE;
const DAY: u128 = 24 * HOUR;

impl Display for DurationWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let rounded = |step: u128| (nanos + step * 500_000) / (step * 1_000_000) * step;
        // The first row into which the rounded duration fits, so that 59.96 s is a minute and 999.7 ms a second.
        let fits = STEPS
            .iter()
            .find(|(end, step)| rounded(*step) < *end)
            .copied();
        let (_, step) = fits.unwrap_or(STEPS[4]);
        let (larger, smaller) = match rounded(step) {
            0 if nanos == 0 => return f.write_str("0 s"),
            0 => return f.write_str("less than 1 ms"),
            ms if ms < SECOND => return write!(f, "{ms} ms"),
            ms if ms < 10 * SECOND && !ms.is_multiple_of(SECOND) => {
                return write!(f, "{}.{} s", ms / SECOND, ms % SECOND / 100);
            }
            ms if ms < MINUTE => return write!(f, "{} s", ms / SECOND),
            ms if ms < HOUR => ((ms / MINUTE, "min"), (ms % MINUTE / SECOND, "s")),
            ms if ms < DAY => ((ms / HOUR, "h"), (ms % HOUR / MINUTE, "min")),
            ms => ((ms / DAY, "d"), (ms % DAY / HOUR, "h")),
        };
        write!(f, "{} {}", larger.0, larger.1)?;
        match smaller.0 {
            0 => Ok(()),
            count => write!(f, " {count} {}", smaller.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_rounded_for_people() {
        for (seconds, words) in [
            (0.0, "0 s"),
            (0.000_4, "less than 1 ms"),
            (0.000_6, "1 ms"),
            (0.25, "250 ms"),
            (0.999_4, "999 ms"),
            (0.999_6, "1 s"),
            (1.0, "1 s"),
            (1.04, "1 s"),
            (4.25, "4.3 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (41.6, "42 s"),
            (59.4, "59 s"),
            (59.6, "1 min"),
            (60.0, "1 min"),
            (251.998_123, "4 min 12 s"),
            (3_599.4, "59 min 59 s"),
            (3_599.6, "1 h"),
            (12_000.0, "3 h 20 min"),
            (86_399.0, "1 d"),
            (187_200.0, "2 d 4 h"),
            (259_200.0, "3 d"),
        ] {
            let duration = Duration::from_secs_f64(seconds);
            assert_eq!(duration_words(duration).to_string(), words, "{seconds}");
        }
        let longest = duration_words(Duration::MAX).to_string();
        assert!(
            longest.ends_with(" h") && longest.contains(" d "),
            "{longest}"
        );
    }

    /// The duration that the words name.
    fn named(words: &str) -> Duration {
        let words: Vec<&str> = words.split(' ').collect();
        let parts = words.chunks(2).map(|part| {
            let unit = match part[1] {
                "ms" => 0.001,
                "s" => 1.0,
                "min" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                other => panic!("no unit: {other}"),
            };
            part[0].parse::<f64>().unwrap() * unit
        });
        Duration::from_secs_f64(parts.sum())
    }

    proptest! {
        #[test]
        fn words_are_near_the_duration_and_short(nanos in prop_oneof![
            500_000u64..1_000_000_000, 500_000u64..100_000_000_000, 500_000u64..10_000_000_000_000, 500_000u64..1 << 60,
        ]) {
            let duration = Duration::from_nanos(nanos);
            let words = duration_words(duration).to_string();
            prop_assert!(words.len() <= 12, "{words}");
            let off = named(&words).abs_diff(duration);
            // Half of a step, which is a twenty-fourth of what it is used for at most.
            prop_assert!(off <= duration / 20 + Duration::from_micros(501), "{words} for {duration:?}");
        }
    }
}
