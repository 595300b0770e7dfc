//! What the log tells of a group: when DevRev throttles it or pauses an operation in it, and when it goes on.

use std::{sync::Arc, time::Duration};

use super::group::{Group, GroupState};
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

impl Group {
    /// Notes an answer after the ledger. The lines are for [`Group::write`], when the lock is released.
    pub(super) fn note(&self, answer: &Answer, state: &mut GroupState, now: Duration) -> Vec<Line> {
        let (ledger, waiting) = (&state.ledger, state.queue.len());
        let passes = || passes(&self.lines, &self.name);
        state.story.note(answer, (ledger, waiting), passes, now)
    }

    pub(super) fn write(&self, lines: &[Line]) {
        lines.iter().for_each(|line| line.write(&self.name));
    }
}

/// Whether the lines of another pause of this group are written.
fn passes(lines: &ClientLines, group: &Arc<str>) -> bool {
    lines.try_pass_state(StateLine::Pause(group.clone()))
}

pub(super) fn log_resumed_by_hand(group: &str) {
    tracing::info!(
        event = Event::QuotaResumedByHand.label(),
        group,
        "an operator ended the pauses of the group {group}; what was known of its window is forgotten, and the next call is a probe"
    );
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
                "DevRev accepts calls of the group {group} again, after {}; it refused {signs}",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::{
            fair::Standing,
            feedback::{Admitted, Feedback},
            ledger::{AttemptKind, LedgerRules, Payload, Settlement},
            operation::Operation,
        },
        telemetry::captured::Captured,
    };

    const RULES: LedgerRules = LedgerRules {
        spread_above: 0.5,
        reserve: 0.0,
        max_retry_after: Duration::from_secs(600),
    };

    #[derive(Default)]
    struct Told {
        ledger: Ledger,
        story: Story,
        lines: Arc<ClientLines>,
    }

    impl Told {
        /// An attempt at this second that is answered with this status and time.
        fn answer(&mut self, at: u64, path: &str, (status, time): (u16, Option<u64>)) {
            let now = Duration::from_secs(at);
            let operation = Operation::from_path(path).id();
            let payload = Payload::Whole;
            let standing = Standing::Interactive;
            let kind = AttemptKind {
                operation,
                payload,
                standing,
            };
            let grant = self.ledger.grant(kind, &RULES, now).expect("not held");
            let time = time.map(Duration::from_secs);
            let throttled = status == 429;
            let feedback = Feedback {
                retry_after: time,
                ..Feedback::default()
            };
            let admitted = if throttled {
                Admitted::No
            } else {
                Admitted::Yes
            };
            let settlement = Settlement::Answered { feedback, admitted };
            let answer = Answer {
                operation,
                throttled,
                time,
                paused: self.ledger.settle(grant, settlement, &RULES, now),
                again: false,
            };
            let (lines, group) = (self.lines.clone(), Arc::from("main"));
            let passes = || passes(&lines, &group);
            let lines = self.story.note(&answer, (&self.ledger, 3), passes, now);
            lines.iter().for_each(|line| line.write("main"));
        }
    }

    /// The events and texts of the lines that this causes.
    fn lines(run: impl FnOnce(&mut Told)) -> Vec<(String, String)> {
        let captured = Captured::default();
        tracing::subscriber::with_default(captured.subscriber(), || run(&mut Told::default()));
        let text = captured.text();
        let lines = text.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            (text("event"), text("message"))
        });
        lines.collect()
    }

    fn events(lines: &[(String, String)]) -> Vec<&str> {
        lines.iter().map(|(event, _)| &**event).collect()
    }

    #[tokio::test]
    async fn a_pause_is_told_by_its_beginning_and_its_end() {
        let told = lines(|told| {
            told.answer(0, "/works.list", (200, None));
            told.answer(1, "/works.list", (429, Some(30)));
            told.answer(31, "/works.list", (429, Some(60)));
            told.answer(253, "/works.get", (200, None));
            told.answer(254, "/works.get", (200, None));
        });
        assert_eq!(events(&told), ["quota_paused", "quota_resumed"]);
        assert!(
            told[0]
                .1
                .ends_with("429: the group main is paused for 30 s")
        );
        assert!(
            told[1].1.ends_with("again, after 4 min 12 s; it refused 2"),
            "{told:?}"
        );
    }

    #[tokio::test]
    async fn a_429_without_a_time_is_told_too() {
        let told = lines(|told| {
            told.answer(0, "/works.list", (429, None));
            told.answer(1, "/works.list", (429, None));
            told.answer(2, "/works.list", (200, None));
        });
        assert_eq!(events(&told), ["quota_throttled", "quota_resumed"]);
    }

    #[tokio::test]
    async fn the_pause_of_an_operation_is_told_by_its_beginning_and_its_end() {
        let told = lines(|told| {
            told.answer(0, "/works.list", (503, Some(5)));
            told.answer(1, "/works.get", (200, None));
            told.answer(6, "/works.list", (200, None));
        });
        assert_eq!(events(&told), ["operation_paused", "operation_resumed"]);
        assert!(told[1].1.ends_with("after 6 s"), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_that_come_and_go_are_summed_up() {
        let told = lines(|told| {
            for pause in 0..100 {
                told.answer(pause * 3, "/works.list", (429, Some(1)));
                told.answer(pause * 3 + 1, "/works.list", (200, None));
                // The ramp lets one attempt after another go.
            }
        });
        // What has a beginning has an end.
        assert_eq!(events(&told), ["quota_paused", "quota_resumed"].repeat(10));
    }
}
