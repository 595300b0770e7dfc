mod desk;
mod objects;
mod pages;
mod refusals;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::*;

const LINK: &str = r#"{"rev_org_don":"o","user_don":"u"}"#;

async fn planned(plan: FaultPlan) -> Simulator {
    let options = Options {
        limit: 3,
        plan,
        ..Options::default()
    };
    start(options).await.unwrap()
}

/// Everything one request brings until the connection ends; `Err` with what came when it is reset.
async fn raw(addr: SocketAddr, request: &str) -> Result<String, String> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut chunk));
        match read.await.expect("the connection should end") {
            Ok(0) => return Ok(String::from_utf8_lossy(&got).into_owned()),
            Ok(read) => got.extend_from_slice(&chunk[..read]),
            Err(_) => return Err(String::from_utf8_lossy(&got).into_owned()),
        }
    }
}

fn request(method: &str, target: &str, extra: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nhost: d\r\nauthorization: T\r\n{extra}content-length: {length}\r\n\r\n{body}"
    )
}

async fn call(addr: SocketAddr, method: &str, target: &str, body: &str) -> (String, Value) {
    let request = request(method, target, "connection: close\r\n", body);
    let text = raw(addr, &request).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (
        head.to_owned(),
        serde_json::from_str(body).unwrap_or_default(),
    )
}

#[tokio::test]
async fn quota_counts_down_and_then_refuses() {
    let sim = planned(FaultPlan::none()).await;
    for left in ["2", "1", "0"] {
        let (head, body) = call(sim.addr(), "POST", "/rev-users.link", LINK).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains(&format!("x-ratelimit-remaining: {left}")));
        assert!(head.contains("x-ratelimit-limit: 3") && head.contains("date: "));
        assert_eq!(body["rev_user"]["display_id"], "REVU-131");
    }
    let (head, body) = call(sim.addr(), "POST", "/rev-users.link", LINK).await;
    assert!(head.starts_with("HTTP/1.1 429"), "{head}");
    assert!(head.contains("retry-after: ") && head.contains("x-ratelimit-reset: "));
    assert_eq!(body["type"], "too_many_requests");
    assert!(body["retry_after"].as_u64().unwrap() > 290);
    let bare = "GET /works.list HTTP/1.1\r\nhost: d\r\nconnection: close\r\n\r\n";
    let refused = raw(sim.addr(), bare).await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("unauthenticated"));
}

