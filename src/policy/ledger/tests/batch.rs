//! Batch: dealt from the even spread of the whole window, and what is left to interactive callers.

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

fn of(standing: Standing) -> AttemptKind {
    AttemptKind {
        standing,
        ..whole("works.list")
    }
}

/// A window as DevRev counts it.
struct Upstream {
    ledger: Ledger,
    limit: u64,
    used: u64,
    ends: u64,
}

impl Upstream {
    /// The first answer comes at zero. By then `used` units are taken.
    fn new(rules: LedgerRules, limit: u64, used: u64, length: u64) -> Upstream {
        let mut upstream = Upstream {
            ledger: Ledger::unknown(rules),
            limit,
            used,
            ends: length,
        };
        assert!(upstream.attempt(Standing::Interactive, Duration::ZERO));
        upstream
    }

    /// Whether one attempt is granted. It is answered at once.
    fn attempt(&mut self, standing: Standing, now: Duration) -> bool {
        let Ok(grant) = self.ledger.grant_of(of(standing), now) else {
            return false;
        };
        self.used += 1;
        assert!(self.used <= self.limit, "a 429");
        let left = SECOND * u32::try_from(self.ends).unwrap() - now;
        let left = left.as_secs_f64().ceil() as u64;
        let report = reported(self.limit, self.limit - self.used, 1000 + self.ends, left);
        self.ledger.settle(grant, report, now);
        true
    }

    /// Attempts until one is held; how many went.
    fn all(&mut self, standing: Standing, now: Duration) -> u64 {
        let mut went = 0;
        while self.attempt(standing, now) {
            went += 1;
        }
        went
    }

    fn left(&self) -> u64 {
        self.limit - self.used
    }
}

#[test]
fn batch_alone_uses_the_whole_window_evenly() {
    for spread_above in [0.0, 0.5, 1.0] {
        for (limit, used, length) in [(600, 0, 60), (600, 500, 30), (20, 0, 300), (1000, 0, 5)] {
            let rules = LedgerRules {
                spread_above,
                ..RULES
            };
            let mut upstream = Upstream::new(rules, limit, used, length);
            let whole = upstream.left();
            let mut now = Duration::ZERO;
            while upstream.left() > 0 {
                upstream.all(Standing::Batch, now);
                let hold = upstream
                    .ledger
                    .grant_of(of(Standing::Batch), now)
                    .unwrap_err();
                let until = hold.until.unwrap();
                assert!(until > now && until <= SECOND * u32::try_from(length).unwrap());
                // It is never ahead of the even line, nor behind it by more than a unit.
                let rest = length as f64 - 1.0_f64.min(length as f64 / 5.0);
                let line = whole as f64 * (1.0 - now.as_secs_f64() / rest).max(0.0);
                let left = upstream.left() as f64;
                assert!((left - line).abs() <= 2.0, "{left} for {line} at {now:?}");
                now = until;
            }
        }
    }
}

#[test]
fn batch_has_what_has_accrued_since_the_window_began() {
    let mut upstream = Upstream::new(RULES, 601, 0, 61);
    assert_eq!(upstream.all(Standing::Batch, SECOND * 30), 300);
    // Interactive callers have half of what it has left at once.
    assert_eq!(upstream.all(Standing::Interactive, SECOND * 30), 151);
}

#[test]
fn interactive_callers_wait_for_no_batch_while_they_want_less_than_the_quota() {
    let mut upstream = Upstream::new(RULES, 600, 0, 60);
    let (mut interactive, mut batch, mut waiting) = (0, 0, Vec::new());
    let mut longest = Duration::ZERO;
    for n in 0..59_900u32 {
        let now = MILLISECOND * n;
        // Nine a second, in twos.
        if n % 222 == 0 {
            waiting.extend([now, now]);
        }
        while let Some(since) = waiting.first().copied() {
            if !upstream.attempt(Standing::Interactive, now) {
                break;
            }
            waiting.remove(0);
            longest = longest.max(now - since);
            interactive += 1;
        }
        if waiting.is_empty() {
            batch += upstream.all(Standing::Batch, now);
        }
    }
    assert!(longest < SECOND, "{longest:?}");
    assert!(interactive >= 530, "{interactive}");
    assert_eq!(1 + interactive + batch, 600);
}

