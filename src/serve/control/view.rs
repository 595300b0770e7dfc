//! Views of a running gateway, for the admin listener's JSON.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::reload::Report;
use crate::{
    config::{Caller, CallerCredential, Config},
    error::Code,
    plan::Plan,
    state::State,
    telemetry::{metrics::Metrics, tally::CallerCounts},
    wall_clock,
};

/// Requests without a known caller, and in mode "validate" all requests.
const OTHER: &str = "other";

/// The codes that `enforce = false` suppresses.
const SUPPRESSED: [Code; 2] = [Code::CallerRateLimited, Code::Forbidden];

/// Each caller of the file, and `other` if it has sent requests.
pub(super) fn callers(config: &Config, state: &State) -> Value {
    let now = wall_clock::epoch_seconds();
    let (seen, quota) = (state.tally.callers(), state.groups.view());
    let mut views = Map::new();
    // Callers that have left the file are in the metrics alone.
    if let Some(calls) = seen.get(OTHER) {
        views.insert(OTHER.into(), counts(calls, now));
    }
    let limiters = state.limiters.of_plan();
    let attempts = |name: &str| seen.get(name).map_or(0, |calls| calls.attempts(now));
    for (name, caller) in &config.callers {
        let rules = &caller.rules;
        let none = CallerCounts::default();
        let mut view = counts(seen.get(name.as_str()).unwrap_or(&none), now);
        let group = group(config, caller);
        let of_group = config.callers.iter().filter(|(_, other)| {
            // In mode "validate" there are no callers in the file.
            group.is_some() && self::group(config, other) == group
        });
        let all: u64 = of_group.map(|(name, _)| attempts(name)).sum();
        let left = limiters.peek_caller(name, group);
        view["keys"] = match &caller.credential {
            CallerCredential::Keys(hashes) => state.key_usage.view(hashes),
            _ => json!([]),
        };
        view["group"] = json!(group);
        view["rate"] = json!(rules.rate.to_string());
        view["burst"] = json!(rules.burst);
        view["remaining"] = json!(left.map(|left| left.remaining));
        view["weight"] = json!(rules.weight);
        view["priority"] = json!(rules.priority.label());
        view["enforce"] = json!(rules.enforce);
        view["share"] = json!((all > 0).then(|| attempts(name) as f64 / all as f64));
        view["max_wait_seconds"] = json!(rules.max_wait.as_secs_f64());
        view["waiting"] = json!(
            group
                .and_then(|group| quota[group]["waiting_by_caller"].get(name)?.as_u64())
                .unwrap_or(0)
        );
        let would = would_refuse(&state.metrics, &Arc::from(name.as_str()));
        view["would_refuse_by_code"] = would
            .into_iter()
            .map(|(code, count)| (code.label().to_owned(), json!(count)))
            .collect();
        views.insert(name.clone(), view);
    }
    Value::Object(views)
}

fn counts(calls: &CallerCounts, now: u64) -> Value {
    json!({
        "requests": calls.requests,
        "refused": calls.refused.values().sum::<u64>(),
        "refused_by_code": calls.refused,
        "would_refuse": calls.would_refuse,
        "deprecated": calls.deprecated,
        "deprecated_refused": calls.deprecated_refused,
        "deprecated_fields": calls.deprecated_fields,
        "waits": calls.waits(now),
        "last_seen": (calls.requests > 0).then_some(calls.last),
    })
}

fn group<'a>(config: &'a Config, caller: &Caller) -> Option<&'a str> {
    let token = config.tokens.get(caller.token.as_ref()?)?;
    Some(&token.quota_group)
}

fn would_refuse(metrics: &Metrics, caller: &Arc<str>) -> Vec<(Code, u64)> {
    let counts = SUPPRESSED.map(|code| (code, metrics.would_refused(caller, code)));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// Shown of the circuits that stop less than everything.
const MAX_STOPPED: usize = 100;

pub(super) fn circuit(plan: &Plan, state: &State) -> Value {
    let view = state.circuit.view(&plan.circuit);
    let all = state.circuit.stopped(&plan.circuit);
    let total = all.len();
    let stopped = all.into_iter().take(MAX_STOPPED).map(|one| {
        json!({
            "scope": one.subject.scope,
            "caller": one.subject.caller.as_deref(),
            "operation": one.subject.operation,
            "state": one.state,
            "next_probe_in_seconds": one.next_probe.as_secs_f64(),
        })
    });
    let stopped: Vec<_> = stopped.collect();
    json!({
        "state": view.state,
        "failures": view.failures,
        "next_probe_in_seconds": view.next_probe.map(|time| time.as_secs_f64()),
        "stopped": stopped,
        "stopped_total": total,
    })
}

/// The last reload; all values are null or empty before the first.
pub(super) fn reload(last: Option<Report>) -> Value {
    last.map_or_else(
        || json!({ "at": null, "result": null, "changed": [], "restart_needed": [], "problems": [] }),
        |report| report.json(),
    )
}
