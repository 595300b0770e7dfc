//! What DevRev said of the tokens that callers bring: how long it is believed, what is kept, and who asks.
//!
//! Good tokens and bad ones have a room each. Only DevRev lets a token into the room of the good, so that a flood of
//! made-up tokens pushes out made-up tokens and nothing else.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    time::Duration,
};

/// How long the word "bad" is believed. Short, for a token may be made good again, and long enough that a caller which
/// tries a bad one in a loop costs DevRev six questions a minute and not six hundred.
pub const BAD_FOR: Duration = Duration::from_secs(10);

/// How long beyond its time the word "good" still counts while DevRev cannot be asked. DevRev checks the token of each
/// call by itself, so what this allows is only that the call is sent.
pub const STALE_FOR: Duration = Duration::from_secs(300);

/// While a stale word counts, DevRev is asked again no sooner: else every request would wait for the question to fail.
pub const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Tokens kept in each of the two rooms unless told otherwise: some 2 MB, and more than there are callers of a sidecar.
pub const DEFAULT_CAPACITY: usize = 10_000;

/// What is known of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known<V> {
    /// It is good, and this is whose it is.
    Good(V),
    /// DevRev refuses it.
    Bad,
    /// DevRev must be asked.
    Nothing,
}

/// What to do about a token of which nothing is known.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<V, F> {
    /// Meanwhile it is known to be good.
    Good(V),
    /// Meanwhile it is known to be bad.
    Bad,
    /// Ask DevRev, and tell [`Cache::end`] how that ended, however it did. Holds what was known before, if that still
    /// counts when DevRev cannot be asked.
    Ask(Option<V>),
    /// Somebody asks already.
    Follow(F),
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending<V> {
    /// DevRev knows the token.
    Good {
        /// Whose it is.
        value: V,
        /// How long that is believed.
        ttl: Duration,
        /// When the token itself ends.
        expires: Option<Duration>,
    },
    /// DevRev refuses the token.
    Bad,
    /// DevRev could not be asked, or did not say.
    Failed,
    /// Whoever asked has gone.
    Left,
}

#[derive(Debug)]
struct Good<V> {
    value: V,
    /// DevRev is not asked before this.
    fresh: Duration,
}

/// See the module. Times are since any fixed instant, and do not step back. `F` is what those who follow a question hold.
#[derive(Debug)]
pub struct Cache<K, V, F> {
    good: Room<K, Good<V>>,
    bad: Room<K, ()>,
    asking: HashMap<K, F>,
}

impl<K: Copy + Ord + Hash, V: Clone, F: Clone> Cache<K, V, F> {
    /// See [`DEFAULT_CAPACITY`].
    pub fn new(capacity: usize) -> Self {
        Cache {
            good: Room::new(capacity),
            bad: Room::new(capacity),
            asking: HashMap::new(),
        }
    }

    /// What is known of this token.
    pub fn look(&self, key: &K, now: Duration) -> Known<V> {
        if let Some(good) = self.good.get(key, now).filter(|good| now < good.fresh) {
            return Known::Good(good.value.clone());
        }
        match self.bad.get(key, now) {
            Some(()) => Known::Bad,
            None => Known::Nothing,
        }
    }

    /// Takes part in the one question about this token; `start` makes what the others will follow.
    pub fn join(&mut self, key: &K, now: Duration, start: impl FnOnce() -> F) -> Turn<V, F> {
        match self.look(key, now) {
            Known::Good(value) => return Turn::Good(value),
            Known::Bad => return Turn::Bad,
            Known::Nothing => {}
        }
        if let Some(follow) = self.asking.get(key) {
            return Turn::Follow(follow.clone());
        }
        self.asking.insert(*key, start());
        Turn::Ask(self.good.get(key, now).map(|good| good.value.clone()))
    }

