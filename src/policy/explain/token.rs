//! The steps that are about the DevRev token.

use serde_json::json;

use super::{
    super::duration_words::duration_words,
    Refusal, Step, TokenSource,
    steps::{Steps, step},
};

impl Steps<'_> {
    /// `None` unless DevRev has refused the configured token.
    pub(super) fn token_gate(&self) -> Option<Step> {
        let token = self.context.caller.as_ref()?.token.configured()?;
        let left = self.context.live.as_ref()?.token_refused?;
        if !self.operation.takes_credential() {
            return None;
        }
        let facts = json!({ "token": token, "next_probe_seconds": left.as_secs_f64() });
        let step = step("gate", facts);
        Some(if left.is_zero() {
            step.passes(format!(
                "DevRev refused the token {token}; this request starts a probe and goes on if DevRev accepts the token"
            ))
        } else {
            let says = format!(
                "DevRev refused the token {token}; the next probe is in {}",
                duration_words(left)
            );
            step.refused(Refusal::Token(left), says)
        })
    }

    pub(super) fn credential(&self) -> Option<Step> {
        let caller = self.context.caller.as_ref()?;
        let target = self
            .request
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let url = format!("{}{target}", self.context.upstream);
        let takes = self.operation.takes_credential();
        let token = caller.token.configured().filter(|_| takes);
        let proxy = self.context.proxy;
        let step = step(
            "credential",
            json!({ "token": token, "url": url, "proxy": proxy }),
        );
        let to = match proxy {
            Some(proxy) => format!("to {url} through the proxy {proxy}"),
            None => format!("to {url}"),
        };
        if !takes {
            return Some(step.passes(format!("none: this operation takes no credential; {to}")));
        }
        Some(match caller.token {
            TokenSource::Configured(token) => step.passes(format!("the token {token}; {to}")),
            TokenSource::FromCaller => step.passes(format!("the caller's own token; {to}")),
            TokenSource::Missing => {
                step.refused(Refusal::NoToken, "no token is configured for this caller")
            }
        })
    }
}
