//! Whether a token is good, by confirmations.
//!
//! A **confirmation** is a call of revgate's own with the token. A 401 to a caller's attempt does not refuse the token: DevRev may have
//! answered it for reasons of the operation's own. It asks for a confirmation, and only a 401 to that refuses the token. While it is
//! refused no attempt passes. After a pause the next request triggers another confirmation, the **probe**, and if DevRev accepts the
//! token, it is good again. Every pause and every confirmation ends, so a token that is repaired at DevRev comes back without any
//! action here.
//!
//! What they cost: there is one confirmation at a time for each token, and the next one begins no sooner than [`FIRST_PAUSE`] after the
//! result of the last.

use std::{collections::HashMap, time::Duration};

use http::StatusCode;

use super::operation::OperationLabel;
use crate::label::label_enum;

/// Short enough for a 401 that DevRev sent by mistake, and for a token that is revoked right after it was accepted. Long enough that
/// whatever callers do, confirmations take at most 60 units of a window of five minutes.
pub const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// A dead token, or an operation that always answers 401, takes five units of a window of five minutes.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long a confirmation may take: waiting for quota, connecting, and DevRev's answer, together.
pub const CONFIRMATION_TIME: Duration = Duration::from_secs(3);

/// A confirmation whose result is not there by then has been lost. Longer than [`CONFIRMATION_TIME`], so that the result of one that
/// takes all of its time still counts.
pub const LOST_AFTER: Duration = Duration::from_secs(4);

label_enum! {
    /// The result of a confirmation.
    pub enum Finding {
        Refused = "refused",
        Good = "good",
        /// No answer in time, or one of a component that may not have checked the token.
        Unknown = "unknown",
    }
}

/// Reads the answer to a confirmation. DevRev documents 401 for credentials only. Throttling, faults and redirects may be answered
/// before the token is checked.
pub fn finding(status: StatusCode) -> Finding {
    match status.as_u16() {
        401 => Finding::Refused,
        408 | 429 => Finding::Unknown,
        200..=299 | 400..=499 => Finding::Good,
        _ => Finding::Unknown,
    }
}

/// Permission for an attempt to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The token is good, as far as is known.
    Free,
    /// A probe is due: the request starts this confirmation and goes on if DevRev accepts the token.
    Probe(Confirmation),
}

/// What follows from a 401 to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The token counts as refused already.
    Refused,
    /// Start this confirmation, and wait for its result.
    Confirm(Confirmation),
    /// Wait for the result of the one that is under way.
    Wait,
    /// A confirmation was made a short while ago: the 401 is about the operation.
    Settled,
}

/// Names one confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmation(u64);

/// A change of a token's health, for log and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was good and is refused.
    Refused,
    /// It was refused and is good.
    Accepted,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Duration,
    length: Duration,
}

impl Pause {
    /// Follows `last`, which it doubles.
    fn after(last: Option<Pause>, now: Duration) -> Pause {
        let length = last.map_or(FIRST_PAUSE, |last| {
            last.length.saturating_mul(2).min(LONGEST_PAUSE)
        });
        let until = now.saturating_add(length);
        Pause { until, length }
    }
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    confirmation: Confirmation,
    /// The operation whose 401 asked for it; `None` if it is a probe.
    operation: Option<OperationLabel>,
    lost_at: Duration,
}

/// The health of one value of one token. `now` is always a time since any fixed instant.
#[derive(Debug, Default)]
pub struct TokenHealth {
    /// While the token is refused: the next probe comes after it.
    refusal: Option<Pause>,
    under_way: Option<UnderWay>,
    count: u64,
    /// While the token is good: the next confirmation comes no sooner.
    next: Duration,
    /// Operations whose 401 was their own. Each asks for the next confirmation after its pause, so another operation's 401 still finds
    /// a revoked token soon. Bounded by the table of operations.
    own: HashMap<OperationLabel, Pause>,
}

impl TokenHealth {
    /// A pass for one attempt, before the attempt costs anything.
    ///
    /// # Errors
    /// The time until a probe may go, above zero.
    pub fn try_pass(&mut self, now: Duration) -> Result<Pass, Duration> {
        match self.refused_for(now) {
            None => Ok(Pass::Free),
            Some(Duration::ZERO) => Ok(Pass::Probe(self.begin(None, now))),
            Some(wait) => Err(wait),
        }
    }

