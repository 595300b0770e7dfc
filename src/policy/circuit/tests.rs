use std::collections::HashSet;

use proptest::prelude::*;

use super::{
    Evidence::{Failure, Lost, Neutral, NoConnection, Success},
    *,
};
use crate::label::assert_labels;

const SECOND: Duration = Duration::from_secs(1);
const RULES: CircuitRules = CircuitRules {
    failures: 3,
    within: Duration::from_secs(10),
    open: Duration::from_secs(5),
};
/// With the smallest number of failures of which several callers can have half.
const FOUR: CircuitRules = CircuitRules {
    failures: 4,
    ..RULES
};

const LIST: &str = "works.list";
const GET: &str = "works.get";

fn at(seconds: u64) -> Duration {
    SECOND * u32::try_from(seconds).unwrap()
}

fn of(caller: &str, operation: &str) -> Origin {
    Origin::new(caller.into(), Some(&Operation::from_path(operation)))
}

/// The one caller and operation of the tests of a single circuit.
fn one() -> Origin {
    of("a", LIST)
}

fn pass(circuit: &mut Circuit, seconds: u64) -> Pass {
    let pass = circuit.try_pass(&one(), false, &RULES, at(seconds));
    pass.expect("it passes")
}

fn refused(circuit: &mut Circuit, seconds: u64) -> Duration {
    circuit
        .try_pass(&one(), false, &RULES, at(seconds))
        .expect_err("it is refused")
}

/// What changed for the use.
fn settle(circuit: &mut Circuit, pass: Pass, evidence: Evidence, seconds: u64) -> Option<bool> {
    let changes = circuit.settle(pass, evidence, &RULES, at(seconds));
    assert!(changes.len() <= 1, "{changes:?}");
    let change = changes.first()?;
    assert_eq!(change.subject.scope, Scope::Use);
    Some(change.opened)
}

/// One attempt that starts and ends in the same second.
fn attempt(circuit: &mut Circuit, evidence: Evidence, seconds: u64) -> Option<bool> {
    let pass = pass(circuit, seconds);
    settle(circuit, pass, evidence, seconds)
}

/// Opened at second 0.
fn opened() -> Circuit {
    let mut circuit = Circuit::default();
    let changes = [(); 3].map(|()| attempt(&mut circuit, Failure, 0));
    assert_eq!(changes, [None, None, Some(true)]);
    circuit
}

/// An attempt under [`FOUR`] that passes and ends at once; the scopes of the circuits that opened, or closed.
fn call(
    circuit: &mut Circuit,
    origin: &Origin,
    evidence: Evidence,
    seconds: u64,
) -> Vec<(Scope, bool)> {
    let pass = circuit.try_pass(origin, false, &FOUR, at(seconds));
    let pass = pass.unwrap_or_else(|left| panic!("{origin:?} is refused for {left:?}"));
    let changes = circuit.settle(pass, evidence, &FOUR, at(seconds));
    let scopes = changes
        .iter()
        .map(|change| (change.subject.scope, change.opened));
    scopes.collect()
}

fn passes(circuit: &mut Circuit, origin: &Origin, seconds: u64) -> bool {
    let pass = circuit.try_pass(origin, false, &FOUR, at(seconds));
    pass.map(|pass| circuit.abandon(pass)).is_ok()
}

/// The circuit of everything, opened at second 0 by two callers and two operations.
fn all_open() -> Circuit {
    let mut circuit = Circuit::default();
    for (caller, operation) in [("a", LIST), ("b", GET), ("a", LIST)] {
        let changes = call(&mut circuit, &of(caller, operation), Failure, 0);
        assert_eq!(changes, []);
    }
    let changes = call(&mut circuit, &of("b", GET), Failure, 0);
    assert_eq!(changes, [(Scope::Upstream, true)]);
    circuit
}

#[test]
fn states_and_scopes_have_the_names_of_the_admin_json() {
    assert_labels!(Status: "closed" "open" "half_open");
    assert_labels!(Scope: "use" "caller" "operation" "upstream");
}

