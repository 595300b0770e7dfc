//! Gathers what the alerts are made of, and remembers since when each holds.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{super::reload::Reloader, fleet, token_status};
use crate::{
    lock::Lock,
    policy::alerts::{self, Alert, DroppedLines, Facts, GroupFacts, Memory, ReloadFacts},
    state::State,
    telemetry::log,
    wall_clock,
};

/// How often the state is looked at.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// What was seen when the state was last looked at.
#[derive(Default)]
pub(super) struct Observed(Lock<Seen>);

#[derive(Default)]
struct Seen {
    memory: Memory,
    dropped: Option<DroppedLines>,
}

impl Observed {
    /// The alerts that hold now, most urgent first.
    pub(super) fn alerts(&self, reloader: &Reloader, state: &State) -> Vec<Alert> {
        let mut facts = facts(reloader, state);
        let now = facts.now;
        let mut seen = self.0.lock();
        seen.dropped = dropped(seen.dropped, log::dropped_lines(), now as u64);
        facts.dropped_lines = seen.dropped;
        let mut alerts = alerts::of(&facts);
        seen.memory.fill_in(&mut alerts, now);
        alerts
    }
}

/// The dropped lines, and when there was the last one. `before` is what was known.
fn dropped(before: Option<DroppedLines>, lines: u64, now: u64) -> Option<DroppedLines> {
    let known = before.map_or(0, |before| before.lines);
    let last = now;
    if lines > known {
        Some(DroppedLines { lines, last })
    } else {
        before
    }
}

fn facts(reloader: &Reloader, state: &State) -> Facts {
    let now = wall_clock::since_epoch().as_secs_f64();
    let current = reloader.current();
    let (config, rules) = (&current.config, &current.plan.circuit);
    let patience = |group: &str| {
        let callers = config.callers.values().filter(|caller| {
            let token = caller.token.as_ref();
            token
                .and_then(|token| config.tokens.get(token))
                .is_some_and(|token| &*token.quota_group == group)
        });
        let longest = callers.map(|caller| caller.rules.max_wait).max();
        // In mode "validate" every group has the callers of the defaults.
        longest.or_else(|| {
            config
                .callers
                .is_empty()
                .then_some(config.defaults.max_wait)
        })
    };
    let groups = state.groups.states().into_iter();
    let groups = groups.map(|(name, view): (Arc<str>, _)| GroupFacts {
        patience: patience(&name),
        name: name.to_string(),
        state: view.state,
        paused_for: view.paused_for,
        paused_operation: view
            .paused_operation
            .map(|(operation, left)| (operation.label(), left)),
        resets_in: view.resets_in,
    });
    Facts {
        now,
        circuit: Some(state.circuit.view(rules)),
        stopped: state.circuit.stopped(rules),
        tokens: token_status::facts(config, state),
        groups: groups.collect(),
        fleet: state.fleet.as_deref().map(fleet::facts),
        last_minute: state.tally.last_minute(now as u64),
        reload: reloader.last().map(|report| ReloadFacts {
            refused_since: reloader.refused_since(),
            restart_needed: report.restart_needed,
        }),
        dropped_lines: None,
        deprecated: state.tally.deprecated_callers(),
    }
}

pub(super) fn view(alerts: &[Alert]) -> Value {
    let rows = alerts.iter().map(|alert| {
        json!({
            "name": alert.name,
            "severity": alert.severity,
            "subject": alert.subject,
            "text": alert.text,
            "link": format!("#{}", alert.section.label()),
            "since": alert.since.map(milliseconds),
            "next": alert.next.map(|(next, _)| next),
            "next_at": alert.next.map(|(_, at)| milliseconds(at)),
        })
    });
    rows.collect()
}

/// Cut to milliseconds, as `now` is.
fn milliseconds(time: f64) -> f64 {
    (time * 1000.0).floor() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_lines_have_the_time_of_the_last_one() {
        let mut known = None;
        let mut at = |lines, now| {
            known = dropped(known, lines, now);
            known.map(|dropped| (dropped.lines, dropped.last))
        };
        assert_eq!(at(0, 1), None);
        assert_eq!(at(3, 2), Some((3, 2)));
        assert_eq!(at(3, 9), Some((3, 2)));
        assert_eq!(at(4, 10), Some((4, 10)));
    }
}
