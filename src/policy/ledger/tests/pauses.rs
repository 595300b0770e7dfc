//! Pauses of one operation or of the group, and the probes after them.

use super::*;

const LIST: &str = "works.list";
const GET: &str = "works.get";

impl Ledger {
    /// One attempt of this operation that is sent and settled at `now`.
    fn attempt_of(&mut self, operation: &str, settlement: Settlement, now: Duration) {
        let grant = self.grant_of(whole(operation), now).unwrap();
        self.settle(grant, settlement, now);
    }

    /// Why a call of this operation must wait, and until when.
    fn held(&mut self, operation: &str, now: Duration) -> Option<(HoldReason, Option<Duration>)> {
        let hold = self.gate(now).hold(&whole(operation))?;
        Some((hold.reason, hold.until))
    }

    fn settle_and_say(&mut self, grant: Grant, settlement: Settlement) -> Option<Paused> {
        self.learnt
            .settle(grant, settlement, &self.rules, Duration::ZERO)
    }
}

fn paused(until: u32) -> Option<(HoldReason, Option<Duration>)> {
    Some((HoldReason::Paused, Some(SECOND * until)))
}

#[test]
fn a_503_with_a_time_pauses_its_operation_and_no_other() {
    for operation in [LIST, "invented"] {
        let mut ledger = Ledger::new(RULES);
        ledger.attempt_of(operation, unavailable(9), Duration::ZERO);
        assert_eq!(ledger.held(operation, SECOND), paused(9));
        assert_eq!(
            ledger.grant_of(streamed(operation), SECOND).unwrap_err(),
            ledger.grant_of(whole(operation), SECOND).unwrap_err(),
        );
        for other in [GET, "also.invented"] {
            assert_eq!(ledger.held(other, SECOND), None);
        }
        let view = ledger.view(SECOND);
        assert_eq!((view.throttled, view.paused_for), (0, None));
        assert_eq!(view.paused_operation, Some((id(operation), SECOND * 8)));
        assert_eq!(ledger.view(SECOND * 9).paused_operation, None);
        assert!(!ledger.is_idle(SECOND) && ledger.is_idle(SECOND * 9));
    }
}

#[test]
fn the_longest_time_of_an_operation_wins() {
    let mut ledger = Ledger::new(RULES);
    let grants = ledger.grants(3, Duration::ZERO);
    for (grant, time) in grants.into_iter().zip([30, 10, 20]) {
        ledger.settle(grant, unavailable(time), Duration::ZERO);
    }
    assert_eq!(ledger.held(LIST, SECOND * 29), paused(30));
    let wait = |operation| {
        let (ledger, rules) = (&ledger.learnt, &ledger.rules);
        ledger.predict_wait(
            Some(id(operation)),
            (Standing::Interactive, 3),
            rules,
            SECOND,
        )
    };
    assert_eq!((wait(LIST), wait(GET)), (SECOND * 29, Duration::ZERO));
}

#[test]
fn a_second_operation_that_says_so_pauses_the_group() {
    // When the second one says so, by the time that the first named.
    for (at, group) in [(0, true), (4, true), (5, true), (14, true), (15, false)] {
        let mut ledger = Ledger::new(RULES);
        ledger.attempt_of(LIST, unavailable(5), Duration::ZERO);
        ledger.attempt_of(GET, unavailable(7), SECOND * at);
        let now = SECOND * (at + 1);
        let until = paused(at + 7).filter(|_| group);
        assert_eq!(ledger.held("accounts.get", now), until, "{at}");
        assert_eq!(ledger.held(GET, now), paused(at + 7), "{at}");
        assert_eq!(ledger.paused_until(now).is_some(), group);
    }
    // Each keeps the longer of its own time and the group's.
    let mut ledger = Ledger::new(RULES);
    ledger.attempt_of(LIST, unavailable(30), Duration::ZERO);
    ledger.attempt_of(GET, unavailable(2), Duration::ZERO);
    assert_eq!(ledger.held(GET, SECOND), paused(2));
    assert_eq!(ledger.held(GET, SECOND * 2), None);
    assert_eq!(ledger.held(LIST, SECOND * 2), paused(30));
}

