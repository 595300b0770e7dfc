//! What operators see of the fleet: of the register in `/status`, of each group in `/quota`, and for the alerts.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::{
    policy::alerts::FleetFacts,
    telemetry::{
        labels::{ExchangeResult, RegisterState},
        shared::{FleetStatus, GroupView},
    },
    wall_clock,
};

/// The register, and the exchanges of this replica with it.
pub(super) fn view(fleet: &FleetStatus) -> Value {
    let register = fleet.register();
    let exchanges = fleet.exchanges();
    let exchanges: Map<String, Value> = exchanges
        .map(|(result, count)| (result.label().to_owned(), json!(count)))
        .collect();
    json!({
        "register": fleet.kind(),
        "state": register.state,
        "since": epoch_before(register.lasted),
        "fault": register.cause.as_ref().map(|cause| cause.fault),
        "reason": register.cause.as_ref().map(|cause| &*cause.reason),
        "timeout_seconds": fleet.timeout().as_secs_f64(),
        "p50_seconds": fleet.percentile(0.5),
        "p99_seconds": fleet.percentile(0.99),
        "exchanges": exchanges,
        "alone_seconds": fleet.alone().as_secs_f64(),
    })
}

/// Adds `fleet` to each group: what is the fleet's, and what of it is this replica's.
pub(super) fn add_to_groups(fleet: &FleetStatus, groups: &mut Value) {
    let known: HashMap<_, _> = fleet.groups().into_iter().collect();
    for (name, group) in groups.as_object_mut().into_iter().flatten() {
        group["fleet"] = of_group(known.get(name.as_str()));
    }
}

/// All values but those of this replica are as the last exchange told. `None` is a group that has had no request.
fn of_group(view: Option<&GroupView>) -> Value {
    let standing = view.and_then(|view| view.standing.as_ref());
    let alone = view.and_then(|view| view.alone.as_ref());
    let told = standing.map(|(standing, _)| standing);
    let waiting = told.map(|told| told.waiting.iter().map(|(_, count)| count).sum::<u64>());
    let by_caller = told.map(|told| {
        let mut callers = Map::new();
        for (caller, count) in &told.waiting {
            let before = callers.get(&**caller).and_then(Value::as_u64).unwrap_or(0);
            callers.insert(caller.to_string(), json!(before + count));
        }
        callers
    });
    json!({
        "sharing": view.and_then(|view| view.sharing),
        "alone_since": alone.map(|(lasted, _)| epoch_before(*lasted)),
        "fault": alone.map(|(_, cause)| cause.fault),
        "reason": alone.map(|(_, cause)| &*cause.reason),
        "exchanged_at": standing.map(|(_, ago)| epoch_before(*ago)),
        "replicas": told.map(|told| told.replicas),
        "free": told.and_then(|told| told.free),
        "leased": told.map(|told| told.leased),
        "leased_here": view.map(|view| view.held),
        "limbo": told.map(|told| told.limbo),
        "waiting": waiting,
        "waiting_by_caller": by_caller,
    })
}

pub(super) fn facts(fleet: &FleetStatus) -> FleetFacts {
    let register = fleet.register();
    let cause = register.cause.as_ref();
    let alone = fleet.groups().into_iter().filter_map(|(name, view)| {
        let (lasted, _) = view.alone?;
        Some((name.to_string(), lasted))
    });
    FleetFacts {
        down_for: (register.state == RegisterState::Down).then_some(register.lasted),
        is_denied: cause.is_some_and(|cause| cause.fault == ExchangeResult::Denied),
        alone: alone.collect(),
    }
}

