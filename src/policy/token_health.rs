//! When a token that DevRev refused is tried again.
//!
//! Good, every attempt passes. DevRev's 401 ends that: nothing passes for a pause, then one attempt does, the probe. Its
//! success makes the token good again; another 401 makes the next pause longer. No pause is for ever: whoever mends the token
//! at DevRev need not know of this gateway.

use std::time::Duration;

use http::StatusCode;

/// A 401 may be a hiccup of DevRev's; this is short enough for that, and long enough that a dead token costs next to nothing.
pub const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// Of a window of five minutes and a thousand units a token that stays dead takes five.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What an answer says of the token that was put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    Refused,
    /// Nothing: what answers may not have looked at it.
    Unknown,
}

/// Reads an answer. DevRev documents 401 for credentials alone. A refusal for load, a fault and a redirect can come from before
/// the place where tokens are looked at.
pub fn outcome(status: StatusCode) -> Outcome {
    match status.as_u16() {
        401 => Outcome::Refused,
        408 | 429 => Outcome::Unknown,
        200..=299 | 400..=499 => Outcome::Accepted,
        _ => Outcome::Unknown,
    }
}

/// Leave to go on with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The token is good, as far as is known.
    Free,
    /// The one that finds out; its number is to be given back.
    Probe(u64),
}

/// The time, in changes, at which an attempt was sent: what it tells is about that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn(u64);

/// What an outcome changed, for whoever keeps a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was good and is refused.
    Refused,
    /// It was refused and is good.
    Accepted,
}

#[derive(Clone, Copy, Debug)]
struct Refused {
    until: Duration,
    pause: Duration,
    probe: Option<u64>,
}

/// One value of one token. `now` is always a time since any fixed instant.
#[derive(Debug, Default)]
pub struct Health {
    refused: Option<Refused>,
    /// Grows with each 401 or success that was heard.
    turn: u64,
    probes: u64,
}

impl Health {
    /// Leave for one attempt, asked for before it costs anything.
    ///
    /// # Errors
    /// The time until the next probe may go, above zero.
    pub fn ask(&mut self, now: Duration) -> Result<Pass, Duration> {
        if let Some(wait) = self.wait(now).filter(|wait| !wait.is_zero()) {
            return Err(wait);
        }
        let Some(refused) = &mut self.refused else {
            return Ok(Pass::Free);
        };
        self.probes = self.probes.wrapping_add(1);
        refused.probe = Some(self.probes);
        Ok(Pass::Probe(self.probes))
    }

    /// Asked again when the attempt is about to be sent: it may have waited, and others have learnt meanwhile that the token is
    /// refused.
    ///
    /// # Errors
    /// As for [`Health::ask`].
    pub fn send(&self, probe: Option<u64>, now: Duration) -> Result<Turn, Duration> {
        match self.refused {
            Some(refused) if refused.probe.is_none() || refused.probe != probe => {
                // Due or not, this attempt has no leave to be the probe.
                let wait = self.wait(now).unwrap_or_default();
                Err(wait.max(Duration::from_secs(1)))
            }
            _ => Ok(Turn(self.turn)),
        }
    }

    /// Takes in what an answer says. Of many that were under way together only the first is heard: the others are about a time
    /// that was judged already.
    pub fn settle(&mut self, turn: Turn, outcome: Outcome, now: Duration) -> Option<Change> {
        if turn.0 != self.turn || outcome == Outcome::Unknown {
            return None;
        }
        let was_good = self.refused.is_none();
        if outcome == Outcome::Accepted {
            self.refused = None;
            if was_good {
                return None;
            }
            self.turn = self.turn.wrapping_add(1);
            return Some(Change::Accepted);
        }
        self.turn = self.turn.wrapping_add(1);
        let pause = self.refused.map_or(FIRST_PAUSE, next);
        self.refused = Some(Refused {
            until: now.saturating_add(pause),
            pause,
            probe: None,
        });
        was_good.then_some(Change::Refused)
    }

    /// A probe has ended, however it ended. One that told nothing makes way for the next at once.
    pub fn give_back(&mut self, probe: u64) {
        if let Some(refused) = &mut self.refused
            && refused.probe == Some(probe)
        {
            refused.probe = None;
        }
    }

