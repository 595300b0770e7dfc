use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::Value;
use tokio::time::advance;

use super::*;
use crate::{
    policy::fleet::FORGOTTEN,
    telemetry::{
        captured::Captured,
        labels::{Lost, Sharing},
    },
};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn fleet() -> Arc<FleetStatus> {
    FleetStatus::new(
        RegisterKind::Redis,
        Duration::from_millis(50),
        Arc::default(),
    )
}

fn joined(fleet: &Arc<FleetStatus>, name: &str) -> GroupStatus {
    fleet.group(&name.into(), || 7)
}

fn standing(sharing: Sharing) -> Standing {
    Standing {
        sharing,
        replicas: 12,
        free: Some(300),
        leased: 40,
        limbo: 3,
        waiting: vec![("billing".into(), 2)],
    }
}

/// `level event: message` of each line.
fn told(captured: &Captured) -> Vec<String> {
    let text = captured.text();
    let lines = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}: {}", word("level"), word("event"), word("message"))
    });
    lines.collect()
}

#[tokio::test(start_paused = true)]
async fn a_bad_day_is_told_in_its_order() {
    let captured = Captured::default();
    let _logging = tracing::subscriber::set_default(captured.subscriber());
    let fleet = fleet();
    let (main, nightly) = (joined(&fleet, "main"), joined(&fleet, "nightly"));
    fleet.register_up();
    fleet.register_up();

    // Redis hangs: the groups notice first.
    advance(seconds(60)).await;
    main.alone(ExchangeResult::TimedOut, "no answer within 50 ms");
    nightly.alone(ExchangeResult::TimedOut, "no answer within 50 ms");
    fleet.register_down(ExchangeResult::TimedOut, "no answer within 50 ms");
    for _ in 0..34 {
        advance(seconds(1)).await;
        fleet.register_down(ExchangeResult::Down, "connection refused");
        main.alone(ExchangeResult::Down, "connection refused");
    }
    // It has been restarted without its data.
    fleet.register_up();
    main.lost(Lost::Gone);
    main.joined();
    nightly.joined();

    // It has no memory left for one of the groups.
    advance(seconds(60)).await;
    for _ in 0..10 {
        main.alone(ExchangeResult::Refused, "OOM command not allowed");
        advance(seconds(1)).await;
    }
    main.joined();
    main.unreadable("12 bytes of an unknown form");
    main.no_room(3);

    // Somebody takes the user its rights.
    fleet.register_down(ExchangeResult::Denied, "NOPERM");
    advance(seconds(3)).await;
    fleet.register_up();
    main.lost(Lost::Older);

    let expected = [
        "INFO shared_up: Redis can be used: replicas share the quota",
        "WARN shared_down: Redis cannot be used, so each replica goes by its lease and then by DevRev's answers: no answer within 50 ms",
        "WARN shared_down: Redis still cannot be used (for 1 s); failures: 2: connection refused",
        "WARN shared_down: Redis still cannot be used (for 2 s); failures: 3: connection refused",
        "WARN shared_down: Redis still cannot be used (for 4 s); failures: 5: connection refused",
        "WARN shared_down: Redis still cannot be used (for 8 s); failures: 9: connection refused",
        "WARN shared_down: Redis still cannot be used (for 16 s); failures: 17: connection refused",
        "WARN shared_down: Redis still cannot be used (for 32 s); failures: 33: connection refused",
        "INFO shared_up: Redis can be used again, after 34 s; failures: 35",
        "WARN shared_lost_state: what Redis kept of the group main has been flushed, evicted or restarted; each replica states anew what it holds",
        "WARN shared_down: the group main is shared no more, although Redis answers: OOM command not allowed",
        "INFO shared_up: the group main is shared again, after 10 s",
        "WARN shared_unreadable: what Redis keeps of the group main cannot be read: 12 bytes of an unknown form",
        "WARN shared_no_room: what Redis keeps of the group main has no room left for limits of callers, so this replica's own limiters decide for 3 of them: their rates hold for each replica by itself",
        "WARN shared_denied: Redis refuses this user, so each replica goes by its lease and then by DevRev's answers: NOPERM",
        "INFO shared_up: Redis can be used again, after 3 s; failures: 1",
        "WARN shared_lost_state: what Redis kept of the group main is older than what this replica knows, as after a failover or a restore; each replica states anew what it holds",
    ];
    assert_eq!(told(&captured), expected);
}

