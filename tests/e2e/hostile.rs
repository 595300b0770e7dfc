//! Bad input of every kind gets its code, and does not affect the next request.

use crate::{
    http::{Client, exchange, get, request},
    rig::{self, KEY, Rig},
};

#[tokio::test]
async fn hostile_requests_get_codes() {
    let rig = Rig::new("[limits]\nmax_body = \"1KiB\"\n").await;
    let auth = format!("Authorization: {KEY}\r\nContent-Type: application/json\r\n");
    let with = |rest: &str| format!("{rest}\r\n{auth}\r\n");
    let table: &[(&str, String, u16, &str)] = &[
        (
            "no credential",
            "GET /a.get HTTP/1.1\r\nHost: x\r\n\r\n".into(),
            401,
            "unauthenticated",
        ),
        (
            "wrong key",
            "GET /a.get HTTP/1.1\r\nHost: x\r\nAuthorization: no\r\n\r\n".into(),
            401,
            "unauthenticated",
        ),
        (
            "two credentials",
            with("GET /a.get HTTP/1.1\r\nHost: x\r\nAuthorization: no"),
            401,
            "unauthenticated",
        ),
        (
            "denied",
            with("POST /auth-tokens.create HTTP/1.1\r\nHost: x\r\nContent-Length: 0"),
            403,
            "forbidden",
        ),
        (
            "denied, disguised",
            with("POST //Auth%2Dtokens.CREATE/;x HTTP/1.1\r\nHost: x\r\nContent-Length: 0"),
            403,
            "forbidden",
        ),
        (
            "both framings",
            with(
                "POST /a.list HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
            ) + "0\r\n\r\n",
            400,
            "bad_request",
        ),
        (
            "denied behind an empty parameter",
            with("GET /;/auth-tokens.create HTTP/1.1\r\nHost: x"),
            403,
            "forbidden",
        ),
        (
            "an endless target",
            with(&format!("GET /{} HTTP/1.1\r\nHost: x", "a".repeat(70_000))),
            431,
            "headers_too_large",
        ),
        ("no host", with("GET /a.get HTTP/1.1"), 400, "bad_request"),
        (
            "two hosts",
            with("GET /a.get HTTP/1.1\r\nHost: x\r\nHost: y"),
            400,
            "bad_request",
        ),
        (
            "user info",
            with("GET /a.get HTTP/1.1\r\nHost: u@x"),
            400,
            "bad_request",
        ),
        (
            "dot segment",
            with("GET /a/../b HTTP/1.1\r\nHost: x"),
            400,
            "bad_request",
        ),
        (
            "encoded dot segment",
            with("GET /a/%2E%2e/b HTTP/1.1\r\nHost: x"),
            400,
            "bad_request",
        ),
        (
            "TRACE",
            with("TRACE /a HTTP/1.1\r\nHost: x"),
            400,
            "bad_request",
        ),
        (
            "CONNECT",
            with("CONNECT x:443 HTTP/1.1\r\nHost: x:443"),
            400,
            "bad_request",
        ),
        (
            "asterisk",
            with("OPTIONS * HTTP/1.1\r\nHost: x"),
            400,
            "bad_request",
        ),
        (
            "length over the limit",
            with("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2000"),
            413,
            "body_too_large",
        ),
        (
            "headers over the limit",
            with(&format!(
                "GET /a HTTP/1.1\r\nHost: x\r\nA: {}",
                "a".repeat(70_000)
            )),
            431,
            "headers_too_large",
        ),
        (
            "not JSON",
            with("POST /rev-users.link HTTP/1.1\r\nHost: x\r\nContent-Length: 1") + "x",
            400,
            "parse_error",
        ),
        (
            "conflict",
            with("POST /rev-users.link HTTP/1.1\r\nHost: x\r\nContent-Length: 27")
                + r#"{"id":"a","user_don":"bcd"}"#,
            400,
            "field_conflict",
        ),
        (
            "bad chunk",
            with("POST /a.list HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked") + "zz\r\n\r\n",
            400,
            "bad_request",
        ),
    ];
    for (what, bytes, status, code) in table {
        let answer = rig.send(bytes).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (*status, *code),
            "{what}: {answer:?}"
        );
        assert!(answer.header("proxy-status").is_some(), "{what}");
        assert!(answer.header("x-request-id").is_some(), "{what}");
        assert_eq!(
            rig.call("GET", "/dev-users.self", "").await.status,
            200,
            "after: {what}"
        );
    }
    let reached: Vec<_> = rig
        .devrev
        .received()
        .into_iter()
        .map(|r| r.target)
        .filter(|t| t != "/dev-users.self")
        .collect();
    assert!(reached.is_empty(), "{reached:?}");
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_refused_on_the_way() {
    let rig = Rig::new("[limits]\nmax_body = \"1KiB\"\n").await;
    let head = format!(
        "POST /a.create HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let answer = rig
        .send(format!("{head}800\r\n{}\r\n0\r\n\r\n", "a".repeat(0x800)))
        .await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "body_too_large"),
        "{answer:?}"
    );
    assert_eq!(answer.json()["max_bytes"], 1024);
}

