//! What is known of callers' own tokens: one memory for all workers, and nothing in it from which a token could be had.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::{
    hmac::{self, HMAC_SHA256},
    rand::SystemRandom,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::{Instant, timeout_at},
};

use super::Clock;
use crate::{
    error::Error,
    hash::sha256,
    policy::introspect::{Cache, DEFAULT_CAPACITY, Ending, Known, Turn},
    types::CallerToken,
};

/// A token's name in the memory: HMAC-SHA-256 under a key that no one else knows and that ends with the process.
pub type Key = [u8; 32];

/// The user of a token: its quota group, and what its rate is kept under.
#[derive(Debug)]
pub struct User {
    pub group: Arc<str>,
    rate: [u8; 32],
}

impl User {
    /// All tokens of a user share its quota at DevRev; here they share a group and a rate.
    pub fn named(id: &str) -> User {
        User {
            group: id.into(),
            rate: sha256(id.as_bytes()),
        }
    }

    /// Of a token whose user DevRev did not name: as if it were the only one of its user.
    pub fn unnamed(hash: &[u8; 32]) -> User {
        User {
            group: group_of(hash),
            rate: *hash,
        }
    }

    /// The token as a request carries it, with the rate-limit key of its user.
    pub fn caller_token(&self, header: HeaderValue) -> CallerToken {
        CallerToken {
            header,
            hash: self.rate,
        }
    }
}

/// How a question ended, for those who follow it.
#[derive(Clone, Debug)]
pub enum Ended {
    Good(Arc<User>),
    Bad,
    /// DevRev could not be asked.
    Failed(Error),
}

type Follow = watch::Receiver<Option<Ended>>;

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

/// See the module.
pub struct Memory {
    key: hmac::Key,
    clock: Clock,
    cache: Mutex<Cache<Key, Arc<User>, Follow>>,
    /// Tokens that nobody knows are asked about a few at a time, and few more wait: a flood of them must not take the
    /// connections and places of those who are known.
    asking: Semaphore,
    places: Semaphore,
}

/// The quota group of a token whose user is not known. Sixteen bytes of the hash: as good as unique, and of no use for
/// guessing the token.
pub fn group_of(hash: &[u8; 32]) -> Arc<str> {
    URL_SAFE_NO_PAD.encode(&hash[..16]).into()
}

/// Places to wait in for each unknown token that is asked about.
const PLACES: usize = 8;

const BUSY: Duration = Duration::from_secs(1);

impl Memory {
    /// At most so many unknown tokens are asked about at once.
    ///
    /// # Errors
    /// When there is no randomness for the key: one that could be guessed would give away tokens that are looked for.
    pub fn new(at_once: usize, clock: Clock) -> Result<Memory, NoRandomness> {
        let at_once = at_once.clamp(1, 1024);
        let key =
            hmac::Key::generate(HMAC_SHA256, &SystemRandom::new()).map_err(|_| NoRandomness)?;
        Ok(Memory {
            key,
            clock,
            cache: Mutex::new(Cache::new(DEFAULT_CAPACITY)),
            asking: Semaphore::new(at_once),
            places: Semaphore::new(at_once * (1 + PLACES)),
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

    fn cache(&self) -> MutexGuard<'_, Cache<Key, Arc<User>, Follow>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn look(&self, key: &Key) -> Known<Arc<User>> {
        self.cache().look(key, self.now())
    }

    pub fn join(&self, key: &Key) -> Joined<'_> {
        let mut tell = None;
        let turn = self.cache().join(key, self.now(), || {
            let (sender, follow) = watch::channel(None);
            tell = Some(sender);
            follow
        });
        match (turn, tell) {
            (Turn::Good(user), _) => Joined::Good(user),
            (Turn::Bad, _) => Joined::Bad,
            (Turn::Follow(follow), _) => Joined::Follow(follow),
            (Turn::Ask(stale), tell) => Joined::Lead(
                Lead {
                    memory: self,
                    key: *key,
                    tell,
                    ended: false,
                },
                stale,
            ),
        }
    }

    /// A place among those whose tokens are asked about for the first time.
    pub async fn enter(
        &self,
        deadline: Instant,
    ) -> Result<(SemaphorePermit<'_>, SemaphorePermit<'_>), Error> {
        let busy = || Error::Overloaded { retry_after: BUSY };
        let place = self.places.try_acquire().map_err(|_| busy())?;
        let asks = timeout_at(deadline, self.asking.acquire()).await;
        let asks = asks.map_err(|_elapsed| busy())?.map_err(|_closed| busy())?;
        Ok((place, asks))
    }
}

/// What to do about a token.
pub enum Joined<'a> {
    Good(Arc<User>),
    Bad,
    /// Ask DevRev; what is known of old counts if it cannot be asked.
    Lead(Lead<'a>, Option<Arc<User>>),
    /// Another one asks.
    Follow(Follow),
}

/// The one question about a token. Dropped without an end, for its caller left, it lets the next one ask.
pub struct Lead<'a> {
    memory: &'a Memory,
    key: Key,
    tell: Option<watch::Sender<Option<Ended>>>,
    ended: bool,
}

impl Lead<'_> {
    /// Tells all who follow. Returns what counts although DevRev could not be asked.
    pub fn end(
        mut self,
        ending: Ending<Arc<User>>,
        told: impl FnOnce(Option<Arc<User>>) -> Ended,
    ) -> Option<Arc<User>> {
        self.ended = true;
        let memory = self.memory;
        let known = memory.cache().end(&self.key, ending, memory.now());
        if let Some(tell) = &self.tell {
            tell.send_replace(Some(told(known.clone())));
        }
        known
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let memory = self.memory;
            memory.cache().end(&self.key, Ending::Left, memory.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        Memory::new(1, Clock::start()).expect("randomness")
    }

    #[test]
    fn each_process_has_a_key_of_its_own() {
        let (one, other) = (memory(), memory());
        assert_eq!(one.key(b"token"), one.key(b"token"));
        assert_ne!(one.key(b"token"), other.key(b"token"));
    }

    #[tokio::test]
    async fn whoever_leaves_lets_the_next_one_ask() {
        let memory = memory();
        let key = memory.key(b"token");
        let Joined::Lead(lead, None) = memory.join(&key) else {
            panic!("the first one asks");
        };
        let Joined::Follow(mut follow) = memory.join(&key) else {
            panic!("the second one follows");
        };
        drop(lead);
        assert!(follow.wait_for(Option::is_some).await.is_err());
        assert!(matches!(memory.join(&key), Joined::Lead(_, None)));
    }

    #[tokio::test(start_paused = true)]
    async fn few_strangers_are_asked_about_at_once_and_few_more_wait() {
        let memory = Arc::new(memory());
        let deadline = Instant::now() + Duration::from_secs(2);
        let first = memory.enter(deadline).await.expect("a place");
        let waits = tokio::spawn({
            let memory = memory.clone();
            async move { memory.enter(deadline).await.is_ok() }
        });
        let others: Vec<_> = (0..PLACES - 1)
            .map(|_| {
                let memory = memory.clone();
                tokio::spawn(async move { memory.enter(deadline).await.is_ok() })
            })
            .collect();
        tokio::task::yield_now().await;
        let refused = memory.enter(deadline).await;
        assert!(matches!(refused, Err(Error::Overloaded { .. })));
        drop(first);
        assert!(waits.await.expect("no panic"), "served in its turn");
        for other in others {
            let _ = other.await;
        }
        assert!(memory.enter(deadline).await.is_ok(), "all places are free");
    }
}
