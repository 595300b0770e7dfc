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
            restart_needed: Vec::new(),
            problems: Vec::new(),
        }
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
            "restart_needed": self.restart_needed,
            "problems": problems.collect::<Vec<_>>(),
        })
    }

    /// Writes it to the log.
    pub(crate) fn log(&self) {
        if self.result == ReloadResult::Refused {
            for problem in &self.problems {
                let Facts { file, line, column } = Facts::of(problem);
                tracing::error!(
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
            let (result, changed) = (self.result.label(), self.changed.join(" "));
            tracing::info!(result, changed, "configuration reloaded");
        }
        if !self.restart_needed.is_empty() {
            let keys = self.restart_needed.join(" ");
            tracing::warn!(keys, "these keys change only with a restart");
        }
    }
}
