//! What introspection says about callers' own tokens: one cache for all workers, which holds nothing that reveals a token.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{
    hmac::{self, HMAC_SHA256},
    rand::SystemRandom,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use tokio::{sync::watch, time::Instant};

use super::Clock;
use crate::{
    allocation::{Allocation, Pool},
    error::Error,
    hash::sha256,
    lock::Lock,
    policy::{
        allocator::Claim,
        introspect::{DEFAULT_CAPACITY, Join, Lookup, Outcome, TokenCache},
    },
    types::CallerToken,
};

/// A token's key in the cache: its HMAC-SHA-256 under a random key that only this process has.
pub(crate) type Key = [u8; 32];

/// The user of a token, as far as quota and rate limit are concerned.
#[derive(Debug)]
pub struct User {
    pub group: Arc<str>,
    /// What the rate limit is keyed by.
    rate_key: [u8; 32],
}

impl User {
    /// DevRev limits a user, so all tokens of one share a group and a rate limit.
    pub fn named(id: &str) -> User {
        User {
            group: id.into(),
            rate_key: sha256(id.as_bytes()),
        }
    }

    /// For a token whose user DevRev did not name: counts as the only token of its user.
    pub fn unnamed(hash: &[u8; 32]) -> User {
        User {
            group: group_of(hash),
            rate_key: *hash,
        }
    }

    /// The token as a request carries it, with the rate-limit key of its user.
    pub fn caller_token(&self, header: HeaderValue) -> CallerToken {
        CallerToken {
            header,
            hash: self.rate_key,
        }
    }
}

/// How an introspection ended, as its followers see it.
#[derive(Clone, Debug)]
pub enum IntrospectionResult {
    Good(Arc<User>),
    Bad,
    /// DevRev gave no answer about the token.
    Failed(Error),
}

type Follower = watch::Receiver<Option<IntrospectionResult>>;

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

/// See the module.
pub struct IntrospectionCache {
    key: hmac::Key,
    clock: Clock,
    tokens: Lock<TokenCache<Key, Arc<User>, Follower>>,
    /// Unknown tokens are introspected a few at a time, so that a flood of them leaves connections to known ones.
    running: Arc<Pool>,
    max_running: u64,
}

/// The quota group of a token whose user is not known. Sixteen bytes of the hash are as good as unique, and the token cannot be
/// derived from them.
pub(crate) fn group_of(hash: &[u8; 32]) -> Arc<str> {
    URL_SAFE_NO_PAD.encode(&hash[..16]).into()
}

impl IntrospectionCache {
    /// At most `max_concurrent` unknown tokens are introspected at a time.
    ///
    /// # Errors
    /// When there is no randomness for the key. With a key that can be guessed, the cache would reveal whether it holds a
    /// given token.
    pub fn new(max_concurrent: usize, clock: Clock) -> Result<IntrospectionCache, NoRandomness> {
        let max_concurrent = max_concurrent.clamp(1, 1024);
        let key =
            hmac::Key::generate(HMAC_SHA256, &SystemRandom::new()).map_err(|_| NoRandomness)?;
        Ok(IntrospectionCache {
            key,
            clock,
            tokens: Lock::new(TokenCache::new(DEFAULT_CAPACITY)),
            running: Pool::new(),
            // Unknown clients leave half of what they share to callers, and no caller takes any of this.
            max_running: 2 * max_concurrent as u64,
        })
    }

    pub fn key(&self, token: &[u8]) -> Key {
        let mut key = Key::default();
        key.copy_from_slice(hmac::sign(&self.key, token).as_ref());
        key
    }

    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    pub fn lookup(&self, key: &Key) -> Lookup<Arc<User>> {
        self.tokens.lock().lookup(key, self.now())
    }

    /// Leads or follows the one introspection of this token.
    pub fn join(&self, key: &Key) -> Role<'_> {
        let mut result = None;
        let join = self.tokens.lock().join(key, self.now(), || {
            let (sender, follower) = watch::channel(None);
            result = Some(sender);
            follower
        });
        match join {
            Join::Good(user) => Role::Good(user),
            Join::Bad => Role::Bad,
            Join::Follow(follower) => Role::Follower(follower),
            Join::Lead(stale) => Role::Leader(
                Leader {
                    cache: self,
                    key: *key,
                    result,
                    finished: false,
                },
                stale,
            ),
        }
    }

    /// The good result for this token, as a request carries it.
    pub fn verdict(self: &Arc<Self>, key: Key) -> Verdict {
        Verdict {
            cache: self.clone(),
            key,
        }
    }

    /// Waits for its turn to introspect an unknown token, which lasts while the permit is held. Each that waits holds a place in flight,
    /// so their number is bounded.
    pub async fn admit(&self, claim: &Claim, deadline: Instant) -> Result<Allocation, Error> {
        let permit = self.running.take(self.max_running, claim, 1, deadline);
        permit.await.ok_or(Error::OVERLOADED)
    }
}

