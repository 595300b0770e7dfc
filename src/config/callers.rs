//! Tokens and callers: who may call, with which credential, which token and which limits.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    Address, Config,
    notation::{Flag, Integer, Patterns, notation, text},
    quote,
    reading::{Location, Table, nearest},
    secret::{FlattenedSecret, HashedKey, HashedKeys, one_or_list, one_or_two_schema},
    section::{Key, Notation, View, section, table_schema},
};
use crate::{
    hash::hex,
    policy::{fair::Priority, san::San},
};

/// `count` requests per `per`, both above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per: Duration,
}

section! {
    /// An upstream credential: exactly one of file and env.
    pub struct Token: Debug, Clone; hint "write { file = ... } or { env = ... }, never the token itself" {
        /// The token and its source.
        secret: FlattenedSecret;
        /// Tokens of one DevRev user share a group, because DevRev counts requests per user. By default each token has a group of its own, named after the token.
        quota_group: Arc<str>, example("main");
    }
}

section! {
    /// Rules for callers that do not set their own.
    pub struct CallerRules: Debug, Clone {
        /// Requests per time: "50/s", "600/min" or "1000/h". Above it, 429 at once.
        ///
        /// 20/s is more than a service needs on most days, and less than a runaway loop sends.
        rate: Rate = "20/s";
        /// Requests that may arrive together. Not derived from the rate.
        ///
        /// Two seconds' worth of the default rate.
        burst: Integer<u32, 1, { u32::MAX as u64 }> = 40;
        /// Relative share of the upstream quota when callers compete, a whole number.
        ///
        /// Equal by default.
        weight: Integer<u32, 1, 1_000_000> = 1;
        /// "interactive" or "batch". Batch waits for interactive requests, but for no longer than 10s without a turn, or a third of max_wait if that is less.
        ///
        /// Interactive by default, because someone usually waits for the response.
        priority: Priority = "interactive";
        /// Allowed operations: "*", "works.*" or whole names.
        ///
        /// All by default, because most callers need more than a list foresees; deny excludes the dangerous ones.
        allow: Patterns = ["*"];
        /// Denied operations; takes precedence over allow. A caller's list is added to that of the defaults, unless it is [].
        ///
        /// By default those that would let a caller create, change or revoke DevRev tokens with the shared one.
        deny: Patterns = ["auth-tokens.create", "auth-tokens.update", "auth-tokens.delete", "auth-tokens.self.delete"];
        /// How long a request may wait for quota.
        ///
        /// About as long as clients wait themselves.
        max_wait: Duration = "30s";
        /// With false, requests that rate, allow or deny would refuse pass and are counted, so that you can try a rule.
        ///
        /// On by default, so that rules take effect.
        enforce: bool = true;
    }
}

/// The rules of a caller, flattened into its table. A missing rule is that of `[defaults]`.
pub struct Inherited;

notation! {
    [] Inherited => CallerRules,
    flatten true,
    quotable false,
    read |value, at| {
        let mut keys = Table::open(value, at, "")?;
        let mut rules = CallerRules::read_from(&mut keys, at.context.defaults.as_ref())?;
        if let Some(defaults) = &at.context.defaults
            && !rules.deny.is_empty()
        {
            let own = std::mem::replace(&mut rules.deny, defaults.deny.clone());
            rules.deny.extend(own.into_iter().filter(|pattern| !defaults.deny.contains(pattern)));
        }
        Some(rules)
    },
    show |out, view| CallerRules::show(out, view),
    schema |defs| table_schema(&Self::keys(), defs),
    keys CallerRules::keys().into_iter().map(|key| Key { inherited: true, ..key }).collect(),
}

/// SHA-256 of a key: one, or two while the key is rotated; with a comma in an environment variable.
pub struct KeyHashes;

const HASH: &str = "[0-9A-Fa-f]{64}";

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let is_hash = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let byte = |i: usize| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap_or_default();
    is_hash.then(|| std::array::from_fn(byte))
}

