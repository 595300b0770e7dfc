//! What all answers made by revgate have in common, and what is said to whoever has come to the wrong port.

use std::net::SocketAddr;

use crate::{
    http::{Answer, Client, exchange, get, request},
    rig::{self, KEY, OTHER_KEY, Rig},
};

fn ends_with_one_newline(answer: &Answer) -> bool {
    answer.body.ends_with(b"\n") && !answer.body.ends_with(b"\n\n") && answer.whole
}

/// So that a prompt after curl begins in a line of its own.
#[tokio::test]
async fn answers_end_with_a_newline() {
    let rig = Rig::new("[limits]\nmax_body = \"1KiB\"\n").await;
    let large = "x".repeat(2000);
    let authorized = [("Authorization", KEY), ("Content-Type", "application/json")];
    for (bytes, code) in [
        (get("/works.list", "wrong"), "unauthenticated"),
        (get("/auth-tokens.create", KEY), "forbidden"),
        (get("/a/../b", KEY), "bad_request"),
        (b"GET / HTTP/9.9\r\n\r\n".to_vec(), "bad_request"),
        (
            request("POST", "/rev-users.link", &authorized, "[]"),
            "parse_error",
        ),
        (
            request("POST", "/works.create", &authorized, &large),
            "body_too_large",
        ),
    ] {
        let answer = rig.send(&bytes).await;
        assert_eq!(answer.code(), code);
        assert!(ends_with_one_newline(&answer), "{answer:?}");
    }
    let mut limited = rig.send(get("/works.list", OTHER_KEY)).await;
    while limited.status == 200 {
        // DevRev's own goes through as it is.
        assert!(!limited.body.ends_with(b"\n"));
        limited = rig.send(get("/works.list", OTHER_KEY)).await;
    }
    assert_eq!(limited.code(), "caller_rate_limited");
    assert!(ends_with_one_newline(&limited), "{limited:?}");
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/config",
        "/status",
        "/quota",
        "/callers",
        "/deprecations",
        "/explain?request=GET%20/works.list",
        "/explain",
        "/nothing",
        "/reload",
    ] {
        let answer = rig.admin(path).await;
        assert!(ends_with_one_newline(&answer), "{path}: {answer:?}");
    }
    let address = rig.gateway.admin_address();
    for (path, body) in [
        ("/log-level", "{}"),
        ("/quota/none/resume", ""),
        ("/quota/main/resume", ""),
    ] {
        let answer = rig::admin(address, "POST", path, body).await;
        assert!(ends_with_one_newline(&answer), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn whoever_has_come_to_the_wrong_port_is_told() {
    let rig = Rig::new("").await;
    let without_key = |path: &'static str| exchange(rig.address, request("GET", path, &[], ""));
    for path in ["/", "/metrics", "/readyz", "/status?x=1"] {
        let answer = without_key(path).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "unauthenticated")
        );
        assert!(
            answer.text().contains("admin.address"),
            "{path}: {}",
            answer.text()
        );
    }
    let answer = without_key("/works.list").await;
    assert!(
        !answer.text().contains("admin.address"),
        "{}",
        answer.text()
    );
    // Whoever has a key may call what DevRev may have.
    assert!(rig.send(get("/metrics", KEY)).await.header("via").is_some());
    let admin: SocketAddr = rig.gateway.admin_address();
    let answer = rig::admin(admin, "POST", "/works.list", "{}").await;
    assert_eq!(answer.status, 404);
    assert!(
        answer.text().contains("listen.address"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn the_admin_listener_tells_who_speaks_another_protocol() {
    let rig = Rig::new("").await;
    let address = rig.gateway.admin_address();
    let hello = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        vec![0; 500],
    ]
    .concat();
    let answer = exchange(address, hello).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("http://") && ends_with_one_newline(&answer));
    let mut client = Client::connect(address).await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let told = client.rest().await;
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("HTTP/1.1 alone"), "{told}");
    // A request that comes byte by byte is served.
    let mut client = Client::connect(address).await;
    for byte in request("GET", "/healthz", &[], "") {
        client.send([byte]).await;
    }
    assert_eq!(client.answer().await.expect("an answer").status, 200);
}

#[tokio::test]
async fn the_times_of_a_callers_requests_are_its_own() {
    let rig = Rig::new("").await;
    for _ in 0..3 {
        assert_eq!(rig.call("GET", "/works.list", "").await.status, 200);
    }
    rig.send(get("/works.list", "wrong")).await;
    let metrics = rig.admin("/metrics").await.text();
    for line in [
        "revgate_caller_wait_seconds_count{caller=\"billing\"} 3",
        "revgate_caller_wait_seconds_bucket{le=\"0.01\",caller=\"billing\"} 3",
        "revgate_caller_request_duration_seconds_count{caller=\"billing\"} 3",
        "revgate_caller_request_duration_seconds_bucket{le=\"1200.0\",caller=\"billing\"} 3",
        "revgate_caller_request_duration_seconds_count{caller=\"other\"} 1",
        "revgate_config_last_reload_successful 1",
    ] {
        assert!(
            metrics.lines().any(|one| one == line),
            "{line} in\n{metrics}"
        );
    }
}
