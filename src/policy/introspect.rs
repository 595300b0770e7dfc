//! What introspection says about callers' own tokens: how long a result is valid, what is cached, and which request
//! introspects.
//!
//! Good and bad tokens are cached apart. Only an answer of DevRev's makes a token good, so a flood of made-up tokens evicts
//! made-up tokens and no good one.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    time::Duration,
};

use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// How long a token stays bad. Short, because DevRev may accept it again. Long enough that a caller which tries a bad token in
/// a loop costs six introspections a minute and not six hundred.
pub const BAD_TTL: Duration = Duration::from_secs(10);

/// How long a good result may be used beyond its TTL while introspection fails (compare `stale-if-error`, RFC 5861). DevRev checks
/// the token of every call by itself, so this only lets the call be sent.
pub const STALE_IF_ERROR: Duration = Duration::from_secs(300);

/// The time between two introspections of a token while a stale result is in use. Without it every request would wait for
/// one to fail.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// A 401 to a call makes its token's good result stale. If DevRev then accepts the token, the 401 was the operation's own, and
/// for this long another one changes nothing; twice as long after the next, and so on. An operation that always answers 401 must not
/// cost an introspection each time.
pub const FIRST_DOUBT_PAUSE: Duration = Duration::from_secs(5);

/// The longest of these pauses.
pub const MAX_DOUBT_PAUSE: Duration = Duration::from_secs(60);

/// Capacity of the cache for good tokens, and of that for bad ones: some 2 MB, and more than a sidecar has callers.
pub const DEFAULT_CAPACITY: usize = 10_000;

/// What the cache knows about a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<V> {
    /// The token is good; the value is its user.
    Good(V),
    /// DevRev refuses the token.
    Bad,
    /// Neither is known: the token must be introspected.
    Miss,
}

/// What a request does about a token that the cache did not know.
#[derive(Debug, PartialEq, Eq)]
pub enum Join<V, F> {
    /// By now it is known to be good.
    Good(V),
    /// By now it is known to be bad.
    Bad,
    /// Introspect the token, and call [`TokenCache::finish`] however that ends. Holds the stale result, which is used if introspection
    /// fails.
    Lead(Option<V>),
    /// Wait for the introspection that is under way.
    Follow(F),
}

/// How an introspection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<V> {
    /// DevRev accepts the token.
    Good {
        /// The token's user.
        value: V,
        /// How long the result is valid.
        ttl: Duration,
        /// When the token itself expires.
        expires: Option<Duration>,
    },
    /// DevRev refuses the token.
    Bad,
    /// DevRev could not be reached, or its answer did not say.
    Failed,
    /// The leader went away before it had an answer.
    Abandoned,
}

#[derive(Debug)]
struct Good<V> {
    value: V,
    fresh_until: Duration,
    /// It is stale: DevRev has answered a call with 401 since.
    doubted: bool,
    /// Until then it cannot be doubted.
    certain_until: Duration,
    /// The pause that led to `certain_until`.
    doubt_pause: Duration,
}

/// Results of introspection by token, and the introspections under way. Times are since any fixed instant and never go back. `F` is
/// what followers wait on.
#[derive(Debug)]
pub struct TokenCache<K, V, F> {
    good: BoundedMap<K, Good<V>>,
    bad: BoundedMap<K, ()>,
    in_flight: HashMap<K, F>,
}

impl<K: Copy + Ord + Hash, V: Clone, F: Clone> TokenCache<K, V, F> {
    /// `capacity` is for good and bad tokens each; see [`DEFAULT_CAPACITY`].
    pub fn new(capacity: usize) -> Self {
        TokenCache {
            good: BoundedMap::new(capacity),
            bad: BoundedMap::new(capacity),
            in_flight: HashMap::new(),
        }
    }

    /// The result for this token while it is valid.
    pub fn lookup(&self, key: &K, now: Duration) -> Lookup<V> {
        let good = self.good.get(key, now);
        if let Some(good) = good.filter(|good| !good.doubted && now < good.fresh_until) {
            return Lookup::Good(good.value.clone());
        }
        match self.bad.get(key, now) {
            Some(()) => Lookup::Bad,
            None => Lookup::Miss,
        }
    }