notation! {
    [] KeyHashes => Vec<[u8; 32]>,
    quotable false,
    expected "64 hexadecimal digits, as `revgate hash-key` prints them, or a list of two while the key is rotated",
    parse |value| {
        let texts: Vec<&str> = match value {
            Value::String(text) => text.split(',').map(str::trim).collect(),
            Value::Array(items) => items.iter().map(Value::as_str).collect::<Option<_>>()?,
            _ => return None,
        };
        let hashes: Option<Vec<_>> = texts.into_iter().map(parse_hash).collect();
        hashes.filter(|all| (1..=2).contains(&all.len()))
    },
    show |out, view| match view {
        View::Redacted => "<redacted>".into(),
        View::Effective | View::Compared => one_or_list(out.iter().map(|hash| hex(hash).into())),
    },
    schema |defs| {
        let mut schema = one_or_two_schema(text(&[HASH]));
        schema["anyOf"][0] = text(&[&format!(r"\s*{HASH}\s*(?:,\s*{HASH}\s*)?")]);
        schema
    },
}

section! {
    /// A service that may call: its one credential, and the rules that differ from the defaults.
    pub struct Caller: Debug, Clone; hint "write its credential and its rules in it, such as key_sha256 and rate" {
        /// SHA-256 of the caller's key, as `revgate hash-key` prints it, so that the file holds no key. A list of two while the key is rotated. A caller has exactly one credential: this, key, jwt_subject, mtls_san, unix_uid or anonymous.
        key_sha256: Option<KeyHashes>, example("0000000000000000000000000000000000000000000000000000000000000000");
        /// Reference to the caller's key, instead of key_sha256. A list of two while the key is rotated.
        key: Option<HashedKeys>, example({ "env": "BILLING_KEY" });
        /// `sub` of the caller's signed token; requires auth.jwt. For a Kubernetes service account it is "system:serviceaccount:NAMESPACE:NAME".
        jwt_subject: Option<String>, example("system:serviceaccount:shop:billing");
        /// A URI or DNS name in the caller's client certificate, compared as a whole. Requires listen.tls.client_ca.
        mtls_san: Option<San>, example("spiffe://example.org/billing");
        /// User id of the caller's process, on a unix socket.
        unix_uid: Option<Integer<u32, 0, { u32::MAX as u64 - 1 }>>, example(1001);
        /// Clients without a credential are this caller. At most one caller, on loopback or a unix socket only. Off by default: every client needs a credential.
        anonymous: Flag, example(true);
        /// Name of a token in `[tokens]`. Optional if only one is configured.
        token: Option<String>, hidden, example("main");
        /// The rules that differ from the defaults.
        rules: Inherited;
    }
    then credential(key_sha256, key, jwt_subject, mtls_san, unix_uid, anonymous) -> {
        credential: CallerCredential,
    }
}

#[derive(Debug, Clone)]
pub enum CallerCredential {
    /// SHA-256 of the caller's key; two while the key is rotated.
    Keys(Vec<[u8; 32]>),
    /// `sub` of a signed token; only with `auth.jwt`.
    JwtSubject(String),
    /// A name in its client certificate.
    San(San),
    /// User id of its process, on a unix socket.
    Uid(u32),
    Anonymous,
}

/// The one credential of a caller.
fn credential(
    at: &Location<'_>,
    hashes: &Option<Option<Vec<[u8; 32]>>>,
    keys: &Option<Option<Vec<HashedKey>>>,
    subject: &Option<Option<String>>,
    san: &Option<Option<San>>,
    uid: &Option<Option<u32>>,
    anonymous: &Option<bool>,
) -> Option<(CallerCredential,)> {
    use CallerCredential::{Anonymous, JwtSubject, Keys, San, Uid};
    let hashed = |keys: Vec<HashedKey>| Keys(keys.into_iter().map(|key| key.hash).collect());
    let all = [
        ("key_sha256", hashes.clone().flatten().map(Keys)),
        ("key", keys.clone().flatten().map(hashed)),
        ("jwt_subject", subject.clone().flatten().map(JwtSubject)),
        ("mtls_san", san.clone().flatten().map(San)),
        ("unix_uid", uid.flatten().map(Uid)),
        ("anonymous", anonymous.filter(|is| *is).map(|_| Anonymous)),
    ];
    // An invalid credential counts too: it is not a reason to ask for another.
    let is_given = |(key, valid): &&(&str, Option<_>)| valid.is_some() || at.has_problem(key);
    match all.iter().filter(is_given).count() {
        0 => at.report("", "has no credential; add key_sha256 (see `revgate hash-key`), key, jwt_subject, mtls_san, unix_uid or anonymous = true"),
        1 => {}
        _ => at.report("", "has several credentials; keep one of key_sha256, key, jwt_subject, mtls_san, unix_uid and anonymous"),
    }
    let one = all.into_iter().find_map(|(_, valid)| valid);
    // The problems above keep the configuration from loading, so these empty keys are never used.
    Some((one.unwrap_or(Keys(Vec::new())),))
}