#[test]
fn evidence_of_each_end() {
    let status = |code, retry_after| {
        Some(AttemptEnd::Status {
            status: StatusCode::from_u16(code).unwrap(),
            retry_after,
        })
    };
    for code in [500, 502, 503, 504] {
        assert_eq!(evidence(status(code, None), true), Failure, "{code}");
    }
    for code in [200, 204, 301, 400, 401, 404, 409, 429, 501, 505] {
        assert_eq!(evidence(status(code, None), true), Success, "{code}");
    }
    assert_eq!(evidence(status(503, Some(SECOND)), true), Neutral);
    assert_eq!(evidence(status(429, Some(SECOND)), true), Success);
    for (end, expected) in [
        (AttemptEnd::Lost, Lost),
        (AttemptEnd::NotProcessed, Lost),
        (AttemptEnd::TimedOut, Failure),
    ] {
        assert_eq!(evidence(Some(end), true), expected, "{end:?}");
        assert_eq!(evidence(Some(end), false), Neutral, "{end:?}");
    }
    for code in [200, 404, 500, 503] {
        assert_eq!(evidence(status(code, None), false), Neutral, "{code}");
    }
    for sent in [true, false] {
        let end = Some(AttemptEnd::NotWritten);
        assert_eq!(evidence(end, sent), NoConnection, "{sent}");
        let end = Some(AttemptEnd::AlsoNotWritten);
        assert_eq!(evidence(end, sent), Neutral, "{sent}");
        assert_eq!(evidence(None, sent), Neutral, "{sent}");
    }
}

#[test]
fn only_consecutive_failures_within_the_period_open_it() {
    use super::Evidence::{Failure as F, Neutral as N, Success as S};
    // (second, evidence) …, and whether the last one opens the circuit.
    let table: [(&[(u64, Evidence)], bool); 8] = [
        (&[(0, F), (1, F), (2, F)], true),
        (&[(0, F), (1, F), (2, S), (3, F), (4, F)], false),
        (&[(0, F), (1, F), (2, S), (3, F), (4, F), (5, F)], true),
        (&[(0, F), (1, N), (2, F), (3, N), (4, F)], true),
        (&[(0, F), (9, F), (10, F)], true),
        (&[(0, F), (9, F), (11, F)], false),
        (&[(0, F), (9, F), (11, F), (12, F)], true),
        (&[(0, N), (0, N), (0, N), (0, N)], false),
    ];
    for (events, opens) in table {
        let mut circuit = Circuit::default();
        let mut change = None;
        for (seconds, evidence) in events {
            assert_eq!(change, None, "{events:?}");
            change = attempt(&mut circuit, *evidence, *seconds);
        }
        assert_eq!(change, opens.then_some(true), "{events:?}");
    }
}

/// Failures in a row, by caller and operation, with the circuits that the last one opens.
type Row<'a> = (&'a [(&'a str, &'a str)], &'a [Scope]);

#[test]
fn each_circuit_opens_for_what_it_has_evidence_for() {
    let a_list = ("a", LIST);
    let a_get = ("a", GET);
    let b_list = ("b", LIST);
    let b_get = ("b", GET);
    let a_new = ("a", "invented");
    let b_new = ("b", "invented");
    let table: &[Row<'_>] = &[
        (&[a_list, a_list, a_list, a_list], &[Scope::Use]),
        (&[a_list, a_get, a_list, a_get], &[Scope::Caller]),
        (&[a_list, b_list, a_list, b_list], &[Scope::Operation]),
        (&[a_list, b_get, a_list, b_get], &[Scope::Upstream]),
        (&[a_list, a_get, b_list, b_get], &[Scope::Upstream]),
        // More than half of one caller.
        (&[a_list, a_list, a_list, b_list], &[]),
        (&[a_list, a_list, a_get, b_get], &[]),
        (
            &[a_list, a_list, a_list, b_list, b_list],
            &[Scope::Operation],
        ),
        // More than half of one operation.
        (&[a_list, a_list, a_list, a_get], &[]),
        (&[a_list, b_list, a_list, b_get], &[]),
        // An operation that is not known stops for the caller alone.
        (&[a_new, b_new, a_new, b_new], &[]),
        (&[a_new, a_new, a_new, a_new], &[Scope::Use]),
    ];
    for (failures, opens) in table {
        let mut circuit = Circuit::default();
        let mut changes = Vec::new();
        for (caller, operation) in *failures {
            assert_eq!(changes, [], "{failures:?}");
            changes = call(&mut circuit, &of(caller, operation), Failure, 0);
        }
        let wanted: Vec<_> = opens.iter().map(|scope| (*scope, true)).collect();
        assert_eq!(changes, wanted, "{failures:?}");
    }
}

