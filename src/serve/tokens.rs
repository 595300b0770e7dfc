//! What there is to tell of the upstream tokens: their expiry, and whether DevRev takes them. Never a value.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::{
    config::{AuthMode, Config, Token},
    policy::token,
    stack::Shared,
    telemetry::metrics::Metrics,
};

fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

fn expiry(token: &Token) -> Option<f64> {
    token::expires_at(token.secret.value.expose_secret().as_bytes())
}

/// What was said of each token's expiry: its time, and the state it was in.
#[derive(Default)]
pub struct Notices(Mutex<BTreeMap<String, (Option<f64>, &'static str)>>);

impl Notices {
    /// Tells the metrics when each token expires, and the log when that is soon, or past: once for each, however often it is asked.
    pub fn tell(&self, config: &Config, metrics: &Metrics) {
        self.tell_at(config, metrics, now());
    }

    fn tell_at(&self, config: &Config, metrics: &Metrics, now: f64) -> Vec<(String, &'static str)> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|name, _| {
            let stays = config.tokens.contains_key(name);
            if !stays {
                metrics.forget_token(&name.as_str().into());
            }
            stays
        });
        let mut new = Vec::new();
        for (name, token) in &config.tokens {
            let expires = expiry(token);
            let state = token::state(expires, now);
            let before = told.insert(name.clone(), (expires, state));
            if before == Some((expires, state)) {
                continue;
            }
            metrics.token_expiry(&name.as_str().into(), expires);
            match state {
                "expired" => tracing::warn!(token = name, "the token has expired"),
                "expires_soon" => tracing::warn!(token = name, "the token expires within a day"),
                _ => continue,
            }
            new.push((name.clone(), state));
        }
        new
    }
}

/// Each token by name.
pub fn view(config: &Config, shared: &Shared) -> Value {
    let now = now();
    let views = config.tokens.iter().map(|(name, token)| {
        let expires = expiry(token);
        let probe = shared.token_refused_for(name);
        let view = json!({
            "quota_group": &*token.quota_group,
            "expires_at": expires,
            "state": token::state(expires, now),
            "refused": probe.is_some(),
            "next_probe_in_seconds": probe.map(|time| time.as_secs_f64()),
        });
        (name.clone(), view)
    });
    Value::Object(views.collect())
}

/// Why no traffic can be taken: every token is refused. As soon as a probe may go it can, for without traffic there is none.
pub fn unready(config: &Config, shared: &Shared) -> Vec<String> {
    if config.auth.mode != AuthMode::Inject {
        return Vec::new();
    }
    let refused = config.tokens.keys().map(|name| {
        let wait = shared
            .token_refused_for(name)
            .filter(|wait| !wait.is_zero())?;
        let seconds = wait.as_secs_f64().ceil();
        Some(format!(
            "token {name} is refused by DevRev; the next probe may go in {seconds} s"
        ))
    });
    refused.collect::<Option<_>>().unwrap_or_default()
}

/// What an operator should see to, though traffic can be taken.
pub fn warnings(config: &Config, shared: &Shared) -> Vec<String> {
    if config.auth.mode != AuthMode::Inject {
        return Vec::new();
    }
    let now = now();
    let mut warnings = Vec::new();
    for (name, token) in &config.tokens {
        if shared.token_refused_for(name).is_some() {
            warnings.push(format!("token {name} is refused by DevRev"));
        }
        match token::state(expiry(token), now) {
            "expired" => warnings.push(format!("token {name} has expired")),
            "expires_soon" => warnings.push(format!("token {name} expires within a day")),
            _ => {}
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;
    use crate::config::from_toml;

    fn config(tokens: &[(&str, u64)]) -> Config {
        let (mut text, mut env) = (String::new(), BTreeMap::new());
        for (name, expires) in tokens {
            let claims = URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{expires}}}"));
            env.insert(format!("T_{name}"), format!("e30.{claims}.c2ln"));
            text += &format!("[tokens.{name}]\nenv = \"T_{name}\"\n");
        }
        text += &format!(
            "[callers.x]\ntoken = \"a\"\nkey_sha256 = \"{}\"\n",
            "a".repeat(64)
        );
        from_toml(&text, &env).unwrap()
    }

    #[test]
    fn each_state_is_told_once_and_a_new_token_anew() {
        const DAY: u64 = 24 * 60 * 60;
        let (notices, metrics) = (Notices::default(), Metrics::new());
        let tell = |tokens: &[(&str, u64)], now: u64| {
            let told = notices.tell_at(&config(tokens), &metrics, now as f64);
            told.into_iter().map(|(_, state)| state).collect::<Vec<_>>()
        };
        let far = [("a", 10 * DAY), ("b", 100 * DAY)];
        assert!(tell(&far, DAY).is_empty());
        assert_eq!(tell(&far, 9 * DAY), ["expires_soon"]);
        assert!(tell(&far, 9 * DAY + 1).is_empty());
        assert_eq!(tell(&far, 10 * DAY), ["expired"]);
        assert!(tell(&far, 11 * DAY).is_empty());
        // Replaced by one that is no better.
        assert_eq!(tell(&[("a", 10 * DAY + 1)], 11 * DAY), ["expired"]);
        let text = metrics.encode();
        let line = format!(
            "revgate_token_expiry_timestamp_seconds{{token=\"a\"}} {}",
            10 * DAY + 1
        );
        assert!(text.contains(&line), "{text}");
        assert!(!text.contains("token=\"b\""), "{text}");
    }
}
