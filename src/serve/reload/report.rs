//! The result of a reload.

use serde_json::{Value, json};

use crate::{config::Problem, telemetry::labels::ReloadResult, wall_clock};

/// The result of one reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub result: ReloadResult,
    /// Epoch seconds.
    pub at: u64,
    /// Keys that changed.
    pub changed: Vec<String>,
    /// Keys that change only after a restart.
    pub restart_needed: Vec<String>,
    /// Why it was refused.
    pub problems: Vec<Problem>,
}

impl Report {
    pub(crate) fn new(result: ReloadResult) -> Report {
        Report {
            result,
            at: wall_clock::epoch_seconds(),
            changed: Vec::new(),
            restart_needed: Vec::new(),
            problems: Vec::new(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        let problems = self.problems.iter();
        let problems =
            problems.map(|Problem { path, message }| json!({"path": path, "message": message}));
        json!({
            "result": self.result,
            "at": self.at,
            "changed": self.changed,
            "restart_needed": self.restart_needed,
            "problems": problems.collect::<Vec<_>>(),
        })
    }

    /// Writes it to the log.
    pub(crate) fn log(&self) {
        if self.result == ReloadResult::Refused {
            for Problem { path, message } in &self.problems {
                tracing::error!(key = path, problem = message, "configuration refused");
            }
        } else {
            let (result, changed) = (self.result.label(), self.changed.join(" "));
            tracing::info!(result, changed, "configuration reloaded");
        }
        if !self.restart_needed.is_empty() {
            let keys = self.restart_needed.join(" ");
            tracing::warn!(keys, "these keys change only with a restart");
        }
    }
}