    /// The question about this token has ended. Returns what counts although DevRev could not be asked.
    pub fn end(&mut self, key: &K, ending: Ending<V>, now: Duration) -> Option<V> {
        self.asking.remove(key);
        match ending {
            Ending::Good {
                value,
                ttl,
                expires,
            } => {
                self.bad.remove(key);
                let fresh = now.saturating_add(ttl);
                let end = fresh.saturating_add(STALE_FOR);
                let end = expires.map_or(end, |expires| expires.min(end));
                self.good.insert(*key, end, Good { value, fresh }, now);
                None
            }
            Ending::Bad => {
                self.good.remove(key);
                let end = now.saturating_add(BAD_FOR);
                self.bad.insert(*key, end, (), now);
                None
            }
            Ending::Failed => {
                let good = self.good.get_mut(key, now)?;
                good.fresh = good.fresh.max(now.saturating_add(ASK_AGAIN));
                Some(good.value.clone())
            }
            Ending::Left => None,
        }
    }

    /// How many good and bad tokens are kept, and how many are asked about.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let (good, bad) = (self.good.entries.len(), self.bad.entries.len());
        (good, bad, self.asking.len())
    }
}

/// Users' ids have some fifty bytes.
const MAX_USER: usize = 256;

/// The user that an answer of `auth-tokens.info` names: `user_id`, else `subject`, as DevRev's specification has them.
/// Anything else names nobody; what the server does is not known for sure.
pub fn user_of(body: &[u8]) -> Option<String> {
    let map: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body).ok()?;
    ["user_id", "subject"].into_iter().find_map(|name| {
        let id = map.get(name)?.as_str()?;
        let sane = (1..=MAX_USER).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        sane.then(|| id.to_owned())
    })
}

/// So many entries, each with its end. What is over goes first, then what ends first.
#[derive(Debug)]
struct Room<K, T> {
    entries: HashMap<K, (Duration, T)>,
    /// The same, by their ends.
    ends: BTreeSet<(Duration, K)>,
    capacity: usize,
}

impl<K: Copy + Ord + Hash, T> Room<K, T> {
    fn new(capacity: usize) -> Self {
        Room {
            entries: HashMap::new(),
            ends: BTreeSet::new(),
            capacity,
        }
    }

    fn get(&self, key: &K, now: Duration) -> Option<&T> {
        let (end, entry) = self.entries.get(key)?;
        (now < *end).then_some(entry)
    }

    fn get_mut(&mut self, key: &K, now: Duration) -> Option<&mut T> {
        let (end, entry) = self.entries.get_mut(key)?;
        (now < *end).then_some(entry)
    }

    fn insert(&mut self, key: K, end: Duration, entry: T, now: Duration) {
        self.remove(&key);
        while let Some((first, oldest)) = self.ends.first().copied()
            && (first <= now || self.entries.len() >= self.capacity)
        {
            self.remove(&oldest);
        }
        if now < end && self.capacity > 0 {
            self.entries.insert(key, (end, entry));
            self.ends.insert((end, key));
        }
    }