    /// Whether the attempt may still go, when it is about to be sent. It may have waited, and the token may have been refused meanwhile.
    ///
    /// # Errors
    /// The time until a probe may go, zero when one may go now: this attempt did not pass as one.
    pub fn try_send(&self, now: Duration) -> Result<(), Duration> {
        self.refused_for(now).map_or(Ok(()), Err)
    }

    /// An attempt of `operation` with this token was answered with 401.
    pub fn doubt(&mut self, operation: OperationLabel, now: Duration) -> Doubt {
        if self.refusal.is_some() {
            return Doubt::Refused;
        }
        if self.under_way(now).is_some() {
            return Doubt::Wait;
        }
        let own = self.own.get(&operation);
        if now < self.next || own.is_some_and(|pause| now < pause.until) {
            return Doubt::Settled;
        }
        Doubt::Confirm(self.begin(Some(operation), now))
    }

    /// Applies the result of a confirmation, unless a newer one has begun.
    pub fn settle(
        &mut self,
        confirmation: Confirmation,
        finding: Finding,
        now: Duration,
    ) -> Option<Change> {
        let under_way = self.under_way?;
        if under_way.confirmation != confirmation {
            return None;
        }
        self.under_way = None;
        self.next = now.saturating_add(FIRST_PAUSE);
        let refusal = self.refusal;
        match finding {
            Finding::Refused => {
                self.refusal = Some(Pause::after(refusal, now));
                self.own.clear();
                refusal.is_none().then_some(Change::Refused)
            }
            Finding::Good => {
                self.refusal = None;
                if let Some(operation) = under_way.operation {
                    let last = self.own.get(&operation).copied();
                    // After a long time without a 401 it starts with the first pause again.
                    let last = last.filter(|last| now <= last.until.saturating_add(LONGEST_PAUSE));
                    self.own.insert(operation, Pause::after(last, now));
                }
                refusal.map(|_| Change::Accepted)
            }
            Finding::Unknown => {
                if let Some(refusal) = &mut self.refusal {
                    refusal.until = self.next;
                }
                None
            }
        }
    }

    /// The confirmation has ended without a result: the next one may begin at once.
    pub fn abandon(&mut self, confirmation: Confirmation) {
        self.under_way
            .take_if(|under_way| under_way.confirmation == confirmation);
    }

    /// Ends all pauses, because the token's file was written again: the next request may probe, and the next 401 is confirmed.
    pub fn end_pause(&mut self, now: Duration) {
        // One that still waits for quota must not delay the next.
        self.under_way = None;
        self.next = now;
        self.own.clear();
        if self.refusal.is_some() {
            self.refusal = Some(Pause {
                until: now,
                length: FIRST_PAUSE,
            });
        }
    }

    /// The time until a probe may go, zero when one may go now; `None` while the token is good. While a probe is under way it is
    /// the time that it may still take.
    pub fn refused_for(&self, now: Duration) -> Option<Duration> {
        let refusal = self.refusal?;
        let until = self.under_way(now).map_or(refusal.until, |it| it.lost_at);
        Some(until.saturating_sub(now))
    }

    fn under_way(&self, now: Duration) -> Option<UnderWay> {
        self.under_way.filter(|under_way| now < under_way.lost_at)
    }

    fn begin(&mut self, operation: Option<OperationLabel>, now: Duration) -> Confirmation {
        self.count = self.count.wrapping_add(1);
        let confirmation = Confirmation(self.count);
        self.under_way = Some(UnderWay {
            confirmation,
            operation,
            lost_at: now.saturating_add(LOST_AFTER),
        });
        confirmation
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::operation::Operation, *};
    use crate::label::assert_labels;

    const ZERO: Duration = Duration::ZERO;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn operation(name: &str) -> OperationLabel {
        Operation::from_path(name).label()
    }

    fn works() -> OperationLabel {
        operation("works.list")
    }

