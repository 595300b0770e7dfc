//! The circuits of the one upstream. All workers share them, so that the failures that one sees protect all.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::Clock;
use crate::{
    event::Event,
    lock::Lock,
    policy::{
        circuit::{
            Change, Circuit, CircuitRules, Evidence, Origin, Pass, Scope, Stopped, Subject, View,
            evidence,
        },
        duration_words::duration_words,
        operation::OperationLabel,
        retry::AttemptEnd,
    },
    telemetry::{
        client_lines::{ClientLines, StateLine},
        metrics::Metrics,
    },
};

/// `policy::circuit` behind a short lock, with a clock, metrics and a log.
pub struct UpstreamCircuit {
    clock: Clock,
    metrics: Arc<Metrics>,
    lines: Arc<ClientLines>,
    circuit: Lock<Circuit>,
    story: Lock<Story>,
}

/// What the log tells of the circuits.
#[derive(Default)]
struct Story {
    /// The latest failures.
    failures: VecDeque<(Duration, Origin, AttemptEnd)>,
    /// The circuits whose opening has a line, and when they opened.
    open: BTreeMap<Subject, Duration>,
}

/// So many failures are remembered to be named when a circuit opens: more than it takes.
const MAX_FAILURES: usize = 64;

/// So many open circuits get a line when they close: more than can have got one when they opened, but for a long time.
const MAX_OPEN: usize = 512;

impl UpstreamCircuit {
    /// Closed circuits.
    pub fn new(clock: Clock, metrics: Arc<Metrics>, lines: Arc<ClientLines>) -> Self {
        UpstreamCircuit {
            clock,
            metrics,
            lines,
            circuit: Lock::default(),
            story: Lock::default(),
        }
    }

    /// See [`Circuit::try_pass`].
    ///
    /// # Errors
    /// The time until the next probe may pass, always above zero.
    pub fn try_pass(
        &self,
        origin: &Origin,
        streams: bool,
        rules: &CircuitRules,
    ) -> Result<Pass, Duration> {
        let mut circuit = self.circuit.lock();
        circuit.try_pass(origin, streams, rules, self.clock.now())
    }

    /// Takes the end of an attempt as evidence; see [`evidence`] and [`Circuit::settle`].
    pub fn settle(&self, pass: Pass, end: Option<AttemptEnd>, sent: bool, rules: &CircuitRules) {
        let (evidence, now) = (evidence(end, sent), self.clock.now());
        if let Some(end) = end
            && !matches!(evidence, Evidence::Success | Evidence::Neutral)
        {
            self.story.lock().failed(now, pass.origin().clone(), end);
        }
        let changes = {
            let mut circuit = self.circuit.lock();
            let changes = circuit.settle(pass, evidence, rules, now);
            // Under the lock: otherwise two workers could write the gauge in the wrong order.
            for change in &changes {
                if change.subject.scope == Scope::Upstream {
                    self.metrics.circuit_open(change.opened);
                }
            }
            changes
        };
        for change in &changes {
            self.log(change, rules, now);
        }
    }

    fn log(&self, change: &Change, rules: &CircuitRules, now: Duration) {
        let Subject {
            scope,
            caller,
            operation,
        } = &change.subject;
        let what = change.subject.words();
        let caller = caller.as_deref();
        let operation = operation.map(OperationLabel::label);
        let mut story = self.story.lock();
        if !change.opened {
            let opened = story.open.remove(&change.subject);
            drop(story);
            if let Some(opened) = opened {
                let lasted = now.saturating_sub(opened);
                tracing::info!(
                    event = Event::CircuitClosed.label(),
                    scope = scope.label(),
                    caller,
                    operation,
                    after_seconds = lasted.as_secs_f64(),
                    "circuit closed for {what}, after {}",
                    duration_words(lasted)
                );
            }
            return;
        }
        if !self.lines.try_pass_state(StateLine::Circuit(*scope)) {
            return;
        }
        let errors = story.errors(&change.subject, rules, now);
        if story.open.len() < MAX_OPEN {
            story.open.insert(change.subject.clone(), now);
        }
        drop(story);
        tracing::warn!(
            event = Event::CircuitOpened.label(),
            scope = scope.label(),
            caller,
            operation,
            errors,
            next_probe_seconds = rules.open.as_secs_f64(),
            "circuit opened for {what}: {errors}; the next probe goes in {}",
            duration_words(rules.open)
        );
    }

    /// See [`Circuit::abandon`].
    pub fn abandon(&self, pass: Pass) {
        self.circuit.lock().abandon(pass);
    }

