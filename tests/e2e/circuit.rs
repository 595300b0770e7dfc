//! The circuit: an upstream that fails gets no requests but probes.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use revgate::simulator::{Fault, FaultPlan, Rule, TextDuration};
use tokio::time::timeout;

use crate::{
    http::{Answer, Client, exchange, get},
    rig::{self, KEY, Rig, gateway, plan, status},
};

/// With one attempt per request.
fn rules(failures: u32, open: &str) -> String {
    format!(
        "[retry]\nmax_attempts = 1\n\
         [upstream.circuit]\nfailures = {failures}\nwithin = \"60s\"\nopen = \"{open}\"\n"
    )
}

/// Longer than any test runs, so that no probe is sent.
const NO_PROBE: &str = "300s";
/// Long enough to see an open circuit or a probe in flight on a busy machine, and short enough to wait for.
const SHORT: &str = "1s";

async fn call(rig: &Rig) -> Answer {
    rig.call("GET", "/works.list", "").await
}

/// A call that the simulator answers with this status.
async fn upstream_says(rig: &Rig, status: u16) {
    let answer = call(rig).await;
    assert_eq!(
        (answer.status, answer.header("proxy-status")),
        (status, None),
        "{answer:?}"
    );
}

async fn admin(address: SocketAddr, path: &str) -> Answer {
    rig::admin(address, "GET", path, "").await
}

/// What `/status` says.
async fn circuit(address: SocketAddr) -> serde_json::Value {
    admin(address, "/status").await.json()["upstream"]["circuit"].take()
}

async fn state(rig: &Rig) -> String {
    let circuit = circuit(rig.gateway.admin_address()).await;
    circuit["state"].as_str().expect("a state").to_owned()
}

/// Polls until the circuit has this state, for a bounded time.
async fn becomes(rig: &Rig, wanted: &str) {
    let polled = async {
        while state(rig).await != wanted {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), polled)
        .await
        .unwrap_or_else(|_| panic!("it never became {wanted}"));
}

async fn gauge(rig: &Rig) -> String {
    let text = String::from_utf8(rig.admin("/metrics").await.body).expect("text");
    let line = text
        .lines()
        .find(|line| line.starts_with("revgate_circuit_open "));
    line.expect("the gauge").to_owned()
}

/// Asserts a refusal by the circuit, with a Retry-After in this range.
fn is_refused(answer: &Answer, time: RangeInclusive<u64>) {
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "circuit_open"),
        "{answer:?}"
    );
    let seconds = answer.header("retry-after").expect("a time");
    let seconds: u64 = seconds.parse().expect("whole seconds");
    assert!(time.contains(&seconds), "{seconds}");
}

/// A rig whose circuit was opened by two answers. Further answers are good.
async fn opened(open: &str) -> Rig {
    let rig = Rig::new(&rules(2, open)).await;
    rig.devrev
        .set_plan(plan("works.list", status(503, None), 2));
    upstream_says(&rig, 503).await;
    upstream_says(&rig, 503).await;
    rig.devrev.set_plan(FaultPlan::none());
    rig
}

#[tokio::test]
async fn failures_in_a_row_open_the_circuit() {
    let rig = Rig::new(&rules(3, NO_PROBE)).await;
    rig.devrev
        .set_plan(FaultPlan::none().with(Rule::new("*", status(503, None)).times(3)));
    for _ in 0..2 {
        upstream_says(&rig, 503).await;
    }
    assert_eq!(state(&rig).await, "closed");
    upstream_says(&rig, 503).await;
    is_refused(&call(&rig).await, 280..=300);
    // Another operation of the same upstream.
    let other = rig.call("POST", "/works.create", "{}").await;
    is_refused(&other, 280..=300);
    assert_eq!(rig.devrev.received().len(), 3, "upstream is left alone");

    let circuit = circuit(rig.gateway.admin_address()).await;
    assert_eq!(
        (&circuit["state"], &circuit["failures"]),
        (&"open".into(), &3.into())
    );
    let left = circuit["next_probe_in_seconds"].as_f64().expect("a time");
    assert!((280.0..=300.0).contains(&left), "{left}");
    assert_eq!(gauge(&rig).await, "revgate_circuit_open 1");
}

