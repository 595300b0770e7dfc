//! How a group, or one operation in it, recovers from a pause: after its end one attempt probes, and then a ramp lets more and
//! more attempts go.
//!
//! An attempt whose body is streamed may be an upload that never ends. So it probes too, but it counts against streamed attempts
//! only: whole attempts are held by whole ones alone.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Hold, HoldReason};

/// A probe without an answer for this long no longer holds the other attempts, and another probe is sent. Well above the
/// latency of an ordinary answer, and well below that of a slow one, so that one slow probe does not delay the whole group.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// An attempt of the ramp that has no answer after this time no longer counts: DevRev refuses with 429 before it does any work, so this one
/// was let in. Otherwise a few slow calls would hold all others.
pub(super) const LET_IN: Duration = Duration::from_secs(1);

/// The ramp ends when it allows this many attempts at once: the default of `upstream.max_connections`.
pub(super) const RAMP_END: u64 = 64;

/// What the end of an attempt says about upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeResult {
    /// Upstream answered, and not with 429.
    Success,
    /// A 429 without a retry-after, or no answer.
    Inconclusive,
}

/// The body of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Payload {
    /// In memory, so that DevRev has it as soon as it reads it.
    Whole,
    /// Sent as the caller sends it, so that it may never end.
    Streamed,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) enum Recovery {
    #[default]
    Open,
    /// No attempt is sent until then.
    Paused { until: Duration },
    /// One attempt at a time, until one succeeds. Attempts from number `first` on were granted after the pause.
    Probing { first: u64, probes: Probes },
    /// Each success allows two more attempts, so that those that waited are not all sent at once.
    Ramping {
        first: u64,
        allowed: u64,
        whole: InFlight,
        streamed: InFlight,
    },
}

/// The probes in flight, by number, and when they were sent. A streamed one holds no whole one: the next whole attempt probes
/// beside it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Probes {
    whole: Option<(u64, Duration)>,
    streamed: Option<(u64, Duration)>,
}

/// Attempts of a ramp, by number, and when each was sent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct InFlight(pub BTreeMap<u64, Duration>);

impl InFlight {
    /// Until when each of those counts that count now.
    pub(super) fn counting(&self, now: Duration) -> impl Iterator<Item = Duration> + use<'_> {
        let ends = self.0.values().map(|sent| sent.saturating_add(LET_IN));
        ends.filter(move |end| *end > now)
    }
}

/// Until when these hold others, if so many are allowed.
pub(super) fn full_until(
    in_flight: impl Iterator<Item = Duration>,
    allowed: u64,
) -> Option<Duration> {
    let mut ends: Vec<Duration> = in_flight.collect();
    ends.sort_unstable();
    let over = ends.len().checked_sub(usize::try_from(allowed).ok()?)?;
    ends.get(over).copied()
}

/// What holds attempts with a whole body, and those whose body is streamed. What holds the former holds the latter too.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holds {
    pub whole: Option<Hold>,
    pub streamed: Option<Hold>,
}

impl Holds {
    pub(super) fn of(&self, payload: Payload) -> Option<Hold> {
        match payload {
            Payload::Whole => self.whole,
            Payload::Streamed => self.streamed,
        }
    }

    pub(super) fn keep_pauses(&mut self) {
        let is_paused = |hold: &Hold| hold.reason == HoldReason::Paused;
        self.whole = self.whole.filter(is_paused);
        self.streamed = self.streamed.filter(is_paused);
    }

    /// What these hold, and what those hold beside them.
    pub(super) fn or(self, others: Holds) -> Holds {
        Holds {
            whole: self.whole.or(others.whole),
            streamed: self.streamed.or(others.streamed),
        }
    }
}

