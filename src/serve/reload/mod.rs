//! Reloads the configuration: as a whole, or not at all.
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
use tokio::time::Instant;

use self::{report::Facts, restart::keep_what_needs_a_restart, watch::Fingerprint};
pub(super) use self::{
    report::{ReloadCause, Report},
    watch::FileWatcher,
};
use super::{control::expiry::ExpiryNotices, descriptors, worker::WorkerHandle};
use crate::{
    config::{self, Config, Given, Problem, Problems, SecretSource},
    event::Event,
    plan::Plan,
    policy::{duration_words::duration_words, trouble::Trouble},
    state::State,
    telemetry::{labels::ReloadResult, log::LevelHandle},
    wall_clock,
};

/// The configuration in use, and its plan.
pub(crate) struct Current {
    pub config: Config,
    pub plan: Arc<Plan>,
}

pub(crate) struct Reloader {
    /// `None` if the configuration did not come from a file, as in the demo.
    file: Option<PathBuf>,
    /// Of the sockets that the process was given, and keeps.
    given: Given,
    state: Arc<State>,
    workers: Vec<WorkerHandle>,
    level: Option<LevelHandle>,
    current: ArcSwap<Current>,
    expiry: ExpiryNotices,
    /// Held during a reload, so that one runs at a time. Readers never take it, since files may be slow.
    reload_lock: Mutex<()>,
    last: Mutex<LastReload>,
    /// While the files are refused.
    refused: Mutex<Trouble>,
    start: Instant,
}

/// How often files are read in one reload while they keep changing.
const MAX_READS: usize = 5;

struct LastReload {
    /// Of the files, taken before they were read.
    fingerprint: Fingerprint,
    report: Option<Report>,
    /// When a file was first refused that has not been put right since, in epoch seconds.
    refused_since: Option<u64>,
}

impl Reloader {
    pub(crate) fn new(
        file: Option<PathBuf>,
        current: Current,
        state: Arc<State>,
        workers: Vec<WorkerHandle>,
        level: Option<LevelHandle>,
    ) -> Self {
        let fingerprint = Fingerprint::of(file.as_deref(), &current.config.files);
        let reloader = Reloader {
            file,
            given: Given::default(),
            state,
            workers,
            level,
            current: ArcSwap::from_pointee(current),
            reload_lock: Mutex::default(),
            expiry: ExpiryNotices::default(),
            last: Mutex::new(LastReload {
                fingerprint,
                report: None,
                refused_since: None,
            }),
            refused: Mutex::default(),
            start: Instant::now(),
        };
        reloader.report_expiry();
        reloader.count_read(true);
        reloader
    }

    pub(crate) fn with_given(self, given: Given) -> Self {
        Reloader { given, ..self }
    }

    /// The configuration in use.
    pub(crate) fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The report of the last reload, if there was one.
    pub(crate) fn last(&self) -> Option<Report> {
        self.last_reload().report.clone()
    }

    /// Since when the file is refused, in epoch seconds.
    pub(crate) fn refused_since(&self) -> Option<u64> {
        self.last_reload().refused_since
    }

    fn last_reload(&self) -> MutexGuard<'_, LastReload> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fingerprint of the files when they were last read.
    pub(crate) fn last_fingerprint(&self) -> Fingerprint {
        self.last_reload().fingerprint.clone()
    }

    /// Reports tokens that have expired or expire soon, once each.
    pub(crate) fn report_expiry(&self) {
        let current = self.current.load();
        self.expiry.report(&current.config, &self.state.metrics);
    }

    fn count_read(&self, is_accepted: bool) {
        let now = is_accepted.then(|| wall_clock::since_epoch().as_secs_f64());
        self.state.metrics.config_read(now);
    }

    /// Reads the file again and applies it, as a whole or not at all. Blocks on files.
    pub(crate) fn reload(&self, cause: ReloadCause) -> Report {
        let _one_at_a_time = self
            .reload_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let old = self.current();
        let (now, loaded) = self.load_unchanging(&old.config);
        let before = std::mem::replace(&mut self.last_reload().fingerprint, now.clone());
        let mut report = match loaded.and_then(|new| self.apply(&old.config, new, cause)) {
            Ok(report) => report,
            Err(Problems(problems)) => Report {
                problems,
                ..Report::new(ReloadResult::Refused)
            },
        };
        if report.result != ReloadResult::Refused {
            self.retry_rewritten_tokens(&now, &before);
        }
        self.state.metrics.config_reload(report.result);
        self.count_read(report.result != ReloadResult::Refused);
        let news = report.clone();
        {
            let mut last = self.last_reload();
            if report.result == ReloadResult::Refused
                && let Some(before) = last.report.take()
            {
                // What has waited for a restart before does so still.
                report.restart_needed = before.restart_needed;
            }
            last.refused_since = (report.result == ReloadResult::Refused)
                .then(|| last.refused_since.unwrap_or(report.at));
            last.report = Some(report.clone());
        }
        // Last, so that whoever reads the line finds the same in `/status`.
        news.log(cause);
        self.note_refusals(report.result);
        report
    }