#[test]
fn an_open_circuit_stops_that_and_no_more() {
    // What opens it, and whether each of (a, list), (a, get), (b, list), (b, get) is stopped.
    let table = [
        ([("a", LIST), ("a", LIST)], [true, false, false, false]),
        ([("a", LIST), ("a", GET)], [true, true, false, false]),
        ([("a", LIST), ("b", LIST)], [true, false, true, false]),
        ([("a", LIST), ("b", GET)], [true, true, true, true]),
    ];
    for (failing, stopped) in table {
        let mut circuit = Circuit::default();
        for _ in 0..2 {
            for (caller, operation) in failing {
                let _ = call(&mut circuit, &of(caller, operation), Failure, 0);
            }
        }
        let asked = [("a", LIST), ("a", GET), ("b", LIST), ("b", GET)];
        let found =
            asked.map(|(caller, operation)| !passes(&mut circuit, &of(caller, operation), 1));
        assert_eq!(found, stopped, "{failing:?}");
    }
}

#[test]
fn a_success_ends_the_row_of_all_that_it_is_a_success_of() {
    // Without the success, the fourth failure opens the circuit for the caller, the operation or all.
    let table = [
        // Of the same caller, the same operation, and neither.
        (("a", GET), ("a", "works.create"), true),
        (("a", GET), ("b", "works.create"), false),
        (("b", LIST), ("c", LIST), true),
        (("b", LIST), ("c", GET), false),
        (("b", GET), ("c", "works.create"), true),
    ];
    for (other, succeeds, prevents) in table {
        let mut circuit = Circuit::default();
        for failing in [("a", LIST), other, ("a", LIST)] {
            let _ = call(&mut circuit, &of(failing.0, failing.1), Failure, 0);
        }
        let _ = call(&mut circuit, &of(succeeds.0, succeeds.1), Success, 0);
        let changes = call(&mut circuit, &of(other.0, other.1), Failure, 0);
        assert_eq!(changes.is_empty(), prevents, "{other:?} {succeeds:?}");
    }
}

#[test]
fn no_connection_concerns_all_whoever_tries() {
    let mut circuit = Circuit::default();
    for _ in 0..3 {
        assert_eq!(call(&mut circuit, &one(), NoConnection, 0), []);
    }
    let mut succeeds = Circuit::default();
    for _ in 0..3 {
        let _ = call(&mut succeeds, &one(), NoConnection, 0);
    }
    let _ = call(&mut succeeds, &of("b", GET), Success, 0);
    assert_eq!(call(&mut succeeds, &one(), NoConnection, 0), []);
    let changes = call(&mut circuit, &one(), NoConnection, 0);
    assert_eq!(changes, [(Scope::Upstream, true)]);
    assert!(!passes(&mut circuit, &of("b", GET), 4));
    // A probe without a connection opens it again at once, for all.
    assert_eq!(call(&mut circuit, &one(), NoConnection, 5), []);
    assert!(!passes(&mut circuit, &of("b", GET), 9));
    let changes = call(&mut circuit, &of("b", GET), Success, 10);
    assert_eq!(changes, [(Scope::Upstream, false)]);
    let rules = CircuitRules {
        failures: 1,
        ..RULES
    };
    let mut circuit = Circuit::default();
    let pass = circuit.try_pass(&one(), false, &rules, at(0)).unwrap();
    let changes = circuit.settle(pass, NoConnection, &rules, at(0));
    assert_eq!(changes.len(), 1);
}