#[test]
fn bodies_are_judged_as_devrev_would() {
    for (body, kind, name) in [
        ("{", "parse_error", Value::Null),
        ("[]", "bad_request", Value::Null),
        ("{}", "missing_required_field", json!("id")),
        (r#"{"id":7}"#, "invalid_field", json!("id")),
        (r#"{"nope":"x"}"#, "bad_request", json!("nope")),
    ] {
        let (status, said) = desk::Desk::seeded().raw("POST", "rev-users.link", "", body);
        assert_eq!((&said["type"], &said["field_name"]), (&json!(kind), &name));
        assert_eq!(status, 400);
    }
}

#[tokio::test]
async fn lists_go_page_by_page() {
    let sim = planned(FaultPlan::none()).await;
    let (_, page) = call(sim.addr(), "GET", "/works.list?limit=100", "").await;
    assert_eq!(page["works"].as_array().unwrap().len(), 100);
    let next = json!({"limit": 100, "cursor": page["next_cursor"]}).to_string();
    let (_, page) = call(sim.addr(), "POST", "/works.list", &next).await;
    assert_eq!(page["works"].as_array().unwrap().len(), 20);
    assert_eq!(page["next_cursor"], Value::Null);
    let (head, _) = call(sim.addr(), "GET", "/accounts.list?cursor=what", "").await;
    assert!(head.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn wire_faults_look_as_they_should() {
    let sim = planned(FaultPlan::none()).await;
    let plain = request("POST", "/rev-users.link", "", LINK);
    for (fault, reset, expected) in [
        (Fault::Reset, true, ""),
        (Fault::Close, false, ""),
        (Fault::ResetMidBody, true, "content-length: "),
        (Fault::Truncate, false, "content-length: "),
        (Fault::Garbage, false, "this is not HTTP"),
        (Fault::Unasked101, false, "HTTP/1.1 101 "),
        (Fault::BothLengths, false, "transfer-encoding: chunked"),
        (Fault::CloseAfter, false, "content-length: "),
    ] {
        sim.set_plan(FaultPlan::none().with(Rule::new("*", fault.clone())));
        let got = raw(sim.addr(), &plain).await;
        assert_eq!(got.is_err(), reset, "{fault:?}: {got:?}");
        let text = got.unwrap_or_else(|text| text);
        assert!(text.contains(expected), "{fault:?}: {text}");
        assert_eq!(text.is_empty(), expected.is_empty(), "{fault:?}: {text}");
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Some((_, length)) = head.split_once("content-length: ")
            && !matches!(fault, Fault::BothLengths)
        {
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            assert_eq!(
                body.len() == length,
                fault == Fault::CloseAfter,
                "{fault:?}"
            );
        }
    }
}

#[tokio::test]
async fn slow_faults_take_their_time() {
    let drip = Drip {
        bytes: 10,
        pause: TextDuration(Duration::from_millis(20)),
    };
    let delay = Fault::Delay(TextDuration(Duration::from_millis(60)));
    for fault in [Fault::Drip(drip), delay] {
        let sim = planned(FaultPlan::none().with(Rule::new("*", fault))).await;
        let began = Instant::now();
        let (head, _) = call(sim.addr(), "POST", "/rev-users.link", "{}").await;
        assert!(head.starts_with("HTTP/1.1 400"), "{head}");
        assert!(began.elapsed() >= Duration::from_millis(60));
    }
    let sim = planned(FaultPlan::none().with(Rule::new("*", Fault::Hang))).await;
    let plain = request("GET", "/works.list", "", "");
    let hung = tokio::time::timeout(Duration::from_millis(100), raw(sim.addr(), &plain));
    assert!(hung.await.is_err());
}

#[tokio::test]
async fn an_early_answer_does_not_wait_for_the_body() {
    let sim = planned(FaultPlan::none().with(Rule::new("*", Fault::EarlyAnswer))).await;
    let mut stream = TcpStream::connect(sim.addr()).await.unwrap();
    let head = "POST /rev-users.link HTTP/1.1\r\nhost: d\r\nauthorization: T\r\ncontent-length: 99\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 8];
    let read = stream.read_exact(&mut first);
    let read = tokio::time::timeout(Duration::from_secs(2), read).await;
    read.unwrap().unwrap();
    assert_eq!(&first, b"HTTP/1.1");
}

#[tokio::test]
async fn planned_status_streams_and_blobs() {
    let status = Status {
        retry_after: Some(7),
        ..Status::new(503)
    };
    let sim = planned(FaultPlan::none().with(Rule::new("*", Fault::Status(status)).times(1))).await;
    let (head, body) = call(sim.addr(), "POST", "/rev-users.link", LINK).await;
    assert!(head.starts_with("HTTP/1.1 503") && head.contains("retry-after: 7"));
    assert_eq!(body["type"], "service_unavailable");
    let close = "connection: close\r\n";
    let chat = request("POST", "/recommendations.chat.completions", close, "{}");
    let text = raw(sim.addr(), &chat).await.unwrap();
    assert!(text.contains("text/event-stream") && text.contains("data: [DONE]"));
    let blob = request("GET", "/_blob?bytes=100000", close, "");
    let text = raw(sim.addr(), &blob).await.unwrap();
    assert!(text.contains("content-length: 100000"));
    assert_eq!(text.split_once("\r\n\r\n").unwrap().1.len(), 100_000);
}

#[tokio::test]
async fn requests_are_recorded_until_cleared() {
    let sim = planned(FaultPlan::none()).await;
    call(sim.addr(), "POST", "/rev-users.link?a=%22b%22", LINK).await;
    call(sim.addr(), "GET", "/no.such", "").await;
    let (_, all) = call(sim.addr(), "GET", "/_requests", "").await;
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_eq!(all[0]["target"], "/rev-users.link?a=%22b%22");
    assert_eq!(all[0]["body"], LINK);
    assert_eq!(all[0]["headers"][1], json!(["authorization", "T"]));
    assert_eq!(
        (&all[0]["status"], &all[1]["status"]),
        (&json!(200), &json!(404))
    );
    assert_eq!(sim.received().len(), 2);
    call(sim.addr(), "DELETE", "/_requests", "").await;
    assert!(sim.received().is_empty());
}

#[tokio::test]
async fn http2_is_spoken_and_a_cut_body_ends_its_stream_alone() {
    let cut = Rule::new("works.list", Fault::Truncate).times(1);
    let sim = planned(FaultPlan::none().with(cut)).await;
    let stream = TcpStream::connect(sim.addr()).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    tokio::spawn(connection);
    for whole in [false, true] {
        let request = Request::get("http://d/works.list?limit=1")
            .header("authorization", "Bearer T")
            .body(http_body_util::Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.into_body().collect().await.is_ok(), whole);
    }
    let seen = sim.received();
    assert_eq!(seen[1].target, "/works.list?limit=1");
    assert_eq!(seen[1].version, "HTTP/2.0");
}

#[tokio::test]
async fn dropping_it_ends_listener_and_connections() {
    let sim = planned(FaultPlan::none()).await;
    let addr = sim.addr();
    let mut open = TcpStream::connect(addr).await.unwrap();
    let plain = request("GET", "/works.get?id=TKT-1", "", "");
    open.write_all(plain.as_bytes()).await.unwrap();
    open.read_exact(&mut [0; 16]).await.unwrap();
    drop(sim);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(2), open.read_to_end(&mut rest));
    assert!(ended.await.is_ok());
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_test_replaces_the_plan_and_begins_again() {
    let sim = planned(FaultPlan::none()).await;
    let addr = sim.addr();
    let plan =
        "[[rule]]\noperation = \"tags.list\"\ntimes = 1\nfault = { status = { code = 500 } }\n";
    let (head, _) = call(addr, "PUT", "/_plan", plan).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let (_, shown) = call(addr, "GET", "/_plan", "").await;
    assert_eq!(shown["rule"][0]["operation"], "tags.list");
    // What is shown can be put back.
    assert!(
        call(addr, "PUT", "/_plan", &shown.to_string())
            .await
            .0
            .starts_with("HTTP/1.1 200")
    );
    let (head, said) = call(addr, "PUT", "/_plan", "[[rule]]\nfault = \"no_such\"\n").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    assert!(
        said["message"].as_str().unwrap().contains("no_such"),
        "{said}"
    );
    assert!(
        call(addr, "GET", "/tags.list", "")
            .await
            .0
            .starts_with("HTTP/1.1 500"),
        "the old one goes on"
    );
    call(addr, "DELETE", "/_plan", "").await;
    assert_eq!(call(addr, "GET", "/_plan", "").await.1, json!({"rule": []}));

    let (_, made) = call(addr, "POST", "/tags.create", "{\"name\":\"mine\"}").await;
    assert_eq!(made["tag"]["display_id"], "TAG-9");
    call(addr, "DELETE", "/_objects", "").await;
    let (head, _) = call(addr, "GET", "/tags.get?id=TAG-9", "").await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    for (method, path) in [
        ("PUT", "/_requests"),
        ("POST", "/_plan"),
        ("GET", "/_objects"),
    ] {
        let (head, _) = call(addr, method, path, "").await;
        assert!(
            head.starts_with("HTTP/1.1 405") && head.contains("allow: "),
            "{head}"
        );
    }
    assert!(
        sim.received().iter().all(|one| !one.target.contains("/_")),
        "they are not logged"
    );
}

#[tokio::test]
async fn what_a_plan_answers_is_not_done_and_what_breaks_later_is() {
    for (fault, done) in [
        (Fault::Status(Status::new(503)), false),
        (Fault::Status(Status::new(200)), false),
        (Fault::Reset, true),
        (Fault::Truncate, true),
    ] {
        let options = Options {
            plan: FaultPlan::none().with(Rule::new("tags.create", fault.clone())),
            empty: true,
            ..Options::default()
        };
        let sim = start(options).await.unwrap();
        let create = request(
            "POST",
            "/tags.create",
            "connection: close\r\n",
            "{\"name\":\"t\"}",
        );
        let _ = raw(sim.addr(), &create).await;
        let (head, _) = call(sim.addr(), "GET", "/tags.get?id=TAG-1", "").await;
        assert_eq!(head.starts_with("HTTP/1.1 200"), done, "{fault:?}: {head}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_kept_whole_is_too_large() {
    let sim = planned(FaultPlan::none()).await;
    let body = format!("{{\"name\":\"{}\"}}", "x".repeat(BODY_KEPT));
    let (head, said) = call(sim.addr(), "POST", "/tags.create", &body).await;
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    assert_eq!(
        (&said["type"], &said["max_bytes"]),
        (&json!("request_entity_too_large"), &json!(BODY_KEPT))
    );
}
