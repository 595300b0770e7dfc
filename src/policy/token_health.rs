//! When a token that DevRev refused is tried again.
//!
//! While a token is good, every attempt passes. A 401 refuses it: no attempt passes during a pause, then one does, the probe. If
//! the probe succeeds, the token is good again. If it gets a 401, the next pause is longer. Every pause ends, so a token that
//! is repaired at DevRev comes back without any action here.

use std::time::Duration;

use http::StatusCode;

/// Short enough for a 401 that DevRev sent by mistake, and long enough that a dead token costs almost no quota.
pub const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// A dead token takes five units of a window of five minutes and a thousand units.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What an answer says about the token that the attempt carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    Accepted,
    Refused,
    /// Nothing: the answer may come from a component that does not check tokens.
    Unknown,
}

/// Reads an answer. DevRev documents 401 for credentials only. Throttling, faults and redirects may be answered before the token
/// is checked.
pub fn evidence(status: StatusCode) -> Evidence {
    match status.as_u16() {
        401 => Evidence::Refused,
        408 | 429 => Evidence::Unknown,
        200..=299 | 400..=499 => Evidence::Accepted,
        _ => Evidence::Unknown,
    }
}

/// Permission for an attempt to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The token is good, as far as is known.
    Free,
    /// This attempt is the probe. Its number is for [`TokenHealth::release_probe`].
    Probe(u64),
}

/// Counts the changes of a token's health. An answer is evidence about the generation in which its attempt was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u64);

/// A change of a token's health, for log and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was good and is refused.
    Refused,
    /// It was refused and is good.
    Accepted,
}

#[derive(Clone, Copy, Debug)]
struct Refusal {
    until: Duration,
    pause: Duration,
    probe: Option<u64>,
}

/// The health of one value of one token. `now` is always a time since any fixed instant.
#[derive(Debug, Default)]
pub struct TokenHealth {
    refusal: Option<Refusal>,
    /// Grows with each 401, and with each success that ends a refusal.
    generation: u64,
    probes: u64,
}

impl TokenHealth {
    /// A pass for one attempt, before the attempt costs anything.
    ///
    /// # Errors
    /// The time until the next probe may go, above zero.
    pub fn try_pass(&mut self, now: Duration) -> Result<Pass, Duration> {
        if let Some(wait) = self.probe_in(now).filter(|wait| !wait.is_zero()) {
            return Err(wait);
        }
        let Some(refusal) = &mut self.refusal else {
            return Ok(Pass::Free);
        };
        self.probes = self.probes.wrapping_add(1);
        refusal.probe = Some(self.probes);
        Ok(Pass::Probe(self.probes))
    }

    /// Whether the attempt may still go, when it is about to be sent. It may have waited, and the token may have been refused meanwhile.
    ///
    /// # Errors
    /// As for [`TokenHealth::try_pass`].
    pub fn try_send(&self, probe: Option<u64>, now: Duration) -> Result<Generation, Duration> {
        match self.refusal {
            Some(refusal) if refusal.probe.is_none() || refusal.probe != probe => {
                // Even if a probe is due, this attempt did not pass as one.
                let wait = self.probe_in(now).unwrap_or_default();
                Err(wait.max(Duration::from_secs(1)))
            }
            _ => Ok(Generation(self.generation)),
        }
    }

    /// Applies what an answer says. Of many attempts in flight together only the first answer counts: it starts a new generation,
    /// and the others are evidence about the old one.
    pub fn settle(
        &mut self,
        generation: Generation,
        evidence: Evidence,
        now: Duration,
    ) -> Option<Change> {
        if generation.0 != self.generation || evidence == Evidence::Unknown {
            return None;
        }
        let was_good = self.refusal.is_none();
        if evidence == Evidence::Accepted {
            self.refusal = None;
            if was_good {
                return None;
            }
            self.generation = self.generation.wrapping_add(1);
            return Some(Change::Accepted);
        }
        self.generation = self.generation.wrapping_add(1);
        let pause = self.refusal.map_or(FIRST_PAUSE, next_pause);
        self.refusal = Some(Refusal {
            until: now.saturating_add(pause),
            pause,
            probe: None,
        });
        was_good.then_some(Change::Refused)
    }

    /// The probe's attempt has ended. If its answer was no evidence, the next probe may go at once.
    pub fn release_probe(&mut self, probe: u64) {
        if let Some(refusal) = &mut self.refusal
            && refusal.probe == Some(probe)
        {
            refusal.probe = None;
        }
    }

