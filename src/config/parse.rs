//! Turns the file and the environment into a `Config`, or into the list of everything that is wrong.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use http::Uri;
use secrecy::SecretString;
use serde_json::Value;

use super::{
    callers::{Ways, callers, rules},
    listen::listen,
    sections::{auth, drain, limits, log, quota, retry, rewrite, token, trace},
    tree::{Problem, Problems, Section, Sink},
    *,
};

/// What holds where the file and the environment say nothing.
pub(super) const DEFAULTS: &str = include_str!("defaults.toml");

/// Loads the file at `path` and the process's environment.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        let file = path.display();
        whole(format!(
            "cannot read {file}: {e}; name the file with -c or in REVGATE_CONFIG"
        ))
    })?;
    from_toml(&text, &environment())
}

/// The files that the one at `path` refers to, also where it has problems; none where it cannot be read at all.
pub fn referred(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    if let Ok(text) = std::fs::read_to_string(path)
        && let Ok(tree) = merge(&text, &environment())
    {
        files_of(&tree, &mut files);
    }
    files
}

fn environment() -> BTreeMap<String, String> {
    let text_only = |(k, v): (std::ffi::OsString, std::ffi::OsString)| {
        Some((k.into_string().ok()?, v.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text_only).collect()
}

/// Reads `text` with `env` as the environment, both for overrides and for references.
pub fn from_toml(text: &str, env: &BTreeMap<String, String>) -> Result<Config, Problems> {
    let tree = merge(text, env)?;
    let sink = Sink::default();
    let config = build(tree, env, &sink);
    let problems = sink.into_inner();
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(Problems(problems))
    }
}

fn whole(message: String) -> Problems {
    Problems(vec![Problem {
        path: String::new(),
        message,
    }])
}

fn merge(text: &str, env: &BTreeMap<String, String>) -> Result<Value, Problems> {
    // Parsed here first: the message of `config` quotes the line, and with it perhaps a secret.
    if let Err(e) = toml::from_str::<toml::Table>(text) {
        let start = e.span().map_or(0, |s| s.start).min(text.len());
        let line = text.as_bytes()[..start]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        return Err(whole(format!("line {line} is not valid TOML; correct it")));
    }
    let source = |text| ::config::File::from_str(text, ::config::FileFormat::Toml);
    let overrides = env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    // No parsing of values: a secret or a name such as 007 must stay what it is.
    let environment = ::config::Environment::with_prefix("REVGATE")
        .prefix_separator("__")
        .separator("__")
        .try_parsing(false)
        .source(Some(overrides));
    ::config::Config::builder()
        .add_source(source(DEFAULTS))
        .add_source(source(text))
        .add_source(environment)
        .build()
        .and_then(::config::Config::try_deserialize)
        .map_err(|_| {
            whole(
                "the file and the REVGATE__ variables cannot be merged; check the variables' names"
                    .into(),
            )
        })
}

fn build(tree: Value, env: &BTreeMap<String, String>, sink: &Sink) -> Config {
    let mut files = Vec::new();
    files_of(&tree, &mut files);
    // Also when it is broken: a caller that relies on it is not at fault.
    let signed = tree.pointer("/auth/jwt").is_some();
    let certificates = tree.pointer("/listen/tls/client_ca").is_some();
    let mut root = Section::new(String::new(), Some(tree), "", sink);
    let mut warnings = Vec::new();
    let listen = listen(root.section("listen"), &mut files, &mut warnings);
    let admin = admin(root.section("admin"), env);
    let upstream = upstream(root.section("upstream"));
    super::own::check(&root, &listen, &admin, &upstream);
    let auth = auth(root.section("auth"), &upstream.roots);
    let inject = auth.mode == AuthMode::Inject;
    let named = root.named(
        "tokens",
        "write { file = ... } or { env = ... }, never the token itself",
    );
    // Also names of tokens that are broken: a caller that uses one is not at fault.
    let names: Vec<String> = named.iter().map(|(name, _)| name.clone()).collect();
    let tokens: BTreeMap<_, _> = named
        .into_iter()
        .filter_map(|(name, s)| Some((name.clone(), token(name, s, env)?)))
        .collect();
    let mut section = root.section("defaults");
    let defaults = rules(&mut section, None);
    section.finish();
    let named = root.named("callers", "write its key_sha256 and its limits in it");
    if inject && names.is_empty() {
        root.problem(
            "tokens",
            "no token in mode \"inject\"; add [tokens.main] with file = ... or env = ...",
        );
    }
    if inject && named.is_empty() {
        root.problem(
            "callers",
            "no caller in mode \"inject\"; add [callers.NAME] with key_sha256 = ...",
        );
    }
    let ways = Ways {
        address: &listen.address,
        certificates,
    };
    let callers = callers(named, &names, inject, signed, &ways, &defaults, env);
    let config = Config {
        limits: limits(root.section("limits")),
        retry: retry(root.section("retry")),
        quota: quota(root.section("quota")),
        rewrite: rewrite(&mut root, sink),
        log: log(root.section("log")),
        trace: trace(root.section("trace"), env),
        drain: drain(root.section("drain")),
        listen,
        admin,
        upstream,
        auth,
        tokens,
        callers,
        defaults,
        files,
        warnings,
    };
    root.unsupported("shared");
    root.finish();
    config
}

/// Every `file = "…"`, wherever it stands.
fn files_of(tree: &Value, files: &mut Vec<PathBuf>) {
    match tree {
        Value::Object(map) => map.iter().for_each(|(key, value)| match value {
            Value::String(path) if key == "file" => files.push(path.into()),
            value => files_of(value, files),
        }),
        Value::Array(list) => list.iter().for_each(|value| files_of(value, files)),
        _ => {}
    }
}

pub(super) fn resolve(
    s: &Section,
    key: &str,
    source: &TokenSource,
    env: &BTreeMap<String, String>,
) -> Option<SecretString> {
    secret::read(source, env)
        .map_err(|message| s.problem(key, message))
        .ok()
}

fn admin(mut s: Section, env: &BTreeMap<String, String>) -> Admin {
    let address: Option<SocketAddr> =
        s.parse("address", "an address such as \"127.0.0.1:9901\"", |v| {
            v.as_str()?.parse().ok()
        });
    let source = s.secret("key");
    if source.is_none() && address.is_some_and(|a| !a.ip().is_loopback()) {
        s.problem(
            "key",
            "is needed because admin.address is not loopback; set it, or listen on 127.0.0.1",
        );
    }
    let key = source
        .as_ref()
        .and_then(|source| resolve(&s, "key", source, env));
    s.finish();
    Admin {
        address: address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0))),
        key,
        key_source: source,
    }
}

