mod schema;

use std::{collections::BTreeMap, path::Path, time::Duration};

use super::*;
use crate::policy::rewrite;

const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const SECRET: &str = "s3cr3t-value-007";

fn env() -> BTreeMap<String, String> {
    [
        ("T", SECRET),
        ("K", "abc"),
        ("U", "another"),
        ("P", "user:s3cr3t-value-007"),
        ("R", "redis://gate:s3cr3t-value-007@127.0.0.1:6379"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into()
}

/// A valid file, with `more` at its end.
fn good(more: &str) -> String {
    format!("[tokens.main]\nenv = \"T\"\n[callers.a]\nkey_sha256 = \"{HASH}\"\n{more}")
}

fn problems(text: &str) -> String {
    match from_toml(text, &env()) {
        Ok(_) => String::new(),
        Err(p) => p.to_string(),
    }
}

#[test]
fn defaults_hold() {
    let c = from_toml(&good(""), &env()).unwrap();
    assert_eq!(
        c.listen.address,
        Address::Tcp("127.0.0.1:8080".parse().unwrap())
    );
    assert_eq!(c.upstream.url.host(), Some("api.devrev.ai"));
    assert_eq!(c.limits.max_body, 16 << 20);
    assert_eq!(c.limits.max_rewrite_body, 1 << 20);
    assert_eq!(c.rewrite.len(), 1);
    let a = &c.callers["a"];
    assert_eq!(
        (a.rules.burst, a.rules.deny.len(), a.token.as_deref()),
        (40, 4, Some("main"))
    );
    assert_eq!(&*c.tokens["main"].quota_group, "main");
}

#[test]
fn listeners_that_take_one_port_are_a_problem() {
    for (listen, admin, is_problem) in [
        ("127.0.0.1:8080", "127.0.0.1:8080", true),
        ("0.0.0.0:8080", "127.0.0.1:8080", true),
        ("127.0.0.1:9901", "", true),
        ("127.0.0.1:8080", "127.0.0.1:8081", false),
        ("127.0.0.1:0", "127.0.0.1:0", false),
        ("unix:/run/s", "127.0.0.1:8080", false),
    ] {
        let mut more = format!("[listen]\naddress = \"{listen}\"\n");
        if !admin.is_empty() {
            more += &format!("[admin]\naddress = \"{admin}\"\n");
        }
        let found = problems(&good(&more));
        let says = found.contains("takes the port of listen.address");
        assert_eq!(says, is_problem, "{listen} {admin}: {found}");
        assert_eq!(!found.is_empty(), is_problem, "{listen} {admin}: {found}");
    }
}

/// Bodies that can never be kept are refused one by one, so the operator learns of it first.
#[test]
fn too_little_memory_for_a_body_is_a_warning() {
    for (more, warns) in [
        ("", false),
        ("[limits]\nmax_buffered = \"1MiB\"", false),
        ("[limits]\nmax_buffered = \"1023KiB\"", true),
        ("[retry]\nmax_replay_body = \"25MiB\"", true),
    ] {
        let warnings = from_toml(&good(more), &env()).unwrap().warnings;
        let found = warnings.iter().any(|w| w.path == "limits.max_buffered");
        assert_eq!(found, warns, "{more}");
    }
}

/// Other programs would use such a proxy, so its operator expects it of revgate.
#[test]
fn a_proxy_of_the_environment_that_is_not_used_is_a_warning() {
    let local = "[upstream]\nurl = \"http://localhost:8081\"";
    let proxy = "[upstream]\nproxy = \"http://h:3128\"";
    for (variable, value, more, warns) in [
        ("HTTPS_PROXY", "http://u:s3cr3t-value-007@p:1", "", true),
        ("https_proxy", "p:1", "", true),
        ("ALL_PROXY", "socks5://p:1", "", true),
        ("all_proxy", "socks5://p:1", "", true),
        ("NO_PROXY", "*", "", false),
        ("HTTPS_PROXY", "", "", false),
        ("HTTPS_PROXY", "http://p:1", proxy, false),
        ("HTTPS_PROXY", "http://p:1", local, false),
    ] {
        let mut env = env();
        env.insert(variable.to_owned(), value.to_owned());
        let warnings = from_toml(&good(more), &env).unwrap().warnings;
        let found = warnings.iter().find(|w| w.path == "upstream.proxy");
        assert_eq!(found.is_some(), warns, "{variable} {more}");
        if let Some(Problem { message, .. }) = found {
            assert!(
                message.contains(variable) && !message.contains("p:1"),
                "{message}"
            );
        }
    }
}

#[test]
fn callers_inherit_and_add() {
    let c = from_toml(
        &good("rate = \"600/min\"\ndeny = [\"Works.*\"]\n[callers.b]\nkey = { env = \"T\" }\ndeny = []"),
        &env(),
    )
    .unwrap();
    assert_eq!(
        (c.callers["a"].rules.deny.len(), c.callers["a"].rules.burst),
        (5, 40)
    );
    assert!(c.callers["b"].rules.deny.is_empty());
}

#[test]
fn environment_overrides_as_text() {
    let mut env = env();
    for (k, v) in [
        ("RETRY__MAX_ATTEMPTS", "7"),
        ("CALLERS__A__ENFORCE", "false"),
        ("QUOTA__RESERVE", "0.5"),
        ("TOKENS__MAIN__QUOTA_GROUP", "007"),
    ] {
        env.insert(format!("REVGATE__{k}"), v.to_owned());
    }
    let c = from_toml(&good(""), &env).unwrap();
    assert_eq!(
        (
            c.retry.max_attempts,
            c.callers["a"].rules.enforce,
            c.quota.reserve
        ),
        (7, false, 0.5)
    );
    assert_eq!(&*c.tokens["main"].quota_group, "007");
}

/// What a valid file is extended by (after JWT, a key set of `auth.jwt`); and the problems: line and column, key, what was found, and what to
/// do about it.
const PROBLEMS: &str = r#"
burts = 3 => 5:1: callers.a.burts: unknown key; did you mean `burst`?
burst = 0 => 5:9: callers.a.burst: 0 is not valid; write a whole number from 1 to 4294967295
weight = 0 => 5:10: callers.a.weight: 0 is not valid; write a whole number from 1 to 1000000
rate = "5" => 5:8: callers.a.rate: "5" is not valid; write a rate such as "50/s", "600/min" or "1000/h", above zero
token = "other" => 5:9: callers.a.token: names no configured token (there is `main`); correct it or add it under [tokens]
allow = ["wo*"] => 5:10: callers.a.allow[0]: "wo*" is not valid; write a list of "*", "works.*" or whole operations such as "works.get"
[callers.b]\nunix_uid = 1 => 6:12: callers.b.unix_uid: 1 never matches, because listen.address is not a unix socket; listen on "unix:/path", or give the caller a key
[callers.b]\nmtls_san = "b.internal" => 6:12: callers.b.mtls_san: "b.internal" never matches, because clients present no certificates; add client_ca to listen.tls
[callers.b]\nunix_uid = -1 => 6:12: callers.b.unix_uid: -1 is not valid; write a whole number from 0 to 4294967294
[callers.b]\nunix_uid = 1\n[callers.c]\nunix_uid = 1\n[listen]\naddress = "unix:/x" => 8:12: callers.c.unix_uid: 1 is also that of caller `b`; give each caller its own
[listen]\nmode = "0480" => 6:8: listen.mode: "0480" is not valid; write three octal digits for owner, group and others as a string, such as "0660" or "0666"
[listen]\nmode = 660 => 6:8: listen.mode: 660 is not valid; write three octal digits for owner, group and others as a string, such as "0660" or "0666"
anonymous = true => 3:10: callers.a: has several credentials; keep one of key_sha256, key, jwt_subject, mtls_san, unix_uid and anonymous
[callers.b]\nkey = "plain" => 6:7: callers.b.key: a string must be a reference, not the secret itself; write { file = ... } or { env = ... }
[callers.b] => 5:10: callers.b: has no credential; add key_sha256 (see `revgate hash-key`), key, jwt_subject, mtls_san, unix_uid or anonymous = true
[callers.other]\nanonymous = true => 5:10: callers.other: is the name for unknown callers in metrics and logs; choose another name
[callers.b]\nkey_sha256 = "12" => 6:14: callers.b.key_sha256: a string is not valid; write 64 hexadecimal digits, as `revgate hash-key` prints them, or a list of two while the key is rotated
[callers.b]\nkey = { env = "K" } => 6:7: callers.b.key: is also the key of caller `a`; give each caller its own
[callers.b]\nanonymous = true\n[callers.c]\nanonymous = true => 8:13: callers.c.anonymous: true is one too many: caller `b` is also anonymous; keep one
[callers.b]\nanonymous = true\n[listen]\naddress = "0.0.0.0:1" => 6:13: callers.b.anonymous: true would let anyone call, because listen.address is not loopback; give the caller a key, or listen on 127.0.0.1 or a unix socket
[tokens.two]\nenv = "T" => 3:10: callers.a.token: is required because there are several tokens; write one of `main`, `two`
[tokens.two]\nenv = "NONE" => 3:10: callers.a.token: is required because there are several tokens; write one of `main`, `two` | 6:7: tokens.two.env: NONE is not set in the environment; set it, or use { file = ... }
[tokens.two]\nfile = "/nonexistent" => 3:10: callers.a.token: is required because there are several tokens; write one of `main`, `two` | 6:8: tokens.two.file: "/nonexistent" cannot be read (there is no such file); create it or correct the path
[tokens.two]\nfile = "/x"\nenv = "T" => 3:10: callers.a.token: is required because there are several tokens; write one of `main`, `two` | 5:9: tokens.two: needs exactly one of `file` and `env`; write { file = ... } or { env = ... }
[listen]\ntls = { cert = "/nonexistent" } => 6:7: listen.tls.key: is required for TLS; name a PEM file | 6:16: listen.tls.cert: "/nonexistent" cannot be read (there is no such file); create it or correct the path
[listen]\nidle_timeout = "soon" => 6:16: listen.idle_timeout: "soon" is not valid; write a duration such as "30s", "250ms" or "5m"
[listne] => 5:2: listne: unknown key; did you mean `listen`?
[admin]\naddress = "0.0.0.0:1" => 5:2: admin.key: is required because admin.address is not loopback; set it, or listen on 127.0.0.1
[upstream]\nurl = "https://x/y" => 6:7: upstream.url: "https://x/y" is not valid; write http:// or https:// with a host only: no path, query or user
[upstream]\nurl = "https://x?y" => 6:7: upstream.url: "https://x?…" is not valid; write http:// or https:// with a host only: no path, query or user
[upstream]\nurl = "https://u:p@x" => 6:7: upstream.url: "https://…@x" is not valid; write http:// or https:// with a host only: no path, query or user
[upstream]\nurl = "ftp://x" => 6:7: upstream.url: "ftp://x" is not valid; write http:// or https:// with a host only: no path, query or user
[upstream]\nproxy = "proxy.corp:3128" => 6:9: upstream.proxy: "proxy.corp:3128" is not valid; write http:// with the proxy's host and port, such as "http://proxy.example:3128"; connections to the proxy itself are without TLS
[upstream]\nproxy = "http://proxy.corp" => 6:9: upstream.proxy: "http://proxy.corp" is not valid; write http:// with the proxy's host and port, such as "http://proxy.example:3128"; connections to the proxy itself are without TLS
[upstream]\nproxy = "https://proxy.corp:3128" => 6:9: upstream.proxy: "https://proxy.corp:3128" is not valid; write http:// with the proxy's host and port, such as "http://proxy.example:3128"; connections to the proxy itself are without TLS
[upstream]\nproxy = "socks5://proxy.corp:1080" => 6:9: upstream.proxy: "socks5://proxy.corp:1080" is not valid; write http:// with the proxy's host and port, such as "http://proxy.example:3128"; connections to the proxy itself are without TLS
[upstream]\nproxy = "http://proxy.corp:3128/x" => 6:9: upstream.proxy: "http://proxy.corp:3128/x" is not valid; write http:// with the proxy's host and port, such as "http://proxy.example:3128"; connections to the proxy itself are without TLS
[upstream]\nproxy = "http://user@proxy.corp:3128" => 6:9: upstream.proxy: "http://…@proxy.corp:3128" has a user or a password in it; store user:password in a file or a variable, and name that in upstream.proxy_credentials
[upstream]\nproxy = "http://user:s3cr3t-value-007@proxy.corp:3128" => 6:9: upstream.proxy: "http://…@proxy.corp:3128" has a user or a password in it; store user:password in a file or a variable, and name that in upstream.proxy_credentials
[upstream]\nproxy = "http://127.0.0.1:8080" => 6:9: upstream.proxy: "http://127.0.0.1:8080" is the gateway's own listen.address, so requests would loop; write the URL of the proxy
[upstream]\nproxy = "http://localhost:9901" => 6:9: upstream.proxy: "http://localhost:9901" is the gateway's own admin.address, so requests would loop; write the URL of the proxy
[upstream]\nproxy_credentials = { env = "P" } => 6:21: upstream.proxy_credentials: is for upstream.proxy, which is not set; add that, or remove this
[upstream]\nproxy = "http://h:1"\nproxy_credentials = "s3cr3t-value-007" => 7:21: upstream.proxy_credentials: a string must be a reference, not the secret itself; write { file = ... } or { env = ... }
[upstream]\nproxy = "http://h:1"\nproxy_credentials = { env = "T" } => 7:21: upstream.proxy_credentials: the secret is not user:password; store both there, with a colon between them
[upstream]\ncircuit = { failures = 0 } => 6:24: upstream.circuit.failures: 0 is not valid; write a whole number from 1 to 1073741824
[upstream]\ncircuit = { opne = "1s" } => 6:13: upstream.circuit.opne: unknown key; did you mean `open`?
[auth]\njwt = { issuer = "i", audience = "a" } => 6:7: auth.jwt.jwks: is missing; write { url = ... } or { file = ... } for the issuer's public keys
[auth]\njwt = { issuer = "i", jwks = { url = "https://i/k" } } => 6:7: auth.jwt.audience: is missing; write the `aud` of tokens that are meant for revgate, such as "revgate"
[auth]\njwt = { audience = "a", jwks = { url = "https://i/k" } } => 6:7: auth.jwt.issuer: is missing; write the `iss` of your tokens
JWT url = "http://issuer.example/k" => 6:54: auth.jwt.jwks.url: "http://issuer.example/k" is not valid; write https:// (http:// only for loopback) with a host, and no user or fragment
JWT url = "http://128.0.0.1/k" => 6:54: auth.jwt.jwks.url: "http://128.0.0.1/k" is not valid; write https:// (http:// only for loopback) with a host, and no user or fragment
JWT url = "https://u:p@i/k" => 6:54: auth.jwt.jwks.url: "https://…@i/k" is not valid; write https:// (http:// only for loopback) with a host, and no user or fragment
JWT url = "https://i:99999/k" => 6:54: auth.jwt.jwks.url: "https://i:99999/k" is not valid; write https:// (http:// only for loopback) with a host, and no user or fragment
JWT url = "file:///etc/passwd" => 6:54: auth.jwt.jwks.url: "file:///etc/passwd" is not valid; write https:// (http:// only for loopback) with a host, and no user or fragment
JWT  => 6:46: auth.jwt.jwks: needs exactly one of `url` and `file`; write { url = ... } or { file = ... }
JWT url = "https://i/k", file = "/dev/null" => 6:46: auth.jwt.jwks: needs exactly one of `url` and `file`; write { url = ... } or { file = ... }
JWT file = "/nonexistent" => 6:55: auth.jwt.jwks.file: "/nonexistent" cannot be read (there is no such file); create it or correct the path
JWT file = "/dev/zero" => 6:55: auth.jwt.jwks.file: "/dev/zero" is not a regular file; point it at a file that holds only a key set
JWT file = "Cargo.toml" => 6:55: auth.jwt.jwks.file: "Cargo.toml" is no key set: it is not a JSON object with a list `keys`; store the issuer's JWKS there
JWT url = "https://i/k", roots = "none" => 6:77: auth.jwt.jwks.roots: "none" is not valid; write "bundled", "system" or { file = "ca.pem" }
JWT url = "https://i/k", uri = "x" => 6:69: auth.jwt.jwks.uri: unknown key; did you mean `url`?
[callers.b]\njwt_subject = "b" => 6:15: callers.b.jwt_subject: "b" needs auth.jwt, which names the trusted issuer; add it, or give the caller a key
[callers.b]\njwt_subject = "x"\n[callers.c]\njwt_subject = "x"\nJWT url = "https://i/k" => 8:15: callers.c.jwt_subject: "x" is also that of caller `b`; give each caller its own
[callers.b]\njwt_subject = "x"\nkey = { env = "T" }\nJWT url = "https://i/k" => 5:10: callers.b: has several credentials; keep one of key_sha256, key, jwt_subject, mtls_san, unix_uid and anonymous
[callers.b]\njwt_subject = ""\nJWT url = "https://i/k" => 6:15: callers.b.jwt_subject: "" is not valid; write a string that is not empty
[shared] => 5:2: shared.redis: is missing; store the URL of Redis, such as redis://user:password@redis.internal:6379, and name it with { file = ... } or { env = ... }
[shared]\nprefix = "x" => 5:2: shared.redis: is missing; store the URL of Redis, such as redis://user:password@redis.internal:6379, and name it with { file = ... } or { env = ... }
[shared]\nredis = "redis://u:s3cr3t-value-007@h" => 6:9: shared.redis: a string must be a reference, not the secret itself; write { file = ... } or { env = ... }
[shared]\nredis = { env = "NONE" } => 6:9: shared.redis: NONE is not set in the environment; set it, or use { file = ... }
[shared]\nredis = { env = "T" } => 6:9: shared.redis: the URL in it must begin with redis://, rediss://, unix:, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://; correct it where it is stored
[shared]\nredis = { env = "R" }\nprefix = "a{b}" => 7:10: shared.prefix: "a{b}" is not valid; write 1 to 64 letters, digits and . _ - : such as "revgate"
[shared]\nredis = { env = "R" }\nprefix = "" => 7:10: shared.prefix: "" is not valid; write 1 to 64 letters, digits and . _ - : such as "revgate"
[shared]\nredis = { env = "R" }\ntimeout = "0ms" => 7:11: shared.timeout: "0ms" is not valid; write a duration from "1ms" to "1s"
[shared]\nredis = { env = "R" }\ntimeout = "2s" => 7:11: shared.timeout: "2s" is not valid; write a duration from "1ms" to "1s"
[shared]\nredis = { env = "R" }\nroots = "none" => 7:9: shared.roots: "none" is not valid; write "bundled", "system" or { file = "ca.pem" }
[shared]\nredis = { env = "R" }\nroots = { file = "Cargo.toml" } => 7:9: shared.roots: "Cargo.toml" holds no certificate; store PEM there that begins with -----BEGIN CERTIFICATE-----
[shared]\nredis = { env = "R" }\nperfix = "x" => 7:1: shared.perfix: unknown key; did you mean `prefix`?
[limits]\nmax_body = "1XB" => 6:12: limits.max_body: "1XB" is not valid; write a size such as "64KiB", "1MiB" or "10MB", or a number of bytes
[quota]\nreserve = 1.5 => 6:11: quota.reserve: 1.5 is not valid; write a number from 0 to 1
[quota]\nspread_above = -1 => 6:16: quota.spread_above: -1 is not valid; write a number from 0 to 1
[retry]\nmax_attempts = 0 => 6:16: retry.max_attempts: 0 is not valid; write a whole number from 1 to 100
[retry]\nbackoff = { min = "20s" } => 6:19: retry.backoff.min: "20s" is above retry.backoff.max; raise that or lower this
[[rewrite]]\noperations = []\nrename = { a = "b" } => 6:14: rewrite[0].operations: is empty, so the rule would do nothing; name at least one operation
[[rewrite]]\noperations = ["a.b"] => 5:1: rewrite[0].rename: is missing; write { old = "new" }
[[rewrite]]\noperations = ["a.b", "A.b"]\nrename = { a = "b" } => 6:14: rewrite[0].operations: `a.b` already has a rule; put both renames in one rule
[trace]\notlp = "127.0.0.1:4318" => 6:8: trace.otlp: "127.0.0.1:4318" is not valid; write http:// or https:// with a host, such as "http://127.0.0.1:4318"; revgate appends /v1/traces
[trace]\notlp = "http://user@h" => 6:8: trace.otlp: "http://…@h" is not valid; write http:// or https:// with a host, such as "http://127.0.0.1:4318"; revgate appends /v1/traces
[trace]\notlp = "http://h/?key=1" => 6:8: trace.otlp: "http://h/?…" is not valid; write http:// or https:// with a host, such as "http://127.0.0.1:4318"; revgate appends /v1/traces
[trace]\notlp = "grpc://h:4317" => 6:8: trace.otlp: "grpc://h:4317" is not valid; write http:// or https:// with a host, such as "http://127.0.0.1:4318"; revgate appends /v1/traces
[trace]\nsample = 1.5 => 6:10: trace.sample: 1.5 is not valid; write a number from 0 to 1
[trace]\nsample = -1 => 6:10: trace.sample: -1 is not valid; write a number from 0 to 1
[trace]\ntimeout = "0s" => 6:11: trace.timeout: "0s" is zero, so it would always expire; write a duration above zero
[trace]\nservice_name = "" => 6:16: trace.service_name: "" is not valid; write a string that is not empty
[trace]\nheaders = { x-key = "s3cr3t-value-007" } => 6:21: trace.headers.x-key: a string must be a reference, not the secret itself; write { file = ... } or { env = ... }
[trace]\nheaders = { host = { env = "T" } } => 6:20: trace.headers.host: is a field that revgate sets itself; remove it
[trace]\nheaders = { "a b" = { env = "T" } } => 6:21: trace.headers.a b: is not a valid name of a header field; correct it
[trace]\nheaders = { x-key = { env = "NONE" } } => 6:21: trace.headers.x-key: NONE is not set in the environment; set it, or use { file = ... }
[trace]\nroots = { file = "/nonexistent" } => 6:9: trace.roots: "/nonexistent" cannot be read (there is no such file); create it or correct the path
[trace]\nroots = { file = "Cargo.toml" } => 6:9: trace.roots: "Cargo.toml" holds no certificate; store PEM there that begins with -----BEGIN CERTIFICATE-----
JWT url = "https://i/k", roots = { file = "Cargo.toml" } => 6:77: auth.jwt.jwks.roots: "Cargo.toml" holds no certificate; store PEM there that begins with -----BEGIN CERTIFICATE-----
[trace]\notpl = "http://h" => 6:1: trace.otpl: unknown key; did you mean `otlp`?
[log]\nlevel = "loud" => 6:9: log.level: "loud" is not valid; write a level such as "info", or directives such as "info,revgate=debug"
[log]\nlevel = "info,loud" => 6:9: log.level: "info,loud" is not valid; write a level such as "info", or directives such as "info,revgate=debug"
[log]\nlevel = "revgate=loud" => 6:9: log.level: "revgate=loud" is not valid; write a level such as "info", or directives such as "info,revgate=debug"
[log]\nlevel = "" => 6:9: log.level: "" is not valid; write a level such as "info", or directives such as "info,revgate=debug"
[callers.b]\nkey_sha256 = [] => 6:14: callers.b.key_sha256: a list is not valid; write 64 hexadecimal digits, as `revgate hash-key` prints them, or a list of two while the key is rotated
[callers.b]\nkey_sha256 = ["OTHER", "OTHER", "OTHER"] => 6:14: callers.b.key_sha256: a list is not valid; write 64 hexadecimal digits, as `revgate hash-key` prints them, or a list of two while the key is rotated
[callers.b]\nkey_sha256 = ["OTHER", "OTHER"] => 6:14: callers.b.key_sha256: holds the same key twice; write it once, or the old and the new one
[callers.b]\nkey_sha256 = ["OTHER", 7] => 6:14: callers.b.key_sha256: a list is not valid; write 64 hexadecimal digits, as `revgate hash-key` prints them, or a list of two while the key is rotated
[callers.b]\nkey_sha256 = ["HASH", "OTHER"] => 6:14: callers.b.key_sha256: is also the key of caller `a`; give each caller its own
[callers.b]\nkey_sha256 = "OTHER"\nkey = { env = "T" } => 5:10: callers.b: has several credentials; keep one of key_sha256, key, jwt_subject, mtls_san, unix_uid and anonymous
[callers.b]\nkey = [] => 6:7: callers.b.key: a list is not valid; write one reference, or a list of two while the key is rotated
[callers.b]\nkey = [{ env = "T" }, "s3cr3t-value-007"] => 6:23: callers.b.key[1]: a string must be a reference, not the secret itself; write { file = ... } or { env = ... }
[callers.b]\nkey = [{ env = "T" }, { env = "GONE" }] => 6:23: callers.b.key[1]: GONE is not set in the environment; set it, or use { file = ... }
"#;

/// The file of a row, and what it says of it.
fn samples() -> Vec<(String, &'static str)> {
    let rows = PROBLEMS.trim().lines().map(|row| {
        let (more, want) = row.split_once(" => ").unwrap();
        let more = more.replace("\\n", "\n").replace("HASH", HASH);
        let more = more.replace("OTHER", &"a".repeat(64));
        let more = match more.split_once("JWT ") {
            Some((more, keys)) => jwt(more, keys),
            None => more,
        };
        (good(&more), want)
    });
    rows.collect()
}

#[test]
fn each_problem_says_where_what_was_found_and_what_to_do() {
    let file = Path::new("/etc/revgate.toml");
    let mut faults = Vec::new();
    for (text, want) in samples() {
        let Problems(all) = load::parse_with(file, &text, &env()).unwrap_err();
        let said: Vec<_> = all.iter().map(ToString::to_string).collect();
        let place = "/etc/revgate.toml:";
        let got = said.join(" | ").replace(place, "");
        if got != want {
            faults.push(format!(
                "{} => {got}",
                text.strip_prefix(&good("")).unwrap().replace('\n', "\\n")
            ));
        }
        assert!(!got.contains(SECRET), "{got}");
        let tree: toml::Table = toml::from_str(&text).unwrap();
        for problem in &all {
            let said = problem.to_string();
            assert!(problem.message.contains("; "), "what to do: {said}");
            let (at, position) = problem.place();
            assert!(at == Some(file) && position.is_some(), "where: {said}");
            // A value that no secret can be is there.
            let value = find(&json!(tree), &problem.path).cloned();
            let name = problem.path.rsplit('.').next().unwrap();
            let is_scalar = value
                .as_ref()
                .is_some_and(|value| !value.is_array() && !value.is_object());
            if is_scalar && quote::is_quotable(name) == Some(true) {
                let found = quote::value(&value.unwrap());
                assert!(
                    found.is_none() || problem.found == found,
                    "what was found: {said}"
                );
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// `more`, and `auth.jwt` with the key set `jwks`.
fn jwt(more: &str, jwks: &str) -> String {
    format!("{more}[auth]\njwt = {{ issuer = \"i\", audience = \"a\", jwks = {{ {jwks} }} }}")
}

#[test]
fn signed_tokens_are_read_shown_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks");
    let set =
        |x: &str| format!("{{\"keys\":[{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"{x}\"}}]}}");
    // The key of RFC 8037 appendix A.2, and a generated one.
    let (one, two) = (
        set("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"),
        set("O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik"),
    );
    let more = "[callers.b]\njwt_subject = \"system:serviceaccount:a:b\"\n";
    let load = |jwks: &str| from_toml(&good(&jwt(more, jwks)), &env()).unwrap();
    std::fs::write(&path, one).unwrap();
    let file = format!("file = {path:?}");
    let old = load(&file);
    assert_eq!(old.files, std::slice::from_ref(&path));
    let with_proxy = good(&jwt(more, &format!("{file}, proxy = false")));
    assert_eq!(
        problems(&with_proxy),
        "auth.jwt.jwks.proxy: false applies only to a url; remove it"
    );
    assert!(load(&file).differences(&old).is_empty());
    std::fs::write(&path, two).unwrap();
    assert_eq!(load(&file).differences(&old), ["auth.jwt.jwks"]);
    for url in [
        "https://i/k",
        "http://127.9.9.9:1/k?x=1",
        "http://[::1]/k",
        "http://localhost/k",
    ] {
        let config = load(&format!("url = \"{url}\""));
        assert!(config.files.is_empty());
        assert_eq!(
            config.differences(&old),
            [
                "auth.jwt.jwks.file",
                "auth.jwt.jwks.roots",
                "auth.jwt.jwks.url"
            ]
        );
        let shown = config.effective();
        assert_eq!(shown["auth"]["jwt"]["jwks"]["url"], url);
        assert_eq!(
            shown["callers"]["b"]["jwt_subject"],
            "system:serviceaccount:a:b"
        );
        let again = from_toml(&toml::to_string(&shown).unwrap(), &env()).unwrap();
        assert!(again.differences(&config).is_empty());
    }
    let validate = jwt("", "url = \"https://i/k\"") + "\nmode = \"validate\"\nintrospect = false";
    assert!(problems(&validate).contains("auth.jwt: is for mode"));
}

#[test]
fn all_problems_at_once() {
    let got = problems("x = 1\n[retry]\nmax_attempts = 0\n[quota]\nreserve = 2");
    for want in [
        "x: ",
        "retry.max_attempts",
        "quota.reserve",
        "tokens: no token",
        "callers: no caller",
    ] {
        assert!(got.contains(want), "{want}\n{got}");
    }
    assert_eq!(got.lines().count(), 5);
}

#[test]
fn never_a_secret() {
    let s = SECRET;
    for bad in [
        format!("tokens.main = \"{s}\""),
        format!("[tokens]\nmain = {{ file = \"{s}\" }}"),
        format!("[tokens]\nmain = {{ env = \"{s}\" }}"),
        format!("[admin]\nkey = \"{s}\""),
        format!("[callers.a]\nkey = \"{s}\"\ntoken = \"{s}\""),
        format!("[callers.a]\nkey_sha256 = \"{s}\""),
        format!("[upstream]\nurl = \"https://u:{s}@h\""),
        format!("[upstream]\nproxy = \"http://u:{s}@h:1\""),
        format!("[upstream]\nproxy = \"http://{s}@h\""),
        format!("[upstream]\nproxy = \"http://h:1\"\nproxy_credentials = {{ env = \"{s}\" }}"),
        format!("[tokens.main]\nfile = \"{s}"),
    ] {
        let got = problems(&bad);
        assert!(!got.is_empty() && !got.contains(s), "{bad}\n{got}");
    }
    let proxy = "[upstream]\nproxy = \"http://h:3128\"\nproxy_credentials = { env = \"P\" }";
    let config = from_toml(&good(proxy), &env()).unwrap();
    let plan = crate::plan::Plan::of(&config).unwrap();
    let credentials = plan
        .proxy
        .as_ref()
        .and_then(|proxy| proxy.credentials.clone());
    // RFC 7617: base64 of user:s3cr3t-value-007.
    assert_eq!(credentials.unwrap(), "Basic dXNlcjpzM2NyM3QtdmFsdWUtMDA3");
    let shown = format!(
        "{} {} {config:?} {plan:?}",
        config.redacted(),
        config.effective()
    );
    assert!(shown.contains("http://h:3128") && !shown.contains("dXNlcjpz"));
    assert!(!shown.contains(s) && !config.redacted().to_string().contains(HASH));
    assert!(
        toml::to_string(&config.redacted())
            .unwrap()
            .contains("<redacted>")
    );
}

/// A value of any shape, with this text in it: also of no shape, so that the syntax is wrong.
fn shapes(text: &str) -> Vec<String> {
    [
        "\"S\"",
        "'S'",
        "S",
        "\"S",
        "S\"",
        "\"S\" S",
        "\"\"\"S",
        "[\"S\"]",
        "[\"S\", S]",
        "[\"S\" \"S\"]",
        "[S",
        "{ env = \"S\" }",
        "{ env = S }",
        "{ env = \"S }",
        "{ file = \"S\" }",
        "{ file = \"/S\" }",
        "{ file = \"./S\" }",
        "{ file \"S\" }",
        "{ x = \"S\" }",
        "{ url = \"https://u:S@h\" }",
        "\"https://u:S@h/x\"",
        "\"https://h/?k=S\"",
        "\"http://S@h",
        "{ key = { env = \"S\" } }",
        "{ rate = \"5/s\", key = \"S }",
        "\"1\" # S\"",
        "= \"S\"",
        "\n\"S\"",
        "\nS",
    ]
    .map(|shape| shape.replace('S', text))
    .into()
}

/// What is said of a file by everything that says something: problems, warnings, and the debug form of both.
fn everything_said(text: &str) -> String {
    match load::parse_with(Path::new("/etc/revgate.toml"), text, &env()) {
        Ok(config) => config
            .warnings
            .iter()
            .map(|problem| format!("{problem} {problem:?}\n"))
            .collect(),
        Err(problems) => format!("{problems} {problems:?}"),
    }
}

/// Every key of the file with every shape of a value that holds a secret. What a generator made is shown nowhere; what a person made up, in
/// no place where a secret belongs.
#[test]
fn no_problem_shows_a_secret_wherever_it_stands() {
    let mut keys: Vec<_> = [
        "tokens.main",
        "callers.a",
        "unknown",
        "tokens.rate",
        "callers.level",
    ]
    .map(|path| (path.to_owned(), true))
    .into();
    let declared = reference::paths(&Config::keys(), "");
    keys.extend(declared.into_iter().map(|(path, key)| {
        let path = path
            .replace("tokens.", "tokens.main.")
            .replace("callers.", "callers.a.");
        let is_secret = !key.quotable && key.keys.is_empty();
        (path.replace("rewrite.", "rewrite.x."), is_secret)
    }));
    let generated = [
        "7d8f1c0b9e34a256f7013c8ae92b645d",
        "q3Zr8VtN1yLk0sXhB7mWfJ2pUe5GcD9a",
        "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.q3Zr8VtN1yLk0sXhB7mWfJ2p",
        "MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43U",
    ];
    let mut tried = 0;
    let mut try_with = |path: &str, number: usize, secret: &str| {
        let Some(shape) = shapes(secret).into_iter().nth(number) else {
            return;
        };
        let text = match tried % 2 {
            0 => format!("{path} = {shape}\n"),
            _ => format!("[defaults]\nrate = \"5/s\"\n[x]\n{path} = {shape}"),
        };
        let said = everything_said(&text);
        let mut parts = secret.as_bytes().windows(8);
        let is_shown = parts.any(|part| said.contains(std::str::from_utf8(part).unwrap()));
        assert!(!is_shown, "{text}\n{said}");
        tried += 1;
    };
    for (at, (path, is_secret)) in keys.iter().enumerate() {
        for (number, shape) in shapes(SECRET).iter().enumerate() {
            try_with(path, number, generated[(at + number) % generated.len()]);
            // What begins as a path is one.
            if *is_secret
                && !shape.starts_with("{ file = \"/")
                && !shape.starts_with("{ file = \"./")
            {
                try_with(path, number, SECRET);
            }
        }
    }
    assert!(tried > 3_000, "{tried}");
}

#[test]
fn own_rules_replace_the_built_in_for_their_operation() {
    let rule =
        "[[rewrite]]\noperations = [\"rev-users.link\"]\nrename = { a = \"b\" }\nmode = \"off\"";
    let c = from_toml(&good(rule), &env()).unwrap();
    assert_eq!(c.rewrite[0].operations, ["rev-users.unlink"]);
    assert_eq!(c.rewrite[1].mode, rewrite::Mode::Off);
}

#[test]
fn validate_needs_no_callers() {
    for introspect in ["", "introspect = false"] {
        let text = format!("[auth]\nmode = \"validate\"\n{introspect}");
        assert_eq!(problems(&text), "");
    }
}

#[test]
fn files_hold_secrets_and_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let text =
        format!("[tokens.main]\nfile = {path:?}\n[callers.Big-Name]\nkey = {{ file = {path:?} }}");
    for (content, want) in [
        ("abc\n", ""),
        (" \n", "is empty"),
        ("a b", "characters"),
        ("Bearer abc", "begins with the word Bearer"),
        (&"x".repeat(70_000), "larger than"),
    ] {
        std::fs::write(&path, content).unwrap();
        let got = problems(&text);
        assert!(
            got.contains(want) && got.is_empty() == want.is_empty(),
            "{got}"
        );
    }
    std::fs::write(&path, "abc\n").unwrap();
    let config = from_toml(&text, &env()).unwrap();
    let CallerCredential::Keys(hashes) = &config.callers["Big-Name"].credential else {
        panic!("not a key")
    };
    assert_eq!(crate::hash::hex(&hashes[0]), HASH);
}

#[test]
fn a_caller_has_one_key_or_two() {
    let other = "a".repeat(64);
    let file = |keys: &str| format!("[tokens.main]\nenv = \"T\"\n[callers.a]\n{keys}\n");
    for (keys, count) in [
        (format!("key_sha256 = \"{HASH}\""), 1),
        (format!("key_sha256 = [\"{HASH}\"]"), 1),
        (format!("key_sha256 = [\"{HASH}\", \"{other}\"]"), 2),
        (format!("key_sha256 = \"{HASH}, {other}\""), 2),
        ("key = { env = \"K\" }".into(), 1),
        ("key = [{ env = \"K\" }, { env = \"T\" }]".into(), 2),
    ] {
        let config = from_toml(&file(&keys), &env()).unwrap();
        let CallerCredential::Keys(hashes) = &config.callers["a"].credential else {
            panic!("not a key")
        };
        assert_eq!(hashes.len(), count, "{keys}");
        let printed = toml::to_string(&config.effective()).unwrap();
        let again = from_toml(&printed, &env()).unwrap();
        let CallerCredential::Keys(loaded) = &again.callers["a"].credential else {
            panic!("not a key")
        };
        assert_eq!(loaded, hashes, "{printed}");
        let shown = config.redacted();
        assert_eq!(shown["callers"]["a"]["key_ids"][0], HASH[..8], "{shown}");
        assert!(!shown.to_string().contains(HASH) && !shown.to_string().contains(SECRET));
    }
}

#[test]
fn traces_are_off_until_a_receiver_is_named() {
    let c = from_toml(&good(""), &env()).unwrap();
    assert!(c.trace.otlp.is_none());
    assert_eq!(
        (c.trace.sample, c.trace.timeout, &*c.trace.service_name),
        (0.1, Duration::from_secs(5), "revgate")
    );
    let mut env = env();
    env.insert("AUTH".into(), "Basic c2VjcmV0".into());
    let c = from_toml(
        &good(
            "[trace]\notlp = \"https://otlp.example:4318/base/\"\nsample = 1\ntimeout = \"2s\"\nservice_name = \"gate\"\n\
             headers = { Authorization = { env = \"AUTH\" }, x-key = { env = \"T\" } }",
        ),
        &env,
    )
    .unwrap();
    let t = &c.trace;
    assert_eq!(t.otlp.as_ref().unwrap().path(), "/base/");
    assert_eq!((t.sample, t.headers.len()), (1.0, 2));
    let shown = c.redacted()["trace"].to_string();
    assert!(
        shown.contains("x-key") && !shown.contains("c2VjcmV0") && !shown.contains(SECRET),
        "{shown}"
    );
}

fn config(text: &str, token: &str) -> Config {
    let env = BTreeMap::from([("T".to_owned(), token.to_owned())]);
    from_toml(text, &env).unwrap()
}

#[test]
fn differences_name_keys_and_never_values() {
    let base = format!(
        "[tokens.main]\nenv = \"T\"\n[callers.a]\nkey_sha256 = \"{}\"\n",
        "a".repeat(64)
    );
    let old = config(&base, "secret-1");
    assert!(config(&base, "secret-1").differences(&old).is_empty());
    assert_eq!(config(&base, "secret-2").differences(&old), ["tokens.main"]);
    let other = base.replace(&"a".repeat(64), &"b".repeat(64));
    assert_eq!(
        config(&other, "secret-1").differences(&old),
        ["callers.a.key"]
    );
    let more = format!(
        "{base}weight = 3\n[callers.b]\nkey_sha256 = \"{}\"\n[listen]\naddress = \"127.0.0.1:1\"\n",
        "c".repeat(64)
    );
    assert_eq!(
        config(&more, "secret-1").differences(&old),
        ["callers.a.weight", "callers.b", "listen.address"]
    );
}

#[test]
fn a_change_of_any_credential_is_a_difference() {
    let with = |caller: &str| {
        format!(
            "listen.address = \"unix:/run/x\"\nauth.jwt = {{ issuer = \"i\", audience = \"a\", jwks = {{ url = \"http://127.0.0.1:9/\" }} }}\n\
             tokens.main.env = \"T\"\ncallers.b.{caller}\n"
        )
    };
    let (one, two) = ("a".repeat(64), "b".repeat(64));
    for (before, after, want) in [
        ("key_sha256 = 'ONE'", "key_sha256 = ['ONE', 'TWO']", "key"),
        ("key_sha256 = ['ONE', 'TWO']", "key_sha256 = 'TWO'", "key"),
        ("jwt_subject = 's'", "jwt_subject = 't'", "jwt_subject"),
        ("unix_uid = 1", "unix_uid = 2", "unix_uid"),
    ] {
        let hashes = |text: &str| text.replace("ONE", &one).replace("TWO", &two);
        let (before, after) = (with(&hashes(before)), with(&hashes(after)));
        let differences = config(&after, "secret").differences(&config(&before, "secret"));
        assert!(
            differences.contains(&format!("callers.b.{want}")),
            "{differences:?}"
        );
    }
    let traced = with("unix_uid = 1") + "[trace]\nheaders = { x-key = { env = \"T\" } }\n";
    let differences = config(&traced, "secret-2").differences(&config(&traced, "secret-1"));
    assert_eq!(differences, ["tokens.main", "trace.headers.x-key"]);
}

#[test]
fn changes_that_need_a_restart_are_restored_and_named() {
    let base = good("");
    let old = from_toml(&base, &env()).unwrap();
    let text = good(
        "weight = 3\n[listen]\naddress = \"127.0.0.1:1\"\nworkers = 2\n[admin]\nkey = { env = \"K\" }\n\
         [upstream]\nurl = \"https://other\"\nconnect_timeout = \"1s\"\ncircuit = { open = \"1s\" }\n\
         [auth]\nintrospect_ttl = \"1s\"\n[log]\nformat = \"json\"\naccess = \"all\"\n\
         [trace]\nheaders = { x-key = { env = \"T\" } }\n[shared]\nredis = { env = \"R\" }\n[drain]\ndelay = \"1s\"\ntimeout = \"1s\"",
    );
    let mut new = from_toml(&text, &env()).unwrap();
    let wanted = new.differences(&old);
    let mut kept = new.keep_restart_only(&old);
    kept.sort_unstable();
    assert_eq!(
        kept.join(" "),
        "admin.key drain.timeout listen.address listen.workers log.format shared trace.headers upstream.url"
    );
    let changed = new.differences(&old);
    assert_eq!(
        changed.join(" "),
        "auth.introspect_ttl callers.a.weight drain.delay log.access upstream.circuit.open upstream.connect_timeout"
    );
    assert_eq!(kept.len() + changed.len(), wanted.len());
    assert!(new.keep_restart_only(&old).is_empty());
}

#[test]
fn values_in_each_notation_are_parsed() {
    let text = good(
        "max_wait = \"5m\"\n[upstream]\nconnect_timeout = \"250ms\"\nidle_timeout = \" 1 h \"\n\
         [limits]\nmax_body = \"1 MiB\"\nmax_header_bytes = \"10kB\"\nmax_in_flight = \" 7\"\n[listen]\nmode = \"0o620\"\n\
         [defaults]\nrate = \"600 / min\"\nallow = \"Works.*,b.c\"\n[quota]\nreserve = \".5\"",
    );
    let shown = from_toml(&text, &env()).unwrap().effective();
    for (path, want) in [
        ("/callers/a/max_wait", json!("300s")),
        ("/upstream/connect_timeout", json!("250ms")),
        ("/upstream/idle_timeout", json!("3600s")),
        ("/limits/max_body", json!("1MiB")),
        ("/limits/max_header_bytes", json!("10000B")),
        ("/limits/max_in_flight", json!(7)),
        ("/listen/mode", json!("0620")),
        ("/defaults/rate", json!("600/min")),
        ("/defaults/allow", json!(["works.*", "b.c"])),
        ("/quota/reserve", json!(0.5)),
    ] {
        assert_eq!(shown.pointer(path), Some(&want), "{path}");
    }
}