    /// Ends the pause, because the token's file was written again: the next attempt is a probe.
    pub fn end_pause(&mut self, now: Duration) {
        if let Some(refusal) = &mut self.refusal {
            refusal.until = now;
            refusal.pause = FIRST_PAUSE;
            // A probe that still waits in the quota's queue must not delay the new one.
            refusal.probe = None;
        }
    }

    /// The time until a probe may go, zero when one may go now; `None` while the token is good. While a probe is under way it is
    /// the pause that would follow its failure, because after a success no probe is needed.
    pub fn probe_in(&self, now: Duration) -> Option<Duration> {
        self.refusal.map(|refusal| match refusal.probe {
            Some(_) => next_pause(refusal),
            None => refusal.until.saturating_sub(now),
        })
    }
}

fn next_pause(refusal: Refusal) -> Duration {
    refusal.pause.saturating_mul(2).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ZERO: Duration = Duration::ZERO;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The number of the probe, if this pass is one.
    fn number(pass: Pass) -> Option<u64> {
        match pass {
            Pass::Free => None,
            Pass::Probe(number) => Some(number),
        }
    }

    /// One attempt that is sent and answered at `now`.
    fn attempt(health: &mut TokenHealth, evidence: Evidence, now: Duration) -> Option<Change> {
        let probe = number(health.try_pass(now).unwrap());
        let generation = health.try_send(probe, now).unwrap();
        health.settle(generation, evidence, now)
    }

    /// The number of a probe that passes at `now`.
    fn probe(health: &mut TokenHealth, now: Duration) -> u64 {
        number(health.try_pass(now).unwrap()).expect("a probe")
    }

    #[test]
    fn only_answers_that_follow_a_check_of_the_token_are_evidence() {
        for (status, want) in [
            (200, Evidence::Accepted),
            (204, Evidence::Accepted),
            (400, Evidence::Accepted),
            (403, Evidence::Accepted),
            (404, Evidence::Accepted),
            (401, Evidence::Refused),
            (302, Evidence::Unknown),
            (408, Evidence::Unknown),
            (429, Evidence::Unknown),
            (500, Evidence::Unknown),
            (503, Evidence::Unknown),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(evidence(status), want, "{status}");
        }
    }

    #[test]
    fn pauses_grow_to_a_minute_and_a_success_ends_them() {
        let (mut health, mut now) = (TokenHealth::default(), ZERO);
        for want in [5, 10, 20, 40, 60, 60] {
            let change = attempt(&mut health, Evidence::Refused, now);
            assert_eq!(change.is_some(), want == 5, "only the first is a change");
            assert_eq!(health.try_pass(now), Err(seconds(want)));
            now += seconds(want) - Duration::from_millis(1);
            assert_eq!(health.try_pass(now), Err(Duration::from_millis(1)));
            now += Duration::from_millis(1);
            let number = probe(&mut health, now);
            assert!(health.try_pass(now).is_err(), "one at a time");
            health.release_probe(number);
        }
        let change = attempt(&mut health, Evidence::Accepted, now);
        assert_eq!(change, Some(Change::Accepted));
        assert_eq!(health.try_pass(now), Ok(Pass::Free));
        assert_eq!(health.probe_in(now), None);
        // A later refusal begins with the first pause again.
        let change = attempt(&mut health, Evidence::Refused, now);
        assert_eq!(change, Some(Change::Refused));
        assert_eq!(health.try_pass(now), Err(FIRST_PAUSE));
    }

    #[test]
    fn of_many_attempts_in_flight_the_first_refusal_counts() {
        let mut health = TokenHealth::default();
        let generations: Vec<_> = (0..50)
            .map(|_| health.try_send(None, ZERO).unwrap())
            .collect();
        for generation in generations.clone() {
            health.settle(generation, Evidence::Refused, ZERO);
        }
        assert_eq!(health.try_pass(ZERO), Err(FIRST_PAUSE));
        // A success of an attempt from before the refusal does not end it.
        health.settle(generations[0], Evidence::Accepted, ZERO);
        assert_eq!(health.try_pass(ZERO), Err(FIRST_PAUSE));
    }

    #[test]
    fn after_a_probe_without_evidence_the_next_goes_at_once() {
        let mut health = TokenHealth::default();
        attempt(&mut health, Evidence::Refused, ZERO);
        let first = probe(&mut health, FIRST_PAUSE);
        let generation = health.try_send(Some(first), FIRST_PAUSE).unwrap();
        let change = health.settle(generation, Evidence::Unknown, FIRST_PAUSE);
        assert_eq!(change, None);
        health.release_probe(first);
        let second = probe(&mut health, FIRST_PAUSE);
        // The number of the first probe is no longer valid.
        health.release_probe(first);
        assert!(health.try_pass(FIRST_PAUSE).is_err());
        assert!(health.try_send(Some(first), FIRST_PAUSE).is_err());
        assert!(health.try_send(Some(second), FIRST_PAUSE).is_ok());
    }

    #[test]
    fn after_a_touch_one_probe_goes_at_once() {
        let mut health = TokenHealth::default();
        health.end_pause(ZERO);
        assert_eq!(health.try_pass(ZERO), Ok(Pass::Free));
        attempt(&mut health, Evidence::Refused, ZERO);
        health.end_pause(seconds(1));
        let waiting = probe(&mut health, seconds(1));
        assert!(health.try_pass(seconds(1)).is_err());
        // After another touch a new probe goes, and the one that still waits is no longer valid.
        health.end_pause(seconds(2));
        probe(&mut health, seconds(2));
        assert!(health.try_send(Some(waiting), seconds(2)).is_err());
    }

    #[derive(Clone, Debug)]
    enum Event {
        Pass,
        Send(usize),
        Answer(usize, u8),
        Leave(usize),
        Touch,
        Wait(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Pass),
            4 => any::<usize>().prop_map(Event::Send),
            4 => (any::<usize>(), 0u8..3).prop_map(|(n, how)| Event::Answer(n, how)),
            2 => any::<usize>().prop_map(Event::Leave),
            1 => Just(Event::Touch),
            3 => (0u64..70_000).prop_map(Event::Wait),
        ]
    }

    proptest! {
        #[test]
        fn while_refused_one_probe_goes_at_a_time_and_it_never_gets_stuck(
            events in prop::collection::vec(event(), 0..200),
        ) {
            let (mut health, mut now) = (TokenHealth::default(), ZERO);
            let mut passed: Vec<Pass> = Vec::new();
            let mut sent: Vec<(Pass, Generation)> = Vec::new();
            let release = |health: &mut TokenHealth, pass: Pass| {
                if let Pass::Probe(number) = pass {
                    health.release_probe(number);
                }
            };
            for event in events {
                match event {
                    Event::Pass => {
                        let refused = health.probe_in(now).is_some();
                        match health.try_pass(now) {
                            Ok(pass) => {
                                prop_assert_eq!(refused, pass != Pass::Free);
                                passed.push(pass);
                            }
                            Err(wait) => {
                                prop_assert!(refused && wait > ZERO && wait <= LONGEST_PAUSE);
                            }
                        }
                    }
                    Event::Send(n) if !passed.is_empty() => {
                        let pass = passed.swap_remove(n % passed.len());
                        match health.try_send(number(pass), now) {
                            Ok(generation) => sent.push((pass, generation)),
                            Err(wait) => {
                                prop_assert!(health.probe_in(now).is_some() && wait > ZERO);
                                release(&mut health, pass);
                            }
                        }
                    }
                    Event::Answer(n, how) if !sent.is_empty() => {
                        let (pass, generation) = sent.swap_remove(n % sent.len());
                        let evidence = [Evidence::Accepted, Evidence::Refused, Evidence::Unknown];
                        let before = health.probe_in(now).is_some();
                        let change = health.settle(generation, evidence[usize::from(how)], now);
                        let after = health.probe_in(now).is_some();
                        prop_assert_eq!(change == Some(Change::Refused), !before && after);
                        prop_assert_eq!(change == Some(Change::Accepted), before && !after);
                        release(&mut health, pass);
                    }
                    Event::Leave(n) if !passed.is_empty() => {
                        let pass = passed.swap_remove(n % passed.len());
                        release(&mut health, pass);
                    }
                    Event::Touch => health.end_pause(now),
                    Event::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                    Event::Send(_) | Event::Answer(..) | Event::Leave(_) => {}
                }
                // While refused, there is at most one valid probe, sent or not.
                if let Some(refusal) = health.refusal {
                    let passes = passed.iter().chain(sent.iter().map(|(pass, _)| pass));
                    let current = passes.filter(|pass| {
                        number(**pass).is_some_and(|number| refusal.probe == Some(number))
                    });
                    prop_assert!(current.count() <= 1);
                }
            }
            for pass in passed.into_iter().chain(sent.into_iter().map(|(pass, _)| pass)) {
                release(&mut health, pass);
            }
            prop_assert!(health.try_pass(now + LONGEST_PAUSE).is_ok());
        }
    }
}
