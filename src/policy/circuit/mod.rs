//! When an upstream that fails gets no more attempts, and when it gets one again.
//!
//! While the circuit is closed, every attempt passes. Consecutive failures open it. While it is open, no attempt passes. After
//! that, one attempt passes, the probe. Its result closes the circuit or opens it again.
//!
//! ```
//! use std::time::Duration;
//! use revgate::policy::circuit::{Change, Circuit, CircuitRules, Evidence};
//!
//! let second = Duration::from_secs;
//! let rules = CircuitRules { failures: 2, within: second(10), open: second(5) };
//! let mut circuit = Circuit::default();
//! for _ in 0..2 {
//!     let pass = circuit.try_pass(&rules, second(1)).expect("closed");
//!     circuit.settle(pass, Evidence::Failure, &rules, second(1));
//! }
//! assert_eq!(circuit.try_pass(&rules, second(2)).err(), Some(second(4)), "open for four seconds more");
//!
//! let probe = circuit.try_pass(&rules, second(6)).expect("the probe");
//! assert!(circuit.try_pass(&rules, second(6)).is_err(), "one at a time");
//! let change = circuit.settle(probe, Evidence::Success, &rules, second(6));
//! assert_eq!(change, Some(Change::Closed));
//! ```

use std::{collections::VecDeque, time::Duration};

use http::StatusCode;

use super::retry::AttemptEnd;
use crate::label::label_enum;

/// The operator's settings of the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitRules {
    /// Consecutive failures that open the circuit; 0 counts as 1.
    pub failures: usize,
    /// The period within which those failures must occur.
    pub within: Duration,
    /// How long the circuit stays open before it lets a probe pass, and how long a probe without an answer blocks the next one.
    pub open: Duration,
}

impl CircuitRules {
    fn failures(&self) -> usize {
        self.failures.max(1)
    }

    fn is_recent(&self, at: Duration, now: Duration) -> bool {
        now.saturating_sub(at) <= self.within
    }
}

/// What the end of an attempt says about upstream's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Upstream works.
    Success,
    /// Upstream fails.
    Failure,
    /// Says nothing about it.
    Neutral,
}

/// Classifies the end of an attempt; `None` means that revgate itself refused or ended it.
///
/// Failures are transient: 500, 502, 503, 504, no connection, a lost connection, a timeout. A 503 with a retry-after is
/// neutral: it pauses the quota group for that time, and a circuit that opened as well would shorten or extend the
/// pause. Every other answer, including 429 and 404, shows that upstream works. revgate's own errors and a broken body
/// from the client say nothing about upstream.
pub fn evidence(end: Option<AttemptEnd>) -> Evidence {
    match end {
        None => Evidence::Neutral,
        Some(AttemptEnd::NotWritten | AttemptEnd::Lost | AttemptEnd::TimedOut) => Evidence::Failure,
        Some(AttemptEnd::Status {
            status,
            retry_after,
        }) => match status {
            StatusCode::SERVICE_UNAVAILABLE if retry_after.is_some() => Evidence::Neutral,
            StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Evidence::Failure,
            _ => Evidence::Success,
        },
    }
}

/// Permission for one attempt. [`Circuit::settle`] or [`Circuit::abandon`] takes it back.
#[derive(Debug)]
#[must_use = "a probe that is never given back blocks the next one for a while"]
pub struct Pass {
    /// The generation of the circuit that issued it.
    generation: u64,
    /// The number of the probe, if this attempt is one.
    probe: Option<u64>,
}

/// A change of state, for the log and the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was closed and is open now.
    Opened,
    /// A probe succeeded, so it is closed now.
    Closed,
}

label_enum! {
    /// The state of a circuit.
    pub enum Status {
        Closed = "closed",
        Open = "open",
        /// A probe may pass, or is in flight.
        HalfOpen = "half_open",
    }
}

