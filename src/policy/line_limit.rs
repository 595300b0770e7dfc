//! Which of the log lines that any client can cause are written, and what is said of the rest.
//!
//! ```
//! use std::time::Duration;
//! use revgate::policy::line_limit::{LineLimit, LineRates, Summary};
//!
//! let rates = LineRates { of_kind: 1, in_all: 10 };
//! let mut limit = LineLimit::new(rates);
//! let (now, peer) = (Duration::ZERO, "192.0.2.1".parse().ok());
//! assert!(limit.try_pass("no key", peer, now));
//! assert!(!limit.try_pass("no key", peer, now));
//! assert!(limit.try_pass("bad request", peer, now));
//! assert_eq!(limit.take_summaries(), [Summary { kind: "no key", lines: 1, peers: 1 }]);
//!
//! assert!(limit.try_pass("no key", peer, now + Duration::from_secs(1)));
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

/// How many addresses of a summary are told apart. It bounds the memory that a flood from many addresses takes.
pub const MAX_PEERS: usize = 64;

/// How many lines pass in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineRates {
    /// Of each kind.
    pub of_kind: u32,
    /// Of all kinds together, so that the number of kinds does not multiply what is written.
    pub in_all: u32,
}

/// Passes the first lines of each kind in a second, and counts the rest. A kind that is frequent hides no other one.
///
/// The number of kinds must be bounded by their type or by the configuration, because each is remembered.
#[derive(Debug)]
pub struct LineLimit<K> {
    rates: LineRates,
    /// The second that `passed` counts in.
    second: u64,
    passed: u32,
    kinds: BTreeMap<K, Count>,
}

#[derive(Debug, Default)]
struct Count {
    /// In the current second.
    passed: u32,
    /// Since the last summary.
    left_out: u64,
    peers: BTreeSet<IpAddr>,
}

/// The lines of a kind that did not pass since the last summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary<K> {
    /// What they are about.
    pub kind: K,
    /// How many they are.
    pub lines: u64,
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
        }
    }

    /// Whether a line of this kind is written now. `now` is the time since any fixed instant.
    pub fn try_pass(&mut self, kind: K, peer: Option<IpAddr>, now: Duration) -> bool {
        if self.second != now.as_secs() {
            self.second = now.as_secs();
            self.passed = 0;
            for count in self.kinds.values_mut() {
                count.passed = 0;
            }
        }
        let count = self.kinds.entry(kind).or_default();
        if count.passed < self.rates.of_kind && self.passed < self.rates.in_all {
            count.passed += 1;
            self.passed += 1;
            return true;
        }
        count.left_out += 1;
        if let Some(peer) = peer
            && count.peers.len() < MAX_PEERS
        {
            count.peers.insert(peer);
        }
        false
    }

    /// One summary for each kind with lines that did not pass since the last call.
    pub fn take_summaries(&mut self) -> Vec<Summary<K>> {
        let left_out = self.kinds.iter_mut().filter(|(_, c)| c.left_out > 0);
        let summaries = left_out.map(|(kind, count)| Summary {
            kind: kind.clone(),
            lines: std::mem::take(&mut count.left_out),
            peers: std::mem::take(&mut count.peers).len(),
        });
        summaries.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn address(n: u32) -> Option<IpAddr> {
        Some(IpAddr::from(n.to_be_bytes()))
    }

    fn milliseconds(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_first_lines_of_each_second_pass() {
        let mut limit = LineLimit::new(LineRates {
            of_kind: 2,
            in_all: 3,
        });
        for (at, kind, passes) in [
            (0, 'a', true),
            (10, 'a', true),
            (20, 'a', false),
            (30, 'b', true),
            // `in_all` is reached.
            (40, 'b', false),
            (999, 'c', false),
            (1000, 'a', true),
            (1001, 'c', true),
            (1002, 'b', true),
            (1999, 'a', false),
            // Also after seconds without a line.
            (9500, 'a', true),
        ] {
            assert_eq!(
                limit.try_pass(kind, None, milliseconds(at)),
                passes,
                "{kind} at {at}"
            );
        }
        let lines = |kind, lines| Summary {
            kind,
            lines,
            peers: 0,
        };
        assert_eq!(
            limit.take_summaries(),
            [lines('a', 2), lines('b', 1), lines('c', 1)]
        );
        assert_eq!(limit.take_summaries(), []);
    }

    #[test]
    fn a_summary_counts_addresses_up_to_a_bound() {
        let rates = LineRates {
            of_kind: 0,
            in_all: 9,
        };
        for (peers, expected) in [(1, 1), (3, 3), (64, 64), (65, 64), (5000, 64)] {
            let mut limit = LineLimit::new(rates);
            for peer in (0..peers).chain(0..peers) {
                assert!(!limit.try_pass((), address(peer), Duration::ZERO));
            }
            assert!(!limit.try_pass((), None, Duration::ZERO));
            let lines = u64::from(peers) * 2 + 1;
            let expected = Summary {
                kind: (),
                lines,
                peers: expected,
            };
            assert_eq!(limit.take_summaries(), [expected]);
        }
    }

    proptest! {
        #[test]
        fn every_line_passes_within_the_rates_or_is_in_one_summary(
            of_kind in 0u32..5,
            in_all in 0u32..12,
            events in prop::collection::vec((0u8..4, 0u32..100, 0u64..400, any::<bool>()), 0..400),
        ) {
            let mut limit = LineLimit::new(LineRates { of_kind, in_all });
            let (mut now, mut sent, mut passed, mut told) = (0, 0, 0, 0);
            let mut in_second = HashMap::<(u64, Option<u8>), u32>::new();
            for (kind, peer, wait, summary) in events {
                now += wait;
                sent += 1;
                if limit.try_pass(kind, address(peer), milliseconds(now)) {
                    passed += 1;
                    *in_second.entry((now / 1000, Some(kind))).or_default() += 1;
                    *in_second.entry((now / 1000, None)).or_default() += 1;
                }
                if summary {
                    for summary in limit.take_summaries() {
                        prop_assert!(summary.lines > 0);
                        prop_assert!((1..=MAX_PEERS).contains(&summary.peers));
                        prop_assert!(summary.peers as u64 <= summary.lines);
                        told += summary.lines;
                    }
                }
            }
            told += limit.take_summaries().iter().map(|s| s.lines).sum::<u64>();
            prop_assert_eq!(passed + told, sent);
            for ((_, kind), lines) in in_second {
                let most = kind.map_or(in_all, |_| of_kind);
                prop_assert!(lines <= most);
            }
        }
    }
}