#[test]
fn after_a_burst_of_interactive_callers_batch_waits_for_the_even_line() {
    let mut upstream = Upstream::new(RULES, 601, 0, 61);
    for _ in 0..199 {
        assert!(upstream.attempt(Standing::Interactive, SECOND));
    }
    // 200 are used, which is what is due after 20 s.
    assert_eq!(upstream.all(Standing::Batch, SECOND * 19), 0);
    let hold = upstream
        .ledger
        .grant_of(of(Standing::Batch), SECOND * 19)
        .unwrap_err();
    assert_eq!(hold.reason, HoldReason::Spread);
    let until = hold.until.unwrap().as_secs_f64();
    assert!((until - 20.0).abs() < 0.2, "{until}");
    assert!(upstream.attempt(Standing::Batch, SECOND * 20 + MILLISECOND * 200));
    // That it waited does not mean that the reset must be probed.
    assert!(!upstream.ledger.window.as_ref().unwrap().contended);
}

#[test]
fn what_is_taken_outside_counts_as_used_and_the_reserve_is_kept() {
    let mut upstream = Upstream::new(RESERVE, 100, 0, 101);
    // 20 are reserved, so 80 are dealt out.
    let before = upstream.all(Standing::Batch, SECOND * 50);
    assert!((38..=41).contains(&before), "{before}");
    // The outside takes what is reserved for it, and then more.
    upstream.used += 20;
    upstream.attempt(Standing::Interactive, SECOND * 50);
    upstream.used += 10;
    upstream.attempt(Standing::Interactive, SECOND * 50);
    let held = upstream.all(Standing::Batch, SECOND * 55);
    assert_eq!(held, 0);
    for second in 56..101 {
        upstream.all(Standing::Batch, SECOND * second);
    }
    assert_eq!(upstream.left(), 0);
}

#[test]
fn aged_batch_gets_one_unit_after_another_of_what_is_first_come() {
    let mut upstream = Upstream::new(RULES, 601, 0, 61);
    for _ in 0..100 {
        assert!(upstream.attempt(Standing::Interactive, Duration::ZERO));
    }
    assert_eq!(upstream.all(Standing::Batch, SECOND), 0);
    assert_eq!(upstream.all(Standing::Aged, SECOND), 1);
    let hold = upstream
        .ledger
        .grant_of(of(Standing::Aged), SECOND)
        .unwrap_err();
    // 500 units in 59 s.
    let gap = (hold.until.unwrap() - SECOND).as_secs_f64();
    assert!((gap - 59.0 / 500.0).abs() < 0.01, "{gap}");
    assert!(upstream.attempt(Standing::Aged, hold.until.unwrap()));
    // Interactive callers are not held by that.
    assert!(upstream.all(Standing::Interactive, SECOND) > 190);
}

#[test]
fn between_windows_batch_waits_for_the_answer_that_tells_the_next() {
    let mut ledger = learnt(UNSPREAD, 100, 60);
    let now = SECOND * 60;
    let first = ledger.grant_of(of(Standing::Batch), now).unwrap();
    let hold = ledger.grant_of(of(Standing::Batch), now).unwrap_err();
    assert_eq!(hold.reason, HoldReason::Probing);
    let more = ledger.grant(now).unwrap();
    ledger.settle(first, reported(100, 98, 1120, 60), now);
    ledger.settle(more, reported(100, 98, 1120, 60), now);
    assert!(
        ledger
            .grant_of(of(Standing::Batch), now + SECOND * 2)
            .is_ok()
    );
}

#[test]
fn an_attempt_that_was_not_sent_gives_batch_its_unit_back() {
    let mut upstream = Upstream::new(RULES, 601, 0, 61);
    for _ in 0..50 {
        let grant = upstream
            .ledger
            .grant_of(of(Standing::Batch), SECOND * 30)
            .unwrap();
        upstream
            .ledger
            .settle(grant, Settlement::Unsent, SECOND * 30);
    }
    assert_eq!(upstream.all(Standing::Batch, SECOND * 30), 300);
    assert_eq!(upstream.all(Standing::Interactive, SECOND * 30), 151);
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        Just(Standing::Interactive),
        Just(Standing::Aged),
        Just(Standing::Batch)
    ]
}

