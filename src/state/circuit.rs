//! The circuit of the one upstream. All workers share it, so that the failures that one sees protect all.

use std::{sync::Arc, time::Duration};

use super::Clock;
use crate::{
    lock::Lock,
    policy::circuit::{Change, Circuit, CircuitRules, Evidence, Pass, View},
    telemetry::metrics::Metrics,
};

/// `policy::circuit` behind a short lock, with a clock, a metric and a log.
pub struct UpstreamCircuit {
    clock: Clock,
    metrics: Arc<Metrics>,
    circuit: Lock<Circuit>,
}

impl UpstreamCircuit {
    /// A closed circuit.
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
    pub fn try_pass(&self, rules: &CircuitRules) -> Result<Pass, Duration> {
        self.circuit.lock().try_pass(rules, self.clock.now())
    }

    /// See [`Circuit::settle`].
    pub fn settle(&self, pass: Pass, evidence: Evidence, rules: &CircuitRules) {
        let change = {
            let mut circuit = self.circuit.lock();
            let change = circuit.settle(pass, evidence, rules, self.clock.now());
            // Under the lock: otherwise two workers could write the gauge in the wrong order.
            if let Some(change) = change {
                self.metrics.circuit_open(change == Change::Opened);
            }
            change
        };
        match change {
            Some(Change::Opened) => tracing::warn!("circuit opened"),
            Some(Change::Closed) => tracing::info!("circuit closed"),
            None => {}
        }
    }

    /// See [`Circuit::abandon`].
    pub fn abandon(&self, pass: Pass) {
        self.circuit.lock().abandon(pass);
    }

    /// See [`Circuit::view`].
    pub fn view(&self, rules: &CircuitRules) -> View {
        self.circuit.lock().view(rules, self.clock.now())
    }
}
