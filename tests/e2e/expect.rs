//! `Expect: 100-continue`: a client that waits gets its 100 or its answer.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::time::{Instant, timeout};

use crate::{
    edge::{EDGES, Edge, Upstream},
    http::request,
    rig::KEY,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test(flavor = "multi_thread")]
async fn over_http1_a_body_is_asked_for_once_if_it_is_wanted() {
    for edge in EDGES {
        let upstream = Upstream::http1(&[OK]).await;
        let edge = Edge::start(&upstream, edge, "");
        for (expect, asked) in [
            ("100-continue", true),
            ("100-Continue", true),
            ("other", false),
        ] {
            let mut client = edge.http1().await;
            let fields = [
                ("Authorization", KEY),
                ("Expect", expect),
                ("Content-Length", "5"),
            ];
            // Two on one connection.
            for _ in 0..2 {
                client
                    .send(request("POST", "/works.list", &fields, ""))
                    .await;
                if asked {
                    let interim = client.until("\r\n\r\n").await.expect("a 100");
                    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
                }
                client.send("hello").await;
                let head = client.until("ok").await.expect("an answer");
                assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            }
        }
        for seen in upstream.seen() {
            assert_eq!(seen.body, b"hello");
            assert!(seen.all("expect").is_empty(), "{seen:?}");
        }
        assert_eq!(upstream.seen().len(), 6);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http1_a_refusal_needs_no_body_and_ends_the_connection() {
    for edge in EDGES {
        let upstream = Upstream::http1(&[OK]).await;
        let edge = Edge::start(&upstream, edge, "");
        for (key, target, status) in [
            ("no", "/works.list", 401),
            (KEY, "/auth-tokens.create", 403),
            (KEY, "/a/..", 400),
        ] {
            for length in ["5", "1000000"] {
                let mut client = edge.http1().await;
                let fields = [
                    ("Authorization", key),
                    ("Expect", "100-continue"),
                    ("Content-Length", length),
                ];
                client.send(request("POST", target, &fields, "")).await;
                let head = client.until("\r\n\r\n").await.expect("an answer");
                assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
                assert!(
                    head.to_ascii_lowercase().contains("connection: close"),
                    "{head}"
                );
                let ends = timeout(Duration::from_secs(5), client.rest()).await;
                assert!(ends.is_ok(), "{status}");
            }
        }
        assert!(upstream.seen().is_empty());
    }
}

/// The status, if the client sends its body after so long, or never.
async fn status(edge: &Edge, key: &str, size: usize, after: Option<Duration>) -> u16 {
    let mut sender = edge.http2().await.ready().await.expect("ready");
    let request = Request::post("http://a/works.list")
        .header("authorization", key)
        .header("expect", "100-continue")
        .body(())
        .expect("a request");
    let (answer, mut body) = sender.send_request(request, false).expect("sent");
    let send = async {
        let Some(after) = after else {
            return std::future::pending().await;
        };
        tokio::time::sleep(after).await;
        let _ = body.send_data(Bytes::from(vec![b'x'; size]), true);
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = timeout(Duration::from_secs(10), answer) => answer,
        () = send => unreachable!(),
    };
    answer
        .expect("in time")
        .expect("an answer")
        .status()
        .as_u16()
}

/// hyper sends no 100 over HTTP/2. A client sends its body after a while, or repeats the request without the expectation.
#[tokio::test(flavor = "multi_thread")]
async fn over_http2_whoever_waits_gets_an_answer_soon() {
    for edge in EDGES {
        let upstream = Upstream::http1(&[OK]).await;
        let edge = Edge::start(&upstream, edge, "");
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let (at_once, later, large, never, refused) = tokio::join!(
            status(&edge, KEY, 5, Some(Duration::ZERO)),
            status(&edge, KEY, 5, Some(second)),
            status(&edge, KEY, 60_000, Some(second)),
            status(&edge, KEY, 5, None),
            status(&edge, "no", 5, None),
        );
        assert_eq!(
            (at_once, later, large, never, refused),
            (200, 200, 200, 417, 401)
        );
        assert!(start.elapsed() < 5 * second);
        let mut sizes: Vec<_> = upstream.seen().iter().map(|seen| seen.body.len()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [5, 5, 60_000]);
    }
}
