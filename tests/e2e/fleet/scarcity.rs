//! When more wait than the window holds: units are dealt, and windows are used whole.

use std::time::Duration;

use futures_util::future::join_all;
use revgate::simulator::{FaultPlan, Rule};
use serde_json::{Value, json};

use super::{ALPHA, BETA, Fleet, all_served, window};
use crate::rig::status;

/// How many calls DevRev counted in each of its windows of so many milliseconds.
fn by_window(fleet: &Fleet, length: u64) -> Vec<usize> {
    let mut windows: Vec<usize> = Vec::new();
    let mut ends = 0;
    for received in fleet.devrev.received() {
        if received.at_ms >= ends {
            ends = received.at_ms + length;
            windows.push(0);
        }
        if let Some(count) = windows.last_mut() {
            *count += 1;
        }
    }
    windows
}

#[tokio::test]
async fn windows_are_used_whole_over_their_ends_and_without_a_429() {
    for count in 1..=3 {
        let fleet = Fleet::new(count, "", window(40, 4)).await;
        assert_eq!(fleet.call(0, ALPHA, 5).await.status, 200);
        let (alpha, beta) = (fleet.serves(ALPHA, 60, 30), fleet.serves(BETA, 59, 30));
        tokio::join!(alpha, beta);
        fleet.assert_sent_once(120);
        fleet.assert_well().await;
        let windows = by_window(&fleet, 4000);
        crate::redis::report(&format!("{count} replicas: {windows:?}"), Duration::ZERO);
        for used in &windows[..windows.len() - 1] {
            // The last ones are due shortly before the end.
            assert!((37..=40).contains(used), "{windows:?}");
        }
        for replica in 0..count {
            // Nobody waits for anything any more.
            let idle = |quota: &Value| quota["waiting"] == 0 && quota["in_flight"] == 0;
            fleet.until(replica, idle).await;
        }
    }
}

#[tokio::test]
async fn many_wait_on_two_replicas_and_all_are_served() {
    let fleet = Fleet::new(2, "", window(900, 4)).await;
    assert_eq!(fleet.call(0, ALPHA, 5).await.status, 200);
    assert_eq!(fleet.call(1, ALPHA, 5).await.status, 200);
    let pause = Rule::new("works.list", status(429, Some(60))).times(1);
    fleet.devrev.set_plan(FaultPlan::none().with(pause));
    let (first, answers) = tokio::join!(fleet.call(0, ALPHA, 100), async {
        for replica in [0, 1] {
            fleet
                .until(replica, |quota| quota["state"] == "paused")
                .await;
        }
        // As many as one replica holds, and all at once.
        let calls =
            (0..1024).map(|n| fleet.call(n % 2, if n % 3 == 0 { BETA } else { ALPHA }, 100));
        let resumed = async {
            for replica in [0, 1] {
                let all = |quota: &Value| quota["fleet"]["waiting"] == 1025;
                let seen = fleet.until(replica, all).await;
                let by_caller = &seen["fleet"]["waiting_by_caller"];
                assert_eq!(*by_caller, json!({ "alpha": 683, "beta": 342 }), "{seen}");
            }
            assert_eq!(fleet.resume(0).await.status, 200);
        };
        tokio::join!(join_all(calls), resumed).0
    });
    assert_eq!(first.status, 200, "{first:?}");
    all_served(&answers);
    let (served, beyond) = fleet.counted();
    assert_eq!((served, beyond), (1027, 1), "the one of the plan");
    fleet.assert_well().await;
}
