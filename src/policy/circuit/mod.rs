//! When an upstream that fails gets no more attempts, and when it gets one again.
//!
//! A failure says something about the caller's use of the operation, and perhaps about more. So it counts in four circuits, each of
//! which stops as much as it has evidence for (see [`Scope`]):
//!
//! | circuit of | evidence | stops |
//! |---|---|---|
//! | a use | one caller, one operation | that caller's calls of that operation |
//! | a caller | one caller, several operations | that caller |
//! | an operation | several callers, one operation | that operation |
//! | the upstream | several callers, several operations; or no connection | everything |
//!
//! "Several" means that no caller, or no operation, makes up more than half of the failures that open the circuit.
//!
//! While a circuit is closed, every attempt passes. Consecutive failures open it. While it is open, no attempt passes. After that, one
//! attempt passes, the probe. Its success closes the circuit. Its failure keeps out for another while whatever it is evidence
//! about; in a circuit for several, a second failed probe, of another caller and another operation, opens the circuit again.
//!
//! An operation that DevRev is not known to have has no circuit for all: its name is the caller's invention.
//!
//! ```
//! use std::time::Duration;
//! use revgate::policy::circuit::{Circuit, CircuitRules, Evidence, Origin};
//! use revgate::policy::operation::Operation;
//!
//! let second = Duration::from_secs;
//! let rules = CircuitRules { failures: 2, within: second(10), open: second(5) };
//! let origin = |caller: &str| Origin::new(caller.into(), Some(&Operation::from_path("/works.list")));
//! let mut circuit = Circuit::default();
//! for _ in 0..2 {
//!     let pass = circuit.try_pass(&origin("a"), false, &rules, second(1)).expect("closed");
//!     circuit.settle(pass, Evidence::Failure, &rules, second(1));
//! }
//! let left = circuit.try_pass(&origin("a"), false, &rules, second(2)).err();
//! assert_eq!(left, Some(second(4)), "open for four seconds more");
//! assert!(circuit.try_pass(&origin("b"), false, &rules, second(2)).is_ok(), "not for another caller");
//!
//! let probe = circuit.try_pass(&origin("a"), false, &rules, second(6)).expect("the probe");
//! assert!(circuit.try_pass(&origin("a"), false, &rules, second(6)).is_err(), "one at a time");
//! let changes = circuit.settle(probe, Evidence::Success, &rules, second(6));
//! assert!(!changes[0].opened, "closed");
//! ```

mod breaker;
mod recent;
#[cfg(test)]
mod tests;
mod view;

use std::{sync::Arc, time::Duration};

use http::StatusCode;

pub use self::view::{Status, Stopped, View};
use self::{
    breaker::{Asking, Breaker, Verdict},
    recent::Recent,
};
use super::{
    operation::{Operation, OperationId, OperationLabel},
    retry::AttemptEnd,
};
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
    /// Upstream fails this caller in this operation.
    Failure,
    /// As a failure. Attempts that are lost together may have shared a connection, and count as one.
    Lost,
    /// Upstream cannot be reached, by anybody.
    NoConnection,
    /// Says nothing about it.
    Neutral,
}

