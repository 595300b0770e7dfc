//! When to stop asking an upstream that fails, and when to ask again.
//!
//! While the circuit is closed, every attempt passes. Failures in a row open it. Then nothing passes for a while, and after that one
//! attempt does, the probe. Its answer decides: closed, or open once more.
//!
//! ```
//! use std::time::Duration;
//! use revgate::policy::circuit::{Change, Circuit, Outcome, Rules};
//!
//! let second = Duration::from_secs;
//! let rules = Rules { failures: 2, within: second(10), open: second(5) };
//! let mut circuit = Circuit::default();
//! for _ in 0..2 {
//!     let pass = circuit.try_pass(&rules, second(1)).expect("closed");
//!     circuit.settle(pass, Outcome::Failure, &rules, second(1));
//! }
//! assert_eq!(circuit.try_pass(&rules, second(2)).err(), Some(second(4)), "open for four seconds more");
//!
//! let probe = circuit.try_pass(&rules, second(6)).expect("the probe");
//! assert!(circuit.try_pass(&rules, second(6)).is_err(), "one at a time");
//! let change = circuit.settle(probe, Outcome::Success, &rules, second(6));
//! assert_eq!(change, Some(Change::Closed));
//! ```

use std::{collections::VecDeque, time::Duration};

use http::StatusCode;

use super::retry;
use crate::label::label_enum;

/// What the operator allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Failures in a row that open the circuit; 0 is taken for 1.
    pub failures: usize,
    /// The time that those failures must lie in.
    pub within: Duration,
    /// How long it stays open until a probe goes, and how long a probe holds its place without an answer.
    pub open: Duration,
}

impl Rules {
    fn failures(&self) -> usize {
        self.failures.max(1)
    }

    fn counts(&self, at: Duration, now: Duration) -> bool {
        now.saturating_sub(at) <= self.within
    }
}

/// What the end of an attempt says of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is alive.
    Success,
    /// It fails.
    Failure,
    /// Nothing.
    Neutral,
}

/// Reads the end of an attempt; `None` where revgate itself refused or ended it.
///
/// A failure is what another moment would mend: 500, 502, 503, 504, no connection, a lost one, a timeout. A 503 that
/// names a time is an orderly refusal: the quota group keeps to it, and a circuit that opened as well would cut that
/// time short or draw it out. Every other answer, a 429 or 404 too, shows that upstream works. Errors of ours say
/// nothing of upstream, nor does the caller's broken body.
pub fn outcome(end: Option<retry::Outcome>) -> Outcome {
    match end {
        None => Outcome::Neutral,
        Some(retry::Outcome::NotWritten | retry::Outcome::Lost | retry::Outcome::TimedOut) => {
            Outcome::Failure
        }
        Some(retry::Outcome::Status {
            status,
            retry_after,
        }) => match status {
            StatusCode::SERVICE_UNAVAILABLE if retry_after.is_some() => Outcome::Neutral,
            StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Outcome::Failure,
            _ => Outcome::Success,
        },
    }
}

/// Leave for one attempt; given back by `settle` or `abandon`.
#[derive(Debug)]
#[must_use = "a probe that is never given back blocks the next one for a while"]
pub struct Pass {
    /// The turn in which it was given.
    turn: u64,
    /// The number of the probe, where it is one.
    probe: Option<u64>,
}

/// What a result changed, for whoever keeps a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was closed and is open.
    Opened,
    /// A probe succeeded.
    Closed,
}

label_enum! {
    /// Whether attempts pass.
    pub enum Status {
        Closed = "closed",
        Open = "open",
        /// A probe may go, or is out.
        HalfOpen = "half_open",
    }
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub state: Status,
    /// Failures in the present row; unless it is closed, those that opened it.
    pub failures: usize,
    /// Until a probe may go; `None` while closed.
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
    /// From then on it no longer blocks the next one.
    until: Duration,
}

/// One upstream's circuit, closed at first. `now` is always a time since any fixed instant. The rules come with each call:
/// they are the configuration's, and what is kept here is only what was learnt.
#[derive(Debug, Default)]
pub struct Circuit {
    state: State,
    /// When the failures of the present row came, oldest first; never more than it takes to open.
    row: VecDeque<Duration>,
    /// Grows each time that it opens or closes.
    turn: u64,
    probes: u64,
    latest: Duration,
}