/// `shared_down` was told with the attempt that began it, so `shared_denied` must say that rights are the matter now.
#[tokio::test(start_paused = true)]
async fn an_outage_that_becomes_a_matter_of_rights_says_so() {
    let captured = Captured::default();
    let _logging = tracing::subscriber::set_default(captured.subscriber());
    let fleet = fleet();
    fleet.register_down(ExchangeResult::Down, "connection refused");
    advance(seconds(20)).await;
    fleet.register_down(ExchangeResult::Denied, "WRONGPASS");
    let view = fleet.register();
    assert_eq!(
        (view.state, view.lasted),
        (RegisterState::Down, seconds(20))
    );
    assert_eq!(view.cause.unwrap().fault, ExchangeResult::Denied);
    fleet.register_up();
    let told = told(&captured);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[1].starts_with("WARN shared_denied: "), "{told:?}");
    assert!(told[2].contains("after 20 s; failures: 2"), "{told:?}");
}

/// A cluster of which one part flaps, or a Redis that evicts all the time.
#[tokio::test(start_paused = true)]
async fn a_group_that_comes_and_goes_is_told_in_a_few_lines() {
    let captured = Captured::default();
    let _logging = tracing::subscriber::set_default(captured.subscriber());
    let fleet = fleet();
    fleet.register_up();
    let main = joined(&fleet, "main");
    for _ in 0..1000 {
        main.alone(ExchangeResult::Refused, "CLUSTERDOWN");
        advance(seconds(1)).await;
        main.alone(ExchangeResult::Refused, "CLUSTERDOWN");
        main.lost(Lost::Gone);
        main.unreadable("nonsense");
        main.no_room(1);
        main.joined();
        advance(Duration::from_millis(50)).await;
    }
    let told = told(&captured);
    let count = |part: &str| told.iter().filter(|line| line.contains(part)).count();
    // Ten at once, and one a minute.
    let lines = count("shared no more");
    assert!((10..30).contains(&lines), "{lines}");
    // What has a beginning has an end.
    for part in ["shared again", "lost_state", "unreadable", "no_room"] {
        assert_eq!(count(part), lines, "{part}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_alone_counts_once_for_all_groups() {
    let fleet = fleet();
    let (one, two) = (joined(&fleet, "one"), joined(&fleet, "two"));
    let fault = ExchangeResult::Down;
    one.alone(fault, "");
    advance(seconds(10)).await;
    two.alone(fault, "");
    advance(seconds(5)).await;
    one.alone(fault, "");
    one.joined();
    one.joined();
    advance(seconds(5)).await;
    assert_eq!(fleet.alone(), seconds(20));
    // A group that is shared no more, because the file has it no more, is not alone either.
    drop(two);
    advance(seconds(100)).await;
    assert_eq!(fleet.alone(), seconds(20));
    assert_eq!(fleet.groups().len(), 1);
    one.alone(fault, "");
    advance(seconds(1)).await;
    assert_eq!(fleet.alone(), seconds(21));
}

#[tokio::test(start_paused = true)]
async fn a_group_is_shown_as_it_stands() {
    let fleet = fleet();
    let main = joined(&fleet, "main");
    let view = || fleet.groups().pop().unwrap().1;
    assert_eq!((view().sharing, view().held), (None, 7));
    main.stands(standing(Sharing::Scarce));
    advance(seconds(3)).await;
    let (told, ago) = view().standing.unwrap();
    assert_eq!((told, ago), (standing(Sharing::Scarce), seconds(3)));
    assert_eq!(view().sharing, Some(Sharing::Scarce));
    main.alone(ExchangeResult::TimedOut, &"é".repeat(1000));
    assert_eq!(view().sharing, Some(Sharing::Alone));
    let (lasted, cause) = view().alone.unwrap();
    assert_eq!(
        (lasted, cause.reason.chars().count()),
        (Duration::ZERO, 200)
    );
    // A group may come back before the one that it follows has gone.
    let again = fleet.group(&"main".into(), || 9);
    drop(main);
    assert_eq!((view().sharing, view().held), (None, 9));
    drop(again);
    assert!(fleet.groups().is_empty());
}

#[tokio::test(start_paused = true)]
async fn times_are_those_of_the_last_minutes_and_of_what_was_sent() {
    let fleet = fleet();
    assert_eq!(fleet.percentile(0.5), None);
    for _ in 0..99 {
        fleet.exchanged(ExchangeResult::Ok, Duration::from_micros(320));
        fleet.exchanged(ExchangeResult::Down, Duration::ZERO);
    }
    fleet.exchanged(ExchangeResult::TimedOut, Duration::from_millis(50));
    let near = |share, want: f64| {
        let found = fleet.percentile(share).unwrap();
        assert!((found / want - 1.0).abs() < 0.4, "{found} is not {want}");
    };
    near(0.5, 0.000_32);
    near(1.0, 0.05);
    let counts: Vec<_> = fleet.exchanges().filter(|(_, count)| *count > 0).collect();
    let expected = [
        (ExchangeResult::Ok, 99),
        (ExchangeResult::TimedOut, 1),
        (ExchangeResult::Down, 99),
    ];
    assert_eq!(counts, expected);
    advance(seconds(6 * 60)).await;
    assert_eq!(fleet.percentile(0.5), None);
}

#[tokio::test(start_paused = true)]
async fn its_metrics_are_there_from_the_start_and_groups_are_bounded() {
    let fleet = fleet();
    let text = || {
        let mut registry = Registry::with_prefix("revgate");
        registry.register_collector(Box::new(FleetCollector {
            fleet: fleet.clone(),
            is_named: Box::new(|name| name == "main"),
        }));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    };
    let has = |lines: &[&str]| {
        let text = text();
        for line in lines {
            assert!(text.lines().any(|one| one == *line), "{line} in\n{text}");
        }
    };
    has(&[
        "revgate_shared_up 0",
        "revgate_shared_timeout_seconds 0.05",
        "revgate_shared_alone_seconds_total 0.0",
        "revgate_shared_no_room_total 0",
        "revgate_shared_exchange_duration_seconds_count 0",
    ]);
    for result in ExchangeResult::ALL {
        let label = result.label();
        has(&[&format!(
            "revgate_shared_exchanges_total{{result=\"{label}\"}} 0"
        )]);
    }
    fleet.register_up();
    fleet.exchanged(ExchangeResult::Ok, Duration::from_micros(320));
    fleet.exchanged(ExchangeResult::Conflict, Duration::ZERO);
    fleet.exchanged(ExchangeResult::Overtaken, Duration::from_secs(1));
    let groups = ["main", "hash-1", "hash-2"].map(|name| joined(&fleet, name));
    groups
        .iter()
        .for_each(|group| group.stands(standing(Sharing::Plenty)));
    groups[0].alone(ExchangeResult::Refused, "");
    groups[0].no_room(2);
    groups[1].no_room(1);
    advance(Duration::from_millis(1500)).await;
    has(&[
        "revgate_shared_up 1",
        "revgate_shared_alone_seconds_total 1.5",
        "revgate_shared_no_room_total 3",
        r#"revgate_shared_exchanges_total{result="ok"} 1"#,
        r#"revgate_shared_exchanges_total{result="conflict"} 1"#,
        r#"revgate_shared_exchange_duration_seconds_bucket{le="0.0005"} 1"#,
        r#"revgate_shared_exchange_duration_seconds_bucket{le="0.5"} 1"#,
        r#"revgate_shared_exchange_duration_seconds_bucket{le="1.0"} 2"#,
        r#"revgate_shared_replicas{group="main"} 12"#,
        r#"revgate_shared_replicas{group="other"} 12"#,
        r#"revgate_shared_leased_units{group="main"} 7"#,
        r#"revgate_shared_leased_units{group="other"} 14"#,
        r#"revgate_shared_limbo_units{group="other"} 6"#,
    ]);
    let text = text();
    let series = text.lines().filter(|line| line.contains("group=\""));
    assert_eq!(series.count(), 6, "{text}");
}

/// The others have forgotten a replica that exchanges nothing, and what it told of them was true long ago.
#[tokio::test(start_paused = true)]
async fn metrics_of_the_whole_fleet_end_when_no_exchange_tells_of_it() {
    let fleet = fleet();
    let series = || {
        let mut registry = Registry::with_prefix("revgate");
        registry.register_collector(Box::new(FleetCollector {
            fleet: fleet.clone(),
            is_named: Box::new(|name| name.len() == 4),
        }));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let of_groups = text.lines().filter(|line| line.contains("group=\""));
        let of_groups = of_groups.map(|line| line.trim_start_matches("revgate_shared_").to_owned());
        of_groups.collect::<Vec<_>>()
    };
    let groups = ["main", "hash-1", "hash-2"].map(|name| joined(&fleet, name));
    let held = [
        r#"leased_units{group="main"} 7"#,
        r#"leased_units{group="other"} 14"#,
    ];
    assert_eq!(series(), held, "nothing has been told");
    groups
        .iter()
        .for_each(|group| group.stands(standing(Sharing::Plenty)));
    advance(FORGOTTEN).await;
    assert_eq!(series().len(), 6);
    groups[1].stands(standing(Sharing::Plenty));
    advance(Duration::from_millis(1)).await;
    let rest = [
        r#"replicas{group="other"} 12"#,
        held[0],
        held[1],
        r#"limbo_units{group="other"} 3"#,
    ];
    assert_eq!(series(), rest);
}
