//! A pause that one replica meets is the whole fleet's, and so are its end, the probe and the ramp.

use std::time::Duration;

use futures_util::future::{join, join_all};
use revgate::simulator::{Fault, FaultPlan, Options, Rule, TextDuration};

use super::{ALPHA, BETA, Fleet, all_served, call};
use crate::rig::status;

/// All replicas know each other.
async fn together(count: usize) -> Fleet {
    let fleet = Fleet::new(count, "", Options::default()).await;
    for replica in 0..count {
        assert_eq!(fleet.call(replica, ALPHA, 5).await.status, 200);
    }
    fleet
}

#[tokio::test]
async fn a_429_holds_all_replicas_and_one_of_them_probes() {
    let fleet = together(3).await;
    let sent = fleet.devrev.received().len();
    let slow = Fault::Delay(TextDuration(Duration::from_millis(500)));
    fleet.devrev.set_plan(
        FaultPlan::none()
            .with(Rule::new("works.list", status(429, Some(2))).times(1))
            .with(Rule::new("works.list", slow).times(1)),
    );
    let (first, others) = join(fleet.call(0, ALPHA, 30), async {
        for replica in [0, 1, 2] {
            let paused = fleet
                .until(replica, |quota| quota["state"] == "paused")
                .await;
            assert!(paused["paused_until"].as_f64() > Some(1.7e9), "{paused}");
        }
        join_all((0..30).map(|n| fleet.call(n % 3, BETA, 30))).await
    })
    .await;
    assert_eq!(first.status, 200, "{first:?}");
    all_served(&others);
    let received = fleet.devrev.received();
    let at: Vec<u64> = received[sent..].iter().map(|r| r.at_ms).collect();
    assert_eq!(at.len(), 32);
    assert!(at[1] - at[0] >= 1990, "a probe before its time: {at:?}");
    assert!(at[2] - at[1] >= 490, "more than one probe: {at:?}");
    for replica in [0, 1, 2] {
        // What a replica knew last may be the probe of another one. It asks with its next request.
        assert_eq!(fleet.call(replica, ALPHA, 5).await.status, 200);
        let quota = fleet.quota(replica).await;
        assert!(quota["paused_until"].is_null(), "{quota}");
        assert_ne!(quota["state"], "paused", "{quota}");
    }
    fleet.assert_well().await;
}

#[tokio::test]
async fn a_503_with_a_time_holds_its_operation_on_all_replicas() {
    let fleet = together(3).await;
    let once = Rule::new("works.get", status(503, Some(300))).times(1);
    fleet.devrev.set_plan(FaultPlan::none().with(once));
    let sent = fleet.devrev.received().len();
    let target = "/works.get?id=TKT-1";
    assert_eq!(call(fleet.address(0), ALPHA, target, 5).await.status, 503);
    for replica in [1, 2] {
        let known =
            |quota: &serde_json::Value| quota["paused_operation"]["operation"] == "works.get";
        fleet.until(replica, known).await;
        let held = call(fleet.address(replica), ALPHA, target, 5).await;
        assert_eq!(held.code(), "quota_exhausted", "{held:?}");
        let after: u64 = held.header("retry-after").expect("a time").parse().unwrap();
        assert!((250..=300).contains(&after), "{held:?}");
        assert_eq!(fleet.call(replica, ALPHA, 5).await.status, 200);
    }
    assert_eq!(fleet.devrev.received().len(), sent + 3);
    fleet.assert_well().await;
}

#[tokio::test]
async fn resume_on_any_replica_ends_the_pause_of_all() {
    let fleet = together(3).await;
    let once = Rule::new("works.list", status(429, Some(600))).times(1);
    fleet.devrev.set_plan(FaultPlan::none().with(once));
    // It can't wait for so long.
    assert_eq!(fleet.call(0, ALPHA, 5).await.status, 429);
    for replica in [0, 1, 2] {
        fleet
            .until(replica, |quota| quota["state"] == "paused")
            .await;
        let held = fleet.call(replica, BETA, 30).await;
        assert_eq!(held.code(), "quota_exhausted", "{held:?}");
        let after: u64 = held.header("retry-after").expect("a time").parse().unwrap();
        assert!((500..=600).contains(&after), "{held:?}");
    }
    assert_eq!(fleet.resume(2).await.status, 200);
    for replica in [0, 1, 2] {
        fleet
            .until(replica, |quota| quota["paused_until"].is_null())
            .await;
        assert_eq!(fleet.call(replica, BETA, 10).await.status, 200);
    }
    // It does not come back with what anybody states later.
    for _ in 0..3 {
        fleet.serves(ALPHA, 6, 10).await;
    }
    for replica in [0, 1, 2] {
        let quota = fleet.quota(replica).await;
        assert!(quota["paused_until"].is_null(), "{quota}");
    }
    fleet.assert_well().await;
}
