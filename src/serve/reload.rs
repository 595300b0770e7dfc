//! A changed file becomes what is served, or changes nothing.
//!
//! Everything that can fail is done first; then each worker's stack is replaced. A request keeps the stack that it began
//! with, so it sees one configuration.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use super::{tokens::Notices, watch::Fingerprint, worker::Handle};
use crate::{
    config::{self, AuthMode, Config, Problem, Problems, TokenSource},
    stack::Shared,
    telemetry::log::LevelHandle,
};

pub struct Reloader {
    /// None where the configuration came from no file, as in the demo.
    file: Option<PathBuf>,
    shared: Arc<Shared>,
    workers: Vec<Handle>,
    level: Option<LevelHandle>,
    current: ArcSwap<Config>,
    expiry: Notices,
    /// Held while a reload runs: one at a time.
    last: Mutex<Last>,
}

struct Last {
    /// Of the files, before they were read.
    fingerprint: Fingerprint,
    report: Option<Report>,
}

/// What became of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// "applied", "unchanged" or "refused".
    pub result: &'static str,
    /// Epoch seconds.
    pub at: u64,
    /// Keys that hold from now on.
    pub changed: Vec<String>,
    /// Keys that will hold after a restart.
    pub restart_needed: Vec<String>,
    /// Why it was refused, as key path and words.
    pub problems: Vec<(String, String)>,
}

impl Report {
    fn new(result: &'static str) -> Report {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Report {
            result,
            at: now.unwrap_or_default().as_secs(),
            changed: Vec::new(),
            restart_needed: Vec::new(),
            problems: Vec::new(),
        }
    }

    pub fn json(&self) -> Value {
        let problems = self.problems.iter();
        let problems = problems.map(|(path, message)| json!({"path": path, "message": message}));
        json!({
            "result": self.result,
            "at": self.at,
            "changed": self.changed,
            "restart_needed": self.restart_needed,
            "problems": problems.collect::<Vec<_>>(),
        })
    }
}

impl Reloader {
    pub fn new(
        file: Option<PathBuf>,
        config: Arc<Config>,
        shared: Arc<Shared>,
        workers: Vec<Handle>,
        level: Option<LevelHandle>,
    ) -> Self {
        let fingerprint = Fingerprint::of(file.as_deref(), &config);
        let expiry = Notices::default();
        expiry.tell(&config, &shared.metrics);
        Reloader {
            file,
            shared,
            workers,
            level,
            current: ArcSwap::new(config),
            expiry,
            last: Mutex::new(Last {
                fingerprint,
                report: None,
            }),
        }
    }

    /// What holds now.
    pub fn config(&self) -> Arc<Config> {
        self.current.load_full()
    }

    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// What became of the last reload, if there was one.
    pub fn last(&self) -> Option<Report> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.report.clone()
    }

    /// The files as they were when they were read last.
    pub fn read_last(&self) -> Fingerprint {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.fingerprint.clone()
    }

    /// Whether the files are those that were read last.
    pub fn is_current(&self, now: &Fingerprint) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.fingerprint == *now
    }

    /// Says of each token that is about to expire, or has, that it is; once.
    pub fn tell_expiry(&self) {
        self.expiry.tell(&self.config(), &self.shared.metrics);
    }

    /// Reads the file again and makes it hold, whole or not at all. Blocks on files.
    pub fn reload(&self) -> Report {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.config();
        // Taken before the files are read: what changes in between is seen as a change.
        let before = std::mem::replace(&mut last.fingerprint, Fingerprint::of(self.file(), &old));
        let report = match self.load().and_then(|new| self.apply(&old, new)) {
            Ok(report) => report,
            Err(Problems(problems)) => Report {
                problems: problems
                    .into_iter()
                    .map(|problem| (problem.path, problem.message))
                    .collect(),
                ..Report::new("refused")
            },
        };
        if report.result != "refused" {
            // DevRev may have been told to take the same token again, and its file written anew to say so.
            for (name, token) in &self.config().tokens {
                if let TokenSource::File(path) = &token.source
                    && last.fingerprint.differs(&before, path)
                {
                    self.shared.try_token_again(name);
                }
            }
        }
        // The new configuration may refer to other files.
        last.fingerprint.extend(self.file(), &self.config());
        self.shared.metrics.config_reload(report.result);
        log(&report);
        last.report = Some(report.clone());
        report
    }

    fn load(&self) -> Result<Config, Problems> {
        match &self.file {
            Some(file) => config::load(file),
            None => Err(problem(
                "",
                "this gateway was not started from a file; start it with -c FILE",
            )),
        }
    }

    fn apply(&self, old: &Config, mut new: Config) -> Result<Report, Problems> {
        let mut report = Report::new("unchanged");
        (report.changed, report.restart_needed) = keep_what_needs_a_restart(old, &mut new)?;
        if report.changed.is_empty() {
            return Ok(report);
        }
        let unfit = |error: http::Error| problem("tokens", error.to_string());
        let tokens = self.shared.next_tokens(&new).map_err(unfit)?;
        self.shared.prepare(&new);
        let stacks = self
            .workers
            .iter()
            .map(|worker| worker.build(&new, &self.shared));
        let stacks: Vec<_> = stacks.collect::<Result<_, _>>().map_err(unfit)?;
        // From here on nothing fails.
        self.shared.adopt(&new, tokens);
        for (worker, stack) in self.workers.iter().zip(stacks) {
            worker.replace(stack, &new);
        }
        if old.log.level != new.log.level
            && let Some(level) = &self.level
            && let Err(why) = level.set(&new.log.level)
        {
            tracing::warn!(why, "log.level could not be changed");
        }
        self.current.store(Arc::new(new));
        self.tell_expiry();
        report.result = "applied";
        Ok(report)
    }
}

fn problem(path: &str, message: impl Into<String>) -> Problems {
    Problems(vec![Problem {
        path: path.to_owned(),
        message: message.into(),
    }])
}

/// Puts back into `new` what cannot change while the gateway runs. Returns the keys that change, and those that were put
/// back.
fn keep_what_needs_a_restart(
    old: &Config,
    new: &mut Config,
) -> Result<(Vec<String>, Vec<String>), Problems> {
    let wanted = new.differences(old);
    let inject = old.auth.mode == AuthMode::Inject && new.auth.mode != AuthMode::Inject;
    if inject && (new.tokens.is_empty() || new.callers.is_empty()) {
        return Err(problem(
            "auth.mode",
            "cannot change while the gateway runs, and without a token and a caller nobody could call until the restart; restart the gateway",
        ));
    }
    new.listen = old.listen.clone();
    new.admin = old.admin.clone();
    new.auth.mode = old.auth.mode;
    new.upstream.url = old.upstream.url.clone();
    new.upstream.roots = old.upstream.roots.clone();
    new.upstream.http2 = old.upstream.http2;
    new.upstream.max_connections = old.upstream.max_connections;
    new.log.format = old.log.format;
    new.trace = old.trace.clone();
    let changed = new.differences(old);
    let kept = wanted.into_iter().filter(|key| !changed.contains(key));
    let kept = kept.collect();
    Ok((changed, kept))
}

fn log(report: &Report) {
    match report.result {
        "refused" => {
            for (key, problem) in &report.problems {
                tracing::error!(key, problem, "configuration refused");
            }
        }
        result => {
            let changed = report.changed.join(" ");
            tracing::info!(result, changed, "configuration reloaded");
        }
    }
    if !report.restart_needed.is_empty() {
        let keys = report.restart_needed.join(" ");
        tracing::warn!(keys, "these keys change only with a restart");
    }
}
