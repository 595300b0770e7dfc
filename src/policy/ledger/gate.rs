//! Whether a group's attempts may leave at all: a pause, the probe that ends it, and the ramp that follows.

use std::time::Duration;

use super::{Hold, Why};

/// A probe that has no answer after so long keeps the rest no longer: another one goes. Well above the time of an
/// ordinary answer, well below that of a slow one, which must not cost everybody its own time.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A ramp that has come so far is over: as many as the connections that upstream is given by default.
const RAMP_END: u64 = 64;

/// What an attempt's end says about the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Upstream answered, and not that it was asked too often.
    Good,
    /// A 429 that named no time, or no answer at all.
    Nothing,
}

#[derive(Debug, Default)]
pub(super) enum Gate {
    #[default]
    Open,
    /// Upstream asked for silence.
    Paused { until: Duration },
    /// One attempt at a time, until an answer is good. Attempts from number `first` on are those of after the pause.
    Probing {
        first: u64,
        out: Option<(u64, Duration)>,
    },
    /// Each good answer lets two more go, so that those who waited do not all come at once.
    Ramping {
        first: u64,
        allowed: u64,
        out: u64,
        latest: Duration,
    },
}

impl Gate {
    /// Whether an attempt must be held; `next` would be its number.
    pub fn hold(&mut self, now: Duration, next: u64) -> Option<Hold> {
        if let Gate::Paused { until } = *self
            && until <= now
        {
            self.probe(next);
        }
        let (why, until) = match *self {
            Gate::Open => return None,
            Gate::Paused { until } => (Why::Paused, until),
            Gate::Probing { out: None, .. } => return None,
            Gate::Probing {
                out: Some((_, since)),
                ..
            } => (Why::Probing, since.saturating_add(PATIENCE)),
            Gate::Ramping {
                allowed,
                out,
                latest,
                ..
            } if out >= allowed => (Why::Probing, latest.saturating_add(PATIENCE)),
            Gate::Ramping { .. } => return None,
        };
        (until > now).then_some(Hold {
            why,
            until: Some(until),
        })
    }

    pub fn granted(&mut self, number: u64, now: Duration) {
        match self {
            Gate::Probing { out, .. } => *out = Some((number, now)),
            Gate::Ramping { out, latest, .. } => {
                *out += 1;
                *latest = now;
            }
            Gate::Open | Gate::Paused { .. } => {}
        }
    }

    pub fn settled(&mut self, number: u64, verdict: Verdict) {
        match self {
            Gate::Probing { first, .. } if verdict == Verdict::Good && number >= *first => {
                *self = Gate::Ramping {
                    first: number + 1,
                    allowed: 2,
                    out: 0,
                    latest: Duration::ZERO,
                };
            }
            Gate::Probing { out, .. } => {
                if out.is_some_and(|(probe, _)| probe == number) {
                    *out = None;
                }
            }
            Gate::Ramping {
                first,
                allowed,
                out,
                ..
            } if number >= *first => {
                *out = out.saturating_sub(1);
                if verdict == Verdict::Good {
                    *allowed += 1;
                    if *allowed >= RAMP_END {
                        *self = Gate::Open;
                    }
                }
            }
            Gate::Ramping { .. } | Gate::Open | Gate::Paused { .. } => {}
        }
    }

    /// Stops until then, or for longer if it was stopped for longer.
    pub fn pause(&mut self, until: Duration) {
        let until = self.paused_until().map_or(until, |old| old.max(until));
        *self = Gate::Paused { until };
    }

    /// The next attempt, number `next`, is a probe.
    pub fn probe(&mut self, next: u64) {
        *self = Gate::Probing {
            first: next,
            out: None,
        };
    }

    pub fn paused_until(&self) -> Option<Duration> {
        match self {
            Gate::Paused { until } => Some(*until),
            _ => None,
        }
    }
}
