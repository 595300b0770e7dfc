//! How a group recovers from a pause: after its end one attempt probes, and then a ramp lets more and more attempts go.

use std::time::Duration;

use super::{Hold, HoldReason};

/// A probe without an answer for this long no longer holds the other attempts, and another probe is sent. Well above the
/// latency of an ordinary answer, and well below that of a slow one, so that one slow probe does not delay the whole group.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The ramp ends when it allows this many attempts at once: the default of `upstream.max_connections`.
const RAMP_END: u64 = 64;

/// What the end of an attempt says about upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeResult {
    /// Upstream answered, and not with 429.
    Success,
    /// A 429 without a retry-after, or no answer.
    Inconclusive,
}

#[derive(Debug, Default)]
pub(super) enum Recovery {
    #[default]
    Open,
    /// No attempt is sent until then.
    Paused { until: Duration },
    /// One attempt at a time, until one succeeds. Attempts from number `first` on were granted after the pause.
    Probing {
        first: u64,
        in_flight: Option<(u64, Duration)>,
    },
    /// Each success allows two more attempts, so that those that waited are not all sent at once.
    Ramping {
        first: u64,
        allowed: u64,
        in_flight: u64,
        latest: Duration,
    },
}

impl Recovery {
    /// Whether an attempt must wait; `next` would be its number.
    pub(super) fn hold(&mut self, now: Duration, next: u64) -> Option<Hold> {
        if let Recovery::Paused { until } = *self
            && until <= now
        {
            self.probe(next);
        }
        let (reason, until) = match *self {
            Recovery::Open => return None,
            Recovery::Paused { until } => (HoldReason::Paused, until),
            Recovery::Probing {
                in_flight: None, ..
            } => return None,
            Recovery::Probing {
                in_flight: Some((_, sent)),
                ..
            } => (HoldReason::Probing, sent.saturating_add(PROBE_TIMEOUT)),
            Recovery::Ramping {
                allowed,
                in_flight,
                latest,
                ..
            } if in_flight >= allowed => {
                (HoldReason::Probing, latest.saturating_add(PROBE_TIMEOUT))
            }
            Recovery::Ramping { .. } => return None,
        };
        (until > now).then_some(Hold {
            reason,
            until: Some(until),
        })
    }

    pub(super) fn granted(&mut self, number: u64, now: Duration) {
        match self {
            Recovery::Probing { in_flight, .. } => *in_flight = Some((number, now)),
            Recovery::Ramping {
                in_flight, latest, ..
            } => {
                *in_flight += 1;
                *latest = now;
            }
            Recovery::Open | Recovery::Paused { .. } => {}
        }
    }

    pub(super) fn settled(&mut self, number: u64, result: ProbeResult) {
        match self {
            Recovery::Probing { first, .. }
                if result == ProbeResult::Success && number >= *first =>
            {
                *self = Recovery::Ramping {
                    first: number + 1,
                    allowed: 2,
                    in_flight: 0,
                    latest: Duration::ZERO,
                };
            }
            Recovery::Probing { in_flight, .. } => {
                if in_flight.is_some_and(|(probe, _)| probe == number) {
                    *in_flight = None;
                }
            }
            Recovery::Ramping {
                first,
                allowed,
                in_flight,
                ..
            } if number >= *first => {
                *in_flight = in_flight.saturating_sub(1);
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

    /// Pauses until then; a pause that already lasts longer stays.
    pub(super) fn pause(&mut self, until: Duration) {
        let until = self.paused_until().map_or(until, |old| old.max(until));
        *self = Recovery::Paused { until };
    }

    /// The next attempt, number `next`, is a probe.
    pub(super) fn probe(&mut self, next: u64) {
        *self = Recovery::Probing {
            first: next,
            in_flight: None,
        };
    }

    pub(super) fn paused_until(&self) -> Option<Duration> {
        match self {
            Recovery::Paused { until } => Some(*until),
            _ => None,
        }
    }
}
