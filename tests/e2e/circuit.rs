//! The circuits: what fails gets no requests but probes, and what works gets all of its own.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    ops::RangeInclusive,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper::{
    Method, Request,
    body::{Body, Bytes, Frame},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use revgate::simulator::{self, Fault, FaultPlan, Rule, TextDuration};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use crate::{
    http::{Answer, Client, exchange, get, request},
    rig::{self, KEY, Rig, gateway, hash, plan, status},
};

/// A caller that does nothing wrong.
const STEADY_KEY: &str = "steady-key-0005";

/// As `rules`, with the steady caller.
fn with_steady(failures: u32, open: &str) -> String {
    let hash = hash(STEADY_KEY);
    format!(
        "[callers.steady]\nkey_sha256 = \"{hash}\"\nrate = \"1000/s\"\nburst = 1000\n{}",
        rules(failures, open)
    )
}

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

/// Of billing's use of `works.list`.
async fn state(rig: &Rig) -> String {
    let circuit = circuit(rig.gateway.admin_address()).await;
    let stopped = circuit["stopped"].as_array().expect("a list");
    let found = stopped.iter().find(|one| {
        (&one["scope"], &one["caller"], &one["operation"])
            == (&"use".into(), &"billing".into(), &"works.list".into())
    });
    let state = found.map_or("closed", |one| one["state"].as_str().expect("a state"));
    state.to_owned()
}

