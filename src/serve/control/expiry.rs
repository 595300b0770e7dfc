//! Reports when DevRev tokens expire, as far as the tokens say.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use secrecy::ExposeSecret;

use crate::{
    config::{Config, Token},
    event::Event,
    policy::{
        duration_words::duration_words,
        token_claims::{self, Expiry},
    },
    telemetry::metrics::Metrics,
    wall_clock,
};

pub(super) fn now() -> f64 {
    wall_clock::since_epoch().as_secs_f64()
}

pub(super) fn expiry(token: &Token) -> Option<f64> {
    token_claims::expires_at(token.secret.value.expose_secret().as_bytes())
}

/// How long ago something was, if that is worth to be said.
fn ago(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(ago) if ago.as_secs() >= 60 => format!(", {} ago", duration_words(ago)),
        _ => String::new(),
    }
}

/// What was last reported of each token: its time of expiry, and its state.
#[derive(Default)]
pub(crate) struct ExpiryNotices(Mutex<BTreeMap<String, (Option<f64>, Expiry)>>);

impl ExpiryNotices {
    /// Sets the metric of each token's expiry, and logs when a token has expired or expires soon. Repeated calls report changes only.
    pub(crate) fn report(&self, config: &Config, metrics: &Metrics) {
        self.report_at(config, metrics, now());
    }

    fn report_at(&self, config: &Config, metrics: &Metrics, now: f64) -> Vec<(String, Expiry)> {
        let mut reported = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reported.retain(|name, _| {
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
            let before = reported.insert(name.clone(), (expires, state));
            if before == Some((expires, state)) {
                continue;
            }
            metrics.token_expiry(&name.as_str().into(), expires);
            match state {
                Expiry::Expired => tracing::warn!(
                    event = Event::TokenExpired.label(),
                    token = name,
                    "the token {name} has expired{}",
                    ago(now - expires.unwrap_or(now))
                ),
                Expiry::Soon => {
                    let left = expires.unwrap_or(now) - now;
                    let left = Duration::try_from_secs_f64(left).unwrap_or_default();
                    tracing::warn!(
                        event = Event::TokenExpiresSoon.label(),
                        token = name,
                        expires_in_seconds = left.as_secs(),
                        "the token {name} expires in {}",
                        duration_words(left)
                    );
                }
                Expiry::Valid | Expiry::Unknown => {
                    let was = before.map(|(_, state)| state);
                    if matches!(was, Some(Expiry::Expired | Expiry::Soon)) {
                        tracing::info!(
                            event = Event::TokenExpiresLater.label(),
                            token = name,
                            "the token {name}, which had expired or would have soon, has a new value"
                        );
                    }
                    continue;
                }
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
    fn each_state_is_reported_once_per_token_value() {
        const DAY: u64 = 24 * 60 * 60;
        let (notices, metrics) = (ExpiryNotices::default(), Metrics::new());
        let report = |tokens: &[(&str, u64)], now: u64| {
            let new = notices.report_at(&config(tokens), &metrics, now as f64);
            new.into_iter().map(|(_, state)| state).collect::<Vec<_>>()
        };
        let far = [("a", 10 * DAY), ("b", 100 * DAY)];
        assert!(report(&far, DAY).is_empty());
        assert_eq!(report(&far, 9 * DAY), [Expiry::Soon]);
        assert!(report(&far, 9 * DAY + 1).is_empty());
        assert_eq!(report(&far, 10 * DAY), [Expiry::Expired]);
        assert!(report(&far, 11 * DAY).is_empty());
        // A new value that has expired as well.
        assert_eq!(report(&[("a", 10 * DAY + 1)], 11 * DAY), [Expiry::Expired]);
        let text = metrics.encode();
        let line = format!(
            "revgate_token_expiry_timestamp_seconds{{token=\"a\"}} {}",
            10 * DAY + 1
        );
        assert!(text.contains(&line), "{text}");
        assert!(!text.contains("token=\"b\""), "{text}");
    }
}