    /// Logs that the files are accepted again.
    fn note_refusals(&self, result: ReloadResult) {
        let now = self.start.elapsed();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if result == ReloadResult::Refused {
            refused.sign(now);
            return;
        }
        let over = refused.end(now);
        drop(refused);
        if let Some(over) = over {
            tracing::info!(
                event = Event::ConfigAcceptedAgain.label(),
                after_seconds = over.lasted.as_secs_f64(),
                refusals = over.signs,
                "the configuration's files are accepted again, after {}; reloads that were refused: {}",
                duration_words(over.lasted),
                over.signs
            );
        }
    }

    /// Changes from one configuration to the next.
    fn apply(&self, old: &Config, mut new: Config, cause: ReloadCause) -> Result<Report, Problems> {
        let (changed, restart_needed) = keep_what_needs_a_restart(old, &mut new)?;
        let mut report = Report::new(ReloadResult::Unchanged);
        report.restart_needed = restart_needed;
        if changed.is_empty() {
            return Ok(report);
        }
        let plan = Arc::new(Plan::of(&new)?);
        // Nothing below can fail.
        self.state.reconcile(&plan);
        for worker in &self.workers {
            worker.publish(&plan, &self.state);
        }
        if old.log.level != new.log.level
            && let Some(level) = &self.level
            && let Err(why) = level.set(&new.log.level, cause.label())
        {
            tracing::warn!(
                event = Event::LogLevelRefused.label(),
                why,
                "log.level could not be changed"
            );
        }
        warn(&new);
        self.current.store(Arc::new(Current { config: new, plan }));
        self.report_expiry();
        report.applied(changed, old, &self.current().config);
        Ok(report)
    }

    /// Lets a refused token be probed at once if its file was written again, even with the same value: DevRev may accept it again.
    fn retry_rewritten_tokens(&self, now: &Fingerprint, before: &Fingerprint) {
        for (name, token) in &self.current.load().config.tokens {
            if let SecretSource::File(path) = &token.secret.source
                && now.differs(before, path)
            {
                self.state.tokens.end_pause(name);
            }
        }
    }

    /// The file, if it is a regular one: reading a pipe would block this reload and all later ones.
    fn regular_file(&self) -> Option<&Path> {
        let regular = |file: &&Path| std::fs::metadata(file).is_ok_and(|found| found.is_file());
        self.file().filter(regular)
    }

    /// Loads the files, again if one of them changed meanwhile: it may have been half written. The fingerprint is that of the files before
    /// they were read, so that a change during the last try is noticed later.
    fn load_unchanging(&self, old: &Config) -> (Fingerprint, Result<Config, Problems>) {
        let mut tries = 0..MAX_READS;
        loop {
            // It includes the files to which the new file refers, so that a secret written later than its configuration is noticed too.
            let mut fingerprint = Fingerprint::of(self.file(), &old.files);
            if let Some(file) = self.regular_file() {
                fingerprint.extend(&config::referenced_files(file));
            }
            let loaded = self.load();
            tries.next();
            if tries.is_empty() || fingerprint.refreshed() == fingerprint {
                return (fingerprint, loaded);
            }
        }
    }

    fn load(&self) -> Result<Config, Problems> {
        match &self.file {
            Some(file) if file.exists() && self.regular_file().is_none() => Err(Problem::of_file(
                file,
                "is not a regular file any more; put one in its place",
            )
            .into()),
            Some(file) => {
                let mut config = config::load_given(file, &self.given)?;
                // As at the start, so that what was lowered there has not changed.
                descriptors::fit(&mut config)?;
                Ok(config)
            }
            None => Err(Problem::new(
                "",
                "this gateway was not started from a file; start it with -c FILE",
            )
            .into()),
        }
    }
}

/// Logs the warnings of a configuration.
pub(super) fn warn(config: &Config) {
    for problem in &config.warnings {
        let Facts { file, line, column } = Facts::of(problem);
        tracing::warn!(
            event = Event::ConfigWarning.label(),
            key = problem.path,
            file,
            line,
            column,
            variable = problem.variable(),
            found = problem.found,
            "{}",
            problem.text()
        );
    }
}