/// Classifies the end of an attempt; `None` means that revgate itself refused or ended it. `sent` says whether the caller has
/// delivered the whole body.
///
/// Failures are transient: 500, 502, 503, 504, a lost connection, a timeout. A 503 with a retry-after is neutral: it pauses the
/// quota group for that time, and a circuit that opened as well would shorten or extend the pause. Every other answer,
/// including 429 and 404, shows that upstream works. revgate's own errors say nothing about upstream, and neither does any end of
/// an attempt whose body has not come from the caller: it may be the caller's doing. That there is no connection never is.
pub fn evidence(end: Option<AttemptEnd>, sent: bool) -> Evidence {
    match end {
        None => Evidence::Neutral,
        Some(AttemptEnd::NotWritten) => Evidence::NoConnection,
        // One connection that cannot be opened is one failure, however many wait for it.
        Some(AttemptEnd::AlsoNotWritten) => Evidence::Neutral,
        Some(_) if !sent => Evidence::Neutral,
        // A GOAWAY ends many at once.
        Some(AttemptEnd::Lost | AttemptEnd::NotProcessed) => Evidence::Lost,
        Some(AttemptEnd::TimedOut) => Evidence::Failure,
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

label_enum! {
    /// What a circuit stops.
    pub enum Scope {
        /// One caller's calls of one operation.
        Use = "use",
        /// Everything of one caller.
        Caller = "caller",
        /// One operation, whoever calls it.
        Operation = "operation",
        /// Everything.
        Upstream = "upstream",
    }
}

impl Scope {
    /// Whether it stops several callers.
    fn stops_callers(self) -> bool {
        matches!(self, Scope::Operation | Scope::Upstream)
    }

    /// Whether it stops several operations.
    fn stops_operations(self) -> bool {
        matches!(self, Scope::Caller | Scope::Upstream)
    }
}

/// Whose attempt it is, and of which operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    caller: Arc<str>,
    operation: OperationId,
}

impl Origin {
    /// Requests without an operation count as one.
    pub fn new(caller: Arc<str>, operation: Option<&Operation>) -> Self {
        let operation = operation.map_or(OperationId::NONE, Operation::id);
        Origin { caller, operation }
    }
}

/// Permission for one attempt. [`Circuit::settle`] or [`Circuit::abandon`] takes it back.
#[derive(Debug)]
#[must_use = "a probe that is never given back blocks the next one for a while"]
pub struct Pass {
    /// Passes are numbered in the order in which they are issued.
    number: u64,
    origin: Origin,
}

impl Pass {
    /// Whose attempt it is for.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// A change of state, for the log and the metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub subject: Subject,
    /// It was closed and is open now; else a probe succeeded, and it is closed now.
    pub opened: bool,
}

/// What a circuit is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    pub scope: Scope,
    /// Unless it stops every caller.
    pub caller: Option<Arc<str>>,
    /// Unless it stops every operation.
    pub operation: Option<OperationLabel>,
}

impl Subject {
    /// Whether a failure of this origin says something about it.
    pub fn concerns(&self, origin: &Origin) -> bool {
        let operation = origin.operation.label();
        self.caller
            .as_ref()
            .is_none_or(|caller| *caller == origin.caller)
            && self.operation.is_none_or(|own| own == operation)
    }

    /// What it stops, for people.
    pub fn words(&self) -> String {
        let operation = self.operation.map(OperationLabel::label);
        match (self.caller.as_deref(), operation) {
            (None, None) => "all calls".to_owned(),
            (None, Some(operation)) => format!("all calls of {operation}"),
            (Some(caller), None) => format!("all calls of the caller {caller}"),
            (Some(caller), Some(operation)) => {
                format!("calls of {operation} by the caller {caller}")
            }
        }
    }

    fn new(scope: Scope, caller: &Arc<str>, operation: OperationLabel) -> Self {
        Subject {
            scope,
            caller: (!scope.stops_callers()).then(|| caller.clone()),
            operation: (!scope.stops_operations()).then_some(operation),
        }
    }
}

/// Upper bound of callers with circuits of their own. Only callers with failures have some.
const MAX_CALLERS: usize = 256;
/// Upper bound of a caller's uses with circuits. Beyond it, the circuit of the caller stops a caller whose calls all fail.
const MAX_USES: usize = 32;

/// The circuits of one upstream, all closed at first. Every `now` is the time since the same fixed instant. The rules belong to
/// the configuration and are passed with each call; the circuits keep only what they have learnt.
#[derive(Debug)]
pub struct Circuit {
    upstream: Breaker,
    operations: Recent<OperationLabel, Breaker>,
    callers: Recent<Arc<str>, OfCaller>,
    /// The number of the latest pass.
    passes: u64,
    latest: Duration,
}

/// The circuits of one caller.
#[derive(Debug)]
struct OfCaller {
    caller: Breaker,
    uses: Recent<OperationId, Breaker>,
}

impl Default for Circuit {
    fn default() -> Self {
        Circuit {
            upstream: Breaker::new(Scope::Upstream),
            // The table of known operations is the bound.
            operations: Recent::new(usize::MAX),
            callers: Recent::new(MAX_CALLERS),
            passes: 0,
            latest: Duration::ZERO,
        }
    }
}

