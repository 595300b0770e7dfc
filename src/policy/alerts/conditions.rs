//! Which alerts hold, and how urgent each is.

use std::time::Duration;

use super::{
    Alert, DroppedLines, Facts, FleetFacts, LastMinute, Name, Next, ReloadFacts, Section, Severity,
    TokenFacts,
};
use crate::policy::{
    circuit::{self, Stopped},
    ledger,
    operation::OperationLabel,
    token_claims::Expiry,
};

/// A token or a group of its own for each alert, up to so many of a name; the others share one.
pub(super) const MAX_OF_A_NAME: usize = 8;

/// Callers or keys that a sentence names.
const MAX_NAMED: usize = 3;

/// Fewer calls than this in a minute that fail are no alert, and neither is a smaller share of all.
const MIN_CALLS: u64 = 5;
const MIN_SHARE: f64 = 0.1;
/// From this share on it is serious.
const SERIOUS_SHARE: f64 = 0.5;

/// How long the register of a fleet, or a group in it, may be away: the longest pause between two attempts to connect. A failover that is
/// over by the second attempt is no alert.
const AWAY_FOR: Duration = Duration::from_secs(5);

/// Seconds. Whoever uses something deprecated once a day, such as a nightly job, is shown all the time.
const DEPRECATED_FOR: u64 = 26 * 60 * 60;
/// Seconds after the last line that was dropped: long enough to be seen, short enough to see whether it goes on.
const DROPPED_FOR: u64 = 15 * 60;

/// The alerts of this state, most urgent first.
pub fn of(facts: &Facts) -> Vec<Alert> {
    let mut alerts = Vec::new();
    alerts.extend(upstream(facts));
    alerts.extend(partly_open(facts));
    alerts.extend(bounded(tokens(facts), "tokens"));
    alerts.extend(bounded(groups(facts), "quota groups"));
    alerts.extend(fleet(facts));
    alerts.extend(calls(&facts.last_minute));
    alerts.extend(facts.reload.iter().flat_map(reload));
    alerts.extend(dropped(facts));
    alerts.extend(deprecated(facts));
    alerts.sort_by(|one, other| {
        let order = |alert: &Alert| (alert.severity, alert.name);
        let by_subject = || one.subject.cmp(&other.subject);
        order(one).cmp(&order(other)).then_with(by_subject)
    });
    alerts
}

fn upstream(facts: &Facts) -> Option<Alert> {
    let view = facts.circuit?;
    let text = match view.state {
        circuit::Status::Closed => return None,
        circuit::Status::Open => "the circuit is open: nothing is sent to DevRev",
        circuit::Status::HalfOpen => {
            "the circuit is half open: one call probes whether DevRev works again"
        }
    };
    let open = Alert::new(
        Name::CircuitOpen,
        Severity::Serious,
        Section::Upstream,
        text.to_owned(),
    );
    let next_probe = view.next_probe.unwrap_or_default().as_secs_f64();
    Some(open.then(Next::Probe, facts.now + next_probe))
}

fn partly_open(facts: &Facts) -> Option<Alert> {
    let stopped = &facts.stopped;
    let what = |one: &Stopped| {
        let operation = match one.subject.operation {
            None => "everything",
            Some(OperationLabel::OTHER) => "an unknown operation",
            Some(operation) => operation.label(),
        };
        match &one.subject.caller {
            None => format!("{operation} for all"),
            Some(caller) => format!("{operation} of {caller}"),
        }
    };
    let text = format!(
        "failing and stopped: {}",
        named(stopped.iter().map(what).collect())?
    );
    let alert = Alert::new(
        Name::CircuitPartlyOpen,
        Severity::Warning,
        Section::Upstream,
        text,
    );
    let next_probe = stopped.iter().map(|one| one.next_probe).min()?;
    Some(alert.then(Next::Probe, facts.now + next_probe.as_secs_f64()))
}

fn tokens(facts: &Facts) -> Vec<Alert> {
    let mut alerts = Vec::new();
    for TokenFacts {
        name,
        refused_for,
        expires_at,
    } in &facts.tokens
    {
        let alert = |kind, severity, what| {
            Alert::new(
                kind,
                severity,
                Section::Tokens,
                format!("token {name} {what}"),
            )
            .about(name)
        };
        if let Some(wait) = refused_for {
            let refused = alert(
                Name::TokenRefused,
                Severity::Serious,
                "is refused by DevRev",
            );
            alerts.push(refused.then(Next::Probe, facts.now + wait.as_secs_f64()));
        }
        let at = expires_at.unwrap_or_default();
        match Expiry::at(*expires_at, facts.now) {
            Expiry::Expired => alerts.push(
                alert(Name::TokenExpired, Severity::Serious, "has expired").since(*expires_at),
            ),
            Expiry::Soon => alerts.push(
                alert(
                    Name::TokenExpires,
                    Severity::Warning,
                    "expires within a day",
                )
                .then(Next::Expires, at),
            ),
            Expiry::Unknown | Expiry::Valid => {}
        }
    }
    alerts
}

