use std::{sync::Arc, time::Duration};

use super::{conditions::MAX_OF_A_NAME, *};
use crate::{
    label::assert_labels,
    policy::{
        circuit::{self, Scope, Stopped},
        ledger,
        operation::Operation,
    },
};

const NOW: f64 = 1_800_000_000.0;

/// Nothing is wrong.
fn calm() -> Facts {
    Facts {
        now: NOW,
        circuit: Some(circuit(circuit::Status::Closed, None)),
        tokens: vec![token("main", None, Some(30.0 * DAY))],
        groups: vec![group("main", ledger::Status::Open)],
        reload: Some(ReloadFacts::default()),
        ..Facts::default()
    }
}

const DAY: f64 = 24.0 * 60.0 * 60.0;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn circuit(state: circuit::Status, next_probe: Option<u64>) -> circuit::View {
    circuit::View {
        scope: Scope::Upstream,
        state,
        failures: 0,
        next_probe: next_probe.map(seconds),
    }
}

fn token(name: &str, refused_for: Option<u64>, expires_in: Option<f64>) -> TokenFacts {
    TokenFacts {
        name: name.into(),
        refused_for: refused_for.map(seconds),
        expires_at: expires_in.map(|time| NOW + time),
    }
}

fn group(name: &str, state: ledger::Status) -> GroupFacts {
    GroupFacts {
        name: name.into(),
        state,
        paused_for: None,
        paused_operation: None,
        resets_in: Some(seconds(40)),
        patience: Some(seconds(30)),
    }
}

fn paused(name: &str, time: u64) -> GroupFacts {
    GroupFacts {
        paused_for: Some(seconds(time)),
        ..group(name, ledger::Status::Paused)
    }
}

/// The alerts as `severity name: line`.
fn lines(facts: &Facts) -> Vec<String> {
    let alerts = of(facts);
    let line = |alert: &Alert| {
        let (severity, name) = (alert.severity.label(), alert.name.label());
        format!("{severity} {name}: {}", alert.line(NOW))
    };
    alerts.iter().map(line).collect()
}

#[test]
fn names_are_those_that_others_read() {
    assert_labels!(Severity: "serious" "warning" "notice");
    assert_labels!(Name: "circuit_open" "token_refused" "token_expired" "reload_refused" "paused" "quota_spent" "calls_fail" "calls_refused" "operation_paused" "circuit_partly_open" "shared_denied" "shared_down" "shared_alone" "token_expires" "log_lines_dropped" "restart_needed" "deprecated_use");
    assert_labels!(Section: "traffic" "quota" "fleet" "upstream" "tokens" "reload" "deprecations");
    assert_labels!(Next: "next probe" "sent again" "full again" "expires");
    assert_labels!(Health: "ready" "troubled" "unready");
}

#[test]
fn nothing_is_said_while_nothing_is_wrong() {
    assert!(lines(&calm()).is_empty());
    assert!(lines(&Facts::default()).is_empty());
}

