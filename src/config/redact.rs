//! The effective configuration as the operator may see it.

use serde_json::{Map, Value, json};

use super::{units::*, *};
use crate::types::key_id;

const REDACTED: &str = "<redacted>";

impl Config {
    /// The configuration under the file's names, with no secret in it, for whoever may ask the admin listener: references as
    /// they are, and no whole hash of a key either; of a key in a file its id, 8 digits of its hash, which is why a key must
    /// be random.
    pub fn redacted(&self) -> Value {
        self.shown(false)
    }

    /// The same with the hashes, which the file holds itself: written to a file, it loads as what it shows.
    pub fn effective(&self) -> Value {
        self.shown(true)
    }

    fn shown(&self, hashes: bool) -> Value {
        let mut admin = json!({ "address": self.admin.address.to_string() });
        if let Some(source) = &self.admin.key_source {
            admin["key"] = reference(source);
        }
        let (u, r) = (&self.upstream, &self.retry);
        let mut listen = json!({
            "address": self.listen.address.to_string(), "mode": format!("{:04o}", self.listen.mode), "workers": self.listen.workers,
            "max_connections": self.listen.max_connections,
            "header_timeout": show_duration(self.listen.header_timeout),
            "idle_timeout": show_duration(self.listen.idle_timeout),
        });
        if let Some(tls) = &self.listen.tls {
            listen["tls"] = self::tls(tls);
        }
        // Without the slash that a parsed URI gains.
        let url = u.url.to_string();
        let t = &self.trace;
        let mut trace = json!({
            "sample": t.sample, "timeout": show_duration(t.timeout), "service_name": t.service_name, "roots": roots(&t.roots),
        });
        if let Some(url) = &t.otlp {
            trace["otlp"] = url.to_string().trim_end_matches('/').into();
        }
        if !t.headers.is_empty() {
            let headers = t.headers.iter();
            trace["headers"] = headers
                .map(|(name, source, _)| (name.to_string(), reference(source)))
                .collect::<Map<_, _>>()
                .into();
        }
        let mut auth = json!({
            "mode": match self.auth.mode { AuthMode::Inject => "inject", AuthMode::Validate => "validate" },
            "introspect": self.auth.introspect, "introspect_ttl": show_duration(self.auth.introspect_ttl),
        });
        if let Some(jwt) = &self.auth.jwt {
            let jwks = match &jwt.jwks {
                Jwks::Url { url, roots: of } => {
                    json!({ "url": url.to_string(), "roots": roots(of) })
                }
                Jwks::File { path, .. } => json!({ "file": path.display().to_string() }),
            };
            auth["jwt"] = json!({ "issuer": jwt.issuer, "audience": jwt.audience, "jwks": jwks });
        }
        json!({
            "listen": listen,
            "admin": admin,
            "upstream": {
                "url": url.trim_end_matches('/'), "roots": roots(&u.roots),
                "http2": match u.http2 { Http2::Auto => "auto", Http2::Never => "never", Http2::Always => "always" },
                "connect_timeout": show_duration(u.connect_timeout), "attempt_timeout": show_duration(u.attempt_timeout),
                "idle_timeout": show_duration(u.idle_timeout), "max_connections": u.max_connections,
                "circuit": { "failures": u.circuit.failures, "within": show_duration(u.circuit.within),
                    "open": show_duration(u.circuit.open) },
            },
            "auth": auth,
            "tokens": self.tokens.iter().map(|(n, t)| (n.clone(), token(t))).collect::<Map<_, _>>(),
            "callers": self.callers.iter().map(|(n, c)| (n.clone(), caller(c, hashes))).collect::<Map<_, _>>(),
            "defaults": rules(&self.defaults),
            "limits": {
                "max_in_flight": self.limits.max_in_flight, "max_body": show_size(self.limits.max_body),
                "max_header_bytes": show_size(self.limits.max_header_bytes as u64), "max_headers": self.limits.max_headers,
            },
            "retry": {
                "max_attempts": r.max_attempts, "budget": r.budget,
                "backoff": { "min": show_duration(r.backoff_min), "max": show_duration(r.backoff_max) },
                "max_replay_body": show_size(r.max_replay_body as u64), "max_retry_after": show_duration(r.max_retry_after),
            },
            "quota": { "spread_above": self.quota.spread_above, "reserve": self.quota.reserve,
                "max_waiting": self.quota.max_waiting },
            "rewrite": self.rewrite.iter().map(rewrite).collect::<Vec<_>>(),
            "log": {
                "level": self.log.level,
                "format": match self.log.format { LogFormat::Auto => "auto", LogFormat::Json => "json", LogFormat::Text => "text" },
                "access": self.log.access.name(),
            },
            "trace": trace,
            "drain": { "delay": show_duration(self.drain.delay), "timeout": show_duration(self.drain.timeout) },
        })
    }
}

