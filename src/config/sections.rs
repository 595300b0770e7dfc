//! The sections of the file, but for tokens, callers and what they prove themselves with.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

use super::{
    Address,
    jwt::Jwt,
    notation::*,
    reading::{At, read_quietly},
    secret::{Headers, PlainSecret},
    section::{Notation, section},
    tls::Tls,
};
use crate::{
    label::label_enum,
    policy::rewrite,
    types::{AccessLog, Roots},
};

section! {
    /// Where callers connect.
    pub struct Listen: Debug, Clone {
        /// IP address and port, or "unix:/path". Loopback by default, so that nothing is exposed unasked.
        address: Address = "127.0.0.1:8080", restart;
        /// Permissions of a unix socket's file, in octal. By default its owner and group may connect, so that a caller under another uid needs only the group, and nobody else gets as far as being asked who it is.
        mode: Mode = "0660", restart;
        /// TLS for callers; client_ca turns on client certificates. None by default: plain HTTP. The files are watched: what they hold may change without a restart.
        tls: Option<Tls>, restart, example({ "cert": "cert.pem", "key": "key.pem", "client_ca": "ca.pem", "client_auth": "required" });
        /// Threads that serve; "auto" is one per core. One by default, enough for far more than a DevRev quota.
        workers: Workers = 1, restart;
        /// Connections at once; more wait in the kernel, so that descriptors do not run out. Far more than the services beside one gateway open.
        max_connections: Count<usize> = 10000, restart;
        /// For a request's head to arrive; short, so that slow senders cannot hold connections.
        header_timeout: Timeout = "10s", restart;
        /// Of a caller's connection; above the 60s common among load balancers, so that they close first.
        idle_timeout: Timeout = "75s", restart;
    }
}

section! {
    /// The listener for operators.
    pub struct Admin: Debug, Clone {
        /// IP address and port; loopback by default because it shows who calls what.
        address: SocketAddr = "127.0.0.1:9901", restart;
        /// Asked for by every POST when the address is not loopback, and needed then. None by default, as loopback needs none.
        key: Option<PlainSecret>, restart, example({ "file": "/run/secrets/admin-key" });
    }
}

section! {
    /// The DevRev API and the connections to it.
    pub struct Upstream: Debug, Clone {
        /// Scheme and host, with no path, query or user. DevRev's public API by default.
        url: Origin = "https://api.devrev.ai", restart;
        /// Certificate authorities: "bundled", "system" or { file = "ca.pem" }. Bundled by default, so that it works in an empty image.
        roots: Roots = "bundled", restart;
        /// "auto" by ALPN, "never", or "always" (prior knowledge on http://). By default what upstream offers.
        http2: Http2 = "auto", restart;
        /// Name look-up, TCP and TLS together; short, as another attempt may meet a healthy address.
        connect_timeout: Timeout = "3s";
        /// One attempt, until the response's head; also for a request's body to arrive. Long enough for a slow export, and no longer than callers wait for quota by default.
        attempt_timeout: Timeout = "30s";
        /// Of a pooled connection; under the 60s after which many servers close, so that it is not lost mid-request.
        idle_timeout: Timeout = "50s";
        /// When to stop asking an upstream that fails, and how soon to ask again.
        circuit: Circuit;
        /// Connections at once, all workers together. At 100 ms a call, 64 carry some 600 calls a second, far above a DevRev quota.
        max_connections: Count<usize> = 64, restart;
    }
}

label_enum! {
    pub enum Http2 {
        Auto = "auto",
        Never = "never",
        Always = "always",
    }
}

section! {
    /// When to stop asking an upstream that fails.
    pub struct Circuit: Debug, Clone, Copy {
        /// Failures in a row that open the circuit; so many that a few unlucky calls shut nobody out.
        failures: Count<u32> = 20;
        /// The time in which they must happen, so that those of a quiet hour do not add up.
        within: Timeout = "10s";
        /// How long it stays open before one probe goes; short, as a probe costs one call.
        open: Timeout = "5s";
    }
}

