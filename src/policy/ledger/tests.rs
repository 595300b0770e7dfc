mod batch;
mod learning;
mod pauses;

use proptest::prelude::*;

use super::*;
use crate::{label::assert_labels, policy::operation::Operation};

const SECOND: Duration = Duration::from_secs(1);
const RULES: LedgerRules = LedgerRules {
    spread_above: 0.5,
    reserve: 0.0,
    max_retry_after: Duration::from_secs(600),
};

/// Nothing is spread: all units are first come, first served.
const UNSPREAD: LedgerRules = LedgerRules {
    spread_above: 1.0,
    ..RULES
};

/// A fifth is reserved.
const RESERVE: LedgerRules = LedgerRules {
    reserve: 0.2,
    ..RULES
};

/// A 200 that reports the window.
fn reported(limit: u64, remaining: u64, reset: u64, resets_in: u64) -> Settlement {
    Settlement::Answered {
        feedback: Feedback {
            limit: Some(limit),
            remaining: Some(remaining),
            reset: Some(reset),
            resets_in: Some(Duration::from_secs(resets_in)),
            retry_after: None,
        },
        admitted: Admitted::Yes,
    }
}

/// An answer that reports no window.
fn answered(admitted: Admitted, retry_after: Option<u64>) -> Settlement {
    Settlement::Answered {
        feedback: Feedback {
            retry_after: retry_after.map(Duration::from_secs),
            ..Feedback::default()
        },
        admitted,
    }
}

fn refused(retry_after: Option<u64>) -> Settlement {
    answered(Admitted::No, retry_after)
}

/// A 503 with a time.
fn unavailable(retry_after: u64) -> Settlement {
    answered(Admitted::Unknown, Some(retry_after))
}

fn good() -> Settlement {
    answered(Admitted::Yes, None)
}

fn seconds(number: f64) -> Duration {
    Duration::from_secs_f64(number)
}

fn id(operation: &str) -> OperationId {
    Operation::from_path(operation).id()
}

fn whole(operation: &str) -> AttemptKind {
    AttemptKind {
        operation: id(operation),
        payload: Payload::Whole,
        standing: Standing::Interactive,
    }
}

fn streamed(operation: &str) -> AttemptKind {
    AttemptKind {
        payload: Payload::Streamed,
        ..whole(operation)
    }
}

/// A ledger under the rules of one configuration.
struct Ledger {
    learnt: super::Ledger,
    rules: LedgerRules,
}

impl Ledger {
    /// It knows that there is no window.
    fn new(rules: LedgerRules) -> Ledger {
        let mut ledger = Ledger::unknown(rules);
        ledger.learning.told();
        ledger
    }

    /// It knows nothing.
    fn unknown(rules: LedgerRules) -> Ledger {
        Ledger {
            learnt: super::Ledger::default(),
            rules,
        }
    }

    /// A call of `works.list`.
    fn grant(&mut self, now: Duration) -> Result<Grant, Hold> {
        self.grant_of(whole("works.list"), now)
    }

    fn grant_of(&mut self, kind: AttemptKind, now: Duration) -> Result<Grant, Hold> {
        self.learnt.grant(kind, &self.rules, now)
    }

    fn settle(&mut self, grant: Grant, settlement: Settlement, now: Duration) {
        self.learnt.settle(grant, settlement, &self.rules, now);
    }

    fn grants(&mut self, count: usize, now: Duration) -> Vec<Grant> {
        (0..count).map(|_| self.grant(now).unwrap()).collect()
    }

    /// As many as are granted, up to a thousand.
    fn all_grants(&mut self, now: Duration) -> Vec<Grant> {
        let granted = std::iter::from_fn(|| self.grant(now).ok());
        granted.take(1000).collect()
    }

    /// One attempt that is sent and settled at `now`.
    fn attempt(&mut self, settlement: Settlement, now: Duration) {
        let grant = self.grant(now).unwrap();
        self.settle(grant, settlement, now);
    }

    fn settle_all(&mut self, grants: Vec<Grant>, settlement: Settlement, now: Duration) {
        for grant in grants {
            self.settle(grant, settlement, now);
        }
    }

    fn attribute(&mut self, answer: Settlement, now: Duration) {
        let Settlement::Answered { feedback, .. } = answer else {
            panic!("not an answer");
        };
        self.learnt.attribute(&feedback, &self.rules, now);
    }

    fn predict_wait(&self, ahead: u64, now: Duration) -> Duration {
        let behind = (Standing::Interactive, ahead);
        self.learnt.predict_wait(None, behind, &self.rules, now)
    }

    fn view(&self, now: Duration) -> View {
        self.learnt.view(&self.rules, now)
    }
}

impl std::ops::Deref for Ledger {
    type Target = super::Ledger;

