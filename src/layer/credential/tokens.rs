//! What is shared of the upstream credentials: each in the form it has on the wire, and whether DevRev takes it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Request, StatusCode};

use crate::{
    body::Body,
    hash::sha256,
    policy::token_health::{Change, Health, Outcome, Pass, Turn, outcome},
    telemetry::metrics::Metrics,
    types::{Caller, Named, OwnToken},
};

/// Upstream credentials by name.
pub type Tokens = HashMap<Arc<str>, Arc<Token>>;

/// One value of a token. A new value is a new `Token`, so that nothing that is known of the old one holds for it.
pub struct Token {
    name: Arc<str>,
    header: HeaderValue,
    /// To tell one value from another.
    hash: [u8; 32],
    health: Mutex<Health>,
}

impl Token {
    /// `header` is `Bearer TOKEN`, marked sensitive.
    pub fn new(name: Arc<str>, header: HeaderValue) -> Token {
        let hash = sha256(header.as_bytes());
        Token {
            name,
            header,
            hash,
            health: Mutex::default(),
        }
    }

    /// Whether both are the same value of the same token.
    pub fn is(&self, other: &Token) -> bool {
        self.name == other.name && self.hash == other.hash
    }

    /// Until a probe may go, zero when it may; `None` while it is not refused.
    pub fn refused_for(&self, now: Duration) -> Option<Duration> {
        self.health().wait(now)
    }

    /// Somebody has touched it: the next attempt finds out.
    pub fn try_again(&self, now: Duration) {
        self.health().try_again(now);
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    pub(super) fn ask(&self, now: Duration) -> Result<Pass, Duration> {
        self.health().ask(now)
    }

    pub(super) fn give_back(&self, probe: u64) {
        self.health().give_back(probe);
    }

    pub(super) fn send(&self, probe: Option<u64>, now: Duration) -> Result<Turn, Duration> {
        self.health().send(probe, now)
    }

    /// Takes in what an answer says; tells whether it refuses the token.
    pub(super) fn settle(
        &self,
        turn: Turn,
        status: StatusCode,
        now: Duration,
        metrics: &Metrics,
    ) -> bool {
        let outcome = outcome(status);
        let change = {
            let mut health = self.health();
            let change = health.settle(turn, outcome, now);
            // Under the lock, or two workers' changes could be written in the wrong order and stay so.
            if let Some(change) = change {
                metrics.token_refused(&self.name, change == Change::Refused);
            }
            change
        };
        let token = &*self.name;
        match change {
            Some(Change::Refused) => {
                tracing::error!(
                    token,
                    "DevRev refused the token; callers get token_unavailable until a probe succeeds or the token changes"
                );
            }
            Some(Change::Accepted) => tracing::info!(token, "DevRev takes the token again"),
            None => {}
        }
        outcome == Outcome::Refused
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of the token that this request gets, if it gets one of ours.
pub(super) fn injected(request: &Request<Body>) -> Option<&Arc<str>> {
    let extensions = request.extensions();
    let Named(operation) = extensions.get()?;
    if !operation.takes_credential() || extensions.get::<OwnToken>().is_some() {
        return None;
    }
    extensions.get::<Arc<Caller>>()?.token.as_ref()
}
