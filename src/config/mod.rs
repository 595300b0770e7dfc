//! What the operator wrote, turned into what the program means.
//!
//! `raw` mirrors the file, `parse` turns it into the types below and collects every problem on the way,
//! `reference` renders the documents that are generated from it. Values of these types cannot be wrong.

mod callers;
mod compare;
mod jwt;
mod listen;
mod own;
mod parse;
mod raw;
mod redact;
pub mod reference;
pub mod secret;
mod sections;
#[cfg(test)]
mod tests;
mod tls;
mod tree;
mod units;

pub use parse::{from_toml, load, referred};
pub use tls::{ClientAuth, Tls};
pub use tree::{Problem, Problems};
pub use units::{duration, log_directives};

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, Uri};
use secrecy::SecretString;

use crate::{
    policy::{fair::Priority, jwt::KeySet, rewrite::Mode as RewriteMode, san::San},
    types::{AccessLog, Choice, Roots},
};

/// The effective configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: Listen,
    pub admin: Admin,
    pub upstream: Upstream,
    pub auth: Auth,
    /// Upstream credentials by name; never empty in mode "inject".
    pub tokens: BTreeMap<String, Token>,
    /// Callers by name; never empty in mode "inject".
    pub callers: BTreeMap<String, Caller>,
    /// What holds for a caller that does not say otherwise; in mode "validate", for each token.
    pub defaults: CallerRules,
    pub limits: Limits,
    pub retry: Retry,
    pub quota: Quota,
    pub rewrite: Vec<Rewrite>,
    pub log: Log,
    pub trace: Trace,
    pub drain: Drain,
    /// Every file that it refers to, such as secrets: what changes in them changes it.
    pub files: Vec<PathBuf>,
    /// What is no problem yet: it holds all the same.
    pub warnings: Vec<Problem>,
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

#[derive(Debug, Clone)]
pub struct Listen {
    pub address: Address,
    pub tls: Option<Tls>,
    /// Of a unix socket's file.
    pub mode: u32,
    /// Threads that serve; "auto" has been resolved to the number of cores.
    pub workers: usize,
    pub max_connections: usize,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct Admin {
    pub address: SocketAddr,
    /// Asked for by every POST when the address is not loopback.
    pub key: Option<SecretString>,
    /// Where the key stands.
    pub key_source: Option<TokenSource>,
}

#[derive(Debug, Clone)]
pub struct Upstream {
    /// `http` or `https`, with an authority and no path, query or user info.
    pub url: Uri,
    pub roots: Roots,
    pub http2: Http2,
    pub connect_timeout: Duration,
    pub attempt_timeout: Duration,
    pub idle_timeout: Duration,
    pub circuit: Circuit,
    pub max_connections: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http2 {
    Auto,
    Never,
    Always,
}

#[derive(Debug, Clone, Copy)]
pub struct Circuit {
    pub failures: u32,
    pub within: Duration,
    pub open: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    Inject,
    Validate,
}

#[derive(Debug, Clone)]
pub struct Auth {
    pub mode: AuthMode,
    pub introspect: bool,
    pub introspect_ttl: Duration,
    pub jwt: Option<Jwt>,
}

/// Signed tokens that prove who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    pub issuer: String,
    pub audience: String,
    pub jwks: Jwks,
}

/// Where the issuer's public keys are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jwks {
    /// `https`, or `http` on loopback; no user info. `roots` are the upstream's where the file names none.
    Url { url: Uri, roots: Roots },
    /// With its content when the file was loaded.
    File { path: PathBuf, keys: KeySet },
}

#[derive(Debug, Clone)]
pub struct Token {
    pub source: TokenSource,
    /// The value when the file was loaded: trimmed, not empty, fit for a header.
    pub value: SecretString,
    pub quota_group: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    Env(String),
    File(PathBuf),
}

#[derive(Debug, Clone)]
pub struct Caller {
    pub credential: CallerCredential,
    /// Where its keys stand, unless the file holds the hash itself.
    pub key_sources: Vec<TokenSource>,
    /// A name in `tokens`; `None` only in mode "validate".
    pub token: Option<String>,
    pub rules: CallerRules,
}

#[derive(Debug, Clone)]
pub enum CallerCredential {
    /// SHA-256 of the caller's key; two while it is rotated.
    Keys(Vec<[u8; 32]>),
    /// `sub` of a signed token; only where `auth.jwt` is set.
    JwtSubject(String),
    /// A name in its client certificate.
    San(San),
    /// The user that it runs as, on a unix socket.
    Uid(u32),
    Anonymous,
}

#[derive(Debug, Clone)]
pub struct CallerRules {
    pub rate: Rate,
    pub burst: u32,
    pub weight: u32,
    pub priority: Priority,
    /// Patterns of operations: `*`, `works.*` or a whole name; lower case.
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    pub max_wait: Duration,
    pub enforce: bool,
}

/// `count` requests per `per`, both above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per: Duration,
}

/// As the file says it, such as "50/s".
impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&units::show_rate(*self))
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_in_flight: usize,
    pub max_body: u64,
    pub max_header_bytes: usize,
    pub max_headers: usize,
}

#[derive(Debug, Clone, Copy)]
pub struct Retry {
    pub max_attempts: u32,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    pub budget: f64,
    pub max_replay_body: usize,
    pub max_retry_after: Duration,
}

#[derive(Debug, Clone, Copy)]
pub struct Quota {
    pub spread_above: f64,
    pub reserve: f64,
    pub max_waiting: usize,
}

#[derive(Debug, Clone)]
pub struct Rewrite {
    pub operations: Vec<String>,
    /// Old name to new name.
    pub rename: BTreeMap<String, String>,
    pub mode: RewriteMode,
    /// A page about the deprecation: an `http` or `https` URL that fits between the angle brackets of a `Link`.
    pub link: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Log {
    /// A level, or directives of tracing-subscriber's EnvFilter.
    pub level: String,
    pub format: LogFormat,
    pub access: AccessLog,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Auto,
    Json,
    Text,
}

#[derive(Debug, Clone)]
pub struct Trace {
    /// Base URL of an OTLP/HTTP receiver; `None` exports nothing.
    pub otlp: Option<Uri>,
    /// Of new traces, the share that is exported.
    pub sample: f64,
    pub timeout: Duration,
    /// What the receiver asks for, such as a key.
    pub headers: Vec<(HeaderName, TokenSource, SecretString)>,
    pub service_name: String,
    pub roots: Roots,
}

#[derive(Debug, Clone, Copy)]
pub struct Drain {
    pub delay: Duration,
    pub timeout: Duration,
}