section! {
    /// How callers are known.
    pub struct Auth: Debug, Clone {
        /// "inject": callers prove themselves to revgate, which holds the DevRev token. "validate": callers bring their own DevRev token. By default services need hold no token.
        mode: AuthMode = "inject", restart;
        /// In mode "validate", ask DevRev whose token a caller brings (auth-tokens.info, one unit of that user's quota). Tokens of one user then share a rate and a quota group. On by default, so that a bad token ends here.
        introspect: bool = true;
        /// How long DevRev's answer is believed, so a revoked token works for a minute at most; never past the token's own end. While DevRev cannot be asked, a good answer counts for five minutes more; a refusal counts for 10 s.
        introspect_ttl: Timeout = "60s";
        /// In mode "inject", callers with a signed token (JWT) of an issuer of yours. None by default.
        jwt: Option<Jwt>, example({ "issuer": "https://issuer.example", "audience": "revgate", "jwks": { "url": "https://issuer.example/jwks" } });
    }
}

label_enum! {
    pub enum AuthMode {
        Inject = "inject",
        Validate = "validate",
    }
}

section! {
    /// Bounds that keep one gateway's memory finite.
    pub struct Limits: Debug, Clone, Copy {
        /// Requests at once; more are refused as overloaded. Even with every body kept for a retry that is 64 MiB.
        max_in_flight: Count<usize> = 1024;
        /// Largest request body; far above the JSON that DevRev takes, as files go elsewhere.
        max_body: Size<u64> = "16MiB";
        /// Largest head of a request; several times what common servers take, so that nothing is refused here that DevRev would take.
        max_header_bytes: Size<usize> = "64KiB";
        /// Most header fields in a request; several times what clients send.
        max_headers: Count<usize> = 100;
    }
}

section! {
    /// How failed attempts are repeated.
    pub struct Retry: Debug, Clone, Copy {
        /// Per request, the first included. Three further tries outlast a hiccup; what lasts longer is the circuit's business.
        max_attempts: Integer<u32, 1, 100> = 4;
        /// Exponential with full jitter, when upstream names no time.
        backoff: Backoff;
        /// Retries per request over the last 10 s, on top of 10 free ones per 10 s; so retries cannot multiply an outage.
        budget: Share<100> = 0.2;
        /// A larger body is streamed, and never retried. Kept in memory until the answer, so it is about what a large JSON call takes.
        max_replay_body: Size<usize> = "64KiB";
        /// A longer upstream demand is cut to this: two of DevRev's windows of five minutes, so that no mistake stops a group for a day.
        max_retry_after: Timeout = "600s";
    }
}

section! {
    /// Exponential with full jitter.
    pub struct Backoff: Debug, Clone, Copy {
        /// The first wait is up to this; about the time of one call.
        min: Duration = "250ms";
        /// No wait is above this, so that recovery is noticed soon.
        max: Duration = "10s";
    }
}

section! {
    /// How the upstream quota is shared.
    pub struct Quota: Debug, Clone, Copy {
        /// Share of the window's quota that goes first come, first served; the rest is spread evenly until the reset and dealt out by weight. Half by default: bursts of half a window pass unhindered, and whoever comes late still finds the other half. 1 spreads nothing, 0 everything.
        spread_above: Share<1> = 0.5;
        /// Share of the window kept for callers outside revgate, less what they have had of it; none by default, as revgate is meant to be the only way.
        reserve: Share<1> = 0.0;
        /// Requests in the waiting room, all callers together; some 4 KiB each, and more than a window of DevRev's serves in a minute. Full, it makes room for callers that have less of it.
        max_waiting: Count<usize> = 1024;
    }
}

section! {
    /// A rename of deprecated fields.
    pub struct Rewrite: Debug, Clone; hint "write it as a [[rewrite]] table" {
        /// Whole names of operations. A rule for an operation replaces the built-in one for it.
        operations: Operations, needed("is empty, so the rule does nothing; name at least one operation"), example(["rev-users.link", "rev-users.unlink"]);
        /// Old name to new name, top-level keys of a JSON body.
        rename: Renames, needed("is missing; write { old = \"new\" }"), example({ "rev_org_don": "rev_org", "user_don": "id" });
        /// "off", "report" (count, leave), "rewrite" or "refuse". "rewrite" unless given: whoever names a rename wants it done.
        mode: rewrite::Mode = "rewrite";
        /// A page about the deprecation, for the answer's Link (rel="deprecation", RFC 9745). None unless given; the built-in rule links DevRev's changelog.
        link: Option<Page>, example("https://developer.devrev.ai/changelog");
    }
}

