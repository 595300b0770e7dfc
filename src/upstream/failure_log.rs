//! Logs that DevRev cannot be reached, why, and when it can be again, without a line for each attempt.

use tokio::time::Instant;

use crate::{
    event::Event,
    lock::Lock,
    policy::{
        duration_words::duration_words,
        trouble::{Sign, Trouble},
    },
};

/// Shared by all workers: that one of them can connect shows that DevRev can be reached.
pub(crate) struct FailureLog {
    start: Instant,
    trouble: Lock<Trouble>,
}

impl Default for FailureLog {
    fn default() -> Self {
        FailureLog {
            start: Instant::now(),
            trouble: Lock::default(),
        }
    }
}

impl FailureLog {
    /// No connection could be opened. Writes a line, or counts it for the next one.
    pub(super) fn failed(&self, error: &str) {
        let event = Event::UpstreamUnreachable.label();
        // Not under the lock: a line is formatted by the thread that writes it.
        let sign = self.trouble.lock().sign(self.start.elapsed());
        match sign {
            Some(Sign::Begins) => tracing::warn!(event, error, "DevRev cannot be reached"),
            Some(Sign::GoesOn { lasted, signs }) => tracing::warn!(
                event,
                error,
                failures = signs,
                since_seconds = lasted.as_secs_f64(),
                "DevRev still cannot be reached, since {}; failures: {signs}",
                duration_words(lasted)
            ),
            None => {}
        }
    }

    /// A connection has been opened.
    pub(super) fn succeeded(&self) {
        let over = self.trouble.lock().end(self.start.elapsed());
        if let Some(over) = over {
            tracing::info!(
                event = Event::UpstreamReachable.label(),
                after_seconds = over.lasted.as_secs_f64(),
                failures = over.signs,
                "DevRev can be reached again, after {}; failures: {}",
                duration_words(over.lasted),
                over.signs
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;
    use crate::telemetry::captured::Captured;

    #[tokio::test(start_paused = true)]
    async fn an_outage_has_a_beginning_some_lines_between_and_an_end() {
        let captured = Captured::default();
        let _logging = tracing::subscriber::set_default(captured.subscriber());
        let log = FailureLog::default();
        log.succeeded();
        for _ in 0..600 {
            log.failed("connection refused");
            advance(Duration::from_secs(1)).await;
        }
        log.succeeded();
        log.succeeded();
        let text = captured.text();
        let lines: Vec<_> = text.lines().collect();
        assert!((8..14).contains(&lines.len()), "{text}");
        assert!(lines[0].contains("DevRev cannot be reached"), "{text}");
        assert!(lines[3].contains("still cannot be reached"), "{text}");
        let last = lines.last().unwrap();
        assert!(
            last.contains("again, after 10 min; failures: 600"),
            "{text}"
        );
    }
}
