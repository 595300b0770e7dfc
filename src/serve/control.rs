//! What the admin listener sees of the gateway, and may do to it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};

use super::{
    explain::{Question, explain},
    reload::Reloader,
    tokens, view,
};
use crate::{
    admin::Control,
    stack::Shared,
    telemetry::{labels::ReloadResult, log::LevelHandle, tally},
};

pub struct State {
    pub reloader: Arc<Reloader>,
    shared: Arc<Shared>,
    level: Option<LevelHandle>,
    pub draining: AtomicBool,
    /// Epoch seconds.
    started_at: u64,
}

impl State {
    pub fn new(reloader: Arc<Reloader>, shared: Arc<Shared>, level: Option<LevelHandle>) -> Self {
        State {
            reloader,
            shared,
            level,
            draining: AtomicBool::new(false),
            started_at: tally::now(),
        }
    }
}

impl Control for State {
    fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining.load(Ordering::Acquire) {
            reasons.push("draining".into());
        } else {
            reasons = tokens::unready(&self.reloader.config(), &self.shared);
        }
        let keys = self.shared.signing_keys.load();
        if keys.as_ref().is_some_and(|keys| keys.current().is_none()) {
            reasons.push("auth.jwt: the issuer's keys could not be fetched yet".into());
        }
        reasons
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
        let (reasons, now) = (self.unready(), tally::now());
        let config = self.reloader.config();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": self.started_at,
            "now": tally::now_exactly(),
            "ready": reasons.is_empty(),
            "reasons": reasons,
            "traffic": self.shared.tally.traffic(now),
            "quota": self.quota(),
            "callers": self.callers(),
            "upstream": {
                "url": config.upstream.url.to_string(),
                "circuit": view::circuit(&self.shared),
            },
            "tokens": tokens::view(&config, &self.shared),
            "reload": view::reload(self.reloader.last()),
            "deprecations": self.deprecations(),
        })
    }

    fn quota(&self) -> Value {
        self.shared.groups.view()
    }

    fn callers(&self) -> Value {
        view::callers(&self.reloader.config(), &self.shared)
    }

    fn deprecations(&self) -> Value {
        self.shared.tally.deprecations()
    }

    fn explain(&self, query: &str) -> Result<Value, String> {
        let question = Question::from_query(query)?;
        let config = self.reloader.config();
        explain(&config, question, Some(&self.shared)).map(|explanation| explanation.json())
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
            ReloadResult::Refused => Err(report.json()),
            _ => Ok(report.json()),
        }
    }
}
