//! When the upstream tokens expire, as far as they say, and whom that is told.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use secrecy::ExposeSecret;

use crate::{
    config::{Config, Token},
    policy::token_claims::{self, Expiry},
    telemetry::metrics::Metrics,
};

pub(super) fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

pub(super) fn expiry(token: &Token) -> Option<f64> {
    token_claims::expires_at(token.secret.value.expose_secret().as_bytes())
}

/// What was said of each token's expiry: its time, and the state it was in.
#[derive(Default)]
pub struct Notices(Mutex<BTreeMap<String, (Option<f64>, Expiry)>>);

impl Notices {
    /// Tells the metrics when each token expires, and the log when that is soon, or past: once for each, however often it is asked.
    pub fn tell(&self, config: &Config, metrics: &Metrics) {
        self.tell_at(config, metrics, now());
    }

    fn tell_at(&self, config: &Config, metrics: &Metrics, now: f64) -> Vec<(String, Expiry)> {
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
            let state = Expiry::at(expires, now);
            let before = told.insert(name.clone(), (expires, state));
            if before == Some((expires, state)) {
                continue;
            }
            metrics.token_expiry(&name.as_str().into(), expires);
            match state {
                Expiry::Expired => tracing::warn!(token = name, "the token has expired"),
                Expiry::Soon => tracing::warn!(token = name, "the token expires within a day"),
                _ => continue,
            }
            new.push((name.clone(), state));
        }
        new
    }
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
        assert_eq!(tell(&far, 9 * DAY), [Expiry::Soon]);
        assert!(tell(&far, 9 * DAY + 1).is_empty());
        assert_eq!(tell(&far, 10 * DAY), [Expiry::Expired]);
        assert!(tell(&far, 11 * DAY).is_empty());
        // Replaced by one that is no better.
        assert_eq!(tell(&[("a", 10 * DAY + 1)], 11 * DAY), [Expiry::Expired]);
        let text = metrics.encode();
        let line = format!(
            "revgate_token_expiry_timestamp_seconds{{token=\"a\"}} {}",
            10 * DAY + 1
        );
        assert!(text.contains(&line), "{text}");
        assert!(!text.contains("token=\"b\""), "{text}");
    }
}