    fn deref(&self) -> &super::Ledger {
        &self.learnt
    }
}

impl std::ops::DerefMut for Ledger {
    fn deref_mut(&mut self) -> &mut super::Ledger {
        &mut self.learnt
    }
}

/// A ledger that knows a window with this many units, one of them spent.
fn learnt(rules: LedgerRules, limit: u64, length: u64) -> Ledger {
    let mut ledger = Ledger::new(rules);
    ledger.attempt(
        reported(limit, limit - 1, 1000 + length, length),
        Duration::ZERO,
    );
    ledger
}

/// Grants and answers one attempt after another until one is held. Returns how many were sent.
fn drain(ledger: &mut Ledger, now: Duration) -> u64 {
    let mut count = 0;
    while let Ok(grant) = ledger.grant(now) {
        let view = ledger.view(now);
        let left = view.remaining.unwrap() - 1;
        let reset = view.reset.unwrap();
        let in_full = (view.resets_in.unwrap().as_secs_f64()).ceil() as u64;
        ledger.settle(
            grant,
            reported(view.limit.unwrap(), left, reset, in_full),
            now,
        );
        count += 1;
    }
    count
}

#[test]
fn states_have_the_names_of_the_admin_json() {
    assert_labels!(Status: "open" "spread" "spent" "paused" "probing" "ramping");
}

#[test]
fn nothing_is_held_where_there_is_no_window() {
    let mut ledger = Ledger::new(RULES);
    let grants = ledger.grants(10_000, Duration::ZERO);
    ledger.settle_all(grants, good(), SECOND);
    assert!(ledger.grant(SECOND).is_ok());
}

#[test]
fn remaining_only_falls_in_whatever_order_answers_arrive() {
    let mut ledger = Ledger::new(RULES);
    let grants = ledger.grants(4, Duration::ZERO);
    for (grant, remaining) in grants.into_iter().zip([97, 99, 96, 98]) {
        ledger.settle(grant, reported(100, remaining, 1300, 300), SECOND);
        assert!(ledger.view(SECOND).remaining.unwrap() <= 97);
    }
    assert_eq!(ledger.view(SECOND).remaining, Some(96));
    // An answer about the window before changes nothing.
    ledger.attempt(reported(100, 3, 1000, 1), SECOND);
    assert_eq!(ledger.view(SECOND).remaining, Some(96));
    // A later reset opens a new window.
    let grant = ledger.grant(SECOND).unwrap();
    ledger.settle(grant, reported(100, 99, 1600, 300), SECOND * 301);
    assert_eq!(ledger.view(SECOND * 301).remaining, Some(99));
}

#[test]
fn an_attributed_unit_is_not_external_and_holds_nothing() {
    // Even if no window is known yet.
    let mut ledger = Ledger::new(RULES);
    ledger.attribute(reported(100, 99, 1300, 300), Duration::ZERO);
    let view = ledger.view(Duration::ZERO);
    assert_eq!((view.remaining, view.external.0), (Some(99), 0));
    let grant = ledger.grant(SECOND).unwrap();
    ledger.attribute(reported(100, 97, 1300, 299), SECOND);
    ledger.settle(grant, reported(100, 98, 1300, 299), SECOND);
    let view = ledger.view(SECOND);
    assert_eq!(
        (view.remaining, view.external.0, view.in_flight),
        (Some(97), 0, 0)
    );
    // Another missing unit is external.
    ledger.attribute(reported(100, 95, 1300, 299), SECOND);
    assert_eq!(ledger.view(SECOND).external.0, 1);
}

#[test]
fn a_reset_that_varies_by_a_second_opens_no_window() {
    let mut ledger = learnt(RULES, 100, 300);
    for (reset, remaining) in [(1301, 98), (1300, 97), (1299, 98), (1301, 99)] {
        ledger.attempt(reported(100, remaining, reset, 299), SECOND);
        assert!(ledger.view(SECOND).remaining.unwrap() <= 98, "{reset}");
    }
    assert_eq!(ledger.view(SECOND).remaining, Some(97));
    assert_eq!(ledger.view(SECOND).external, (0, 0));
}

#[test]
fn a_reset_that_always_moves_counts_nothing_as_external() {
    let mut ledger = learnt(RULES, 100, 300);
    for n in 1..40u64 {
        let now = SECOND * u32::try_from(n).unwrap() * 10;
        ledger.attempt(reported(100, 99 - n, 1300 + 10 * n, 300), now);
    }
    assert_eq!(ledger.view(SECOND * 400).external.0, 0);
}

