//! One circuit: closed, open or half-open.

use std::{collections::VecDeque, time::Duration};

use super::{CircuitRules, Origin, Scope, view::Status};

/// An attempt that asks to pass.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub origin: &'a Origin,
    /// Its body is still on its way from the caller, so the caller decides how long the attempt takes.
    pub streams: bool,
}

/// The end of an attempt that says something.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Works,
    /// Upstream failed this caller in this operation.
    Fails,
    /// The connection was lost, perhaps with other attempts on it.
    Lost,
    /// Upstream cannot be reached, by anybody.
    NoConnection,
}

#[derive(Debug, Default)]
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

#[derive(Debug)]
struct Probe {
    number: u64,
    origin: Origin,
    /// From then on this probe no longer blocks the next one.
    until: Duration,
    rank: Rank,
}

/// A probe gives way to an attempt of a higher rank. The first field counts before the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// It has nothing to do with the last probe that did not succeed.
    fresh: bool,
    /// Its body is here as a whole.
    whole: bool,
}

/// The last probe that did not succeed.
#[derive(Debug)]
struct Suspect {
    origin: Origin,
    /// Until then no attempt that is related to it probes.
    until: Duration,
    /// When it failed; `None` if it got no answer in its time.
    failed: Option<Duration>,
}

#[derive(Debug)]
struct Failure {
    at: Duration,
    /// `None` if there was no connection, which is nobody's doing.
    origin: Option<Origin>,
}

/// One circuit, initially closed.
#[derive(Debug)]
pub(super) struct Breaker {
    scope: Scope,
    state: State,
    /// The consecutive failures that count, oldest first; never more than open the circuit.
    failures: VecDeque<Failure>,
    /// The number of the last pass before the latest change of state, so that results from before are recognised.
    changed: u64,
    /// The number of the last pass before the latest lost connection that counts.
    lost: u64,
    suspect: Option<Suspect>,
}

impl Breaker {
    pub(super) fn new(scope: Scope) -> Self {
        Breaker {
            scope,
            state: State::Closed,
            failures: VecDeque::new(),
            changed: 0,
            lost: 0,
            suspect: None,
        }
    }

    /// The time before which this attempt may not be sent, if there is one.
    pub(super) fn blocked_until(&self, asking: Asking<'_>, now: Duration) -> Option<Duration> {
        match &self.state {
            State::Closed => None,
            State::Open { until } => (now < *until).then_some(*until),
            State::HalfOpen { probe } => {
                let kept_out = self
                    .suspect
                    .as_ref()
                    .filter(|suspect| {
                        now < suspect.until && self.are_related(&suspect.origin, asking.origin)
                    })
                    .map(|suspect| suspect.until);
                let held = probe
                    .as_ref()
                    .filter(|probe| now < probe.until && probe.rank >= self.rank(asking))
                    .map(|probe| probe.until);
                kept_out.max(held)
            }
        }
    }

    /// Makes an attempt that is not blocked the probe, unless the circuit is closed.
    pub(super) fn pass(
        &mut self,
        asking: Asking<'_>,
        number: u64,
        rules: &CircuitRules,
        now: Duration,
    ) {
        if matches!(self.state, State::Closed) {
            return;
        }
        if let State::HalfOpen { probe } = &mut self.state
            && let Some(overdue) = probe.take_if(|probe| probe.until <= now)
        {
            self.suspect = Some(Suspect {
                origin: overdue.origin,
                until: overdue.until,
                failed: None,
            });
        }
        let probe = Probe {
            number,
            origin: asking.origin.clone(),
            until: now.saturating_add(rules.open),
            rank: self.rank(asking),
        };
        self.state = State::HalfOpen { probe: Some(probe) };
    }

    /// Records how the attempt with this number ended; `latest` is the number of the latest pass. Returns whether the circuit
    /// opened (`true`) or closed (`false`), if it did. A failed probe keeps it open and so changes nothing.
    pub(super) fn settle(
        &mut self,
        number: u64,
        origin: &Origin,
        verdict: Verdict,
        latest: u64,
        rules: &CircuitRules,
        now: Duration,
    ) -> Option<bool> {
        let closed = matches!(self.state, State::Closed);
        if number <= self.changed {
            // A late success while closed still ends the row. Any other late result is about a state that is over.
            if verdict == Verdict::Works && closed {
                self.failures.clear();
            }
            return None;
        }
        match verdict {
            Verdict::Works if closed => {
                self.failures.clear();
                None
            }
            // A probe that was superseded counts too. If only the latest counted, an upstream that takes longer than `open` to
            // answer would never close the circuit.
            Verdict::Works => {
                self.suspect = None;
                self.enter(State::Closed, latest);
                Some(false)
            }
            // It was in flight when the last connection was lost: perhaps on the same one, which any of its callers may have broken.
            Verdict::Lost if closed && number <= self.lost => None,
            Verdict::Fails | Verdict::Lost if closed => {
                if verdict == Verdict::Lost {
                    self.lost = latest;
                }
                let counts = self.counts(origin, rules, now);
                counts.then(|| self.record(Some(origin.clone()), latest, rules, now))?
            }
            Verdict::NoConnection if closed => self.record(None, latest, rules, now),
            // Failures count from the current probe only: otherwise each late failure would postpone the next probe.
            _ if !self.is_probe(number) => None,
            Verdict::NoConnection => {
                self.open(latest, rules, now);
                None
            }
            Verdict::Fails | Verdict::Lost => {
                self.probe_failed(origin, latest, rules, now);
                None
            }
        }
    }

