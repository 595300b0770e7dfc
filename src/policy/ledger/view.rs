//! A snapshot of a ledger for operators, and how long its quota lasts at the present rate.

use std::time::Duration;

use super::{Ledger, LedgerRules, recovery::Recovery};
use crate::{label::label_enum, policy::operation::OperationId};

label_enum! {
    /// The state of a group.
    pub enum Status {
        /// First come, first served.
        Open = "open",
        /// The rest of the window is spread evenly to its end.
        Spread = "spread",
        /// No unit is left in the window.
        Spent = "spent",
        /// No attempt is sent until the retry-after is over.
        Paused = "paused",
        /// After a pause, one attempt at a time. Or nothing is known yet, and few attempts find out.
        Probing = "probing",
        /// After a successful probe, more attempts with each success.
        Ramping = "ramping",
    }
}

/// A snapshot for operators.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// Units of a window, as upstream last reported.
    pub limit: Option<u64>,
    /// Units left in the window that upstream last reported on.
    pub remaining: Option<u64>,
    /// Its end, in epoch seconds.
    pub reset: Option<u64>,
    /// Time left in the window; `None` if none is known.
    pub resets_in: Option<Duration>,
    /// Time left in the group's pause.
    pub paused_for: Option<Duration>,
    /// The operation that is paused by itself, and the time left.
    pub paused_operation: Option<(OperationId, Duration)>,
    /// Units of the window that are reserved for use outside revgate.
    pub reserve: u64,
    /// Attempts in flight.
    pub in_flight: u64,
    /// Units taken outside revgate: in total, and in this window.
    pub external: (u64, u64),
    /// 429s received.
    pub throttled: u64,
    /// The state of the group.
    pub state: Status,
    /// When no unit will be left at the present rate, if that is before the window's end.
    pub runs_out_in: Option<Duration>,
}

impl Ledger {
    /// A snapshot of this ledger.
    pub fn view(&self, rules: &LedgerRules, now: Duration) -> View {
        let window = self.window.as_ref().filter(|window| window.ends > now);
        let paused_for = self.paused_until(now).map(|until| until - now);
        let state = match (&self.pauses.group, window) {
            (Recovery::Paused { .. }, _) if paused_for.is_some() => Status::Paused,
            (Recovery::Paused { .. } | Recovery::Probing { .. }, _) => Status::Probing,
            (Recovery::Ramping { .. }, _) => Status::Ramping,
            (Recovery::Open, None) if self.learning.holds(now).whole.is_some() => Status::Probing,
            (Recovery::Open, Some(window)) => window.state(rules, self.claimed()),
            (Recovery::Open, None) => Status::Open,
        };
        let resets_in = window.map(|window| window.ends - now);
        let rate = self.spend_rate.at(now);
        let runs_out_in = window
            .filter(|_| rate > 0.0)
            .and_then(|window| Duration::try_from_secs_f64(window.remaining as f64 / rate).ok())
            .filter(|left| Some(*left) < resets_in);
        View {
            limit: self.last_report.map(|last| last.limit),
            remaining: self.last_report.map(|last| last.remaining),
            reset: self.last_report.map(|last| last.reset),
            resets_in,
            reserve: window.map_or(0, |window| rules.reserved(window.limit) as u64),
            paused_for,
            paused_operation: self
                .paused_operation(now)
                .map(|(id, until)| (id, until - now)),
            in_flight: self.in_flight,
            external: (self.external, window.map_or(0, |window| window.external)),
            throttled: self.throttled,
            state,
            runs_out_in,
        }
    }
}

/// Units spent per second, as an exponentially weighted moving average.
#[derive(Debug, Default)]
pub(super) struct SpendRate {
    rate: f64,
    updated: Duration,
}

/// Seconds of smoothing: long enough to be steady, short enough to follow the present load.
const SMOOTHING: f64 = 30.0;

impl SpendRate {
    pub(super) fn add(&mut self, units: u64, now: Duration) {
        self.rate = self.at(now) + units as f64 / SMOOTHING;
        self.updated = now;
    }

    pub(super) fn at(&self, now: Duration) -> f64 {
        let passed = now.saturating_sub(self.updated).as_secs_f64();
        self.rate * (-passed / SMOOTHING).exp()
    }
}
