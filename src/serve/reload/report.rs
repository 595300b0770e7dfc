//! The result of a reload.

use serde_json::{Value, json};

use crate::{
    config::{Config, Problem},
    event::Event,
    label::label_enum,
    telemetry::labels::ReloadResult,
    wall_clock,
};

label_enum! {
    /// What asked for a reload.
    pub(crate) enum ReloadCause {
        /// A file has changed.
        File = "file",
        /// SIGHUP.
        Signal = "signal",
        /// The admin listener.
        Admin = "admin",
    }
}

/// The result of one reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub result: ReloadResult,
    /// Epoch seconds.
    pub at: u64,
    /// Keys that changed, with those of `added` and `removed`.
    pub changed: Vec<String>,
    /// Callers and tokens that the old configuration did not have, such as `callers.billing`.
    pub added: Vec<String>,
    /// Callers and tokens that the new one does not have.
    pub removed: Vec<String>,
    /// Keys that change only after a restart.
    pub restart_needed: Vec<String>,
    /// Why it was refused.
    pub problems: Vec<Problem>,
}

/// The callers and tokens of a configuration.
fn names(config: &Config) -> Vec<String> {
    let callers = config.callers.keys().map(|name| format!("callers.{name}"));
    let tokens = config.tokens.keys().map(|name| format!("tokens.{name}"));
    callers.chain(tokens).collect()
}

/// Where a problem is, as the log and the admin's JSON have it. What does not apply is left out.
pub(super) struct Facts {
    pub file: Option<String>,
    pub line: Option<usize>,
    pub column: Option<usize>,
}

impl Facts {
    pub(super) fn of(problem: &Problem) -> Facts {
        let (file, position) = problem.place();
        Facts {
            file: file.map(|file| file.display().to_string()),
            line: position.map(|position| position.line),
            column: position.map(|position| position.column),
        }
    }
}

impl Report {
    pub(crate) fn new(result: ReloadResult) -> Report {
        Report {
            result,
            at: wall_clock::epoch_seconds(),
            changed: Vec::new(),
            added: Vec::new(),
            removed: Vec::new(),
            restart_needed: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// It has been applied, and these keys have changed.
    pub(super) fn applied(&mut self, changed: Vec<String>, old: &Config, new: &Config) {
        self.result = ReloadResult::Applied;
        self.changed = changed;
        let (before, after) = (names(old), names(new));
        self.added = after
            .iter()
            .filter(|name| !before.contains(name))
            .cloned()
            .collect();
        self.removed = before
            .into_iter()
            .filter(|name| !after.contains(name))
            .collect();
    }

    pub(crate) fn json(&self) -> Value {
        let problems = self.problems.iter().map(|problem| {
            let Facts { file, line, column } = Facts::of(problem);
            json!({
                "path": problem.path,
                "message": problem.text(),
                "found": problem.found,
                "file": file,
                "line": line,
                "column": column,
                "variable": problem.variable(),
                "excerpt": problem.excerpt,
            })
        });
        json!({
            "result": self.result,
            "at": self.at,
            "changed": self.changed,
            "added": self.added,
            "removed": self.removed,
            "restart_needed": self.restart_needed,
            "problems": problems.collect::<Vec<_>>(),
        })
    }

    /// Writes it to the log.
    pub(crate) fn log(&self, cause: ReloadCause) {
        let by = cause.label();
        if self.result == ReloadResult::Refused {
            for problem in &self.problems {
                let Facts { file, line, column } = Facts::of(problem);
                tracing::error!(
                    event = Event::ConfigRefused.label(),
                    by,
                    key = problem.path,
                    problem = problem.text(),
                    file,
                    line,
                    column,
                    variable = problem.variable(),
                    found = problem.found,
                    excerpt = problem.excerpt,
                    "configuration refused"
                );
            }
        } else {
            let is_named = |key: &&String| !self.added.contains(key) && !self.removed.contains(key);
            let changed: Vec<_> = self.changed.iter().filter(is_named).cloned().collect();
            let list = |keys: &[String]| (!keys.is_empty()).then(|| keys.join(" "));
            tracing::info!(
                event = Event::ConfigReloaded.label(),
                by,
                result = self.result.label(),
                added = list(&self.added),
                changed = list(&changed),
                removed = list(&self.removed),
                "configuration reloaded"
            );
        }
        if !self.restart_needed.is_empty() {
            let keys = self.restart_needed.join(" ");
            tracing::warn!(
                event = Event::RestartNeeded.label(),
                keys,
                "these keys change only with a restart"
            );
        }
    }
}
