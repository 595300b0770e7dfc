//! What the admin listener sees of the gateway, and may do to it.

use std::sync::{
    Arc, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};

use super::{reload::Reloader, tokens};
use crate::{admin::Control, config::CallerCredential, stack::Shared, telemetry::log::LevelHandle};

pub struct State {
    pub reloader: Arc<Reloader>,
    shared: Arc<Shared>,
    level: Option<LevelHandle>,
    pub draining: AtomicBool,
}

impl State {
    pub fn new(reloader: Arc<Reloader>, shared: Arc<Shared>, level: Option<LevelHandle>) -> Self {
        State {
            reloader,
            shared,
            level,
            draining: AtomicBool::new(false),
        }
    }
}

impl State {
    fn circuit(&self) -> Value {
        let circuit = &self.shared.circuit;
        let view = circuit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .view(self.shared.epoch.elapsed());
        json!({
            "state": view.state,
            "failures": view.failures,
            "next_probe_in_seconds": view.next_probe.map(|time| time.as_secs_f64()),
        })
    }
}

impl Control for State {
    fn unready(&self) -> Vec<String> {
        if self.draining.load(Ordering::Acquire) {
            vec!["draining".into()]
        } else {
            tokens::unready(&self.reloader.config(), &self.shared)
        }
    }

    fn warnings(&self) -> Vec<String> {
        tokens::warnings(&self.reloader.config(), &self.shared)
    }

    fn metrics(&self) -> String {
        self.shared.metrics.encode()
    }

    fn config(&self) -> Value {
        self.reloader.config().redacted()
    }

    fn status(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "ready": self.unready().is_empty(),
            "circuit": self.circuit(),
            "quota": self.quota(),
            "callers": self.callers(),
            "tokens": tokens::view(&self.reloader.config(), &self.shared),
            "reload": self.reloader.last().map(|report| report.json()),
            "deprecations": self.deprecations(),
        })
    }

    fn quota(&self) -> Value {
        self.shared.groups.view()
    }

    fn callers(&self) -> Value {
        let seen = self.shared.tally.callers();
        let config = self.reloader.config();
        let callers = config.callers.iter().map(|(name, caller)| {
            let rules = &caller.rules;
            let seen = seen.get(name.as_str());
            let keys: &[_] = match &caller.credential {
                CallerCredential::Keys(hashes) => hashes,
                CallerCredential::Anonymous => &[],
            };
            let view = json!({
                "keys": self.shared.keys.view(keys),
                "rate": format!("{}/{}s", rules.rate.count, rules.rate.per.as_secs_f64()),
                "burst": rules.burst,
                "weight": rules.weight,
                "requests": seen.map_or(0, |seen| seen.requests),
                "refused": seen.map_or(0, |seen| seen.refused),
                "last_seen": seen.map(|seen| seen.last),
            });
            (name.clone(), view)
        });
        Value::Object(callers.collect())
    }

    fn deprecations(&self) -> Value {
        self.shared.tally.deprecations()
    }

    fn resume(&self, group: &str) -> bool {
        self.shared.groups.resume(group)
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
            "refused" => Err(report.json()),
            _ => Ok(report.json()),
        }
    }
}