impl Circuit {
    /// A pass for one attempt, if it may be sent now. `streams` says that its body is still on its way from the caller.
    ///
    /// # Errors
    /// The time until the next probe may pass, always above zero.
    pub fn try_pass(
        &mut self,
        origin: &Origin,
        streams: bool,
        rules: &CircuitRules,
        now: Duration,
    ) -> Result<Pass, Duration> {
        let now = self.at(now);
        let asking = Asking { origin, streams };
        let mut blocked = None;
        // First all are asked, so that none is left with a probe that another circuit refuses.
        self.each(origin, now, |_, breaker| {
            blocked = blocked.max(breaker.blocked_until(asking, now));
        });
        if let Some(until) = blocked {
            return Err(until.saturating_sub(now));
        }
        self.passes += 1;
        let number = self.passes;
        self.each(origin, now, |_, breaker| {
            breaker.pass(asking, number, rules, now);
        });
        let origin = origin.clone();
        Ok(Pass { number, origin })
    }

    /// Records how an attempt ended. Returns the changes of state; a failed probe keeps its circuit open and so changes nothing.
    pub fn settle(
        &mut self,
        pass: Pass,
        evidence: Evidence,
        rules: &CircuitRules,
        now: Duration,
    ) -> Vec<Change> {
        let now = self.at(now);
        let verdict = match evidence {
            Evidence::Success => Verdict::Works,
            Evidence::Failure => Verdict::Fails,
            Evidence::Lost => Verdict::Lost,
            Evidence::NoConnection => Verdict::NoConnection,
            Evidence::Neutral => {
                self.abandon(pass);
                return Vec::new();
            }
        };
        let Pass { number, origin } = pass;
        if matches!(verdict, Verdict::Fails | Verdict::Lost) {
            self.insert(&origin, now);
        }
        let latest = self.passes;
        let mut changes = Vec::new();
        self.each(&origin, now, |scope, breaker| {
            if verdict == Verdict::NoConnection && scope != Scope::Upstream {
                breaker.abandon(number);
                return;
            }
            if let Some(opened) = breaker.settle(number, &origin, verdict, latest, rules, now) {
                let subject = Subject::new(scope, &origin.caller, origin.operation.label());
                changes.push(Change { subject, opened });
            }
        });
        changes
    }

    /// Takes back the pass of an attempt that ended without evidence. If it was a probe, the next attempt probes.
    pub fn abandon(&mut self, pass: Pass) {
        let Pass { number, origin } = pass;
        self.each(&origin, self.latest, |_, breaker| breaker.abandon(number));
    }

    /// Makes the circuits that count a failure of this origin.
    fn insert(&mut self, origin: &Origin, now: Duration) {
        let Origin { caller, operation } = origin;
        if operation.is_known() {
            let new = || Breaker::new(Scope::Operation);
            self.operations.get_or_insert(&operation.label(), now, new);
        }
        let circuits = self.callers.get_or_insert(caller, now, || OfCaller {
            caller: Breaker::new(Scope::Caller),
            uses: Recent::new(MAX_USES),
        });
        let new = || Breaker::new(Scope::Use);
        circuits.uses.get_or_insert(operation, now, new);
    }

    /// The circuits that concern this origin, the one that stops most first.
    fn each(&mut self, origin: &Origin, now: Duration, mut f: impl FnMut(Scope, &mut Breaker)) {
        f(Scope::Upstream, &mut self.upstream);
        if let Some(circuit) = self.operations.get_mut(&origin.operation.label(), now) {
            f(Scope::Operation, circuit);
        }
        if let Some(circuits) = self.callers.get_mut(&origin.caller, now) {
            f(Scope::Caller, &mut circuits.caller);
            if let Some(circuit) = circuits.uses.get_mut(&origin.operation, now) {
                f(Scope::Use, circuit);
            }
        }
    }

    /// Time never runs backwards here; otherwise an open circuit would stay open longer than `try_pass` announced.
    fn at(&mut self, now: Duration) -> Duration {
        self.latest = self.latest.max(now);
        self.latest
    }
}
