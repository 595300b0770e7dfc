//! A changed file becomes what is served, or changes nothing.
//!
//! Everything that can fail is done first; then each worker's stack is replaced. A request keeps the stack that it began
//! with, so it sees one configuration.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use super::{
    connection::Settings,
    jwks,
    tls::{self, Generation},
    tokens::Notices,
    watch::Fingerprint,
    worker::Handle,
};
use crate::{
    config::{
        self, AuthMode, Caller, CallerCredential, Config, Problem, Problems, Tls, TokenSource,
    },
    layer::authenticate::SigningKeys,
    stack::Shared,
    telemetry::log::LevelHandle,
};

pub struct Reloader {
    /// None where the configuration came from no file, as in the demo.
    file: Option<PathBuf>,
    shared: Arc<Shared>,
    workers: Vec<Handle>,
    settings: Arc<Settings>,
    level: Option<LevelHandle>,
    current: ArcSwap<Config>,
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
        (workers, settings): (Vec<Handle>, Arc<Settings>),
        level: Option<LevelHandle>,
    ) -> Self {
        let fingerprint = Fingerprint::of(file.as_deref(), &config.files);
        let expiry = Notices::default();
        expiry.tell(&config, &shared.metrics);
        Reloader {
            file,
            shared,
            workers,
            settings,
            level,
            current: ArcSwap::new(config),
            turn: Mutex::default(),
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
        self.expiry.tell(&self.config(), &self.shared.metrics);
    }

    /// Reads the file again and makes it hold, whole or not at all. Blocks on files.
    pub fn reload(&self) -> Report {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.config();
        // Taken before the files are read: what changes in between is seen as a change. Those that the new file refers to
        // are among them, so that a secret which comes after its file is seen too.
        let mut fingerprint = Fingerprint::of(self.file(), &old.files);
        if let Some(file) = self.regular_file() {
            fingerprint.extend(&config::referred(file));
        }
        let before = std::mem::replace(&mut self.noted().fingerprint, fingerprint);
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
        let now = self.noted().fingerprint.clone();
        if report.result != "refused" {
            // DevRev may have been told to take the same token again, and its file written anew to say so.
            for (name, token) in &self.config().tokens {
                if let TokenSource::File(path) = &token.secret.source
                    && now.differs(&before, path)
                {
                    self.shared.try_token_again(name);
                }
            }
        }
        self.shared.metrics.config_reload(report.result);
        log(&report);
        self.noted().report = Some(report.clone());
        report
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

    fn apply(&self, old: &Config, mut new: Config) -> Result<Report, Problems> {
        let mut report = Report::new("unchanged");
        (report.changed, report.restart_needed) = keep_what_needs_a_restart(old, &mut new)?;
        if report.changed.is_empty() {
            return Ok(report);
        }
        let unfit = |error: http::Error| problem("tokens", error.to_string());
        let mut tokens = self.shared.next_tokens(old).map_err(unfit)?;
        // Over the old ones: a request under way may still ask for one that is gone from the file.
        tokens.extend(self.shared.next_tokens(&new).map_err(unfit)?);
        let keys = self.signing_keys(old, &new)?;
        let old_keys = self.shared.signing_keys.swap(keys);
        let old_limiters = self.shared.limiters.load_full();
        self.shared.prepare(&new);
        let stacks = self
            .workers
            .iter()
            .map(|worker| worker.build(&new, &self.shared));
        let made = stacks.collect::<Result<Vec<_>, _>>().map_err(unfit);
        let made = made.and_then(|stacks| Ok((stacks, generation(old, &new)?)));
        let (stacks, generation) = made.inspect_err(|_| {
            self.shared.signing_keys.store(old_keys.clone());
            self.shared.limiters.store(old_limiters);
        })?;
        // From here on nothing fails.
        if let (Some(next), Some(handshakes)) = (generation, &self.settings.handshakes) {
            handshakes.replace(next);
        }
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
        warn(&new);
        self.current.store(Arc::new(new));
        self.tell_expiry();
        report.result = "applied";
        Ok(report)
    }

    /// Those that are there, unless they are to come from elsewhere now.
    fn signing_keys(
        &self,
        old: &Config,
        new: &Config,
    ) -> Result<Option<Arc<SigningKeys>>, Problems> {
        let source = |config: &Config| config.auth.jwt.as_ref().map(|jwt| jwt.jwks.clone());
        if source(old) == source(new) {
            return Ok(self.shared.signing_keys.load_full());
        }
        jwks::start(new, &self.shared.metrics)
            .map_err(|error| problem("auth.jwt.jwks", format!("{error:#}")))
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
    if old.auth.mode == AuthMode::Inject && new.auth.mode != AuthMode::Inject {
        if new.tokens.is_empty() || new.callers.is_empty() {
            return Err(problem(
                "auth.mode",
                "cannot change while the gateway runs, and without a token and a caller nobody could call until the restart; restart the gateway",
            ));
        }
        // A file for mode "validate" need not say whose token a caller uses; until the restart it matters.
        let only = match new.tokens.len() {
            1 => new.tokens.keys().next().cloned(),
            _ => None,
        };
        for (name, caller) in &mut new.callers {
            caller.token = caller.token.take().or_else(|| only.clone());
            if caller.token.is_none() {
                return Err(problem(
                    &format!("callers.{name}.token"),
                    "is needed until the restart that auth.mode asks for; name one of the tokens, or restart the gateway",
                ));
            }
        }
    }
    let anonymous = |caller: &Caller| matches!(caller.credential, CallerCredential::Anonymous);
    if !old.listen.address.is_local()
        && let Some((name, _)) = new.callers.iter().find(|(_, caller)| anonymous(caller))
    {
        // The file is right about the address that it names; the sockets are still those of the old one.
        return Err(problem(
            &format!("callers.{name}.anonymous"),
            "would let anyone in until the restart that listen.address needs; restart the gateway",
        ));
    }
    new.keep_restart_only(old);
    is_in_time(old.listen.tls.as_ref(), new.listen.tls.as_ref())?;
    let changed = new.differences(old);
    let kept = wanted.into_iter().filter(|key| !changed.contains(key));
    let kept = kept.collect();
    Ok((changed, kept))
}

/// Whether a new certificate holds now. One that ran out where it stood must not hold up other changes; one that is put there so is a
/// mistake.
fn is_in_time(old: Option<&Tls>, new: Option<&Tls>) -> Result<(), Problems> {
    let (Some(old), Some(new)) = (old, new) else {
        return Ok(());
    };
    let now = SystemTime::now();
    match new.out_of_date(now) {
        Some(message) if new.valid != old.valid && old.out_of_date(now).is_none() => {
            Err(problem("listen.tls.cert", message))
        }
        _ => Ok(()),
    }
}

/// What handshakes need from now on, if it changes.
fn generation(old: &Config, new: &Config) -> Result<Option<Generation>, Problems> {
    match (&old.listen.tls, &new.listen.tls) {
        (Some(old), Some(new)) if !new.is_same(old) => {
            let made =
                tls::prepare(new).map_err(|error| problem("listen.tls", error.to_string()))?;
            Ok(Some(made))
        }
        _ => Ok(None),
    }
}

/// Says what is odd about a configuration that holds.
pub fn warn(config: &Config) {
    for Problem { path, message } in &config.warnings {
        tracing::warn!(key = path, "{message}");
    }
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