/// A snapshot for the admin listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub state: Status,
    /// Consecutive failures so far; in any other state than closed, the number that opened it.
    pub failures: usize,
    /// Time until a probe may pass; `None` while closed.
    pub next_probe: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Closed,
    Open {
        until: Duration,
    },
    HalfOpen {
        probe: Option<Probe>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    number: u64,
    /// From then on this probe no longer blocks the next one.
    until: Duration,
}

/// The circuit of one upstream, initially closed. Every `now` is the time since the same fixed instant. The rules belong to
/// the configuration and are passed with each call; the circuit keeps only what it has learnt.
#[derive(Debug, Default)]
pub struct Circuit {
    state: State,
    /// Times of the consecutive failures, oldest first; never more than open the circuit.
    consecutive_failures: VecDeque<Duration>,
    /// Incremented whenever the circuit opens or closes, so that results from before are recognised.
    generation: u64,
    probes: u64,
    latest: Duration,
}

impl Circuit {
    /// A pass for one attempt, if it may be sent now.
    ///
    /// # Errors
    /// The time until the next probe may pass, always above zero.
    pub fn try_pass(&mut self, rules: &CircuitRules, now: Duration) -> Result<Pass, Duration> {
        let now = self.at(now);
        let blocked_until = match self.state {
            State::Closed => {
                return Ok(Pass {
                    generation: self.generation,
                    probe: None,
                });
            }
            State::Open { until } => until,
            State::HalfOpen { probe } => probe.map_or(now, |probe| probe.until),
        };
        if now < blocked_until {
            return Err(blocked_until - now);
        }
        self.probes = self.probes.wrapping_add(1);
        let probe = Probe {
            number: self.probes,
            until: now.saturating_add(rules.open),
        };
        self.state = State::HalfOpen { probe: Some(probe) };
        Ok(Pass {
            generation: self.generation,
            probe: Some(probe.number),
        })
    }

    /// Records how an attempt ended. Returns the change of state, if any; a failed probe keeps the circuit open and
    /// so changes nothing.
    pub fn settle(
        &mut self,
        pass: Pass,
        evidence: Evidence,
        rules: &CircuitRules,
        now: Duration,
    ) -> Option<Change> {
        let now = self.at(now);
        if pass.generation != self.generation {
            // A late success while closed still resets the count. Any other late result is about a generation that is over.
            if evidence == Evidence::Success && matches!(self.state, State::Closed) {
                self.consecutive_failures.clear();
            }
            return None;
        }
        match (self.state, evidence) {
            (_, Evidence::Neutral) => {
                self.abandon(pass);
                None
            }
            (State::Closed, Evidence::Success) => {
                self.consecutive_failures.clear();
                None
            }
            (State::Closed, Evidence::Failure) => self.record_failure(rules, now),
            // A probe that was superseded because it was slow counts too. If only the latest counted, an upstream that
            // takes longer than `open` to answer would never close the circuit.
            (_, Evidence::Success) => {
                self.consecutive_failures.clear();
                self.enter(State::Closed);
                Some(Change::Closed)
            }
            (_, Evidence::Failure) => {
                // Failures count from the latest probe only: otherwise each late failure would postpone the next probe.
                if self.is_current_probe(&pass) {
                    self.open(rules, now);
                }
                None
            }
        }
    }

    /// Takes back the pass of an attempt that ended without evidence. If it was the probe, the next attempt probes.
    pub fn abandon(&mut self, pass: Pass) {
        if pass.generation == self.generation && self.is_current_probe(&pass) {
            self.state = State::HalfOpen { probe: None };
        }
    }

    /// A snapshot for the admin listener.
    pub fn view(&self, rules: &CircuitRules, now: Duration) -> View {
        let now = self.latest.max(now);
        let (state, next_probe) = match self.state {
            State::Closed => (Status::Closed, None),
            State::Open { until } if now < until => (Status::Open, Some(until - now)),
            State::Open { .. } | State::HalfOpen { probe: None } => {
                (Status::HalfOpen, Some(Duration::ZERO))
            }
            State::HalfOpen { probe: Some(probe) } => {
                (Status::HalfOpen, Some(probe.until.saturating_sub(now)))
            }
        };
        let failures = match self.state {
            State::Closed => self
                .consecutive_failures
                .iter()
                .filter(|at| rules.is_recent(**at, now))
                .count(),
            _ => rules.failures(),
        };
        View {
            state,
            failures,
            next_probe,
        }
    }

