//! Which of many like lines of the log are written, and what is said of the rest. An outage, a flood or a circuit that flaps is told in a
//! few lines, however many calls it concerns.
//!
//! ```
//! use std::time::Duration;
//! use revgate::policy::line_limit::{LineLimit, LineRates};
//!
//! let second = Duration::from_secs;
//! let rates = LineRates { at_once: 1, another_after: second(60), in_all: 10 };
//! let mut limit = LineLimit::new(rates);
//! let peer = "192.0.2.1".parse().ok();
//! assert!(limit.try_pass("no key", peer, second(0)));
//! assert!(!limit.try_pass("no key", peer, second(0)));
//! assert!(limit.try_pass("bad request", peer, second(0)));
//!
//! let summaries = limit.take_summaries(second(1));
//! assert_eq!((summaries[0].kind, summaries[0].lines, summaries[0].since), (Some("no key"), 1, second(1)));
//! assert!(limit.take_summaries(second(2)).is_empty());
//!
//! assert!(limit.try_pass("no key", peer, second(60)));
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::allocator::Address;

/// How many addresses of a summary are told apart. It bounds the memory that a flood from many addresses takes.
pub const MAX_PEERS: usize = 64;

/// How many kinds are remembered: several for each of a few hundred callers. What is more is summed up as one.
pub const MAX_KINDS: usize = 2048;

/// After so long without a line, the next one of its kind is about something new. A minute is longer than the pauses between the calls
/// of a caller that tries again and again.
pub const QUIET: Duration = Duration::from_secs(60);

/// The time between two lines that tell the same is as long as it has lasted, within these bounds: whoever looks sees soon that it goes
/// on, and an hour of it takes some twenty lines.
const BETWEEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// How long after a line another one tells that what has lasted for this time goes on.
pub fn again_after(lasted: Duration) -> Duration {
    lasted.clamp(BETWEEN.0, BETWEEN.1)
}

/// How many lines pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineRates {
    /// So many of a kind at once. Between two summaries as many more pass, each the first one of an address.
    pub at_once: u32,
    /// And then one more whenever this time has passed.
    pub another_after: Duration,
    /// In a second, of all kinds together, so that the number of kinds does not multiply what is written.
    pub in_all: u32,
}

/// Passes the first lines of each kind, and counts the rest. A kind that is frequent hides no other one, and neither does an address: each has a
/// line of its own, unless very many come.
#[derive(Debug)]
pub struct LineLimit<K> {
    rates: LineRates,
    /// The second that `passed` counts in.
    second: u64,
    passed: u32,
    kinds: BTreeMap<K, Count>,
    /// Lines of kinds beyond [`MAX_KINDS`].
    others: Count,
}

#[derive(Debug, Default)]
struct Count {
    /// When the first line came, and the latest.
    first: Duration,
    latest: Duration,
    /// The time after which as many lines as ever may pass at once.
    spent: Duration,
    /// Since the last summary.
    left_out: u64,
    /// When the last summary was due, or the first line was left out.
    told: Duration,
    peers: BTreeSet<IpAddr>,
    /// Since the last summary: who has had a line, of the latest [`MAX_PEERS`] or fewer.
    heard: BTreeSet<Address>,
    /// Lines that passed since then only because their addresses had none.
    newcomers: u32,
}

impl Count {
    fn new(now: Duration) -> Count {
        Count {
            first: now,
            latest: now,
            ..Count::default()
        }
    }

    fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.latest) >= QUIET
    }

    fn leave_out(&mut self, peer: Option<IpAddr>, now: Duration) {
        if self.left_out == 0 {
            self.told = self.told.max(now);
        }
        self.left_out += 1;
        if let Some(peer) = peer
            && self.peers.len() < MAX_PEERS
        {
            self.peers.insert(peer);
        }
    }

    fn hear(&mut self, address: Option<Address>) {
        if self.heard.len() >= MAX_PEERS {
            self.heard.clear();
        }
        self.heard.extend(address);
    }

    fn is_due(&self, now: Duration) -> bool {
        let lasted = self.told.saturating_sub(self.first);
        self.left_out > 0
            && (self.is_over(now) || now.saturating_sub(self.told) >= again_after(lasted))
    }

    fn summary<K>(&mut self, kind: Option<K>, now: Duration) -> Summary<K> {
        self.told = now;
        self.heard.clear();
        self.newcomers = 0;
        Summary {
            kind,
            lines: std::mem::take(&mut self.left_out),
            since: now.saturating_sub(self.first),
            peers: std::mem::take(&mut self.peers).len(),
        }
    }
}

