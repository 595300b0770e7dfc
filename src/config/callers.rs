//! Tokens and callers: who may call, by which credential, with which token, and how much.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    Address, Config,
    notation::{Flag, Integer, Patterns, notation, text},
    reading::{At, Table},
    secret::{HashedKey, HashedKeys, InlineSecret, one_or_all, one_or_two},
    section::{Key, Notation, View, section, table},
};
use crate::policy::{fair::Priority, san::San};

/// `count` requests per `per`, both above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per: Duration,
}

section! {
    /// An upstream credential: exactly one of file and env.
    pub struct Token: Debug, Clone; hint "write { file = ... } or { env = ... }, never the token itself" {
        /// Where it stands.
        secret: InlineSecret;
        /// Tokens of one DevRev user share a group, as DevRev counts users. By default each token has its own, named like it.
        quota_group: Arc<str>, example("main");
    }
}

section! {
    /// What holds for a caller that does not say otherwise.
    pub struct CallerRules: Debug, Clone {
        /// Requests per time: "50/s", "600/min" or "1000/h". Over it, 429 at once.
        ///
        /// 20/s is more than a service needs on most days, and less than a runaway loop sends.
        rate: Rate = "20/s";
        /// Requests that may come together. Not derived from the rate.
        ///
        /// By default two seconds' worth of the rate.
        burst: Integer<u32, 1, { u32::MAX as u64 }> = 40;
        /// Share of the upstream quota when callers compete, a whole number.
        ///
        /// Equal by default.
        weight: Integer<u32, 1, 1_000_000> = 1;
        /// "interactive" or "batch": batch has its turn after interactive, but one at the latest when it waited for a third of max_wait, or 10s.
        ///
        /// By default somebody waits for the answer.
        priority: Priority = "interactive";
        /// Operations: "*", "works.*" or whole names.
        ///
        /// All by default, as most callers need more than a list foresees; deny takes out what is dangerous.
        allow: Patterns = ["*"];
        /// Wins over allow. What a caller denies is added to the defaults', unless it is [].
        ///
        /// By default what would let a caller mint or revoke DevRev tokens through the shared one.
        deny: Patterns = ["auth-tokens.create", "auth-tokens.update", "auth-tokens.delete", "auth-tokens.self.delete"];
        /// How long a request may wait for quota.
        ///
        /// About as long as clients wait themselves.
        max_wait: Duration = "30s";
        /// false lets what rate, allow or deny would have refused pass, and counts it, so that a rule can be tried.
        ///
        /// By default rules bite.
        enforce: bool = true;
    }
}

/// The rules of a caller, whose keys stand beside its others: where there is none, that of the defaults holds.
pub struct Inherited;

notation! {
    [] Inherited => CallerRules,
    flat true,
    read |value, at| {
        let mut keys = Table::open(value, at, "")?;
        let mut rules = CallerRules::take(&mut keys, at.context.rules.as_ref())?;
        if let Some(defaults) = &at.context.rules
            && !rules.deny.is_empty()
        {
            let own = std::mem::replace(&mut rules.deny, defaults.deny.clone());
            rules.deny.extend(own.into_iter().filter(|pattern| !defaults.deny.contains(pattern)));
        }
        Some(rules)
    },
    show |out, view| CallerRules::show(out, view),
    schema |shared| table(&Self::keys(), shared),
    keys CallerRules::keys().into_iter().map(|key| Key { inherited: true, ..key }).collect(),
}

/// SHA-256 of a key: one, or two while a key is rotated; the environment gives them with a comma.
pub struct Digests;

const DIGITS: &str = "[0-9A-Fa-f]{64}";

fn digest(text: &str) -> Option<[u8; 32]> {
    let is_hash = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let byte = |i: usize| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap_or_default();
    is_hash.then(|| std::array::from_fn(byte))
}

fn hex(hash: &[u8; 32]) -> Value {
    hash.iter()
        .map(|b| format!("{b:02x}"))
        .collect::<String>()
        .into()
}