    /// Leads or follows the one introspection of this token; `start` makes what the followers will wait on.
    pub fn join(&mut self, key: &K, now: Duration, start: impl FnOnce() -> F) -> Join<V, F> {
        match self.lookup(key, now) {
            Lookup::Good(value) => return Join::Good(value),
            Lookup::Bad => return Join::Bad,
            Lookup::Miss => {}
        }
        if let Some(follow) = self.in_flight.get(key) {
            return Join::Follow(follow.clone());
        }
        self.in_flight.insert(*key, start());
        Join::Lead(self.good.get(key, now).map(|good| good.value.clone()))
    }

    /// DevRev has answered a call with this token with 401: a good result becomes a stale one, so that the next request introspects the token
    /// again. False if that changes nothing: there is none, or DevRev has accepted the token just after such a 401.
    pub fn doubt(&mut self, key: &K, now: Duration) -> bool {
        let good = self.good.get_mut(key, now);
        let Some(good) = good.filter(|good| !good.doubted && now >= good.certain_until) else {
            return false;
        };
        good.doubted = true;
        true
    }

    /// The introspection of this token has ended. Returns the stale result to use if it failed.
    pub fn finish(&mut self, key: &K, outcome: Outcome<V>, now: Duration) -> Option<V> {
        self.in_flight.remove(key);
        match outcome {
            Outcome::Good {
                value,
                ttl,
                expires,
            } => {
                self.bad.remove(key);
                let fresh_until = now.saturating_add(ttl);
                let end = fresh_until.saturating_add(STALE_IF_ERROR);
                let end = expires.map_or(end, |expires| expires.min(end));
                let before = self.good.get(key, now).filter(|good| good.doubted);
                let doubt_pause = before.map_or(Duration::ZERO, |good| {
                    let next = good.doubt_pause.saturating_mul(2);
                    next.clamp(FIRST_DOUBT_PAUSE, MAX_DOUBT_PAUSE)
                });
                let good = Good {
                    value,
                    fresh_until,
                    doubted: false,
                    certain_until: now.saturating_add(doubt_pause),
                    doubt_pause,
                };
                self.good.insert(*key, end, good, now);
                None
            }
            Outcome::Bad => {
                self.good.remove(key);
                let end = now.saturating_add(BAD_TTL);
                self.bad.insert(*key, end, (), now);
                None
            }
            Outcome::Failed => {
                let good = self.good.get_mut(key, now)?;
                let next = now.saturating_add(RETRY_INTERVAL);
                good.fresh_until = match good.doubted {
                    true => next,
                    false => good.fresh_until.max(next),
                };
                // Till then it is in use again, and another 401 says nothing new.
                good.doubted = false;
                good.certain_until = good.certain_until.max(next);
                Some(good.value.clone())
            }
            Outcome::Abandoned => None,
        }
    }

    /// How many good tokens, bad tokens and introspections under way there are.
    #[cfg(test)]
    fn sizes(&self) -> (usize, usize, usize) {
        let (good, bad) = (self.good.entries.len(), self.bad.entries.len());
        (good, bad, self.in_flight.len())
    }
}

/// Users' ids have some fifty bytes.
const MAX_USER: usize = 256;

/// What an answer of `auth-tokens.info` says about the token. Nothing for what is missing or odd, because the server may deviate from its
/// specification.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenFacts {
    /// `user_id`, else `subject`.
    pub user: Option<String>,
    /// `expires_at`, since the Unix epoch.
    pub expires_at: Option<Duration>,
}

impl TokenFacts {
    pub fn read(body: &[u8]) -> TokenFacts {
        let read = serde_json::from_slice::<Map<String, Value>>(body);
        let map = read.unwrap_or_default();
        let user = ["user_id", "subject"].into_iter().find_map(|name| {
            let id = map.get(name)?.as_str()?;
            let sane =
                (1..=MAX_USER).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
            sane.then(|| id.to_owned())
        });
        let expires_at = map.get("expires_at").and_then(time_of);
        TokenFacts { user, expires_at }
    }
}

/// A time as RFC 3339 writes it, or in epoch seconds. Not the beginning of an epoch, by which servers say that there is none.
fn time_of(value: &Value) -> Option<Duration> {
    let since_epoch = match value {
        Value::String(text) => {
            let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
            Duration::new(
                u64::try_from(time.unix_timestamp()).ok()?,
                time.nanosecond(),
            )
        }
        Value::Number(seconds) => Duration::try_from_secs_f64(seconds.as_f64()?).ok()?,
        _ => return None,
    };
    (!since_epoch.is_zero()).then_some(since_epoch)
}

