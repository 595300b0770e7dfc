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

/// How callers can come.
pub(super) struct Ways<'a> {
    pub address: &'a Address,
    /// Some show a certificate, or will once listen.tls is put right.
    pub certificates: bool,
}

/// The credential of a caller that its connection gives away. `taken` holds those of the callers before it.
fn peer(
    name: &str,
    s: &mut Section,
    ways: &Ways,
    taken: &mut BTreeMap<String, String>,
) -> Option<CallerCredential> {
    let san = s.parse(
        "mtls_san",
        "a whole name as the certificate has it: a URI such as \"spiffe://example.org/billing\", or a DNS name such as \"billing.internal\", without *",
        |v| San::read(v.as_str()?),
    );
    let uid = s.number("unix_uid", 0, u64::from(u32::MAX - 1));
    if san.is_some() && !ways.certificates {
        s.problem(
            "mtls_san",
            "is never seen, as no client shows a certificate; add client_ca to listen.tls",
        );
    }
    if uid.is_some() && matches!(ways.address, Address::Tcp(_)) {
        s.problem("unix_uid", "is never seen, as listen.address is no unix socket; listen on \"unix:/path\", or give it a key");
    }
    let (key, shown, credential) = match (san, uid) {
        (Some(san), _) => ("mtls_san", format!("{san:?}"), CallerCredential::San(san)),
        (None, Some(uid)) => (
            "unix_uid",
            uid.to_string(),
            CallerCredential::Uid(uid as u32),
        ),
        (None, None) => return None,
    };
    if let Some(other) = taken.insert(shown, name.to_owned()) {
        s.problem(
            key,
            format!("is that of caller `{other}` too; give each caller its own"),
        );
    }
    Some(credential)
}

pub(super) fn callers(
    named: Vec<(String, Section)>,
    tokens: &[String],
    inject: bool,
    signed: bool,
    ways: &Ways,
    defaults: &CallerRules,
    env: &BTreeMap<String, String>,
) -> BTreeMap<String, Caller> {
    let loopback = ways.address.is_local();
    let mut keys: BTreeMap<[u8; 32], String> = BTreeMap::new();
    let mut subjects: BTreeMap<String, String> = BTreeMap::new();
    let mut nobody: Option<String> = None;
    let mut peers = BTreeMap::new();
    let mut callers = BTreeMap::new();
    for (name, mut s) in named {
        if name == "other" {
            s.problem(
                "",
                "is what metrics and the log call whoever is not known; choose another name",
            );
        }
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
        let has_subject = s.has("jwt_subject");
        let subject = s.string("jwt_subject");
        if has_subject && !signed {
            s.problem("jwt_subject", "needs auth.jwt, which says whose tokens are believed; add it, or give the caller a key");
        }
        if let Some(subject) = &subject
            && let Some(other) = subjects.insert(subject.clone(), name.clone())
        {
            s.problem(
                "jwt_subject",
                format!("is that of caller `{other}` too; give each caller its own"),
            );
        }
        let by_peer = ["mtls_san", "unix_uid"].map(|key| usize::from(s.has(key)));
        let peer = peer(&name, &mut s, ways, &mut peers);
        let by_peer: usize = by_peer.iter().sum();
        let own = [has_hash, has_key, has_subject, anonymous].map(usize::from);
        match own.iter().sum::<usize>() + by_peer {
            0 => {
                s.problem("", "has no credential; add key_sha256 (see `revgate hash-key`), key, jwt_subject, mtls_san, unix_uid or anonymous = true")
            }
            1 => {}
            _ => s.problem("", "has several credentials; keep one of key_sha256, key, jwt_subject, mtls_san, unix_uid and anonymous"),
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
            let subject = subject.map(CallerCredential::JwtSubject);
            let keys = (!hashes.is_empty()).then_some(CallerCredential::Keys(hashes));
            keys.or(subject).or(peer)
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
