//! Checks that alerts and dashboard use existing metrics, labels and values, and that every alert has a runbook.

mod memory;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
    time::Duration,
};

use revgate::{
    error::Code,
    policy::{
        circuit::Scope,
        operation::{Class, Operation},
        retry::Reason,
        rewrite::Unreadable,
        token_health::Finding,
    },
    telemetry::{
        labels::{
            AttemptOutcome, ExchangeResult, RegisterKind, ReloadResult, Sharing, Source, WaitReason,
        },
        metrics::Metrics,
        quota::Sample,
        shared::{FleetStatus, Standing},
    },
};

const ALERTS: &str = "deploy/prometheus/alerts.yaml";
const DASHBOARD: &str = "deploy/grafana/revgate.json";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every metric of revgate with the names of its labels. Each is counted once, because one without a value is not exposed.
fn exposed() -> BTreeMap<String, BTreeSet<String>> {
    let mut m = Metrics::new();
    let a: Arc<str> = "a".into();
    let sample = Sample {
        group: a.clone(),
        limit: Some(1),
        remaining: Some(1),
        reset: Some(1),
        paused_until: Some(1.0),
        throttled: 1,
        external: 1,
        waiting: vec![(a.clone(), 1)],
    };
    m.watch_quota(move || vec![sample.clone()]);
    let fleet = FleetStatus::new(
        RegisterKind::Redis,
        Duration::from_millis(50),
        Arc::default(),
    );
    fleet.exchanged(ExchangeResult::Ok, Duration::ZERO);
    // Held, because a group that shares no more has no series.
    let group = fleet.group(&a, || 1);
    group.stands(Standing {
        sharing: Sharing::Plenty,
        replicas: 1,
        free: None,
        leased: 1,
        limbo: 0,
        waiting: Vec::new(),
    });
    m.watch_fleet(fleet, |_| true);
    let operation = Operation::from_path("works.list").label();
    m.request(&a, operation, 200, Source::Upstream, 0.1);
    m.upstream_duration(Class::Read, 0.1);
    m.wait(WaitReason::Quota, 1.0);
    m.caller_times(&a, 1.0, 0.5);
    m.refused(&a, Code::Forbidden);
    m.would_refuse(&a, Code::Forbidden);
    m.attempt(AttemptOutcome::Success);
    m.retry(Reason::Throttled);
    m.deprecated(&a, operation, &a);
    m.rewrite_skipped(Unreadable::Coding);
    m.token_expiry(&a, Some(1.0));
    m.token_refused(&a, true);
    m.token_confirmation(Finding::Good);
    m.config_reload(ReloadResult::Applied);
    m.circuits_partly_open([((Scope::Use, Some(operation)), 1)]);
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in m.encode().lines().filter(|line| !line.starts_with('#')) {
        let end = line.find(['{', ' ']).expect("a sample");
        let labels = all.entry(line[..end].to_owned()).or_default();
        if line[end..].starts_with('{') {
            labels.extend(
                line[end + 1..]
                    .split(',')
                    .filter_map(|l| l.split_once("=\""))
                    .map(|(name, _)| name.to_owned()),
            );
        }
    }
    assert!(all.len() > 30, "{all:?}");
    all
}

/// The expressions of both files, each with its file.
fn expressions() -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let alerts = read(ALERTS);
    for rule in alerts.split("- alert:").skip(1) {
        let (_, rest) = rule.split_once("expr:").expect("every alert has an expr");
        let end = rest
            .find("\n        for:")
            .or(rest.find("\n        labels:"))
            .expect("every alert has labels");
        found.push((ALERTS, rest[..end].to_owned()));
    }
    let board: serde_json::Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    collect(&board, &mut found);
    assert!(found.len() > 40, "only {} were found", found.len());
    found
}