    /// Ends an attempt that said nothing. If it was the probe, the next attempt probes.
    pub(super) fn abandon(&mut self, number: u64) {
        if self.is_probe(number) {
            self.state = State::HalfOpen { probe: None };
        }
    }

    pub(super) fn status(&self, now: Duration) -> (Status, Option<Duration>) {
        match &self.state {
            State::Closed => (Status::Closed, None),
            State::Open { until } if now < *until => (Status::Open, Some(*until - now)),
            State::Open { .. } | State::HalfOpen { probe: None } => {
                (Status::HalfOpen, Some(Duration::ZERO))
            }
            State::HalfOpen { probe: Some(probe) } => {
                (Status::HalfOpen, Some(probe.until.saturating_sub(now)))
            }
        }
    }

    /// Consecutive failures that count now; in any other state than closed, the number that opened it.
    pub(super) fn failures(&self, rules: &CircuitRules, now: Duration) -> usize {
        match self.state {
            State::Closed => {
                let recent = self.failures.iter().filter(|f| rules.is_recent(f.at, now));
                recent.count()
            }
            _ => rules.failures(),
        }
    }

    /// What one caller does says little about what concerns several, and the same holds for operations.
    fn are_related(&self, one: &Origin, other: &Origin) -> bool {
        self.scope.stops_callers() && one.caller == other.caller
            || self.scope.stops_operations() && one.operation == other.operation
    }

    fn rank(&self, asking: Asking<'_>) -> Rank {
        let suspect = self.suspect.as_ref();
        Rank {
            fresh: !suspect.is_some_and(|s| self.are_related(&s.origin, asking.origin)),
            whole: !asking.streams,
        }
    }

    /// The failures that open it. What concerns several has two at least.
    fn threshold(&self, rules: &CircuitRules) -> usize {
        let several = self.scope.stops_callers() || self.scope.stops_operations();
        rules.failures().max(if several { 2 } else { 1 })
    }

    /// Whether a failure of this origin counts: no caller makes up more than half of what stops others too, and no operation more
    /// than half of what stops others.
    fn counts(&mut self, origin: &Origin, rules: &CircuitRules, now: Duration) -> bool {
        self.expire(rules, now);
        let half = self.threshold(rules).div_ceil(2);
        let among = |same: &dyn Fn(&Origin) -> bool| {
            let origins = self.failures.iter().filter_map(|f| f.origin.as_ref());
            origins.filter(|other| same(other)).count()
        };
        let too_many_of_caller =
            self.scope.stops_callers() && among(&|other| other.caller == origin.caller) >= half;
        let too_many_of_operation = self.scope.stops_operations()
            && among(&|other| other.operation == origin.operation) >= half;
        !too_many_of_caller && !too_many_of_operation
    }

    fn record(
        &mut self,
        origin: Option<Origin>,
        latest: u64,
        rules: &CircuitRules,
        now: Duration,
    ) -> Option<bool> {
        self.expire(rules, now);
        self.failures.push_back(Failure { at: now, origin });
        let without_connection = self.failures.iter().filter(|f| f.origin.is_none()).count();
        let opens =
            self.failures.len() >= self.threshold(rules) || without_connection >= rules.failures();
        opens.then(|| {
            self.open(latest, rules, now);
            true
        })
    }

    fn expire(&mut self, rules: &CircuitRules, now: Duration) {
        let old = |failure: &mut Failure| !rules.is_recent(failure.at, now);
        while self.failures.pop_front_if(old).is_some() {}
    }

    /// Who it takes to open a circuit, it takes to keep it open: the failed probe of one caller, in one operation, keeps out only
    /// what is related to it. A second one that is not related opens the circuit again.
    fn probe_failed(&mut self, origin: &Origin, latest: u64, rules: &CircuitRules, now: Duration) {
        let alone = !self.scope.stops_callers() && !self.scope.stops_operations();
        let confirmed = self.suspect.as_ref().is_some_and(|suspect| {
            suspect.failed.is_some_and(|at| rules.is_recent(at, now))
                && !self.are_related(&suspect.origin, origin)
        });
        if alone || confirmed {
            self.open(latest, rules, now);
            return;
        }
        self.state = State::HalfOpen { probe: None };
        self.suspect = Some(Suspect {
            origin: origin.clone(),
            until: now.saturating_add(rules.open),
            failed: Some(now),
        });
    }

    fn open(&mut self, latest: u64, rules: &CircuitRules, now: Duration) {
        self.suspect = None;
        let until = now.saturating_add(rules.open);
        self.enter(State::Open { until }, latest);
    }

    fn enter(&mut self, state: State, latest: u64) {
        self.failures.clear();
        self.changed = latest;
        self.state = state;
    }

    /// Whether this is the number of the probe that blocks the next one.
    fn is_probe(&self, number: u64) -> bool {
        matches!(&self.state, State::HalfOpen { probe: Some(probe) } if probe.number == number)
    }
}
