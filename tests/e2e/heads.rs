//! Heads and framings: every request of a connection is judged, wherever it begins, and everything in a head has a bound.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri};
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    edge::{EDGES, Edge, Upstream},
    http::{Answer, Client},
    rig::KEY,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn head(line: &str, fields: &str) -> String {
    format!("{line}\r\nHost: a\r\nAuthorization: {KEY}\r\n{fields}\r\n")
}

fn post(fields: &str, body: &str) -> String {
    head("POST /works.list HTTP/1.1", fields) + body
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

/// What is wrong, the bytes, and the status.
fn faults() -> Vec<(&'static str, Vec<u8>, u16)> {
    let get = |target: &str| head(&format!("GET {target} HTTP/1.1"), "");
    let long = |length: usize| "a".repeat(length);
    let text = |what, text: String, status| (what, text.into_bytes(), status);
    let mut latin = b"GET /works.\xe4 HTTP/1.1\r\n".to_vec();
    latin.extend(b"Host: a\r\n\r\n");
    vec![
        text(
            "both framings",
            post(
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
            400,
        ),
        text(
            "both, the other way round",
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                "0\r\n\r\n",
            ),
            400,
        ),
        text(
            "chunked is not last",
            post("Transfer-Encoding: chunked, gzip\r\n", ""),
            400,
        ),
        text(
            "twice chunked",
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
            400,
        ),
        text(
            "two lengths",
            post("Content-Length: 1\r\nContent-Length: 2\r\n", "ab"),
            400,
        ),
        text(
            "a list of lengths",
            post("Content-Length: 1, 1\r\n", "a"),
            400,
        ),
        text(
            "a length beyond all numbers",
            post("Content-Length: 18446744073709551615\r\n", ""),
            400,
        ),
        text(
            "a chunked request of HTTP/1.0",
            head(
                "POST /works.list HTTP/1.0",
                "Transfer-Encoding: chunked\r\n",
            ) + "0\r\n\r\n",
            400,
        ),
        text(
            "a bare LF",
            "GET /works.list HTTP/1.1\nHost: a\n\n".into(),
            400,
        ),
        text(
            "a bare LF between fields",
            get("/works.list").replace("a\r\nAuth", "a\nAuth"),
            400,
        ),
        text(
            "a bare CR",
            get("/works.list").replace("a\r\nAuth", "a\rAuth"),
            400,
        ),
        text(
            "a folded line",
            get("/works.list").replace("a\r\nAuth", "a\r\n Auth"),
            400,
        ),
        text(
            "a space before the colon",
            get("/works.list").replace("Host:", "Host :"),
            400,
        ),
        text(
            "a space before the first field",
            get("/works.list").replace("Host:", " Host:"),
            400,
        ),
        text("NUL in a field", post("A: b\0\r\n", ""), 400),
        text(
            "an endless method",
            get("/works.list").replace("GET", &long(100_000)),
            400,
        ),
        text(
            "a long method",
            get("/works.list").replace("GET", &long(33)),
            400,
        ),
        text(
            "an endless name",
            post(&format!("{}: b\r\n", long(70_000)), ""),
            431,
        ),
        text(
            "a long name",
            post(&format!("{}: b\r\n", long(257)), ""),
            431,
        ),
        text(
            "an endless value",
            post(&format!("a: {}\r\n", long(100_000)), ""),
            431,
        ),
        text(
            "an endless target",
            get(&format!("/{}", long(100_000))),
            431,
        ),
        text("many fields", post(&"a: b\r\n".repeat(150), ""), 431),
        text(
            "too many fields to count",
            post(&"a: b\r\n".repeat(1000), ""),
            431,
        ),
        text("UTF-8 in a target", get("/works.ä"), 400),
        ("another byte above ASCII in a target", latin, 400),
        text("UTF-8 in a query", get("/works.list?a=\u{a0}"), 400),
        text(
            "a control character in a target",
            get("/works.list\x01"),
            400,
        ),
        text("DEL in a target", get("/works.list\x7f"), 400),
        text("a tab in a target", get("/works.list\t"), 400),
        text("a space in a target", get("/works.list /a"), 400),
        text("two spaces", get(" /works.list"), 400),
        text(
            "another version",
            "GET / HTTP/1.2\r\nHost: a\r\n\r\n".into(),
            400,
        ),
        text(
            "the preface of HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
            400,
        ),
        text("no head at all", "\0".repeat(3), 400),
        text(
            "a control character in an extension",
            chunked("1;a\x08\r\nx\r\n0\r\n\r\n"),
            400,
        ),
        text(
            "a long extension",
            chunked(&format!("1;{}\r\nx\r\n0\r\n\r\n", long(600))),
            400,
        ),
        text(
            "zeros without an end",
            chunked(&format!("{}1\r\nx\r\n0\r\n\r\n", "0".repeat(30))),
            400,
        ),
        text(
            "a space behind a size",
            chunked("1 \r\nx\r\n0\r\n\r\n"),
            400,
        ),
        text("a bare LF behind a size", chunked("1\nx\r\n0\r\n\r\n"), 400),
        text(
            "long trailers",
            chunked(&format!("0\r\na: {}\r\n\r\n", long(9000))),
            400,
        ),
        text("a malformed trailer", chunked("0\r\na : b\r\n\r\n"), 400),
    ]
}

/// What comes before it on the connection, and how many requests that are.
fn before() -> [(String, usize); 4] {
    let get = head("GET /works.list HTTP/1.1", "");
    [
        (String::new(), 0),
        (get.clone(), 1),
        (post("Content-Length: 5\r\n", "GET /") + "\r\n" + &get, 2),
        (chunked("3;a=b\r\nGET\r\n0\r\nA: b\r\n\r\n") + &get, 2),
    ]
}

/// The answers to requests before, and the last one, after which the connection ends.
async fn answers(client: &mut Client<Box<dyn crate::edge::Stream>>, before: usize) -> Answer {
    for _ in 0..before {
        let answer = client.answer().await.expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let last = client.answer().await.expect("a refusal");
    let ends = timeout(Duration::from_secs(5), client.rest()).await;
    assert!(ends.expect("the connection ends").is_empty());
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_a_connection_is_judged() {
    for edge in EDGES {
        let upstream = Upstream::http1(&[OK]).await;
        let edge = Edge::start(&upstream, edge, "");
        let mut reached = 0;
        for (what, bytes, status) in faults() {
            for (start, count) in before() {
                // "PRI * HTTP/2.0" begins HTTP/2 on a plain connection.
                if count == 0 && bytes.starts_with(b"PRI") {
                    continue;
                }
                let mut client = edge.http1().await;
                let all = [start.as_bytes(), &bytes].concat();
                // What is not read may cost the writer its connection.
                let _ = client.0.write_all(&all).await;
                let _ = client.0.flush().await;
                let answer = answers(&mut client, count).await;
                let code = if status == 431 {
                    "headers_too_large"
                } else {
                    "bad_request"
                };
                assert_eq!(
                    (answer.status, answer.code().as_str()),
                    (status, code),
                    "{what}: {answer:?}"
                );
                assert!(
                    answer.header("proxy-status").is_some(),
                    "{what}: {answer:?}"
                );
                assert!(
                    answer.header("x-request-id").is_some(),
                    "{what}: {answer:?}"
                );
                assert_eq!(
                    answer.header("connection"),
                    Some("close"),
                    "{what}: {answer:?}"
                );
                reached += count;
            }
        }
        assert_eq!(upstream.seen().len(), reached);
    }
}

/// Byte after byte, each in a segment of its own if the kernel likes.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_found_however_it_arrives() {
    let upstream = Upstream::http1(&[OK]).await;
    let edge = Edge::start(&upstream, (1, false), "");
    for (what, bytes, status) in faults() {
        if bytes.len() > 2000 || bytes.starts_with(b"PRI") {
            continue;
        }
        let mut client = edge.http1().await;
        client.send(&before()[3].0).await;
        for byte in bytes.chunks(1) {
            if client.0.write_all(byte).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(answers(&mut client, 2).await.status, status, "{what}");
    }
}

/// Its answer comes, although what follows is refused.
#[tokio::test]
async fn a_request_in_flight_is_answered_before_what_follows_is_refused() {
    let upstream = Upstream::http1(&[OK]).await;
    let edge = Edge::start(&upstream, (1, false), "");
    let mut client = edge.http1().await;
    // Its body is awaited while the rest is on its way.
    client.send(post("Content-Length: 5\r\n", "abc")).await;
    client.send("de").await;
    client.send("\0\0\0").await;
    assert_eq!(answers(&mut client, 1).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_in_one_segment_are_served_in_their_order() {
    for edge in EDGES {
        let upstream = Upstream::http1(&[OK]).await;
        let edge = Edge::start(&upstream, edge, "");
        let mut client = edge.http1().await;
        let one = |number: usize| match number % 3 {
            0 => head(&format!("GET /a.{number} HTTP/1.1"), ""),
            1 => {
                head(
                    &format!("POST /a.{number} HTTP/1.1"),
                    "Content-Length: 9\r\n",
                ) + "GET / HTT"
            }
            _ => {
                head(
                    &format!("POST /a.{number} HTTP/1.1"),
                    "Transfer-Encoding: chunked\r\n",
                ) + "a ;b=\"c\"\r\n\r\n\r\nGET / \r\n0\r\n\r\n"
            }
        };
        let all: String = (0..60).map(one).collect();
        client.send(all).await;
        for _ in 0..60 {
            assert_eq!(client.answer().await.expect("an answer").status, 200);
        }
        let seen = upstream.seen();
        for (number, seen) in seen.iter().enumerate() {
            assert!(seen.head.contains(&format!(" /a.{number} ")), "{seen:?}");
        }
        assert_eq!(seen.len(), 60);
        assert_eq!(
            (seen[1].body.as_slice(), seen[2].body.as_slice()),
            (&b"GET / HTT"[..], &b"\r\n\r\nGET / "[..])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_http2_have_the_same_bounds() {
    for edge in EDGES {
        let upstream = Upstream::http1(&[OK]).await;
        let edge = Edge::start(&upstream, edge, "");
        let mut sender = edge.http2().await;
        let long = |length: usize| "a".repeat(length);
        for (method, target, name, want) in [
            ("GET", "/works.list", "a", 200),
            (&*long(32), "/works.list?a=%ff", &*long(256), 200),
            (&*long(33), "/works.list", "a", 400),
            (&*long(60_000), "/works.list", "a", 400),
            ("GET", "/works.list", &*long(257), 431),
            ("GET", "/works.list", &*long(60_000), 431),
            ("GET", "/works.\u{e4}", "a", 400),
            ("GET", "/works.list?a=\u{85}", "a", 400),
            ("GET", "/works.list?a=\u{a0}", "a", 400),
        ] {
            let target = format!("http://a{target}");
            let request = Request::builder()
                .method(Method::from_bytes(method.as_bytes()).expect("a method"))
                .uri(Uri::from_maybe_shared(Bytes::from(target.clone())).expect("a target"))
                .header("authorization", KEY)
                .header(name, "b")
                .body(())
                .expect("a request");
            sender = sender.ready().await.expect("ready");
            let (answer, _) = sender.send_request(request, true).expect("sent");
            let answer = answer.await.expect("an answer");
            let start = |text: &str| text.chars().take(40).collect::<String>();
            let shown = format!("{} {target} {}", start(method), start(name));
            assert_eq!(answer.status(), want, "{shown}");
            assert!(answer.headers().get("connection").is_none(), "{shown}");
        }
        assert_eq!(upstream.seen().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_protocol_is_the_one_agreed_on() {
    const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let upstream = Upstream::http1(&[OK]).await;
    let edge = Edge::start(&upstream, (2, true), "");
    let get = head("GET /works.list HTTP/1.1", "");
    for (alpn, bytes, want) in [
        (&["http/1.1"][..], get.as_str(), Some(200)),
        (&["http/1.1"], PREFACE, None),
        (&[], &get, Some(200)),
        (&[], PREFACE, None),
        (&["h2", "http/1.1"], &get, None),
        (&["h2"], &get, None),
    ] {
        let mut client = Client::over(edge.connect(alpn).await);
        client.send(bytes).await;
        match want {
            Some(status) => {
                let answer = client.answer().await.expect("an answer");
                assert_eq!(answer.status, status, "{alpn:?} {answer:?}");
            }
            None => {
                let rest = timeout(Duration::from_secs(5), client.rest()).await;
                let rest = rest.expect("the connection ends");
                let text = String::from_utf8_lossy(&rest);
                assert!(!text.contains("HTTP/1.1 "), "{text}");
                // GOAWAY, with a sentence.
                let says_why = text.contains("ALPN agreed on h2");
                assert_eq!(says_why, bytes == PREFACE, "{text}");
            }
        }
    }
    assert_eq!(upstream.seen().len(), 2);
}

/// Which has come while a request was in flight.
#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_head_behind_a_request_is_timed_too() {
    for tls in [false, true] {
        let upstream = Upstream::http1(&[OK]).await;
        let listen = "[listen]\nheader_timeout = \"500ms\"";
        let edge = Edge::start(&upstream, (1, tls), listen);
        let mut client = edge.http1().await;
        let get = head("GET /works.list HTTP/1.1", "");
        client.send(get + "GET /works.list HTTP/1.1\r\nHost:").await;
        let answer = client.answer().await.expect("an answer");
        assert_eq!(answer.status, 200);
        let ends = timeout(Duration::from_secs(5), client.rest()).await;
        assert!(ends.is_ok(), "TLS {tls}");
    }
}