#[test]
fn attempts_in_flight_reserve_a_unit_each() {
    for limit in [20, 100_000] {
        let mut ledger = learnt(UNSPREAD, limit, 60);
        let mut grants = Vec::new();
        let hold = loop {
            match ledger.grant(Duration::ZERO) {
                Ok(grant) => grants.push(grant),
                Err(hold) => break hold,
            }
            assert!(grants.len() as u64 <= limit, "never held");
        };
        assert_eq!(grants.len() as u64, limit - 1);
        assert_eq!(hold.reason, HoldReason::Spent);
        assert_eq!(hold.until, Some(SECOND * 60));
        // An unsent attempt returns its unit, one in doubt does not.
        ledger.settle(grants.pop().unwrap(), Settlement::Unsent, SECOND);
        let again = ledger.grant(SECOND).unwrap();
        ledger.settle(again, Settlement::InDoubt, SECOND);
        assert!(ledger.grant(SECOND).is_err());
    }
}

#[test]
fn units_in_doubt_are_resolved_by_the_next_answer() {
    let mut ledger = learnt(UNSPREAD, 20, 300);
    let grants = ledger.grants(19, SECOND);
    ledger.settle_all(grants, Settlement::InDoubt, SECOND);
    // All units may be gone, but upstream has not reported it: one attempt finds out.
    let probe = ledger.grant(SECOND).unwrap();
    assert_eq!(ledger.grant(SECOND).unwrap_err().reason, HoldReason::Spent);
    ledger.settle(probe, reported(20, 18, 1300, 299), SECOND);
    // After that as many as remain are granted at once.
    let more = ledger.all_grants(SECOND);
    assert_eq!(more.len(), 18);
}

#[test]
fn unsent_attempts_hide_no_external_units() {
    let mut ledger = learnt(RULES, 100, 300);
    let grants = ledger.grants(10, SECOND);
    ledger.settle_all(grants, Settlement::Unsent, SECOND);
    ledger.attempt(reported(100, 88, 1300, 299), SECOND);
    assert_eq!(ledger.view(SECOND).external, (10, 10));
}

#[test]
fn half_is_first_come_and_the_rest_is_spread_to_the_reset() {
    for (limit, length) in [(1000, 300), (20, 60), (100_000, 60), (40, 5)] {
        let mut ledger = learnt(RULES, limit, length);
        let first = 1 + drain(&mut ledger, Duration::ZERO);
        assert_eq!(
            first,
            limit / 2 + 1,
            "half, and the first token of the spread"
        );
        let mut at = Vec::new();
        let mut now = Duration::ZERO;
        loop {
            let hold = ledger.grant(now).unwrap_err();
            assert!(hold.until.unwrap() > now);
            now = hold.until.unwrap();
            if hold.reason == HoldReason::Spent {
                break;
            }
            let went = drain(&mut ledger, now);
            (0..went).for_each(|_| at.push(now));
        }
        assert_eq!(first + at.len() as u64, limit, "all units are granted");
        assert!(*at.last().unwrap() < SECOND * u32::try_from(length).unwrap());
        let gaps: Vec<f64> = at.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
        let even = length as f64 / (limit as f64 / 2.0 - 1.0);
        let widest = gaps.iter().copied().fold(0.0, f64::max);
        assert!(widest <= even * 1.05 + 1e-5, "{widest} for {even}");
    }
}

#[test]
fn unused_units_of_the_spread_accrue() {
    let mut ledger = learnt(RULES, 100, 300);
    drain(&mut ledger, Duration::ZERO);
    // No attempts for half the window: a quarter of its units has accrued since.
    let late = drain(&mut ledger, SECOND * 150);
    assert!((23..=26).contains(&late), "{late}");
}

#[test]
fn the_reserve_is_not_granted() {
    let mut ledger = learnt(RESERVE, 100, 300);
    let mut went = 1 + drain(&mut ledger, Duration::ZERO);
    for second in 1..300 {
        went += drain(&mut ledger, SECOND * second);
    }
    assert_eq!(went, 80);
    assert_eq!(ledger.view(SECOND * 299).remaining, Some(20));
}

#[test]
fn external_units_are_counted_and_expected_again() {
    let mut ledger = learnt(RULES, 1000, 300);
    ledger.attempt(reported(1000, 948, 1300, 299), SECOND);
    assert_eq!(ledger.view(SECOND).external, (50, 50));
    // The first window was joined midway, so its external units do not set an expectation.
    ledger.attempt(reported(1000, 999, 1600, 300), SECOND * 300);
    assert_eq!(ledger.view(SECOND * 300).external, (50, 0));
    ledger.attempt(reported(1000, 898, 1600, 299), SECOND * 301);
    assert_eq!(ledger.view(SECOND * 301).external, (150, 100));
    // In the next window as many are expected, so fewer are granted in its first half.
    let now = SECOND * 600;
    ledger.attempt(reported(1000, 999, 1900, 300), now);
    drain(&mut ledger, now);
    let granted = drain(&mut ledger, now + SECOND * 150);
    let without_external = 500.0 * 150.0 / 299.0;
    assert!(
        (granted as f64) < without_external - 5.0,
        "{granted} of {without_external}"
    );
    // No external use after all: the withheld units are granted by the end.
    let mut more = 0;
    for second in 151..300 {
        more += drain(&mut ledger, now + SECOND * second);
    }
    assert_eq!(501 + granted + more, 1000);
}

