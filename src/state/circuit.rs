//! The circuits of the one upstream. All workers share them, so that the failures that one sees protect all.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::Clock;
use crate::{
    lock::Lock,
    policy::{
        circuit::{
            Change, Circuit, CircuitRules, Evidence, Origin, Pass, Scope, Stopped, Subject, View,
        },
        operation::OperationLabel,
    },
    telemetry::metrics::Metrics,
};

/// `policy::circuit` behind a short lock, with a clock, metrics and a log.
pub struct UpstreamCircuit {
    clock: Clock,
    metrics: Arc<Metrics>,
    circuit: Lock<Circuit>,
}

impl UpstreamCircuit {
    /// Closed circuits.
    pub fn new(clock: Clock, metrics: Arc<Metrics>) -> Self {
        UpstreamCircuit {
            clock,
            metrics,
            circuit: Lock::default(),
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

    /// See [`Circuit::settle`].
    pub fn settle(&self, pass: Pass, evidence: Evidence, rules: &CircuitRules) {
        let changes = {
            let mut circuit = self.circuit.lock();
            let changes = circuit.settle(pass, evidence, rules, self.clock.now());
            // Under the lock: otherwise two workers could write the gauge in the wrong order.
            for change in &changes {
                if change.subject.scope == Scope::Upstream {
                    self.metrics.circuit_open(change.opened);
                }
            }
            changes
        };
        changes.iter().for_each(log);
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

fn log(change: &Change) {
    let Subject {
        scope,
        caller,
        operation,
    } = &change.subject;
    let scope = scope.label();
    let caller = caller.as_deref();
    let operation = operation.map(OperationLabel::label);
    if change.opened {
        tracing::warn!(scope, caller, operation, "circuit opened");
    } else {
        tracing::info!(scope, caller, operation, "circuit closed");
    }
}
