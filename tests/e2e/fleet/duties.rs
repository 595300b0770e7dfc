//! Replicas that end; and who is refused because its turn comes too late.

use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::{join, join_all};
use revgate::simulator::{FaultPlan, Rule};
use serde_json::Value;

use super::{ALPHA, BETA, Fleet, all_served, call, count, file, quota, until, window};
use crate::{
    http::{Client, request},
    process::Process,
    rig::{TOKEN, status},
};

#[tokio::test]
async fn a_replica_that_drains_returns_its_lease_and_its_place_in_the_turns() {
    let mut fleet = Fleet::new(3, "[drain]\ntimeout = \"1s\"\n", window(4000, 300)).await;
    for _ in 0..4 {
        fleet.serves(ALPHA, 30, 5).await;
    }
    let leaver = fleet.gateways.remove(1);
    let held = quota(&leaver).await["fleet"]["leased_here"].as_u64();
    assert!(held > Some(0), "{held:?}");
    leaver.drain().await;
    assert_eq!(fleet.call(0, ALPHA, 5).await.status, 200);
    // An exchange of another shows it.
    let gone = |quota: &Value| quota["fleet"]["replicas"] == 2;
    loop {
        if gone(&fleet.quota(0).await) {
            break;
        }
        assert_eq!(fleet.call(0, ALPHA, 5).await.status, 200);
    }
    let quota = fleet.quota(0).await;
    assert_eq!(quota["fleet"]["limbo"], 0, "{quota}");
    fleet.assert_well().await;
}

#[tokio::test]
async fn those_that_wait_on_a_replica_that_drains_leave_the_turns() {
    let extra = "[quota]\nspread_above = 0.0\n[drain]\ntimeout = \"1s\"\n";
    let mut fleet = Fleet::new(2, extra, window(60, 5)).await;
    let leaver = fleet.gateways.pop().expect("two");
    let address = leaver.address().expect("TCP");
    assert_eq!(fleet.call(0, ALPHA, 5).await.status, 200);
    assert_eq!(call(address, ALPHA, "/works.list", 5).await.status, 200);
    let pause = Rule::new("works.list", status(429, Some(60))).times(1);
    fleet.devrev.set_plan(FaultPlan::none().with(pause));
    let first = fleet.call(0, ALPHA, 100);
    let (first, (stayed, left)) = join(first, async {
        fleet.until(0, |quota| quota["state"] == "paused").await;
        let paused = || async {
            let quota = quota(&leaver).await;
            let paused = quota["state"] == "paused";
            paused.then_some(()).ok_or(quota.to_string())
        };
        until("the one that leaves", paused).await;
        let stay = join_all((0..20).map(|_| fleet.call(0, ALPHA, 100)));
        let leave = join_all((0..40).map(|_| call(address, BETA, "/works.list", 100)));
        let drained = async {
            fleet
                .until(0, |quota| quota["fleet"]["waiting"] == 61)
                .await;
            leaver.drain().await;
            fleet
                .until(0, |quota| quota["fleet"]["waiting"] == 21)
                .await;
            assert_eq!(fleet.resume(0).await.status, 200);
        };
        let (answers, ()) = join(join(stay, leave), drained).await;
        answers
    })
    .await;
    assert_eq!(first.status, 200, "{first:?}");
    all_served(&stayed);
    assert!(
        left.iter().all(|answer| answer.code() == "draining"),
        "{left:?}"
    );
    assert_eq!(count(&fleet.devrev.received(), BETA), 0);
    fleet.assert_well().await;
}

