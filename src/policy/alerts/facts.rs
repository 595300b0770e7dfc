//! What alerts are made of.

use std::time::Duration;

use crate::policy::{
    circuit::{self, Stopped},
    ledger,
    operation::OperationLabel,
};

/// The state of a gateway.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Epoch seconds.
    pub now: f64,
    /// The circuit that stops everything.
    pub circuit: Option<circuit::View>,
    /// Those that stop less.
    pub stopped: Vec<Stopped>,
    pub tokens: Vec<TokenFacts>,
    pub groups: Vec<GroupFacts>,
    /// `None` where replicas share nothing.
    pub fleet: Option<FleetFacts>,
    pub last_minute: LastMinute,
    pub reload: Option<ReloadFacts>,
    pub dropped_lines: Option<DroppedLines>,
    /// Callers that have used something deprecated, in their order, and when they did so last, in epoch seconds.
    pub deprecated: Vec<(String, u64)>,
}

#[derive(Clone, Debug)]
pub struct TokenFacts {
    pub name: String,
    /// The time until a probe may go, if DevRev refuses it.
    pub refused_for: Option<Duration>,
    /// Epoch seconds, as the token says.
    pub expires_at: Option<f64>,
}

#[derive(Clone, Debug)]
pub struct GroupFacts {
    pub name: String,
    pub state: ledger::Status,
    pub paused_for: Option<Duration>,
    pub paused_operation: Option<(OperationLabel, Duration)>,
    pub resets_in: Option<Duration>,
    /// The longest that one of its callers waits.
    pub patience: Option<Duration>,
}

/// How replicas share their quota.
#[derive(Clone, Debug, Default)]
pub struct FleetFacts {
    /// For how long the register could not be used.
    pub down_for: Option<Duration>,
    /// It refuses this replica's user.
    pub is_denied: bool,
    /// Groups that are not shared, and for how long.
    pub alone: Vec<(String, Duration)>,
}

/// Calls that have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastMinute {
    pub requests: u64,
    pub failed: u64,
    /// Refused because there was no quota, or no room.
    pub crowded_out: u64,
}

/// The last reload.
#[derive(Clone, Debug, Default)]
pub struct ReloadFacts {
    /// When it was first refused, in epoch seconds; `None` if it was not.
    pub refused_since: Option<u64>,
    /// Keys that change only with a restart.
    pub restart_needed: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
pub struct DroppedLines {
    /// Since the start.
    pub lines: u64,
    /// When the last one was noticed, in epoch seconds.
    pub last: u64,
}