/// The time that is this long ago, in epoch seconds with milliseconds.
fn epoch_before(time: std::time::Duration) -> f64 {
    let at = wall_clock::since_epoch().saturating_sub(time);
    at.as_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::time::advance;

    use super::*;
    use crate::telemetry::{
        labels::{RegisterKind, Sharing},
        shared::Standing,
    };

    /// Without the times of the wall clock, which do not stand still.
    fn without_times(mut value: Value) -> Value {
        for key in ["since", "alone_since", "exchanged_at"] {
            if let Some(time) = value.get_mut(key).filter(|time| !time.is_null()) {
                assert!(time.as_f64().is_some_and(|time| time > 1.6e9), "{time}");
                *time = "a time".into();
            }
        }
        value
    }

    #[tokio::test(start_paused = true)]
    async fn the_register_is_shown_with_what_is_wrong_with_it() {
        let fleet = FleetStatus::new(
            RegisterKind::Redis,
            Duration::from_millis(50),
            Arc::default(),
        );
        let shown = || without_times(view(&fleet));
        let none = json!({ "ok": 0, "conflict": 0, "timeout": 0, "down": 0, "broken": 0, "overtaken": 0, "full": 0, "not_writable": 0, "refused": 0, "denied": 0 });
        let fresh = json!({
            "register": "redis", "state": "unknown", "since": "a time", "fault": null, "reason": null, "timeout_seconds": 0.05,
            "p50_seconds": null, "p99_seconds": null, "exchanges": none, "alone_seconds": 0.0,
        });
        assert_eq!(shown(), fresh);
        fleet.exchanged(ExchangeResult::TimedOut, Duration::from_millis(50));
        fleet.register_down(ExchangeResult::TimedOut, "no answer within 50 ms");
        let now = shown();
        assert_eq!(
            (&now["state"], &now["fault"]),
            (&json!("down"), &json!("timeout"))
        );
        assert_eq!(now["reason"], "no answer within 50 ms");
        assert_eq!(now["exchanges"]["timeout"], 1);
        assert!(
            now["p99_seconds"].as_f64().is_some_and(|time| time > 0.04),
            "{now}"
        );
        fleet.register_up();
        let now = shown();
        assert_eq!(
            (&now["state"], &now["reason"]),
            (&json!("up"), &Value::Null)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn each_group_tells_what_is_the_fleets_and_what_is_this_replicas() {
        let fleet = FleetStatus::new(
            RegisterKind::Redis,
            Duration::from_millis(50),
            Arc::default(),
        );
        let main = fleet.group(&"main".into(), || 6);
        let shown = || {
            let mut groups = json!({ "main": { "state": "open" }, "idle": { "state": "open" } });
            add_to_groups(&fleet, &mut groups);
            assert_eq!(groups["main"]["state"], "open");
            let [main, idle] =
                ["main", "idle"].map(|name| without_times(groups[name]["fleet"].take()));
            (main, idle)
        };
        let unknown = |here: Value| {
            json!({
                "sharing": null, "alone_since": null, "fault": null, "reason": null, "exchanged_at": null, "replicas": null,
                "free": null, "leased": null, "leased_here": here, "limbo": null, "waiting": null, "waiting_by_caller": null,
            })
        };
        assert_eq!(shown(), (unknown(json!(6)), unknown(Value::Null)));
        let other: Arc<str> = "other".into();
        main.stands(Standing {
            sharing: Sharing::Scarce,
            replicas: 12,
            free: Some(300),
            leased: 40,
            limbo: 3,
            // Callers of other replicas' files.
            waiting: vec![("billing".into(), 2), (other.clone(), 1), (other, 4)],
        });
        let told = json!({
            "sharing": "scarce", "alone_since": null, "fault": null, "reason": null, "exchanged_at": "a time", "replicas": 12,
            "free": 300, "leased": 40, "leased_here": 6, "limbo": 3, "waiting": 7,
            "waiting_by_caller": { "billing": 2, "other": 5 },
        });
        assert_eq!(shown().0, told);
        main.alone(ExchangeResult::Refused, "OOM");
        advance(Duration::from_secs(9)).await;
        let now = shown().0;
        let alone = ["sharing", "alone_since", "fault", "reason"].map(|key| now[key].clone());
        assert_eq!(
            alone,
            ["alone", "a time", "refused", "OOM"].map(Value::from)
        );
        let facts = facts(&fleet);
        assert_eq!(facts.alone, [("main".to_owned(), Duration::from_secs(9))]);
        assert_eq!((facts.down_for, facts.is_denied), (None, false));
        fleet.register_down(ExchangeResult::Denied, "NOPERM");
        let facts = self::facts(&fleet);
        assert_eq!(
            (facts.down_for, facts.is_denied),
            (Some(Duration::ZERO), true)
        );
    }
}
