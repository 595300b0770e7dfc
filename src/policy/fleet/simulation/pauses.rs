//! Pauses hold for all, and for as long as DevRev said.

use std::time::Duration;

use proptest::prelude::*;

use super::{Fleet, SECOND, Scenario, cases, interactive};

/// What may be on its way to DevRev when a pause begins: 20 requests a second, for a tenth of one and the hint's way; and probes.
const ON_THE_WAY: u64 = 10;

fn fleet(seed: u64, replicas: u64, until: Duration) -> Fleet {
    let mut fleet = Fleet::new(Scenario {
        limit: 300,
        ..Scenario::new(seed, replicas)
    });
    let all = fleet.all();
    fleet.demand(&interactive("a"), &all, (12.0, until), SECOND * 30);
    fleet
}

proptest! {
    #![proptest_config(cases())]

    /// Nobody sends in it, one attempt probes after it, and then all go on. Although the register forgets it, or its clock is set.
    #[test]
    fn a_pause_holds_for_all(
        seed in 0..u64::MAX, replicas in 1..8_u64, millis in 4000..12_000_u64, lasts in 1000..8000_u64, fault in 0..4_u32,
    ) {
        let mut fleet = fleet(seed, replicas, SECOND * 40);
        let at = Duration::from_millis(millis);
        let until = at + Duration::from_millis(lasts);
        fleet.at(at, move |fleet| fleet.upstream.pause = Some(until));
        fleet.at(at + Duration::from_millis(lasts / 2).max(SECOND / 2), move |fleet| {
            let register = &mut fleet.registers[0];
            match fault {
                0 => register.flush(),
                1 => register.ahead = SECOND * 3600,
                2 => register.behind = SECOND * 3600,
                _ => {}
            }
        });
        // Until the next statement corrects it, the pool's clock is wrong: what DevRev refuses shows whether the pause holds.
        fleet.checks.pauses_may_end = fault < 3;
        if fault == 0 {
            fleet.checks.pool_may_err = true;
        }
        fleet.run(until);
        prop_assert!(fleet.upstream.refused <= ON_THE_WAY, "{}", fleet.upstream.refused);
        let served = fleet.served["a"];
        fleet.run(until + SECOND * 8);
        // The end of a pause is said in whole seconds.
        prop_assert!(fleet.served["a"] > served + 40, "{} {served}", fleet.served["a"]);
    }

    /// `resume` on one replica ends it for all.
    #[test]
    fn resume_ends_it_for_all(seed in 0..u64::MAX, replicas in 1..8_u64, on in 0..8_u64) {
        let mut fleet = fleet(seed, replicas, SECOND * 40);
        fleet.checks.pauses_may_end = true;
        fleet.at(SECOND * 5, |fleet| fleet.upstream.pause = Some(SECOND * 60));
        fleet.at(SECOND * 7, |fleet| fleet.upstream.pause = None);
        let on = (on % replicas) as usize;
        fleet.at(SECOND * 9, move |fleet| fleet.resume(on));
        fleet.run(SECOND * 9);
        let served = fleet.served["a"];
        fleet.run(SECOND * 13);
        prop_assert!(fleet.served["a"] > served + 40, "{} {served}", fleet.served["a"]);
        for index in 0..fleet.replicas.len() {
            prop_assert!(!fleet.is_paused(index), "{index}");
        }
    }
}
