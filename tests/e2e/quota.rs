//! Callers that share one quota, with windows of seconds, over real sockets.

use std::time::Duration;

use futures_util::future::join_all;
use revgate::simulator::{Fault, FaultPlan, Options, Rule, TextDuration};

use crate::{
    http::{Answer, Client, get, request},
    rig::{KEY, Rig, TOKEN, hash, header, status},
};

const GREEDY: &str = "greedy-key-0004";
const MODEST: &str = "modest-key-0005";

/// Two more callers. One has three times the weight of the other.
fn callers(extra: &str) -> String {
    let caller = |name: &str, key: &str, weight: u32| {
        format!(
            "[callers.{name}]\nkey_sha256 = \"{}\"\nrate = \"1000/s\"\nburst = 1000\nweight = {weight}\n",
            hash(key)
        )
    };
    format!(
        "{}{}{extra}",
        caller("greedy", GREEDY, 1),
        caller("modest", MODEST, 3)
    )
}

fn window(limit: u64, seconds: u64) -> Options {
    Options {
        limit,
        window: Duration::from_secs(seconds),
        ..Options::default()
    }
}

async fn call(rig: &Rig, key: &str, wait: u32) -> Answer {
    let wait = format!("wait={wait}");
    // The simulator does not see the key, so this names the caller.
    let headers = [
        ("Authorization", key),
        ("Prefer", wait.as_str()),
        ("X-Of", key),
    ];
    rig.send(request("GET", "/works.list", &headers, "")).await
}

pub async fn quota(rig: &Rig) -> serde_json::Value {
    rig.admin("/quota").await.json()["main"].clone()
}

/// Polls until `so` is true. The timeout of an answer bounds it.
pub async fn until(rig: &Rig, so: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    let ends = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let quota = quota(rig).await;
        if so(&quota) {
            return quota;
        }
        assert!(tokio::time::Instant::now() < ends, "{quota}");
    }
}

#[tokio::test]
async fn windows_are_used_whole_by_weight_and_without_a_429() {
    let rig = Rig::with(&callers(""), window(40, 4)).await;
    // The first answer shows the window. Then come more requests than one window allows, all at once.
    assert_eq!(call(&rig, KEY, 30).await.status, 200);
    let calls = (0..69).map(|n| call(&rig, if n % 2 == 0 { GREEDY } else { MODEST }, 30));
    let answers = join_all(calls).await;
    let bad = answers.iter().find(|answer| answer.status != 200);
    assert!(bad.is_none(), "{bad:?}");
    let received = rig.devrev.received();
    assert_eq!(received.len(), 70, "each was sent once");
    assert!(received.iter().all(|r| r.status == Some(200)));
}

#[tokio::test]
async fn a_heavier_caller_gets_more_of_a_scarce_quota() {
    let rig = Rig::with(&callers(""), window(40, 5)).await;
    // Above quota.spread_above it is first come, first served.
    assert_eq!(call(&rig, KEY, 30).await.status, 200);
    join_all((0..20).map(|_| call(&rig, KEY, 30))).await;
    join_all((0..40).map(|n| call(&rig, if n % 2 == 0 { GREEDY } else { MODEST }, 30))).await;
    let received = rig.devrev.received();
    assert!(received.iter().all(|r| r.status == Some(200)));
    // The requests that waited in the first window, without the first two, during which others still arrived.
    let waited = &received[23..40];
    let of = |key| {
        waited
            .iter()
            .filter(|r| header(r, "x-of") == Some(key))
            .count()
    };
    assert!((3..=5).contains(&of(GREEDY)), "{}", of(GREEDY));
    assert_eq!(of(GREEDY) + of(MODEST), waited.len());
}

#[tokio::test]
async fn after_a_pause_one_probes_and_the_rest_wait_for_its_answer() {
    let rig = Rig::new("").await;
    let slow = Fault::Delay(TextDuration(Duration::from_millis(400)));
    rig.devrev.set_plan(
        FaultPlan::none()
            .with(Rule::new("works.list", status(429, Some(1))).times(1))
            .with(Rule::new("works.list", slow).times(1)),
    );
    let (first, others) = tokio::join!(call(&rig, KEY, 30), async {
        until(&rig, |quota| quota["state"] == "paused").await;
        join_all((0..12).map(|_| call(&rig, KEY, 30))).await
    });
    assert_eq!(first.status, 200, "{first:?}");
    assert!(others.iter().all(|answer| answer.status == 200));
    let at: Vec<u64> = rig.devrev.received().iter().map(|r| r.at_ms).collect();
    assert_eq!(at.len(), 14);
    assert!(at[1] - at[0] >= 990, "a probe before its time: {at:?}");
    assert!(at[2] - at[1] >= 390, "more than one probe: {at:?}");
}

