//! All is up, and nobody else uses the quota.

use std::time::Duration;

use proptest::prelude::*;

use super::{Fleet, SECOND, Scenario, interactive};

impl Fleet {
    pub(super) fn exchanges(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.exchanges).sum()
    }

    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.replicas.len()).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// In plenty nobody waits or is refused, and there are few exchanges.
    #[test]
    fn plenty_costs_few_exchanges(seed in 0..u64::MAX, replicas in 1..11_u64, rate in 2.0..4.0_f64) {
        let all = rate * replicas as f64;
        let mut fleet = Fleet::new(Scenario {
            limit: (all * 60.0 * 2.0) as u64 + 54 * replicas * 2,
            window: SECOND * 60,
            ..Scenario::new(seed, replicas)
        });
        for index in 0..replicas as usize {
            fleet.demand(&interactive("a"), &[index], (rate, SECOND * 181), SECOND * 30);
        }
        fleet.run(SECOND * 200);
        prop_assert_eq!(fleet.upstream.refused, 0);
        prop_assert_eq!(fleet.given_up, 0);
        prop_assert!(fleet.longest_wait < Duration::from_millis(400), "{:?}", fleet.longest_wait);
        let per_request = fleet.exchanges() as f64 / fleet.sent as f64;
        prop_assert!(per_request < 0.05, "{per_request}");
    }

    /// In scarcity all units are used, nobody is refused, and callers get equal shares, wherever they come from.
    #[test]
    fn scarcity_is_shared_out(seed in 0..u64::MAX, replicas in 1..11_u64) {
        let mut fleet = Fleet::new(Scenario::new(seed, replicas));
        let all = fleet.all();
        let until = SECOND * 101;
        fleet.demand(&interactive("one"), &[0], (20.0, until), SECOND * 5);
        fleet.demand(&interactive("nine"), &all, (20.0, until), SECOND * 5);
        fleet.run(SECOND * 100);
        prop_assert_eq!(fleet.upstream.refused, 0);
        let unused = fleet.upstream.unused_after(1);
        prop_assert!(unused.iter().all(|units| *units <= 2), "{unused:?}");
        let (one, nine) = (fleet.served["one"], fleet.served["nine"]);
        prop_assert!(one.abs_diff(nine) <= (one + nine) / 50, "{one} {nine}");
    }
}