    /// A 401 to `operation` starts a confirmation.
    fn confirm(health: &mut TokenHealth, operation: OperationLabel, now: Duration) -> Confirmation {
        match health.doubt(operation, now) {
            Doubt::Confirm(confirmation) => confirmation,
            other => panic!("{other:?}"),
        }
    }

    /// A request starts a probe.
    fn probe(health: &mut TokenHealth, now: Duration) -> Confirmation {
        match health.try_pass(now) {
            Ok(Pass::Probe(confirmation)) => confirmation,
            other => panic!("{other:?}"),
        }
    }

    /// A token that was refused at `now`.
    fn refused(now: Duration) -> TokenHealth {
        let mut health = TokenHealth::default();
        let confirmation = confirm(&mut health, works(), now);
        let change = health.settle(confirmation, Finding::Refused, now);
        assert_eq!(change, Some(Change::Refused));
        health
    }

    #[test]
    fn only_answers_that_follow_a_check_of_the_token_are_findings() {
        for (status, want) in [
            (200, Finding::Good),
            (204, Finding::Good),
            (400, Finding::Good),
            (403, Finding::Good),
            (404, Finding::Good),
            (401, Finding::Refused),
            (302, Finding::Unknown),
            (408, Finding::Unknown),
            (429, Finding::Unknown),
            (500, Finding::Unknown),
            (503, Finding::Unknown),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(finding(status), want, "{status}");
        }
        assert_labels!(Finding: "refused" "good" "unknown");
    }

    #[test]
    fn a_401_refuses_the_token_only_if_it_is_confirmed() {
        for (finding, change) in [
            (Finding::Refused, Some(Change::Refused)),
            (Finding::Good, None),
            (Finding::Unknown, None),
        ] {
            let mut health = TokenHealth::default();
            let confirmation = confirm(&mut health, works(), ZERO);
            assert_eq!(health.doubt(works(), ZERO), Doubt::Wait, "one at a time");
            assert_eq!(health.doubt(operation("works.get"), ZERO), Doubt::Wait);
            assert_eq!(
                health.try_pass(ZERO),
                Ok(Pass::Free),
                "meanwhile it is good"
            );
            assert_eq!(health.settle(confirmation, finding, ZERO), change);
            let is_refused = finding == Finding::Refused;
            assert_eq!(
                health.refused_for(ZERO).is_some(),
                is_refused,
                "{finding:?}"
            );
            let late = health.doubt(works(), ZERO);
            let want = [Doubt::Settled, Doubt::Refused][usize::from(is_refused)];
            assert_eq!(late, want, "{finding:?}");
            assert_eq!(health.settle(confirmation, Finding::Refused, ZERO), None);
        }
    }

    #[test]
    fn pauses_grow_to_a_minute_and_a_success_ends_them() {
        let (mut health, mut now) = (refused(ZERO), ZERO);
        for want in [5, 10, 20, 40, 60, 60] {
            assert_eq!(health.try_pass(now), Err(seconds(want)));
            assert_eq!(health.try_send(now), Err(seconds(want)));
            now += seconds(want) - Duration::from_millis(1);
            assert_eq!(health.try_pass(now), Err(Duration::from_millis(1)));
            now += Duration::from_millis(1);
            assert_eq!(health.refused_for(now), Some(ZERO));
            let probe = probe(&mut health, now);
            assert_eq!(health.try_pass(now), Err(LOST_AFTER), "one at a time");
            assert_eq!(health.settle(probe, Finding::Refused, now), None);
        }
        now += seconds(60);
        let accepted = probe(&mut health, now);
        let change = health.settle(accepted, Finding::Good, now);
        assert_eq!(change, Some(Change::Accepted));
        assert_eq!(health.try_pass(now), Ok(Pass::Free));
        // A later refusal is found after the shortest pause, and begins with it again.
        now += FIRST_PAUSE;
        let confirmation = confirm(&mut health, works(), now);
        let change = health.settle(confirmation, Finding::Refused, now);
        assert_eq!(change, Some(Change::Refused));
        assert_eq!(health.try_pass(now), Err(FIRST_PAUSE));
    }

