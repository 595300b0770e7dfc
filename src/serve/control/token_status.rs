//! The status of the DevRev tokens: when they expire, and whether DevRev refuses them. Never a value.

use serde_json::{Value, json};

use super::expiry::{expiry, now};
use crate::{
    config::{AuthMode, Config},
    policy::{alerts::TokenFacts, token_claims::Expiry},
    state::State,
};

/// The status of each token, by its name.
pub(super) fn view(config: &Config, state: &State) -> Value {
    let now = now();
    let views = config.tokens.iter().map(|(name, token)| {
        let expires = expiry(token);
        let probe = state.tokens.refused_for(name);
        let view = json!({
            "quota_group": &*token.quota_group,
            "expires_at": expires,
            "state": Expiry::at(expires, now),
            "refused": probe.is_some(),
            "next_probe_in_seconds": probe.map(|time| time.as_secs_f64()),
        });
        (name.clone(), view)
    });
    Value::Object(views.collect())
}

/// Not ready while every token is refused. Ready again as soon as one may be probed: only a request starts the probe.
pub(super) fn unready(config: &Config, state: &State) -> Vec<String> {
    if config.auth.mode != AuthMode::Inject {
        return Vec::new();
    }
    let refused = config.tokens.keys().map(|name| {
        let wait = state
            .tokens
            .refused_for(name)
            .filter(|wait| !wait.is_zero())?;
        let seconds = wait.as_secs_f64().ceil();
        Some(format!(
            "token {name} is refused by DevRev; the next probe may go in {seconds} s"
        ))
    });
    refused.collect::<Option<_>>().unwrap_or_default()
}

/// For the alerts.
pub(super) fn facts(config: &Config, state: &State) -> Vec<TokenFacts> {
    let facts = config.tokens.iter().map(|(name, token)| TokenFacts {
        name: name.clone(),
        refused_for: state.tokens.refused_for(name),
        expires_at: expiry(token),
    });
    // In mode "validate" they are not used.
    facts
        .filter(|_| config.auth.mode == AuthMode::Inject)
        .collect()
}
