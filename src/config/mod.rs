//! The configuration file, parsed and validated: a value of these types is always valid.
//!
//! Each key is declared once, in a `section!` of `sections`, `callers`, `jwt`, `shared` or `tls`. The declaration yields its field, reader, default,
//! schema, reference and template, what the views show, its comparison, and whether a change needs a restart. A type with
//! `section::Notation` defines how a value is written. `load` merges the layers and checks the rules that span several keys.
//!
//! **To add a key**, declare it in its section: a doc comment with its meaning, its unit and the reason for its default; its name,
//! notation and default; `restart` if a change needs one. Run the tests once with `REVGATE_BLESS=1` to render the documents under
//! `/config`, and read the new lines. A value in a new format needs a notation, with rows in the table of `tests/schema.rs`; a rule that
//! spans keys is a row in `load::check`.

mod callers;
mod environment;
pub(crate) mod excerpt;
mod files;
mod given;
mod jwt;
mod load;
mod notation;
mod places;
mod problem;
mod proxies;
mod quote;
mod reading;
pub mod reference;
mod secret;
mod section;
mod sections;
mod shared;
#[cfg(test)]
mod tests;
mod tls;
mod warnings;

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, sync::Arc};

use serde_json::{Value, json};

pub(crate) use self::notation::{duration, log_directives};
pub use self::{
    callers::{Caller, CallerCredential, CallerRules, Rate, Token},
    given::Given,
    jwt::{Jwks, Jwt},
    load::{admin_address, from_toml, load, load_given, referenced_files},
    problem::{Origin, Position, Problem, Problems},
    secret::{MAKE_A_KEY, Secret, SecretSource},
    sections::*,
    shared::Shared,
    tls::{ClientAuth, Tls},
};
use self::{
    places::{Part, Places},
    reading::{Context, Location, find},
    section::{Notation, View, section},
};
use crate::types::key_id;

section! {
    /// Configuration of revgate.
    pub struct Config: Debug, Clone {
        /// The listener for callers.
        listen: Listen;
        /// The listener for operators.
        admin: Admin;
        /// The DevRev API and the connections to it.
        upstream: Upstream;
        /// How callers authenticate.
        auth: Auth;
        /// Upstream credentials by name. Mode "inject" needs at least one.
        tokens: BTreeMap<String, Token>;
        /// The services that may call, by name; the name is also the label in metrics. Mode "inject" needs at least one. A reload keeps the state of callers that it does not change.
        callers: BTreeMap<String, Caller>;
        /// Rules for callers that do not set their own; in mode "validate", for each token.
        defaults: CallerRules;
        /// Limits that bound the memory of one gateway.
        limits: Limits;
        /// How failed attempts are retried.
        retry: Retry;
        /// How callers share the upstream quota.
        quota: Quota;
        /// Rules that rename deprecated fields. A rule for rev-users.link and rev-users.unlink is built in; your own rule for one of these operations replaces it there.
        rewrite: Vec<Rewrite>;
        /// One quota for many replicas, through Redis or Valkey. Without this section no Redis is used, and each replica shares only what it sees.
        shared: Option<Shared>, restart;
        /// What is logged, to standard error.
        log: Log;
        /// Traces for an OpenTelemetry collector. `traceparent` goes to DevRev even if nothing is exported.
        trace: Trace;
        /// How the gateway shuts down.
        drain: Drain;
    }
    then collected() -> {
        /// Every file that it refers to, such as those of secrets. A change in one of them changes the configuration.
        files: Vec<PathBuf>,
        /// Problems that do not keep the configuration from being used.
        warnings: Vec<Problem>,
        /// Where each key stands.
        places: Arc<Places>,
    }
}

fn collected(at: &Location<'_>) -> Option<(Vec<PathBuf>, Vec<Problem>, Arc<Places>)> {
    let Context {
        files,
        warnings,
        places,
        ..
    } = at.context;
    Some((files.take(), warnings.take(), places.clone()))
}

impl Config {
    /// A problem of a key that shows only when the configuration is used.
    pub fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        let name = path.rsplit('.').next().unwrap_or_default();
        let shown = quote::is_quotable(name)
            .unwrap_or(false)
            .then(|| self.effective());
        let found = shown.and_then(|shown| quote::value(find(&shown, path)?));
        Problem {
            found,
            origin: self.places.origin(path, Part::Value),
            ..Problem::new(path, message)
        }
    }

    /// The configuration for the admin listener, under the file's names: references instead of secrets, and for each key its id instead of
    /// its hash. The id is the first 8 digits of the hash, so keys must be random.
    pub fn redacted(&self) -> Value {
        let mut shown = Self::show(self, View::Redacted);
        for (name, caller) in &self.callers {
            if let CallerCredential::Keys(keys) = &caller.credential {
                // The file has no such key and would be rejected with it, so `effective` leaves it out.
                shown["callers"][name]["key_ids"] =
                    json!(keys.iter().map(key_id).collect::<Vec<_>>());
            }
        }
        shown
    }

    /// The configuration with the hashes of keys, as in the file. The output loads again with the same meaning.
    pub fn effective(&self) -> Value {
        Self::show(self, View::Effective)
    }

    /// The keys whose values differ from those of `old`, sorted by name. Never returns a value.
    pub fn differences(&self, old: &Config) -> Vec<String> {
        let shown = |config| Self::show(config, View::Compared);
        let mut paths = Vec::new();
        section::diff(&shown(old), &shown(self), "", &mut paths);
        // A change of a caller's key is reported as `key`, whether the file holds a reference or the hash.
        for path in &mut paths {
            path.truncate(path.trim_end_matches("_sha256").len());
        }
        if let (Some(old), Some(new)) = (&old.listen.tls, &self.listen.tls) {
            paths.extend(new.changed_files(old));
        }
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// Restores the values that need a restart from `old`, and returns their keys. New contents of the files of `listen.tls` need none, as
    /// long as the paths are the same.
    pub fn keep_restart_only(&mut self, old: &Config) -> Vec<String> {
        let mut kept = Vec::new();
        Self::restore(self, old, "", &mut kept);
        kept
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// Whether only processes of this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Tcp(address) => address.ip().is_loopback(),
            Address::Unix(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