    fn record_failure(&mut self, rules: &CircuitRules, now: Duration) -> Option<Change> {
        while self
            .consecutive_failures
            .front()
            .is_some_and(|at| !rules.is_recent(*at, now))
        {
            self.consecutive_failures.pop_front();
        }
        self.consecutive_failures.push_back(now);
        if self.consecutive_failures.len() < rules.failures() {
            return None;
        }
        self.consecutive_failures.clear();
        self.open(rules, now);
        Some(Change::Opened)
    }

    fn open(&mut self, rules: &CircuitRules, now: Duration) {
        self.enter(State::Open {
            until: now.saturating_add(rules.open),
        });
    }

    fn enter(&mut self, state: State) {
        self.generation = self.generation.wrapping_add(1);
        self.state = state;
    }

    /// Whether this pass belongs to the probe that blocks the next one.
    fn is_current_probe(&self, pass: &Pass) -> bool {
        matches!(self.state, State::HalfOpen { probe: Some(probe) } if pass.probe == Some(probe.number))
    }

    /// Time never runs backwards here; otherwise an open circuit would stay open longer than `try_pass` announced.
    fn at(&mut self, now: Duration) -> Duration {
        self.latest = self.latest.max(now);
        self.latest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        Evidence::{Failure, Neutral, Success},
        *,
    };
    use crate::label::assert_labels;

    const SECOND: Duration = Duration::from_secs(1);
    const RULES: CircuitRules = CircuitRules {
        failures: 3,
        within: Duration::from_secs(10),
        open: Duration::from_secs(5),
    };

    fn at(seconds: u64) -> Duration {
        SECOND * u32::try_from(seconds).unwrap()
    }

    fn pass(circuit: &mut Circuit, seconds: u64) -> Pass {
        circuit.try_pass(&RULES, at(seconds)).expect("it passes")
    }

    fn refused(circuit: &mut Circuit, seconds: u64) -> Duration {
        circuit
            .try_pass(&RULES, at(seconds))
            .expect_err("it is refused")
    }

    fn settle(
        circuit: &mut Circuit,
        pass: Pass,
        evidence: Evidence,
        seconds: u64,
    ) -> Option<Change> {
        circuit.settle(pass, evidence, &RULES, at(seconds))
    }

    /// One attempt that starts and ends in the same second.
    fn attempt(circuit: &mut Circuit, evidence: Evidence, seconds: u64) -> Option<Change> {
        let pass = pass(circuit, seconds);
        settle(circuit, pass, evidence, seconds)
    }

    /// Opened at second 0.
    fn opened() -> Circuit {
        let mut circuit = Circuit::default();
        let changes = [(); 3].map(|()| attempt(&mut circuit, Failure, 0));
        assert_eq!(changes, [None, None, Some(Change::Opened)]);
        circuit
    }

    #[test]
    fn states_have_the_names_of_the_admin_json() {
        assert_labels!(Status: "closed" "open" "half_open");
    }

    #[test]
    fn evidence_of_each_end() {
        let status = |code, retry_after| {
            let status = StatusCode::from_u16(code).unwrap();
            evidence(Some(AttemptEnd::Status {
                status,
                retry_after,
            }))
        };
        for code in [500, 502, 503, 504] {
            assert_eq!(status(code, None), Failure, "{code}");
        }
        for code in [200, 204, 301, 400, 401, 404, 409, 429, 501, 505] {
            assert_eq!(status(code, None), Success, "{code}");
        }
        assert_eq!(status(503, Some(SECOND)), Neutral);
        assert_eq!(status(429, Some(SECOND)), Success);
        for end in [
            AttemptEnd::NotWritten,
            AttemptEnd::Lost,
            AttemptEnd::TimedOut,
        ] {
            assert_eq!(evidence(Some(end)), Failure, "{end:?}");
        }
        assert_eq!(evidence(None), Neutral);
    }