/// The lines of a kind that did not pass since the last summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary<K> {
    /// What they are about; `None` for various things.
    pub kind: Option<K>,
    /// How many they are.
    pub lines: u64,
    /// How long ago the first line of this kind came, with no longer gap than [`QUIET`] since.
    pub since: Duration,
    /// From how many addresses they came, as far as these are known. Never more than [`MAX_PEERS`].
    pub peers: usize,
}

impl<K: Clone + Ord> LineLimit<K> {
    /// A limit that has counted nothing yet.
    pub fn new(rates: LineRates) -> LineLimit<K> {
        LineLimit {
            rates,
            second: 0,
            passed: 0,
            kinds: BTreeMap::new(),
            others: Count::default(),
        }
    }

    /// Whether a line of this kind is written now. `now` is the time since any fixed instant.
    pub fn try_pass(&mut self, kind: K, peer: Option<IpAddr>, now: Duration) -> bool {
        if self.second != now.as_secs() {
            self.second = now.as_secs();
            self.passed = 0;
        }
        let count = if self.kinds.len() < MAX_KINDS || self.kinds.contains_key(&kind) {
            let count = self.kinds.entry(kind).or_insert_with(|| Count::new(now));
            if count.is_over(now) && count.left_out == 0 {
                *count = Count::new(now);
            }
            count
        } else {
            if self.others.left_out == 0 && self.others.is_over(now) {
                self.others = Count::new(now);
            }
            self.others.latest = now;
            self.others.leave_out(peer, now);
            return false;
        };
        count.latest = now;
        let LineRates {
            at_once,
            another_after,
            in_all,
        } = self.rates;
        // Each line costs the time after which another one may pass.
        let free_at = count.spent.max(now) + another_after;
        let is_within = free_at <= now + another_after * at_once;
        let address = peer.map(|peer| Address::from(Some(peer)));
        let is_new = address.is_some_and(|address| !count.heard.contains(&address))
            && count.newcomers < at_once;
        if (is_within || is_new) && self.passed < in_all {
            if is_within {
                count.spent = free_at;
            } else {
                count.newcomers += 1;
            }
            count.hear(address);
            self.passed += 1;
            return true;
        }
        count.leave_out(peer, now);
        false
    }

    /// One summary for each kind with lines that did not pass, as soon as it is due. To be called every second or so. Forgets kinds of
    /// which no line came for a while.
    pub fn take_summaries(&mut self, now: Duration) -> Vec<Summary<K>> {
        let summaries = self.take(now, |count| count.is_due(now));
        self.kinds
            .retain(|_, count| count.left_out > 0 || !count.is_over(now));
        summaries
    }

    /// The summaries that are not due yet as well, at the end.
    pub fn take_all(&mut self, now: Duration) -> Vec<Summary<K>> {
        self.take(now, |count| count.left_out > 0)
    }