/// What is stopped short of everything, as "scope caller operation".
async fn stopped(rig: &Rig) -> Vec<String> {
    let circuit = circuit(rig.gateway.admin_address()).await;
    assert_eq!(circuit["state"], "closed", "{circuit}");
    let stopped = circuit["stopped"].as_array().expect("a list");
    let words = stopped.iter().map(|one| {
        let word = |name: &str| one[name].as_str().unwrap_or("-").to_owned();
        [word("scope"), word("caller"), word("operation")].join(" ")
    });
    words.collect()
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

async fn has_metric(rig: &Rig, line: &str) -> bool {
    let text = rig.admin("/metrics").await.text();
    text.lines().any(|found| found == line)
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
async fn failures_of_one_caller_in_one_operation_stop_that_and_no_more() {
    let rig = Rig::new(&with_steady(3, NO_PROBE)).await;
    rig.devrev
        .set_plan(plan("works.list", status(503, None), 3));
    for _ in 0..2 {
        upstream_says(&rig, 503).await;
    }
    assert_eq!(state(&rig).await, "closed");
    upstream_says(&rig, 503).await;
    is_refused(&call(&rig).await, 280..=300);
    assert_eq!(rig.devrev.received().len(), 3, "upstream is left alone");
    assert_eq!(stopped(&rig).await, ["use billing works.list"]);
    let partly = r#"revgate_circuit_partly_open{scope="use",operation="works.list"} 1"#;
    assert!(has_metric(&rig, partly).await);
    assert!(has_metric(&rig, "revgate_circuit_open 0").await);

    let other_operation = rig.call("GET", "/accounts.list", "").await;
    assert_eq!(other_operation.status, 200, "{other_operation:?}");
    let other_caller = rig.send(get("/works.list", STEADY_KEY)).await;
    assert_eq!(other_caller.status, 200, "{other_caller:?}");
    assert_eq!(state(&rig).await, "open");
}

#[tokio::test]
async fn an_operation_that_fails_for_several_callers_stops_for_all() {
    let rig = Rig::new(&with_steady(4, NO_PROBE)).await;
    rig.devrev
        .set_plan(FaultPlan::none().with(Rule::new("works.list", status(500, None))));
    for key in [KEY, STEADY_KEY, KEY, STEADY_KEY] {
        assert_eq!(rig.send(get("/works.list", key)).await.status, 500);
    }
    assert_eq!(stopped(&rig).await, ["operation - works.list"]);
    for key in [KEY, STEADY_KEY, rig::OTHER_KEY] {
        is_refused(&rig.send(get("/works.list", key)).await, 280..=300);
        assert_eq!(
            rig.send(get("/works.get?id=a", key))
                .await
                .header("proxy-status"),
            None
        );
    }
}

#[tokio::test]
async fn operations_that_fail_for_several_callers_open_the_whole_circuit() {
    let rig = Rig::new(&with_steady(4, NO_PROBE)).await;
    rig.devrev
        .set_plan(FaultPlan::none().with(Rule::new("*", status(500, None))));
    for _ in 0..2 {
        for (operation, key) in [("/works.list", KEY), ("/parts.list", STEADY_KEY)] {
            assert_eq!(rig.send(get(operation, key)).await.status, 500);
        }
    }
    // Another caller, with another operation.
    is_refused(
        &rig.send(get("/tags.list", rig::OTHER_KEY)).await,
        280..=300,
    );
    assert_eq!(rig.devrev.received().len(), 4, "upstream is left alone");

    let circuit = circuit(rig.gateway.admin_address()).await;
    assert_eq!(
        (&circuit["state"], &circuit["failures"]),
        (&"open".into(), &4.into())
    );
    let left = circuit["next_probe_in_seconds"].as_f64().expect("a time");
    assert!((280.0..=300.0).contains(&left), "{left}");
    assert!(has_metric(&rig, "revgate_circuit_open 1").await);
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// A caller with a connection of its own for each call, or with one HTTP/2 connection for all.
#[derive(Clone)]
enum Caller {
    Http1(SocketAddr, &'static str),
    Http2(SendRequest<BoxBody<Bytes, Infallible>>, &'static str),
}

/// Its data, and then nothing more, ever.
struct Endless(Option<Bytes>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Poll::Pending,
        }
    }
}

impl Caller {
    async fn connect(rig: &Rig, key: &'static str, protocol: Protocol) -> Caller {
        if protocol == Protocol::Http1 {
            return Caller::Http1(rig.address, key);
        }
        let stream = TcpStream::connect(rig.address).await.expect("connects");
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.expect("HTTP/2");
        tokio::spawn(connection);
        Caller::Http2(sender, key)
    }

    async fn send(&self, method: Method, path: &str, body: Option<(usize, Bytes)>) -> u16 {
        let answer = async {
            match self {
                Caller::Http1(address, key) => {
                    let mut headers = vec![("Authorization", *key)];
                    let length = body.as_ref().map(|(length, _)| length.to_string());
                    headers.extend(length.iter().map(|length| ("Content-Length", &**length)));
                    let mut client = Client::connect(*address).await;
                    client
                        .send(request(method.as_str(), path, &headers, ""))
                        .await;
                    client
                        .send(body.map(|(_, data)| data).unwrap_or_default())
                        .await;
                    client.answer().await.expect("an answer").status
                }
                Caller::Http2(sender, key) => {
                    let mut request = Request::builder()
                        .method(method)
                        .uri(format!("http://api.devrev.ai{path}"))
                        .header("authorization", *key);
                    if let Some((length, _)) = &body {
                        request = request.header("content-length", *length);
                    }
                    let body = match body {
                        Some((_, data)) => Endless(Some(data)).boxed(),
                        None => Empty::new().boxed(),
                    };
                    let mut sender = sender.clone();
                    sender.ready().await.expect("ready");
                    let request = request.body(body).expect("a request");
                    let answer = sender.send_request(request).await.expect("an answer");
                    let status = answer.status().as_u16();
                    answer.into_body().collect().await.expect("a body");
                    status
                }
            }
        };
        timeout(Duration::from_secs(20), answer)
            .await
            .expect("an answer in time")
    }

    async fn get(&self, path: &str) -> u16 {
        self.send(Method::GET, path, None).await
    }

    /// A POST that announces `length` bytes of body, sends `sent` of them, and no more.
    async fn stalled(&self, path: &str, length: usize, sent: usize) -> u16 {
        let data = Bytes::from(vec![b' '; sent]);
        self.send(Method::POST, path, Some((length, data))).await
    }
}

/// While billing misuses the gateway, every call of the steady caller succeeds. Any failure that counted for it would stop it until the end
/// of the test.
async fn leaves_the_steady_caller_alone<F>(misuse: impl Fn(Caller) -> F, wanted: &[&str])
where
    F: Future<Output = ()> + Send + 'static,
{
    for protocol in [Protocol::Http1, Protocol::Http2] {
        // The quota is never short, so that no call waits for it.
        let plenty = simulator::Options {
            limit: 1_000_000,
            ..simulator::Options::default()
        };
        let rig = Rig::with(&with_steady(2, NO_PROBE), plenty).await;
        rig.devrev
            .set_plan(FaultPlan::none().with(Rule::new("works.update", status(500, None))));
        let billing = Caller::connect(&rig, KEY, protocol).await;
        let steady = Caller::connect(&rig, STEADY_KEY, protocol).await;
        let misuse = tokio::spawn(misuse(billing.clone()));
        let mut calls = 0;
        while !misuse.is_finished() || calls < 20 {
            assert_eq!(steady.get("/works.list").await, 200, "{protocol:?} {calls}");
            calls += 1;
        }
        misuse.await.expect("no panic");
        // Without a success that hides it: nothing is stopped but what has failed.
        assert_eq!(stopped(&rig).await, wanted, "{protocol:?}");
        assert_eq!(steady.get("/accounts.list").await, 200, "{protocol:?}");
        assert_eq!(billing.get("/works.list").await, 200, "{protocol:?}");
    }
}

/// Two dozen at once of a POST whose body stops, each answered with one of these statuses.
async fn two_dozen_stalled(caller: Caller, length: usize, sent: usize, wanted: &[u16]) {
    let mut all = JoinSet::new();
    for _ in 0..24 {
        let caller = caller.clone();
        all.spawn(async move { caller.stalled("/accounts.list", length, sent).await });
    }
    let statuses = all.join_all().await;
    assert!(
        statuses.iter().all(|status| wanted.contains(status)),
        "{statuses:?}"
    );
}

/// A body that streams counts once all of it is there.
#[tokio::test]
async fn failures_of_whole_uploads_count() {
    let body = " ".repeat(100_000);
    let authorization = ("Authorization", KEY);
    let chunked = [authorization, ("Transfer-Encoding", "chunked")];
    let mut in_chunks = request("POST", "/works.list", &chunked, "");
    in_chunks.extend(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes());
    let with_length = request("POST", "/works.list", &[authorization], &body);
    for upload in [in_chunks, with_length] {
        let rig = Rig::new(&rules(2, NO_PROBE)).await;
        rig.devrev
            .set_plan(plan("works.list", status(500, None), 2));
        for _ in 0..2 {
            assert_eq!(rig.send(&upload).await.status, 500);
        }
        is_refused(&call(&rig).await, 280..=300);
    }
}

#[tokio::test]
async fn stalled_uploads_stop_nobody() {
    // More than retry.max_replay_body, so that each holds a connection.
    let misuse = |caller| two_dozen_stalled(caller, 200_000, 70_000, &[408, 504]);
    leaves_the_steady_caller_alone(misuse, &[]).await;
}

#[tokio::test]
async fn declared_bodies_that_never_end_stop_nobody() {
    let misuse = |caller| two_dozen_stalled(caller, 100, 10, &[400, 408]);
    leaves_the_steady_caller_alone(misuse, &[]).await;
}

#[tokio::test]
async fn one_operation_that_fails_stops_for_its_caller_alone() {
    let misuse = |caller: Caller| async move {
        let mut statuses = Vec::new();
        for _ in 0..50 {
            statuses.push(caller.send(Method::POST, "/works.update", None).await);
        }
        assert_eq!(statuses[..2], [500, 500]);
        assert!(statuses[2..].iter().all(|status| *status == 503));
    };
    leaves_the_steady_caller_alone(misuse, &["use billing works.update"]).await;
}

#[tokio::test]
async fn a_stalled_upload_holds_no_probe() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let rig = opened(SHORT).await;
        becomes(&rig, "half_open").await;
        let billing = Caller::connect(&rig, KEY, protocol).await;
        let upload = tokio::spawn({
            let billing = billing.clone();
            async move { billing.stalled("/works.list", 200_000, 70_000).await }
        });
        let probing = async {
            loop {
                let circuit = circuit(rig.gateway.admin_address()).await;
                let left = circuit["stopped"][0]["next_probe_in_seconds"].as_f64();
                if left.is_some_and(|left| left > 0.0) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), probing)
            .await
            .expect("the upload is the probe");
        assert_eq!(billing.get("/works.list").await, 200, "{protocol:?}");
        assert_eq!(state(&rig).await, "closed", "{protocol:?}");
        upload.abort();
    }
}
