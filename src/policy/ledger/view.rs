//! A snapshot of a ledger for operators, and how long its quota lasts at the present rate.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Ledger, LedgerRules, outlook::Outlook, recovery::Recovery, window::Window};
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
    /// Since it was first heard of.
    pub opened_for: Option<Duration>,
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
    /// When the rest will be spread at the present rate, if that is before the window's end.
    pub spreads_in: Option<Duration>,
}

impl Ledger {
    /// Whether a pause of the group lasts, or no probe has succeeded since.
    pub fn is_held_back(&self) -> bool {
        self.pauses.group.holds_back()
    }

    /// As [`Self::is_held_back`], for the operation that was paused by itself.
    pub fn operation_held_back(&self) -> Option<OperationId> {
        self.pauses.operation_held_back()
    }

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
        let forecast = window.map(|window| self.outlook(window, rules, now).forecast());
        let forecast = forecast.unwrap_or_default();
        View {
            limit: self.last_report.map(|last| last.limit),
            remaining: self.last_report.map(|last| last.remaining),
            reset: self.last_report.map(|last| last.reset),
            resets_in,
            opened_for: window.map(|window| now.saturating_sub(window.opened)),
            reserve: window.map_or(0, |window| rules.reserved(window.limit) as u64),
            paused_for,
            paused_operation: self
                .paused_operation(now)
                .map(|(id, until)| (id, until - now)),
            in_flight: self.in_flight,
            external: (self.external, window.map_or(0, |window| window.external)),
            throttled: self.throttled,
            state,
            runs_out_in: forecast.runs_out_in,
            spreads_in: forecast.spreads_in,
        }
    }

    fn outlook(&self, window: &Window, rules: &LedgerRules, now: Duration) -> Outlook {
        Outlook {
            remaining: window.remaining as f64,
            first_come: window.first_come_left(rules, self.claimed()),
            spreads: rules.spread_above < 1.0,
            rate: self.spend_rate.at(now),
            external_rate: self.external_spend.at(now),
            ends_in: window.ends - now,
        }
    }
}

/// Units spent per second, as an exponentially weighted moving average.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SpendRate {
    rate: f64,
    updated: Duration,
}

/// Seconds of smoothing: long enough to be steady, short enough to follow the present load.
pub(in crate::policy) const SMOOTHING: f64 = 30.0;

impl SpendRate {
    pub(crate) fn add(&mut self, units: u64, now: Duration) {
        self.rate = self.at(now) + units as f64 / SMOOTHING;
        self.updated = now;
    }

    /// The same by another clock.
    pub(super) fn shifted(&self, to: impl Fn(Duration) -> Duration) -> SpendRate {
        SpendRate {
            rate: self.rate,
            updated: to(self.updated),
        }
    }

    pub(crate) fn at(&self, now: Duration) -> f64 {
        let passed = now.saturating_sub(self.updated).as_secs_f64();
        self.rate * (-passed / SMOOTHING).exp()
    }
}