#[tokio::test]
async fn a_replica_that_is_killed_holds_up_nobody() {
    let fleet = Fleet::new(2, "", window(60, 4)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("revgate.toml");
    let redis = fleet.redis.as_ref().expect("a server");
    let url = folder.path().join("redis");
    std::fs::write(&url, format!("redis://{}", redis.address())).expect("written");
    let text = file(&fleet.devrev.addr().to_string(), "", "").replace(
        "{ env = \"REDIS_URL\" }",
        &format!("{{ file = \"{}\" }}", url.display()),
    );
    std::fs::write(&path, text).expect("written");
    let mut process = Process::start(
        &["run", "-c", path.to_str().expect("text")],
        "warn,revgate=info",
    );
    let address = process.bound("proxy");
    assert!(!TOKEN.is_empty());
    assert_eq!(call(address, BETA, "/works.list", 5).await.status, 200);
    // All wait, most of them on the one that is killed.
    let doomed: Vec<_> = (0..100)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let headers = [
                    ("Authorization", BETA.key),
                    ("Prefer", "wait=30"),
                    ("X-Of", "beta"),
                ];
                client
                    .send(request("GET", "/works.list", &headers, ""))
                    .await;
                client.answer().await.map(|answer| answer.status)
            })
        })
        .collect();
    let calls = join_all((0..130).map(|n| fleet.call(n % 2, ALPHA, 100)));
    let (answers, ()) = join(calls, async {
        fleet
            .until(0, |quota| quota["fleet"]["waiting"].as_u64() > Some(100))
            .await;
        process.child.kill().expect("killed");
        process.child.wait().expect("ended");
    })
    .await;
    all_served(&answers);
    for one in doomed {
        let status = one.await.expect("no panic");
        assert!(matches!(status, None | Some(200)), "{status:?}");
    }
    let (_, beyond) = fleet.counted();
    assert_eq!(beyond, 0);
    fleet.assert_well().await;
}

#[tokio::test]
async fn who_cannot_be_served_in_time_is_refused_early_wherever_the_others_wait() {
    let extra = "[quota]\nspread_above = 0.0\n";
    let fleet = Fleet::new(2, extra, window(30, 6)).await;
    for replica in [0, 1] {
        assert_eq!(fleet.call(replica, ALPHA, 5).await.status, 200);
    }
    // Two windows' worth wait on one replica.
    let others = join_all((0..70).map(|_| fleet.call(0, ALPHA, 100)));
    let (others, ()) = join(others, async {
        fleet.until(1, |quota| quota["remaining"].is_number()).await;
        fleet
            .until(0, |quota| quota["waiting"].as_u64() > Some(40))
            .await;
        // The other replica has had no request meanwhile, so it must ask.
        let refused = fleet.call(1, ALPHA, 1).await;
        assert_eq!(refused.code(), "quota_exhausted", "{refused:?}");
        let after: u64 = refused
            .header("retry-after")
            .expect("a time")
            .parse()
            .unwrap();
        assert!((2..=20).contains(&after), "{refused:?}");
        // Another caller has its turn soon: it is not behind all of them.
        let served = fleet.call(1, BETA, 4).await;
        assert_eq!(served.status, 200, "{served:?}");
    })
    .await;
    all_served(&others);
    fleet.assert_well().await;
}

#[tokio::test]
async fn who_can_be_served_is_not_refused_by_what_was_known_a_while_ago() {
    let extra = "[quota]\nspread_above = 0.0\n";
    let fleet = Fleet::new(2, extra, window(200, 200)).await;
    for replica in [0, 1] {
        assert_eq!(fleet.call(replica, ALPHA, 5).await.status, 200);
    }
    // One each second, so the last of these is far away.
    let mut clients = Vec::new();
    for _ in 0..25 {
        let mut client = Client::connect(fleet.address(0)).await;
        let headers = [("Authorization", ALPHA.key), ("Prefer", "wait=30")];
        client
            .send(request("GET", "/works.list", &headers, ""))
            .await;
        clients.push(client);
    }
    fleet
        .until(0, |quota| quota["fleet"]["waiting"].as_u64() > Some(20))
        .await;
    let refused = fleet.call(1, ALPHA, 1).await;
    assert_eq!(refused.code(), "quota_exhausted", "{refused:?}");
    let age = |quota: &Value| {
        let now = SystemTime::now();
        let now = now
            .duration_since(UNIX_EPOCH)
            .expect("past it")
            .as_secs_f64();
        now - quota["fleet"]["exchanged_at"].as_f64().expect("a time")
    };
    // It has nothing more to say.
    fleet
        .until(1, |quota| {
            quota["fleet"]["waiting"].as_u64() > Some(15) && age(quota) > 1.0
        })
        .await;
    // All of them give up, and the other replica has nothing to say or ask for a while.
    drop(clients);
    fleet.until(0, |quota| quota["waiting"] == 0).await;
    let quota = fleet.until(1, |quota| age(quota) > 4.0).await;
    assert!(quota["fleet"]["waiting"].as_u64() > Some(15), "{quota}");
    let served = fleet.call(1, ALPHA, 5).await;
    assert_eq!(served.status, 200, "{served:?}");
    fleet.assert_well().await;
}