fn collect(value: &serde_json::Value, found: &mut Vec<(&'static str, String)>) {
    match value {
        serde_json::Value::Object(map) => {
            if let Some(expr) = map.get("expr").and_then(|e| e.as_str()) {
                found.push((DASHBOARD, expr.to_owned()));
            }
            map.values().for_each(|value| collect(value, found));
        }
        serde_json::Value::Array(all) => all.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

/// Each word with the text before and after it.
fn words(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(is_word)?;
        let end = text[start..]
            .find(|c| !is_word(c))
            .map_or(text.len(), |n| start + n);
        at = end;
        Some((&text[..start], &text[start..end], &text[end..]))
    })
}

/// The values of a label of this metric; none if they are not a closed set.
fn values(metric: &str, label: &str) -> Vec<&'static str> {
    match (metric, label) {
        (_, "code") => Code::ALL.iter().map(|code| code.label()).collect(),
        (_, "source") => Source::ALL.iter().map(|source| source.label()).collect(),
        (_, "outcome") => AttemptOutcome::all().map(AttemptOutcome::label).collect(),
        ("revgate_config_reloads_total", "result") => {
            ReloadResult::ALL.iter().map(|one| one.label()).collect()
        }
        ("revgate_shared_exchanges_total", "result") => {
            ExchangeResult::ALL.iter().map(|one| one.label()).collect()
        }
        ("revgate_retries_total", "reason") => Reason::ALL.iter().map(|one| one.label()).collect(),
        _ => Vec::new(),
    }
}

/// Labels that Prometheus adds, and the one of histograms.
const GIVEN: [&str; 3] = ["job", "instance", "le"];

#[test]
fn alerts_and_dashboard_use_existing_metrics() {
    let exposed = exposed();
    let mut faults = Vec::new();
    for (file, expr) in expressions() {
        let mut labels = BTreeSet::new();
        let mut metrics = 0;
        for (_, word, behind) in words(&expr) {
            if !(word.starts_with("revgate_") || word.starts_with("process_")) {
                continue;
            }
            metrics += 1;
            let Some(has) = exposed.get(word) else {
                faults.push(format!("{file}: {word} is not a metric of revgate"));
                continue;
            };
            labels.extend(has.iter().cloned());
            let matchers = behind
                .strip_prefix('{')
                .and_then(|m| m.split_once('}'))
                .map_or("", |(m, _)| m);
            for matcher in matchers.split(',').filter(|m| !m.trim().is_empty()) {
                let (label, value) = matcher.split_once('=').expect("a matcher");
                let label = label.trim().trim_end_matches('!');
                if !has.contains(label) && !GIVEN.contains(&label) {
                    faults.push(format!("{file}: {word} has no label {label}"));
                }
                let known = values(word, label);
                let asked = value.trim_matches(['=', '~', '"']).split('|');
                for one in asked.filter(|one| !known.is_empty() && !known.contains(one)) {
                    faults.push(format!("{file}: {word} has no {label} {one}"));
                }
            }
        }
        if metrics == 0 {
            faults.push(format!("{file}: uses no metric of revgate: {expr}"));
        }
        for group in expr.split("by (").chain(expr.split("on (")).skip(1) {
            let Some((list, _)) = group.split_once(')') else {
                continue;
            };
            let plain = |c: char| c.is_ascii_lowercase() || " ,_".contains(c);
            for label in list.split(',').map(str::trim) {
                if list.chars().all(plain) && !labels.contains(label) && !GIVEN.contains(&label) {
                    faults.push(format!(
                        "{file}: nothing in this has a label {label}: {expr}"
                    ));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// GitHub's anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .replace(|c: char| !c.is_alphanumeric() && !" -_".contains(c), "");
    kept.replace(' ', "-")
}

#[test]
fn every_alert_has_a_runbook_and_a_row() {
    let guide = read("deploy/README.md");
    let anchors: BTreeSet<String> = guide
        .lines()
        .filter_map(|line| line.strip_prefix("##"))
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect();
    let alerts = read(ALERTS);
    for rule in alerts.split("- alert:").skip(1) {
        let name = rule.lines().next().unwrap_or_default().trim();
        let (_, link) = rule
            .split_once("runbook: deploy/README.md#")
            .unwrap_or_else(|| panic!("{name} has no runbook"));
        let link = link.lines().next().unwrap_or_default().trim();
        assert!(anchors.contains(link), "{name}: no heading for #{link}");
        let row = format!("| `{name}` |");
        assert!(guide.contains(&row), "deploy/README.md: no row {row}");
    }
    // The links of the guide.
    for link in guide.split("](#").skip(1) {
        let link = link.split(')').next().unwrap_or_default();
        assert!(
            anchors.contains(link),
            "deploy/README.md: no heading for #{link}"
        );
    }
}
