//! A changed file becomes what is served, or changes nothing.
//!
//! 1. The files become a [`Config`], the configuration a [`Plan`]. All that can fail is done by then, and nothing has changed.
//! 2. The [`State`] is reconciled with the plan, and the plan is published to each worker. Neither can fail.
//!
//! A request keeps the plan that it began with.

mod report;
mod restart;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;

pub use self::{report::Report, watch::Watch};
use self::{restart::keep_what_needs_a_restart, watch::Fingerprint};
use super::{control::expiry::Notices, worker::Handle};
use crate::{
    config::{self, Config, Problem, Problems, TokenSource},
    plan::Plan,
    state::State,
    telemetry::{labels::ReloadResult, log::LevelHandle},
};

/// A configuration, and what was decided from it.
pub struct Current {
    pub config: Config,
    pub plan: Arc<Plan>,
}

pub struct Reloader {
    /// None where the configuration came from no file, as in the demo.
    file: Option<PathBuf>,
    state: Arc<State>,
    workers: Vec<Handle>,
    level: Option<LevelHandle>,
    current: ArcSwap<Current>,
    expiry: Notices,
    /// Held while a reload runs: one at a time. Nobody who only looks takes it, since files may be slow.
    turn: Mutex<()>,
    last: Mutex<Last>,
}

struct Last {
    /// Of the files, before they were read.
    fingerprint: Fingerprint,
    report: Option<Report>,
}

impl Reloader {
    pub fn new(
        file: Option<PathBuf>,
        current: Current,
        state: Arc<State>,
        workers: Vec<Handle>,
        level: Option<LevelHandle>,
    ) -> Self {
        let fingerprint = Fingerprint::of(file.as_deref(), &current.config.files);
        let reloader = Reloader {
            file,
            state,
            workers,
            level,
            current: ArcSwap::from_pointee(current),
            turn: Mutex::default(),
            expiry: Notices::default(),
            last: Mutex::new(Last {
                fingerprint,
                report: None,
            }),
        };
        reloader.tell_expiry();
        reloader
    }

    /// What holds now.
    pub fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// What became of the last reload, if there was one.
    pub fn last(&self) -> Option<Report> {
        self.noted().report.clone()
    }

    fn noted(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files as they were when they were read last.
    pub fn read_last(&self) -> Fingerprint {
        self.noted().fingerprint.clone()
    }

    /// Whether the files are those that were read last.
    pub fn is_current(&self, now: &Fingerprint) -> bool {
        self.noted().fingerprint == *now
    }

    /// Says of each token that is about to expire, or has, that it is; once.
    pub fn tell_expiry(&self) {
        let current = self.current.load();
        self.expiry.tell(&current.config, &self.state.metrics);
    }

    /// Reads the file again and makes it hold, whole or not at all. Blocks on files.
    pub fn reload(&self) -> Report {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.current();
        // Taken before the files are read: what changes in between is seen as a change. Those that the new file refers to
        // are among them, so that a secret which comes after its file is seen too.
        let mut fingerprint = Fingerprint::of(self.file(), &old.config.files);
        if let Some(file) = self.regular_file() {
            fingerprint.extend(&config::referred(file));
        }
        let now = fingerprint.clone();
        let before = std::mem::replace(&mut self.noted().fingerprint, fingerprint);
        let report = match self.load().and_then(|new| self.step(&old.config, new)) {
            Ok(report) => report,
            Err(Problems(problems)) => Report {
                problems,
                ..Report::new(ReloadResult::Refused)
            },
        };
        if report.result != ReloadResult::Refused {
            self.try_touched_tokens_again(&now, &before);
        }
        self.state.metrics.config_reload(report.result);
        report.log();
        self.noted().report = Some(report.clone());
        report
    }

    /// From one configuration to the next.
    fn step(&self, old: &Config, mut new: Config) -> Result<Report, Problems> {
        let (changed, restart_needed) = keep_what_needs_a_restart(old, &mut new)?;
        let mut report = Report::new(ReloadResult::Unchanged);
        report.restart_needed = restart_needed;
        if changed.is_empty() {
            return Ok(report);
        }
        let plan = Arc::new(Plan::of(&new)?);
        // From here on nothing fails.
        self.state.reconcile(&plan);
        for worker in &self.workers {
            worker.publish(&plan, &self.state);
        }
        if old.log.level != new.log.level
            && let Some(level) = &self.level
            && let Err(why) = level.set(&new.log.level)
        {
            tracing::warn!(why, "log.level could not be changed");
        }
        warn(&new);
        self.current.store(Arc::new(Current { config: new, plan }));
        self.tell_expiry();
        (report.result, report.changed) = (ReloadResult::Applied, changed);
        Ok(report)
    }

    /// DevRev may have been told to take the same token again, and its file written anew to say so.
    fn try_touched_tokens_again(&self, now: &Fingerprint, before: &Fingerprint) {
        for (name, token) in &self.current.load().config.tokens {
            if let TokenSource::File(path) = &token.secret.source
                && now.differs(before, path)
            {
                self.state.tokens.end_pause(name);
            }
        }
    }

    /// A pipe in the file's place would hold up every reload after it.
    fn regular_file(&self) -> Option<&Path> {
        let regular = |file: &&Path| std::fs::metadata(file).is_ok_and(|found| found.is_file());
        self.file().filter(regular)
    }

    fn load(&self) -> Result<Config, Problems> {
        match &self.file {
            Some(file) if file.exists() && self.regular_file().is_none() => Err(problem(
                "",
                "the file is not a regular one any more; put one in its place",
            )),
            Some(file) => config::load(file),
            None => Err(problem(
                "",
                "this gateway was not started from a file; start it with -c FILE",
            )),
        }
    }
}

fn problem(path: &str, message: impl Into<String>) -> Problems {
    Problems(vec![Problem {
        path: path.to_owned(),
        message: message.into(),
    }])
}

/// Says what is odd about a configuration that holds.
pub fn warn(config: &Config) {
    for Problem { path, message } in &config.warnings {
        tracing::warn!(key = path, "{message}");
    }
}