#[test]
fn the_longest_retry_after_wins_and_a_pause_only_grows() {
    let mut ledger = Ledger::new(RULES);
    let grants = ledger.grants(3, Duration::ZERO);
    for (grant, retry_after) in grants.into_iter().zip([30, 10, 20]) {
        ledger.settle(grant, refused(Some(retry_after)), Duration::ZERO);
    }
    let hold = ledger.grant(SECOND * 29).unwrap_err();
    assert_eq!(
        (hold.reason, hold.until),
        (HoldReason::Paused, Some(SECOND * 30))
    );
    assert_eq!(ledger.predict_wait(7, SECOND), SECOND * 29);
}

#[test]
fn after_a_pause_one_probes_and_the_rest_follow_in_a_ramp() {
    let mut ledger = Ledger::new(RULES);
    ledger.attempt(refused(Some(5)), Duration::ZERO);
    let now = SECOND * 5;
    let probe = ledger.grant(now).unwrap();
    assert_eq!(ledger.grant(now).unwrap_err().reason, HoldReason::Probing);
    // Another 429 pauses again.
    ledger.settle(probe, refused(Some(7)), now);
    let now = SECOND * 12;
    assert_eq!(
        ledger.grant(SECOND * 11).unwrap_err().reason,
        HoldReason::Paused
    );
    // An inconclusive probe is followed by another.
    for settlement in [Settlement::Unsent, Settlement::InDoubt, refused(None)] {
        let probe = ledger.grant(now).unwrap();
        assert!(ledger.grant(now).is_err());
        ledger.settle(probe, settlement, now);
    }
    ledger.attempt(good(), now);
    let mut sizes = Vec::new();
    for _ in 0..7 {
        let round = ledger.all_grants(now);
        sizes.push(round.len());
        ledger.settle_all(round, good(), now);
    }
    assert_eq!(sizes, [2, 4, 8, 16, 32, 1000, 1000]);
}

#[test]
fn a_probe_that_hangs_holds_the_rest_for_a_bounded_time() {
    let mut ledger = Ledger::new(RULES);
    ledger.attempt(refused(Some(1)), Duration::ZERO);
    let slow = ledger.grant(SECOND).unwrap();
    let hold = ledger.grant(SECOND * 2).unwrap_err();
    assert_eq!(hold.until, Some(SECOND + PROBE_TIMEOUT));
    let second = ledger.grant(SECOND + PROBE_TIMEOUT).unwrap();
    ledger.settle(slow, good(), SECOND * 9);
    assert!(ledger.grant(SECOND * 9).is_ok());
    drop(second);
}

#[test]
fn a_429_without_a_time_concerns_that_attempt_alone() {
    let mut ledger = Ledger::new(RULES);
    ledger.attempt(refused(None), Duration::ZERO);
    assert!(ledger.grant(Duration::ZERO).is_ok());
}

#[test]
fn a_reset_that_attempts_waited_for_is_probed() {
    let mut ledger = learnt(RULES, 10, 60);
    let mut now = Duration::ZERO;
    while now < SECOND * 60 {
        drain(&mut ledger, now);
        now += SECOND;
    }
    assert_eq!(
        ledger.grant(SECOND * 59).unwrap_err().until,
        Some(SECOND * 60)
    );
    let probe = ledger.grant(SECOND * 60).unwrap();
    assert_eq!(
        ledger.grant(SECOND * 60).unwrap_err().reason,
        HoldReason::Probing
    );
    ledger.settle(probe, reported(10, 9, 1120, 60), SECOND * 60);
    assert!(ledger.grant(SECOND * 60).is_ok());
}

#[test]
fn a_reset_that_no_attempt_waited_for_is_not_probed() {
    let mut ledger = learnt(RULES, 100, 60);
    let _first = ledger.grants(10, SECOND * 60);
    // No more are granted than a window has units.
    assert_eq!(ledger.all_grants(SECOND * 60).len(), 90);
}