    #[test]
    fn only_consecutive_failures_within_the_period_open_it() {
        use super::Evidence::{Failure as F, Neutral as N, Success as S};
        // (second, evidence) …, and whether the last one opens the circuit.
        let table: [(&[(u64, Evidence)], bool); 8] = [
            (&[(0, F), (1, F), (2, F)], true),
            (&[(0, F), (1, F), (2, S), (3, F), (4, F)], false),
            (&[(0, F), (1, F), (2, S), (3, F), (4, F), (5, F)], true),
            (&[(0, F), (1, N), (2, F), (3, N), (4, F)], true),
            (&[(0, F), (9, F), (10, F)], true),
            (&[(0, F), (9, F), (11, F)], false),
            (&[(0, F), (9, F), (11, F), (12, F)], true),
            (&[(0, N), (0, N), (0, N), (0, N)], false),
        ];
        for (events, opens) in table {
            let mut circuit = Circuit::default();
            let mut change = None;
            for (seconds, evidence) in events {
                assert_eq!(change, None, "{events:?}");
                change = attempt(&mut circuit, *evidence, *seconds);
            }
            assert_eq!(change, opens.then_some(Change::Opened), "{events:?}");
        }
    }

    #[test]
    fn one_probe_passes_when_the_time_is_over_and_its_success_closes() {
        let mut circuit = opened();
        assert_eq!(refused(&mut circuit, 0), SECOND * 5);
        assert_eq!(refused(&mut circuit, 4), SECOND);
        let probe = pass(&mut circuit, 5);
        assert_eq!(refused(&mut circuit, 6), SECOND * 4);
        assert_eq!(
            settle(&mut circuit, probe, Success, 7),
            Some(Change::Closed)
        );
        let (one, other) = (pass(&mut circuit, 7), pass(&mut circuit, 7));
        assert_eq!(settle(&mut circuit, one, Failure, 7), None);
        assert_eq!(settle(&mut circuit, other, Failure, 7), None);
        assert_eq!(circuit.view(&RULES, at(7)).failures, 2, "counted anew");
    }

    #[test]
    fn after_it_closed_a_late_success_resets_the_count_and_a_late_failure_does_not_count() {
        let mut circuit = Circuit::default();
        let (late, later) = (pass(&mut circuit, 0), pass(&mut circuit, 0));
        for _ in 0..3 {
            let _ = attempt(&mut circuit, Failure, 0);
        }
        assert_eq!(attempt(&mut circuit, Success, 5), Some(Change::Closed));
        let _ = attempt(&mut circuit, Failure, 6);
        assert_eq!(settle(&mut circuit, late, Failure, 6), None);
        assert_eq!(circuit.view(&RULES, at(6)).failures, 1);
        assert_eq!(settle(&mut circuit, later, Success, 6), None);
        assert_eq!(circuit.view(&RULES, at(6)).failures, 0);
    }

    #[test]
    fn a_failed_probe_opens_it_for_the_whole_time_again_which_is_no_change() {
        let mut circuit = opened();
        let probe = pass(&mut circuit, 8);
        assert_eq!(settle(&mut circuit, probe, Failure, 9), None);
        assert_eq!(refused(&mut circuit, 9), SECOND * 5);
        let _probe = pass(&mut circuit, 14);
    }

    #[test]
    fn a_probe_without_evidence_lets_the_next_one_pass() {
        let mut circuit = opened();
        let probe = pass(&mut circuit, 5);
        circuit.abandon(probe);
        let probe = pass(&mut circuit, 5);
        assert_eq!(settle(&mut circuit, probe, Neutral, 5), None);
        let _probe = pass(&mut circuit, 5);
        assert_eq!(refused(&mut circuit, 5), SECOND * 5);
    }