    /// See [`Circuit::view`].
    pub fn view(&self, rules: &CircuitRules) -> View {
        self.circuit.lock().view(rules, self.clock.now())
    }

    /// See [`Circuit::view_for`].
    pub fn view_for(&self, origin: &Origin, rules: &CircuitRules) -> View {
        let circuit = self.circuit.lock();
        circuit.view_for(origin, rules, self.clock.now())
    }

    /// See [`Circuit::stopped`].
    pub fn stopped(&self, rules: &CircuitRules) -> Vec<Stopped> {
        self.circuit.lock().stopped(rules, self.clock.now())
    }

    /// Sets the gauge of the circuits that stop less than everything. Called for each scrape, because a circuit that nobody asks is
    /// forgotten without an event.
    pub fn set_gauges(&self, rules: &CircuitRules) {
        let mut open: BTreeMap<_, i64> = BTreeMap::new();
        for Stopped { subject, .. } in self.stopped(rules) {
            *open.entry((subject.scope, subject.operation)).or_default() += 1;
        }
        self.metrics.circuits_partly_open(open);
    }
}

impl Story {
    fn failed(&mut self, now: Duration, origin: Origin, end: AttemptEnd) {
        if self.failures.len() == MAX_FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back((now, origin, end));
    }

    /// The failures that concern this circuit, the latest kind first, each with its number.
    fn errors(&self, subject: &Subject, rules: &CircuitRules, now: Duration) -> String {
        let mut counts: Vec<(String, usize)> = Vec::new();
        let latest = self.failures.iter().rev();
        let recent = latest.take_while(|(at, ..)| now.saturating_sub(*at) <= rules.within);
        for (_, _, end) in recent.filter(|(_, origin, _)| subject.concerns(origin)) {
            let name = name(*end);
            match counts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => counts.push((name, 1)),
            }
        }
        let words = counts.iter().map(|(name, count)| match count {
            1 => name.clone(),
            count => format!("{name} ({count} times)"),
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

/// What failed, for people.
fn name(end: AttemptEnd) -> String {
    match end {
        AttemptEnd::Status { status, .. } => return format!("status {}", status.as_u16()),
        AttemptEnd::NotWritten | AttemptEnd::AlsoNotWritten => "no connection",
        AttemptEnd::NotProcessed => "not processed",
        AttemptEnd::Lost => "connection lost",
        AttemptEnd::TimedOut => "no answer in time",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::{policy::operation::Operation, telemetry::captured::Captured};

    const RULES: CircuitRules = CircuitRules {
        failures: 3,
        within: Duration::from_secs(30),
        open: Duration::from_secs(5),
    };

    #[tokio::test(start_paused = true)]
    async fn a_circuit_names_the_errors_that_opened_it_and_how_long_it_was_open() {
        let captured = Captured::default();
        let _logging = tracing::subscriber::set_default(captured.subscriber());
        let circuit = UpstreamCircuit::new(Clock::start(), Arc::default(), Arc::default());
        let origin = |caller: &str| {
            let path = if caller == "a" {
                "/works.list"
            } else {
                "/works.get"
            };
            Origin::new(caller.into(), Some(&Operation::from_path(path)))
        };
        let end = |caller: &str, end: AttemptEnd| {
            let pass = circuit
                .try_pass(&origin(caller), false, &RULES)
                .expect("passes");
            circuit.settle(pass, Some(end), true, &RULES);
        };
        let status = |code| AttemptEnd::Status {
            status: StatusCode::from_u16(code).unwrap(),
            retry_after: None,
        };
        // Of another caller, so it does not concern the circuit that opens.
        end("b", status(504));
        end("b", status(200));
        end("a", status(502));
        end("a", status(502));
        end("a", AttemptEnd::TimedOut);
        tokio::time::advance(Duration::from_secs(252)).await;
        end("a", status(200));
        let text = captured.text();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|line: &serde_json::Value| line["scope"] == "use")
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["event"], "circuit_opened");
        assert_eq!(
            lines[0]["errors"],
            "no answer in time, status 502 (2 times)"
        );
        let message = lines[0]["message"].as_str().unwrap();
        assert!(message.ends_with("the next probe goes in 5 s"), "{message}");
        assert_eq!(lines[1]["event"], "circuit_closed");
        assert_eq!(
            lines[1]["message"],
            "circuit closed for calls of works.list by the caller a, after 4 min 12 s"
        );
        assert!(circuit.story.lock().open.is_empty());
    }
}