#[test]
fn an_operator_ends_a_pause_with_a_probe() {
    let mut ledger = learnt(RULES, 10, 300);
    drain(&mut ledger, SECOND);
    ledger.attempt(refused(Some(600)), SECOND * 100);
    ledger.resume();
    let probe = ledger.grant(SECOND * 100).unwrap();
    assert!(ledger.grant(SECOND * 100).is_err());
    ledger.settle(probe, reported(50, 49, 1300, 200), SECOND * 100);
    assert_eq!(ledger.view(SECOND * 100).limit, Some(50));
    assert_eq!(ledger.view(SECOND * 100).external, (0, 0));
}

#[test]
fn an_absurd_reset_holds_for_a_bounded_time_and_a_past_one_not_at_all() {
    // A reset that is 40 years away: an attempt checks again after `max_retry_after`.
    let mut ledger = learnt(RULES, 1, 1_262_304_000);
    assert_eq!(
        ledger.grant(SECOND).unwrap_err().until,
        Some(RULES.max_retry_after)
    );
    ledger.attempt(
        reported(1, 0, 1000 + 1_262_304_000, 1_262_300_000),
        RULES.max_retry_after,
    );
    assert!(ledger.grant(RULES.max_retry_after + SECOND).is_err());
    // A reset in the past, such as a duration read as an epoch, is ignored.
    let mut ledger = Ledger::new(RULES);
    ledger.attempt(reported(10, 0, 30, 0), SECOND);
    assert!(ledger.grant(SECOND).is_ok());
}

#[test]
fn the_earliest_reported_end_counts() {
    let mut ledger = learnt(RULES, 10, 60);
    let grant = ledger.grant(seconds(0.9)).unwrap();
    // `Date` has just advanced, so this end is nearly exact.
    ledger.settle(grant, reported(10, 8, 1060, 59), seconds(0.901));
    let grant = ledger.grant(seconds(1.9)).unwrap();
    ledger.settle(grant, reported(10, 7, 1060, 59), seconds(1.899));
    let left = ledger.view(seconds(1.9)).resets_in.unwrap();
    assert_eq!(left, seconds(59.901 - 1.9));
}

#[test]
fn the_wait_is_predicted() {
    let mut ledger = learnt(RULES, 100, 301);
    drain(&mut ledger, Duration::ZERO);
    // 49 units in 300 s.
    let wait = ledger.predict_wait(9, Duration::ZERO).as_secs_f64();
    assert!((wait - 10.0 * 300.0 / 49.0).abs() < 1.0, "{wait}");
    // More than this window has left: the first-come half of the next one.
    assert_eq!(ledger.predict_wait(60, Duration::ZERO), SECOND * 301);
    let far = ledger.predict_wait(49 + 75, Duration::ZERO);
    assert!(far > SECOND * 301 && far < SECOND * 602, "{far:?}");
    assert!(ledger.predict_wait(u64::MAX, Duration::ZERO) > SECOND * 602);
}

#[test]
fn a_view_predicts_when_the_quota_runs_out() {
    let mut ledger = learnt(UNSPREAD, 1000, 300);
    let mut now = Duration::ZERO;
    for n in 0..600u64 {
        now = seconds(n as f64 / 10.0);
        ledger.attempt(reported(1000, 998 - n, 1300, 300), now);
    }
    // About ten per second are spent, and some 400 are left.
    let left = ledger.view(now).runs_out_in.unwrap().as_secs_f64();
    assert!((35.0..60.0).contains(&left), "{left}");
    // After two minutes without traffic it lasts.
    assert_eq!(ledger.view(now + SECOND * 120).runs_out_in, None);
}

/// Half of the window is first come. While the rest is spread, the rate of before does not count: it is held back.
#[test]
fn a_view_never_says_that_what_is_spread_runs_out() {
    let mut ledger = learnt(RULES, 1000, 300);
    let (mut now, mut left, mut began) = (Duration::ZERO, 999, None);
    for n in 0..300 * 50u64 {
        now = seconds(n as f64 / 50.0);
        if let Ok(grant) = ledger.grant(now) {
            left -= 1;
            ledger.settle(grant, reported(1000, left, 1300, 300 - n / 50), now);
        }
        let view = ledger.view(now);
        assert_eq!(view.runs_out_in, None, "at {now:?}");
        match (view.state, view.spreads_in) {
            (Status::Open, Some(time)) => began = Some((now + time).as_secs_f64()),
            (Status::Open, None) => {}
            (_, spreads_in) => assert_eq!(spreads_in, None, "at {now:?}"),
        }
    }
    // 500 at 50 a second.
    let began = began.expect("a forecast");
    assert!((8.0..14.0).contains(&began), "{began}");
    assert!(now > SECOND * 299);
}