fn tls(tls: &Tls) -> Value {
    let mut out =
        json!({ "cert": tls.cert.display().to_string(), "key": tls.key.display().to_string() });
    if let Some(path) = &tls.client_ca {
        out["client_ca"] = path.display().to_string().into();
        out["client_auth"] = match tls.client_auth {
            ClientAuth::Required => "required",
            ClientAuth::Optional => "optional",
        }
        .into();
    }
    out
}

fn roots(roots: &Roots) -> Value {
    match roots {
        Roots::Bundled => json!("bundled"),
        Roots::System => json!("system"),
        Roots::File(path) => json!({ "file": path.display().to_string() }),
    }
}

fn reference(source: &TokenSource) -> Value {
    match source {
        TokenSource::Env(name) => json!({ "env": name }),
        TokenSource::File(path) => json!({ "file": path.display().to_string() }),
    }
}

fn token(token: &Token) -> Value {
    let mut out = reference(&token.source);
    out["quota_group"] = (*token.quota_group).into();
    out
}

fn caller(caller: &Caller, hashes: bool) -> Value {
    let mut out = rules(&caller.rules);
    let hex = |hash: &[u8; 32]| -> String { hash.iter().map(|b| format!("{b:02x}")).collect() };
    match &caller.credential {
        CallerCredential::Anonymous => out["anonymous"] = true.into(),
        CallerCredential::JwtSubject(subject) => out["jwt_subject"] = subject.as_str().into(),
        CallerCredential::San(san) => out["mtls_san"] = san.to_string().into(),
        CallerCredential::Uid(uid) => out["unix_uid"] = (*uid).into(),
        CallerCredential::Keys(keys) => {
            match caller.key_sources.is_empty() {
                false => out["key"] = one_or_all(caller.key_sources.iter().map(reference)),
                true if hashes => out["key_sha256"] = one_or_all(keys.iter().map(hex)),
                true => out["key_sha256"] = REDACTED.into(),
            }
            if !hashes {
                // No key of the file: it would not load.
                out["key_ids"] = keys.iter().map(key_id).collect::<Vec<_>>().into();
            }
        }
    }
    if let Some(token) = &caller.token {
        out["token"] = token.as_str().into();
    }
    out
}

/// As the file may have it: one by itself, several in a list.
fn one_or_all<T: Into<Value>>(all: impl Iterator<Item = T>) -> Value {
    let mut all: Vec<Value> = all.map(Into::into).collect();
    match all.len() {
        1 => all.remove(0),
        _ => all.into(),
    }
}

fn rules(rules: &CallerRules) -> Value {
    json!({
        "rate": show_rate(rules.rate), "burst": rules.burst, "weight": rules.weight,
        "priority": rules.priority.name(),
        "allow": rules.allow, "deny": rules.deny, "max_wait": show_duration(rules.max_wait), "enforce": rules.enforce,
    })
}

fn rewrite(rule: &Rewrite) -> Value {
    let mut out =
        json!({ "operations": rule.operations, "rename": rule.rename, "mode": rule.mode.name() });
    if let Some(link) = &rule.link {
        out["link"] = link.as_str().into();
    }
    out
}
