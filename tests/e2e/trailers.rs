//! Trailers, and cookies: fields that HTTP/1.1 and HTTP/2 carry in different ways.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::time::timeout;

use crate::{
    edge::{EDGES, Edge, Upstream},
    http::Client,
    rig::{KEY, TOKEN},
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let fields = fields.iter().map(|(name, value)| {
        let (name, value) = (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
        (name, value)
    });
    fields.collect()
}

const ATTACK: &[(&str, &str)] = &[
    ("authorization", "Bearer stolen"),
    ("content-length", "3"),
    ("x-checksum", "1"),
];

/// Over HTTP/1.1: chunked, with these trailers.
async fn post_http1(edge: &Edge, size: usize) {
    let mut client = edge.http1().await;
    let trailers: String = ATTACK
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    // HTTP/2 has no way to send a connection field.
    let trailers = trailers + "Connection: close\r\nTransfer-Encoding: chunked\r\nHost: b\r\n";
    let head = format!(
        "POST /works.list HTTP/1.1\r\nHost: a\r\nAuthorization: {KEY}\r\nTE: trailers\r\nConnection: TE\r\n\
         Trailer: x-checksum, authorization\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let body = "x".repeat(size);
    // Twice, since what comes behind a body must not count as a head.
    for _ in 0..2 {
        client
            .send(format!("{head}{size:x}\r\n{body}\r\n0\r\n{trailers}\r\n"))
            .await;
        let answer = timeout(Duration::from_secs(10), client.answer()).await;
        let answer = answer.expect("in time").expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

async fn post_http2(edge: &Edge, size: usize) {
    for _ in 0..2 {
        let mut sender = edge.http2().await.ready().await.expect("ready");
        let request = Request::post("http://a/works.list")
            .header("authorization", KEY)
            .header("te", "trailers")
            .header("trailer", "x-checksum, authorization")
            .body(())
            .expect("a request");
        let (answer, mut body) = sender.send_request(request, false).expect("sent");
        body.send_data(Bytes::from(vec![b'x'; size]), false)
            .expect("sent");
        body.send_trailers(map(ATTACK)).expect("sent");
        let answer = timeout(Duration::from_secs(10), answer).await;
        let answer = answer.expect("in time").expect("an answer");
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_requests_reach_no_upstream() {
    for edge in EDGES {
        // The first answer makes a retry of a body that was kept.
        let busy = "HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";
        let te = &["te".to_owned()][..];
        for (upstream, requests, connection) in [
            (Upstream::http1(&[OK]).await, 8, te),
            (Upstream::http1(&[busy, OK]).await, 9, te),
            (Upstream::http2(HeaderMap::new()).await, 8, &[]),
        ] {
            let edge = Edge::start(&upstream, edge, "");
            // Kept before it is sent, and streamed.
            for size in [5, 200_000] {
                post_http1(&edge, size).await;
                post_http2(&edge, size).await;
            }
            let seen = upstream.seen();
            for one in &seen {
                assert_eq!(one.trailers, "", "{}", one.head);
                assert_eq!(one.all("authorization"), [format!("Bearer {TOKEN}")]);
                assert!(one.all("trailer").is_empty(), "{}", one.head);
                // It goes on that the client takes those of an answer.
                assert_eq!(one.all("te"), ["trailers"], "{}", one.head);
                assert_eq!(one.all("connection"), connection, "{}", one.head);
                assert!(matches!(one.body.len(), 5 | 200_000));
            }
            assert_eq!(seen.len(), requests);
        }
    }
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, 1]);
    frame.extend(payload);
    frame
}

/// As HPACK writes it without its table.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127, "one byte of length");
        out.push(text.len() as u8);
        out.extend(text.as_bytes());
    }
    out
}

/// A request of HTTP/2 with these trailers, as they are.
fn with_trailers(trailers: &[u8]) -> Vec<u8> {
    let head = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/works.list"),
        ("authorization", KEY),
    ];
    let head = head.map(|(name, value)| field(name, value)).concat();
    let mut settings = frame(4, 0, b"");
    settings[8] = 0;
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        settings,
        frame(1, 4, &head),
        frame(0, 0, b"hello"),
        frame(1, 5, trailers),
    ]
    .concat()
}

