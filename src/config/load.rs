//! Merges the layers (defaults, file, environment) and turns them into a `Config` or a list of all problems.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::ExposeSecret;
use serde_json::Value;

use super::{
    Address, AuthMode, CallerRules, Config, Problem, Problems, Secret,
    callers::{self, Declared},
    environment::{Environment, Overrides, strays},
    excerpt,
    given::Given,
    places::{Part, Places},
    problem::Origin,
    proxies,
    reading::{Context, Location, read_quietly},
    section::Notation,
    sections, shared, warnings,
};
use crate::{
    policy::{listeners::overlap, self_connection::names_own_listener},
    types::Roots,
};

/// The most octets of a file. Each of a thousand callers may have several thousand.
const LIMIT: u64 = 8 << 20;

/// Loads the file at `path` and the process's environment.
pub fn load(path: &Path) -> Result<Config, Problems> {
    load_given(path, &Given::default())
}

/// As [`load`], in a process that was given sockets.
pub fn load_given(path: &Path, given: &Given) -> Result<Config, Problems> {
    let text = read(path)?;
    parse(Some(path), &text, &Environment::of_process(), given)
}

/// The files that the one at `path` refers to, even if it has problems; none if it cannot be parsed.
pub fn referenced_files(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    if let Ok(text) = read(path)
        && let Ok(merged) = merge(None, &text, &Environment::of_process(), &Given::default())
    {
        collect_files(&merged.tree, &mut files);
    }
    files
}

fn read(path: &Path) -> Result<String, Problems> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        let message =
            format!("cannot be read: {error}; name the file with -c or in REVGATE_CONFIG");
        return Err(Problem::of_file(path, message).into());
    }
    if bytes.len() as u64 > LIMIT {
        let message = format!(
            "is larger than {} MiB; name the configuration file",
            LIMIT >> 20
        );
        return Err(Problem::of_file(path, message).into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let position = excerpt::position(&String::from_utf8_lossy(good), good.len());
        let origin = Origin::File {
            file: Some(path.into()),
            position: Some(position),
        };
        let message = "is not UTF-8 text from here on; store the file in this encoding";
        Problems::from(Problem {
            origin,
            ..Problem::new("", message)
        })
    })
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
    let env = Environment {
        variables: env.clone(),
        unreadable: BTreeSet::new(),
    };
    parse(None, text, &env, given)
}

/// As [`from_toml`], as if the text stood in this file.
#[cfg(test)]
pub(super) fn parse_with(
    file: &Path,
    text: &str,
    env: &BTreeMap<String, String>,
) -> Result<Config, Problems> {
    let env = Environment {
        variables: env.clone(),
        unreadable: BTreeSet::new(),
    };
    parse(Some(file), text, &env, &Given::default())
}

fn parse(
    file: Option<&Path>,
    text: &str,
    env: &Environment,
    given: &Given,
) -> Result<Config, Problems> {
    let Merged {
        tree,
        file,
        overrides,
        places,
        differences,
    } = merge(file, text, env, given)?;
    let keys = Config::keys();
    let mut context = Context {
        env: Some(&env.variables),
        unreadable: Some(&env.unreadable),
        tree: Some(&tree),
        places,
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
    let mut problems = in_order(context.problems.take());
    overrides.explain(&mut problems, &keys, &file);
    problems.extend(overrides.problems);
    given.explain(&mut problems);
    match config {
        Some(mut config) if problems.is_empty() => {
            // Some were collected with the configuration, others by its checks.
            config.warnings.extend(differences);
            config.warnings.extend(context.warnings.take());
            config.warnings = in_order(config.warnings);
            config.warnings.extend(strays(&env.variables, &keys, &tree));
            Ok(config)
        }
        _ => Err(Problems(problems)),
    }
}

/// In the order of the file; first what has no place in it.
fn in_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by_key(|problem| problem.place().1);
    problems
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
    places: Arc<Places>,
    /// Warnings about addresses that are not those of the given sockets.
    differences: Vec<Problem>,
}

/// Merges the defaults, the file, the environment and the addresses of given sockets into one tree.
fn merge(
    path: Option<&Path>,
    text: &str,
    env: &Environment,
    given: &Given,
) -> Result<Merged, Problems> {
    // Parsed here first, because `config` loses the places, and its errors quote lines that may contain a secret.
    let mut places = Places::of(path, text)?;
    let source = |text: &str| ::config::File::from_str(text, ::config::FileFormat::Toml);
    let build = |layers: &[&str]| -> Result<Value, Problems> {
        let mut all = ::config::Config::builder();
        for layer in layers {
            all = all.add_source(source(layer));
        }
        all.build()
            .and_then(::config::Config::try_deserialize)
            .map_err(|_| Problem::new("", UNMERGEABLE).into())
    };
    let defaults = toml::to_string(&Config::defaults()).unwrap_or_default();
    let file = build(&[&defaults, text])?;
    let overrides = Overrides::read(env, &file);
    overrides.add_to(&mut places);
    // Values stay text: parsing would change a secret or a name such as 007.
    let environment = toml::to_string(&overrides.table).unwrap_or_default();
    let sockets = toml::to_string(&given.table()).unwrap_or_default();
    let written = build(&[&defaults, text, &environment])?;
    Ok(Merged {
        differences: given.warnings(&written, &build(&[&defaults])?, &places),
        tree: build(&[&defaults, text, &environment, &sockets])?,
        file,
        overrides,
        places: Arc::new(places),
    })
}

/// The address of the admin listener, as `run` would bind it, whatever else the file says. The error is why the file could not be used
/// for it; then the address is that of the environment, or the default.
pub fn admin_address(path: &Path) -> (SocketAddr, Option<Problems>) {
    let find = |file: Option<&Path>, text: &str| {
        let env = Environment::of_process();
        let merged = merge(file, text, &env, &Given::default())?;
        let address = merged
            .tree
            .pointer("/admin/address")
            .and_then(Value::as_str);
        let address = address.and_then(|address| address.parse().ok());
        address.ok_or_else(|| {
            let path = "admin.address";
            Problems::from(Problem {
                origin: merged.places.origin(path, Part::Value),
                ..Problem::new(path, "is not an IP address and port")
            })
        })
    };
    let of_file = read(path).and_then(|text| find(Some(path), &text));
    match of_file {
        Ok(address) => (address, None),
        Err(problems) => {
            let fallback = || SocketAddr::from(([127, 0, 0, 1], 9901));
            (
                find(None, "").unwrap_or_else(|_| fallback()),
                Some(problems),
            )
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
            "retry.backoff.min",
            "is above retry.backoff.max; raise that or lower this",
        ),
    ] {
        if broken {
            at.report(key, message);
        }
    }
    check_listeners(config, at);
    proxies::check(&config.listen, at);
    check_upstream(config, at);
    shared::check(config, at);
    warnings::check(config, at);
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
