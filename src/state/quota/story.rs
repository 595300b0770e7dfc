//! What the log tells of a group: when DevRev throttles it or pauses an operation in it, and when it goes on.

use std::{sync::Arc, time::Duration};

use crate::{
    event::Event,
    policy::{
        duration_words::duration_words,
        ledger::{Ledger, Paused},
        operation::OperationId,
        trouble::{Over, Trouble},
    },
    telemetry::client_lines::{ClientLines, StateLine},
    wall_clock,
};

#[derive(Default)]
pub(super) struct Story {
    group: Chapter,
    /// The operation that is paused by itself.
    operation: Option<(OperationId, Chapter)>,
}

#[derive(Default)]
struct Chapter {
    trouble: Trouble,
    /// Whether its beginning has a line, so that its end gets one too.
    is_told: bool,
}

/// An answer that says something about the group.
pub(super) struct Answer {
    pub operation: OperationId,
    pub throttled: bool,
    /// How long it says to wait.
    pub time: Option<Duration>,
    /// What it has just paused.
    pub paused: Option<Paused>,
    /// Whether it has been noted already, before its body was read.
    pub again: bool,
}

/// A line of the log. Written when no lock is held.
pub(super) enum Line {
    /// `None` if the answer names no time, so that nothing is paused.
    Throttled(Option<Duration>, OperationId, bool),
    OperationPaused(Option<Duration>, OperationId),
    Resumed(Over, usize),
    OperationResumed(Over, OperationId),
}

impl Story {
    /// Notes an answer, after the ledger has. `waiting` requests wait.
    pub(super) fn note(
        &mut self,
        answer: &Answer,
        (ledger, waiting): (&Ledger, usize),
        passes: impl Fn() -> bool,
        now: Duration,
    ) -> Vec<Line> {
        let Answer {
            operation,
            throttled,
            time,
            paused,
            again,
        } = *answer;
        let mut lines = Vec::new();
        if throttled || paused == Some(Paused::Group) {
            if !(again && self.group.trouble.has_begun()) {
                let line = Line::Throttled(time, operation, throttled);
                lines.extend(self.group.sign(line, passes, now));
            }
        } else if !ledger.is_held_back() && time.is_none() {
            let over = self.group.end(now);
            lines.extend(over.map(|over| Line::Resumed(over, waiting)));
        }
        if paused == Some(Paused::Operation) {
            lines.extend(self.end_operation(Some(operation), now));
            let (_, chapter) = self
                .operation
                .get_or_insert_with(|| (operation, Chapter::default()));
            let line = Line::OperationPaused(time, operation);
            lines.extend(chapter.sign(line, || true, now));
        } else {
            lines.extend(self.end_operation(ledger.operation_held_back(), now));
        }
        lines
    }

    /// The pause of an operation is over, unless it is that of `held`.
    fn end_operation(&mut self, held: Option<OperationId>, now: Duration) -> Option<Line> {
        let (operation, mut chapter) = self.operation.take_if(|(id, _)| Some(*id) != held)?;
        let over = chapter.end(now)?;
        Some(Line::OperationResumed(over, operation))
    }
}

impl Chapter {
    fn sign(&mut self, line: Line, passes: impl Fn() -> bool, now: Duration) -> Option<Line> {
        let begins = !self.trouble.has_begun();
        self.trouble.sign(now);
        if begins {
            self.is_told = passes();
        }
        (begins && self.is_told).then_some(line)
    }

    fn end(&mut self, now: Duration) -> Option<Over> {
        self.trouble.end(now).filter(|_| self.is_told)
    }
}

/// Whether the lines of another pause of this group are written.
pub(super) fn passes(lines: &ClientLines, group: &Arc<str>) -> bool {
    lines.try_pass_state(StateLine::Pause(group.clone()))
}

impl Line {
    pub(super) fn write(&self, group: &str) {
        match *self {
            Line::Throttled(time, operation, throttled) => {
                let status = if throttled { 429 } else { 503 };
                let operation = operation.label().label();
                let Some(time) = time else {
                    tracing::warn!(
                        event = Event::QuotaThrottled.label(),
                        group,
                        operation,
                        status,
                        "DevRev answered {operation} with 429 and named no time; calls of the group {group} go on, that one after a pause"
                    );
                    return;
                };
                let until = wall_clock::text_in(time);
                tracing::warn!(
                    event = Event::QuotaPaused.label(),
                    group,
                    operation,
                    status,
                    pause_seconds = time.as_secs_f64(),
                    until,
                    "DevRev answered {operation} with {status}: the group {group} is paused for {}",
                    duration_words(time)
                );
            }
            Line::OperationPaused(time, operation) => {
                let (time, operation) = (time.unwrap_or_default(), operation.label().label());
                tracing::warn!(
                    event = Event::OperationPaused.label(),
                    group,
                    operation,
                    status = 503,
                    pause_seconds = time.as_secs_f64(),
                    until = wall_clock::text_in(time),
                    "DevRev answered {operation} with 503: calls of it by the group {group} are paused for {}",
                    duration_words(time)
                );
            }
            Line::Resumed(Over { lasted, signs }, waiting) => tracing::info!(
                event = Event::QuotaResumed.label(),
                group,
                after_seconds = lasted.as_secs_f64(),
                refusals = signs,
                waiting,
                "DevRev accepts calls of the group {group} again, after {} in which it refused {signs}",
                duration_words(lasted)
            ),
            Line::OperationResumed(Over { lasted, .. }, operation) => {
                let operation = operation.label().label();
                tracing::info!(
                    event = Event::OperationResumed.label(),
                    group,
                    operation,
                    after_seconds = lasted.as_secs_f64(),
                    "calls of {operation} by the group {group} are no longer paused, after {}",
                    duration_words(lasted)
                );
            }
        }
    }
}