/// Whether the stream was answered or reset, rather than left alone.
async fn is_over(client: &mut Client<Box<dyn crate::edge::Stream>>) -> bool {
    let over = timeout(Duration::from_secs(5), async {
        loop {
            while client.1.len() < 9 {
                if !client.more().await {
                    return;
                }
            }
            let length = usize::from(client.1[0]) << 16
                | usize::from(client.1[1]) << 8
                | usize::from(client.1[2]);
            while client.1.len() < 9 + length && client.more().await {}
            let frame: Vec<u8> = client.1.drain(..9 + length).collect();
            // HEADERS or RST_STREAM of the stream, or GOAWAY.
            if matches!(frame[3], 1 | 3) && frame[8] == 1 || frame[3] == 7 {
                return;
            }
        }
    });
    over.await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_trailers_of_a_request_make_it_hang() {
    for edge in EDGES {
        for upstream in [
            Upstream::http1(&[OK]).await,
            Upstream::http2(HeaderMap::new()).await,
        ] {
            let edge = Edge::start(&upstream, edge, "");
            let many: Vec<u8> = (0..1000).flat_map(|_| field("a", "b")).collect();
            for trailers in [
                field("x-checksum", "1"),
                field("connection", "close"),
                field("transfer-encoding", "chunked"),
                field("te", "gzip"),
                field("upgrade", "h2c"),
                field(":path", "/auth-tokens.create"),
                field("Upper", "case"),
                field("a", "\0"),
                field("content-length", "3"),
                many,
                vec![0xff; 20],
            ] {
                let mut client = Client::over(edge.connect(&["h2"]).await);
                client.send(with_trailers(&trailers)).await;
                assert!(
                    is_over(&mut client).await,
                    "{:?}",
                    String::from_utf8_lossy(&trailers)
                );
            }
            for seen in upstream.seen() {
                assert_eq!(seen.trailers, "");
            }
        }
    }
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum, Expires, Content-Length\r\n\r\n\
     5\r\nhello\r\n0\r\nX-Checksum: 1\r\nConnection: close\r\nExpires: 0\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\n\r\n";

/// What comes behind the answer over HTTP/1.1, with these fields in the request.
async fn get_http1(edge: &Edge, fields: &str) -> String {
    let mut client = edge.http1().await;
    let get =
        format!("GET /works.list HTTP/1.1\r\nHost: a\r\nAuthorization: {KEY}\r\n{fields}\r\n");
    client.send(get).await;
    let head = client.until("\r\n\r\n").await.expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let body = client.until("0\r\n").await.expect("a body");
    assert!(body.contains("hello"), "{body}");
    let mut trailers = String::new();
    loop {
        match client.until("\r\n").await.expect("trailers") {
            line if line == "\r\n" => return trailers,
            line => trailers += &line,
        }
    }
}

async fn get_http2(edge: &Edge) -> HeaderMap {
    let mut sender = edge.http2().await.ready().await.expect("ready");
    let request = Request::get("http://a/works.list").header("authorization", KEY);
    let request = request.body(()).expect("a request");
    let (answer, _) = sender.send_request(request, true).expect("sent");
    let whole = timeout(Duration::from_secs(10), async {
        let mut body = answer.await.expect("an answer").into_body();
        let mut bytes = Vec::new();
        while let Some(data) = body.data().await {
            bytes.extend_from_slice(&data.expect("data"));
        }
        assert_eq!(bytes, b"hello");
        body.trailers().await.expect("no error").unwrap_or_default()
    });
    whole.await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_answers_are_passed_on_without_what_is_forbidden() {
    let of_http2 = map(&[
        ("x-checksum", "1"),
        ("expires", "0"),
        ("content-length", "9"),
        ("set-cookie", "a=b"),
    ]);
    for edge in EDGES {
        for upstream in [
            Upstream::http1(&[CHUNKED]).await,
            Upstream::http2(of_http2.clone()).await,
        ] {
            let edge = Edge::start(&upstream, edge, "");
            let wanted = get_http1(&edge, "TE: trailers\r\nConnection: TE\r\n").await;
            assert_eq!(wanted.to_ascii_lowercase(), "x-checksum: 1\r\n");
            // RFC 9110 section 6.5.1: not without `TE: trailers`.
            assert_eq!(get_http1(&edge, "").await, "");
            assert_eq!(get_http2(&edge).await, map(&[("x-checksum", "1")]));
        }
        // Nothing is left of them.
        let forbidden = CHUNKED.replace("X-Checksum", "Vary");
        let upstream = Upstream::http1(&[&forbidden]).await;
        let edge = Edge::start(&upstream, edge, "");
        assert_eq!(
            get_http1(&edge, "TE: trailers\r\nConnection: TE\r\n").await,
            ""
        );
        assert!(get_http2(&edge).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_of_http2_are_joined() {
    for edge in EDGES {
        for upstream in [
            Upstream::http1(&[OK]).await,
            Upstream::http2(HeaderMap::new()).await,
        ] {
            let edge = Edge::start(&upstream, edge, "");
            let mut sender = edge.http2().await;
            for (cookies, want) in [
                (&["a=b", "c=d; e=f", "g="][..], &["a=b; c=d; e=f; g="][..]),
                (&["a=b"], &["a=b"]),
                (&[], &[]),
            ] {
                let mut request = Request::get("http://a/works.list").header("authorization", KEY);
                for cookie in cookies {
                    request = request.header("cookie", *cookie);
                }
                sender = sender.ready().await.expect("ready");
                let request = request.body(()).expect("a request");
                let (answer, _) = sender.send_request(request, true).expect("sent");
                assert_eq!(answer.await.expect("an answer").status(), 200);
                let seen = upstream.seen().pop().expect("a request");
                assert_eq!(seen.all("cookie"), want, "{}", seen.head);
            }
        }
    }
}
