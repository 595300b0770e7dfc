//! Replicas on which one caller calls more than its limit lets through.

use super::*;

/// The least time between two exchanges of one replica.
const RHYTHM: u64 = 50;

/// How one caller calls one replica.
#[derive(Clone, Debug)]
struct Flood {
    /// Between two requests.
    gap: u64,
    first: u64,
    /// How long a message to the register takes, and one from it.
    delay: (u64, u64),
}

/// What each replica let through after so many milliseconds, until the end.
fn passed(fleet: &mut Fleet, floods: &[Flood], (after, end): (u64, u64)) -> Vec<u64> {
    let start = fleet.now;
    let mut next: Vec<u64> = floods.iter().map(|flood| start + flood.first).collect();
    let mut exchanged = vec![0; floods.len()];
    let mut passed = vec![0; floods.len()];
    while fleet.now < start + end {
        for (replica, flood) in floods.iter().enumerate() {
            let mut looks = fleet.replicas[replica].purse.waiting();
            (0..looks).for_each(|_| fleet.replicas[replica].purse.leave());
            while next[replica] <= fleet.now {
                next[replica] += flood.gap;
                looks += 1;
            }
            for _ in 0..looks {
                match fleet.request(replica) {
                    Take::Ask => fleet.replicas[replica].purse.wait(),
                    Take::Token => passed[replica] += u64::from(fleet.now >= start + after),
                    _ => {}
                }
            }
            let due = fleet.replicas[replica].purse.due(fleet.local());
            let is_due = due.is_some_and(|due| due <= fleet.local());
            let on_the_way = fleet.on_the_way.iter().any(|(_, message)| match message {
                Message::Statement(of, ..) | Message::Answer(of, _) => *of == replica,
            });
            if is_due && !on_the_way && fleet.now >= exchanged[replica] {
                exchanged[replica] = fleet.now + RHYTHM;
                let (there, back) = flood.delay;
                let fate = Fate {
                    there: Some(there),
                    again: None,
                    back: Some(back),
                };
                fleet.exchange(replica, &fate);
            }
        }
        fleet.advance(1);
    }
    passed
}

#[test]
fn three_replicas_that_are_called_alike_are_served_alike() {
    for (gap, burst) in [(50, 5), (250, 5), (50, 1), (3, 5)] {
        let mut fleet = Fleet::new(rule(ms(200), burst), 3);
        let flood = |replica: u64| Flood {
            gap,
            first: replica * 7,
            delay: (1 + replica, 1),
        };
        let floods: Vec<_> = (0..3u64).map(flood).collect();
        let passed = passed(&mut fleet, &floods, (0, 20_000));
        let all = 100 + 5 + u64::from(burst);
        assert!(
            passed.iter().all(|count| count.abs_diff(all / 3) <= 4),
            "{passed:?}"
        );
        // Hardly more than a token takes.
        assert!(fleet.exchanges < 400, "{}", fleet.exchanges);
    }
}

/// Most do not come back in time: each has a request a second, and all together twenty times what the limit lets through.
#[test]
fn claims_of_many_that_seldom_come_do_not_hold_up_the_rate() {
    for interval in [200, 1000] {
        let replicas = 20_000 / interval;
        let mut fleet = Fleet::new(rule(ms(interval), 5), replicas as usize);
        let flood = |replica: u64| Flood {
            gap: 1000,
            first: replica * 1000 / replicas,
            delay: (1, 1),
        };
        let floods: Vec<_> = (0..replicas).map(flood).collect();
        let passed = passed(&mut fleet, &floods, (10_000, 40_000));
        let (sum, all) = (passed.iter().sum::<u64>(), 30_000 / interval);
        assert!(sum.abs_diff(all) <= 2, "{sum} of {all}");
    }
}

/// One purchase of requests that wait, at a millisecond, of a bucket with three tokens of a second each. Returns how many are sold, and the wait.
fn buy(pool: &mut Limits, replica: u64, needed: u32, at: u64) -> (u32, Duration) {
    let want = Want {
        caller: CALLER,
        rule: rule(ms(1000), 2),
        purchase: at + 1,
        needed,
        ahead: 0,
        long: 0,
        charge: 0,
        held: Vec::new(),
        settled: Vec::new(),
    };
    let sale = pool.sync(ReplicaId(replica), &[want], EPOCH + ms(at));
    let sold = sale[0].open.iter().find(|sold| sold.purchase == at + 1);
    (sold.map_or(0, |sold| sold.needed), sale[0].wait)
}