notation! {
    [] Digests => Vec<[u8; 32]>,
    want "64 hexadecimal digits, as `revgate hash-key` prints them, or a list of two such while a key is rotated",
    parse |value| {
        let texts: Vec<&str> = match value {
            Value::String(text) => text.split(',').map(str::trim).collect(),
            Value::Array(items) => items.iter().map(Value::as_str).collect::<Option<_>>()?,
            _ => return None,
        };
        let digests: Option<Vec<_>> = texts.into_iter().map(digest).collect();
        digests.filter(|all| (1..=2).contains(&all.len()))
    },
    show |out, view| match view {
        View::Redacted => "<redacted>".into(),
        View::Effective | View::Compared => one_or_all(out.iter().map(hex)),
    },
    schema |shared| {
        let mut schema = one_or_two(text(&[DIGITS]));
        schema["anyOf"][0] = text(&[&format!(r"\s*{DIGITS}\s*(?:,\s*{DIGITS}\s*)?")]);
        schema
    },
}

section! {
    /// Who may call: one credential and what differs from the defaults.
    pub struct Caller: Debug, Clone; hint "write its key_sha256 and its limits in it" {
        /// SHA-256 of the caller's key, as `revgate hash-key` prints it; so the file holds no key. This, key, jwt_subject, mtls_san, unix_uid or anonymous. A list of two while a key is rotated: both are good.
        key_sha256: Option<Digests>, example("0000000000000000000000000000000000000000000000000000000000000000");
        /// Where the caller's key stands, in place of key_sha256; a list of two while it is rotated.
        key: Option<HashedKeys>, example({ "env": "BILLING_KEY" });
        /// `sub` of a signed token; needs auth.jwt. Of a Kubernetes service account it is "system:serviceaccount:NAMESPACE:NAME".
        jwt_subject: Option<String>, example("system:serviceaccount:shop:billing");
        /// A URI or DNS name in the caller's client certificate, compared whole. Needs listen.tls.client_ca.
        mtls_san: Option<San>, example("spiffe://example.org/billing");
        /// The user that the caller runs as, on a unix socket.
        unix_uid: Option<Integer<u32, 0, { u32::MAX as u64 - 1 }>>, example(1001);
        /// Whoever shows no credential; at most one caller, loopback or unix sockets only. Not by default: nobody gets in unasked.
        anonymous: Flag, example(true);
        /// A name in tokens; may be left out where only one is configured.
        token: Option<String>, example("main");
        /// What it may do.
        rules: Inherited;
    }
    then credential(key_sha256, key, jwt_subject, mtls_san, unix_uid, anonymous) -> {
        credential: CallerCredential,
    }
}

#[derive(Debug, Clone)]
pub enum CallerCredential {
    /// SHA-256 of the caller's key; two while it is rotated.
    Keys(Vec<[u8; 32]>),
    /// `sub` of a signed token; only where `auth.jwt` is set.
    JwtSubject(String),
    /// A name in its client certificate.
    San(San),
    /// The user that it runs as, on a unix socket.
    Uid(u32),
    Anonymous,
}

/// The one credential of a caller.
fn credential(
    at: &At,
    digests: &Option<Option<Vec<[u8; 32]>>>,
    keys: &Option<Option<Vec<HashedKey>>>,
    subject: &Option<Option<String>>,
    san: &Option<Option<San>>,
    uid: &Option<Option<u32>>,
    anonymous: &Option<bool>,
) -> Option<(CallerCredential,)> {
    use CallerCredential::{Anonymous, JwtSubject, Keys, San, Uid};
    let hashes = |keys: Vec<HashedKey>| Keys(keys.into_iter().map(|key| key.hash).collect());
    let all = [
        ("key_sha256", digests.clone().flatten().map(Keys)),
        ("key", keys.clone().flatten().map(hashes)),
        ("jwt_subject", subject.clone().flatten().map(JwtSubject)),
        ("mtls_san", san.clone().flatten().map(San)),
        ("unix_uid", uid.flatten().map(Uid)),
        ("anonymous", anonymous.filter(|is| *is).map(|_| Anonymous)),
    ];
    // One that is no good is one all the same: there should not be another.
    let is_given = |(key, good): &&(&str, Option<_>)| good.is_some() || at.is_faulty(key);
    match all.iter().filter(is_given).count() {
        0 => at.problem("", "has no credential; add key_sha256 (see `revgate hash-key`), key, jwt_subject, mtls_san, unix_uid or anonymous = true"),
        1 => {}
        _ => at.problem("", "has several credentials; keep one of key_sha256, key, jwt_subject, mtls_san, unix_uid and anonymous"),
    }
    let one = all.into_iter().find_map(|(_, good)| good);
    // A caller without a good credential has no key that anybody could present.
    Some((one.unwrap_or(Keys(Vec::new())),))
}