    fn remove(&mut self, key: &K) {
        if let Some((end, _)) = self.entries.remove(key) {
            self.ends.remove(&(end, *key));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Small = Cache<u8, u32, u32>;

    const TTL: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn good(value: u32, expires: Option<u64>) -> Ending<u32> {
        Ending::Good {
            value,
            ttl: TTL,
            expires: expires.map(at),
        }
    }

    #[test]
    fn a_word_is_believed_for_its_time() {
        // What ended when, and what is known at which time.
        type Case<'a> = (Ending<u32>, &'a [(u64, Known<u32>)]);
        let cases: [Case; 5] = [
            (
                good(7, None),
                &[
                    (100, Known::Good(7)),
                    (159, Known::Good(7)),
                    (160, Known::Nothing),
                ],
            ),
            (
                good(7, Some(130)),
                &[
                    (129, Known::Good(7)),
                    (130, Known::Nothing),
                    (131, Known::Nothing),
                ],
            ),
            (
                Ending::Bad,
                &[(100, Known::Bad), (109, Known::Bad), (110, Known::Nothing)],
            ),
            (Ending::Failed, &[(100, Known::Nothing)]),
            (Ending::Left, &[(100, Known::Nothing)]),
        ];
        for (ending, knowns) in cases {
            let mut cache = Small::new(4);
            assert_eq!(cache.join(&1, at(100), || 0), Turn::Ask(None));
            assert_eq!(cache.end(&1, ending, at(100)), None);
            for (time, known) in knowns {
                assert_eq!(cache.look(&1, at(*time)), *known, "{ending:?} at {time}");
            }
        }
    }

    #[test]
    fn a_stale_word_counts_while_nobody_can_be_asked_and_no_longer() {
        let mut cache = Small::new(4);
        cache.end(&1, good(7, None), at(0));
        // Asked anew after its time, whatever is still known.
        assert_eq!(cache.join(&1, at(60), || 0), Turn::Ask(Some(7)));
        assert_eq!(cache.end(&1, Ending::Failed, at(60)), Some(7));
        // Not asked with every request.
        assert_eq!(cache.look(&1, at(64)), Known::Good(7));
        assert_eq!(cache.join(&1, at(65), || 0), Turn::Ask(Some(7)));
        assert_eq!(cache.end(&1, Ending::Failed, at(359)), Some(7));
        assert_eq!(cache.look(&1, at(359)), Known::Good(7));
        // The five minutes are over, though ASK_AGAIN is not.
        assert_eq!(cache.look(&1, at(360)), Known::Nothing);
        assert_eq!(cache.join(&1, at(360), || 0), Turn::Ask(None));
        assert_eq!(cache.end(&1, Ending::Failed, at(360)), None);
    }

    #[test]
    fn a_token_that_has_ended_is_never_stale() {
        let mut cache = Small::new(4);
        cache.end(&1, good(7, Some(100)), at(0));
        assert_eq!(cache.join(&1, at(100), || 0), Turn::Ask(None));
        assert_eq!(cache.end(&1, Ending::Failed, at(100)), None);
    }

    #[test]
    fn the_last_word_counts() {
        let mut cache = Small::new(4);
        cache.end(&1, good(7, None), at(0));
        cache.end(&1, Ending::Bad, at(60));
        assert_eq!(cache.look(&1, at(60)), Known::Bad);
        assert_eq!(
            cache.join(&1, at(70), || 0),
            Turn::Ask(None),
            "nothing stale"
        );
        cache.end(&1, good(8, None), at(70));
        assert_eq!(cache.look(&1, at(70)), Known::Good(8));
        assert_eq!(cache.sizes(), (1, 0, 0));
    }

    #[test]
    fn one_asks_and_the_others_follow() {
        let mut cache = Small::new(4);
        assert_eq!(cache.join(&1, at(0), || 5), Turn::Ask(None));
        assert_eq!(cache.join(&1, at(0), || 6), Turn::Follow(5));
        assert_eq!(cache.join(&2, at(0), || 7), Turn::Ask(None));
        cache.end(&1, Ending::Left, at(1));
        assert_eq!(
            cache.join(&1, at(1), || 8),
            Turn::Ask(None),
            "the next one asks"
        );
    }

    #[test]
    fn a_flood_of_bad_tokens_pushes_out_bad_tokens_only() {
        let mut cache: Cache<u32, u32, ()> = Cache::new(10);
        cache.end(&0, good(7, None), at(0));
        for key in 1..1000 {
            cache.end(&key, Ending::Bad, at(1));
        }
        assert_eq!(cache.look(&0, at(1)), Known::Good(7));
        assert_eq!(cache.sizes(), (1, 10, 0));
    }

    #[test]
    fn what_is_over_goes_first_then_what_ends_first() {
        let mut cache = Small::new(2);
        cache.end(&1, good(1, None), at(0));
        cache.end(&2, good(2, Some(10)), at(1));
        cache.end(&3, good(3, None), at(20));
        assert_eq!(cache.look(&1, at(20)), Known::Good(1), "2 was over");
        cache.end(&4, good(4, None), at(21));
        assert_eq!(cache.look(&1, at(21)), Known::Nothing, "the oldest");
        assert_eq!(cache.look(&3, at(21)), Known::Good(3));
    }

    #[test]
    fn a_user_is_read_tolerantly() {
        let long = format!(r#"{{"user_id":"{}"}}"#, "x".repeat(MAX_USER + 1));
        for (body, user) in [
            (
                r#"{"user_id":"don:devu/1","subject":"s"}"#,
                Some("don:devu/1"),
            ),
            (r#"{"subject":"don:devu/2"}"#, Some("don:devu/2")),
            (r#"{"user_id":7,"subject":"s"}"#, Some("s")),
            (r#"{"user_id":""}"#, None),
            (r#"{"user_id":"a\nb"}"#, None),
            (&long, None),
            ("[]", None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(user_of(body.as_bytes()).as_deref(), user, "{body}");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u16),
        Join(u8),
        End(u8, Ending<u32>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let ending = prop_oneof![
            (any::<u32>(), 0u64..100, prop::option::of(0u64..3000)).prop_map(
                |(value, ttl, expires)| Ending::Good {
                    value,
                    ttl: at(ttl),
                    expires: expires.map(at),
                }
            ),
            Just(Ending::Bad),
            Just(Ending::Failed),
            Just(Ending::Left),
        ];
        prop_oneof![
            (0u16..120).prop_map(Step::Wait),
            (0u8..12).prop_map(Step::Join),
            (0u8..12, ending).prop_map(|(key, ending)| Step::End(key, ending)),
        ]
    }

    proptest! {
        #[test]
        fn holds_under_any_interleaving(
            steps in prop::collection::vec(step(), 0..200),
            capacity in 0usize..6,
        ) {
            let mut cache = Small::new(capacity);
            let mut now = Duration::ZERO;
            let mut asking = BTreeSet::new();
            // The last word on each token: when, and what.
            let mut said: HashMap<u8, (Duration, Ending<u32>)> = HashMap::new();
            for step in steps {
                match step {
                    Step::Wait(seconds) => now += at(seconds.into()),
                    Step::Join(key) => match cache.join(&key, now, || key.into()) {
                        Turn::Ask(stale) => {
                            prop_assert!(asking.insert(key), "two ask about {key}");
                            if let Some(stale) = stale {
                                let Some((when, Ending::Good { value, ttl, expires })) = said.get(&key) else {
                                    return Err(TestCaseError::fail("nobody said it was good"));
                                };
                                prop_assert_eq!(stale, *value);
                                prop_assert!(now < *when + *ttl + STALE_FOR);
                                prop_assert!(expires.is_none_or(|expires| now < expires));
                            }
                        }
                        Turn::Follow(of) => {
                            prop_assert_eq!(of, u32::from(key));
                            prop_assert!(asking.contains(&key));
                        }
                        Turn::Good(_) | Turn::Bad => {}
                    },
                    Step::End(key, ending) => {
                        asking.remove(&key);
                        cache.end(&key, ending, now);
                        if matches!(ending, Ending::Good { .. } | Ending::Bad) {
                            said.insert(key, (now, ending));
                        }
                    }
                }
                let (good, bad, asked) = cache.sizes();
                prop_assert!(good <= capacity && bad <= capacity);
                prop_assert_eq!(asked, asking.len());
                for key in 0..12 {
                    match (cache.look(&key, now), said.get(&key)) {
                        (Known::Nothing, _) => {}
                        (Known::Bad, Some((when, Ending::Bad))) => {
                            prop_assert!(now < *when + BAD_FOR);
                        }
                        (Known::Good(seen), Some((when, Ending::Good { value, ttl, expires }))) => {
                            prop_assert_eq!(seen, *value);
                            prop_assert!(now < *when + *ttl + STALE_FOR);
                            prop_assert!(expires.is_none_or(|expires| now < expires));
                        }
                        (known, last) => prop_assert!(false, "{known:?} after {last:?}"),
                    }
                }
            }
        }
    }
}