/// A map whose entries expire. At capacity, expired entries are evicted first, then those that expire soonest.
#[derive(Debug)]
struct BoundedMap<K, T> {
    entries: HashMap<K, (Duration, T)>,
    /// The keys, ordered by expiry.
    ends: BTreeSet<(Duration, K)>,
    capacity: usize,
}

impl<K: Copy + Ord + Hash, T> BoundedMap<K, T> {
    fn new(capacity: usize) -> Self {
        BoundedMap {
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

    type Small = TokenCache<u8, u32, u32>;

    const TTL: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn good(value: u32, expires: Option<u64>) -> Outcome<u32> {
        Outcome::Good {
            value,
            ttl: TTL,
            expires: expires.map(at),
        }
    }

    #[test]
    fn a_result_is_valid_for_its_ttl() {
        use Lookup::{Bad, Good, Miss};
        // The outcome at 100 seconds, and what a lookup gives at each time.
        type Case<'a> = (Outcome<u32>, &'a [(u64, Lookup<u32>)]);
        let cases: [Case<'_>; 5] = [
            (
                good(7, None),
                &[(100, Good(7)), (159, Good(7)), (160, Miss)],
            ),
            (good(7, Some(130)), &[(129, Good(7)), (130, Miss)]),
            (Outcome::Bad, &[(100, Bad), (109, Bad), (110, Miss)]),
            (Outcome::Failed, &[(100, Miss)]),
            (Outcome::Abandoned, &[(100, Miss)]),
        ];
        for (outcome, lookups) in cases {
            let mut cache = Small::new(4);
            assert_eq!(cache.join(&1, at(100), || 0), Join::Lead(None));
            assert_eq!(cache.finish(&1, outcome, at(100)), None);
            for (time, want) in lookups {
                let found = cache.lookup(&1, at(*time));
                assert_eq!(found, *want, "{outcome:?} at {time}");
            }
        }
    }

    #[test]
    fn a_stale_result_is_used_while_introspection_fails_and_no_longer() {
        let mut cache = Small::new(4);
        cache.finish(&1, good(7, None), at(0));
        // After the TTL it leads again, with the stale result.
        assert_eq!(cache.join(&1, at(60), || 0), Join::Lead(Some(7)));
        assert_eq!(cache.finish(&1, Outcome::Failed, at(60)), Some(7));
        // Not introspected with every request.
        assert_eq!(cache.lookup(&1, at(64)), Lookup::Good(7));
        assert_eq!(cache.join(&1, at(65), || 0), Join::Lead(Some(7)));
        assert_eq!(cache.finish(&1, Outcome::Failed, at(359)), Some(7));
        assert_eq!(cache.lookup(&1, at(359)), Lookup::Good(7));
        // STALE_IF_ERROR is over, though RETRY_INTERVAL is not.
        assert_eq!(cache.lookup(&1, at(360)), Lookup::Miss);
        assert_eq!(cache.join(&1, at(360), || 0), Join::Lead(None));
        assert_eq!(cache.finish(&1, Outcome::Failed, at(360)), None);
    }

    #[test]
    fn an_expired_token_is_never_stale() {
        let mut cache = Small::new(4);
        cache.finish(&1, good(7, Some(100)), at(0));
        assert_eq!(cache.join(&1, at(100), || 0), Join::Lead(None));
        assert_eq!(cache.finish(&1, Outcome::Failed, at(100)), None);
    }

    #[test]
    fn the_last_outcome_wins() {
        let mut cache = Small::new(4);
        cache.finish(&1, good(7, None), at(0));
        cache.finish(&1, Outcome::Bad, at(60));
        assert_eq!(cache.lookup(&1, at(60)), Lookup::Bad);
        assert_eq!(
            cache.join(&1, at(70), || 0),
            Join::Lead(None),
            "nothing stale"
        );
        cache.finish(&1, good(8, None), at(70));
        assert_eq!(cache.lookup(&1, at(70)), Lookup::Good(8));
        assert_eq!(cache.sizes(), (1, 0, 0));
    }

    #[test]
    fn one_leads_and_the_others_follow() {
        let mut cache = Small::new(4);
        assert_eq!(cache.join(&1, at(0), || 5), Join::Lead(None));
        assert_eq!(cache.join(&1, at(0), || 6), Join::Follow(5));
        assert_eq!(cache.join(&2, at(0), || 7), Join::Lead(None));
        cache.finish(&1, Outcome::Abandoned, at(1));
        assert_eq!(
            cache.join(&1, at(1), || 8),
            Join::Lead(None),
            "the next one leads"
        );
    }

    #[test]
    fn a_flood_of_bad_tokens_evicts_bad_tokens_only() {
        let mut cache: TokenCache<u32, u32, ()> = TokenCache::new(10);
        cache.finish(&0, good(7, None), at(0));
        for key in 1..1000 {
            cache.finish(&key, Outcome::Bad, at(1));
        }
        assert_eq!(cache.lookup(&0, at(1)), Lookup::Good(7));
        assert_eq!(cache.sizes(), (1, 10, 0));
    }

    #[test]
    fn expired_entries_are_evicted_first_then_those_that_expire_soonest() {
        let mut cache = Small::new(2);
        cache.finish(&1, good(1, None), at(0));
        cache.finish(&2, good(2, Some(10)), at(1));
        cache.finish(&3, good(3, None), at(20));
        assert_eq!(cache.lookup(&1, at(20)), Lookup::Good(1), "2 had expired");
        cache.finish(&4, good(4, None), at(21));
        assert_eq!(cache.lookup(&1, at(21)), Lookup::Miss, "the oldest");
        assert_eq!(cache.lookup(&3, at(21)), Lookup::Good(3));
    }

    #[test]
    fn a_user_is_read_leniently() {
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
            let facts = TokenFacts::read(body.as_bytes());
            assert_eq!(facts.user.as_deref(), user, "{body}");
        }
    }

