//! What the operator wrote, turned into what the program means. Values of these types cannot be wrong.
//!
//! Each key is declared once, in a `section!` of `sections`, `callers`, `jwt` or `tls`. From that come its field, its reader, its default, its
//! part of the schema, of the reference and of the template, what is shown of it, its comparison, and whether a reload takes it. How a
//! value is written is a type with `section::Notation`; `load` puts the layers together and asks what takes several keys.
//!
//! **To add a key**, write it into its section: a doc comment that says what it is, in which unit, and why its default is what it is; its
//! name, its notation and its default; `restart` if a reload does not take it. Run the tests once with `REVGATE_BLESS=1`, which writes
//! the documents under `/config`, and read what they say of it. That is all. A value that is written as no other needs a notation,
//! with rows in the table of `tests/schema.rs`; a rule across keys is a row in `load::check`.

mod callers;
mod jwt;
mod load;
mod notation;
mod reading;
pub mod reference;
mod secret;
mod section;
mod sections;
#[cfg(test)]
mod tests;
mod tls;

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};

pub use self::{
    callers::{Caller, CallerCredential, CallerRules, Rate, Token},
    jwt::{Jwks, Jwt},
    load::{from_toml, load, referred},
    notation::{duration, log_directives},
    reading::{Problem, Problems},
    secret::{Secret, TokenSource},
    sections::*,
    tls::{ClientAuth, Tls},
};
use self::{
    notation::Unsupported,
    reading::At,
    section::{Notation, View, section},
};
use crate::types::key_id;

section! {
    /// Configuration of revgate.
    pub struct Config: Debug, Clone {
        /// Where callers connect.
        listen: Listen;
        /// The listener for operators.
        admin: Admin;
        /// The DevRev API and the connections to it.
        upstream: Upstream;
        /// How callers are known.
        auth: Auth;
        /// Upstream credentials by name; at least one in mode "inject".
        tokens: BTreeMap<String, Token>;
        /// Who may call, by name; the name is also the metric label. At least one in mode "inject". Callers that stay the same keep the state of their limits.
        callers: BTreeMap<String, Caller>;
        /// For every caller that does not say otherwise; in mode "validate", for each token.
        defaults: CallerRules;
        /// Bounds that keep one gateway's memory finite.
        limits: Limits;
        /// How failed attempts are repeated.
        retry: Retry;
        /// How the upstream quota is shared.
        quota: Quota;
        /// Renames of deprecated fields. The built-in rule for rev-users.link and rev-users.unlink is added; a rule for the same operation replaces it.
        rewrite: Vec<Rewrite>;
        /// One quota for many replicas. Not supported by this version.
        shared: Unsupported<Shared>;
        /// What is logged, to standard error.
        log: Log;
        /// Traces, for an OpenTelemetry collector. `traceparent` goes to DevRev with or without it.
        trace: Trace;
        /// How a stop goes.
        drain: Drain;
    }
    then found() -> {
        /// Every file that it refers to, such as secrets: what changes in them changes it.
        files: Vec<PathBuf>,
        /// What is no problem yet: it holds all the same.
        warnings: Vec<Problem>,
    }
}

fn found(at: &At) -> Option<(Vec<PathBuf>, Vec<Problem>)> {
    Some((at.context.files.take(), Vec::new()))
}

impl Config {
    /// The configuration under the file's names, with no secret in it, for whoever may ask the admin listener: references as
    /// they are, and no whole hash of a key either; of a key its id, 8 digits of its hash, which is why a key must
    /// be random.
    pub fn redacted(&self) -> Value {
        let mut shown = Self::show(self, View::Redacted);
        for (name, caller) in &self.callers {
            if let CallerCredential::Keys(keys) = &caller.credential {
                // No key of the file: it would not load.
                shown["callers"][name]["key_ids"] =
                    json!(keys.iter().map(key_id).collect::<Vec<_>>());
            }
        }
        shown
    }

    /// The same with the hashes, which the file holds itself: written to a file, it loads as what it shows.
    pub fn effective(&self) -> Value {
        Self::show(self, View::Effective)
    }

    /// The keys whose values differ from those of `old`, in the order of their names; never a value.
    pub fn differences(&self, old: &Config) -> Vec<String> {
        let shown = |config| Self::show(config, View::Compared);
        let mut paths = Vec::new();
        section::differ(&shown(old), &shown(self), "", &mut paths);
        // A key is named as one in a file is, wherever its hash is from.
        for path in &mut paths {
            path.truncate(path.trim_end_matches("_sha256").len());
        }
        if let (Some(old), Some(new)) = (&old.listen.tls, &self.listen.tls) {
            paths.extend(new.renewed(old));
        }
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// Puts back what only a restart takes, and returns the keys that it put back. What the files of `listen.tls` hold may change, as long
    /// as they are the same files.
    pub fn keep_restart_only(&mut self, old: &Config) -> Vec<String> {
        let mut kept = Vec::new();
        Self::keep(self, old, "", &mut kept);
        kept
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// Whether only this machine can connect.
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