fn groups(facts: &Facts) -> Vec<Alert> {
    let mut alerts = Vec::new();
    for group in &facts.groups {
        let name = &group.name;
        // What lasts longer than callers wait refuses their calls.
        let severity = |left| match group.patience {
            Some(patience) if left > patience => Severity::Serious,
            _ => Severity::Warning,
        };
        let alert = |kind, left, what: String| {
            let text = format!("the quota of {name} is {what}");
            Alert::new(kind, severity(left), Section::Quota, text).about(name)
        };
        match (group.state, group.paused_for, group.resets_in) {
            (ledger::Status::Paused, Some(left), _) => alerts.push(
                alert(Name::Paused, left, "paused by DevRev".into())
                    .then(Next::Sent, facts.now + left.as_secs_f64()),
            ),
            (ledger::Status::Spent, _, Some(left)) => alerts.push(
                alert(Name::QuotaSpent, left, "used up".into())
                    .then(Next::Full, facts.now + left.as_secs_f64()),
            ),
            _ => {}
        }
        if let Some((operation, left)) = group.paused_operation {
            let operation = operation.label();
            let text = format!("operation {operation} of {name} is paused by DevRev");
            let paused = Alert::new(
                Name::OperationPaused,
                Severity::Warning,
                Section::Quota,
                text,
            );
            let at = facts.now + left.as_secs_f64();
            alerts.push(paused.about(name).then(Next::Sent, at));
        }
    }
    alerts
}

/// A warning and no more, because calls are served as one process alone would serve them.
fn fleet(facts: &Facts) -> Vec<Alert> {
    let Some(fleet) = &facts.fleet else {
        return Vec::new();
    };
    let alert = |name, text: String, lasted: Duration| {
        let alert = Alert::new(name, Severity::Warning, Section::Fleet, text);
        alert.since(Some(facts.now - lasted.as_secs_f64()))
    };
    let FleetFacts {
        down_for,
        is_denied,
        alone,
    } = fleet;
    if let Some(lasted) = *down_for {
        let (name, what) = match is_denied {
            true => (Name::SharedDenied, "Redis refuses this user"),
            false => (Name::SharedDown, "Redis cannot be used"),
        };
        let text = format!("{what}: replicas go by DevRev's answers alone");
        let down = alert(name, text, lasted);
        // It says the same of every group.
        return Vec::from_iter((lasted >= AWAY_FOR).then_some(down));
    }
    let long = alone.iter().filter(|(_, lasted)| *lasted >= AWAY_FOR);
    let alerts = long.map(|(group, lasted)| {
        let text = format!("the quota of {group} is not shared, although Redis answers");
        alert(Name::SharedAlone, text, *lasted).about(group)
    });
    bounded(alerts.collect(), "quota groups")
}

fn calls(last: &LastMinute) -> Vec<Alert> {
    let alert = |name, count: u64, what: &str| {
        let share = count as f64 / last.requests.max(1) as f64;
        let severity = match share {
            _ if count < MIN_CALLS => return None,
            share if share >= SERIOUS_SHARE => Severity::Serious,
            share if share >= MIN_SHARE => Severity::Warning,
            _ => return None,
        };
        let text = format!(
            "{count} of {} calls {what} in the last minute",
            last.requests
        );
        Some(Alert::new(name, severity, Section::Traffic, text))
    };
    let failed = alert(Name::CallsFail, last.failed, "failed");
    let refused = alert(
        Name::CallsRefused,
        last.crowded_out,
        "were refused for lack of quota or room",
    );
    failed.into_iter().chain(refused).collect()
}

fn reload(reload: &ReloadFacts) -> Vec<Alert> {
    let mut alerts = Vec::new();
    if let Some(since) = reload.refused_since {
        let text =
            "the changed file was refused: the old configuration goes on, and a restart would fail";
        let refused = Alert::new(
            Name::ReloadRefused,
            Severity::Serious,
            Section::Reload,
            text.into(),
        );
        alerts.push(refused.since(Some(since as f64)));
    }
    if let Some(keys) = named(reload.restart_needed.clone()) {
        let text = format!("changed in the file and used only after a restart: {keys}");
        let needed = Alert::new(Name::RestartNeeded, Severity::Notice, Section::Reload, text);
        alerts.push(needed);
    }
    alerts
}

fn dropped(facts: &Facts) -> Option<Alert> {
    let DroppedLines { lines, last } = facts.dropped_lines?;
    let recent = facts.now < (last + DROPPED_FOR) as f64;
    let what = if lines == 1 { "line was" } else { "lines were" };
    recent.then(|| {
        Alert::new(
            Name::LogLinesDropped,
            Severity::Warning,
            Section::Traffic,
            format!("{lines} log {what} dropped since the start"),
        )
    })
}

fn deprecated(facts: &Facts) -> Option<Alert> {
    let recent = facts.deprecated.iter();
    let recent = recent.filter(|(_, last)| facts.now < (last + DEPRECATED_FOR) as f64);
    let callers = recent.map(|(caller, _)| caller.clone()).collect();
    let text = format!("deprecated use by {}", named(callers)?);
    Some(Alert::new(
        Name::DeprecatedUse,
        Severity::Notice,
        Section::Deprecations,
        text,
    ))
}

/// The first of these names, and how many more there are; `None` if there are none.
fn named(mut names: Vec<String>) -> Option<String> {
    let more = names.len().saturating_sub(MAX_NAMED);
    names.truncate(MAX_NAMED);
    match more {
        _ if names.is_empty() => None,
        0 => Some(names.join(", ")),
        _ => Some(format!("{} and {more} more", names.join(", "))),
    }
}

/// At most so many of each name, the most urgent ones, and one for the others.
fn bounded(mut alerts: Vec<Alert>, what: &str) -> Vec<Alert> {
    alerts.sort_by_key(|alert| (alert.name, alert.severity));
    let mut kept: Vec<Alert> = Vec::new();
    for same in alerts.chunk_by(|one, other| one.name == other.name) {
        let (shown, others) = same.split_at(same.len().min(MAX_OF_A_NAME));
        kept.extend_from_slice(shown);
        if let [first, ..] = others {
            let text = format!("and so it is with {} more {what}", others.len());
            let severity = first.severity;
            kept.push(Alert::new(first.name, severity, first.section, text));
        }
    }
    kept
}