/// What of the tree the rules across callers need, also where it has problems of its own: a caller that relies on it is not at fault.
pub struct Facts {
    pub inject: bool,
    /// Names of tokens.
    pub tokens: Vec<String>,
    /// Tokens of an issuer are believed.
    pub signed: bool,
    /// Clients show certificates.
    pub certificates: bool,
}

/// The rules that take several callers or tokens, or what stands elsewhere in the file.
pub fn check(config: &mut Config, facts: &Facts, at: &At) {
    for (name, token) in &mut config.tokens {
        if token.quota_group.is_empty() {
            token.quota_group = name.as_str().into();
        }
    }
    let callers = at.key("callers");
    // Where the address is wrong, callers do not depend on it.
    let address = (!at.is_faulty("listen.address")).then_some(&config.listen.address);
    let is_exposed = address.is_some_and(|address| !address.is_local());
    let is_socket = !matches!(address, Some(Address::Tcp(_)));
    let mut owners = BTreeMap::new();
    for (name, caller) in &mut config.callers {
        let at = callers.key(name);
        if name == "other" {
            at.problem(
                "",
                "is what metrics and the log call whoever is not known; choose another name",
            );
        }
        let (key, usable, otherwise) = match &caller.credential {
            CallerCredential::Keys(_) if caller.key_sha256.is_some() => ("key_sha256", true, ""),
            CallerCredential::Keys(_) => ("key", true, ""),
            CallerCredential::JwtSubject(_) => (
                "jwt_subject",
                facts.signed,
                "needs auth.jwt, which says whose tokens are believed; add it, or give the caller a key",
            ),
            CallerCredential::San(_) => (
                "mtls_san",
                facts.certificates,
                "is never seen, as no client shows a certificate; add client_ca to listen.tls",
            ),
            CallerCredential::Uid(_) => (
                "unix_uid",
                is_socket,
                "is never seen, as listen.address is no unix socket; listen on \"unix:/path\", or give it a key",
            ),
            CallerCredential::Anonymous => (
                "anonymous",
                !is_exposed,
                "would let anyone in, as listen.address is not loopback; give it a key, or listen on 127.0.0.1 or a unix socket",
            ),
        };
        if !usable {
            at.problem(key, otherwise);
        }
        let whose = match &caller.credential {
            CallerCredential::Keys(keys) => keys.iter().map(|key| format!("{key:?}")).collect(),
            one => vec![format!("{one:?}")],
        };
        for credential in whose {
            let Some(other) = owners.insert(credential, name.clone()) else {
                continue;
            };
            let message = match &caller.credential {
                CallerCredential::Keys(_) if other == *name => {
                    "is the same key twice; write it once, or the old and the new one".to_owned()
                }
                CallerCredential::Keys(_) => {
                    format!("is the key of caller `{other}` too; give each caller a key of its own")
                }
                CallerCredential::Anonymous => {
                    format!("caller `{other}` is anonymous too; keep one")
                }
                _ => format!("is that of caller `{other}` too; give each caller its own"),
            };
            at.problem(key, message);
        }
        token(caller, facts, &at);
    }
}

/// Which token is used for a caller.
fn token(caller: &mut Caller, facts: &Facts, at: &At) {
    let known = facts.tokens.join("`, `");
    match (&caller.token, &*facts.tokens) {
        (Some(token), tokens) if !tokens.contains(token) => {
            let known = if tokens.is_empty() {
                "none".to_owned()
            } else {
                format!("`{known}`")
            };
            at.problem(
                "token",
                format!("names no configured token (there is {known}); correct it or add it under [tokens]"),
            );
        }
        (None, [only]) if facts.inject => caller.token = Some(only.clone()),
        (None, [_, _, ..]) if facts.inject => at.problem(
            "token",
            format!("is needed as there are several tokens; write one of `{known}`"),
        ),
        _ => {}
    }
}