impl Circuit {
    /// Leave for one attempt.
    ///
    /// # Errors
    /// The time until the next probe may go, above zero.
    pub fn try_pass(&mut self, rules: &Rules, now: Duration) -> Result<Pass, Duration> {
        let now = self.at(now);
        let blocked_until = match self.state {
            State::Closed => {
                return Ok(Pass {
                    turn: self.turn,
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
            turn: self.turn,
            probe: Some(probe.number),
        })
    }

    /// Takes in how an attempt ended. What the change is, if there is one: an open circuit that a failed probe keeps
    /// open has not changed.
    pub fn settle(
        &mut self,
        pass: Pass,
        outcome: Outcome,
        rules: &Rules,
        now: Duration,
    ) -> Option<Change> {
        let now = self.at(now);
        if pass.turn != self.turn {
            // Late as it is, a success while closed ends a row; anything else is about a past that was judged already.
            if outcome == Outcome::Success && matches!(self.state, State::Closed) {
                self.row.clear();
            }
            return None;
        }
        match (self.state, outcome) {
            (_, Outcome::Neutral) => {
                self.abandon(pass);
                None
            }
            (State::Closed, Outcome::Success) => {
                self.row.clear();
                None
            }
            (State::Closed, Outcome::Failure) => self.fail(rules, now),
            // Also the success of a probe that was too slow to hold its place: were only the latest one heard, an upstream
            // that takes longer than `open` to answer would be shut out for ever.
            (_, Outcome::Success) => {
                self.row.clear();
                self.turn_to(State::Closed);
                Some(Change::Closed)
            }
            (_, Outcome::Failure) => {
                // Of a slow one only the latest is heard: each late failure would put off the next probe again.
                if self.is_out(&pass) {
                    self.open(rules, now);
                }
                None
            }
        }
    }

    /// Takes back leave for an attempt that ended without saying anything of the upstream: the next attempt probes.
    pub fn abandon(&mut self, pass: Pass) {
        if pass.turn == self.turn && self.is_out(&pass) {
            self.state = State::HalfOpen { probe: None };
        }
    }

    /// How it stands now.
    pub fn view(&self, rules: &Rules, now: Duration) -> View {
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
            State::Closed => self.row.iter().filter(|at| rules.counts(**at, now)).count(),
            _ => rules.failures(),
        };
        View {
            state,
            failures,
            next_probe,
        }
    }

    fn fail(&mut self, rules: &Rules, now: Duration) -> Option<Change> {
        while self.row.front().is_some_and(|at| !rules.counts(*at, now)) {
            self.row.pop_front();
        }
        self.row.push_back(now);
        if self.row.len() < rules.failures() {
            return None;
        }
        self.row.clear();
        self.open(rules, now);
        Some(Change::Opened)
    }

    fn open(&mut self, rules: &Rules, now: Duration) {
        self.turn_to(State::Open {
            until: now.saturating_add(rules.open),
        });
    }

    fn turn_to(&mut self, state: State) {
        self.turn = self.turn.wrapping_add(1);
        self.state = state;
    }

    /// Whether this is the probe that holds the place.
    fn is_out(&self, pass: &Pass) -> bool {
        matches!(self.state, State::HalfOpen { probe: Some(probe) } if pass.probe == Some(probe.number))
    }

    /// A clock that steps back is held at the latest time, or an open circuit would stay open longer than it said.
    fn at(&mut self, now: Duration) -> Duration {
        self.latest = self.latest.max(now);
        self.latest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::label::assert_labels;

    const SECOND: Duration = Duration::from_secs(1);
    const RULES: Rules = Rules {
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

    /// One attempt, passed and ended in the same second.
    fn attempt(circuit: &mut Circuit, outcome: Outcome, seconds: u64) -> Option<Change> {
        let pass = pass(circuit, seconds);
        circuit.settle(pass, outcome, &RULES, at(seconds))
    }

    /// Opened at second 0.
    fn opened() -> Circuit {
        let mut circuit = Circuit::default();
        assert_eq!(attempt(&mut circuit, Outcome::Failure, 0), None);
        assert_eq!(attempt(&mut circuit, Outcome::Failure, 0), None);
        assert_eq!(
            attempt(&mut circuit, Outcome::Failure, 0),
            Some(Change::Opened)
        );
        circuit
    }

    #[test]
    fn states_are_called_as_the_admins_json_calls_them() {
        assert_labels!(Status: "closed" "open" "half_open");
    }

    #[test]
    fn what_counts() {
        let status = |code, retry_after| {
            let status = StatusCode::from_u16(code).unwrap();
            outcome(Some(retry::Outcome::Status {
                status,
                retry_after,
            }))
        };
        for code in [500, 502, 503, 504] {
            assert_eq!(status(code, None), Outcome::Failure, "{code}");
        }
        for code in [200, 204, 301, 400, 401, 404, 409, 429, 501, 505] {
            assert_eq!(status(code, None), Outcome::Success, "{code}");
        }
        assert_eq!(status(503, Some(SECOND)), Outcome::Neutral);
        assert_eq!(status(429, Some(SECOND)), Outcome::Success);
        for end in [
            retry::Outcome::NotWritten,
            retry::Outcome::Lost,
            retry::Outcome::TimedOut,
        ] {
            assert_eq!(outcome(Some(end)), Outcome::Failure, "{end:?}");
        }
        assert_eq!(outcome(None), Outcome::Neutral);
    }

    #[test]
    fn only_failures_in_a_row_and_within_the_time_open_it() {
        use Outcome::{Failure as F, Neutral as N, Success as S};
        // (second, outcome) …, and whether the last one opens it.
        let table: [(&[(u64, Outcome)], bool); 8] = [
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
            for (seconds, outcome) in events {
                assert_eq!(change, None, "{events:?}");
                change = attempt(&mut circuit, *outcome, *seconds);
            }
            assert_eq!(change, opens.then_some(Change::Opened), "{events:?}");
        }
    }

    #[test]
    fn one_probe_goes_when_the_time_is_over_and_its_success_closes() {
        let mut circuit = opened();
        assert_eq!(refused(&mut circuit, 0), SECOND * 5);
        assert_eq!(refused(&mut circuit, 4), SECOND);
        let probe = pass(&mut circuit, 5);
        assert_eq!(refused(&mut circuit, 6), SECOND * 4);
        assert_eq!(
            circuit.settle(probe, Outcome::Success, &RULES, at(7)),
            Some(Change::Closed)
        );
        let (one, other) = (pass(&mut circuit, 7), pass(&mut circuit, 7));
        assert_eq!(circuit.settle(one, Outcome::Failure, &RULES, at(7)), None);
        assert_eq!(circuit.settle(other, Outcome::Failure, &RULES, at(7)), None);
        assert_eq!(circuit.view(&RULES, at(7)).failures, 2, "a new row");
    }

    #[test]
    fn after_it_closed_a_late_success_ends_a_row_and_a_late_failure_does_not_count() {
        let mut circuit = Circuit::default();
        let (late, later) = (pass(&mut circuit, 0), pass(&mut circuit, 0));
        for _ in 0..3 {
            let _ = attempt(&mut circuit, Outcome::Failure, 0);
        }
        assert_eq!(
            attempt(&mut circuit, Outcome::Success, 5),
            Some(Change::Closed)
        );
        let _ = attempt(&mut circuit, Outcome::Failure, 6);
        assert_eq!(circuit.settle(late, Outcome::Failure, &RULES, at(6)), None);
        assert_eq!(circuit.view(&RULES, at(6)).failures, 1);
        assert_eq!(circuit.settle(later, Outcome::Success, &RULES, at(6)), None);
        assert_eq!(circuit.view(&RULES, at(6)).failures, 0);
    }

    #[test]
    fn a_failed_probe_opens_it_for_the_whole_time_again_which_is_no_change() {
        let mut circuit = opened();
        let probe = pass(&mut circuit, 8);
        assert_eq!(circuit.settle(probe, Outcome::Failure, &RULES, at(9)), None);
        assert_eq!(refused(&mut circuit, 9), SECOND * 5);
        let _probe = pass(&mut circuit, 14);
    }

    #[test]
    fn a_probe_that_says_nothing_gives_its_place_to_the_next() {
        let mut circuit = opened();
        let probe = pass(&mut circuit, 5);
        circuit.abandon(probe);
        let probe = pass(&mut circuit, 5);
        assert_eq!(circuit.settle(probe, Outcome::Neutral, &RULES, at(5)), None);
        let _probe = pass(&mut circuit, 5);
        assert_eq!(refused(&mut circuit, 5), SECOND * 5);
    }

    #[test]
    fn a_probe_without_an_answer_holds_its_place_for_a_bounded_time() {
        let mut circuit = opened();
        let slow = pass(&mut circuit, 5);
        let slower = pass(&mut circuit, 10);
        let latest = pass(&mut circuit, 15);
        // Neither end of a probe that lost its place touches the one that has it.
        circuit.abandon(slow);
        assert_eq!(
            circuit.settle(slower, Outcome::Failure, &RULES, at(16)),
            None
        );
        assert_eq!(refused(&mut circuit, 16), SECOND * 4);
        drop(latest);
        // An upstream that is slower than `open` is heard all the same.
        let slow = pass(&mut circuit, 20);
        let _latest = pass(&mut circuit, 25);
        assert_eq!(
            circuit.settle(slow, Outcome::Success, &RULES, at(26)),
            Some(Change::Closed)
        );
    }

    #[test]
    fn results_from_before_it_opened_neither_close_nor_extend_it() {
        let mut circuit = Circuit::default();
        let mut before: Vec<Pass> = (0..5).map(|_| pass(&mut circuit, 0)).collect();
        for _ in 0..3 {
            let _ = attempt(&mut circuit, Outcome::Failure, 0);
        }
        for outcome in [Outcome::Success, Outcome::Failure, Outcome::Neutral] {
            let pass = before.pop().unwrap();
            assert_eq!(circuit.settle(pass, outcome, &RULES, at(3)), None);
            assert_eq!(refused(&mut circuit, 3), SECOND * 2);
        }
        let _probe = pass(&mut circuit, 5);
        for outcome in [Outcome::Success, Outcome::Failure] {
            let pass = before.pop().unwrap();
            assert_eq!(circuit.settle(pass, outcome, &RULES, at(6)), None);
            assert_eq!(refused(&mut circuit, 6), SECOND * 4, "the probe decides");
        }
    }

    #[test]
    fn a_view_tells_the_state_and_the_time() {
        let mut circuit = Circuit::default();
        let view = |circuit: &Circuit, seconds| {
            let view = circuit.view(&RULES, at(seconds));
            (view.state, view.failures, view.next_probe)
        };
        assert_eq!(view(&circuit, 0), (Status::Closed, 0, None));
        let _ = attempt(&mut circuit, Outcome::Failure, 0);
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
        let _ = circuit.settle(probe, Outcome::Success, &RULES, at(7));
        assert_eq!(view(&circuit, 7), (Status::Closed, 0, None));
    }

    #[test]
    fn no_rule_and_no_clock_makes_it_panic() {
        let rules = Rules {
            failures: 0,
            within: Duration::MAX,
            open: Duration::MAX,
        };
        let mut circuit = Circuit::default();
        let one = circuit.try_pass(&rules, Duration::MAX).expect("closed");
        assert_eq!(
            circuit.settle(one, Outcome::Failure, &rules, Duration::ZERO),
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
        /// The attempt that has been out for this many places in the list.
        End(usize, Option<Outcome>),
        Step(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        use Outcome::{Failure, Neutral, Success};
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
            let rules = Rules { failures, within, open };
            let mut circuit = Circuit::default();
            let mut now = Duration::ZERO;
            let mut out: Vec<(u64, Pass)> = Vec::new();
            let mut serial = 0u64;
            // The model: the probe that has the place and since when, and every failure since the last success.
            let mut probe: Option<(u64, Duration)> = None;
            let mut opened: Option<Duration> = None;
            let mut row: Vec<Duration> = Vec::new();
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
                                // Never stuck: something is out, or the time is not over; and the time told is true.
                                let since = probe.map(|(_, since)| since).or(opened).expect("a reason");
                                prop_assert_eq!(now + left, since + open);
                            }
                        }
                    }
                    Event::End(index, end) if !out.is_empty() => {
                        let (number, pass) = out.swap_remove(index % out.len());
                        let was_closed = circuit.view(&rules, now).state == Status::Closed;
                        let change = match end {
                            Some(outcome) => circuit.settle(pass, outcome, &rules, now),
                            None => {
                                circuit.abandon(pass);
                                None
                            }
                        };
                        if was_closed {
                            match end {
                                Some(Outcome::Success) => row.clear(),
                                Some(Outcome::Failure) => row.push(now),
                                _ => {}
                            }
                        }
                        match change {
                            Some(Change::Opened) => {
                                prop_assert!(was_closed);
                                // The model's row may be longer, for it hears stale results too; never shorter.
                                prop_assert!(row.len() >= failures);
                                prop_assert!(now - row[row.len() - failures] <= within);
                                (opened, probe) = (Some(now), None);
                            }
                            Some(Change::Closed) => {
                                prop_assert!(!was_closed && end == Some(Outcome::Success));
                                (opened, probe) = (None, None);
                                row.clear();
                            }
                            None if probe.is_some_and(|(had, _)| had == number) => {
                                probe = None;
                                if end == Some(Outcome::Failure) {
                                    opened = Some(now);
                                }
                            }
                            None => {}
                        }
                    }
                    Event::End(..) => {}
                }
                prop_assert!(circuit.row.len() <= failures);
                prop_assert_eq!(circuit.view(&rules, now).state == Status::Closed, opened.is_none());
                if opened.is_none() {
                    let pass = circuit.try_pass(&rules, now).expect("closed: everything passes");
                    circuit.abandon(pass);
                }
            }
            // Whatever came before: left alone for `open`, it lets an attempt pass.
            prop_assert!(circuit.try_pass(&rules, now + open).is_ok());
        }
    }
}
