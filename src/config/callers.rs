//! Callers and their rules, each over the defaults.

use std::{collections::BTreeMap, time::Duration};

use secrecy::ExposeSecret;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{parse::resolve, tree::Section, *};

const PATTERNS: &str = "a list of \"*\", \"works.*\" or whole operations such as \"works.get\"";
const PRIORITIES: [(&str, Priority); 2] = [
    ("interactive", Priority::Interactive),
    ("batch", Priority::Batch),
];

/// Rules of one caller over `base`, or the defaults themselves, which are complete.
pub(super) fn rules(s: &mut Section, base: Option<&CallerRules>) -> CallerRules {
    let rate = s.parse(
        "rate",
        "a rate such as \"50/s\", \"600/min\" or \"1000/h\", above zero",
        |v| units::rate(v.as_str()?),
    );
    let burst = s.number("burst", 1, u32::MAX as u64).map(|n| n as u32);
    let weight = s.number("weight", 1, 1_000_000).map(|n| n as u32);
    let priority = s.choice("priority", &PRIORITIES);
    let allow = s.list("allow", PATTERNS, units::pattern);
    let deny = s.list("deny", PATTERNS, units::pattern);
    let max_wait = s.duration("max_wait");
    let enforce = s.bool("enforce");
    let deny = match (deny, base) {
        (Some(own), Some(base)) if !own.is_empty() => {
            let mut all = base.deny.clone();
            all.extend(own.into_iter().filter(|p| !base.deny.contains(p)));
            all
        }
        (own, base) => own.or(base.map(|b| b.deny.clone())).unwrap_or_default(),
    };
    let one = Rate {
        count: 1,
        per: Duration::from_secs(1),
    };
    CallerRules {
        rate: rate.or(base.map(|b| b.rate)).unwrap_or(one),
        burst: burst.or(base.map(|b| b.burst)).unwrap_or(1),
        weight: weight.or(base.map(|b| b.weight)).unwrap_or(1),
        priority: priority
            .or(base.map(|b| b.priority))
            .unwrap_or(Priority::Interactive),
        allow: allow.or(base.map(|b| b.allow.clone())).unwrap_or_default(),
        deny,
        max_wait: max_wait.or(base.map(|b| b.max_wait)).unwrap_or_default(),
        enforce: enforce.or(base.map(|b| b.enforce)).unwrap_or(true),
    }
}

/// One, or two while a key is rotated; the environment gives them with a comma.
fn digests(v: &Value) -> Option<Vec<[u8; 32]>> {
    let texts: Vec<&str> = match v {
        Value::String(text) => text.split(',').map(str::trim).collect(),
        Value::Array(items) => items.iter().map(Value::as_str).collect::<Option<_>>()?,
        _ => return None,
    };
    (1..=2)
        .contains(&texts.len())
        .then(|| texts.into_iter().map(digest).collect())?
}

fn digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(hash)
}

pub(super) fn callers(
    named: Vec<(String, Section)>,
    tokens: &[String],
    inject: bool,
    listen: &Address,
    defaults: &CallerRules,
    env: &BTreeMap<String, String>,
) -> BTreeMap<String, Caller> {
    let loopback = !matches!(listen, Address::Tcp(a) if !a.ip().is_loopback());
    let mut keys: BTreeMap<[u8; 32], String> = BTreeMap::new();
    let mut nobody: Option<String> = None;
    let mut callers = BTreeMap::new();
    for (name, mut s) in named {
        let has_hash = s.has("key_sha256");
        let hashes = s.parse(
            "key_sha256",
            "64 hexadecimal digits, as `revgate hash-key` prints them, or a list of two such while a key is rotated",
            digests,
        );
        let has_key = s.has("key");
        let sources = s.secrets("key");
        let hashes = hashes.unwrap_or_else(|| {
            let keys = sources
                .iter()
                .filter_map(|(at, source)| resolve(&s, at, source, env));
            keys.map(|key| Sha256::digest(key.expose_secret().as_bytes()).into())
                .collect()
        });
        let anonymous = s.bool("anonymous") == Some(true);
        let mut later = false;
        for key in ["jwt_subject", "mtls_san", "unix_uid"] {
            later |= s.has(key);
            s.unsupported(key);
        }
        match usize::from(has_hash) + usize::from(has_key) + usize::from(anonymous) {
            0 if !later => {
                s.problem("", "has no credential; add key_sha256 (see `revgate hash-key`), key or anonymous = true")
            }
            0 | 1 => {}
            _ => s.problem("", "has several credentials; keep one of key_sha256, key and anonymous"),
        }
        for hash in &hashes {
            let Some(other) = keys.insert(*hash, name.clone()) else {
                continue;
            };
            let key = if has_hash { "key_sha256" } else { "key" };
            let message = if other == name {
                "is the same key twice; write it once, or the old and the new one".to_owned()
            } else {
                format!("is the key of caller `{other}` too; give each caller a key of its own")
            };
            s.problem(key, message);
        }
        if anonymous {
            if !loopback {
                s.problem("anonymous", "would let anyone in, as listen.address is not loopback; give it a key, or listen on 127.0.0.1 or a unix socket");
            }
            if let Some(other) = nobody.replace(name.clone()) {
                s.problem(
                    "anonymous",
                    format!("caller `{other}` is anonymous too; keep one"),
                );
            }
        }
        let token = s.string("token");
        let token = match token {
            Some(token) if !tokens.contains(&token) => {
                let known = if tokens.is_empty() {
                    "none".to_owned()
                } else {
                    format!("`{}`", tokens.join("`, `"))
                };
                s.problem(
                    "token",
                    format!("names no configured token (there is {known}); correct it or add it under [tokens]"),
                );
                None
            }
            None if inject && tokens.len() > 1 => {
                let known = tokens.join("`, `");
                s.problem(
                    "token",
                    format!("is needed as there are several tokens; write one of `{known}`"),
                );
                None
            }
            None if inject => tokens.first().cloned(),
            token => token,
        };
        let rules = rules(&mut s, Some(defaults));
        s.finish();
        let credential = if anonymous {
            Some(CallerCredential::Anonymous)
        } else {
            (!hashes.is_empty()).then_some(CallerCredential::Keys(hashes))
        };
        if let Some(credential) = credential {
            callers.insert(
                name,
                Caller {
                    credential,
                    key_sources: sources.into_iter().map(|(_, source)| source).collect(),
                    token,
                    rules,
                },
            );
        }
    }
    callers
}
