//! What there is to see of a ledger, and how long the quota lasts at the present rate.

use std::time::Duration;

use super::{Ledger, Rules, gate::Gate};
use crate::label::label_enum;

label_enum! {
    /// How a group stands.
    pub enum Status {
        /// First come, first served.
        Open = "open",
        /// The rest of the window is dealt out evenly to its end.
        Spread = "spread",
        /// Nothing is left in the window.
        Spent = "spent",
        /// Upstream asked for silence.
        Paused = "paused",
        /// After a pause, one attempt at a time.
        Probing = "probing",
        /// After a probe, more with each good answer.
        Ramping = "ramping",
    }
}

/// For people to look at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// Units of a window, as upstream last said.
    pub limit: Option<u64>,
    /// Units left in the window that upstream last spoke of.
    pub remaining: Option<u64>,
    /// Its end, in epoch seconds.
    pub reset: Option<u64>,
    /// How long the window still lasts; `None` when none is known.
    pub resets_in: Option<Duration>,
    /// How long the pause still lasts.
    pub paused_for: Option<Duration>,
    /// Units of a window that are left to others.
    pub reserve: u64,
    /// Attempts under way.
    pub in_flight: u64,
    /// Units that went without us: ever, and in this window.
    pub external: (u64, u64),
    /// 429s received.
    pub throttled: u64,
    /// What the group does.
    pub state: Status,
    /// When nothing will be left at the present rate, if that is before the window's end.
    pub runs_out_in: Option<Duration>,
}

impl Ledger {
    /// What there is to see.
    pub fn view(&self, rules: &Rules, now: Duration) -> View {
        let window = self.window.as_ref().filter(|window| window.ends > now);
        let paused_for = self.paused_until(now).map(|until| until - now);
        let state = match (&self.gate, window) {
            (Gate::Paused { .. }, _) if paused_for.is_some() => Status::Paused,
            (Gate::Paused { .. } | Gate::Probing { .. }, _) => Status::Probing,
            (Gate::Ramping { .. }, _) => Status::Ramping,
            (Gate::Open, Some(window)) => window.state(rules, self.claimed()),
            (Gate::Open, None) => Status::Open,
        };
        let resets_in = window.map(|window| window.ends - now);
        let rate = self.spending.now(now);
        let runs_out_in = window
            .filter(|_| rate > 0.0)
            .and_then(|window| Duration::try_from_secs_f64(window.remaining as f64 / rate).ok())
            .filter(|left| Some(*left) < resets_in);
        View {
            limit: self.said.map(|said| said.limit),
            remaining: self.said.map(|said| said.remaining),
            reset: self.said.map(|said| said.reset),
            resets_in,
            reserve: window.map_or(0, |window| rules.reserved(window.limit) as u64),
            paused_for,
            in_flight: self.in_flight,
            external: (self.external, window.map_or(0, |window| window.external)),
            throttled: self.throttled,
            state,
            runs_out_in,
        }
    }
}

/// Units a second of late: each counts less as time passes.
#[derive(Debug, Default)]
pub(super) struct Spending {
    rate: f64,
    at: Duration,
}

/// Long enough to be steady, short enough to be the present.
const LATE: f64 = 30.0;

impl Spending {
    pub fn add(&mut self, units: u64, now: Duration) {
        self.rate = self.now(now) + units as f64 / LATE;
        self.at = now;
    }

    pub fn now(&self, now: Duration) -> f64 {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.rate * (-passed / LATE).exp()
    }
}