#[tokio::test]
async fn ambiguous_framing_is_refused() {
    let rig = Rig::new("").await;
    for te in ["gzip, chunked", "chunked, chunked", "identity"] {
        let head = format!(
            "POST /a.list HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY}\r\nTransfer-Encoding: {te}\r\n\r\n0\r\n\r\n"
        );
        let answer = exchange(rig.address, head).await;
        assert_eq!(answer.status, 400, "{te}: {answer:?}");
    }
    assert!(rig.devrev.received().is_empty());
}

#[tokio::test]
async fn an_unreachable_upstream_has_its_own_code() {
    // A port on which nobody listens.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound");
    let gateway = rig::gateway(&free.to_string(), "[retry]\nmax_attempts = 1\n");
    let answer = exchange(gateway.address().expect("TCP"), get("/works.list", KEY)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "upstream_unreachable"),
        "{answer:?}"
    );
    assert_eq!(answer.json()["type"], "service_unavailable");
}

#[tokio::test]
async fn a_slow_head_is_cut_and_an_idle_connection_is_not() {
    let devrev = rig::simulator().await;
    let toml = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\nheader_timeout = \"300ms\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nurl = \"http://{}\"\n[tokens.main]\nenv = \"DEVREV_TOKEN\"\n[callers.app]\nanonymous = true\n",
        devrev.addr()
    );
    let gateway = rig::start(&toml, &[("DEVREV_TOKEN", "t")]);
    let address = gateway.address().expect("TCP");
    let mut kept = Client::connect(address).await;
    kept.send(request("GET", "/dev-users.self", &[], "")).await;
    assert_eq!(kept.answer().await.expect("an answer").status, 200);
    for start in [
        "G",
        "GET /a HTTP/1.1\r\nHost: x\r\n",
        "P",
        "PRI * HTTP/2.0\r\n",
    ] {
        let mut slow = Client::connect(address).await;
        slow.send(start).await;
        assert!(slow.answer().await.is_none(), "{start:?}");
    }
    kept.send(request("GET", "/dev-users.self", &[], "")).await;
    assert_eq!(kept.answer().await.expect("still there").status, 200);
}

#[tokio::test]
async fn every_head_of_a_connection_is_checked() {
    let rig = Rig::new("").await;
    let mut client = Client::connect(rig.address).await;
    for _ in 0..3 {
        client.send(get("/dev-users.self", KEY)).await;
        assert_eq!(client.answer().await.expect("an answer").status, 200);
    }
    client
        .send(format!(
            "POST /a.list HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ))
        .await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "bad_request"),
        "{answer:?}"
    );
    let endless =
        "POST /a.list HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n";
    let answer = rig.send(endless).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "bad_request"),
        "{answer:?}"
    );
}