    fn take(&mut self, now: Duration, which: impl Fn(&Count) -> bool) -> Vec<Summary<K>> {
        let kinds = self.kinds.iter_mut().filter(|(_, count)| which(count));
        let mut summaries: Vec<_> = kinds
            .map(|(kind, count)| count.summary(Some(kind.clone()), now))
            .collect();
        if which(&self.others) {
            summaries.push(self.others.summary(None, now));
        }
        summaries
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RATES: LineRates = LineRates {
        at_once: 2,
        another_after: Duration::from_secs(10),
        in_all: 3,
    };

    fn address(n: u32) -> Option<IpAddr> {
        Some(IpAddr::from(n.to_be_bytes()))
    }

    fn milliseconds(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_first_lines_pass_and_then_one_now_and_then() {
        let mut limit = LineLimit::new(RATES);
        for (at, kind, passes) in [
            (0, 'a', true),
            (10, 'a', true),
            (20, 'a', false),
            (30, 'b', true),
            // `in_all` is reached.
            (40, 'b', false),
            (999, 'c', false),
            (1000, 'c', true),
            (1001, 'b', true),
            (9_999, 'a', false),
            (10_001, 'a', true),
            (10_002, 'a', false),
            (20_100, 'a', true),
            // After a while as many as at first.
            (90_000, 'a', true),
            (90_000, 'a', true),
            (90_000, 'a', false),
        ] {
            assert_eq!(
                limit.try_pass(kind, None, milliseconds(at)),
                passes,
                "{kind} at {at}"
            );
        }
    }

    #[test]
    fn an_outage_is_told_in_a_few_lines_with_its_beginning() {
        let mut limit = LineLimit::new(RATES);
        let (mut passed, mut told) = (0, Vec::new());
        // Ten lines a second for an hour, and then none.
        for second in 0..7200 {
            for call in 0..10 {
                let now = SECOND * second + milliseconds(call * 100);
                passed += u64::from(second < 3600 && limit.try_pass('a', None, now));
            }
            told.extend(limit.take_summaries(SECOND * (second + 1)));
        }
        assert!((300..400).contains(&passed), "{passed}");
        assert!((15..30).contains(&told.len()), "{}", told.len());
        let lines: u64 = told.iter().map(|summary| summary.lines).sum();
        assert_eq!(passed + lines, 36_000);
        for (at, summary) in told.iter().enumerate() {
            assert!(at == 0 || summary.since > told[at - 1].since);
            assert_eq!(summary.kind, Some('a'));
        }
        // The last one comes soon after the end.
        let last = told.last().unwrap().since;
        assert!(last <= SECOND * 3600 + QUIET + SECOND, "{last:?}");
        assert!(limit.kinds.is_empty(), "nothing is remembered for ever");
    }

    #[test]
    fn kinds_are_bounded_and_what_is_more_is_one() {
        let mut limit = LineLimit::new(LineRates {
            in_all: u32::MAX,
            ..RATES
        });
        for kind in 0..MAX_KINDS + 500 {
            assert_eq!(limit.try_pass(kind, None, SECOND), kind < MAX_KINDS);
        }
        assert!(limit.try_pass(0, None, SECOND), "one that is known");
        let summaries = limit.take_summaries(SECOND * 2);
        assert_eq!(summaries.len(), 1);
        assert_eq!((summaries[0].kind, summaries[0].lines), (None, 500));
        // Kinds without lines make room.
        assert!(limit.take_summaries(SECOND * 2 + QUIET).is_empty());
        assert!(limit.try_pass(MAX_KINDS, None, SECOND * 2 + QUIET));
    }

    #[test]
    fn a_summary_counts_addresses_up_to_a_bound() {
        let rates = LineRates {
            at_once: 0,
            ..RATES
        };
        for (peers, expected) in [(1, 1), (3, 3), (64, 64), (65, 64), (5000, 64)] {
            let mut limit = LineLimit::new(rates);
            for peer in (0..peers).chain(0..peers) {
                assert!(!limit.try_pass((), address(peer), Duration::ZERO));
            }
            assert!(!limit.try_pass((), None, Duration::ZERO));
            let expected = Summary {
                kind: Some(()),
                lines: u64::from(peers) * 2 + 1,
                since: Duration::ZERO,
                peers: expected,
            };
            assert_eq!(limit.take_all(Duration::ZERO), [expected]);
            assert_eq!(limit.take_all(Duration::ZERO), []);
        }
    }

    #[test]
    fn a_frequent_address_hides_no_other_one() {
        let mut limit = LineLimit::new(LineRates { in_all: 4, ..RATES });
        for (at, peer, passes) in [
            (0, 1, true),
            (0, 1, true),
            (0, 1, false),
            // Of each newcomer the first, up to `at_once`.
            (10, 2, true),
            (10, 2, false),
            (10, 3, true),
            (10, 4, false),
            // They did not take the turn of the next line.
            (1000, 4, false),
            (10_001, 1, true),
        ] {
            let passed = limit.try_pass('a', address(peer), milliseconds(at));
            assert_eq!(passed, passes, "{peer} at {at}");
        }
        assert_eq!(limit.take_summaries(SECOND * 12)[0].peers, 3);
        // Since this summary each is new.
        for (peer, passes) in [(4, true), (4, false), (1, true), (2, false)] {
            let passed = limit.try_pass('a', address(peer), SECOND * 13);
            assert_eq!(passed, passes, "{peer}");
        }
        // A newcomer for which there is no room in this second still is one.
        for kind in ['b', 'c'] {
            limit.try_pass(kind, None, SECOND * 13);
        }
        assert!(!limit.try_pass('b', address(9), SECOND * 13));
        assert!(!limit.kinds[&'b'].heard.contains(&address(9).into()));
    }

    #[test]
    fn a_flood_from_many_addresses_is_a_few_lines_and_little_memory() {
        let mut limit = LineLimit::new(RATES);
        let (mut passed, mut summaries) = (0, 0);
        for second in 0..3600 {
            for n in 0..20 {
                let peer = address(second * 20 + n);
                passed += u32::from(limit.try_pass('a', peer, SECOND * second));
            }
            assert!(limit.kinds[&'a'].heard.len() <= MAX_PEERS);
            summaries += limit.take_summaries(SECOND * (second + 1)).len();
        }
        let most = RATES.at_once + 360 + RATES.at_once * (summaries as u32 + 1);
        assert!(summaries < 30 && passed <= most, "{passed} {summaries}");
        // Whoever has a whole network of IPv6 is one.
        let mut limit = LineLimit::new(RATES);
        let of_network = |n: u128| Some(IpAddr::V6((0x2001_0db8_u128 << 96 | n).into()));
        let passes = (0..100).map(|n| limit.try_pass('a', of_network(n), Duration::ZERO));
        assert_eq!(passes.filter(|passes| *passes).count(), 2);
        assert!(limit.try_pass('a', of_network(1 << 64), Duration::ZERO));
    }

    proptest! {
        #[test]
        fn every_line_passes_within_the_rates_or_is_in_one_summary(
            at_once in 0u32..5,
            in_all in 0u32..12,
            events in prop::collection::vec((0u8..4, 0u32..100, 0u64..400, any::<bool>()), 0..400),
        ) {
            let another_after = SECOND * 7;
            let mut limit = LineLimit::new(LineRates { at_once, another_after, in_all });
            let (mut now, mut sent, mut passed, mut told) = (0, 0, 0, 0);
            let mut in_second = HashMap::<u64, u32>::new();
            let mut of_kind = HashMap::<u8, u32>::new();
            let mut summaries = HashMap::<u8, u32>::new();
            for (kind, peer, wait, summary) in events {
                now += wait;
                sent += 1;
                if limit.try_pass(kind, address(peer), milliseconds(now)) {
                    passed += 1;
                    *in_second.entry(now / 1000).or_default() += 1;
                    *of_kind.entry(kind).or_default() += 1;
                }
                if summary {
                    for summary in limit.take_summaries(milliseconds(now)) {
                        prop_assert!(summary.lines > 0);
                        prop_assert!((1..=MAX_PEERS).contains(&summary.peers));
                        prop_assert!(summary.peers as u64 <= summary.lines);
                        told += summary.lines;
                        *summaries.entry(summary.kind.unwrap()).or_default() += 1;
                    }
                }
            }
            told += limit.take_all(milliseconds(now)).iter().map(|s| s.lines).sum::<u64>();
            prop_assert_eq!(passed + told, sent);
            prop_assert!(in_second.values().all(|lines| *lines <= in_all));
            let at_most = |kind| {
                let quiet = now as u32 / QUIET.as_millis() as u32;
                let newcomers = 1 + quiet + summaries.get(kind).unwrap_or(&0);
                at_once * (1 + quiet + newcomers) + now as u32 / 7000 + 1
            };
            prop_assert!(of_kind.iter().all(|(kind, lines)| *lines <= at_most(kind)), "{of_kind:?}");
        }
    }
}