    /// The confirmations that 401s to these operations cost in this time, with one of each every 100 ms.
    fn cost(health: &mut TokenHealth, operations: &[OperationLabel], from: u64, to: u64) -> usize {
        let mut count = 0;
        for tenth in from * 10..to * 10 {
            let now = Duration::from_millis(tenth * 100);
            for operation in operations {
                if let Doubt::Confirm(confirmation) = health.doubt(*operation, now) {
                    count += 1;
                    assert_eq!(health.settle(confirmation, Finding::Good, now), None);
                }
            }
        }
        count
    }

    #[test]
    fn an_operation_that_always_answers_401_costs_little() {
        let mut health = TokenHealth::default();
        // At 0, 5, 15, 35 and 75 s, and then each minute.
        assert_eq!(cost(&mut health, &[works()], 0, 300), 8);
        assert_eq!(cost(&mut health, &[works()], 300, 600), 5);
        // After a long time without a 401 the first pause comes again.
        assert_eq!(cost(&mut health, &[works()], 900, 920), 3);
        // However many operations there are.
        let all: Vec<_> = ["works.get", "works.list", "accounts.get", "accounts.list"]
            .map(operation)
            .into();
        let count = cost(&mut TokenHealth::default(), &all, 0, 300);
        assert!(count <= 8 * all.len() && count <= 60, "{count}");
    }

    #[test]
    fn a_token_that_is_revoked_right_after_it_was_accepted_is_found_soon() {
        let mut health = TokenHealth::default();
        cost(&mut health, &[works()], 0, 255);
        let now = seconds(255);
        let own = confirm(&mut health, works(), now);
        health.settle(own, Finding::Good, now);
        // It is revoked. The operation that always answers 401 starts no confirmation for a minute, but any other does.
        let (soon, last) = (now + FIRST_PAUSE, now + LONGEST_PAUSE);
        let moment = Duration::from_millis(1);
        let other = operation("works.get");
        assert_eq!(health.doubt(other, soon - moment), Doubt::Settled);
        assert_eq!(health.doubt(works(), last - moment), Doubt::Settled);
        let found = confirm(&mut health, other, soon);
        let change = health.settle(found, Finding::Refused, soon);
        assert_eq!(change, Some(Change::Refused));
        assert_eq!(health.doubt(works(), soon), Doubt::Refused);
    }

    #[test]
    fn a_confirmation_without_a_result_leaves_everything_as_it_was() {
        let mut health = refused(ZERO);
        // Its task ended: the next one goes at once.
        let dropped = probe(&mut health, FIRST_PAUSE);
        health.abandon(dropped);
        let silent = probe(&mut health, FIRST_PAUSE);
        health.abandon(dropped);
        assert!(health.try_pass(FIRST_PAUSE).is_err(), "not that one");
        // It is lost: the next one goes then, and its late result is too late.
        let mut now = FIRST_PAUSE + LOST_AFTER;
        let unknown = probe(&mut health, now);
        assert_eq!(health.settle(silent, Finding::Good, now), None);
        // It was not answered: neither a longer pause nor none.
        assert_eq!(health.settle(unknown, Finding::Unknown, now), None);
        assert_eq!(health.try_pass(now), Err(FIRST_PAUSE));
        now += FIRST_PAUSE;
        let refused = probe(&mut health, now);
        health.settle(refused, Finding::Refused, now);
        assert_eq!(health.try_pass(now), Err(FIRST_PAUSE * 2));
    }

    #[test]
    fn after_a_touch_one_probe_goes_at_once() {
        let mut health = TokenHealth::default();
        health.end_pause(ZERO);
        assert_eq!(health.try_pass(ZERO), Ok(Pass::Free));
        let mut health = refused(ZERO);
        health.end_pause(seconds(1));
        let waiting = probe(&mut health, seconds(1));
        assert!(health.try_pass(seconds(1)).is_err());
        // After another touch a new probe goes, and the result of the one that still waits no longer counts.
        health.end_pause(seconds(2));
        let second = probe(&mut health, seconds(2));
        assert_eq!(health.settle(waiting, Finding::Good, seconds(2)), None);
        let change = health.settle(second, Finding::Good, seconds(2));
        assert_eq!(change, Some(Change::Accepted));
        // Of a good token the next 401 is confirmed.
        assert_eq!(health.doubt(works(), seconds(2)), Doubt::Settled);
        health.end_pause(seconds(2));
        confirm(&mut health, works(), seconds(2));
    }