/// Where DevRev announced the built-in renames. The page of all its changes: addresses of single entries move.
const CHANGELOG: &str = "https://developer.devrev.ai/changelog";

/// The rule that is built in, for each operation that has no other; one rule an operation. `written` are the rules of the file, also those
/// that cannot be used.
pub fn add_built_in(rules: &mut Vec<Rewrite>, written: &[Value], at: &At) {
    let mut built_in: Vec<String> = vec!["rev-users.link".into(), "rev-users.unlink".into()];
    let mut seen = Vec::new();
    for (number, rule) in written.iter().enumerate() {
        let operations = read_quietly::<Operations>(&rule["operations"]);
        for operation in operations.unwrap_or_default() {
            if seen.contains(&operation) {
                at.item(number).problem(
                    "operations",
                    format!("`{operation}` has a rule already; put both renames in one rule"),
                );
            }
            seen.push(operation);
        }
    }
    built_in.retain(|operation| !seen.contains(operation));
    if !built_in.is_empty() {
        let rename = [("rev_org_don", "rev_org"), ("user_don", "id")];
        let rule = Rewrite {
            operations: built_in,
            rename: rename
                .map(|(old, new)| (old.to_owned(), new.to_owned()))
                .into(),
            mode: rewrite::Mode::Rewrite,
            link: Some(CHANGELOG.to_owned()),
        };
        rules.insert(0, rule);
    }
}

section! {
    /// One quota for many replicas. Not supported by this version.
    pub struct Shared: Debug, Clone {
        /// Where Redis is: redis://, rediss:// or a unix socket. None by default: each replica for itself.
        redis: Option<PlainSecret>, restart, example({ "env": "REVGATE_REDIS_URL" });
        /// Of its keys, so that several gateways can share one Redis.
        prefix: Option<String>, restart, example("revgate");
        /// Of one command; a slow Redis must not slow the calls.
        timeout: Option<Timeout>, restart, example("50ms");
    }
}

section! {
    /// What is logged.
    pub struct Log: Debug, Clone {
        /// A level, or directives such as "info,revgate=debug". By default what an operator may have to act on.
        level: Directives = "info";
        /// "json", "text", or "auto": text on a terminal, for whoever reads it there.
        format: LogFormat = "auto", restart;
        /// Which requests get a line: "all", "refused" (made by revgate, failed, or let pass by enforce = false), "none". By default the log grows with trouble, not with traffic.
        access: AccessLog = "refused";
    }
}

label_enum! {
    pub enum LogFormat {
        Auto = "auto",
        Json = "json",
        Text = "text",
    }
}

section! {
    /// Traces, for an OpenTelemetry collector.
    pub struct Trace: Debug, Clone {
        /// Base URL of an OTLP/HTTP receiver such as "http://127.0.0.1:4318"; /v1/traces is added. Without it nothing is exported, and nothing is spent on it.
        otlp: Option<Receiver>, restart, example("http://127.0.0.1:4318");
        /// Share of new traces that is exported. A tenth by default: enough to see where time goes, little enough to keep. A caller that sent a traceparent has chosen already, and that holds.
        sample: Share<1> = 0.1, restart;
        /// One export, from connecting to the answer. Short, because spans pile up meanwhile and the queue for them is bounded.
        timeout: Timeout = "5s", restart;
        /// Further header fields for the receiver, such as its key: name = { file = ... } or { env = ... }. None by default.
        headers: Headers, restart, example({ "authorization": { "env": "OTLP_AUTHORIZATION" } });
        /// service.name of the spans; by default what the program is called.
        service_name: String = "revgate", restart;
        /// Certificate authorities for https://, as in upstream.roots. Bundled by default, so that it works in an empty image.
        roots: Roots = "bundled", restart;
    }
}

section! {
    /// How a stop goes.
    pub struct Drain: Debug, Clone, Copy {
        /// Readiness fails, requests are still taken; as long as a load balancer needs to notice. None by default, as a sidecar has none.
        delay: Duration = "0s";
        /// For requests to end; under the 30s that Kubernetes gives.
        timeout: Duration = "25s", restart;
    }
}
