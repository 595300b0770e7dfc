//! The gateway's side of the admin listener: its views and its actions.

mod alerts;
pub(crate) mod expiry;
pub(crate) mod explain;
mod token_status;
mod view;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use self::{
    alerts::Observed,
    explain::{ExplainQuery, explain},
};
use super::reload::{ReloadCause, Reloader};
use crate::{
    admin::Control,
    policy::{
        alerts::{Alert, Health},
        exposition::Exposition,
    },
    state::State,
    telemetry::{labels::ReloadResult, log::LevelHandle},
    wall_clock,
};

/// Implements the admin listener's [`Control`] for a running gateway.
pub(crate) struct GatewayControl {
    pub reloader: Arc<Reloader>,
    state: Arc<State>,
    level: Option<LevelHandle>,
    pub draining: AtomicBool,
    /// Epoch seconds.
    started_at: u64,
    observed: Observed,
}

impl GatewayControl {
    pub(crate) fn new(
        reloader: Arc<Reloader>,
        state: Arc<State>,
        level: Option<LevelHandle>,
    ) -> Self {
        GatewayControl {
            reloader,
            state,
            level,
            draining: AtomicBool::new(false),
            started_at: wall_clock::epoch_seconds(),
            observed: Observed::default(),
        }
    }

    /// Looks at the state every second, so that it is known since when alerts hold and how the quota went. Ends with its runtime.
    pub(crate) async fn keep_observing(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(alerts::INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.observe();
        }
    }

    fn observe(&self) {
        let levels = self.state.groups.levels();
        self.state.tally.sample(levels, wall_clock::epoch_seconds());
        self.alerts();
    }

    fn alerts(&self) -> Vec<Alert> {
        self.observed.alerts(&self.reloader, &self.state)
    }

    /// Requests for which there is no answer yet, or whose answer is under way.
    pub(super) fn in_flight(&self) -> u64 {
        self.state.in_flight.used()
    }

    /// Requests that wait for quota, which are not among those in flight.
    pub(super) fn waiting(&self) -> usize {
        self.state.groups.waiting()
    }
}

const NO_LOG: &str = "logging was not set up by this gateway";

impl Control for GatewayControl {
    fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining.load(Ordering::Acquire) {
            reasons.push("draining".into());
        } else {
            reasons = token_status::unready(&self.reloader.current().config, &self.state);
        }
        let keys = self.state.signing_keys.current();
        if keys.is_some_and(|keys| keys.current().is_none()) {
            reasons.push("auth.jwt: the issuer's keys could not be fetched yet".into());
        }
        reasons
    }

    fn warnings(&self) -> Vec<String> {
        let alerts = self.alerts();
        // After the alerts: one that is due now must not be ahead.
        let now = wall_clock::since_epoch().as_secs_f64();
        alerts.iter().map(|alert| alert.line(now)).collect()
    }

    fn metrics(&self, form: Exposition) -> String {
        let rules = &self.reloader.current().plan.circuit;
        self.state.circuit.set_gauges(rules);
        self.state.metrics.expose(form)
    }

    fn config(&self) -> Value {
        self.reloader.current().config.redacted()
    }

    fn status(&self) -> Value {
        let (reasons, now) = (self.unready(), wall_clock::epoch_seconds());
        let alerts = self.alerts();
        let current = self.reloader.current();
        let config = &current.config;
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": self.started_at,
            // With milliseconds, for countdowns.
            "now": wall_clock::since_epoch().as_millis() as f64 / 1000.0,
            "ready": reasons.is_empty(),
            "reasons": reasons,
            "health": Health::of(reasons.is_empty(), &alerts),
            "alerts": alerts::view(&alerts),
            "traffic": self.state.tally.traffic(self.started_at, now),
            "quota": self.quota(),
            "callers": self.callers(),
            "upstream": {
                "url": config.upstream.url.to_string(),
                "circuit": view::circuit(&current.plan, &self.state),
                "answers": self.state.tally.answers(now),
            },
            "tokens": token_status::view(config, &self.state),
            "reload": view::reload(self.reloader.last()),
            "deprecations": self.deprecations(),
            "deprecated_calls": self.state.tally.deprecated_calls(),
        })
    }

    fn quota(&self) -> Value {
        self.state.groups.view()
    }

    fn callers(&self) -> Value {
        view::callers(&self.reloader.current().config, &self.state)
    }

    fn deprecations(&self) -> Value {
        self.state.tally.deprecations()
    }

    fn explain(&self, query: &str) -> Result<Value, String> {
        let query = ExplainQuery::from_query(query)?;
        let current = self.reloader.current();
        explain(&current.config, &current.plan, query, Some(&self.state))
            .map(|explanation| explanation.json())
    }

    fn resume(&self, group: &str) -> bool {
        self.state.groups.resume(group)
    }

    fn level(&self) -> Result<String, String> {
        match &self.level {
            Some(handle) => Ok(handle.get()),
            None => Err(NO_LOG.into()),
        }
    }

    fn set_level(&self, level: &str) -> Result<(), String> {
        match &self.level {
            Some(handle) => handle.set(level, ReloadCause::Admin.label()),
            None => Err(NO_LOG.into()),
        }
    }

    fn reload(&self) -> Result<Value, Value> {
        let report = self.reloader.reload(ReloadCause::Admin);
        match report.result {
            ReloadResult::Refused => Err(report.json()),
            _ => Ok(report.json()),
        }
    }
}
