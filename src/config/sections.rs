//! The sections of the file, except for tokens, callers, `auth.jwt`, `listen.tls` and `shared`.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

use super::{
    Address,
    jwt::Jwt,
    notation::*,
    proxies::Networks,
    reading::{Location, read_quietly},
    secret::{HeaderSecret, Headers, PlainSecret},
    section::{Notation, section},
    tls::Tls,
};
use crate::{
    label::label_enum,
    policy::{client_address::ClientField, rewrite},
    types::{AccessLog, Roots},
};

section! {
    /// The listener for callers.
    pub struct Listen: Debug, Clone {
        /// IP address and port, or "unix:/path". Loopback by default, so that nothing is exposed by accident.
        address: Address = "127.0.0.1:8080", restart;
        /// Permissions of the unix socket's file, in octal. By default its owner and its group may connect: a caller under another uid needs only the group, and the kernel turns away everyone else.
        mode: Mode = "0660", restart;
        /// Further names by which clients without a credential may address the gateway, such as one of /etc/hosts. Names of loopback and the host of upstream.url are always good; a client with a key may use any name. None by default, so that no website gets in through a name of its own that points at this machine.
        hosts: Hosts = [], restart;
        /// IP addresses and networks of the proxies and load balancers in front, whose word about a client's address is taken; see client_field. The address goes into the log and counts where unknown clients share; the anonymous caller is for clients that are on this machine by it. None by default, because anybody else could make it up.
        trusted_proxies: Networks = [], restart, example(["10.0.0.0/8"]);
        /// The header field in which trusted proxies name the client: "x-forwarded-for" or "forwarded" (RFC 7239). The right-most address that is no trusted proxy counts. One field only, because a proxy passes on what a client sends in the other. "x-forwarded-for" by default, which nearly all use.
        client_field: ClientField = "x-forwarded-for", restart;
        /// Connections from trusted proxies begin with a PROXY header, version 1 or 2, before TLS if there is any; those of others do not. For load balancers that pass TCP on. Off by default.
        proxy_protocol: bool = false, restart;
        /// TLS for callers; client_ca enables client certificates. None by default: plain HTTP. revgate watches the files, so their contents may change without a restart.
        tls: Option<Tls>, restart, example({ "cert": "cert.pem", "key": "key.pem", "client_ca": "ca.pem", "client_auth": "required" });
        /// Threads that serve requests; "auto" is one per core. One by default, which serves far more than a DevRev quota allows.
        workers: Workers = 1, restart;
        /// Connections open at once. At the limit a new one takes the place of one that has brought no good credential, else of an idle one of the caller with most; else it waits in the kernel. Fewer, with a warning, if the limit on open files allows no more. More than the services beside one gateway open, and no more than fit into the memory of a small container: about 48 KiB each.
        max_connections: Count<usize> = 1024, restart;
        /// Time for a request's head to arrive, and for a new connection to bring a good credential; one that does not is ended. Short, so that slow or unknown clients cannot hold connections.
        header_timeout: Timeout = "10s", restart;
        /// Time that a caller's connection may stay idle. Above the 60s common among load balancers, so that they close first.
        idle_timeout: Timeout = "75s", restart;
    }
}

section! {
    /// The listener for operators.
    pub struct Admin: Debug, Clone {
        /// IP address and port. Loopback by default, because the listener shows who calls what.
        address: SocketAddr = "127.0.0.1:9901", restart;
        /// The key that every POST must present if the address is not loopback; required then. None by default, because loopback needs none.
        key: Option<PlainSecret>, restart, example({ "file": "/run/secrets/admin-key" });
    }
}

