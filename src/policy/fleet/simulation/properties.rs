//! What is true of any fleet.

use std::time::Duration;

use super::{Fleet, Scenario, share};
use crate::policy::fair::Priority;

const SECOND: Duration = Duration::from_secs(1);

fn scenario(seed: u64, replicas: u64) -> Scenario {
    Scenario {
        seed,
        replicas,
        limit: 1000,
        window: SECOND * 60,
        delay: Duration::from_millis(1),
        latency: Duration::from_millis(100),
        loss: 0.0,
    }
}

impl Fleet {
    /// Requests of this caller at random times, so many a second on each of these replicas, until then.
    fn demand(
        &mut self,
        (caller, weight, priority): (&str, u32, Priority),
        replicas: &[usize],
        rate: f64,
        until: Duration,
        wait: Duration,
    ) {
        let mut at = Duration::ZERO;
        let all = rate * replicas.len() as f64;
        let mut number = 0;
        loop {
            // Even, with a jitter of the whole distance.
            number += 1;
            let mean = Duration::from_secs_f64(f64::from(number) / all);
            if mean >= until {
                break;
            }
            let jitter = self.dice.up_to(Duration::from_secs_f64(1.0 / all));
            at = mean + jitter;
            let replica = replicas[self.dice.below(replicas.len() as u64) as usize];
            self.request(at, replica, share(caller, weight, priority), wait);
        }
        let _ = at;
    }

    fn exchanges(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.exchanges).sum()
    }
}

#[test]
fn in_plenty_nobody_waits_and_few_exchanges_are_made() {
    for replicas in [1, 3, 10] {
        let mut fleet = Fleet::new(Scenario {
            limit: 6000,
            ..scenario(7, replicas)
        });
        let all: Vec<usize> = (0..replicas as usize).collect();
        // A third of the quota.
        fleet.demand(
            ("a", 1, Priority::Interactive),
            &all,
            32.0 / replicas as f64,
            SECOND * 180,
            SECOND * 30,
        );
        fleet.run(SECOND * 240);
        let (sent, exchanges) = (fleet.sent, fleet.exchanges());
        println!(
            "{replicas} replicas: {sent} sent, {exchanges} exchanges, {} 429s, {} given up, unused {:?}",
            fleet.upstream.refused, fleet.given_up, fleet.upstream.unused
        );
        assert_eq!(fleet.upstream.refused, 0);
        assert_eq!(fleet.given_up, 0);
    }
}

#[test]
fn in_scarcity_callers_get_their_shares_and_nothing_is_left() {
    for replicas in [1, 3, 10] {
        let mut fleet = Fleet::new(scenario(9, replicas));
        let all: Vec<usize> = (0..replicas as usize).collect();
        fleet.demand(
            ("one", 1, Priority::Interactive),
            &all[..1],
            20.0,
            SECOND * 300,
            SECOND * 30,
        );
        fleet.demand(
            ("nine", 1, Priority::Interactive),
            &all,
            20.0 / replicas as f64,
            SECOND * 300,
            SECOND * 30,
        );
        fleet.run(SECOND * 300);
        println!(
            "{replicas} replicas: served {:?}, {} exchanges, {} 429s, {} given up, unused {:?}",
            fleet.served,
            fleet.exchanges(),
            fleet.upstream.refused,
            fleet.given_up,
            fleet.upstream.unused
        );
        assert_eq!(fleet.upstream.refused, 0);
    }
}