#[test]
fn attempts_that_are_lost_together_count_once() {
    // One HTTP/2 connection with many attempts of several callers.
    let mut circuit = Circuit::default();
    let origins = [of("a", LIST), of("b", LIST), of("b", GET), of("c", GET)];
    let mut lose_all = |seconds| {
        let in_flight: Vec<Pass> = origins
            .iter()
            .cycle()
            .take(40)
            .map(|origin| circuit.try_pass(origin, false, &FOUR, at(seconds)))
            .map(|pass| pass.expect("it passes"))
            .collect();
        let ends = in_flight
            .into_iter()
            .map(|pass| circuit.settle(pass, Lost, &FOUR, at(seconds)));
        let changes: Vec<Change> = ends.flatten().collect();
        changes
    };
    assert_eq!(lose_all(0), []);
    assert_eq!(lose_all(0), []);
    assert_eq!(lose_all(1), []);
    // One after the other they count like any failure.
    let mut circuit = Circuit::default();
    for _ in 0..3 {
        assert_eq!(call(&mut circuit, &one(), Lost, 2), []);
    }
    assert_eq!(call(&mut circuit, &one(), Lost, 2), [(Scope::Use, true)]);
    assert_eq!(call(&mut circuit, &one(), Lost, 7), []);
    assert!(!passes(&mut circuit, &one(), 11), "a lost probe fails");
}

#[test]
fn one_probe_passes_when_the_time_is_over_and_its_success_closes() {
    let mut circuit = opened();
    assert_eq!(refused(&mut circuit, 0), SECOND * 5);
    assert_eq!(refused(&mut circuit, 4), SECOND);
    let probe = pass(&mut circuit, 5);
    assert_eq!(refused(&mut circuit, 6), SECOND * 4);
    assert_eq!(settle(&mut circuit, probe, Success, 7), Some(false));
    let _attempts: Vec<Pass> = (0..3).map(|_| pass(&mut circuit, 7)).collect();
}

#[test]
fn a_probe_that_fails_opens_it_again() {
    let mut circuit = opened();
    let probe = pass(&mut circuit, 8);
    assert_eq!(settle(&mut circuit, probe, Failure, 9), None);
    assert_eq!(refused(&mut circuit, 9), SECOND * 5);
    let _probe = pass(&mut circuit, 14);
}

#[test]
fn a_failed_probe_keeps_out_what_it_is_evidence_about() {
    let mut circuit = all_open();
    assert_eq!(call(&mut circuit, &of("a", LIST), Failure, 5), []);
    let related = [("a", LIST), ("a", GET), ("c", LIST)];
    for (seconds, expected) in [(9, false), (10, true)] {
        for (caller, operation) in related {
            let passes = passes(&mut circuit, &of(caller, operation), seconds);
            assert_eq!(passes, expected, "{caller} {operation} {seconds}");
        }
    }
    // Another caller and another operation: the second failure opens it for all.
    let mut circuit = all_open();
    let _ = call(&mut circuit, &of("a", LIST), Failure, 5);
    let _ = call(&mut circuit, &of("c", "works.create"), Failure, 6);
    assert!(!passes(&mut circuit, &of("d", "works.update"), 10));
    assert!(passes(&mut circuit, &of("d", "works.update"), 11));
    // A success closes it, whoever failed before.
    let mut circuit = all_open();
    let _ = call(&mut circuit, &of("a", LIST), Failure, 5);
    let changes = call(&mut circuit, &of("c", "works.create"), Success, 5);
    assert_eq!(changes, [(Scope::Upstream, false)]);
}

#[test]
fn a_probe_without_evidence_lets_the_next_one_pass() {
    let mut circuit = opened();
    let probe = pass(&mut circuit, 5);
    circuit.abandon(probe);
    let probe = pass(&mut circuit, 5);
    assert_eq!(settle(&mut circuit, probe, Neutral, 5), None);
    let _probe = pass(&mut circuit, 5);
    assert_eq!(refused(&mut circuit, 5), SECOND * 5);
}

#[test]
fn a_probe_without_an_answer_blocks_the_next_for_a_bounded_time() {
    let mut circuit = opened();
    let slow = pass(&mut circuit, 5);
    let slower = pass(&mut circuit, 10);
    let latest = pass(&mut circuit, 15);
    // The end of a superseded probe does not affect the current one.
    circuit.abandon(slow);
    assert_eq!(settle(&mut circuit, slower, Failure, 16), None);
    assert_eq!(refused(&mut circuit, 16), SECOND * 4);
    drop(latest);
    // The success of an upstream that is slower than `open` still counts.
    let slow = pass(&mut circuit, 20);
    let _latest = pass(&mut circuit, 25);
    assert_eq!(settle(&mut circuit, slow, Success, 26), Some(false));
}