    /// Somebody has touched the token: the next attempt finds out.
    pub fn try_again(&mut self, now: Duration) {
        if let Some(refused) = &mut self.refused {
            refused.until = now;
            refused.pause = FIRST_PAUSE;
            // One that still waits for its turn would hold up what somebody has just asked for.
            refused.probe = None;
        }
    }

    /// Until a probe may go, zero when it may; `None` while good. While one is out: as if it failed now, because if it does not,
    /// nobody needs another.
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        self.refused.map(|refused| match refused.probe {
            Some(_) => next(refused),
            None => refused.until.saturating_sub(now),
        })
    }
}

fn next(refused: Refused) -> Duration {
    refused.pause.saturating_mul(2).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ZERO: Duration = Duration::ZERO;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn only_what_has_looked_at_a_token_tells_of_it() {
        for (status, want) in [
            (200, Outcome::Accepted),
            (204, Outcome::Accepted),
            (400, Outcome::Accepted),
            (403, Outcome::Accepted),
            (404, Outcome::Accepted),
            (401, Outcome::Refused),
            (302, Outcome::Unknown),
            (408, Outcome::Unknown),
            (429, Outcome::Unknown),
            (500, Outcome::Unknown),
            (503, Outcome::Unknown),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(outcome(status), want, "{status}");
        }
    }

    #[test]
    fn pauses_grow_to_a_minute_and_a_success_ends_them() {
        let (mut health, mut now) = (Health::default(), ZERO);
        let mut pass = health.ask(now).unwrap();
        assert_eq!(pass, Pass::Free);
        for want in [5, 10, 20, 40, 60, 60] {
            let probe = match pass {
                Pass::Free => None,
                Pass::Probe(number) => Some(number),
            };
            let turn = health.send(probe, now).unwrap();
            health.settle(turn, Outcome::Refused, now);
            assert_eq!(health.ask(now), Err(seconds(want)));
            now += seconds(want) - Duration::from_millis(1);
            assert_eq!(health.ask(now), Err(Duration::from_millis(1)));
            now += Duration::from_millis(1);
            pass = health.ask(now).unwrap();
            assert!(matches!(pass, Pass::Probe(_)));
            assert!(health.ask(now).is_err(), "one at a time");
        }
        let Pass::Probe(number) = pass else {
            panic!("a probe")
        };
        let turn = health.send(Some(number), now).unwrap();
        let change = health.settle(turn, Outcome::Accepted, now);
        assert_eq!(change, Some(Change::Accepted));
        assert_eq!((health.ask(now), health.wait(now)), (Ok(Pass::Free), None));
        // A later refusal begins with the first pause again.
        let turn = health.send(None, now).unwrap();
        assert_eq!(
            health.settle(turn, Outcome::Refused, now),
            Some(Change::Refused)
        );
        assert_eq!(health.ask(now), Err(FIRST_PAUSE));
    }

    #[test]
    fn of_a_crowd_under_way_together_one_refusal_is_heard() {
        let mut health = Health::default();
        let turns: Vec<_> = (0..50).map(|_| health.send(None, ZERO).unwrap()).collect();
        for turn in turns.clone() {
            health.settle(turn, Outcome::Refused, ZERO);
        }
        assert_eq!(health.ask(ZERO), Err(FIRST_PAUSE));
        // Nor does an answer to what was sent before bring it back.
        health.settle(turns[0], Outcome::Accepted, ZERO);
        assert_eq!(health.ask(ZERO), Err(FIRST_PAUSE));
    }

    #[test]
    fn a_probe_that_tells_nothing_makes_way_at_once() {
        let mut health = Health::default();
        let turn = health.send(None, ZERO).unwrap();
        health.settle(turn, Outcome::Refused, ZERO);
        let Ok(Pass::Probe(first)) = health.ask(FIRST_PAUSE) else {
            panic!("a probe")
        };
        let turn = health.send(Some(first), FIRST_PAUSE).unwrap();
        assert_eq!(health.settle(turn, Outcome::Unknown, FIRST_PAUSE), None);
        health.give_back(first);
        let Ok(Pass::Probe(second)) = health.ask(FIRST_PAUSE) else {
            panic!("the next")
        };
        // What the first still holds is worth nothing.
        health.give_back(first);
        assert!(health.ask(FIRST_PAUSE).is_err());
        assert!(health.send(Some(first), FIRST_PAUSE).is_err());
        assert!(health.send(Some(second), FIRST_PAUSE).is_ok());
    }

    #[test]
    fn a_touch_lets_one_attempt_find_out_at_once() {
        let mut health = Health::default();
        health.try_again(ZERO);
        assert_eq!(health.ask(ZERO), Ok(Pass::Free));
        let turn = health.send(None, ZERO).unwrap();
        health.settle(turn, Outcome::Refused, ZERO);
        health.try_again(seconds(1));
        let Ok(Pass::Probe(waiting)) = health.ask(seconds(1)) else {
            panic!("a probe")
        };
        assert!(health.ask(seconds(1)).is_err());
        // Touched once more, nobody waits for the one that still waits; nor does that one go beside the next.
        health.try_again(seconds(2));
        assert!(matches!(health.ask(seconds(2)), Ok(Pass::Probe(_))));
        assert!(health.send(Some(waiting), seconds(2)).is_err());
    }

    #[derive(Clone, Debug)]
    enum Event {
        Ask,
        Send(usize),
        Answer(usize, u8),
        Leave(usize),
        Touch,
        Wait(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Ask),
            4 => any::<usize>().prop_map(Event::Send),
            4 => (any::<usize>(), 0u8..3).prop_map(|(n, how)| Event::Answer(n, how)),
            2 => any::<usize>().prop_map(Event::Leave),
            1 => Just(Event::Touch),
            3 => (0u64..70_000).prop_map(Event::Wait),
        ]
    }

    proptest! {
        #[test]
        fn refused_one_at_a_time_goes_and_it_is_never_stuck(
            events in prop::collection::vec(event(), 0..200),
        ) {
            let (mut health, mut now) = (Health::default(), ZERO);
            let mut asked: Vec<Pass> = Vec::new();
            let mut sent: Vec<(Pass, Turn)> = Vec::new();
            let give_back = |health: &mut Health, pass: Pass| {
                if let Pass::Probe(number) = pass {
                    health.give_back(number);
                }
            };
            for event in events {
                match event {
                    Event::Ask => {
                        let refused = health.wait(now).is_some();
                        match health.ask(now) {
                            Ok(pass) => {
                                prop_assert_eq!(refused, pass != Pass::Free);
                                asked.push(pass);
                            }
                            Err(wait) => {
                                prop_assert!(refused && wait > ZERO && wait <= LONGEST_PAUSE);
                            }
                        }
                    }
                    Event::Send(n) if !asked.is_empty() => {
                        let pass = asked.swap_remove(n % asked.len());
                        let probe = match pass {
                            Pass::Free => None,
                            Pass::Probe(number) => Some(number),
                        };
                        match health.send(probe, now) {
                            Ok(turn) => sent.push((pass, turn)),
                            Err(wait) => {
                                prop_assert!(health.wait(now).is_some() && wait > ZERO);
                                give_back(&mut health, pass);
                            }
                        }
                    }
                    Event::Answer(n, how) if !sent.is_empty() => {
                        let (pass, turn) = sent.swap_remove(n % sent.len());
                        let told = [Outcome::Accepted, Outcome::Refused, Outcome::Unknown];
                        let before = health.wait(now).is_some();
                        let change = health.settle(turn, told[usize::from(how)], now);
                        let after = health.wait(now).is_some();
                        prop_assert_eq!(change == Some(Change::Refused), !before && after);
                        prop_assert_eq!(change == Some(Change::Accepted), before && !after);
                        give_back(&mut health, pass);
                    }
                    Event::Leave(n) if !asked.is_empty() => {
                        let pass = asked.swap_remove(n % asked.len());
                        give_back(&mut health, pass);
                    }
                    Event::Touch => health.try_again(now),
                    Event::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                    Event::Send(_) | Event::Answer(..) | Event::Leave(_) => {}
                }
                // The one that is out can be sent or was; no other can, while it is refused.
                if let Some(refused) = health.refused {
                    let out = asked.iter().chain(sent.iter().map(|(pass, _)| pass));
                    let current = out.filter(|pass| match pass {
                        Pass::Free => false,
                        Pass::Probe(number) => refused.probe == Some(*number),
                    });
                    prop_assert!(current.count() <= 1);
                }
            }
            for pass in asked.into_iter().chain(sent.into_iter().map(|(pass, _)| pass)) {
                give_back(&mut health, pass);
            }
            prop_assert!(health.ask(now + LONGEST_PAUSE).is_ok());
        }
    }
}