#[test]
fn huge_numbers_do_not_overflow() {
    let mut ledger = Ledger::new(RULES);
    for window in 1..4u32 {
        let now = SECOND * 400 * window;
        let reset = 1000 + 400 * u64::from(window);
        let (first, second) = (ledger.grant(now).unwrap(), ledger.grant(now));
        ledger.settle(first, reported(u64::MAX, u64::MAX - 1, reset, 400), now);
        if let Ok(second) = second {
            ledger.settle(second, reported(u64::MAX, 0, reset, 400), now);
        }
    }
    assert_eq!(ledger.view(SECOND * 1200).external.0, u64::MAX);
}

/// An event of a group; events happen in any order.
#[derive(Clone, Debug)]
enum Step {
    /// Of one of four operations, with a whole body or a streamed one, of a request with any standing.
    Grant(usize),
    /// Upstream counts an attempt, and later its answer arrives, with other events in between.
    Count(usize),
    Answer(usize, AnswerKind),
    Cancel(usize, bool),
    Outside(u64),
    Wait(u64),
    Resume,
}

#[derive(Clone, Debug)]
enum AnswerKind {
    All,
    NoHeaders,
    Refused(Option<u64>),
    /// A 503 with a time.
    Unavailable(u64),
    /// Meaningless numbers.
    Nonsense(u64, u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        8 => Just(AnswerKind::All),
        1 => Just(AnswerKind::NoHeaders),
        1 => prop::option::of(1u64..20).prop_map(AnswerKind::Refused),
        1 => (1u64..20).prop_map(AnswerKind::Unavailable),
    ];
    prop_oneof![
        8 => (0usize..24).prop_map(Step::Grant),
        6 => any::<usize>().prop_map(Step::Count),
        6 => (any::<usize>(), kind).prop_map(|(n, kind)| Step::Answer(n, kind)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(n, sent)| Step::Cancel(n, sent)),
        1 => (1u64..4).prop_map(Step::Outside),
        3 => (0u64..5000).prop_map(Step::Wait),
    ]
}

fn wild() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => step(),
        1 => Just(Step::Resume),
        2 => (any::<usize>(), any::<u64>(), any::<u64>(), any::<u64>())
            .prop_map(|(n, a, b, c)| Step::Answer(n, AnswerKind::Nonsense(a, b, c))),
    ]
}

/// DevRev's window, which the ledger cannot see.
struct Upstream {
    limit: u64,
    length: u64,
    /// In milliseconds.
    now: u64,
    ends: u64,
    used: u64,
}

impl Upstream {
    const EPOCH: u64 = 1_800_000_000_370;

    fn take(&mut self, units: u64) -> (u64, u64) {
        if self.now >= self.ends {
            self.ends = self.now + self.length;
            self.used = 0;
        }
        self.used = (self.used + units).min(self.limit);
        (
            self.limit - self.used,
            (Self::EPOCH + self.ends).div_ceil(1000),
        )
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.now)
    }
}

struct Attempt {
    grant: Grant,
    /// What upstream reported when it counted the attempt.
    counted: Option<(u64, u64)>,
}

fn play(
    rules: LedgerRules,
    upstream: &mut Upstream,
    steps: &[Step],
) -> Result<Ledger, TestCaseError> {
    let mut ledger = Ledger::unknown(rules);
    let mut out: Vec<Attempt> = Vec::new();
    let mut seen = (0, u64::MAX);
    let mut wild = false;
    for step in steps {
        let now = upstream.now();
        match step {
            Step::Grant(n) => {
                let operation = ["works.list", "works.get", "accounts.get", "invented"][n / 2 % 4];
                let standing = [Standing::Interactive, Standing::Aged, Standing::Batch][n / 8];
                let kind = AttemptKind {
                    standing,
                    ..[whole, streamed][n % 2](operation)
                };
                let Ok(grant) = ledger.grant_of(kind, now) else {
                    continue;
                };
                out.push(Attempt {
                    grant,
                    counted: None,
                });
                let view = ledger.view(now);
                if view.resets_in.is_some() && !wild {
                    prop_assert!(
                        out.len() as u64 <= view.remaining.unwrap(),
                        "{} in flight, {:?} known to remain",
                        out.len(),
                        view.remaining
                    );
                }
            }
            Step::Count(n) => {
                let waiting: Vec<_> = (0..out.len())
                    .filter(|n| out[*n].counted.is_none())
                    .collect();
                if let Some(n) = waiting.get(n % waiting.len().max(1)) {
                    out[*n].counted = Some(upstream.take(1));
                }
            }
            Step::Answer(n, kind) if !out.is_empty() => {
                let n = n % out.len();
                let Some((remaining, reset)) = out[n].counted else {
                    continue;
                };
                // `remaining` is from the moment of counting, `Date` from the moment of answering.
                let date = (Upstream::EPOCH + upstream.now) / 1000;
                let settlement = match kind {
                    AnswerKind::All => {
                        reported(upstream.limit, remaining, reset, reset.saturating_sub(date))
                    }
                    AnswerKind::NoHeaders => good(),
                    AnswerKind::Refused(retry_after) => refused(*retry_after),
                    AnswerKind::Unavailable(time) => unavailable(*time),
                    AnswerKind::Nonsense(limit, remaining, reset) => {
                        wild = true;
                        reported(*limit, *remaining, *reset, reset % 1000)
                    }
                };
                ledger.settle(out.remove(n).grant, settlement, now);
            }
            Step::Answer(..) => {}
            Step::Cancel(n, sent) if !out.is_empty() => {
                let attempt = out.remove(n % out.len());
                let settlement = if attempt.counted.is_some() || *sent {
                    Settlement::InDoubt
                } else {
                    Settlement::Unsent
                };
                ledger.settle(attempt.grant, settlement, now);
            }
            Step::Cancel(..) => {}
            Step::Outside(units) => drop(upstream.take(*units)),
            Step::Wait(time) => upstream.now += time,
            Step::Resume => {
                ledger.resume();
                seen = (0, u64::MAX);
                wild = true;
            }
        }
        let view = ledger.view(upstream.now());
        prop_assert_eq!(view.in_flight, out.len() as u64, "reservations leak");
        if let (Some(remaining), Some(reset)) = (view.remaining, view.reset)
            && !wild
        {
            if reset == seen.0 {
                prop_assert!(remaining <= seen.1, "{remaining} after {}", seen.1);
            }
            seen = (reset, remaining);
        }
    }
    let now = upstream.now();
    for attempt in out {
        ledger.settle(attempt.grant, Settlement::InDoubt, now);
    }
    prop_assert_eq!(ledger.view(now).in_flight, 0);
    Ok(ledger)
}