    #[test]
    fn a_probe_without_an_answer_blocks_the_next_for_a_bounded_time() {
        let mut circuit = opened();
        let slow = pass(&mut circuit, 5);
        let slower = pass(&mut circuit, 10);
        let latest = pass(&mut circuit, 15);
        // The end of a superseded probe does not affect the current one.
        circuit.abandon(slow);
        assert_eq!(settle(&mut circuit, slower, Failure, 16), None);
        assert_eq!(refused(&mut circuit, 16), SECOND * 4);
        drop(latest);
        // The success of an upstream that is slower than `open` still counts.
        let slow = pass(&mut circuit, 20);
        let _latest = pass(&mut circuit, 25);
        assert_eq!(
            settle(&mut circuit, slow, Success, 26),
            Some(Change::Closed)
        );
    }

    #[test]
    fn results_from_before_it_opened_neither_close_nor_extend_it() {
        let mut circuit = Circuit::default();
        let mut before: Vec<Pass> = (0..5).map(|_| pass(&mut circuit, 0)).collect();
        for _ in 0..3 {
            let _ = attempt(&mut circuit, Failure, 0);
        }
        for evidence in [Success, Failure, Neutral] {
            let pass = before.pop().unwrap();
            assert_eq!(settle(&mut circuit, pass, evidence, 3), None);
            assert_eq!(refused(&mut circuit, 3), SECOND * 2);
        }
        let _probe = pass(&mut circuit, 5);
        for evidence in [Success, Failure] {
            let pass = before.pop().unwrap();
            assert_eq!(settle(&mut circuit, pass, evidence, 6), None);
            assert_eq!(refused(&mut circuit, 6), SECOND * 4, "the probe decides");
        }
    }

    #[test]
    fn a_view_shows_the_state_and_the_time() {
        let mut circuit = Circuit::default();
        let view = |circuit: &Circuit, seconds| {
            let view = circuit.view(&RULES, at(seconds));
            (view.state, view.failures, view.next_probe)
        };
        assert_eq!(view(&circuit, 0), (Status::Closed, 0, None));
        let _ = attempt(&mut circuit, Failure, 0);
        assert_eq!(view(&circuit, 10), (Status::Closed, 1, None));
        assert_eq!(
            view(&circuit, 11),
            (Status::Closed, 0, None),
            "too old to count"
        );
        let mut circuit = opened();
        assert_eq!(view(&circuit, 2), (Status::Open, 3, Some(SECOND * 3)));
        assert_eq!(
            view(&circuit, 5),
            (Status::HalfOpen, 3, Some(Duration::ZERO))
        );
        let probe = pass(&mut circuit, 6);
        assert_eq!(view(&circuit, 7), (Status::HalfOpen, 3, Some(SECOND * 4)));
        let _ = settle(&mut circuit, probe, Success, 7);
        assert_eq!(view(&circuit, 7), (Status::Closed, 0, None));
    }

