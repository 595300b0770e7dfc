//! The gateway's side of the admin listener: its views and its actions.

mod alerts;
pub(crate) mod expiry;
pub(crate) mod explain;
mod fleet;
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
    telemetry::{
        labels::{RegisterKind, ReloadResult},
        log::LevelHandle,
    },
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

    fn shared(&self) -> Option<&'static str> {
        let fleet = self.state.fleet.as_ref()?;
        Some(fleet.register().state.label())
    }

    fn metrics(&self, form: Exposition) -> String {
        let rules = &self.reloader.current().plan.circuit;
        self.state.circuit.set_gauges(rules);
        self.state.metrics.expose(form)
    }

    fn config(&self) -> Value {
        let mut config = self.reloader.current().config.redacted();
        // A register that no file names.
        let kind = self.state.fleet.as_ref().map(|fleet| fleet.kind());
        if let Some(kind @ RegisterKind::Memory) = kind {
            config["shared"] = json!({ "register": kind });
        }
        config
    }

    fn status(&self) -> Value {
        let (reasons, now) = (self.unready(), wall_clock::epoch_seconds());
        let alerts = self.alerts();
        let current = self.reloader.current();
        let config = &current.config;
        let mut status = json!({
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
        });
        if let Some(fleet) = &self.state.fleet {
            status["shared"] = fleet::view(fleet);
        }
        status
    }

    fn quota(&self) -> Value {
        let mut groups = self.state.groups.view();
        if let Some(fleet) = &self.state.fleet {
            fleet::add_to_groups(fleet, &mut groups);
        }
        groups
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config,
        fleet::{here::Place, replica::Replica},
        plan::Plan,
        runtime::ThreadRuntime,
        serve::reload::Current,
        state::{Clock, draining::Draining},
        telemetry::labels::{ExchangeResult, RegisterState},
    };

    const FILE: &str = "[tokens.main]\nenv = \"T\"\n[callers.app]\nanonymous = true\n";

    /// A gateway without listeners, and of a fleet if there is a time for exchanges.
    fn control(timeout: Option<Duration>) -> (GatewayControl, ThreadRuntime, Option<Replica>) {
        let config = config::from_toml(FILE, &[("T".into(), "t".into())].into()).unwrap();
        let plan = Arc::new(Plan::of(&config).unwrap());
        let background = ThreadRuntime::new().unwrap();
        let (draining, handle) = (Draining::new().1, background.handle().clone());
        let mut replica = timeout.map(|timeout| {
            let place = Place::new(Clock::start(), Duration::from_secs(1_000_000));
            Replica::here(&place, timeout).unwrap()
        });
        let state = crate::serve::start::of_replica(&plan, draining, handle, &mut replica).unwrap();
        let (state, current) = (Arc::new(state), Current { config, plan });
        let reloader = Reloader::new(None, current, state.clone(), Vec::new(), None);
        let control = GatewayControl::new(Arc::new(reloader), state, None);
        (control, background, replica)
    }

    #[test]
    fn nothing_is_said_of_a_fleet_where_there_is_none() {
        let (control, _background, _) = control(None);
        assert_eq!(control.shared(), None);
        assert!(control.status().get("shared").is_none());
        assert!(control.quota()["main"].get("fleet").is_none());
        assert!(control.config()["shared"].is_null());
        for form in [Exposition::Text, Exposition::OpenMetrics] {
            assert!(!control.metrics(form).contains("revgate_shared_"));
        }
    }

    #[test]
    fn a_replica_without_its_register_is_ready_and_says_so() {
        let (control, _background, _replica) = control(Some(Duration::from_millis(50)));
        let fleet = control.state.fleet.clone().unwrap();
        // Its thread tells it once.
        while control.shared() != Some("up") {
            std::thread::yield_now();
        }
        assert_eq!(control.config()["shared"], json!({ "register": "memory" }));
        let main = fleet.group(&"main".into(), || 4);
        fleet.register_down(ExchangeResult::Down, "connection refused");
        main.alone(ExchangeResult::Down, "connection refused");
        assert_eq!(
            (control.shared(), control.unready().len()),
            (Some("down"), 0)
        );
        let status = control.status();
        assert_eq!(status["shared"]["state"], RegisterState::Down.label());
        assert_eq!(status["shared"]["reason"], "connection refused");
        assert_eq!(
            (&status["ready"], &status["health"]),
            (&json!(true), &json!("ready"))
        );
        let group = &status["quota"]["main"];
        assert_eq!(
            (&group["fleet"]["sharing"], &group["fleet"]["leased_here"]),
            (&json!("alone"), &json!(4))
        );
        // This replica's own view of the group is beside it.
        assert!(group["remaining"].is_null() && group["state"].is_string());
        let text = control.metrics(Exposition::Text);
        for line in [
            "revgate_shared_up 0",
            r#"revgate_shared_leased_units{group="main"} 4"#,
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in\n{text}");
        }
        assert!(control.warnings().is_empty(), "a moment is no alert");
    }
}