#[test]
fn each_condition_has_its_alert() {
    let stopped = |caller: Option<&str>, operation: Option<&str>| Stopped {
        subject: circuit::Subject {
            scope: Scope::Use,
            caller: caller.map(Arc::from),
            operation: operation.map(|name| Operation::from_path(name).label()),
        },
        state: circuit::Status::Open,
        next_probe: seconds(3),
    };
    let with = |change: &dyn Fn(&mut Facts)| {
        let mut facts = calm();
        change(&mut facts);
        lines(&facts)
    };
    type Case<'a> = (&'a dyn Fn(&mut Facts), &'a [&'a str]);
    let cases: [Case<'_>; 25] = [
        (
            &|f| f.circuit = Some(circuit(circuit::Status::Open, Some(4))),
            &[
                "serious circuit_open: the circuit is open: nothing is sent to DevRev, next probe in 4 s",
            ],
        ),
        (
            &|f| f.circuit = Some(circuit(circuit::Status::HalfOpen, Some(0))),
            &[
                "serious circuit_open: the circuit is half open: one call probes whether DevRev works again, the next call is the probe",
            ],
        ),
        (
            &|f| {
                f.stopped = vec![
                    stopped(Some("billing"), Some("works.create")),
                    stopped(Some("reports"), None),
                ];
            },
            &[
                "warning circuit_partly_open: failing and stopped: works.create of billing, everything of reports, next probe in 3 s",
            ],
        ),
        (
            &|f| {
                f.stopped = vec![
                    stopped(None, Some("works.list")),
                    stopped(Some("a"), Some("nope")),
                ];
                f.stopped.extend(vec![stopped(Some("b"), None); 4]);
            },
            &[
                "warning circuit_partly_open: failing and stopped: works.list for all, an unknown operation of a, everything of b and 3 more, next probe in 3 s",
            ],
        ),
        (
            &|f| f.tokens = vec![token("main", Some(9), None)],
            &["serious token_refused: token main is refused by DevRev, next probe in 9 s"],
        ),
        (
            &|f| {
                f.tokens = vec![
                    token("a", Some(0), Some(-5.0)),
                    token("b", None, Some(3600.0)),
                ];
            },
            &[
                "serious token_refused: token a is refused by DevRev, the next call is the probe",
                "serious token_expired: token a has expired",
                "warning token_expires: token b expires within a day, in 1 h",
            ],
        ),
        // As long as callers wait, their calls go through.
        (
            &|f| f.groups = vec![paused("main", 30)],
            &["warning paused: the quota of main is paused by DevRev, sent again in 30 s"],
        ),
        (
            &|f| f.groups = vec![paused("main", 31)],
            &["serious paused: the quota of main is paused by DevRev, sent again in 31 s"],
        ),
        (
            &|f| f.groups = vec![group("main", ledger::Status::Spent)],
            &["serious quota_spent: the quota of main is used up, full again in 40 s"],
        ),
        (&|f| f.groups[0].patience = None, &[]),
        (
            &|f| f.groups = vec![group("main", ledger::Status::Spread)],
            &[],
        ),
        (
            &|f| {
                let works_list = Operation::from_path("works.list").label();
                f.groups[0].paused_operation = Some((works_list, seconds(12)));
            },
            &[
                "warning operation_paused: operation works.list of main is paused by DevRev, sent again in 12 s",
            ],
        ),
        (&|f| f.fleet = fleet(Some(4), false, &[("main", 60)]), &[]),
        (
            &|f| f.fleet = fleet(Some(34), false, &[("main", 34)]),
            &[
                "warning shared_down: Redis cannot be used: replicas go by DevRev's answers alone, for 34 s",
            ],
        ),
        (
            &|f| f.fleet = fleet(Some(90), true, &[]),
            &[
                "warning shared_denied: Redis refuses this user: replicas go by DevRev's answers alone, for 1 min 30 s",
            ],
        ),
        (
            &|f| f.fleet = fleet(None, false, &[("main", 60), ("nightly", 3)]),
            &[
                "warning shared_alone: the quota of main is not shared, although Redis answers, for 1 min",
            ],
        ),
        (&|f| f.last_minute = minute(1000, 4, 4), &[]),
        (&|f| f.last_minute = minute(100, 9, 0), &[]),
        (
            &|f| f.last_minute = minute(100, 10, 0),
            &["warning calls_fail: 10 of 100 calls failed in the last minute"],
        ),
        (
            &|f| f.last_minute = minute(100, 0, 50),
            &[
                "serious calls_refused: 50 of 100 calls were refused for lack of quota or room in the last minute",
            ],
        ),
        (
            &|f| {
                f.reload = Some(ReloadFacts {
                    refused_since: Some(7),
                    restart_needed: vec!["listen.address".into(), "trace".into()],
                });
            },
            &[
                "serious reload_refused: the changed file was refused: the old configuration goes on, and a restart would fail",
                "notice restart_needed: changed in the file and used only after a restart: listen.address, trace",
            ],
        ),
        (
            &|f| {
                f.dropped_lines = Some(DroppedLines {
                    lines: 12,
                    last: NOW as u64 - 60,
                });
            },
            &["warning log_lines_dropped: 12 log lines were dropped since the start"],
        ),
        (
            &|f| {
                f.dropped_lines = Some(DroppedLines {
                    lines: 12,
                    last: NOW as u64 - 3600,
                });
            },
            &[],
        ),
        (
            &|f| {
                f.deprecated = vec![
                    ("billing".into(), NOW as u64 - 3600),
                    ("old".into(), NOW as u64 - 3 * DAY as u64),
                ];
            },
            &["notice deprecated_use: deprecated use by billing"],
        ),
        (
            &|f| {
                f.deprecated = ["a", "b", "c", "d"]
                    .map(|name| (name.into(), NOW as u64))
                    .into();
            },
            &["notice deprecated_use: deprecated use by a, b, c and 1 more"],
        ),
    ];
    for (place, (change, want)) in cases.iter().enumerate() {
        assert_eq!(with(*change), *want, "case {place}");
    }
}

