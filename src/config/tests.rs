mod schema;

use std::{collections::BTreeMap, time::Duration};

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
        let says = found.contains("admin.address: takes the port of listen.address");
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

#[test]
fn each_problem_is_named() {
    // What a valid file is extended by (after JWT, a key set of `auth.jwt`), and the beginning of the one problem reported.
    let table = r#"
burts = 3 => callers.a.burts: unknown key; did you mean `burst`?
burst = 0 => callers.a.burst
weight = 0 => callers.a.weight
rate = "5" => callers.a.rate
token = "other" => callers.a.token: names no
allow = ["wo*"] => callers.a.allow
[callers.b]\nunix_uid = 1 => callers.b.unix_uid: never matches
[callers.b]\nmtls_san = "b.internal" => callers.b.mtls_san: never matches
[callers.b]\nunix_uid = -1 => callers.b.unix_uid
[callers.b]\nunix_uid = 1\n[callers.c]\nunix_uid = 1\n[listen]\naddress = "unix:/x" => callers.c.unix_uid: is also that of caller `b`
[listen]\nmode = "0480" => listen.mode
[listen]\nmode = 660 => listen.mode
anonymous = true => callers.a: has several
[callers.b]\nkey = "plain" => callers.b.key: must be a reference
[callers.b] => callers.b: has no credential
[callers.other]\nanonymous = true => callers.other: is the name
[callers.b]\nkey_sha256 = "12" => callers.b.key_sha256
[callers.b]\nkey = { env = "K" } => is also the key of caller `a`
[callers.b]\nanonymous = true\n[callers.c]\nanonymous = true => callers.c.anonymous: caller `b`
[callers.b]\nanonymous = true\n[listen]\naddress = "0.0.0.0:1" => callers.b.anonymous: would let
[tokens.two]\nenv = "T" => callers.a.token: is required
[tokens.two]\nenv = "NONE" => tokens.two.env: the environment
[tokens.two]\nfile = "/nonexistent" => tokens.two.file: the file cannot
[tokens.two]\nfile = "/x"\nenv = "T" => tokens.two: needs exactly one
[listen]\ntls = { cert = "/nonexistent" } => listen.tls.key: is required
[listen]\nidle_timeout = "soon" => listen.idle_timeout
[listne] => listne: unknown key; did you mean `listen`?
[admin]\naddress = "0.0.0.0:1" => admin.key: is required
[upstream]\nurl = "https://x/y" => upstream.url
[upstream]\nurl = "https://x?y" => upstream.url
[upstream]\nurl = "https://u:p@x" => upstream.url
[upstream]\nurl = "ftp://x" => upstream.url
[upstream]\nproxy = "proxy.corp:3128" => upstream.proxy: is not valid; write http://
[upstream]\nproxy = "http://proxy.corp" => upstream.proxy: is not valid; write http:// with the proxy's host and port
[upstream]\nproxy = "https://proxy.corp:3128" => upstream.proxy: is not valid
[upstream]\nproxy = "socks5://proxy.corp:1080" => upstream.proxy: is not valid
[upstream]\nproxy = "http://proxy.corp:3128/x" => upstream.proxy: is not valid
[upstream]\nproxy = "http://user@proxy.corp:3128" => upstream.proxy: has a user or a password in it; store user:password in a file
[upstream]\nproxy = "http://user:s3cr3t-value-007@proxy.corp:3128" => upstream.proxy: has a user or a password
[upstream]\nproxy = "http://127.0.0.1:8080" => upstream.proxy: is the gateway's own listen.address
[upstream]\nproxy = "http://localhost:9901" => upstream.proxy: is the gateway's own admin.address
[upstream]\nproxy_credentials = { env = "P" } => upstream.proxy_credentials: is for upstream.proxy, which is not set
[upstream]\nproxy = "http://h:1"\nproxy_credentials = "s3cr3t-value-007" => upstream.proxy_credentials: must be a reference
[upstream]\nproxy = "http://h:1"\nproxy_credentials = { env = "T" } => upstream.proxy_credentials: the secret is not user:password
[upstream]\ncircuit = { failures = 0 } => upstream.circuit.failures
[upstream]\ncircuit = { opne = "1s" } => did you mean `open`
[auth]\njwt = { issuer = "i", audience = "a" } => auth.jwt.jwks: is missing
[auth]\njwt = { issuer = "i", jwks = { url = "https://i/k" } } => auth.jwt.audience: is missing
[auth]\njwt = { audience = "a", jwks = { url = "https://i/k" } } => auth.jwt.issuer: is missing
JWT url = "http://issuer.example/k" => auth.jwt.jwks.url: is not valid
JWT url = "http://128.0.0.1/k" => auth.jwt.jwks.url
JWT url = "https://u:p@i/k" => auth.jwt.jwks.url
JWT url = "https://i:99999/k" => auth.jwt.jwks.url
JWT url = "file:///etc/passwd" => auth.jwt.jwks.url
JWT  => auth.jwt.jwks: needs exactly one
JWT url = "https://i/k", file = "/dev/null" => auth.jwt.jwks: needs exactly one
JWT file = "/nonexistent" => auth.jwt.jwks.file: the file cannot
JWT file = "/dev/zero" => auth.jwt.jwks.file: the path is not
JWT file = "Cargo.toml" => auth.jwt.jwks.file: the file is no key set
JWT url = "https://i/k", roots = "none" => auth.jwt.jwks.roots
JWT url = "https://i/k", uri = "x" => did you mean `url`
[callers.b]\njwt_subject = "b" => callers.b.jwt_subject: needs auth.jwt
[callers.b]\njwt_subject = "x"\n[callers.c]\njwt_subject = "x"\nJWT url = "https://i/k" => callers.c.jwt_subject: is also that of caller `b`
[callers.b]\njwt_subject = "x"\nkey = { env = "T" }\nJWT url = "https://i/k" => callers.b: has several
[callers.b]\njwt_subject = ""\nJWT url = "https://i/k" => callers.b.jwt_subject: is not valid
[shared]\nprefix = "x" => shared: is not
[limits]\nmax_body = "1XB" => limits.max_body
[quota]\nreserve = 1.5 => quota.reserve
[quota]\nspread_above = -1 => quota.spread_above
[retry]\nmax_attempts = 0 => retry.max_attempts
[retry]\nbackoff = { min = "20s" } => retry.backoff: min is above
[[rewrite]]\noperations = []\nrename = { a = "b" } => rewrite[0].operations
[[rewrite]]\noperations = ["a.b"] => rewrite[0].rename: is missing
[[rewrite]]\noperations = ["a.b", "A.b"]\nrename = { a = "b" } => rewrite[0].operations: `a.b` already has a rule
[trace]\notlp = "127.0.0.1:4318" => trace.otlp
[trace]\notlp = "http://user@h" => trace.otlp
[trace]\notlp = "http://h/?key=1" => trace.otlp
[trace]\notlp = "grpc://h:4317" => trace.otlp
[trace]\nsample = 1.5 => trace.sample
[trace]\nsample = -1 => trace.sample
[trace]\ntimeout = "0s" => trace.timeout
[trace]\nservice_name = "" => trace.service_name
[trace]\nheaders = { x-key = "s3cr3t-value-007" } => trace.headers.x-key
[trace]\nheaders = { host = { env = "T" } } => trace.headers.host
[trace]\nheaders = { "a b" = { env = "T" } } => trace.headers.a b
[trace]\nheaders = { x-key = { env = "NONE" } } => trace.headers.x-key
[trace]\nroots = { file = "/nonexistent" } => trace.roots: the file cannot
[trace]\nroots = { file = "Cargo.toml" } => trace.roots: holds no certificate
JWT url = "https://i/k", roots = { file = "Cargo.toml" } => auth.jwt.jwks.roots: holds no certificate
[trace]\notpl = "http://h" => trace.otpl
[log]\nlevel = "loud" => log.level
[log]\nlevel = "info,loud" => log.level
[log]\nlevel = "revgate=loud" => log.level
[log]\nlevel = "" => log.level
[callers.b]\nkey_sha256 = [] => callers.b.key_sha256: is not valid
[callers.b]\nkey_sha256 = ["OTHER", "OTHER", "OTHER"] => callers.b.key_sha256: is not valid
[callers.b]\nkey_sha256 = ["OTHER", "OTHER"] => callers.b.key_sha256: holds the same key twice
[callers.b]\nkey_sha256 = ["OTHER", 7] => callers.b.key_sha256: is not valid
[callers.b]\nkey_sha256 = ["HASH", "OTHER"] => callers.b.key_sha256: is also the key of caller `a`
[callers.b]\nkey_sha256 = "OTHER"\nkey = { env = "T" } => callers.b: has several credentials
[callers.b]\nkey = [] => callers.b.key: is not valid
[callers.b]\nkey = [{ env = "T" }, "s3cr3t-value-007"] => callers.b.key[1]: must be a reference
[callers.b]\nkey = [{ env = "T" }, { env = "GONE" }] => callers.b.key[1]: the environment variable
"#;
    for row in table.trim().lines() {
        let (more, want) = row.split_once(" => ").unwrap();
        let more = more.replace("\\n", "\n").replace("HASH", HASH);
        let more = more.replace("OTHER", &"a".repeat(64));
        let more = match more.split_once("JWT ") {
            Some((more, keys)) => jwt(more, keys),
            None => more,
        };
        let got = problems(&good(&more));
        assert!(got.contains(want) && !got.contains(SECRET), "{more}\n{got}");
        assert!(
            more.contains("[tokens.two]") || more.contains("tls =") || !got.contains("\n"),
            "one problem only: {more}\n{got}"
        );
    }
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
        "auth.jwt.jwks.proxy: applies only to a url; remove it"
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
         [trace]\nheaders = { x-key = { env = \"T\" } }\n[drain]\ndelay = \"1s\"\ntimeout = \"1s\"",
    );
    let mut new = from_toml(&text, &env()).unwrap();
    let wanted = new.differences(&old);
    let mut kept = new.keep_restart_only(&old);
    kept.sort_unstable();
    assert_eq!(
        kept.join(" "),
        "admin.key drain.timeout listen.address listen.workers log.format trace.headers upstream.url"
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
