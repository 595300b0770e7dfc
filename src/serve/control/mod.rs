//! The gateway's side of the admin listener: its views and its actions.

pub(crate) mod expiry;
pub(crate) mod explain;
mod token_status;
mod view;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};

use self::explain::{ExplainQuery, explain};
use super::reload::Reloader;
use crate::{
    admin::Control,
    policy::exposition::Exposition,
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
        }
    }
}

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
        token_status::warnings(&self.reloader.current().config, &self.state)
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
        let current = self.reloader.current();
        let config = &current.config;
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": self.started_at,
            // With milliseconds, for countdowns.
            "now": wall_clock::since_epoch().as_millis() as f64 / 1000.0,
            "ready": reasons.is_empty(),
            "reasons": reasons,
            "traffic": self.state.tally.traffic(now),
            "quota": self.quota(),
            "callers": self.callers(),
            "upstream": {
                "url": config.upstream.url.to_string(),
                "circuit": view::circuit(&current.plan, &self.state),
            },
            "tokens": token_status::view(config, &self.state),
            "reload": view::reload(self.reloader.last()),
            "deprecations": self.deprecations(),
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

    fn set_level(&self, level: &str) -> Result<(), String> {
        match &self.level {
            Some(handle) => handle.set(level),
            None => Err("logging was not set up by this gateway".into()),
        }
    }

    fn reload(&self) -> Result<Value, Value> {
        let report = self.reloader.reload();
        match report.result {
            ReloadResult::Refused => Err(report.json()),
            _ => Ok(report.json()),
        }
    }
}