/// An attempt that is tried at each announced time is granted in the end.
fn serves(mut ledger: Ledger, mut now: Duration) -> Result<(), TestCaseError> {
    for _ in 0..100 {
        match ledger.grant(now) {
            Ok(_) => return Ok(()),
            Err(hold) => {
                let until = hold
                    .until
                    .expect("with nothing in flight only time releases units");
                prop_assert!(until > now);
                now = until;
            }
        }
    }
    Err(TestCaseError::fail("held a hundred times"))
}

proptest! {
    #[test]
    fn no_interleaving_leaks_or_overspends(
        limit in prop_oneof![1u64..5, Just(20u64), Just(1000)],
        length in prop_oneof![Just(60_000u64), Just(300_000), 2_000u64..10_000],
        spread_above in prop_oneof![Just(0.0), Just(0.5), Just(1.0)],
        steps in prop::collection::vec(step(), 0..400),
    ) {
        let rules = LedgerRules { spread_above, ..RULES };
        let mut upstream = Upstream { limit, length, now: 0, ends: 0, used: 0 };
        let ledger = play(rules, &mut upstream, &steps)?;
        serves(ledger, upstream.now())?;
    }

    #[test]
    fn nonsense_neither_panics_nor_holds_for_ever(
        spread_above in 0.0f64..=1.0,
        reserve in 0.0f64..0.9,
        steps in prop::collection::vec(wild(), 0..300),
    ) {
        let rules = LedgerRules { spread_above, reserve, ..RULES };
        let mut upstream = Upstream { limit: 20, length: 60_000, now: 0, ends: 0, used: 0 };
        let ledger = play(rules, &mut upstream, &steps)?;
        serves(ledger, upstream.now())?;
    }
}

#[test]
fn the_ledger_recovers_from_one_nonsense_answer() {
    // Once in milliseconds, and once by a clock that was a day ahead.
    for (reset, resets_in) in [(1_300_000, 1_000_000), (1300 + 86_400, 299)] {
        let mut ledger = learnt(RULES, 20, 300);
        ledger.attempt(reported(20, 18, reset, resets_in), SECOND);
        ledger.attempt(reported(20, 17, 1300, 298), SECOND * 2);
        let view = ledger.view(SECOND * 2);
        assert_eq!((view.reset, view.remaining), (Some(1300), Some(17)));
        assert_eq!(view.external.0, 0);
    }
}

#[test]
fn few_units_are_in_doubt_under_a_steady_load() {
    let mut ledger = learnt(UNSPREAD, 3000, 300);
    // Ten per second, each in flight for a second, and every fifth client disconnects midway.
    let mut out = std::collections::VecDeque::new();
    for n in 1..2800u64 {
        let now = Duration::from_millis(100 * n);
        if n > 10 {
            let (number, grant) = out.pop_front().unwrap();
            let left = 300 - now.as_secs();
            let settlement = match number % 5 {
                0 => Settlement::InDoubt,
                _ => reported(3000, 2999 - number, 1300, left),
            };
            ledger.settle(grant, settlement, now);
        }
        assert!(ledger.in_doubt.units() <= 8, "{}", ledger.in_doubt.units());
        out.push_back((n, ledger.grant(now).unwrap()));
    }
}

