//! Merges the layers (defaults, file, environment) and turns them into a `Config` or a list of all problems.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use secrecy::ExposeSecret;
use serde_json::Value;

use super::{
    Address, AuthMode, CallerRules, Config, Problem, Problems, Secret,
    callers::{self, Declared},
    environment::{Overrides, strays},
    given::Given,
    reading::{Context, Location, read_quietly},
    section::Notation,
    sections,
};
use crate::{
    policy::{
        listeners::overlap,
        self_connection::{is_on_loopback, names_own_listener},
    },
    types::Roots,
    wall_clock,
};

/// Loads the file at `path` and the process's environment.
pub fn load(path: &Path) -> Result<Config, Problems> {
    load_given(path, &Given::default())
}

/// As [`load`], in a process that was given sockets.
pub fn load_given(path: &Path, given: &Given) -> Result<Config, Problems> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        let file = path.display();
        file_problem(format!(
            "cannot read {file}: {e}; name the file with -c or in REVGATE_CONFIG"
        ))
    })?;
    from_toml_given(&text, &environment(), given)
}

/// The files that the one at `path` refers to, even if it has problems; none if it cannot be parsed.
pub fn referenced_files(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    if let Ok(text) = std::fs::read_to_string(path)
        && let Ok(merged) = merge(&text, &environment(), &Given::default())
    {
        collect_files(&merged.tree, &mut files);
    }
    files
}