proptest! {
    /// What holds an interactive attempt holds an aged one, and what holds that holds batch.
    #[test]
    fn no_attempt_overtakes_one_that_stands_before_it(
        limit in prop_oneof![2u64..5, Just(20u64), Just(600)],
        length in prop_oneof![2u64..10, Just(60u64), Just(300)],
        spread_above in prop_oneof![Just(0.0), Just(0.5), Just(1.0)],
        reserve in prop_oneof![Just(0.0), Just(0.2)],
        steps in prop::collection::vec((standing(), 0u64..2000, 1usize..40), 0..60),
    ) {
        let rules = LedgerRules { spread_above, reserve, ..RULES };
        let mut upstream = Upstream::new(rules, limit, 0, length);
        let mut now = Duration::ZERO;
        for (standing, wait, count) in steps {
            now += Duration::from_millis(wait);
            if now >= SECOND * u32::try_from(length).unwrap() {
                break;
            }
            for _ in 0..count {
                upstream.attempt(standing, now);
            }
            let mut until = Some(now);
            for standing in [Standing::Interactive, Standing::Aged, Standing::Batch] {
                let held = upstream.ledger.grant_of(of(standing), now);
                let next = match held {
                    Ok(grant) => {
                        upstream.ledger.settle(grant, Settlement::Unsent, now);
                        Some(now)
                    }
                    Err(hold) => hold.until,
                };
                prop_assert!(next >= until, "{standing:?}: {next:?} before {until:?}");
                until = next;
            }
        }
    }

    /// Nothing else happening, batch waits as long as is predicted.
    #[test]
    fn the_wait_of_batch_is_predicted(
        interactive in 0u64..300,
        at in 0u64..50_000,
        ahead in 0u64..400,
    ) {
        let mut upstream = Upstream::new(RULES, 601, 0, 61);
        for _ in 0..interactive {
            upstream.attempt(Standing::Interactive, SECOND);
        }
        let start = SECOND + Duration::from_millis(at);
        let behind = (Standing::Batch, ahead);
        let predicted = upstream.ledger.learnt.predict_wait(None, behind, &RULES, start);
        let mut now = start;
        let mut went = 0;
        while went <= ahead && upstream.left() > 0 {
            went += upstream.all(Standing::Batch, now);
            if went <= ahead {
                now = upstream.ledger.grant_of(of(Standing::Batch), now).unwrap_err().until.unwrap();
            }
        }
        if went > ahead {
            let waited = now - start;
            let apart = waited.max(predicted) - waited.min(predicted);
            prop_assert!(apart < SECOND, "{predicted:?} was {waited:?}");
        } else {
            prop_assert!(start + predicted >= SECOND * 61);
        }
    }
}

/// A call of `works.export` is under way when the window ends, and has no answer for long.
#[test]
fn a_slow_call_across_the_end_of_a_window_holds_batch_for_a_moment_only() {
    for standing in [Standing::Interactive, Standing::Batch] {
        let mut upstream = Upstream::new(RULES, 200, 0, 5);
        let ledger = &mut upstream.ledger;
        let slow = ledger.grant_of(of(standing), SECOND).unwrap();
        let hold = ledger.grant_of(of(Standing::Batch), SECOND * 5);
        let hold = hold.unwrap_err();
        assert_eq!(hold.until, Some(SECOND * 6), "{standing:?}");
        // Then it finds out, and others follow although it has no answer either.
        let now = SECOND * 6;
        let finds_out = ledger.grant_of(of(Standing::Batch), now).unwrap();
        let hold = ledger.grant_of(of(Standing::Batch), now).unwrap_err();
        assert_eq!(hold.until, Some(now + SECOND));
        assert!(ledger.grant_of(of(Standing::Batch), now + SECOND).is_ok());
        let _unanswered = (slow, finds_out);
    }
}

/// DevRev reported a window, and no longer does.
#[test]
fn batch_waits_for_nobody_once_there_is_no_window() {
    // An answer comes at once after the window's end, or later.
    for at in [SECOND * 5, SECOND * 10] {
        let mut upstream = Upstream::new(RULES, 200, 0, 5);
        let ledger = &mut upstream.ledger;
        let told = ledger.grant(at).unwrap();
        ledger.settle(told, good(), at);
        let interactive = ledger.grants(300, at);
        for _ in 0..300 {
            assert!(ledger.grant_of(of(Standing::Batch), at).is_ok(), "{at:?}");
        }
        drop(interactive);
    }
}