impl Recovery {
    /// Which attempts must wait; `next` is the number of the next one.
    pub(super) fn holds(&mut self, now: Duration, next: u64) -> Holds {
        if let Recovery::Paused { until } = *self
            && until <= now
        {
            self.probe(next);
        }
        let hold = |reason, until: Duration| {
            let until = Some(until).filter(|until| *until > now);
            until.map(|until| Hold {
                reason,
                until: Some(until),
            })
        };
        let probing =
            |sent: Duration| hold(HoldReason::Probing, sent.saturating_add(PROBE_TIMEOUT));
        match self {
            Recovery::Open => Holds::default(),
            Recovery::Paused { until } => {
                let paused = hold(HoldReason::Paused, *until);
                Holds {
                    whole: paused,
                    streamed: paused,
                }
            }
            Recovery::Probing { probes, .. } => Holds {
                whole: probes.whole.and_then(|(_, sent)| probing(sent)),
                streamed: probes.latest().and_then(probing),
            },
            Recovery::Ramping {
                allowed,
                whole,
                streamed,
                ..
            } => {
                let ramping = |until| hold(HoldReason::Probing, until);
                let all = whole.counting(now).chain(streamed.counting(now));
                Holds {
                    whole: full_until(whole.counting(now), *allowed).and_then(ramping),
                    streamed: full_until(all, *allowed).and_then(ramping),
                }
            }
        }
    }

    pub(super) fn granted(&mut self, (number, payload): (u64, Payload), now: Duration) {
        match self {
            Recovery::Probing { probes, .. } => *probes.of(payload) = Some((number, now)),
            Recovery::Ramping {
                whole, streamed, ..
            } => {
                payload.choose(whole, streamed).0.insert(number, now);
            }
            Recovery::Open | Recovery::Paused { .. } => {}
        }
    }

    pub(super) fn settled(&mut self, (number, payload): (u64, Payload), result: ProbeResult) {
        match self {
            Recovery::Probing { first, .. }
                if result == ProbeResult::Success && number >= *first =>
            {
                *self = Recovery::Ramping {
                    first: number + 1,
                    allowed: 2,
                    whole: InFlight::default(),
                    streamed: InFlight::default(),
                };
            }
            Recovery::Probing { probes, .. } => {
                let probe = probes.of(payload);
                if probe.is_some_and(|(probe, _)| probe == number) {
                    *probe = None;
                }
            }
            Recovery::Ramping {
                first,
                allowed,
                whole,
                streamed,
            } if number >= *first => {
                payload.choose(whole, streamed).0.remove(&number);
                if result == ProbeResult::Success {
                    *allowed += 1;
                    if *allowed >= RAMP_END {
                        *self = Recovery::Open;
                    }
                }
            }
            Recovery::Ramping { .. } | Recovery::Open | Recovery::Paused { .. } => {}
        }
    }

    /// As a replica follows that of the fleet: what attempts show the fleet sees alone.
    pub(super) fn followed(&self, next: u64, own: impl Fn(Duration) -> Duration) -> Recovery {
        match self {
            Recovery::Open => Recovery::Open,
            Recovery::Paused { until } => Recovery::Paused { until: own(*until) },
            Recovery::Probing { .. } | Recovery::Ramping { .. } => Recovery::Probing {
                first: next,
                probes: Probes::default(),
            },
        }
    }

    /// Pauses until then; a pause that already lasts longer stays.
    pub(super) fn pause(&mut self, until: Duration) {
        let until = self.paused_until().map_or(until, |old| old.max(until));
        *self = Recovery::Paused { until };
    }

    /// A pause ends then at the latest.
    pub(super) fn cut(&mut self, latest: Duration) {
        if let Recovery::Paused { until } = self {
            *until = latest.min(*until);
        }
    }

    /// The next attempt, number `next`, is a probe.
    pub(super) fn probe(&mut self, next: u64) {
        *self = Recovery::Probing {
            first: next,
            probes: Probes::default(),
        };
    }

    /// Whether a pause lasts, or no probe has succeeded since.
    pub(super) fn holds_back(&self) -> bool {
        matches!(self, Recovery::Paused { .. } | Recovery::Probing { .. })
    }

    pub(super) fn paused_until(&self) -> Option<Duration> {
        match self {
            Recovery::Paused { until } => Some(*until),
            _ => None,
        }
    }
}

impl Payload {
    pub(super) fn choose<T>(self, whole: T, streamed: T) -> T {
        match self {
            Payload::Whole => whole,
            Payload::Streamed => streamed,
        }
    }
}

impl Probes {
    fn of(&mut self, payload: Payload) -> &mut Option<(u64, Duration)> {
        payload.choose(&mut self.whole, &mut self.streamed)
    }

    /// When the latest was sent.
    fn latest(&self) -> Option<Duration> {
        let sent = |probe: Option<(u64, Duration)>| probe.map(|(_, sent)| sent);
        sent(self.whole).max(sent(self.streamed))
    }
}