#[tokio::test]
async fn a_503_with_a_time_stops_its_operation_and_two_stop_the_group() {
    let rig = Rig::new("").await;
    let once = |operation| Rule::new(operation, status(503, Some(300))).times(1);
    rig.devrev.set_plan(
        FaultPlan::none()
            .with(once("works.get"))
            .with(once("accounts.get")),
    );
    assert_eq!(rig.call("GET", "/works.get?id=TKT-1", "").await.status, 503);
    let held = rig.call("GET", "/works.get?id=TKT-1", "").await;
    assert_eq!(held.code(), "quota_exhausted", "{held:?}");
    let seconds: u64 = held.header("retry-after").unwrap().parse().unwrap();
    assert!((290..=300).contains(&seconds), "{held:?}");
    let explained = "/explain?request=GET%20/works.get&caller=billing";
    let explained = rig.admin(explained).await.json();
    assert_eq!(explained["code"], "quota_exhausted", "{explained}");
    assert_eq!(call(&rig, KEY, 0).await.status, 200);
    assert_eq!(rig.call("GET", "/accounts.get", "").await.status, 503);
    let held = call(&rig, KEY, 30).await;
    assert_eq!(held.code(), "quota_exhausted", "{held:?}");
    assert_eq!(quota(&rig).await["state"], "paused");
    assert_eq!(rig.devrev.received().len(), 3);
}

#[tokio::test]
async fn external_use_is_seen_and_the_reserve_is_kept_for_it() {
    let extra = "[quota]\nspread_above = 1.0\nreserve = 0.5\n";
    let rig = Rig::with(extra, window(20, 300)).await;
    assert_eq!(call(&rig, KEY, 0).await.status, 200);
    let mut outside = Client::connect(rig.devrev.addr()).await;
    for _ in 0..4 {
        let bearer = format!("Bearer {TOKEN}");
        let bytes = get("/works.list", &bearer);
        outside.send(bytes).await;
        assert_eq!(outside.answer().await.expect("an answer").status, 200);
    }
    // 20 units, of which ten are the reserve. The four external requests use four of the reserve, so ten are left for revgate.
    for _ in 0..9 {
        assert_eq!(call(&rig, KEY, 0).await.status, 200);
    }
    let refused = call(&rig, KEY, 0).await;
    assert_eq!(refused.code(), "quota_exhausted", "{refused:?}");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((200..=301).contains(&after), "{after}");
    let quota = quota(&rig).await;
    assert_eq!(
        (&quota["remaining"], &quota["external"]),
        (&6.into(), &4.into()),
        "{quota}"
    );
    let metrics = rig.admin("/metrics").await.text();
    for line in [
        "revgate_quota_external_units_total{group=\"main\"} 4",
        "revgate_quota_remaining{group=\"main\"} 6",
        "revgate_upstream_throttled_total{group=\"main\"} 0",
        "revgate_quota_waiting{group=\"main\",caller=\"billing\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
}

#[tokio::test]
async fn a_thousand_requests_of_one_caller_block_no_other() {
    let rig = Rig::with(&callers("[quota]\nmax_waiting = 6\n"), window(1000, 300)).await;
    rig.devrev
        .set_plan(FaultPlan::none().with(Rule::new("works.list", status(429, Some(2))).times(1)));
    let (first, greedy, modest) = tokio::join!(
        call(&rig, KEY, 30),
        async {
            until(&rig, |quota| quota["state"] == "paused").await;
            join_all((0..20).map(|_| call(&rig, GREEDY, 30))).await
        },
        async {
            until(&rig, |quota| quota["waiting"] == 6).await;
            let modest = call(&rig, MODEST, 30);
            let (modest, seen) = tokio::join!(
                modest,
                until(&rig, |quota| { quota["waiting_by_caller"]["modest"] == 1 })
            );
            assert_eq!(seen["waiting"], 6, "{seen}");
            modest
        }
    );
    assert_eq!((first.status, modest.status), (200, 200));
    let full = greedy.iter().filter(|answer| answer.status != 200);
    let codes: Vec<String> = full.map(Answer::code).collect();
    assert_eq!(codes.len(), 16, "{codes:?}");
    assert!(codes.iter().all(|code| code == "waiting_room_full"));
}

#[tokio::test]
async fn a_pause_is_shown_and_an_operator_can_end_it() {
    let rig = Rig::new("").await;
    rig.devrev
        .set_plan(FaultPlan::none().with(Rule::new("works.list", status(429, Some(20))).times(1)));
    let start = tokio::time::Instant::now();
    let (answer, ()) = tokio::join!(call(&rig, KEY, 30), async {
        let quota = until(&rig, |quota| quota["waiting"] == 1).await;
        assert!(quota["paused_until"].as_f64() > Some(1.7e9), "{quota}");
        assert_eq!(quota["waiting_by_caller"]["billing"], 1);
        assert_eq!(rig.resume().await.status, 200);
    });
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_eq!(quota(&rig).await["paused_until"], serde_json::Value::Null);
}