fn fleet(down_for: Option<u64>, is_denied: bool, alone: &[(&str, u64)]) -> Option<FleetFacts> {
    let alone = alone.iter();
    Some(FleetFacts {
        down_for: down_for.map(seconds),
        is_denied,
        alone: alone
            .map(|(name, lasted)| ((*name).into(), seconds(*lasted)))
            .collect(),
    })
}

fn minute(requests: u64, failed: u64, crowded_out: u64) -> LastMinute {
    LastMinute {
        requests,
        failed,
        crowded_out,
    }
}

/// In mode "validate" each user is a group.
#[test]
fn however_many_groups_are_paused_there_are_few_alerts() {
    let mut facts = calm();
    facts.groups = (0..5000).map(|n| paused(&format!("g{n}"), 10)).collect();
    facts.groups.push(paused("urgent", 500));
    facts.fleet = Some(FleetFacts {
        alone: (0..5000).map(|n| (format!("g{n}"), seconds(9))).collect(),
        ..FleetFacts::default()
    });
    let (fleet, alerts): (Vec<_>, Vec<_>) = of(&facts)
        .into_iter()
        .partition(|alert| alert.name == Name::SharedAlone);
    assert_eq!(fleet.len(), MAX_OF_A_NAME + 1);
    assert_eq!(alerts.len(), MAX_OF_A_NAME + 1);
    assert_eq!(alerts[0].subject.as_deref(), Some("urgent"));
    let rest = alerts.iter().find(|alert| alert.subject.is_none());
    assert_eq!(
        rest.map(|rest| rest.text.as_str()),
        Some("and so it is with 4993 more quota groups")
    );
}

#[test]
fn times_are_as_people_say_them() {
    let said = [0.2, 3.1, 120.5, 7200.0, f64::MAX].map(|left| announced(left).to_string());
    assert_eq!(said[..4], ["1 s", "4 s", "2 min 1 s", "2 h"]);
}

#[test]
fn ready_is_not_all_if_something_is_serious() {
    let mut facts = calm();
    assert_eq!(Health::of(true, &of(&facts)), Health::Ready);
    facts.groups = vec![paused("main", 5)];
    assert_eq!(Health::of(true, &of(&facts)), Health::Ready);
    facts.groups = vec![paused("main", 500)];
    assert_eq!(Health::of(true, &of(&facts)), Health::Troubled);
    assert_eq!(Health::of(false, &[]), Health::Unready);
}

#[test]
fn an_alert_begins_when_it_is_first_seen_and_again_after_its_end() {
    let mut memory = Memory::default();
    let mut since = |facts: &Facts, now: f64| {
        let mut alerts = of(facts);
        memory.fill_in(&mut alerts, now);
        let since = alerts.iter().map(|alert| alert.since.unwrap());
        since.collect::<Vec<_>>()
    };
    let (mut one, mut two) = (calm(), calm());
    one.groups = vec![paused("a", 50)];
    two.groups = vec![paused("a", 20), paused("b", 20)];
    assert_eq!(since(&one, 1.0), [1.0]);
    assert_eq!(since(&two, 5.0), [1.0, 5.0]);
    assert_eq!(since(&calm(), 6.0), [0.0; 0]);
    assert_eq!(since(&two, 7.0), [7.0, 7.0]);
    // The state itself says when a token has expired.
    let mut expired = calm();
    expired.tokens = vec![token("main", None, Some(-60.0))];
    assert_eq!(since(&expired, 8.0), [NOW - 60.0]);
}