#[test]
fn attempts_granted_before_the_window_was_known_may_count_in_it() {
    let mut ledger = Ledger::new(UNSPREAD);
    let mut grants = ledger.grants(20, Duration::ZERO);
    ledger.settle(grants.remove(0), reported(20, 19, 1300, 300), SECOND);
    ledger.settle_all(grants, Settlement::InDoubt, SECOND);
    // Upstream may have counted all of them: one attempt finds out.
    assert_eq!(ledger.all_grants(SECOND).len(), 1);
}

#[test]
fn between_windows_the_reserve_is_not_granted_either() {
    let mut ledger = learnt(RESERVE, 100, 60);
    assert_eq!(ledger.all_grants(SECOND * 60).len(), 80);
}

#[test]
fn heavy_external_use_withholds_half_at_most() {
    let mut ledger = learnt(RULES, 100, 300);
    let grant = ledger.grant(SECOND * 300).unwrap();
    // A complete window in which 91 units were taken outside at once; that may continue.
    ledger.settle(grant, reported(100, 8, 1600, 300), SECOND * 300);
    let now = SECOND * 301;
    let mut went = drain(&mut ledger, now);
    let hold = ledger.grant(now).unwrap_err();
    assert_eq!(hold.reason, HoldReason::Spread);
    // The predicted wait matches the hold.
    let (until, wait) = (hold.until.unwrap() - now, ledger.predict_wait(0, now));
    assert!(
        wait <= until + SECOND && until <= wait + SECOND,
        "{until:?} {wait:?}"
    );
    for second in 302..600 {
        went += drain(&mut ledger, SECOND * second);
    }
    assert_eq!(went, 8);
}

#[test]
fn a_predicted_wait_counts_those_ahead_during_a_pause_and_between_windows() {
    let mut ledger = learnt(RULES, 20, 60);
    ledger.attempt(refused(Some(59)), SECOND);
    assert_eq!(ledger.predict_wait(0, SECOND), SECOND * 59);
    let wait = ledger.predict_wait(1000, SECOND);
    assert!(
        wait > SECOND * 60 * 45 && wait < SECOND * 60 * 55,
        "{wait:?}"
    );
    let mut ledger = learnt(RULES, 20, 60);
    drain(&mut ledger, SECOND);
    let _probe = ledger.grant(SECOND * 61).unwrap();
    assert!(ledger.predict_wait(1000, SECOND * 61) > SECOND * 60 * 45);
}

#[test]
fn a_predicted_wait_ignores_units_in_doubt() {
    let mut ledger = learnt(UNSPREAD, 20, 300);
    let grants = ledger.grants(19, SECOND);
    ledger.settle_all(grants, Settlement::InDoubt, SECOND);
    let _probe = ledger.grant(SECOND).unwrap();
    assert!(ledger.predict_wait(0, SECOND).is_zero());
    // Attempts of the window before do not count either.
    let mut ledger = learnt(RULES, 20, 60);
    let _slow = ledger.grants(9, SECOND * 40);
    ledger.attempt(reported(20, 19, 1121, 60), SECOND * 61);
    assert!(ledger.predict_wait(1, SECOND * 61).is_zero());
}

#[test]
fn a_late_answer_about_a_short_window_does_not_touch_the_next() {
    let mut ledger = learnt(RULES, 20, 1);
    let late = ledger.grant(seconds(0.5)).unwrap();
    let grant = ledger.grant(seconds(1.1)).unwrap();
    ledger.settle(grant, reported(20, 19, 1002, 1), seconds(1.15));
    ledger.settle(late, reported(20, 0, 1001, 1), seconds(1.2));
    assert_eq!(ledger.view(seconds(1.2)).remaining, Some(19));
}

#[test]
fn an_unsent_attempt_returns_no_more_than_it_took() {
    let mut ledger = learnt(RULES, 100, 300);
    for _ in 0..47 {
        let grant = ledger.grant(SECOND).unwrap();
        let left = ledger.view(SECOND).remaining.unwrap() - 1;
        ledger.settle(grant, reported(100, left, 1300, 299), SECOND);
    }
    // Four attempts at a time find no connection, for a while.
    for n in 0..60 {
        let now = SECOND + Duration::from_millis(10) * n;
        let round = std::iter::from_fn(|| ledger.grant(now).ok()).take(4);
        for grant in round.collect::<Vec<_>>() {
            ledger.settle(grant, Settlement::Unsent, now);
        }
    }
    let went = drain(&mut ledger, SECOND * 2);
    assert!(went <= 5, "{went}, three of them first come");
}