    #[test]
    fn an_expiry_is_believed_if_it_is_one() {
        for (value, seconds) in [
            (r#""2026-01-01T00:00:00.500Z""#, Some(1_767_225_600.5)),
            (r#""2026-01-01T02:00:00+02:00""#, Some(1_767_225_600.0)),
            (r#""2099-01-01t00:00:00z""#, Some(4_070_908_800.0)),
            (r#""1970-01-01T00:00:01Z""#, Some(1.0)),
            ("1767225600", Some(1_767_225_600.0)),
            ("1767225600.5", Some(1_767_225_600.5)),
            ("1e300", None),
            ("-5", None),
            ("0", None),
            (r#""1970-01-01T00:00:00Z""#, None),
            (r#""0001-01-01T00:00:00Z""#, None),
            (r#""9999-12-31T23:59:59Z""#, Some(253_402_300_799.0)),
            (r#""2026-01-01""#, None),
            (r#""2026-13-01T00:00:00Z""#, None),
            (r#""soon""#, None),
            (r#""""#, None),
            ("null", None),
            ("{}", None),
        ] {
            let body = format!(r#"{{"user_id":"ada","expires_at":{value}}}"#);
            let facts = TokenFacts::read(body.as_bytes());
            let found = facts.expires_at.map(|at| at.as_secs_f64());
            assert_eq!(found, seconds, "{value}");
            assert_eq!(facts.user.as_deref(), Some("ada"), "{value}");
        }
    }

    #[test]
    fn a_401_ends_a_good_result_and_an_operations_own_401s_cost_little() {
        let mut cache = Small::new(4);
        assert!(!cache.doubt(&1, at(0)), "nothing is known");
        cache.finish(&1, good(7, None), at(0));
        assert!(cache.doubt(&1, at(0)));
        assert_eq!(cache.lookup(&1, at(0)), Lookup::Miss);
        assert!(!cache.doubt(&1, at(0)), "once");
        // It is a stale result: in use while introspection fails, and not for as long as the first one was.
        assert_eq!(cache.join(&1, at(1), || 0), Join::Lead(Some(7)));
        assert_eq!(cache.finish(&1, Outcome::Failed, at(1)), Some(7));
        assert_eq!(cache.lookup(&1, at(5)), Lookup::Good(7));
        assert!(!cache.doubt(&1, at(5)), "not with every call");
        assert_eq!(cache.join(&1, at(6), || 0), Join::Lead(Some(7)));
        // A token whose every call is answered with 401 although it is good.
        let mut cache = Small::new(4);
        cache.finish(&1, good(7, None), at(0));
        cache.doubt(&1, at(0));
        let mut introspections = Vec::new();
        for now in 1..=120 {
            if cache.lookup(&1, at(now)) == Lookup::Miss {
                introspections.push(now);
                cache.finish(&1, good(7, None), at(now));
            }
            cache.doubt(&1, at(now));
        }
        assert_eq!(introspections, [1, 7, 18, 39, 80]);
        // Another token's 401 changes nothing, and neither does one to a token that is bad.
        assert!(!cache.doubt(&2, at(120)));
        cache.finish(&2, Outcome::Bad, at(120));
        assert!(!cache.doubt(&2, at(120)));
        assert_eq!(cache.lookup(&2, at(120)), Lookup::Bad);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u16),
        Join(u8),
        Finish(u8, Outcome<u32>),
        Doubt(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let outcome = prop_oneof![
            (any::<u32>(), 0u64..100, prop::option::of(0u64..3000)).prop_map(
                |(value, ttl, expires)| Outcome::Good {
                    value,
                    ttl: at(ttl),
                    expires: expires.map(at),
                }
            ),
            Just(Outcome::Bad),
            Just(Outcome::Failed),
            Just(Outcome::Abandoned),
        ];
        prop_oneof![
            (0u16..120).prop_map(Step::Wait),
            (0u8..12).prop_map(Step::Join),
            (0u8..12, outcome).prop_map(|(key, outcome)| Step::Finish(key, outcome)),
            (0u8..12).prop_map(Step::Doubt),
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
            let mut in_flight = BTreeSet::new();
            // The last outcome for each token, with its time.
            let mut outcomes: HashMap<u8, (Duration, Outcome<u32>)> = HashMap::new();
            let mut doubted = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Wait(seconds) => now += at(seconds.into()),
                    Step::Join(key) => match cache.join(&key, now, || key.into()) {
                        Join::Lead(stale) => {
                            prop_assert!(in_flight.insert(key), "two lead for {key}");
                            if let Some(stale) = stale {
                                let Some((when, Outcome::Good { value, ttl, expires })) = outcomes.get(&key) else {
                                    return Err(TestCaseError::fail("stale without a good outcome"));
                                };
                                prop_assert_eq!(stale, *value);
                                prop_assert!(now < *when + *ttl + STALE_IF_ERROR);
                                prop_assert!(expires.is_none_or(|expires| now < expires));
                            }
                        }
                        Join::Follow(of) => {
                            prop_assert_eq!(of, u32::from(key));
                            prop_assert!(in_flight.contains(&key));
                        }
                        Join::Good(_) | Join::Bad => {}
                    },
                    Step::Doubt(key) => {
                        if cache.doubt(&key, now) {
                            prop_assert!(doubted.insert(key));
                        }
                    }
                    Step::Finish(key, outcome) => {
                        in_flight.remove(&key);
                        cache.finish(&key, outcome, now);
                        if outcome != Outcome::Abandoned {
                            doubted.remove(&key);
                        }
                        if matches!(outcome, Outcome::Good { .. } | Outcome::Bad) {
                            outcomes.insert(key, (now, outcome));
                        }
                    }
                }
                let (good, bad, leading) = cache.sizes();
                prop_assert!(good <= capacity && bad <= capacity);
                prop_assert_eq!(leading, in_flight.len());
                for key in 0..12 {
                    match (cache.lookup(&key, now), outcomes.get(&key)) {
                        (Lookup::Miss, _) => {}
                        (Lookup::Bad, Some((when, Outcome::Bad))) => {
                            prop_assert!(now < *when + BAD_TTL);
                        }
                        (Lookup::Good(seen), Some((when, Outcome::Good { value, ttl, expires }))) => {
                            prop_assert!(!doubted.contains(&key));
                            prop_assert_eq!(seen, *value);
                            prop_assert!(now < *when + *ttl + STALE_IF_ERROR);
                            prop_assert!(expires.is_none_or(|expires| now < expires));
                        }
                        (lookup, last) => prop_assert!(false, "{lookup:?} after {last:?}"),
                    }
                }
            }
        }
    }
}