#[tokio::test]
async fn one_probe_goes_and_its_success_closes_the_circuit() {
    let rig = opened(SHORT).await;
    becomes(&rig, "half_open").await;
    let slow = Fault::Delay(TextDuration(Duration::from_millis(700)));
    rig.devrev.set_plan(plan("works.list", slow, 1));
    let mut probe = Client::connect(rig.address).await;
    probe.send(get("/works.list", KEY)).await;
    let sent = async {
        while rig.devrev.received().len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), sent)
        .await
        .expect("the probe is sent");
    is_refused(&call(&rig).await, 1..=1);
    assert_eq!(rig.devrev.received().len(), 3, "one probe and no more");
    assert_eq!(probe.answer().await.expect("an answer").status, 200);
    assert_eq!(state(&rig).await, "closed");
    assert_eq!(gauge(&rig).await, "revgate_circuit_open 0");
    upstream_says(&rig, 200).await;
}

#[tokio::test]
async fn a_probe_that_fails_opens_the_circuit_again() {
    let rig = opened(SHORT).await;
    becomes(&rig, "half_open").await;
    rig.devrev
        .set_plan(plan("works.list", status(500, None), 1));
    upstream_says(&rig, 500).await;
    is_refused(&call(&rig).await, 1..=1);
    assert_eq!(rig.devrev.received().len(), 3);
    becomes(&rig, "half_open").await;
    upstream_says(&rig, 200).await;
    assert_eq!(state(&rig).await, "closed");
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_opens_the_circuit() {
    let bound = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("binds");
    let closed = bound.local_addr().expect("an address");
    drop(bound);
    let gateway = gateway(&closed.to_string(), &rules(2, NO_PROBE));
    let address = gateway.address().expect("TCP");
    let call = || async move { exchange(address, get("/works.list", KEY)).await };
    for _ in 0..2 {
        assert_eq!(call().await.code(), "upstream_unreachable");
    }
    is_refused(&call().await, 280..=300);
    assert_eq!(circuit(gateway.admin_address()).await["state"], "open");
}

#[tokio::test]
async fn a_503_that_names_a_time_does_not_open_the_circuit() {
    let rig = Rig::new(&rules(2, NO_PROBE)).await;
    rig.devrev
        .set_plan(plan("works.list", status(503, Some(1)), 3));
    for _ in 0..3 {
        upstream_says(&rig, 503).await;
    }
    let circuit = circuit(rig.gateway.admin_address()).await;
    assert_eq!(
        (&circuit["state"], &circuit["failures"]),
        (&"closed".into(), &0.into())
    );
    upstream_says(&rig, 200).await;
}

#[tokio::test]
async fn any_other_answer_resets_the_consecutive_failures() {
    let rig = Rig::new(&rules(3, NO_PROBE)).await;
    let answers = [503, 500, 404, 502, 504, 429, 503, 503];
    let mut planned = FaultPlan::none();
    for code in answers {
        planned = planned.with(Rule::new("works.list", status(code, None)).times(1));
    }
    rig.devrev
        .set_plan(planned.with(Rule::new("*", status(503, None))));
    for code in answers {
        upstream_says(&rig, code).await;
    }
    assert_eq!(state(&rig).await, "closed");
    upstream_says(&rig, 503).await;
    is_refused(&call(&rig).await, 280..=300);
}

#[tokio::test]
async fn a_retry_that_meets_an_open_circuit_gives_upstreams_own_last_answer() {
    let rig = Rig::new(
        "[retry]\nbackoff = { min = \"1ms\", max = \"2ms\" }\n\
         [upstream.circuit]\nfailures = 2\nwithin = \"60s\"\nopen = \"300s\"\n",
    )
    .await;
    rig.devrev
        .set_plan(FaultPlan::none().with(Rule::new("*", status(502, None))));
    let answer = call(&rig).await;
    assert_eq!(
        (answer.status, answer.header("proxy-status")),
        (502, None),
        "{answer:?}"
    );
    assert!(
        answer
            .header("server-timing")
            .is_some_and(|value| value.contains("attempts;desc=\"2\"")),
        "{answer:?}"
    );
    let next = call(&rig).await;
    is_refused(&next, 280..=300);
    assert_eq!(
        next.header("server-timing"),
        None,
        "no attempt was made: {next:?}"
    );
    assert_eq!(rig.devrev.received().len(), 2);
}
