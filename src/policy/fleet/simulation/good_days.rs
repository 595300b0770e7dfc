//! All is up, and nobody else uses the quota.

use std::time::Duration;

use proptest::prelude::*;

use super::{Fleet, SECOND, Scenario, cases, interactive};

impl Fleet {
    pub(super) fn exchanges(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.exchanges).sum()
    }

    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.replicas.len()).collect()
    }
}

proptest! {
    #![proptest_config(cases())]

    /// In plenty nobody waits or is refused, and there are few exchanges.
    #[test]
    fn plenty_costs_few_exchanges(seed in 0..u64::MAX, replicas in 1..11_u64, rate in 2.0..4.0_f64) {
        // At the window's end 54 units are free for each, beside leases of twenty seconds.
        let each = rate * 80.0 + 54.0;
        let mut fleet = Fleet::new(Scenario {
            limit: (2.0 * each * replicas as f64) as u64,
            window: SECOND * 60,
            ..Scenario::new(seed, replicas)
        });
        for index in 0..replicas as usize {
            fleet.demand(&interactive("a"), &[index], (rate, SECOND * 181), SECOND * 30);
        }
        // Until the rates are known there are a few more.
        fleet.run(SECOND * 30);
        let before = (fleet.exchanges(), fleet.sent);
        fleet.run(SECOND * 180);
        prop_assert_eq!(fleet.upstream.refused, 0);
        prop_assert_eq!(fleet.given_up, 0);
        let longest = fleet.longest_waits["a"];
        prop_assert!(longest < Duration::from_millis(400), "{longest:?}");
        let per_request = (fleet.exchanges() - before.0) as f64 / (fleet.sent - before.1) as f64;
        prop_assert!(per_request < 0.05, "{per_request}");
        fleet.end();
    }

    /// In scarcity all units are used, nobody is refused, and callers get equal shares, wherever they come from.
    #[test]
    fn scarcity_is_shared_out(seed in 0..u64::MAX, replicas in 1..8_u64) {
        let mut fleet = Fleet::new(Scenario::new(seed, replicas));
        let all = fleet.all();
        let until = SECOND * 41;
        fleet.demand(&interactive("one"), &[0], (12.0, until), SECOND * 4);
        fleet.demand(&interactive("nine"), &all, (12.0, until), SECOND * 4);
        fleet.run(SECOND * 40);
        prop_assert_eq!(fleet.upstream.refused, 0);
        let unused = fleet.upstream.unused_after(1);
        prop_assert!(unused.iter().all(|units| *units <= 2), "{unused:?}");
        let (one, nine) = (fleet.served["one"], fleet.served["nine"]);
        prop_assert!(one.abs_diff(nine) <= (one + nine) / 50, "{one} {nine}");
        fleet.end();
    }
}

/// Three hundred replicas, on all of which somebody waits.
#[test]
fn a_large_fleet_shares_as_well() {
    let mut fleet = Fleet::new(Scenario {
        limit: 1000,
        ..Scenario::new(7, 300)
    });
    let all = fleet.all();
    let until = SECOND * 41;
    fleet.demand(&interactive("one"), &[0], (70.0, until), SECOND * 8);
    fleet.demand(&interactive("nine"), &all, (70.0, until), SECOND * 8);
    fleet.run(SECOND * 40);
    assert_eq!(fleet.upstream.refused, 0);
    let unused = fleet.upstream.unused_after(1);
    // What is due in the interval of so many, which is a second.
    assert!(unused.iter().all(|units| *units <= 100), "{unused:?}");
    let (one, nine) = (fleet.served["one"], fleet.served["nine"]);
    assert!(one.abs_diff(nine) <= (one + nine) / 20, "{one} {nine}");
    fleet.end();
}