#[test]
fn a_probe_that_streams_gives_way_to_one_that_does_not() {
    let mut circuit = opened();
    let streams = |circuit: &mut Circuit| circuit.try_pass(&one(), true, &RULES, at(5));
    let upload = streams(&mut circuit).expect("the probe");
    assert_eq!(streams(&mut circuit).expect_err("not to another"), at(5));
    let probe = pass(&mut circuit, 5);
    assert_eq!(refused(&mut circuit, 5), at(5));
    assert!(streams(&mut circuit).is_err());
    // It was superseded, so its failure does not count any more.
    assert_eq!(settle(&mut circuit, upload, Failure, 6), None);
    assert_eq!(refused(&mut circuit, 6), at(4));
    assert_eq!(settle(&mut circuit, probe, Success, 7), Some(false));
}

#[test]
fn a_probe_that_hangs_gives_way_to_other_callers_once_its_time_is_over() {
    let mut circuit = all_open();
    let pass = |circuit: &mut Circuit, caller, operation, seconds| {
        circuit.try_pass(&of(caller, operation), false, &FOUR, at(seconds))
    };
    let _hangs = pass(&mut circuit, "a", LIST, 5).expect("the probe");
    assert_eq!(pass(&mut circuit, "c", GET, 6).expect_err("held"), at(4));
    // The same again, but from now on it holds it against its own only.
    let _hangs = pass(&mut circuit, "a", LIST, 10).expect("the next probe");
    assert_eq!(
        pass(&mut circuit, "a", GET, 11).expect_err("its own"),
        at(4)
    );
    let probe = pass(&mut circuit, "c", GET, 11).expect("another");
    assert!(pass(&mut circuit, "d", "works.create", 11).is_err());
    let changes = circuit.settle(probe, Success, &FOUR, at(11));
    assert_eq!(changes.len(), 1);
}

#[test]
fn results_from_before_it_opened_neither_close_nor_extend_it() {
    let mut circuit = Circuit::default();
    let mut before: Vec<Pass> = (0..5).map(|_| pass(&mut circuit, 0)).collect();
    for _ in 0..3 {
        let _ = attempt(&mut circuit, Failure, 0);
    }
    for evidence in [Success, Failure, Neutral] {
        let pass = before.pop().unwrap();
        assert_eq!(settle(&mut circuit, pass, evidence, 3), None);
        assert_eq!(refused(&mut circuit, 3), SECOND * 2);
    }
    let _probe = pass(&mut circuit, 5);
    for evidence in [Success, Failure] {
        let pass = before.pop().unwrap();
        assert_eq!(settle(&mut circuit, pass, evidence, 6), None);
        assert_eq!(refused(&mut circuit, 6), SECOND * 4, "the probe decides");
    }
}

#[test]
fn views_show_the_state_and_the_time() {
    let mut circuit = Circuit::default();
    let view = |circuit: &Circuit, seconds| {
        let view = circuit.view_for(&one(), &RULES, at(seconds));
        (view.scope, view.state, view.next_probe)
    };
    assert_eq!(view(&circuit, 0), (Scope::Upstream, Status::Closed, None));
    let _ = attempt(&mut circuit, Failure, 0);
    let failures = |circuit: &Circuit, seconds| circuit.view(&RULES, at(seconds)).failures;
    assert_eq!(failures(&circuit, 10), 1);
    assert_eq!(failures(&circuit, 11), 0, "too old to count");
    let mut circuit = opened();
    let open = (Scope::Use, Status::Open, Some(SECOND * 3));
    assert_eq!(view(&circuit, 2), open);
    let half_open = (Scope::Use, Status::HalfOpen, Some(Duration::ZERO));
    assert_eq!(view(&circuit, 5), half_open);
    let stopped = circuit.stopped(&RULES, at(2));
    let expected = Stopped {
        subject: Subject {
            scope: Scope::Use,
            caller: Some("a".into()),
            operation: Some(Operation::from_path(LIST).label()),
        },
        state: Status::Open,
        next_probe: SECOND * 3,
    };
    assert_eq!(stopped, [expected]);
    assert_eq!(circuit.stopped(&RULES, at(16)), [], "nobody asks any more");
    let probe = pass(&mut circuit, 6);
    let probing = (Scope::Use, Status::HalfOpen, Some(SECOND * 4));
    assert_eq!(view(&circuit, 7), probing);
    let _ = settle(&mut circuit, probe, Success, 7);
    assert_eq!(view(&circuit, 7), (Scope::Upstream, Status::Closed, None));
    assert_eq!(circuit.stopped(&RULES, at(7)), []);

    let circuit = all_open();
    let view = circuit.view(&FOUR, at(2));
    assert_eq!(
        (view.state, view.failures, view.next_probe),
        (Status::Open, 4, Some(SECOND * 3))
    );
}

