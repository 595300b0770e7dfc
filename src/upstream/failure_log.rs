//! Logs why DevRev cannot be reached, without a line for each attempt.

use std::time::Duration;

use tokio::time::Instant;

use crate::lock::Lock;

/// Between two lines at least. Soon enough to see that something else has gone wrong.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct FailureLog(Lock<Failures>);

#[derive(Default)]
struct Failures {
    last_line: Option<Instant>,
    /// Since then.
    unwritten: u64,
}

impl FailureLog {
    /// Writes the line, or counts it for the next one.
    pub(super) fn report(&self, error: &str) {
        if let Some(before) = self.pass() {
            tracing::warn!(error, before, "DevRev cannot be reached");
        }
    }

    /// How many failures had no line since the last one; `None` if this one has none either.
    fn pass(&self) -> Option<u64> {
        let now = Instant::now();
        let mut failures = self.0.lock();
        if failures.last_line.is_some_and(|last| now < last + PAUSE) {
            failures.unwritten += 1;
            return None;
        }
        failures.last_line = Some(now);
        Some(std::mem::take(&mut failures.unwritten))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_in_ten_seconds_counts_the_failures_before_it() {
        let log = FailureLog::default();
        for (after, want) in [
            (0, Some(0)),
            (0, None),
            (9, None),
            (1, Some(2)),
            (5, None),
            (60, Some(1)),
        ] {
            advance(Duration::from_secs(after)).await;
            assert_eq!(log.pass(), want, "after {after} s more");
        }
    }
}