pub(super) fn origin(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    let plain =
        matches!(uri.path(), "" | "/") && uri.query().is_none() && !text.contains(['#', '?', '@']);
    let host = uri.host().is_some_and(|h| !h.is_empty());
    // A port that does not fit is only found by asking for it.
    let port = uri.authority().is_some_and(|a| {
        a.port_u16().is_some() || !a.as_str().contains(':') || a.as_str().ends_with(']')
    });
    (http && plain && host && port).then_some(uri)
}

pub(super) fn roots(s: &mut Section) -> Option<Roots> {
    let roots = s.parse(
        "roots",
        "\"bundled\", \"system\" or { file = \"ca.pem\" }",
        |v| match v {
            Value::String(text) if text == "bundled" => Some(Roots::Bundled),
            Value::String(text) if text == "system" => Some(Roots::System),
            Value::Object(map) if map.len() == 1 => Some(Roots::File(
                map.get("file")?.as_str().filter(|p| !p.is_empty())?.into(),
            )),
            _ => None,
        },
    );
    if let Some(Roots::File(path)) = &roots
        && let Err(e) = std::fs::File::open(path)
    {
        s.problem(
            "roots",
            format!(
                "the file cannot be read ({}); create it or correct the path",
                e.kind()
            ),
        );
    }
    roots
}

fn upstream(mut s: Section) -> Upstream {
    let url = s.parse(
        "url",
        "http:// or https:// with a host and nothing after it: no path, query or user",
        |v| origin(v.as_str()?),
    );
    let roots = roots(&mut s);
    let http2 = s.choice(
        "http2",
        &[
            ("auto", Http2::Auto),
            ("never", Http2::Never),
            ("always", Http2::Always),
        ],
    );
    let mut c = s.section("circuit");
    let circuit = Circuit {
        failures: c.count("failures") as u32,
        within: c.timeout("within"),
        open: c.timeout("open"),
    };
    c.finish();
    let upstream = Upstream {
        url: url.unwrap_or_default(),
        roots: roots.unwrap_or(Roots::Bundled),
        http2: http2.unwrap_or(Http2::Auto),
        connect_timeout: s.timeout("connect_timeout"),
        attempt_timeout: s.timeout("attempt_timeout"),
        idle_timeout: s.timeout("idle_timeout"),
        circuit,
        max_connections: s.count("max_connections"),
    };
    s.finish();
    upstream
}