#[test]
fn memory_is_bounded() {
    // So many that none opens.
    let rules = CircuitRules {
        failures: 10_000,
        ..RULES
    };
    let mut circuit = Circuit::default();
    for number in 0..2000 {
        let caller = format!("caller {}", number % 400);
        let origin = of(&caller, &format!("unknown-{number}"));
        if let Ok(pass) = circuit.try_pass(&origin, false, &rules, at(number)) {
            let _ = circuit.settle(pass, Failure, &rules, at(number));
        }
        let origin = of("a", &format!("unknown-{number}"));
        if let Ok(pass) = circuit.try_pass(&origin, false, &rules, at(number)) {
            let _ = circuit.settle(pass, Failure, &rules, at(number));
        }
    }
    let uses = |circuits: &OfCaller| circuits.uses.iter().count();
    assert_eq!(circuit.callers.iter().count(), MAX_CALLERS);
    assert_eq!(circuit.callers.get("a").map(uses), Some(MAX_USES));
    assert_eq!(circuit.operations.iter().count(), 0);
}

#[test]
fn extreme_rules_and_clocks_do_not_panic() {
    let rules = CircuitRules {
        failures: 0,
        within: Duration::MAX,
        open: Duration::MAX,
    };
    let mut circuit = Circuit::default();
    let pass = circuit.try_pass(&one(), false, &rules, Duration::MAX);
    let changes = circuit.settle(pass.expect("closed"), Failure, &rules, Duration::ZERO);
    assert_eq!(changes.len(), 1);
    let _probe = circuit
        .try_pass(&one(), false, &rules, Duration::ZERO)
        .expect("time has ended");
    let view = circuit.view_for(&one(), &rules, Duration::ZERO);
    assert_eq!(view.state, Status::HalfOpen);
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Pass,
    /// Ends the attempt at this place in the list of those in flight.
    End(usize, Option<Evidence>),
    Step(u64),
}

fn end() -> impl Strategy<Value = Option<Evidence>> {
    prop_oneof![
        4 => Just(Some(Failure)),
        1 => Just(Some(Success)),
        1 => Just(Some(Neutral)),
        1 => Just(None),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Pass),
        3 => (any::<usize>(), end()).prop_map(|(index, end)| Event::End(index, end)),
        1 => (0u64..4000).prop_map(Event::Step),
    ]
}

/// An attempt of one of three callers, in one of four operations, with or without a stream.
#[derive(Clone, Copy, Debug)]
enum AnyEvent {
    Pass(usize, usize, bool),
    End(usize, Option<Evidence>),
    Step(u64),
}

const CALLERS: [&str; 3] = ["a", "b", "c"];
const OPERATIONS: [&str; 4] = [LIST, GET, "works.create", "invented"];

fn any_event() -> impl Strategy<Value = AnyEvent> {
    let end = prop_oneof![8 => end(), 1 => Just(Some(Lost)), 1 => Just(Some(NoConnection))];
    prop_oneof![
        4 => (0..3usize, 0..4usize, any::<bool>())
            .prop_map(|(caller, operation, streams)| AnyEvent::Pass(caller, operation, streams)),
        4 => (any::<usize>(), end).prop_map(|(index, end)| AnyEvent::End(index, end)),
        1 => (0u64..3000).prop_map(AnyEvent::Step),
    ]
}

