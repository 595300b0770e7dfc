//! 429, 503, broken connections and drains.

use std::time::Duration;

use revgate::simulator::{Fault, FaultPlan, Rule};

use crate::{
    http::{Client, get, request},
    rig::{KEY, Rig, plan, status},
};

#[tokio::test]
async fn retries_429_then_200() {
    let rig = Rig::new("").await;
    rig.devrev
        .set_plan(plan("rev-users.link", status(429, Some(1)), 1));
    let start = tokio::time::Instant::now();
    let answer = rig
        .call(
            "POST",
            "/rev-users.link",
            r#"{"id":"REVU-1","rev_org":"REV-1"}"#,
        )
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(
        start.elapsed() >= Duration::from_millis(990),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(rig.devrev.received().len(), 2);
    assert!(
        answer
            .header("server-timing")
            .is_some_and(|v| v.contains("attempts;desc=\"2\"")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_429_pauses_the_group() {
    let rig = Rig::new("").await;
    rig.devrev
        .set_plan(plan("rev-users.link", status(429, Some(600)), 1));
    let answer = rig
        .call("POST", "/rev-users.link", r#"{"id":"REVU-1"}"#)
        .await;
    assert_eq!(answer.status, 429, "upstream's own: {answer:?}");
    assert_eq!(answer.header("proxy-status"), None);
    // Another operation of the same user: nothing is sent, and the refusal has the right Retry-After.
    let held = rig.call("GET", "/works.list", "").await;
    assert_eq!(
        (held.status, held.code().as_str()),
        (429, "quota_exhausted"),
        "{held:?}"
    );
    let seconds: u64 = held
        .header("retry-after")
        .expect("a time")
        .parse()
        .expect("seconds");
    assert!((595..=600).contains(&seconds), "{seconds}");
    assert_eq!(rig.devrev.received().len(), 1);
    // An operator ends the pause.
    assert_eq!(rig.resume().await.status, 200);
    assert_eq!(rig.call("GET", "/works.list", "").await.status, 200);
}

#[tokio::test]
async fn a_429_without_a_time_concerns_only_its_request() {
    let rig = Rig::new("[retry]\nmax_attempts = 1\n").await;
    rig.devrev
        .set_plan(plan("works.list", status(429, None), 1));
    let answer = rig.call("GET", "/works.list", "").await;
    assert_eq!(answer.status, 429);
    assert!(
        answer
            .header("retry-after")
            .is_some_and(|v| v.parse::<u64>().is_ok()),
        "{answer:?}"
    );
    assert_eq!(rig.call("GET", "/works.list", "").await.status, 200);
}

#[tokio::test]
async fn reads_are_retried_and_writes_are_not() {
    let backoff = "[retry]\nbackoff = { min = \"1ms\", max = \"2ms\" }\n";
    for (fault, code) in [
        (Fault::Reset, 502),
        (status(500, None), 500),
        (status(502, None), 502),
    ] {
        let rig = Rig::new(backoff).await;
        rig.devrev
            .set_plan(FaultPlan::none().with(Rule::new("*", fault.clone()).times(1)));
        assert_eq!(
            rig.call("GET", "/works.list", "").await.status,
            200,
            "{fault:?}"
        );
        rig.devrev
            .set_plan(FaultPlan::none().with(Rule::new("*", fault.clone()).times(1)));
        assert_eq!(
            rig.call("POST", "/works.create", "{}").await.status,
            code,
            "{fault:?}"
        );
    }
    let rig = Rig::new(backoff).await;
    rig.devrev
        .set_plan(plan("rev-users.link", status(503, None), 2));
    assert_eq!(
        rig.call("POST", "/rev-users.link", r#"{"id":"a"}"#)
            .await
            .status,
        200,
        "503 is for any operation"
    );
    assert_eq!(rig.devrev.received().len(), 3);
}

#[tokio::test]
async fn upstreams_misbehaviour_on_the_wire_has_codes() {
    let rig = Rig::new("[retry]\nmax_attempts = 1\n").await;
    for (fault, code) in [
        (Fault::Garbage, "upstream_broken"),
        (Fault::Unasked101, "upstream_broken"),
        (Fault::Close, "upstream_broken"),
        (Fault::Reset, "upstream_broken"),
        (Fault::Hang, "upstream_timeout"),
    ] {
        rig.devrev.set_plan(plan("works.create", fault.clone(), 1));
        let answer = rig.call("POST", "/works.create", "{}").await;
        assert_eq!(answer.code(), code, "{fault:?}: {answer:?}");
    }
    rig.devrev
        .set_plan(plan("works.list", Fault::BothLengths, 1));
    let answer = rig.call("GET", "/works.list", "").await;
    assert!(answer.whole && answer.status == 200, "{answer:?}");
    answer.json();
    // DevRev accepts the token for everything else, so this answer is about the operation alone.
    rig.devrev
        .set_plan(plan("works.create", status(401, None), 1));
    let answer = rig.call("POST", "/works.create", "{}").await;
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(answer.json()["message"], "as planned");
}

#[tokio::test]
async fn a_connection_closed_while_idle_causes_no_error() {
    let rig = Rig::new("").await;
    rig.devrev
        .set_plan(FaultPlan::none().with(Rule::new("*", Fault::CloseAfter)));
    for _ in 0..30 {
        let answer = rig.call("GET", "/dev-users.self", "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn client_that_leaves_cancels_upstream() {
    let rig = Rig::new("").await;
    rig.devrev
        .set_plan(plan("works.list", status(429, Some(5)), 1));
    let mut client = Client::connect(rig.address).await;
    client.send(get("/works.list", KEY)).await;
    let waiting = |metrics: &str| metrics.contains("revgate_in_flight 1");
    while rig.devrev.received().is_empty() || !waiting(&rig.admin("/metrics").await.text()) {
        tokio::task::yield_now().await;
    }
    drop(client);
    while waiting(&rig.admin("/metrics").await.text()) {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        rig.devrev.received().len(),
        1,
        "nothing is sent for a caller that left"
    );
}

#[tokio::test]
async fn drains_without_loss() {
    let rig = Rig::new("").await;
    let rule = Rule::new(
        "works.list",
        Fault::Delay(revgate::simulator::TextDuration(Duration::from_millis(300))),
    )
    .times(1);
    rig.devrev.set_plan(
        FaultPlan::none()
            .with(rule)
            // Longer than the drain.
            .with(Rule::new("rev-users.link", status(503, Some(28)))),
    );
    let (mut slow, mut waits) = (
        Client::connect(rig.address).await,
        Client::connect(rig.address).await,
    );
    slow.send(get("/works.list", KEY)).await;
    waits
        .send(request(
            "POST",
            "/rev-users.link",
            &[("Authorization", KEY)],
            r#"{"id":"a"}"#,
        ))
        .await;
    while rig.devrev.received().len() < 2 {
        tokio::task::yield_now().await;
    }
    let Rig {
        devrev, gateway, ..
    } = rig;
    let (answers, ()) = tokio::join!(
        async { (slow.answer().await, waits.answer().await) },
        gateway.drain()
    );
    assert_eq!(
        answers.0.expect("an answer").status,
        200,
        "what was in flight is answered"
    );
    let refused = answers.1.expect("an answer");
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "draining"),
        "{refused:?}"
    );
    drop(devrev);
}