    #[derive(Clone, Debug)]
    enum Event {
        Pass,
        Unauthorized(usize),
        Result(usize, usize),
        Dropped(usize),
        Touch,
        Wait(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Pass),
            4 => (0usize..4).prop_map(Event::Unauthorized),
            4 => (any::<usize>(), 0usize..3).prop_map(|(n, how)| Event::Result(n, how)),
            1 => any::<usize>().prop_map(Event::Dropped),
            1 => Just(Event::Touch),
            3 => (0u64..8_000).prop_map(Event::Wait),
            1 => (0u64..70_000).prop_map(Event::Wait),
        ]
    }

    proptest! {
        #[test]
        fn while_refused_one_probe_goes_at_a_time_and_it_never_gets_stuck(
            events in prop::collection::vec(event(), 0..200),
        ) {
            let operations = ["works.get", "works.list", "accounts.get", "not-known"].map(operation);
            let (mut health, mut now) = (TokenHealth::default(), ZERO);
            // Confirmations without a result, each with the time of its beginning; the last one may still count.
            let mut begun: Vec<(Confirmation, Duration)> = Vec::new();
            let mut counts: Option<Confirmation> = None;
            let mut earliest = ZERO;
            for event in events {
                let was_refused = health.refused_for(now).is_some();
                let mut started = None;
                match event {
                    Event::Pass => match health.try_pass(now) {
                        Ok(Pass::Free) => prop_assert!(!was_refused),
                        Ok(Pass::Probe(confirmation)) => {
                            prop_assert!(was_refused);
                            started = Some(confirmation);
                        }
                        Err(wait) => {
                            prop_assert!(was_refused && wait > ZERO && wait <= LONGEST_PAUSE);
                            prop_assert_eq!(health.try_send(now), Err(wait));
                        }
                    },
                    Event::Unauthorized(n) => match health.doubt(operations[n], now) {
                        Doubt::Refused => prop_assert!(was_refused),
                        Doubt::Confirm(confirmation) => {
                            prop_assert!(!was_refused);
                            started = Some(confirmation);
                        }
                        Doubt::Wait => prop_assert!(!was_refused && counts.is_some()),
                        Doubt::Settled => prop_assert!(!was_refused),
                    },
                    Event::Result(n, how) if !begun.is_empty() => {
                        let (confirmation, _) = begun.swap_remove(n % begun.len());
                        let finding = Finding::ALL[how];
                        let change = health.settle(confirmation, finding, now);
                        let is_refused = health.refused_for(now).is_some();
                        if counts == Some(confirmation) {
                            counts = None;
                            earliest = now + FIRST_PAUSE;
                            let want = match finding {
                                Finding::Refused => true,
                                Finding::Good => false,
                                Finding::Unknown => was_refused,
                            };
                            prop_assert_eq!(is_refused, want);
                        } else {
                            prop_assert_eq!(is_refused, was_refused);
                        }
                        prop_assert_eq!(change == Some(Change::Refused), !was_refused && is_refused);
                        prop_assert_eq!(change == Some(Change::Accepted), was_refused && !is_refused);
                    }
                    Event::Dropped(n) if !begun.is_empty() => {
                        let (confirmation, _) = begun.swap_remove(n % begun.len());
                        health.abandon(confirmation);
                        counts = counts.filter(|counts| *counts != confirmation);
                    }
                    Event::Touch => {
                        health.end_pause(now);
                        (counts, earliest) = (None, now);
                    }
                    Event::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                    Event::Result(..) | Event::Dropped(_) => {}
                }
                if let Some(confirmation) = started {
                    prop_assert!(now >= earliest, "too soon after the last result");
                    let under_way = begun.iter().find(|(begun, _)| Some(*begun) == counts);
                    prop_assert!(under_way.is_none_or(|(_, at)| now >= *at + LOST_AFTER));
                    begun.push((confirmation, now));
                    counts = Some(confirmation);
                }
            }
            // Even if no result ever comes.
            prop_assert!(health.try_pass(now + LONGEST_PAUSE).is_ok());
        }
    }
}