/// What the file declares outside `[callers]`, valid or not: a caller that relies on an invalid key needs no problem of its own.
pub(super) struct Declared {
    /// Whether the mode is "inject".
    pub inject: bool,
    /// Names in `[tokens]`.
    pub tokens: Vec<String>,
    /// Whether `auth.jwt` is present.
    pub jwt: bool,
    /// Whether `listen.tls.client_ca` is present.
    pub client_ca: bool,
}

/// Checks the rules that span several callers or tokens, or callers and other sections.
pub(super) fn check(config: &mut Config, declared: &Declared, at: &Location<'_>) {
    for (name, token) in &mut config.tokens {
        if token.quota_group.is_empty() {
            token.quota_group = name.as_str().into();
        }
    }
    let callers = at.key("callers");
    // An invalid address makes no caller invalid.
    let address = (!at.has_problem("listen.address")).then_some(&config.listen.address);
    let is_exposed = address.is_some_and(|address| !address.is_local());
    let is_socket = !matches!(address, Some(Address::Tcp(_)));
    let mut owners = BTreeMap::new();
    for (name, caller) in &mut config.callers {
        let at = callers.key(name);
        if name == "other" {
            at.report(
                "",
                "is the name for unknown callers in metrics and logs; choose another name",
            );
        }
        let (key, usable, problem) = match &caller.credential {
            CallerCredential::Keys(_) if caller.key_sha256.is_some() => ("key_sha256", true, ""),
            CallerCredential::Keys(_) => ("key", true, ""),
            CallerCredential::JwtSubject(_) => (
                "jwt_subject",
                declared.jwt,
                "needs auth.jwt, which names the trusted issuer; add it, or give the caller a key",
            ),
            CallerCredential::San(_) => (
                "mtls_san",
                declared.client_ca,
                "never matches, because clients present no certificates; add client_ca to listen.tls",
            ),
            CallerCredential::Uid(_) => (
                "unix_uid",
                is_socket,
                "never matches, because listen.address is not a unix socket; listen on \"unix:/path\", or give the caller a key",
            ),
            CallerCredential::Anonymous => (
                "anonymous",
                !is_exposed,
                "would let anyone call, because listen.address is not loopback; give the caller a key, or listen on 127.0.0.1 or a unix socket",
            ),
        };
        if !usable {
            at.report(key, problem);
        }
        let credentials = match &caller.credential {
            CallerCredential::Keys(keys) => keys.iter().map(|key| format!("{key:?}")).collect(),
            one => vec![format!("{one:?}")],
        };
        for credential in credentials {
            let Some(other) = owners.insert(credential, name.clone()) else {
                continue;
            };
            let message = match &caller.credential {
                CallerCredential::Keys(_) if other == *name => {
                    "holds the same key twice; write it once, or the old and the new one".to_owned()
                }
                CallerCredential::Keys(_) => {
                    format!("is also the key of caller `{other}`; give each caller its own")
                }
                CallerCredential::Anonymous => {
                    format!("is one too many: caller `{other}` is also anonymous; keep one")
                }
                _ => format!("is also that of caller `{other}`; give each caller its own"),
            };
            at.report(key, message);
        }
        token(caller, declared, &at);
    }
}

/// Fills in the token of a caller, and checks it.
fn token(caller: &mut Caller, declared: &Declared, at: &Location<'_>) {
    let known = declared.tokens.join("`, `");
    match (&caller.token, &*declared.tokens) {
        (Some(token), tokens) if !tokens.contains(token) => {
            let known = if tokens.is_empty() {
                "none".to_owned()
            } else {
                format!("`{known}`")
            };
            // What resembles no name may be the token itself.
            let near = nearest(token, tokens.iter().map(String::as_str));
            let message = format!(
                "names no configured token (there is {known}); correct it or add it under [tokens]"
            );
            at.report_found("token", near.and_then(|_| quote::string(token)), message);
        }
        (None, [only]) if declared.inject => caller.token = Some(only.clone()),
        (None, [_, _, ..]) if declared.inject => at.report(
            "token",
            format!("is required because there are several tokens; write one of `{known}`"),
        ),
        _ => {}
    }
}
