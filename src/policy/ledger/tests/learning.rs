//! Groups about which nothing is known yet.

use super::*;

const HALF: Duration = Duration::from_millis(500);

/// It was sent and there was no answer, or it told nothing.
const SILENT: [fn() -> Settlement; 2] =
    [|| Settlement::InDoubt, || answered(Admitted::Unknown, None)];

#[test]
fn one_attempt_finds_out_and_then_nobody_is_held_on_that_account() {
    for (settlement, more) in [
        (good(), 1000),
        // A window in which others have left little.
        (reported(1000, 99, 1300, 300), 1),
        (reported(1000, 999, 1300, 300), 500),
        // A reset that is of no use.
        (reported(10, 0, 30, 0), 1000),
    ] {
        let mut ledger = Ledger::unknown(RULES);
        let first = ledger.grant(Duration::ZERO).unwrap();
        let hold = ledger.grant(HALF).unwrap_err();
        assert_eq!(
            (hold.reason, hold.until),
            (HoldReason::Probing, Some(SECOND))
        );
        assert_eq!(ledger.view(HALF).state, Status::Probing);
        assert!(ledger.predict_wait(100, HALF).is_zero());
        ledger.settle(first, settlement, HALF);
        assert_eq!(ledger.all_grants(HALF).len(), more, "{settlement:?}");
    }
}

#[test]
fn a_429_that_tells_the_window_is_the_only_one() {
    let mut ledger = Ledger::unknown(RULES);
    let first = ledger.grant(Duration::ZERO).unwrap();
    let feedback = Feedback {
        limit: Some(1000),
        remaining: Some(0),
        reset: Some(1030),
        resets_in: Some(SECOND * 30),
        retry_after: Some(SECOND * 30),
    };
    let admitted = Admitted::No;
    ledger.settle(first, Settlement::Answered { feedback, admitted }, SECOND);
    let hold = ledger.grant(SECOND).unwrap_err();
    assert_eq!(hold.reason, HoldReason::Paused);
    assert_eq!(ledger.predict_wait(0, SECOND), SECOND * 30);
}

#[test]
fn attempts_that_tell_nothing_let_more_go_and_never_all() {
    for silent in SILENT {
        let mut ledger = Ledger::unknown(RULES);
        let mut sizes = Vec::new();
        for _ in 0..9 {
            let round = ledger.all_grants(SECOND);
            sizes.push(round.len());
            ledger.settle_all(round, silent(), SECOND);
        }
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 64, 64, 64], "{:?}", silent());
        ledger.attempt(good(), SECOND);
        assert_eq!(ledger.all_grants(SECOND).len(), 1000);
    }
    // What the limiter itself refused, or was not sent, makes room for no more than itself.
    let mut ledger = Ledger::unknown(RULES);
    for settlement in [refused(None), Settlement::Unsent] {
        for _ in 0..9 {
            let round = ledger.all_grants(SECOND);
            assert_eq!(round.len(), 1);
            ledger.settle_all(round, settlement, SECOND);
        }
    }
    // Those that find no connection fail together.
    ledger.attempt(Settlement::Unreachable, SECOND);
    assert_eq!(ledger.all_grants(SECOND).len(), 64);
}

#[test]
fn while_devrev_hangs_nobody_is_held_for_long() {
    let mut ledger = Ledger::unknown(RULES);
    let (mut now, mut out) = (Duration::ZERO, Vec::new());
    let mut sizes = Vec::new();
    for _ in 0..8 {
        let round = ledger.all_grants(now);
        sizes.push(round.len());
        out.extend(round);
        let until = ledger.grant(now).unwrap_err().until.unwrap();
        assert_eq!(until, now + SECOND);
        now = until;
    }
    // All that are older were let in.
    assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 64, 64]);
    ledger.settle_all(out, Settlement::InDoubt, now);
    assert_eq!(ledger.all_grants(now).len(), 64);
}

#[test]
fn an_upload_that_never_ends_holds_no_whole_attempt() {
    let mut ledger = Ledger::unknown(RULES);
    let upload = ledger
        .grant_of(streamed("works.create"), Duration::ZERO)
        .unwrap();
    assert!(
        ledger
            .grant_of(streamed("works.create"), Duration::ZERO)
            .is_err()
    );
    let whole = ledger.grant(Duration::ZERO).unwrap();
    assert!(ledger.grant(Duration::ZERO).is_err());
    ledger.settle(whole, good(), HALF);
    assert_eq!(ledger.all_grants(HALF).len(), 1000);
    drop(upload);
    // By itself it holds others for a second.
    let mut ledger = Ledger::unknown(RULES);
    let _upload = ledger
        .grant_of(streamed("works.create"), Duration::ZERO)
        .unwrap();
    assert!(ledger.grant_of(streamed("works.create"), SECOND).is_ok());
}

#[test]
fn an_answer_about_a_token_tells_too() {
    for (answer, more) in [(good(), 1000), (reported(1000, 999, 1300, 300), 500)] {
        let mut ledger = Ledger::unknown(RULES);
        ledger.attribute(answer, SECOND);
        assert_eq!(ledger.all_grants(SECOND).len(), more);
    }
}

#[test]
fn an_operators_resume_forgets_what_was_known() {
    let mut ledger = learnt(UNSPREAD, 1000, 300);
    let early = ledger.grant(SECOND).unwrap();
    ledger.resume();
    assert_eq!(ledger.all_grants(SECOND).len(), 1);
    // An attempt from before tells the window, and not that there is none.
    ledger.settle(early, good(), SECOND);
    assert_eq!(ledger.all_grants(SECOND).len(), 0);
}

#[test]
fn a_window_that_ended_long_ago_is_found_out_anew() {
    let ends = SECOND * 60;
    for (gap, more) in [
        (Duration::ZERO, 1000),
        (HALF, 1000),
        (SECOND, 1),
        (SECOND * 900, 1),
    ] {
        let mut ledger = learnt(UNSPREAD, 2000, 60);
        let now = ends + gap;
        assert_eq!(ledger.all_grants(now).len(), more, "{gap:?}");
        if more == 1 {
            // And no longer than an answer takes.
            let first = ledger.next_number - 1;
            assert!(ledger.learning.is_asked_by(first));
        }
    }
    // Looking at it changes nothing.
    let mut ledger = learnt(UNSPREAD, 2000, 60);
    ledger.gate(ends);
    assert_eq!(ledger.all_grants(ends + SECOND * 10).len(), 1);
    // While attempts go on, the answers to the first of them are awaited.
    let mut ledger = learnt(UNSPREAD, 2000, 60);
    let mut went = 0;
    for n in 0..40 {
        let now = ends + Duration::from_millis(100) * n;
        went += usize::from(ledger.grant(now).is_ok());
    }
    assert_eq!(went, 40);
}
