//! What there is to tell of the upstream tokens: their expiry, and whether DevRev takes them. Never a value.

use serde_json::{Value, json};

use super::expiry::{expiry, now};
use crate::{
    config::{AuthMode, Config},
    policy::token_claims::Expiry,
    state::State,
};

/// Each token by name.
pub fn view(config: &Config, state: &State) -> Value {
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

/// Why no traffic can be taken: every token is refused. As soon as a probe may go it can, for without traffic there is none.
pub fn unready(config: &Config, state: &State) -> Vec<String> {
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

/// What an operator should see to, though traffic can be taken.
pub fn warnings(config: &Config, state: &State) -> Vec<String> {
    if config.auth.mode != AuthMode::Inject {
        return Vec::new();
    }
    let now = now();
    let mut warnings = Vec::new();
    for (name, token) in &config.tokens {
        if state.tokens.refused_for(name).is_some() {
            warnings.push(format!("token {name} is refused by DevRev"));
        }
        match Expiry::at(expiry(token), now) {
            Expiry::Expired => warnings.push(format!("token {name} has expired")),
            Expiry::Soon => warnings.push(format!("token {name} expires within a day")),
            _ => {}
        }
    }
    warnings
}