/// The good result that a request went on with.
#[derive(Clone)]
pub struct Verdict {
    cache: Arc<IntrospectionCache>,
    key: Key,
}

impl Verdict {
    /// DevRev has answered the request with 401, so the next one finds out anew whether the token is good.
    pub fn doubt(&self) {
        let now = self.cache.now();
        if self.cache.tokens.lock().doubt(&self.key, now) {
            tracing::debug!("DevRev answered a call with 401, so its token is introspected again");
        }
    }
}

/// A request's part in the introspection of a token.
pub enum Role<'a> {
    /// None: the token is known to be good.
    Good(Arc<User>),
    /// None: the token is known to be bad.
    Bad,
    /// It introspects the token. The stale user is used if introspection fails.
    Leader(Leader<'a>, Option<Arc<User>>),
    /// It waits for the leader's result.
    Follower(Follower),
}

/// The one introspection of a token. If it is dropped before it finishes, because its caller went away, the next request leads.
pub struct Leader<'a> {
    cache: &'a IntrospectionCache,
    key: Key,
    result: Option<watch::Sender<Option<IntrospectionResult>>>,
    finished: bool,
}

impl Leader<'_> {
    /// Caches the outcome and sends `result` to the followers. `result` gets, and this returns, the stale user to use if
    /// introspection failed.
    pub fn finish(
        mut self,
        outcome: Outcome<Arc<User>>,
        result: impl FnOnce(Option<Arc<User>>) -> IntrospectionResult,
    ) -> Option<Arc<User>> {
        self.finished = true;
        let cache = self.cache;
        let stale = cache.tokens.lock().finish(&self.key, outcome, cache.now());
        if let Some(sender) = &self.result {
            sender.send_replace(Some(result(stale.clone())));
        }
        stale
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let cache = self.cache;
            let now = cache.now();
            cache
                .tokens
                .lock()
                .finish(&self.key, Outcome::Abandoned, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> IntrospectionCache {
        IntrospectionCache::new(1, Clock::start()).expect("randomness")
    }

    #[test]
    fn each_process_has_a_key_of_its_own() {
        let (one, other) = (cache(), cache());
        assert_eq!(one.key(b"token"), one.key(b"token"));
        assert_ne!(one.key(b"token"), other.key(b"token"));
    }

    #[tokio::test]
    async fn when_the_leader_leaves_the_next_request_leads() {
        let cache = cache();
        let key = cache.key(b"token");
        let Role::Leader(leader, None) = cache.join(&key) else {
            panic!("the first one leads");
        };
        let Role::Follower(mut follower) = cache.join(&key) else {
            panic!("the second one follows");
        };
        drop(leader);
        assert!(follower.wait_for(Option::is_some).await.is_err());
        assert!(matches!(cache.join(&key), Role::Leader(_, None)));
    }

    #[tokio::test(start_paused = true)]
    async fn introspections_of_unknown_tokens_are_bounded_and_dealt_by_address() {
        let cache = Arc::new(cache());
        let deadline = Instant::now() + Duration::from_secs(2);
        let claim = |last: u8| Claim::unknown(Some([192, 0, 2, last].into()));
        let served = Arc::new(Lock::new(Vec::new()));
        let admit = |last: u8| {
            let (cache, claim, served) = (cache.clone(), claim(last), served.clone());
            tokio::spawn(async move {
                let permit = cache.admit(&claim, deadline).await;
                served.lock().push(last);
                drop(permit.expect("served in its turn"));
            })
        };
        let first = cache.admit(&claim(1), deadline).await.expect("admitted");
        let mut waits: Vec<_> = (0..100).map(|_| admit(1)).collect();
        tokio::task::yield_now().await;
        waits.push(admit(2));
        tokio::task::yield_now().await;
        assert!(served.lock().is_empty(), "one at a time");
        drop(first);
        for wait in waits {
            wait.await.expect("no panic");
        }
        let turn = served.lock().iter().position(|last| *last == 2);
        assert!(
            turn.is_some_and(|turn| turn < 3),
            "not behind the flood: {turn:?}"
        );
        assert!(
            cache.admit(&claim(1), deadline).await.is_ok(),
            "all is free"
        );
    }
}
