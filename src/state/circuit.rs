//! The circuit of the one upstream that all workers ask: what one learns of it holds for all.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::Clock;
use crate::{
    policy::circuit::{Change, Circuit, Outcome, Pass, Rules, View},
    telemetry::metrics::Metrics,
};

/// `policy::circuit` under a lock that is held for a few lines, with a clock, a metric and a log.
pub struct UpstreamCircuit {
    clock: Clock,
    metrics: Arc<Metrics>,
    circuit: Mutex<Circuit>,
}

impl UpstreamCircuit {
    /// A closed one.
    pub fn new(clock: Clock, metrics: Arc<Metrics>) -> Self {
        UpstreamCircuit {
            clock,
            metrics,
            circuit: Mutex::default(),
        }
    }

    /// See [`Circuit::try_pass`].
    ///
    /// # Errors
    /// The time until the next probe may go, above zero.
    pub fn try_pass(&self, rules: &Rules) -> Result<Pass, Duration> {
        self.circuit().try_pass(rules, self.clock.now())
    }

    /// See [`Circuit::settle`].
    pub fn settle(&self, pass: Pass, outcome: Outcome, rules: &Rules) {
        let change = {
            let mut circuit = self.circuit();
            let change = circuit.settle(pass, outcome, rules, self.clock.now());
            // Under the lock, or two workers' changes could be written in the wrong order and stay so.
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
        self.circuit().abandon(pass);
    }

    /// How it stands.
    pub fn view(&self, rules: &Rules) -> View {
        self.circuit().view(rules, self.clock.now())
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
