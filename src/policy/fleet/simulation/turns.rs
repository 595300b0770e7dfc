//! Turns are the same however callers are spread over replicas.

use std::time::Duration;

use proptest::prelude::*;

use super::{Fleet, SECOND, Scenario, cases, interactive, share};
use crate::policy::fair::Priority;

proptest! {
    #![proptest_config(cases())]

    /// Between two callers that wait all the time, the bound of start-time fair queueing: a turn of each. Units on their way to a
    /// replica come on top.
    #[test]
    fn turns_are_fair_across_replicas(
        seed in 0..u64::MAX, replicas in 1..8_u64,
        callers in prop::collection::vec((1..5_u32, 1..8_usize), 2..4),
    ) {
        let mut fleet = Fleet::new(Scenario { limit: 60, ..Scenario::new(seed, replicas) });
        let names = ["a", "b", "c", "d"];
        for ((weight, on), name) in callers.iter().zip(names) {
            let on: Vec<usize> = (0..*on).map(|_| fleet.dice.below(replicas) as usize).collect();
            let share = share(name, *weight, Priority::Interactive);
            // All at once: more than it can be served.
            fleet.demand(&share, &on, (100_000.0, SECOND + Duration::from_millis(1)), SECOND * 60);
        }
        // From when the pool knows of all.
        fleet.run(SECOND * 3);
        let before = std::mem::take(&mut fleet.sent_for);
        prop_assert!(before.values().sum::<u64>() > 20, "{before:?}");
        for second in 4..20 {
            fleet.run(SECOND * second);
            let turns = callers.iter().zip(names).map(|((weight, _), name)| {
                let weight = f64::from(*weight);
                let sent = fleet.sent_for.get(name).copied().unwrap_or(0);
                (sent as f64 / weight, 1.0 / weight)
            });
            let turns: Vec<_> = turns.collect();
            for (a, of_a) in &turns {
                for (b, of_b) in &turns {
                    let on_the_way = replicas as f64 * of_a.max(*of_b);
                    prop_assert!((a - b).abs() <= of_a + of_b + on_the_way, "at {second}: {:?} {callers:?}", fleet.sent_for);
                }
            }
        }
        prop_assert_eq!(fleet.upstream.refused, 0);
    }

    /// Batch on one replica does not delay interactive requests on another for longer than the spread does.
    #[test]
    fn batch_elsewhere_delays_nobody(seed in 0..u64::MAX, replicas in 2..8_u64) {
        let mut fleet = Fleet::new(Scenario::new(seed, replicas));
        let batch = share("batch", 5, Priority::Batch);
        fleet.demand(&batch, &[0], (20.0, SECOND * 41), SECOND * 10);
        let others: Vec<usize> = (1..replicas as usize).collect();
        fleet.demand(&interactive("user"), &others, (3.0, SECOND * 41), SECOND * 10);
        fleet.run(SECOND * 51);
        prop_assert_eq!(fleet.upstream.refused, 0);
        let longest = fleet.longest_waits["user"];
        prop_assert!(longest < Duration::from_millis(1600), "{longest:?}");
        prop_assert!(fleet.served["batch"] > 200, "{:?}", fleet.served);
        fleet.end();
    }
}
