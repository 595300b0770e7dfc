//! Faults, and others who use the quota: what each costs at most.

use std::time::Duration;

use proptest::prelude::*;

use super::{Fleet, SECOND, Scenario, cases, interactive};

/// A fleet with more demand than units, from two callers, on all replicas.
fn busy(scenario: Scenario, until: Duration) -> Fleet {
    let mut fleet = Fleet::new(scenario);
    let all = fleet.all();
    for caller in ["a", "b"] {
        fleet.demand(&interactive(caller), &all, (8.0, until), SECOND * 4);
    }
    fleet
}

/// With less demand than units, so that there are leases.
fn calm(scenario: Scenario, until: Duration) -> Fleet {
    let mut fleet = Fleet::new(Scenario {
        limit: 300,
        ..scenario
    });
    let all = fleet.all();
    fleet.demand(&interactive("a"), &all, (12.0, until), SECOND * 4);
    fleet
}

fn fleet_of(is_busy: bool, scenario: Scenario, until: Duration) -> Fleet {
    if is_busy {
        busy(scenario, until)
    } else {
        calm(scenario, until)
    }
}

proptest! {
    #![proptest_config(cases())]

    /// Messages that come late or twice, and answers of DevRev's that do not come, let nobody spend what is not there.
    #[test]
    fn late_and_repeated_messages_do_no_harm(
        seed in 0..u64::MAX, replicas in 1..6_u64, is_busy: bool,
        late in 0.0..0.02_f64, twice in 0.0..0.3_f64, silence in 0.0..0.1_f64,
    ) {
        let scenario = Scenario { late, twice, silence, ..Scenario::new(seed, replicas) };
        let mut fleet = fleet_of(is_busy, scenario, SECOND * 40);
        fleet.checks.pool_may_err = late > 0.0;
        fleet.run(SECOND * 45);
        if fleet.sent_alone == 0 {
            prop_assert_eq!(fleet.upstream.refused, 0);
        }
        prop_assert!(fleet.upstream.refused <= fleet.sent_alone, "{} {}", fleet.upstream.refused, fleet.sent_alone);
        fleet.end();
    }

    /// Lost messages too.
    #[test]
    fn lost_messages_do_no_harm(seed in 0..u64::MAX, replicas in 1..6_u64, is_busy: bool, loss in 0.0..0.1_f64) {
        let scenario = Scenario { loss, ..Scenario::new(seed, replicas) };
        let mut fleet = fleet_of(is_busy, scenario, SECOND * 40);
        fleet.checks.pool_may_err = true;
        fleet.run(SECOND * 45);
        prop_assert!(fleet.upstream.refused <= fleet.sent_alone, "{} {}", fleet.upstream.refused, fleet.sent_alone);
        fleet.end();
    }

    /// A replica dies: nobody spends more than there is, and what it held is found again. Those that are left want all of it.
    #[test]
    fn a_death_costs_what_it_held(seed in 0..u64::MAX, replicas in 3..6_u64, is_busy: bool, at in 5..25_u64) {
        let mut fleet = fleet_of(is_busy, Scenario::new(seed, replicas), SECOND * 80);
        fleet.at(SECOND * u32::try_from(at).unwrap(), |fleet| fleet.replicas[0].dead = true);
        fleet.run(SECOND * 85);
        prop_assert_eq!(fleet.upstream.refused, 0);
        // Not in the window in which it died, and the next, which may begin while it has requests on the wire.
        let unused = fleet.upstream.unused_after(at as usize / 10 + 2);
        if is_busy {
            prop_assert!(unused.iter().all(|units| *units <= 2), "{:?}", fleet.upstream.over);
        }
        fleet.end();
    }

    /// A replica that sleeps, for a moment or for longer than its lease lasts, uses nothing stale when it wakes.
    #[test]
    fn a_sleeper_uses_nothing_stale(seed in 0..u64::MAX, replicas in 2..6_u64, is_busy: bool, at in 5..25_u64, millis in 1..45_000_u64) {
        let mut fleet = fleet_of(is_busy, Scenario::new(seed, replicas), SECOND * 70);
        let at = SECOND * u32::try_from(at).unwrap();
        fleet.at(at, |fleet| fleet.replicas[0].frozen = true);
        fleet.at(at + Duration::from_millis(millis), |fleet| fleet.thaw(0));
        fleet.run(SECOND * 90);
        prop_assert_eq!(fleet.upstream.refused, 0);
        fleet.end();
    }

    /// The register stops for all, or one replica is cut off.
    #[test]
    fn alone_few_are_refused(seed in 0..u64::MAX, replicas in 1..6_u64, is_busy: bool, at in 5..15_u64, all: bool) {
        let mut fleet = fleet_of(is_busy, Scenario::new(seed, replicas), SECOND * 70);
        fleet.checks.pool_may_err = true;
        fleet.at(SECOND * u32::try_from(at).unwrap(), move |fleet| {
            fleet.registers[0].stopped = all;
            fleet.replicas[0].cut = !all;
        });
        fleet.at(SECOND * u32::try_from(at + 25).unwrap(), |fleet| {
            fleet.registers[0].stopped = false;
            fleet.replicas[0].cut = false;
        });
        fleet.run(SECOND * 80);
        prop_assert!(fleet.upstream.most_overspent() <= replicas, "{:?}", fleet.upstream.over);
        let idle = fleet.upstream.over.iter().skip(5).filter(|over| over.unused > 5).count();
        prop_assert!(!is_busy || idle <= 2, "{:?}", fleet.upstream.over);
        fleet.end();
    }

    /// The register forgets all, or its last writes.
    #[test]
    fn what_the_register_forgets_is_stated_again(seed in 0..u64::MAX, replicas in 1..6_u64, is_busy: bool, millis in 5000..25_000_u64, all: bool) {
        let mut fleet = fleet_of(is_busy, Scenario::new(seed, replicas), SECOND * 40);
        fleet.checks.pool_may_err = true;
        fleet.at(Duration::from_millis(millis), move |fleet| if all { fleet.registers[0].flush(); } else { fleet.registers[0].roll_back(); });
        fleet.run(SECOND * 45);
        prop_assert!(fleet.upstream.refused <= replicas, "{:?}", fleet.upstream.over);
        let unused = fleet.upstream.unused_after(1);
        prop_assert!(!is_busy || unused[..2].iter().all(|units| *units <= 10), "{:?}", fleet.upstream.over);
        fleet.end();
    }

    /// The register's clock is set by an hour.
    #[test]
    fn a_clock_that_is_set_changes_nothing(seed in 0..u64::MAX, replicas in 1..6_u64, is_busy: bool, millis in 5000..25_000_u64, ahead: bool) {
        let mut fleet = fleet_of(is_busy, Scenario::new(seed, replicas), SECOND * 40);
        fleet.at(Duration::from_millis(millis), move |fleet| {
            let register = &mut fleet.registers[0];
            *(if ahead { &mut register.ahead } else { &mut register.behind }) = SECOND * 3600;
        });
        fleet.run(SECOND * 45);
        prop_assert_eq!(fleet.upstream.refused, 0);
        let unused = fleet.upstream.unused_after(1);
        prop_assert!(!is_busy || unused[..2].iter().all(|units| *units <= 2), "{:?}", fleet.upstream.over);
        fleet.end();
    }

    /// Two registers, with a part of the replicas each, and then one again.
    #[test]
    fn a_split_costs_little(seed in 0..u64::MAX, replicas in 2..6_u64, is_busy: bool, millis in 5000..25_000_u64, lasts in 100..15_000_u64) {
        let mut fleet = fleet_of(is_busy, Scenario::new(seed, replicas), SECOND * 40);
        fleet.checks.pool_may_err = true;
        let at = Duration::from_millis(millis);
        fleet.at(at, |fleet| {
            fleet.registers[1] = fleet.registers[0].clone();
            for replica in fleet.replicas.iter_mut().step_by(2) {
                replica.register = 1;
            }
        });
        fleet.at(at + Duration::from_millis(lasts), |fleet| {
            for replica in &mut fleet.replicas {
                (replica.register, replica.joined) = (0, fleet.now);
            }
        });
        fleet.run(SECOND * 45);
        prop_assert!(fleet.upstream.most_overspent() <= replicas, "{:?}", fleet.upstream.over);
        fleet.end();
    }

    /// Somebody outside uses the quota, now and then and in bursts.
    #[test]
    fn others_may_use_the_quota(seed in 0..u64::MAX, replicas in 1..6_u64, is_busy: bool, units in 1..30_u64, every in 200..5000_u64) {
        let mut fleet = fleet_of(is_busy, Scenario::new(seed, replicas), SECOND * 40);
        fleet.checks.pool_may_err = true;
        let every = Duration::from_millis(every);
        let mut at = SECOND;
        while at < SECOND * 60 {
            fleet.at(at, move |fleet| fleet.upstream.take(units, fleet.on_wire, fleet.now));
            at += every;
        }
        fleet.run(SECOND * 45);
        // And those that are sent until the first answer tells.
        prop_assert!(fleet.upstream.most_overspent() <= replicas + 3, "{:?}", fleet.upstream.over);
        fleet.end();
    }
}
