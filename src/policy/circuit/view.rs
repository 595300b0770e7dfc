//! What the admin listener and `explain` show of the circuits.

use std::{sync::Arc, time::Duration};

use super::{
    super::operation::OperationLabel,
    Circuit, CircuitRules, Origin, Scope, Subject,
    breaker::{Asking, Breaker},
};
use crate::label::label_enum;

label_enum! {
    /// The state of a circuit.
    pub enum Status {
        Closed = "closed",
        Open = "open",
        /// A probe may pass, or is in flight.
        HalfOpen = "half_open",
    }
}

/// A snapshot of one circuit, for the admin listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub scope: Scope,
    pub state: Status,
    /// Consecutive failures so far that count; in any other state than closed, the number that opened it.
    pub failures: usize,
    /// Time until a probe may pass; `None` while closed.
    pub next_probe: Option<Duration>,
}

/// A circuit that is not closed and stops less than everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    pub subject: Subject,
    pub state: Status,
    pub next_probe: Duration,
}

impl Scope {
    /// Whose calls it stops, as the start of a phrase; nothing for everybody's.
    pub fn whose(self) -> &'static str {
        match self {
            Scope::Upstream => "",
            Scope::Operation => "for the operation, ",
            Scope::Caller => "for the caller, ",
            Scope::Use => "for the caller's use of the operation, ",
        }
    }
}

impl Circuit {
    /// The circuit that stops everything.
    pub fn view(&self, rules: &CircuitRules, now: Duration) -> View {
        let now = self.latest.max(now);
        view(Scope::Upstream, &self.upstream, rules, now)
    }

    /// The circuit that matters most to an attempt: the one that blocks it longest, else one that is not closed, else that of the
    /// upstream.
    pub fn view_for(&self, origin: &Origin, rules: &CircuitRules, now: Duration) -> View {
        let now = self.latest.max(now);
        let asking = Asking {
            origin,
            streams: false,
        };
        let of_caller = self.callers.get(&origin.caller);
        let uses = of_caller.and_then(|circuits| circuits.uses.get(&origin.operation));
        let others = [
            (
                Scope::Operation,
                self.operations.get(&origin.operation.label()),
            ),
            (Scope::Caller, of_caller.map(|circuits| &circuits.caller)),
            (Scope::Use, uses),
        ];
        let of = |scope, breaker: &Breaker| {
            let mut view = view(scope, breaker, rules, now);
            // Another attempt may be allowed to probe when this one is not.
            let blocked = breaker.blocked_until(asking, now).map(|until| until - now);
            view.next_probe = view.next_probe.map(|_| blocked.unwrap_or_default());
            view
        };
        let mut worst = of(Scope::Upstream, &self.upstream);
        for (scope, breaker) in others {
            let view = breaker.map(|breaker| of(scope, breaker));
            if let Some(view) = view.filter(|view| view.next_probe > worst.next_probe) {
                worst = view;
            }
        }
        worst
    }

    /// The circuits that stop less than everything and are not closed, without those that nobody has asked for a while.
    pub fn stopped(&self, rules: &CircuitRules, now: Duration) -> Vec<Stopped> {
        let now = self.latest.max(now);
        let remembered = rules.open.saturating_add(rules.within);
        let mut stopped = Vec::new();
        let nobody = Arc::from("");
        let mut add = |scope, caller: &Arc<str>, operation, used, breaker: &Breaker| {
            let is_remembered = now.saturating_sub(used) <= remembered;
            if let (state, Some(next_probe)) = breaker.status(now)
                && is_remembered
            {
                let subject = Subject::new(scope, caller, operation);
                stopped.push(Stopped {
                    subject,
                    state,
                    next_probe,
                });
            }
        };
        for (operation, used, circuit) in self.operations.iter() {
            add(Scope::Operation, &nobody, *operation, used, circuit);
        }
        for (caller, used, circuits) in self.callers.iter() {
            let any = OperationLabel::OTHER;
            add(Scope::Caller, caller, any, used, &circuits.caller);
            for (operation, used, circuit) in circuits.uses.iter() {
                add(Scope::Use, caller, operation.label(), used, circuit);
            }
        }
        stopped.sort_by(|one, other| one.subject.cmp(&other.subject));
        stopped
    }
}

fn view(scope: Scope, breaker: &Breaker, rules: &CircuitRules, now: Duration) -> View {
    let (state, next_probe) = breaker.status(now);
    View {
        scope,
        state,
        failures: breaker.failures(rules, now),
        next_probe,
    }
}