    #[test]
    fn extreme_rules_and_clocks_do_not_panic() {
        let rules = CircuitRules {
            failures: 0,
            within: Duration::MAX,
            open: Duration::MAX,
        };
        let mut circuit = Circuit::default();
        let one = circuit.try_pass(&rules, Duration::MAX).expect("closed");
        assert_eq!(
            circuit.settle(one, Failure, &rules, Duration::ZERO),
            Some(Change::Opened)
        );
        let _probe = circuit
            .try_pass(&rules, Duration::ZERO)
            .expect("time has ended");
        assert_eq!(circuit.view(&rules, Duration::ZERO).state, Status::HalfOpen);
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Pass,
        /// Ends the attempt at this place in the list of those in flight.
        End(usize, Option<Evidence>),
        Step(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        let end = prop_oneof![
            4 => Just(Some(Failure)),
            1 => Just(Some(Success)),
            1 => Just(Some(Neutral)),
            1 => Just(None),
        ];
        prop_oneof![
            3 => Just(Event::Pass),
            3 => (any::<usize>(), end).prop_map(|(index, end)| Event::End(index, end)),
            1 => (0u64..4000).prop_map(Event::Step),
        ]
    }

    proptest! {
        #[test]
        fn holds_under_any_interleaving(
            failures in 1usize..5,
            within in 1u64..5000,
            open in 1u64..5000,
            events in prop::collection::vec(event(), 0..400),
        ) {
            let open = Duration::from_millis(open);
            let within = Duration::from_millis(within);
            let rules = CircuitRules { failures, within, open };
            let mut circuit = Circuit::default();
            let mut now = Duration::ZERO;
            let mut out: Vec<(u64, Pass)> = Vec::new();
            let mut serial = 0u64;
            // The model: the current probe and its start, and every failure since the last success.
            let mut probe: Option<(u64, Duration)> = None;
            let mut opened: Option<Duration> = None;
            let mut consecutive: Vec<Duration> = Vec::new();
            for event in events {
                match event {
                    Event::Step(millis) => now += Duration::from_millis(millis),
                    Event::Pass => {
                        let is_closed = circuit.view(&rules, now).state == Status::Closed;
                        match circuit.try_pass(&rules, now) {
                            Ok(pass) => {
                                serial += 1;
                                if !is_closed {
                                    let since = opened.expect("it opened");
                                    prop_assert!(now >= since + open, "a probe while it is open");
                                    if let Some((_, since)) = probe {
                                        prop_assert!(now >= since + open, "two probes");
                                    }
                                    probe = Some((serial, now));
                                }
                                out.push((serial, pass));
                            }
                            Err(left) => {
                                prop_assert!(!is_closed);
                                prop_assert!(!left.is_zero() && left <= open);
                                // Never stuck: a probe is in flight or the time is not over, and the announced time is exact.
                                let since = probe.map(|(_, since)| since).or(opened).expect("a reason");
                                prop_assert_eq!(now + left, since + open);
                            }
                        }
                    }
                    Event::End(index, end) if !out.is_empty() => {
                        let (number, pass) = out.swap_remove(index % out.len());
                        let was_closed = circuit.view(&rules, now).state == Status::Closed;
                        let change = match end {
                            Some(evidence) => circuit.settle(pass, evidence, &rules, now),
                            None => {
                                circuit.abandon(pass);
                                None
                            }
                        };
                        if was_closed {
                            match end {
                                Some(Success) => consecutive.clear(),
                                Some(Failure) => consecutive.push(now),
                                _ => {}
                            }
                        }
                        match change {
                            Some(Change::Opened) => {
                                prop_assert!(was_closed);
                                // The model also counts stale results, so its list may be longer, never shorter.
                                prop_assert!(consecutive.len() >= failures);
                                prop_assert!(now - consecutive[consecutive.len() - failures] <= within);
                                (opened, probe) = (Some(now), None);
                            }
                            Some(Change::Closed) => {
                                prop_assert!(!was_closed && end == Some(Success));
                                (opened, probe) = (None, None);
                                consecutive.clear();
                            }
                            None if probe.is_some_and(|(current, _)| current == number) => {
                                probe = None;
                                if end == Some(Failure) {
                                    opened = Some(now);
                                }
                            }
                            None => {}
                        }
                    }
                    Event::End(..) => {}
                }
                prop_assert!(circuit.consecutive_failures.len() <= failures);
                prop_assert_eq!(circuit.view(&rules, now).state == Status::Closed, opened.is_none());
                if opened.is_none() {
                    let pass = circuit.try_pass(&rules, now).expect("closed: everything passes");
                    circuit.abandon(pass);
                }
            }
            // Whatever happened before, after `open` it lets an attempt pass.
            prop_assert!(circuit.try_pass(&rules, now + open).is_ok());
        }
    }
}