/// Anybody can invent operations, so none of them is a witness, neither first nor second.
#[test]
fn an_operation_that_is_not_known_pauses_no_group() {
    for (first, second) in [
        (LIST, "invented"),
        ("invented", LIST),
        ("invented", "other"),
    ] {
        let mut ledger = Ledger::new(RULES);
        ledger.attempt_of(first, unavailable(5), Duration::ZERO);
        ledger.attempt_of(second, unavailable(7), SECOND);
        assert_eq!(ledger.held(GET, SECOND * 2), None, "{first} {second}");
    }
}

/// What DevRev works on for long was let in, so it holds nobody else.
#[test]
fn slow_attempts_hold_a_ramp_for_a_second_only() {
    let mut ledger = Ledger::new(RULES);
    ledger.attempt(refused(Some(5)), Duration::ZERO);
    let mut now = SECOND * 5;
    ledger.attempt(good(), now);
    let mut slow = Vec::new();
    for _ in 0..10 {
        let round = ledger.all_grants(now);
        assert_eq!(round.len(), 2);
        slow.extend(round);
        let hold = ledger.held(LIST, now).expect("the ramp is full");
        now += SECOND;
        assert_eq!(hold, (HoldReason::Probing, Some(now)));
    }
    // Answers still widen it, and nothing of the slow ones is left in the end.
    ledger.attempt(good(), now);
    assert_eq!(ledger.all_grants(now).len(), 3);
    ledger.settle_all(slow, good(), now);
}

#[test]
fn an_operation_that_works_again_is_not_the_first_of_two() {
    let mut ledger = Ledger::new(RULES);
    ledger.attempt_of(LIST, unavailable(1), Duration::ZERO);
    ledger.attempt_of(LIST, good(), SECOND);
    ledger.attempt_of(GET, unavailable(3), SECOND);
    assert_eq!(ledger.held("accounts.get", SECOND), None);
    assert_eq!(ledger.held(GET, SECOND), paused(4));
}

#[test]
fn a_429_with_a_time_pauses_the_group_whatever_its_operation() {
    let mut ledger = Ledger::new(RULES);
    ledger.attempt_of(LIST, refused(Some(5)), Duration::ZERO);
    assert_eq!(ledger.held(GET, SECOND), paused(5));
    assert_eq!(ledger.view(SECOND).paused_operation, None);
}

#[test]
fn a_pause_is_told_once() {
    let mut ledger = Ledger::new(RULES);
    let mut grants = ledger.grants(5, Duration::ZERO);
    let mut say = |ledger: &mut Ledger, settlement| {
        let grant = grants.pop().unwrap();
        ledger.settle_and_say(grant, settlement)
    };
    let told = say(&mut ledger, unavailable(5));
    assert_eq!(told, Some(Paused::Operation));
    assert_eq!(say(&mut ledger, unavailable(9)), None);
    assert_eq!(say(&mut ledger, refused(Some(5))), Some(Paused::Group));
    assert_eq!(say(&mut ledger, refused(Some(9))), None);
    assert_eq!(say(&mut ledger, good()), None);
}

#[test]
fn after_an_operations_pause_one_of_it_probes_and_the_rest_follow_in_a_ramp() {
    let mut ledger = Ledger::new(RULES);
    ledger.attempt_of(LIST, unavailable(5), Duration::ZERO);
    let now = SECOND * 5;
    let probe = ledger.grant(now).unwrap();
    assert_eq!(
        ledger.held(LIST, now),
        Some((HoldReason::Probing, Some(now + PROBE_TIMEOUT)))
    );
    let _others: Vec<_> = (0..100)
        .map(|_| ledger.grant_of(whole(GET), now).unwrap())
        .collect();
    ledger.settle(probe, good(), now);
    let mut sizes = Vec::new();
    for _ in 0..7 {
        let round = ledger.all_grants(now);
        sizes.push(round.len());
        ledger.settle_all(round, good(), now);
    }
    assert_eq!(sizes, [2, 4, 8, 16, 32, 1000, 1000]);
}

#[test]
fn an_operator_ends_the_pause_of_an_operation_too() {
    let mut ledger = Ledger::new(RULES);
    ledger.attempt_of(LIST, unavailable(600), Duration::ZERO);
    ledger.resume();
    assert!(ledger.grant(SECOND).is_ok());
}