fn end_of(
    circuit: &mut Circuit,
    pass: Pass,
    end: Option<Evidence>,
    rules: &CircuitRules,
    now: Duration,
) -> Vec<Change> {
    match end {
        Some(evidence) => circuit.settle(pass, evidence, rules, now),
        None => {
            circuit.abandon(pass);
            Vec::new()
        }
    }
}

/// Every circuit that there is.
fn breakers(circuit: &Circuit) -> Vec<&Breaker> {
    let mut all = vec![&circuit.upstream];
    all.extend(circuit.operations.iter().map(|(.., breaker)| breaker));
    for (.., circuits) in circuit.callers.iter() {
        all.push(&circuits.caller);
        all.extend(circuits.uses.iter().map(|(.., breaker)| breaker));
    }
    all
}

proptest! {
    /// One caller and one operation, against a model of one circuit.
    #[test]
    fn holds_under_any_interleaving(
        failures in 1usize..5,
        within in 1u64..5000,
        open in 1u64..5000,
        events in prop::collection::vec(event(), 0..400),
    ) {
        let open = Duration::from_millis(open);
        let within = Duration::from_millis(within);
        let rules = CircuitRules { failures, within, open };
        let mut circuit = Circuit::default();
        let mut now = Duration::ZERO;
        let mut out: Vec<(u64, Pass)> = Vec::new();
        let mut serial = 0u64;
        // The model: the current probe and its start, and every failure since the last success.
        let mut probe: Option<(u64, Duration)> = None;
        let mut opened: Option<Duration> = None;
        let mut consecutive: Vec<Duration> = Vec::new();
        let is_closed = |circuit: &Circuit, now| {
            circuit.view_for(&one(), &rules, now).state == Status::Closed
        };
        for event in events {
            match event {
                Event::Step(millis) => now += Duration::from_millis(millis),
                Event::Pass => {
                    let is_closed = is_closed(&circuit, now);
                    match circuit.try_pass(&one(), false, &rules, now) {
                        Ok(pass) => {
                            serial += 1;
                            if !is_closed {
                                let since = opened.expect("it opened");
                                prop_assert!(now >= since + open, "a probe while it is open");
                                if let Some((_, since)) = probe {
                                    prop_assert!(now >= since + open, "two probes");
                                }
                                probe = Some((serial, now));
                            }
                            out.push((serial, pass));
                        }
                        Err(left) => {
                            prop_assert!(!is_closed);
                            prop_assert!(!left.is_zero() && left <= open);
                            // Never stuck: a probe is in flight or the time is not over, and the announced time is exact.
                            let since = probe.map(|(_, since)| since).or(opened).expect("a reason");
                            prop_assert_eq!(now + left, since + open);
                        }
                    }
                }
                Event::End(index, end) if !out.is_empty() => {
                    let (number, pass) = out.swap_remove(index % out.len());
                    let was_closed = is_closed(&circuit, now);
                    let changes = end_of(&mut circuit, pass, end, &rules, now);
                    prop_assert!(changes.len() <= 1);
                    if was_closed {
                        match end {
                            Some(Success) => consecutive.clear(),
                            Some(Failure) => consecutive.push(now),
                            _ => {}
                        }
                    }
                    match changes.first().map(|change| change.opened) {
                        Some(true) => {
                            prop_assert!(was_closed);
                            // The model also counts stale results, so its list may be longer, never shorter.
                            prop_assert!(consecutive.len() >= failures);
                            prop_assert!(now - consecutive[consecutive.len() - failures] <= within);
                            (opened, probe) = (Some(now), None);
                        }
                        Some(false) => {
                            prop_assert!(!was_closed && end == Some(Success));
                            (opened, probe) = (None, None);
                            consecutive.clear();
                        }
                        None if probe.is_some_and(|(current, _)| current == number) => {
                            probe = None;
                            if end == Some(Failure) {
                                opened = Some(now);
                            }
                        }
                        None => {}
                    }
                }
                Event::End(..) => {}
            }
            prop_assert_eq!(is_closed(&circuit, now), opened.is_none());
            if opened.is_none() {
                let pass = circuit.try_pass(&one(), false, &rules, now);
                circuit.abandon(pass.expect("closed: everything passes"));
            }
        }
        // Whatever happened before, after `open` it lets an attempt pass.
        prop_assert!(circuit.try_pass(&one(), false, &rules, now + open).is_ok());
    }

    /// Several callers and operations: no circuit opens without evidence for all that it stops, and none is ever stuck.
    #[test]
    fn what_stops_several_has_failed_for_several(
        failures in 1usize..7,
        events in prop::collection::vec(any_event(), 0..400),
    ) {
        let rules = CircuitRules { failures, ..RULES };
        let mut circuit = Circuit::default();
        let mut now = Duration::ZERO;
        let mut out: Vec<(Origin, Pass)> = Vec::new();
        // Every failure, with whether it was one to connect, since the last success of anybody.
        let mut row: Vec<(Origin, bool)> = Vec::new();
        for event in events {
            match event {
                AnyEvent::Step(millis) => now += Duration::from_millis(millis),
                AnyEvent::Pass(caller, operation, streams) => {
                    let origin = of(CALLERS[caller], OPERATIONS[operation]);
                    match circuit.try_pass(&origin, streams, &rules, now) {
                        Ok(pass) => out.push((origin, pass)),
                        Err(left) => prop_assert!(!left.is_zero() && left <= rules.open),
                    }
                }
                AnyEvent::End(index, end) if !out.is_empty() => {
                    let (origin, pass) = out.swap_remove(index % out.len());
                    match end {
                        Some(Success) => row.clear(),
                        Some(Failure | Lost) => row.push((origin, false)),
                        Some(NoConnection) => row.push((origin, true)),
                        _ => {}
                    }
                    for change in end_of(&mut circuit, pass, end, &rules, now) {
                        if change.subject.scope != Scope::Upstream || !change.opened {
                            continue;
                        }
                        let unconnected = row.iter().filter(|(_, unconnected)| *unconnected).count();
                        let callers: HashSet<_> = row.iter().map(|(origin, _)| origin.caller.clone()).collect();
                        let operations: HashSet<_> = row.iter().map(|(origin, _)| origin.operation).collect();
                        let several = callers.len() > 1 && operations.len() > 1;
                        prop_assert!(row.len() >= failures);
                        // What one caller or operation may have of them does not do without failures to connect.
                        prop_assert!(several || unconnected >= (failures / 2).max(1), "{:?}", row);
                    }
                }
                AnyEvent::End(..) => {}
            }
            for breaker in breakers(&circuit) {
                prop_assert!(breaker.failures(&rules, now) <= failures.max(2));
            }
        }
        for caller in CALLERS {
            for operation in OPERATIONS {
                let pass = circuit.try_pass(&of(caller, operation), false, &rules, now + rules.open);
                prop_assert!(pass.is_ok(), "{} {}", caller, operation);
                circuit.abandon(pass.unwrap());
            }
        }
    }

    /// Whatever a does, alone, in any operation, b and c are never refused.
    #[test]
    fn one_callers_failures_stop_nobody_else(
        failures in 1usize..7,
        events in prop::collection::vec(any_event(), 0..400),
    ) {
        let rules = CircuitRules { failures, ..RULES };
        let mut circuit = Circuit::default();
        let mut now = Duration::ZERO;
        let mut out: Vec<(Origin, Pass)> = Vec::new();
        for event in events {
            match event {
                AnyEvent::Step(millis) => now += Duration::from_millis(millis),
                AnyEvent::Pass(caller, operation, streams) => {
                    let origin = of(CALLERS[caller], OPERATIONS[operation]);
                    match circuit.try_pass(&origin, streams, &rules, now) {
                        Ok(pass) => out.push((origin, pass)),
                        Err(_) => prop_assert_eq!(caller, 0),
                    }
                }
                AnyEvent::End(index, end) if !out.is_empty() => {
                    let (origin, pass) = out.swap_remove(index % out.len());
                    // Those of the others end without evidence, so that no success hides what a does.
                    let a_alone = &*origin.caller == "a" && end != Some(NoConnection);
                    let _ = end_of(&mut circuit, pass, end.filter(|_| a_alone), &rules, now);
                }
                AnyEvent::End(..) => {}
            }
        }
    }
}
