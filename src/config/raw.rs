//! The file as it is written: the source of the schema and of the reference. Every key is optional here,
//! because the built-in defaults fill in; `parse` does the reading, so that it can report everything at once.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident { $($(#[$key_doc:meta])* $key:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct $name {
            $($(#[$key_doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $key: Option<$type>,)*
        }
    )*};
}

/// A number of bytes, or a text such as "1MiB".
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Size {
    Bytes(u64),
    Text(String),
}

/// A number, or "auto".
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Workers {
    Number(usize),
    Text(String),
}

/// "bundled", "system" or a file.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Roots {
    Named(String),
    File { file: String },
}

/// One, or two while a key is rotated.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Hashes {
    One(String),
    Two(Vec<String>),
}

/// One, or two while a key is rotated.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum References {
    One(Reference),
    Two(Vec<Reference>),
}

/// Where a secret stands; never the secret itself.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Reference {
    /// A file that holds only the secret.
    File(String),
    /// The name of an environment variable.
    Env(String),
}

tables! {
    /// Configuration of revgate.
    File {
        /// Where callers connect.
        listen: Listen,
        /// The listener for operators.
        admin: Admin,
        /// The DevRev API and the connections to it.
        upstream: Upstream,
        /// How callers are known.
        auth: Auth,
        /// Upstream credentials by name; at least one in mode "inject".
        tokens: BTreeMap<String, Token>,
        /// Who may call, by name; the name is also the metric label. At least one in mode "inject".
        callers: BTreeMap<String, Caller>,
        /// For every caller that does not say otherwise; in mode "validate", for each token.
        defaults: Rules,
        /// Bounds that keep one gateway's memory finite.
        limits: Limits,
        /// How failed attempts are repeated.
        retry: Retry,
        /// How the upstream quota is shared.
        quota: Quota,
        /// Renames of deprecated fields. The built-in rule for rev-users.link and rev-users.unlink is added; a rule for the same operation replaces it.
        rewrite: Vec<Rewrite>,
        /// One quota for many replicas. Not supported by this version.
        shared: Shared,
        /// What is logged, to standard error.
        log: Log,
        /// How a stop goes.
        drain: Drain,
    }
    /// Where callers connect.
    Listen {
        /// IP address and port, or "unix:/path". Loopback by default, so that nothing is exposed unasked.
        address: String,
        /// TLS for callers. Not supported by this version.
        tls: BTreeMap<String, String>,
        /// Threads that serve; "auto" is one per core. One by default, enough for far more than a DevRev quota.
        workers: Workers,
        /// Connections at once; more wait in the kernel, so that descriptors do not run out.
        max_connections: usize,
        /// For a request's head to arrive; short, so that slow senders cannot hold connections.
        header_timeout: String,
        /// Of a caller's connection; above the 60s common among load balancers, so that they close first.
        idle_timeout: String,
    }
    /// The listener for operators.
    Admin {
        /// IP address and port; loopback by default because it shows who calls what.
        address: String,
        /// Asked for by every POST when the address is not loopback, and needed then.
        key: Reference,
    }
    /// The DevRev API and the connections to it.
    Upstream {
        /// Scheme and host, with no path, query or user.
        url: String,
        /// Certificate authorities: "bundled", "system" or { file = "ca.pem" }. Bundled by default, so that it works in an empty image.
        roots: Roots,
        /// "auto" by ALPN, "never", or "always" (prior knowledge on http://).
        http2: String,
        /// Name look-up, TCP and TLS together; short, as another attempt may meet a healthy address.
        connect_timeout: String,
        /// One attempt, until the response's head.
        attempt_timeout: String,
        /// Of a pooled connection; under the 60s after which many servers close, so that it is not lost mid-request.
        idle_timeout: String,
        /// When to stop asking an upstream that fails.
        circuit: Circuit,
        /// Connections at once.
        max_connections: usize,
    }
    /// When to stop asking an upstream that fails.
    Circuit {
        /// Failures in a row that open the circuit.
        failures: u32,
        /// The time in which they must happen.
        within: String,
        /// How long it stays open before one probe goes.
        open: String,
    }
    /// How callers are known.
    Auth {
        /// "inject": callers prove themselves to revgate, which holds the DevRev token. "validate": callers bring their own DevRev token.
        mode: String,
        /// In mode "validate", ask DevRev about a token. Not supported by this version: set it to false in mode "validate".
        introspect: bool,
        /// How long DevRev's answer is believed.
        introspect_ttl: String,
        /// Callers with a signed token. Not supported by this version.
        jwt: BTreeMap<String, serde_json::Value>,
    }
    /// An upstream credential: exactly one of file and env.
    Token {
        /// A file that holds only the token; a new content is used from the next attempt on.
        file: String,
        /// The name of an environment variable.
        env: String,
        /// Tokens of one DevRev user share a group; by default each has its own, named like the token.
        quota_group: String,
    }
    /// Who may call: one credential and what differs from the defaults.
    Caller {
        /// SHA-256 of the caller's key, as `revgate hash-key` prints it; so the file holds no key. A list of two while a key is rotated: both are good.
        key_sha256: Hashes,
        /// The caller's key, in place of key_sha256; a list of two while it is rotated.
        key: References,
        /// Subject of a signed token. Not supported by this version.
        jwt_subject: String,
        /// Name in a client certificate. Not supported by this version.
        mtls_san: String,
        /// User on a unix socket. Not supported by this version.
        unix_uid: u32,
        /// Whoever shows no credential; at most one caller, loopback or unix sockets only.
        anonymous: bool,
        /// A name in tokens; may be left out where only one is configured.
        token: String,
        /// Requests per time: "50/s", "600/min" or "1000/h". Over it, 429 at once.
        rate: String,
        /// Requests that may come together. Not derived from the rate: without it, the defaults' holds.
        burst: u32,
        /// Share of the upstream quota when callers compete.
        weight: u32,
        /// "interactive" or "batch": batch has its turn after interactive, but one at the latest when it waited for a third of max_wait, or 10s.
        priority: String,
        /// Operations: "*", "works.*" or whole names.
        allow: Vec<String>,
        /// Wins over allow; added to the defaults' unless it is [].
        deny: Vec<String>,
        /// How long a request may wait for quota.
        max_wait: String,
        /// false lets what rate, allow or deny would have refused pass, and counts it.
        enforce: bool,
    }
    /// What holds for a caller that does not say otherwise.
    Rules {
        /// Requests per time: "50/s", "600/min" or "1000/h". Over it, 429 at once.
        rate: String,
        /// Requests that may come together; two seconds' worth of the default rate.
        burst: u32,
        /// Share of the upstream quota when callers compete; equal by default.
        weight: u32,
        /// "interactive" or "batch": batch has its turn after interactive, but one at the latest when it waited for a third of max_wait, or 10s.
        priority: String,
        /// Operations: "*", "works.*" or whole names.
        allow: Vec<String>,
        /// Wins over allow. By default what would let a caller mint or revoke DevRev tokens.
        deny: Vec<String>,
        /// How long a request may wait for quota; about as long as clients wait themselves.
        max_wait: String,
        /// false lets what rate, allow or deny would have refused pass, and counts it.
        enforce: bool,
    }
    /// Bounds that keep one gateway's memory finite.
    Limits {
        /// Requests at once; more are refused as overloaded.
        max_in_flight: usize,
        /// Largest request body.
        max_body: Size,
        /// Largest head of a request.
        max_header_bytes: Size,
        /// Most header fields in a request.
        max_headers: usize,
    }
    /// How failed attempts are repeated.
    Retry {
        /// Per request, the first included.
        max_attempts: u32,
        /// Exponential with full jitter, when upstream names no time.
        backoff: Backoff,
        /// Retries per request over the last 10 s, on top of 10 free ones per 10 s; so retries cannot multiply an outage.
        budget: f64,
        /// A larger body is streamed, and never retried.
        max_replay_body: Size,
        /// A longer upstream demand is cut to this.
        max_retry_after: String,
    }
    /// Exponential with full jitter.
    Backoff {
        /// The first wait is up to this.
        min: String,
        /// No wait is above this.
        max: String,
    }
    /// How the upstream quota is shared.
    Quota {
        /// Share of the window's quota that goes first come, first served; the rest is spread evenly until the reset and dealt out by weight. Half by default: bursts of half a window pass unhindered, and whoever comes late still finds the other half. 1 spreads nothing, 0 everything.
        spread_above: f64,
        /// Share of the window kept for callers outside revgate, less what they have had of it; none by default, as revgate is meant to be the only way.
        reserve: f64,
        /// Requests in the waiting room, all callers together; some 4 KiB each, and more than a window of DevRev's serves in a minute. Full, it makes room for callers that have less of it.
        max_waiting: usize,
    }
    /// A rename of deprecated fields.
    Rewrite {
        /// Whole names of operations.
        operations: Vec<String>,
        /// Old name to new name, top-level keys of a JSON body.
        rename: BTreeMap<String, String>,
        /// "off", "report" (count, leave), "rewrite" (the default) or "refuse".
        mode: String,
    }
    /// One quota for many replicas. Not supported by this version.
    Shared {
        /// Where Redis is.
        redis: Reference,
        /// Of its keys.
        prefix: String,
        /// Of one command.
        timeout: String,
    }
    /// What is logged.
    Log {
        /// A level, or directives such as "info,revgate=debug".
        level: String,
        /// "json", "text", or "auto": text on a terminal.
        format: String,
        /// Which requests get a line: "all", "refused" (made by revgate, or failed), "none".
        access: String,
    }
    /// How a stop goes.
    Drain {
        /// Readiness fails, requests are still taken; as long as a load balancer needs to notice.
        delay: String,
        /// For requests to end; under the 30s that Kubernetes gives.
        timeout: String,
    }
}