section! {
    /// The DevRev API and the connections to it.
    pub struct Upstream: Debug, Clone {
        /// Scheme and host, without path, query or user. DevRev's public API by default.
        url: Origin = "https://api.devrev.ai", restart;
        /// An HTTP proxy through which DevRev is reached, and an issuer's keys (CONNECT); spans are sent without it. None by default. Variables such as HTTPS_PROXY and NO_PROXY are not read.
        proxy: Option<ProxyUrl>, restart, example("http://proxy.example:3128");
        /// The user and the password for the proxy, as user:password. None by default.
        proxy_credentials: Option<HeaderSecret>, example({ "file": "/run/secrets/proxy" });
        /// Trusted certificate authorities: "bundled", "system" or { file = "ca.pem" }. Bundled by default, which works in an empty image.
        roots: Roots = "bundled", restart;
        /// "auto" negotiates by ALPN, "never" uses HTTP/1.1, "always" uses HTTP/2 (with prior knowledge on http://). By default upstream chooses.
        http2: Http2 = "auto", restart;
        /// Time for name look-up, TCP, the proxy's tunnel, TLS and the first SETTINGS of HTTP/2 together. Short, because another attempt may reach a healthy address.
        connect_timeout: Timeout = "3s";
        /// Time for one attempt, connecting included, to the head of the response; a body that is streamed starts it anew with each part. Long enough for a slow export, and no longer than callers wait for quota by default.
        attempt_timeout: Timeout = "30s";
        /// Time that a pooled connection may stay idle. Below the 60s after which many servers close, so that a request does not meet a closing connection.
        idle_timeout: Timeout = "50s";
        /// Greatest age of a connection; an older one takes no more calls and ends with its last, some up to a fifth earlier, so that they do not all end together. Ten minutes, so that a changed address is followed soon, at the cost of one handshake in thousands of calls.
        max_age: Timeout = "10m";
        /// When to stop calling a failing upstream, and how soon to probe it.
        circuit: Circuit;
        /// Connections that take calls, over all workers; one that is too old or closing stays open beside them until its last call has ended. Over HTTP/2 each carries as many calls at once as DevRev allows on it, and all of a worker 100. They are dealt among callers, in turn. Fewer, with a warning, if the limit on open files allows no more. At 100 ms a call, 64 of HTTP/1.1 carry about 600 calls a second, far above a DevRev quota.
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
    /// When to stop calling what fails: one caller's use of an operation, a caller, an operation or the upstream.
    pub struct Circuit: Debug, Clone, Copy {
        /// Consecutive failures that open a circuit. High enough that a few failed calls stop nothing.
        failures: Count<u32> = 20;
        /// Time within which they must happen, so that failures of a quiet hour do not add up.
        within: Timeout = "10s";
        /// Time that a circuit stays open before one probe. Short, because a probe costs one call.
        open: Timeout = "5s";
    }
}

section! {
    /// How callers authenticate.
    pub struct Auth: Debug, Clone {
        /// "inject": callers authenticate to revgate, which adds the DevRev token. "validate": callers send their own DevRev tokens. "inject" by default, so that services need no DevRev token.
        mode: AuthMode = "inject", restart;
        /// In mode "validate", ask DevRev whose token a caller sends (auth-tokens.info, one unit of that user's quota). Tokens of one user then share a rate and a quota group. On by default, so that revgate rejects bad tokens itself.
        introspect: bool = true;
        /// How long DevRev's answer is cached, but never past the token's own expiry. 60s by default, so that a revoked token works for a minute at most. While DevRev cannot be asked, a good token is accepted for five more minutes; a bad one is cached for 10 s.
        introspect_ttl: Timeout = "60s";
        /// In mode "inject", signed tokens (JWT) of your own issuer as credentials of callers. None by default.
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
    /// Limits that bound the memory of one gateway.
    pub struct Limits: Debug, Clone, Copy {
        /// Requests in flight, dealt among callers: one that takes all it can leaves an eighth to the others, a batch caller a quarter. More are refused as overloaded. Bodies that are kept are bounded by max_buffered.
        max_in_flight: Count<usize> = 1024;
        /// Largest request body. Far above the JSON that DevRev accepts; files are uploaded elsewhere.
        max_body: Size<u64> = "16MiB";
        /// Time that a request's body may stand still, at most upstream.attempt_timeout; then the request is refused as request_timeout. As short as listen.header_timeout, so that slow clients hold nothing for long.
        stall_timeout: Timeout = "10s";
        /// Bytes a second at which a body or an answer moves at least, on average; what stands still for less than its timeout catches up. Slower than any link between services. A response may stand still for 30 s, be it DevRev that does not send or the caller that does not read, and a stream of events for 5 minutes. A peer whose TCP acknowledges nothing, or has room for nothing, for 60 s counts as gone.
        min_rate: Size<u64> = "4KiB";
        /// Bytes of bodies and of small answers in memory at once, dealt among callers like requests in flight. A request that finds no room is refused as overloaded; an answer is passed on as it comes. Room for 384 bodies of retry.max_replay_body, and for many more usual ones.
        max_buffered: Size<usize> = "24MiB";
        /// Largest body to which a rewrite rule applies, never above max_body, which bounds all others. Such a body is held whole. Rewriting 1 MiB of the costliest shape takes at most 40 ms, on a thread of its own; callers take turns there. Far above the JSON of a call.
        max_rewrite_body: Size<u64> = "1MiB";
        /// Largest head of a request. Several times what common servers accept, so that revgate refuses nothing that DevRev would accept.
        max_header_bytes: Size<usize> = "64KiB";
        /// Most header fields in a request. Several times what clients send.
        max_headers: Count<usize> = 100;
    }
}

section! {
    /// How failed attempts are retried.
    pub struct Retry: Debug, Clone, Copy {
        /// Attempts per request, the first included. Three retries outlast a brief failure; the circuit handles longer ones.
        max_attempts: Integer<u32, 1, 100> = 4;
        /// Exponential backoff with full jitter, for when upstream names no time.
        backoff: Backoff;
        /// Retries that a caller has per request of its own over the last 10 s, in addition to 10 per 10 s. Each caller, and in mode "validate" each user, has a budget of its own, so that one whose calls fail takes no retries from others. All callers together are bounded by this share of all requests plus 10 per caller. A retry after a 429 that names a time draws nothing: the pause of its group bounds it. Retries after a 429 that names none have a budget of their own, of one per request. Keeps retries from multiplying an outage.
        budget: Share<100> = 0.2;
        /// Largest body that is kept for a retry, in memory until the response; a larger one is streamed and never retried. About the size of a large JSON call.
        max_replay_body: Size<usize> = "64KiB";
        /// Longest Retry-After that revgate honours; a longer one is cut to this. Two of DevRev's windows of five minutes, so that a mistake does not stop a group for a day.
        max_retry_after: Timeout = "600s";
    }
}

section! {
    /// Exponential backoff with full jitter.
    pub struct Backoff: Debug, Clone, Copy {
        /// Upper bound of the first wait. About the time of one call.
        min: Duration = "250ms";
        /// Upper bound of every wait. Short, so that a recovery is noticed soon.
        max: Duration = "10s";
    }
}

section! {
    /// How callers share the upstream quota.
    pub struct Quota: Debug, Clone, Copy {
        /// Share of the window's quota that is served first come, first served to interactive callers; the rest is spread evenly until the reset and shared by weight. 1 spreads nothing, 0 everything. Batch callers are dealt from the even spread of the whole window whatever this is. Half by default: bursts of half a window pass without a wait, and late callers still get the other half.
        spread_above: Share<1> = 0.5;
        /// Share of the window that is left for clients outside revgate, less what they have used of it. None by default, because all calls should go through revgate.
        reserve: Share<1> = 0.0;
        /// Requests that wait for quota, over all callers; about 4 KiB each. More than a DevRev window serves in a minute. When full, callers with few waiting requests displace those of callers with many.
        max_waiting: Count<usize> = 1024;
    }
}

section! {
    /// A rule that renames deprecated fields.
    pub struct Rewrite: Debug, Clone; hint "write it as a [[rewrite]] table" {
        /// Whole names of operations. A rule for an operation replaces the built-in one for it.
        operations: Operations, required("is empty, so the rule would do nothing; name at least one operation"), example(["rev-users.link", "rev-users.unlink"]);
        /// Old names with their new ones, of top-level keys in a JSON body.
        rename: Renames, required("is missing; write { old = \"new\" }"), example({ "rev_org_don": "rev_org", "user_don": "id" });
        /// For an old field: "off" ignores it, "report" counts it, "rewrite" counts and renames it, "refuse" counts it and refuses the request. "rewrite" by default, which is what a rule is for.
        mode: rewrite::Mode = "rewrite";
        /// A page about the deprecation, for the response's Link (rel="deprecation", RFC 9745). None by default; the built-in rule links DevRev's changelog.
        link: Option<Page>, example("https://developer.devrev.ai/changelog");
    }
}

/// Where DevRev announced the built-in renames. The page of all changes, because URLs of single entries move.
const CHANGELOG: &str = "https://developer.devrev.ai/changelog";

/// Adds the built-in rule, for its operations without a rule in the file, and reports operations with several rules. `written` are the rules
/// of the file, valid or not.
pub fn add_built_in(rules: &mut Vec<Rewrite>, written: &[Value], at: &Location<'_>) {
    let mut built_in: Vec<String> = vec!["rev-users.link".into(), "rev-users.unlink".into()];
    let mut seen = Vec::new();
    for (number, rule) in written.iter().enumerate() {
        let operations = read_quietly::<Operations>(&rule["operations"]);
        for operation in operations.unwrap_or_default() {
            if seen.contains(&operation) {
                at.item(number).report(
                    "operations",
                    format!("`{operation}` already has a rule; put both renames in one rule"),
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
    /// What is logged, to standard error.
    pub struct Log: Debug, Clone {
        /// A level, or directives such as "info,revgate=debug". By default what an operator may have to act on.
        level: Directives = "info";
        /// "json", "text", or "auto": text on a terminal, else JSON.
        format: LogFormat = "auto", restart;
        /// Which requests are logged: "all", "refused" (refused by revgate, failed, or passed because of enforce = false) or "none". By default the log grows with problems, not with traffic; of one caller and code it has 200 lines a second, and a line that counts the rest.
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
    /// Traces for an OpenTelemetry collector. `traceparent` goes to DevRev even if nothing is exported.
    pub struct Trace: Debug, Clone {
        /// Base URL of an OTLP/HTTP receiver, such as "http://127.0.0.1:4318"; revgate appends /v1/traces. None by default: nothing is exported, and tracing costs nothing.
        otlp: Option<Receiver>, restart, example("http://127.0.0.1:4318");
        /// Share of new traces that is exported. A tenth by default: enough to see where time goes, little enough to store. The sampled flag of an incoming traceparent takes precedence.
        sample: Share<1> = 0.1, restart;
        /// Time for one export, from connecting to the response. Short, because spans wait in a bounded queue meanwhile.
        timeout: Timeout = "5s", restart;
        /// More header fields for the receiver, such as its key: name = { file = ... } or { env = ... }. None by default.
        headers: Headers, restart, example({ "authorization": { "env": "OTLP_AUTHORIZATION" } });
        /// service.name of the spans. By default the name of the program.
        service_name: String = "revgate", restart;
        /// Certificate authorities for https://, as in upstream.roots. Bundled by default, which works in an empty image.
        roots: Roots = "bundled", restart;
    }
}

section! {
    /// How the gateway shuts down.
    pub struct Drain: Debug, Clone, Copy {
        /// Time in which readiness fails but requests are still accepted: as long as a load balancer needs to notice. None by default, because a sidecar has no load balancer.
        delay: Duration = "0s";
        /// Time for requests to finish. Below the 30s that Kubernetes allows.
        timeout: Duration = "25s", restart;
    }
}