#[test]
fn a_token_goes_to_the_one_that_was_refused_first() {
    let mut pool = Limits::default();
    assert_eq!(buy(&mut pool, 1, 3, 0).0, 3);
    assert_eq!(buy(&mut pool, 2, 1, 0), (0, ms(1000)));
    // Their turn is later, but the other may not come back.
    assert_eq!(buy(&mut pool, 3, 1, 1), (0, ms(1399)));
    assert_eq!(buy(&mut pool, 1, 1, 2), (0, ms(1398)));
    assert_eq!(buy(&mut pool, 3, 1, 1000), (0, ms(400)));
    assert_eq!(buy(&mut pool, 4, 1, 1001), (0, ms(399)));
    assert_eq!(buy(&mut pool, 2, 1, 1002).0, 1);
    assert_eq!(buy(&mut pool, 3, 1, 1400), (0, ms(600)));
    assert_eq!(buy(&mut pool, 1, 1, 1401), (0, ms(999)));
    assert_eq!(buy(&mut pool, 1, 1, 2000), (0, ms(400)));
    assert_eq!(buy(&mut pool, 3, 1, 2001).0, 1);
    assert_eq!(buy(&mut pool, 1, 1, 2400), (0, ms(600)));
    assert_eq!(buy(&mut pool, 2, 1, 3000), (0, ms(400)));
    assert_eq!(buy(&mut pool, 1, 1, 3001).0, 1);
}

#[test]
fn one_that_does_not_come_back_holds_up_a_token_for_a_moment() {
    let mut pool = Limits::default();
    buy(&mut pool, 1, 3, 0);
    assert_eq!(buy(&mut pool, 2, 1, 0), (0, ms(1000)));
    assert_eq!(buy(&mut pool, 3, 1, 1000), (0, ms(400)));
    let before = pool.clone();
    assert_eq!(buy(&mut pool, 3, 1, 1000), (0, ms(400)));
    assert_eq!(pool, before, "the same statement once more");
    assert_eq!(buy(&mut pool, 3, 1, 1399), (0, ms(1)));
    assert_eq!(buy(&mut pool, 3, 1, 1400).0, 1);
    // Nor does it keep its claim.
    assert_eq!(buy(&mut pool, 2, 1, 1401).0, 0);
    assert_eq!(buy(&mut pool, 3, 2, 3100).0, 2);
}

#[test]
fn a_clock_that_is_set_back_leaves_no_claim() {
    let mut pool = Limits::default();
    buy(&mut pool, 1, 3, 3_600_000);
    buy(&mut pool, 2, 1, 3_600_000);
    assert_eq!(buy(&mut pool, 3, 1, 0), (0, ms(1000)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn each_of_several_floods_gets_its_share(
        interval in prop_oneof![5u64..100, 100u64..1000],
        burst in prop_oneof![1u32..10, 10u32..60],
        gap in 2u64..250,
        places in prop::collection::vec((0u64..250, (0u64..60, 0u64..60)), 2..=6),
    ) {
        let replicas = places.len() as u64;
        // Each twice what is its share.
        let gap = gap.min(interval * replicas / 2).max(1);
        let mut fleet = Fleet::new(rule(ms(interval), burst), places.len());
        let floods: Vec<_> = places
            .iter()
            .map(|(first, delay)| Flood { gap, first: *first, delay: *delay })
            .collect();
        // Until the burst is spent.
        let begin = 5000 + u64::from(burst) * interval;
        let passed = passed(&mut fleet, &floods, (begin, begin + 20_000));
        let all = 20_000 / interval;
        for count in &passed {
            let times = count * replicas;
            prop_assert!(2 * (times + replicas) >= all && times <= 2 * (all + replicas), "{passed:?} of {all}");
        }
        let sum: u64 = passed.iter().sum();
        prop_assert!(sum + all / 20 + replicas >= all, "{sum} of {all}");
        fleet.check_bound()?;
    }

    /// The others were called alike, and then no more.
    #[test]
    fn one_flood_gets_the_whole_rate_while_others_are_quiet(
        interval in prop_oneof![5u64..100, 100u64..1000],
        burst in 1u32..30,
        others in 1usize..6,
        busy in 0u64..10_000,
        delay in (0u64..60, 0u64..60),
    ) {
        let mut fleet = Fleet::new(rule(ms(interval), burst), others + 1);
        let gap = (interval / 2).clamp(2, 100);
        let flood = |first| Flood { gap, first, delay };
        let floods: Vec<_> = (0..=others as u64).map(flood).collect();
        passed(&mut fleet, &floods, (0, busy));
        let quiet = |first| Flood { gap, first: first + 1_000_000, delay };
        let floods: Vec<_> = (0..=others as u64).map(|place| if place == 0 { flood(0) } else { quiet(place) }).collect();
        // Until what they have bought is back.
        let passed = passed(&mut fleet, &floods, (8000, 28_000));
        let all = 20_000 / interval;
        prop_assert!(passed[0] + all / 50 + 2 >= all, "{passed:?} of {all}");
        fleet.check_bound()?;
    }
}