#[test]
fn an_upload_that_never_ends_holds_neither_the_probe_nor_the_ramp() {
    let mut ledger = Ledger::new(RULES);
    ledger.attempt(refused(Some(5)), Duration::ZERO);
    let now = SECOND * 5;
    let _upload = ledger.grant_of(streamed(LIST), now).unwrap();
    // Another upload waits, a whole attempt probes beside it and is the only one.
    let held = ledger.grant_of(streamed(GET), now).unwrap_err();
    assert_eq!(held.until, Some(now + PROBE_TIMEOUT));
    let probe = ledger.grant(now).unwrap();
    assert_eq!(ledger.grant(now).unwrap_err().reason, HoldReason::Probing);
    ledger.settle(probe, good(), now);
    // Uploads take their part of the ramp and no more.
    let uploads = std::iter::from_fn(|| ledger.grant_of(streamed(LIST), now).ok());
    let uploads: Vec<_> = uploads.take(100).collect();
    assert_eq!(uploads.len(), 2);
    let mut sizes = Vec::new();
    for _ in 0..7 {
        let round = ledger.all_grants(now);
        sizes.push(round.len());
        ledger.settle_all(round, good(), now);
    }
    assert_eq!(sizes, [2, 4, 8, 16, 32, 1000, 1000]);
}

#[test]
fn uploads_that_never_end_do_not_stop_the_group_between_windows() {
    let mut ledger = learnt(UNSPREAD, 20, 60);
    let uploads: Vec<_> = (0..19)
        .map(|_| ledger.grant_of(streamed(LIST), SECOND).unwrap())
        .collect();
    let _one_more = ledger.grant_of(streamed(LIST), SECOND * 60).unwrap();
    let now = SECOND * 70;
    assert!(ledger.grant_of(streamed(LIST), now).is_err());
    // One whole attempt at a time finds out.
    let probe = ledger.grant(now).unwrap();
    assert!(ledger.grant(now).is_err());
    ledger.settle(probe, reported(20, 19, 1130, 60), now);
    drop(uploads);
}

#[derive(Clone, Debug)]
enum Step {
    Grant(usize),
    Settle(usize, Option<u64>),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..4).prop_map(Step::Grant),
        4 => (any::<usize>(), prop::option::of(1u64..20)).prop_map(|(n, time)| Step::Settle(n, time)),
        2 => (0u64..8000).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn one_operation_that_answers_503_holds_no_other(
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let mut ledger = Ledger::new(RULES);
        let (mut now, mut out) = (Duration::ZERO, Vec::new());
        for step in steps {
            match step {
                Step::Grant(n) => {
                    let kind = [whole(LIST), streamed(LIST), whole(GET), streamed(GET)][n];
                    let grant = ledger.grant_of(kind, now);
                    prop_assert!(grant.is_ok() || kind.operation == id(LIST));
                    out.extend(grant);
                }
                Step::Settle(n, time) if !out.is_empty() => {
                    let grant = out.swap_remove(n % out.len());
                    // The one answers 503, the other always answers well.
                    let refused = time.filter(|_| grant.kind.operation == id(LIST));
                    ledger.settle(grant, refused.map_or(good(), unavailable), now);
                }
                Step::Settle(..) => {}
                Step::Wait(time) => now += Duration::from_millis(time),
            }
        }
    }

    #[test]
    fn uploads_that_never_end_change_nothing_for_whole_attempts(
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let (mut ledger, mut without) = (Ledger::new(RULES), Ledger::new(RULES));
        let (mut now, mut out, mut uploads) = (Duration::ZERO, Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Grant(n @ (1 | 3)) => {
                    uploads.extend(ledger.grant_of([streamed(LIST), streamed(GET)][n / 2], now));
                }
                Step::Grant(n) => {
                    let kind = [whole(LIST), whole(GET)][n / 2];
                    match (ledger.grant_of(kind, now), without.grant_of(kind, now)) {
                        (Ok(one), Ok(other)) => out.push((one, other)),
                        (one, other) => prop_assert_eq!(one.err(), other.err()),
                    }
                }
                Step::Settle(n, time) if !out.is_empty() => {
                    let (one, other) = out.swap_remove(n % out.len());
                    // Every second pause is one of the group.
                    let settlement = time.map_or(good(), |time| answered([Admitted::No, Admitted::Unknown][n % 2], Some(time)));
                    ledger.settle(one, settlement, now);
                    without.settle(other, settlement, now);
                }
                Step::Settle(..) => {}
                Step::Wait(time) => now += Duration::from_millis(time),
            }
        }
    }
}