fn environment() -> BTreeMap<String, String> {
    let text_only = |(k, v): (std::ffi::OsString, std::ffi::OsString)| {
        Some((k.into_string().ok()?, v.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text_only).collect()
}

/// Loads `text` with `env` as the environment, for overrides and for references.
pub fn from_toml(text: &str, env: &BTreeMap<String, String>) -> Result<Config, Problems> {
    from_toml_given(text, env, &Given::default())
}

/// As [`from_toml`], in a process that was given sockets.
pub(super) fn from_toml_given(
    text: &str,
    env: &BTreeMap<String, String>,
    given: &Given,
) -> Result<Config, Problems> {
    let Merged {
        tree,
        file,
        overrides,
        differences,
    } = merge(text, env, given)?;
    let keys = Config::keys();
    let mut context = Context {
        env: Some(env),
        ..Context::default()
    };
    collect_files(&tree, context.files.get_mut());
    // Other keys inherit these, so they are read first. Reading the whole tree below reports their problems.
    context.defaults = tree.get("defaults").and_then(read_quietly::<CallerRules>);
    context.upstream_roots = tree
        .pointer("/upstream/roots")
        .and_then(read_quietly::<Roots>);
    let at = context.root();
    let config = Config::read(&tree, &at).map(|mut config| {
        check(&mut config, &tree, &at);
        config
    });
    let mut problems = context.problems.take();
    overrides.explain(&mut problems, &keys, &file);
    problems.extend(overrides.problems);
    given.explain(&mut problems);
    match config {
        Some(mut config) if problems.is_empty() => {
            config.warnings.extend(differences);
            config.warnings.extend(strays(env, &keys, &tree));
            Ok(config)
        }
        _ => Err(Problems(problems)),
    }
}

fn file_problem(message: String) -> Problems {
    let path = String::new();
    Problems(vec![Problem { path, message }])
}

/// The error of `config` is left out, because it may quote a secret.
const UNMERGEABLE: &str =
    "the file and the REVGATE__ variables cannot be merged; check the variables' names";

/// The layers in one tree.
struct Merged {
    tree: Value,
    /// Without the environment.
    file: Value,
    overrides: Overrides,
    /// Warnings about addresses that are not those of the given sockets.
    differences: Vec<Problem>,
}

/// Merges the defaults, the file, the environment and the addresses of given sockets into one tree.
fn merge(text: &str, env: &BTreeMap<String, String>, given: &Given) -> Result<Merged, Problems> {
    // Parsed here first, because an error of `config` quotes the line, which may contain a secret.
    if let Err(e) = toml::from_str::<toml::Table>(text) {
        let before = e.span().and_then(|span| text.get(..span.start));
        let line = before.unwrap_or_default().matches('\n').count() + 1;
        let message = format!("line {line} is not valid TOML; correct it");
        return Err(file_problem(message));
    }
    let source = |text: &str| ::config::File::from_str(text, ::config::FileFormat::Toml);
    let build = |layers: &[&str]| -> Result<Value, Problems> {
        let mut all = ::config::Config::builder();
        for layer in layers {
            all = all.add_source(source(layer));
        }
        all.build()
            .and_then(::config::Config::try_deserialize)
            .map_err(|_| file_problem(UNMERGEABLE.into()))
    };
    let defaults = toml::to_string(&Config::defaults()).unwrap_or_default();
    let file = build(&[&defaults, text])?;
    let overrides = Overrides::read(env, &file);
    // Values stay text: parsing would change a secret or a name such as 007.
    let environment = toml::to_string(&overrides.table).unwrap_or_default();
    let sockets = toml::to_string(&given.table()).unwrap_or_default();
    let written = build(&[&defaults, text, &environment])?;
    Ok(Merged {
        differences: given.warnings(&written, &build(&[&defaults])?),
        tree: build(&[&defaults, text, &environment, &sockets])?,
        file,
        overrides,
    })
}

/// The address of the admin listener, as `run` would bind it, whatever else the file says. The error is why the file could not be used
/// for it; then the address is that of the environment, or the default.
pub fn admin_address(path: &Path) -> (SocketAddr, Option<Problems>) {
    let find = |text: &str| {
        let tree = merge(text, &environment(), &Given::default())?.tree;
        let address = tree.pointer("/admin/address").and_then(Value::as_str);
        let address = address.and_then(|address| address.parse().ok());
        address.ok_or_else(|| file_problem("admin.address is not an IP address and port".into()))
    };
    let of_file = std::fs::read_to_string(path)
        .map_err(|error| file_problem(format!("cannot read {}: {error}", path.display())))
        .and_then(|text| find(&text));
    match of_file {
        Ok(address) => (address, None),
        Err(problems) => {
            let fallback = || SocketAddr::from(([127, 0, 0, 1], 9901));
            (find("").unwrap_or_else(|_| fallback()), Some(problems))
        }
    }
}

/// Collects the path of every `file = "…"` in the tree.
fn collect_files(tree: &Value, files: &mut Vec<PathBuf>) {
    match tree {
        Value::Object(map) => map.iter().for_each(|(key, value)| match value {
            Value::String(path) if key == "file" => files.push(path.into()),
            value => collect_files(value, files),
        }),
        Value::Array(list) => list.iter().for_each(|value| collect_files(value, files)),
        _ => {}
    }
}

/// Checks the rules that span several keys.
fn check(config: &mut Config, tree: &Value, at: &Location<'_>) {
    let names = |section: &str| -> Vec<String> {
        let table = tree.get(section).and_then(Value::as_object);
        table.map_or_else(Vec::new, |table| table.keys().cloned().collect())
    };
    let declared = Declared {
        inject: config.auth.mode == AuthMode::Inject,
        tokens: names("tokens"),
        jwt: tree.pointer("/auth/jwt").is_some(),
        client_ca: tree.pointer("/listen/tls/client_ca").is_some(),
    };
    let is_good = |key: &str| !at.has_problem(key);
    let is_socket = matches!(config.listen.address, Address::Unix(_));
    let is_exposed = !config.admin.address.ip().is_loopback();
    let backoff = config.retry.backoff;
    let credentials = config.upstream.proxy_credentials.as_ref();
    for (broken, key, message) in [
        (
            is_socket && tree.pointer("/listen/tls").is_some(),
            "listen.tls",
            "is not supported on a unix socket, which is local to the machine; remove it, or listen on an IP address",
        ),
        (
            is_exposed && config.admin.key.is_none() && is_good("admin.key"),
            "admin.key",
            "is required because admin.address is not loopback; set it, or listen on 127.0.0.1",
        ),
        (
            !declared.inject && declared.jwt,
            "auth.jwt",
            "is for mode \"inject\", but auth.mode is \"validate\", where callers send DevRev tokens; remove one of the two",
        ),
        (
            declared.inject && declared.tokens.is_empty() && is_good("tokens"),
            "tokens",
            "no token in mode \"inject\"; add [tokens.main] with file = ... or env = ...",
        ),
        (
            declared.inject && names("callers").is_empty() && is_good("callers"),
            "callers",
            "no caller in mode \"inject\"; add [callers.NAME] with key_sha256 = ...",
        ),
        (
            config.upstream.proxy.is_none() && credentials.is_some() && is_good("upstream.proxy"),
            "upstream.proxy_credentials",
            "is for upstream.proxy, which is not set; add that, or remove this",
        ),
        (
            credentials.is_some_and(|secret| !is_user_and_password(secret)),
            "upstream.proxy_credentials",
            "the secret is not user:password; store both there, with a colon between them",
        ),
        (
            backoff.min > backoff.max && is_good("retry.backoff"),
            "retry.backoff",
            "min is above max; raise max or lower min",
        ),
    ] {
        if broken {
            at.report(key, message);
        }
    }
    if let Some(tls) = &config.listen.tls
        && let Some(message) = tls.validity_warning(wall_clock::now())
    {
        // Only a warning: an unrelated change, such as removing a caller, must not wait for a renewal.
        let (path, message) = ("listen.tls.cert".into(), message.into());
        config.warnings.push(Problem { path, message });
    }
    let largest = (config.retry.max_replay_body as u64).max(config.limits.max_rewrite_body);
    if (config.limits.max_buffered as u64) < largest {
        let message = "is below retry.max_replay_body or limits.max_rewrite_body, so larger bodies are refused as overloaded; raise it, or lower those";
        let (path, message) = ("limits.max_buffered".into(), message.into());
        config.warnings.push(Problem { path, message });
    }
    check_listeners(config, at);
    if let Some(variable) = unused_proxy(config, at) {
        let message = format!(
            "the environment has {variable}, which revgate does not use; if DevRev is to be reached through that proxy, write its URL here, else unset the variable"
        );
        let path = "upstream.proxy".into();
        config.warnings.push(Problem { path, message });
    }
    check_upstream(config, at);
    callers::check(config, &declared, at);
    let written = tree.get("rewrite").and_then(Value::as_array);
    let written = written.map_or(&[][..], Vec::as_slice);
    sections::add_built_in(&mut config.rewrite, written, &at.key("rewrite"));
}

/// Reports an admin listener that takes the port of the one for callers.
fn check_listeners(config: &Config, at: &Location<'_>) {
    let is_good = !at.has_problem("listen.address") && !at.has_problem("admin.address");
    if let Address::Tcp(address) = config.listen.address
        && is_good
        && overlap(address, config.admin.address)
    {
        at.report(
            "admin.address",
            "takes the port of listen.address; each needs a port of its own, such as 9901 for this one",
        );
    }
}

/// RFC 7617 section 2: the first colon ends the user.
fn is_user_and_password(secret: &Secret) -> bool {
    matches!(secret.value.expose_secret().find(':'), Some(1..))
}

/// The variable that names a proxy to other programs, if the file names none. Its value may hold a password.
fn unused_proxy(config: &Config, at: &Location<'_>) -> Option<&'static str> {
    const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    // What is on this machine needs no proxy.
    if config.upstream.proxy.is_some() || is_on_loopback(&config.upstream.url) {
        return None;
    }
    let is_set = |name: &&str| {
        at.context
            .env
            .and_then(|env| env.get(*name))
            .is_some_and(|value| !value.is_empty())
    };
    VARIABLES.into_iter().find(is_set)
}

/// Reports an upstream, or a proxy, that is one of the gateway's own listeners, as far as the file can tell. Ports of 0 and names that need a look-up are
/// checked on connecting.
fn check_upstream(config: &Config, at: &Location<'_>) {
    let for_callers = match config.listen.address {
        Address::Tcp(address) => Some(address),
        Address::Unix(_) => None,
    };
    let own = [
        ("listen.address", for_callers),
        ("admin.address", Some(config.admin.address)),
    ];
    for (key, address) in own {
        let bound = address.filter(|address| address.port() != 0 && !at.has_problem(key));
        let urls = [
            (
                "upstream.url",
                Some(&config.upstream.url),
                "write the URL of DevRev's API",
            ),
            (
                "upstream.proxy",
                config.upstream.proxy.as_ref(),
                "write the URL of the proxy",
            ),
        ];
        for (named, url, instead) in urls {
            let is_own = |address| url.is_some_and(|url| names_own_listener(url, &[address]));
            if bound.is_some_and(is_own) && !at.has_problem(named) {
                at.report(
                    named,
                    format!("is the gateway's own {key}, so requests would loop; {instead}"),
                );
            }
        }
    }
}
