//! Puts the layers together, which are the defaults, the file and the environment, and turns them into a `Config`, or into the list of
//! everything that is wrong.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde_json::Value;

use super::{
    Address, AuthMode, CallerRules, Config, Problem, Problems,
    callers::{self, Facts},
    reading::{At, Context, read_quietly},
    section::Notation,
    sections,
};
use crate::{policy::self_connection::names_own_listener, types::Roots};

/// Loads the file at `path` and the process's environment.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        let file = path.display();
        of_file(format!(
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
    let mut context = Context {
        env: Some(env),
        ..Context::default()
    };
    files_of(&tree, context.files.get_mut());
    // Read beforehand, for the keys that inherit them. Their own problems are reported once, below.
    context.rules = tree.get("defaults").and_then(read_quietly::<CallerRules>);
    context.roots = tree
        .pointer("/upstream/roots")
        .and_then(read_quietly::<Roots>);
    let at = context.root();
    let config = Config::read(&tree, &at).map(|mut config| {
        check(&mut config, &tree, &at);
        config
    });
    let problems = context.problems.take();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(Problems(problems)),
    }
}

fn of_file(message: String) -> Problems {
    let path = String::new();
    Problems(vec![Problem { path, message }])
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
        return Err(of_file(format!(
            "line {line} is not valid TOML; correct it"
        )));
    }
    let source = |text: &str| ::config::File::from_str(text, ::config::FileFormat::Toml);
    let overrides = env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    // No parsing of values: a secret or a name such as 007 must stay what it is.
    let environment = ::config::Environment::with_prefix("REVGATE")
        .prefix_separator("__")
        .separator("__")
        .try_parsing(false)
        .source(Some(overrides));
    let defaults = toml::to_string(&Config::defaults()).unwrap_or_default();
    ::config::Config::builder()
        .add_source(source(&defaults))
        .add_source(source(text))
        .add_source(environment)
        .build()
        .and_then(::config::Config::try_deserialize)
        .map_err(|_| {
            of_file(
                "the file and the REVGATE__ variables cannot be merged; check the variables' names"
                    .into(),
            )
        })
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

/// The rules that take several keys.
fn check(config: &mut Config, tree: &Value, at: &At) {
    let names = |section: &str| -> Vec<String> {
        let table = tree.get(section).and_then(Value::as_object);
        table.map_or_else(Vec::new, |table| table.keys().cloned().collect())
    };
    let facts = Facts {
        inject: config.auth.mode == AuthMode::Inject,
        tokens: names("tokens"),
        signed: tree.pointer("/auth/jwt").is_some(),
        certificates: tree.pointer("/listen/tls/client_ca").is_some(),
    };
    let is_good = |key: &str| !at.is_faulty(key);
    let is_socket = matches!(config.listen.address, Address::Unix(_));
    let is_exposed = !config.admin.address.ip().is_loopback();
    let backoff = config.retry.backoff;
    for (broken, key, message) in [
        (
            is_socket && tree.pointer("/listen/tls").is_some(),
            "listen.tls",
            "is of no use on a unix socket, which never leaves the machine; remove it, or listen on an IP address",
        ),
        (
            is_exposed && config.admin.key.is_none() && is_good("admin.key"),
            "admin.key",
            "is needed because admin.address is not loopback; set it, or listen on 127.0.0.1",
        ),
        (
            !facts.inject && facts.signed,
            "auth.jwt",
            "is for mode \"inject\"; in mode \"validate\" callers bring DevRev tokens: remove one of the two",
        ),
        (
            facts.inject && facts.tokens.is_empty() && is_good("tokens"),
            "tokens",
            "no token in mode \"inject\"; add [tokens.main] with file = ... or env = ...",
        ),
        (
            facts.inject && names("callers").is_empty() && is_good("callers"),
            "callers",
            "no caller in mode \"inject\"; add [callers.NAME] with key_sha256 = ...",
        ),
        (
            backoff.min > backoff.max && is_good("retry.backoff"),
            "retry.backoff",
            "min is above max; raise max or lower min",
        ),
    ] {
        if broken {
            at.problem(key, message);
        }
    }
    if let Some(tls) = &config.listen.tls
        && let Some(message) = tls.out_of_date(SystemTime::now())
    {
        // No problem: a change that has nothing to do with it, such as a caller taken out, must not wait for a renewal.
        let (path, message) = ("listen.tls.cert".into(), message.into());
        config.warnings.push(Problem { path, message });
    }
    leads_elsewhere(config, at);
    callers::check(config, &facts, at);
    let written = tree.get("rewrite").and_then(Value::as_array);
    let written = written.map_or(&[][..], Vec::as_slice);
    sections::add_built_in(&mut config.rewrite, written, &at.key("rewrite"));
}

/// The upstream is not this gateway itself, as far as the file alone can tell. Ports of 0 and names are looked at later.
fn leads_elsewhere(config: &Config, at: &At) {
    let proxy = match config.listen.address {
        Address::Tcp(address) => Some(address),
        Address::Unix(_) => None,
    };
    let own = [
        ("listen.address", proxy),
        ("admin.address", Some(config.admin.address)),
    ];
    for (key, address) in own {
        let bound = address.filter(|address| address.port() != 0 && !at.is_faulty(key));
        let is_own = |address| names_own_listener(&config.upstream.url, &[address]);
        if bound.is_some_and(is_own) && !at.is_faulty("upstream.url") {
            at.problem("upstream.url", format!("is this gateway's own {key}, so that requests would run in a circle; name DevRev's API"));
        }
    }
}
