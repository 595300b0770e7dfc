//! The file as it is written: the source of the schema and of the reference. Every key is optional here,
//! because the built-in defaults fill in; `parse` does the reading, so that it can report everything at once.
//!
//! A key's line says what it is, in which unit, and why its default is what it is; a section's, whether it changes on reload.
//! An example stands where there is no default to show.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident { $($(#[$key_doc:meta])* $key:ident: $type:ty,)* })*) => {
        /// The keys of each table in the order of this file, which JSON does not keep.
        pub(super) const ORDER: &[(&str, &[&str])] = &[
            $((stringify!($name), &[$(stringify!($key)),*]),)*
        ];
    $(
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
        /// Where callers connect. Needs a restart, but for what the files of tls hold.
        listen: Listen,
        /// The listener for operators. Needs a restart.
        admin: Admin,
        /// The DevRev API and the connections to it. url, roots, http2 and max_connections need a restart; the rest changes on reload.
        upstream: Upstream,
        /// How callers are known. mode needs a restart; the rest changes on reload.
        auth: Auth,
        /// Upstream credentials by name; at least one in mode "inject". Changes on reload.
        tokens: BTreeMap<String, Token>,
        /// Who may call, by name; the name is also the metric label. At least one in mode "inject". Changes on reload: callers that stay the same keep the state of their limits.
        callers: BTreeMap<String, Caller>,
        /// For every caller that does not say otherwise; in mode "validate", for each token. Changes on reload.
        defaults: Rules,
        /// Bounds that keep one gateway's memory finite. Changes on reload.
        limits: Limits,
        /// How failed attempts are repeated. Changes on reload.
        retry: Retry,
        /// How the upstream quota is shared. Changes on reload.
        quota: Quota,
        /// Renames of deprecated fields. The built-in rule for rev-users.link and rev-users.unlink is added; a rule for the same operation replaces it. Changes on reload.
        rewrite: Vec<Rewrite>,
        /// One quota for many replicas. Not supported by this version. Needs a restart.
        shared: Shared,
        /// What is logged, to standard error. format needs a restart; the rest changes on reload.
        log: Log,
        /// Traces, for an OpenTelemetry collector. `traceparent` goes to DevRev with or without it. Needs a restart.
        trace: Trace,
        /// How a stop goes. timeout needs a restart; the rest changes on reload.
        drain: Drain,
    }
    /// Where callers connect.
    Listen {
        /// IP address and port, or "unix:/path". Loopback by default, so that nothing is exposed unasked.
        address: String,
        /// Permissions of a unix socket's file, in octal. By default its owner and group may connect, so that a caller under another uid needs only the group, and nobody else gets as far as being asked who it is.
        mode: String,
        /// TLS for callers; client_ca turns on client certificates. None by default: plain HTTP. The files are watched: what they hold may change without a restart.
        #[schemars(example = serde_json::json!({ "cert": "cert.pem", "key": "key.pem", "client_ca": "ca.pem", "client_auth": "required" }))]
        tls: Tls,
        /// Threads that serve; "auto" is one per core. One by default, enough for far more than a DevRev quota.
        workers: Workers,
        /// Connections at once; more wait in the kernel, so that descriptors do not run out. Far more than the services beside one gateway open.
        max_connections: usize,
        /// For a request's head to arrive; short, so that slow senders cannot hold connections.
        header_timeout: String,
        /// Of a caller's connection; above the 60s common among load balancers, so that they close first.
        idle_timeout: String,
    }
    /// TLS 1.2 and 1.3, with HTTP/2 and HTTP/1.1. The files are watched: a new content serves from the next connection on.
    Tls {
        /// PEM file with the certificate and the intermediates above it.
        #[schemars(example = &"cert.pem")]
        cert: String,
        /// PEM file with the certificate's private key, not encrypted.
        #[schemars(example = &"key.pem")]
        key: String,
        /// PEM file with the authorities that vouch for client certificates; turns on mTLS.
        #[schemars(example = &"ca.pem")]
        client_ca: String,
        /// With client_ca: "required" lets nobody connect without a certificate, "optional" lets those without one show a key. "required" unless given.
        #[schemars(example = &"required")]
        client_auth: String,
    }
    /// The listener for operators.
    Admin {
        /// IP address and port; loopback by default because it shows who calls what.
        address: String,
        /// Asked for by every POST when the address is not loopback, and needed then. None by default, as loopback needs none.
        #[schemars(example = serde_json::json!({ "file": "/run/secrets/admin-key" }))]
        key: Reference,
    }
    /// The DevRev API and the connections to it.
    Upstream {
        /// Scheme and host, with no path, query or user. DevRev's public API by default.
        url: String,
        /// Certificate authorities: "bundled", "system" or { file = "ca.pem" }. Bundled by default, so that it works in an empty image.
        roots: Roots,
        /// "auto" by ALPN, "never", or "always" (prior knowledge on http://). By default what upstream offers.
        http2: String,
        /// Name look-up, TCP and TLS together; short, as another attempt may meet a healthy address.
        connect_timeout: String,
        /// One attempt, until the response's head; also for a request's body to arrive. Long enough for a slow export, and no longer than callers wait for quota by default.
        attempt_timeout: String,
        /// Of a pooled connection; under the 60s after which many servers close, so that it is not lost mid-request.
        idle_timeout: String,
        /// When to stop asking an upstream that fails, and how soon to ask again.
        circuit: Circuit,
        /// Connections at once, all workers together. At 100 ms a call, 64 carry some 600 calls a second, far above a DevRev quota.
        max_connections: usize,
    }
    /// When to stop asking an upstream that fails.
    Circuit {
        /// Failures in a row that open the circuit; so many that a few unlucky calls shut nobody out.
        failures: u32,
        /// The time in which they must happen, so that those of a quiet hour do not add up.
        within: String,
        /// How long it stays open before one probe goes; short, as a probe costs one call.
        open: String,
    }
    /// How callers are known.
    Auth {
        /// "inject": callers prove themselves to revgate, which holds the DevRev token. "validate": callers bring their own DevRev token. By default services need hold no token.
        mode: String,
        /// In mode "validate", ask DevRev whose token a caller brings (auth-tokens.info, one unit of that user's quota). Tokens of one user then share a rate and a quota group. On by default, so that a bad token ends here.
        introspect: bool,
        /// How long DevRev's answer is believed, so a revoked token works for a minute at most; never past the token's own end. While DevRev cannot be asked, a good answer counts for five minutes more; a refusal counts for 10 s.
        introspect_ttl: String,
        /// In mode "inject", callers with a signed token (JWT) of an issuer of yours. None by default.
        #[schemars(example = serde_json::json!({ "issuer": "https://issuer.example", "audience": "revgate", "jwks": { "url": "https://issuer.example/jwks" } }))]
        jwt: Jwt,
    }
    /// Callers with a signed token; who they are says jwt_subject.
    Jwt {
        /// What `iss` must be, to the letter.
        #[schemars(example = &"https://issuer.example")]
        issuer: String,
        /// What `aud` must be or hold, to the letter, so that a token made for another service is of no use here.
        #[schemars(example = &"revgate")]
        audience: String,
        /// The public keys that the issuer signs with.
        #[schemars(example = serde_json::json!({ "url": "https://issuer.example/jwks" }))]
        jwks: Jwks,
    }
    /// A JSON Web Key Set (RFC 7517): exactly one of url and file.
    Jwks {
        /// Where the issuer publishes it: https://, or http:// on loopback. Fetched again every five minutes (or by Cache-Control, from one minute to an hour), and when a token names a key that is not known.
        #[schemars(example = &"https://issuer.example/jwks")]
        url: String,
        /// A file that holds it; a new content is used at once.
        #[schemars(example = &"/etc/revgate/jwks.json")]
        file: String,
        /// Certificate authorities for the url, as in upstream.roots. Those by default.
        #[schemars(example = serde_json::json!({ "file": "/etc/revgate/issuer-ca.pem" }))]
        roots: Roots,
    }
    /// An upstream credential: exactly one of file and env.
    Token {
        /// A file that holds only the token; a new content is used from the next attempt on. This or env.
        #[schemars(example = &"/run/secrets/devrev-token")]
        file: String,
        /// The name of an environment variable. This or file.
        #[schemars(example = &"DEVREV_TOKEN")]
        env: String,
        /// Tokens of one DevRev user share a group, as DevRev counts users. By default each token has its own, named like it.
        #[schemars(example = &"main")]
        quota_group: String,
    }
    /// Who may call: one credential and what differs from the defaults.
    Caller {
        /// SHA-256 of the caller's key, as `revgate hash-key` prints it; so the file holds no key. This, key, jwt_subject, mtls_san, unix_uid or anonymous. A list of two while a key is rotated: both are good.
        #[schemars(example = &"0000000000000000000000000000000000000000000000000000000000000000")]
        key_sha256: Hashes,
        /// Where the caller's key stands, in place of key_sha256; a list of two while it is rotated.
        #[schemars(example = serde_json::json!({ "env": "BILLING_KEY" }))]
        key: References,
        /// `sub` of a signed token; needs auth.jwt. Of a Kubernetes service account it is "system:serviceaccount:NAMESPACE:NAME".
        #[schemars(example = &"system:serviceaccount:shop:billing")]
        jwt_subject: String,
        /// A URI or DNS name in the caller's client certificate, compared whole. Needs listen.tls.client_ca.
        #[schemars(example = &"spiffe://example.org/billing")]
        mtls_san: String,
        /// The user that the caller runs as, on a unix socket.
        #[schemars(example = 1001)]
        unix_uid: u32,
        /// Whoever shows no credential; at most one caller, loopback or unix sockets only. Not by default: nobody gets in unasked.
        #[schemars(example = true)]
        anonymous: bool,
        /// A name in tokens; may be left out where only one is configured.
        #[schemars(example = &"main")]
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
        /// Requests per time: "50/s", "600/min" or "1000/h". Over it, 429 at once. 20/s is more than a service needs on most days, and less than a runaway loop sends.
        rate: String,
        /// Requests that may come together; two seconds' worth of the default rate. Not derived from the rate.
        burst: u32,
        /// Share of the upstream quota when callers compete, a whole number; equal by default.
        weight: u32,
        /// "interactive" or "batch": batch has its turn after interactive, but one at the latest when it waited for a third of max_wait, or 10s. By default somebody waits for the answer.
        priority: String,
        /// Operations: "*", "works.*" or whole names. All by default, as most callers need more than a list foresees; deny takes out what is dangerous.
        allow: Vec<String>,
        /// Wins over allow. By default what would let a caller mint or revoke DevRev tokens through the shared one.
        deny: Vec<String>,
        /// How long a request may wait for quota; about as long as clients wait themselves.
        max_wait: String,
        /// false lets what rate, allow or deny would have refused pass, and counts it, so that a rule can be tried. By default rules bite.
        enforce: bool,
    }
    /// Bounds that keep one gateway's memory finite.
    Limits {
        /// Requests at once; more are refused as overloaded. Even with every body kept for a retry that is 64 MiB.
        max_in_flight: usize,
        /// Largest request body; far above the JSON that DevRev takes, as files go elsewhere.
        max_body: Size,
        /// Largest head of a request; several times what common servers take, so that nothing is refused here that DevRev would take.
        max_header_bytes: Size,
        /// Most header fields in a request; several times what clients send.
        max_headers: usize,
    }
    /// How failed attempts are repeated.
    Retry {
        /// Per request, the first included. Three further tries outlast a hiccup; what lasts longer is the circuit's business.
        max_attempts: u32,
        /// Exponential with full jitter, when upstream names no time.
        backoff: Backoff,
        /// Retries per request over the last 10 s, on top of 10 free ones per 10 s; so retries cannot multiply an outage.
        budget: f64,
        /// A larger body is streamed, and never retried. Kept in memory until the answer, so it is about what a large JSON call takes.
        max_replay_body: Size,
        /// A longer upstream demand is cut to this: two of DevRev's windows of five minutes, so that no mistake stops a group for a day.
        max_retry_after: String,
    }
    /// Exponential with full jitter.
    Backoff {
        /// The first wait is up to this; about the time of one call.
        min: String,
        /// No wait is above this, so that recovery is noticed soon.
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
        /// Whole names of operations. A rule for an operation replaces the built-in one for it.
        #[schemars(example = ["rev-users.link", "rev-users.unlink"])]
        operations: Vec<String>,
        /// Old name to new name, top-level keys of a JSON body.
        #[schemars(example = serde_json::json!({ "rev_org_don": "rev_org", "user_don": "id" }))]
        rename: BTreeMap<String, String>,
        /// "off", "report" (count, leave), "rewrite" or "refuse". "rewrite" unless given: whoever names a rename wants it done.
        #[schemars(example = &"rewrite")]
        mode: String,
        /// A page about the deprecation, for the answer's Link (rel="deprecation", RFC 9745). None unless given; the built-in rule links DevRev's changelog.
        #[schemars(example = &"https://developer.devrev.ai/changelog")]
        link: String,
    }
    /// One quota for many replicas. Not supported by this version.
    Shared {
        /// Where Redis is: redis://, rediss:// or a unix socket. None by default: each replica for itself.
        #[schemars(example = serde_json::json!({ "env": "REVGATE_REDIS_URL" }))]
        redis: Reference,
        /// Of its keys, so that several gateways can share one Redis.
        #[schemars(example = &"revgate")]
        prefix: String,
        /// Of one command; a slow Redis must not slow the calls.
        #[schemars(example = &"50ms")]
        timeout: String,
    }
    /// What is logged.
    Log {
        /// A level, or directives such as "info,revgate=debug". By default what an operator may have to act on.
        level: String,
        /// "json", "text", or "auto": text on a terminal, for whoever reads it there.
        format: String,
        /// Which requests get a line: "all", "refused" (made by revgate, failed, or let pass by enforce = false), "none". By default the log grows with trouble, not with traffic.
        access: String,
    }
    /// Traces, for an OpenTelemetry collector.
    Trace {
        /// Base URL of an OTLP/HTTP receiver such as "http://127.0.0.1:4318"; /v1/traces is added. Without it nothing is exported, and nothing is spent on it.
        #[schemars(example = "http://127.0.0.1:4318")]
        otlp: String,
        /// Share of new traces that is exported. A tenth by default: enough to see where time goes, little enough to keep. A caller that sent a traceparent has chosen already, and that holds.
        sample: f64,
        /// One export, from connecting to the answer. Short, because spans pile up meanwhile and the queue for them is bounded.
        timeout: String,
        /// Further header fields for the receiver, such as its key: name = { file = ... } or { env = ... }. None by default.
        #[schemars(example = serde_json::json!({ "authorization": { "env": "OTLP_AUTHORIZATION" } }))]
        headers: BTreeMap<String, Reference>,
        /// service.name of the spans; by default what the program is called.
        service_name: String,
        /// Certificate authorities for https://, as in upstream.roots. Bundled by default, so that it works in an empty image.
        roots: Roots,
    }
    /// How a stop goes.
    Drain {
        /// Readiness fails, requests are still taken; as long as a load balancer needs to notice. None by default, as a sidecar has none.
        delay: String,
        /// For requests to end; under the 30s that Kubernetes gives.
        timeout: String,
    }
}
