//! `traceparent` as DevRev receives it, and spans as an OTLP receiver does: over sockets, read with OpenTelemetry's own types.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;
use tokio::{net::TcpListener, time::Instant};
use tokio_rustls::TlsAcceptor;

use crate::{
    http::{Client, get, request},
    rig::{KEY, Rig, TOKEN, header, plan, status},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// An OTLP/HTTP receiver that keeps the spans it gets.
#[derive(Clone)]
struct Receiver {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    /// The status of its answers; with 0 it never answers.
    answer: Arc<AtomicU16>,
    /// Exports in progress now, and the most at a time.
    busy: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    heads: Vec<http::request::Parts>,
    resources: Vec<String>,
    spans: Vec<Span>,
}

impl Receiver {
    async fn start(answer: u16) -> Receiver {
        Receiver::with(answer, None).await
    }

    async fn with(answer: u16, tls: Option<TlsAcceptor>) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let receiver = Receiver {
            address: listener.local_addr().expect("an address"),
            kept: Arc::default(),
            answer: Arc::new(answer.into()),
            busy: Arc::default(),
            most: Arc::default(),
        };
        let serving = receiver.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let (receiver, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => receiver.serve(stream).await,
                        Some(tls) => {
                            let stream = tls.accept(stream).await.expect("a handshake");
                            receiver.serve(stream).await;
                        }
                    }
                });
            }
        });
        receiver
    }

    async fn serve<I>(self, stream: I)
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let service = service_fn(|request| self.clone().take(request));
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn take(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(busy, Ordering::SeqCst);
        let answer = self.answer.load(Ordering::SeqCst);
        if answer == 0 {
            std::future::pending::<()>().await;
        }
        if answer == 200 {
            let message = ExportTraceServiceRequest::decode(body.clone()).expect("OTLP");
            let mut kept = self.kept.lock().unwrap();
            kept.bytes.extend_from_slice(&body);
            kept.heads.push(head);
            for resource in message.resource_spans {
                let about = resource.resource.expect("a resource");
                let name = about.attributes.iter().find(|a| a.key == "service.name");
                kept.resources.push(text(&name.expect("a name").value));
                for scope in resource.scope_spans {
                    assert_eq!(scope.scope.expect("a scope").name, "revgate");
                    kept.spans.extend(scope.spans);
                }
            }
        }
        self.busy.fetch_sub(1, Ordering::SeqCst);
        let mut response = Response::new(Full::default());
        *response.status_mut() = hyper::StatusCode::from_u16(answer).expect("a status");
        Ok(response)
    }

    async fn spans(&self, count: usize) -> Vec<Span> {
        let start = Instant::now();
        loop {
            let spans = self.kept.lock().unwrap().spans.clone();
            if spans.len() >= count {
                assert_eq!(spans.len(), count, "{spans:#?}");
                return spans;
            }
            assert!(start.elapsed() < Duration::from_secs(15), "{spans:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn section(&self, more: &str) -> String {
        format!("[trace]\notlp = \"http://{}\"\n{more}", self.address)
    }
}

fn text(value: &Option<opentelemetry_proto::tonic::common::v1::AnyValue>) -> String {
    match value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

/// An attribute as text; empty if it is missing.
fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|a| a.key == key);
    found.map_or(String::new(), |a| text(&a.value))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn traced(rig: &Rig, flags: &str) -> u16 {
    let parent = format!("00-{TRACE}-{PARENT}-{flags}");
    let headers = [
        ("Authorization", KEY),
        ("traceparent", parent.as_str()),
        ("tracestate", "vendor=opaque,other=1"),
        ("X-Request-Id", "order-1"),
        ("Content-Type", "application/json"),
    ];
    let body = r#"{"id":"body-secret","rev_org":"REV-1"}"#;
    let target = "/rev-users.link?query-secret=1";
    rig.send(request("POST", target, &headers, body))
        .await
        .status
}

#[tokio::test]
async fn a_request_that_waited_and_was_tried_again_is_a_tree_of_spans() {
    let receiver = Receiver::start(200).await;
    let rig = Rig::new(&receiver.section("service_name = \"gate\"")).await;
    rig.devrev
        .set_plan(plan("rev-users.link", status(429, Some(1)), 1));
    assert_eq!(traced(&rig, "01").await, 200);
    let spans = receiver.spans(4).await;

    let of =
        |kind: SpanKind| -> Vec<&Span> { spans.iter().filter(|s| s.kind == kind as i32).collect() };
    let (requests, attempts, waits) = (
        of(SpanKind::Server),
        of(SpanKind::Client),
        of(SpanKind::Internal),
    );
    assert_eq!((requests.len(), attempts.len(), waits.len()), (1, 2, 1));
    let (root, first, second, wait) = (requests[0], attempts[0], attempts[1], waits[0]);
    for span in &spans {
        assert_eq!(hex(&span.trace_id), TRACE);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        assert_eq!(span.flags & 0x1ff, 0x101);
    }
    assert_eq!(hex(&root.parent_span_id), PARENT);
    assert_eq!(root.flags & 0x200, 0x200, "its parent is elsewhere");
    for span in [first, second, wait] {
        assert_eq!(span.parent_span_id, root.span_id);
        assert_eq!(span.flags & 0x200, 0);
        assert!(root.start_time_unix_nano <= span.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= root.end_time_unix_nano);
    }
    assert!(first.end_time_unix_nano <= wait.start_time_unix_nano);
    assert!(wait.end_time_unix_nano <= second.start_time_unix_nano);
    let waited = wait.end_time_unix_nano - wait.start_time_unix_nano;
    assert!((900_000_000..5_000_000_000).contains(&waited), "{waited}");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a time")
        .as_nanos() as u64;
    assert!(
        (now - 60_000_000_000..=now).contains(&root.end_time_unix_nano),
        "wall time"
    );

    // DevRev and the receiver got the same ids.
    let sent: Vec<_> = rig.devrev.received();
    let received: Vec<_> = sent
        .iter()
        .map(|r| header(r, "traceparent").unwrap_or_default().to_owned())
        .collect();
    let expected = [first, second].map(|span| format!("00-{TRACE}-{}-01", hex(&span.span_id)));
    assert_eq!(received, expected);
    assert_eq!(
        header(&sent[1], "tracestate"),
        Some("vendor=opaque,other=1")
    );

    for (span, key, value) in [
        (root, "http.request.method", "POST"),
        (root, "url.path", "/rev-users.link"),
        (root, "http.route", "/rev-users.link"),
        (root, "http.response.status_code", "200"),
        (root, "error.type", ""),
        (root, "revgate.caller", "billing"),
        (root, "revgate.decision", "retried"),
        (root, "revgate.attempts", "2"),
        (root, "revgate.request_id", "order-1"),
        (first, "http.response.status_code", "429"),
        (first, "error.type", "429"),
        (first, "http.request.resend_count", ""),
        (first, "server.address", "127.0.0.1"),
        (second, "http.response.status_code", "200"),
        (second, "http.request.resend_count", "1"),
        (second, "error.type", ""),
        (wait, "revgate.reason", "pause"),
    ] {
        assert_eq!(attribute(span, key), value, "{key} of {}", span.name);
    }
    let exported: f64 = attribute(root, "revgate.wait_ms")
        .parse()
        .expect("a number");
    assert!((exported - waited as f64 / 1e6).abs() < 50.0, "{exported}");
    assert_eq!(root.name, "POST /rev-users.link");
    let failed = |span: &Span| span.status.as_ref().is_some_and(|s| s.code == 2);
    assert!(failed(first) && !failed(second) && !failed(root));

    let kept = receiver.kept.lock().unwrap();
    assert!(kept.resources.iter().all(|name| name == "gate"));
    assert_eq!(kept.heads[0].uri.path(), "/v1/traces");
    let all = String::from_utf8_lossy(&kept.bytes);
    for secret in [KEY, TOKEN, "body-secret", "query-secret", "vendor=opaque"] {
        assert!(!all.contains(secret), "spans show {secret}");
    }
}

#[tokio::test]
async fn a_new_trace_begins_if_none_can_be_continued() {
    let rig = Rig::new("").await;
    let mut seen = Vec::new();
    for parent in [None, Some("00-nonsense"), Some("ff-0-0-01")] {
        let mut headers = vec![("Authorization", KEY), ("tracestate", "a=1")];
        headers.extend(parent.map(|parent| ("traceparent", parent)));
        let answer = rig.send(request("GET", "/works.list", &headers, "")).await;
        assert_eq!(answer.status, 200);
        let sent = rig.last();
        let parent = header(&sent, "traceparent").expect("one").to_owned();
        assert!(
            parent.len() == 55 && parent.starts_with("00-") && parent.ends_with("-00"),
            "{parent}"
        );
        assert_eq!(header(&sent, "tracestate"), None);
        seen.push(parent[3..35].to_owned());
    }
    seen.dedup();
    assert_eq!(seen.len(), 3, "each its own trace");
}

#[tokio::test]
async fn the_callers_sampled_flag_holds() {
    let receiver = Receiver::start(200).await;
    let rig = Rig::new(&receiver.section("sample = 1.0")).await;
    assert_eq!(traced(&rig, "00").await, 200);
    assert!(header(&rig.last(), "traceparent").is_some_and(|p| p.ends_with("-00")));
    let path = "/no.such.operation/path-secret";
    assert_eq!(rig.call("GET", path, "").await.status, 404);
    assert!(header(&rig.last(), "traceparent").is_some_and(|p| p.ends_with("-01")));
    // Only the second request is sampled: the request and its attempt.
    let spans = receiver.spans(2).await;
    let root = spans.iter().find(|s| s.kind == SpanKind::Server as i32);
    let root = root.expect("a root");
    assert!(root.parent_span_id.is_empty() && hex(&root.trace_id) != TRACE);
    // An unknown path may hold anything.
    assert_eq!(
        (root.name.as_str(), attribute(root, "url.path")),
        ("GET", String::new())
    );
    let kept = receiver.kept.lock().unwrap();
    assert!(!String::from_utf8_lossy(&kept.bytes).contains("path-secret"));
}

#[tokio::test]
async fn a_receiver_that_hangs_delays_no_request_and_no_drain() {
    let receiver = Receiver::start(0).await;
    let rig = Rig::new(&receiver.section("sample = 1.0\ntimeout = \"1s\"")).await;
    let mut client = Client::connect(rig.address).await;
    let mut slowest = Duration::ZERO;
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        let start = Instant::now();
        client.send(get("/works.list", KEY)).await;
        assert_eq!(client.answer().await.expect("an answer").status, 200);
        slowest = slowest.max(start.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    assert!(receiver.busy.load(Ordering::SeqCst) >= 1, "it was asked");
    drop(client);
    let start = Instant::now();
    rig.gateway.drain().await;
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_refused_export_is_counted_and_a_deferred_one_is_retried() {
    let receiver = Receiver::start(400).await;
    let rig = Rig::new(&receiver.section("sample = 1.0")).await;
    rig.call("GET", "/works.list", "").await;
    let dropped = r#"revgate_trace_spans_dropped_total{reason="export_failed"} "#;
    let count = |text: &[u8]| {
        let text = String::from_utf8_lossy(text).into_owned();
        let row = text.lines().find_map(|line| line.strip_prefix(dropped));
        row.expect("the series").parse::<u64>().expect("a number")
    };
    let start = Instant::now();
    while count(&rig.admin("/metrics").await.body) < 2 {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    receiver.answer.store(503, Ordering::SeqCst);
    rig.call("GET", "/works.list", "").await;
    tokio::time::sleep(Duration::from_millis(1300)).await;
    receiver.answer.store(200, Ordering::SeqCst);
    receiver.spans(2).await;
    assert_eq!(count(&rig.admin("/metrics").await.body), 2);
    assert_eq!(receiver.most.load(Ordering::SeqCst), 1, "one at a time");
}

#[tokio::test]
async fn queued_spans_are_sent_when_the_gateway_drains() {
    let receiver = Receiver::start(200).await;
    let rig = Rig::new(&receiver.section("sample = 1.0")).await;
    for _ in 0..3 {
        rig.call("GET", "/works.list", "").await;
    }
    rig.gateway.drain().await;
    assert_eq!(receiver.kept.lock().unwrap().spans.len(), 6);
}

#[tokio::test]
async fn a_client_that_leaves_has_a_span_too() {
    let receiver = Receiver::start(200).await;
    let rig = Rig::new(&receiver.section("sample = 1.0")).await;
    rig.devrev
        .set_plan(plan("works.list", revgate::simulator::Fault::Hang, 1));
    let mut client = Client::connect(rig.address).await;
    client.send(get("/works.list", KEY)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(client);
    let spans = receiver.spans(2).await;
    let find = |kind: SpanKind| spans.iter().find(|s| s.kind == kind as i32).expect("one");
    let (root, attempt) = (find(SpanKind::Server), find(SpanKind::Client));
    assert_eq!(attribute(root, "revgate.decision"), "left");
    assert_eq!(attribute(root, "revgate.attempts"), "1");
    assert_eq!(attribute(attempt, "error.type"), "caller_left");
    assert_eq!(attempt.parent_span_id, root.span_id);
}

#[tokio::test]
async fn a_receiver_over_tls_gets_its_key_and_a_path_below_its_base() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), own.cert.pem()).expect("written");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls_pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.expect("a key"))
        .expect("a configuration");
    let receiver = Receiver::with(200, Some(TlsAcceptor::from(Arc::new(config)))).await;
    let port = receiver.address.port();
    let rig = Rig::new(&format!(
        "[trace]\notlp = \"https://localhost:{port}/base/\"\nsample = 1.0\nroots = {{ file = \"{}\" }}\n\
         headers = {{ x-key = {{ env = \"DEVREV_TOKEN\" }} }}",
        file.path().display()
    ))
    .await;
    for _ in 0..2 {
        rig.call("GET", "/works.list", "").await;
        // Two exports on one connection.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    receiver.spans(4).await;
    let kept = receiver.kept.lock().unwrap();
    assert!(kept.heads.len() >= 2);
    for head in &kept.heads {
        assert_eq!(head.uri.path(), "/base/v1/traces");
        assert_eq!(head.headers["x-key"], TOKEN);
        assert_eq!(head.headers["content-type"], "application/x-protobuf");
        assert_eq!(head.headers["host"], format!("localhost:{port}"));
    }
}
