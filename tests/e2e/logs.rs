//! The access log and the log level of the running program.

use std::net::SocketAddr;

use revgate::simulator::{Fault, Simulator};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{
    http::{Answer, Client, request},
    process::Process,
    rig::{self, KEY, TOKEN, hash, plan, status},
};

struct Running {
    devrev: Simulator,
    gateway: Process,
    proxy: SocketAddr,
    admin: SocketAddr,
    _file: tempfile::NamedTempFile,
}

impl Running {
    async fn start(level: &str, more: &str) -> Running {
        let devrev = rig::simulator().await;
        let file = tempfile::NamedTempFile::new().expect("a file");
        let toml = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://{}\"\n\
             [tokens.main]\nenv = \"DEVREV_TOKEN\"\n[callers.billing]\nkey_sha256 = \"{}\"\ndeny = [\"works.delete\"]\n{more}\n",
            devrev.addr(),
            hash(KEY),
        );
        std::fs::write(file.path(), toml).expect("written");
        let path = file.path().to_str().expect("a path");
        let mut gateway = Process::start(&["run", "-c", path], level);
        let (mut proxy, mut admin) = (None, None);
        while proxy.is_none() || admin.is_none() {
            let line = gateway.line(|line| line["message"] == "listening");
            let address = line["address"].as_str().and_then(|a| a.parse().ok());
            match line["listener"].as_str() {
                Some("proxy") => proxy = address,
                _ => admin = address,
            }
        }
        Running {
            devrev,
            gateway,
            proxy: proxy.expect("bound"),
            admin: admin.expect("bound"),
            _file: file,
        }
    }

    async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> u16 {
        let mut client = Client::connect(self.proxy).await;
        client.send(request(method, target, headers, body)).await;
        client.answer().await.expect("an answer").status
    }

    async fn level(&self, body: &str) -> Answer {
        rig::admin(self.admin, "POST", "/log-level", body).await
    }

    /// What `GET /log-level` answers, byte for byte.
    async fn level_now(&self) -> String {
        let answer = rig::admin(self.admin, "GET", "/log-level", "").await;
        assert_eq!(answer.status, 200);
        answer.text()
    }

    /// The next line of the access log.
    fn access(&mut self) -> Value {
        self.gateway
            .line(|line| line["target"] == "revgate::access")
    }
}

const AUTHORIZED: [(&str, &str); 2] =
    [("Authorization", KEY), ("Content-Type", "application/json")];

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_one_access_line() {
    let mut running = Running::start("info", "[log]\naccess = \"all\"").await;
    let body = r#"{"id":"body-secret","rev_org":"REV-1"}"#;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let mut headers = AUTHORIZED.to_vec();
    headers.extend([("traceparent", parent), ("X-Request-Id", "order-1")]);
    let target = "/rev-users.link?query-secret=1";
    assert_eq!(running.send("POST", target, &headers, body).await, 200);
    let line = running.access();
    let mut keys: Vec<_> = line.as_object().expect("a line").keys().collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "attempts",
            "bytes_in",
            "bytes_out",
            "caller",
            "code",
            "complete",
            "decision",
            "duration_ms",
            "level",
            "message",
            "method",
            "operation",
            "peer",
            "request_id",
            "source",
            "status",
            "target",
            "timestamp",
            "trace_id",
            "upstream_ms",
            "wait_ms",
            "would_refuse",
        ]
    );
    for (key, value) in [
        ("message", Value::from("request")),
        ("request_id", "order-1".into()),
        ("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736".into()),
        ("caller", "billing".into()),
        ("method", "POST".into()),
        ("operation", "rev-users.link".into()),
        ("status", 200.into()),
        ("source", "upstream".into()),
        ("code", "".into()),
        ("would_refuse", "".into()),
        ("decision", "forwarded".into()),
        ("attempts", 1.into()),
        ("wait_ms", 0.0.into()),
        ("bytes_in", body.len().into()),
        ("complete", true.into()),
    ] {
        assert_eq!(line[key], value, "{key} of {line}");
    }
    let number = |line: &Value, key: &str| line[key].as_f64().expect("a number");
    assert!(number(&line, "bytes_out") > 0.0, "{line}");
    assert!(number(&line, "upstream_ms") > 0.0, "{line}");
    assert!(
        number(&line, "duration_ms") >= number(&line, "upstream_ms"),
        "{line}"
    );

    let refused = running.send("POST", "/works.delete", &AUTHORIZED, "{}");
    assert_eq!(refused.await, 403);
    let line = running.access();
    assert_eq!(
        (&line["decision"], &line["source"], &line["code"]),
        (&"refused".into(), &"gateway".into(), &"forbidden".into())
    );
    assert_eq!(
        (&line["attempts"], &line["upstream_ms"]),
        (&0.into(), &0.0.into())
    );

    running
        .devrev
        .set_plan(plan("rev-users.link", status(429, Some(1)), 1));
    assert_eq!(running.send("POST", target, &AUTHORIZED, body).await, 200);
    let line = running.access();
    assert_eq!(
        (&line["decision"], &line["attempts"], &line["status"]),
        (&"retried".into(), &2.into(), &200.into())
    );
    assert!(number(&line, "wait_ms") >= 900.0, "{line}");
    assert!(number(&line, "upstream_ms") < 900.0, "{line}");

    running.devrev.set_plan(plan("works.list", Fault::Hang, 1));
    let mut client = Client::connect(running.proxy).await;
    client
        .send(request("GET", "/works.list", &AUTHORIZED, ""))
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    drop(client);
    let line = running.access();
    assert_eq!(
        (
            &line["decision"],
            &line["status"],
            &line["complete"],
            &line["attempts"]
        ),
        (&"left".into(), &499.into(), &false.into(), &1.into())
    );
    assert!(number(&line, "upstream_ms") >= 200.0, "{line}");

    running.gateway.terminate();
    let (_, log) = running.gateway.end();
    for secret in [KEY, TOKEN, "body-secret", "query-secret"] {
        assert!(!log.contains(secret), "the log shows {secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_changes_while_it_runs_and_a_bad_one_changes_nothing() {
    let mut running = Running::start("info", "").await;
    let wrong = [("Authorization", "a-wrong-key")];
    // The cause of a refusal is logged at DEBUG, before the access line at INFO.
    let refusal = async |running: &mut Running| {
        assert_eq!(running.send("GET", "/works.list", &wrong, "").await, 401);
        let mut levels = Vec::new();
        while levels.last().is_none_or(|level| level != "INFO") {
            let line = running
                .gateway
                .line(|line| line["code"] == "unauthenticated");
            levels.push(line["level"].as_str().expect("a level").to_owned());
        }
        levels
    };
    assert_eq!(refusal(&mut running).await, ["INFO"]);
    let answer = running.level(r#"{"level":"debug"}"#).await;
    assert_eq!(
        (answer.status, &answer.json()["level"]),
        (200, &"debug".into())
    );
    assert_eq!(refusal(&mut running).await, ["DEBUG", "INFO"]);
    assert_eq!(running.level_now().await, "{\"level\":\"debug\"}\n");

    for (body, why) in [
        (r#"{"level":"loud"}"#, "\"loud\" is not a log level"),
        (r#"{"level":"info,loud"}"#, "\"loud\" is not a log level"),
        (
            r#"{"level":"revgate=loud"}"#,
            "cannot read the log directives",
        ),
        (r#"{"level":""}"#, "is not a log level"),
        (r#"{"level":7}"#, "send {\"level\":\"debug\"}"),
        (r#"{"lvl":"info"}"#, "send {\"level\":\"debug\"}"),
        ("info", "send {\"level\":\"debug\"}"),
        ("", "send {\"level\":\"debug\"}"),
    ] {
        let answer = running.level(body).await;
        assert_eq!(answer.status, 400, "{body}");
        let error = answer.json()["error"].as_str().expect("why").to_owned();
        assert!(error.contains(why), "{body}: {error}");
        assert_eq!(refusal(&mut running).await, ["DEBUG", "INFO"], "{body}");
    }

    assert_eq!(running.level_now().await, "{\"level\":\"debug\"}\n");

    // Only the access log.
    let answer = running
        .level(r#"{"level":"off,revgate::access=info"}"#)
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(refusal(&mut running).await, ["INFO"]);
}

/// The names of a process's threads.
fn threads(process: &Process) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.child.id()));
    let names = tasks.expect("a process").filter_map(|task| {
        let name = std::fs::read_to_string(task.ok()?.path().join("comm")).ok()?;
        Some(name.trim().to_owned())
    });
    names.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_receiver_there_is_no_exporter() {
    let exporting = |running: &Running| threads(&running.gateway).contains(&"traces".to_owned());
    let mut off = Running::start("info", "").await;
    let receiver =
        "[trace]\notlp = \"http://127.0.0.1:9\"\nheaders = { x-key = { env = \"DEVREV_TOKEN\" } }";
    let mut on = Running::start("trace", receiver).await;
    // A thread sets its name when it first runs.
    let ends = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while !exporting(&on) {
        assert!(tokio::time::Instant::now() < ends, "no exporter");
        tokio::task::yield_now().await;
    }
    on.send("GET", "/works.list", &AUTHORIZED, "").await;
    assert!(!exporting(&off));
    for running in [&mut off, &mut on] {
        running.gateway.terminate();
        let (code, log) = running.gateway.end();
        assert_eq!(code, Some(0));
        assert!(!log.contains(TOKEN), "{log}");
    }
}

/// A request in which one thing that its client decides is long.
struct Long {
    what: &'static str,
    http1: Vec<u8>,
    /// `None` if a URI cannot be so long.
    http2: Option<http::Request<()>>,
}

fn long_requests(length: usize) -> Vec<Long> {
    let long = "x".repeat(length);
    let fields = [
        "authorization",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "origin",
        "prefer",
        "referer",
        "traceparent",
        "tracestate",
        "user-agent",
        "via",
        "x-forwarded-for",
        "x-request-id",
    ];
    let mut all = vec![
        ("method", long.clone(), "/works.list".to_owned(), None),
        ("path", "GET".into(), format!("/{long}"), None),
        ("query", "GET".into(), format!("/works.list?{long}"), None),
        (
            "bearer",
            "GET".into(),
            "/works.list".into(),
            Some(("authorization", format!("Bearer {long}"))),
        ),
        (
            "name",
            "GET".into(),
            "/works.list".into(),
            Some((&*long, "b".into())),
        ),
    ];
    for name in fields {
        all.push((
            name,
            "GET".into(),
            "/works.list".into(),
            Some((name, long.clone())),
        ));
    }
    let requests = all.into_iter().map(|(what, method, target, field)| {
        let mut bytes = format!("{method} {target} HTTP/1.1\r\n");
        if what != "host" {
            bytes += "Host: a\r\n";
        }
        let method = http::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = http::Request::builder().method(method);
        if let Some((name, value)) = &field {
            bytes += &format!("{name}: {value}\r\n");
            request = request.header(*name, value);
        }
        if what != "authorization" && what != "bearer" {
            bytes += &format!("Authorization: {KEY}\r\n");
            request = request.header("authorization", KEY);
        }
        Long {
            what,
            http1: (bytes + "\r\n").into_bytes(),
            http2: request.uri(format!("http://a{target}")).body(()).ok(),
        }
    });
    requests.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_is_long_whatever_a_client_sends() {
    for level in ["info", "debug"] {
        let more = "[log]\naccess = \"all\"\n[limits]\nmax_header_bytes = \"256KiB\"";
        let mut running = Running::start(level, more).await;
        // What is refused, and what may be forwarded.
        for length in [100_000, 60_000, 250] {
            for Long { what, http1, http2 } in long_requests(length) {
                let mut client = Client::connect(running.proxy).await;
                client.send(&http1).await;
                assert!(client.answer().await.is_some(), "{what}");
                let Some(request) = http2 else { continue };
                let stream = TcpStream::connect(running.proxy).await.expect("connects");
                let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
                tokio::spawn(connection);
                let mut sender = sender.ready().await.expect("ready");
                // The client itself may refuse it.
                if let Ok((answer, _)) = sender.send_request(request, true) {
                    let _ = answer.await;
                }
            }
        }
        let metrics = rig::admin(running.admin, "GET", "/metrics", "")
            .await
            .text();
        assert!(!metrics.contains("xxxxxxxx"));
        running.gateway.terminate();
        let (status, text) = running.gateway.end();
        assert_eq!(status, Some(0));
        let lines = text
            .lines()
            .filter(|line| line.contains("\"request\""))
            .count();
        assert!(lines > 80, "{lines}");
        for line in text.lines() {
            assert!(line.len() < 1000, "{line}");
            // The longest is a request id.
            assert!(!line.contains(&"x".repeat(129)), "{line}");
        }
    }
}

/// The texts of a request's lines, without those of its kind that come more than once in a row.
fn decisions(lines: &str, id: &str) -> Vec<String> {
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let own = lines.filter(|line| line["request_id"] == id);
    own.map(|line| line["message"].as_str().expect("text").to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_debug_and_trace_each_decision_about_a_request_has_a_line() {
    for level in ["info", "debug", "trace"] {
        let mut running = Running::start(level, "[log]\naccess = \"all\"").await;
        running
            .devrev
            .set_plan(plan("works.list", status(429, Some(1)), 1));
        let mut headers = AUTHORIZED.to_vec();
        headers.push(("X-Request-Id", "order-1"));
        let sent = running.send("POST", "/works.list", &headers, "{}").await;
        assert_eq!(sent, 200);
        headers[2].1 = "order-2";
        let sent = running.send("POST", "/works.delete", &headers, "{}").await;
        assert_eq!(sent, 403);
        for _ in 0..2 {
            let line = running
                .gateway
                .line(|line| line["message"] == "request" && line["request_id"] != "");
            assert!(
                line["request_id"]
                    .as_str()
                    .expect("text")
                    .starts_with("order-")
            );
        }
        let seen = running.gateway.seen.clone();
        let (first, second) = (decisions(&seen, "order-1"), decisions(&seen, "order-2"));
        let says =
            |lines: &[String], text: &str| lines.iter().filter(|line| line.contains(text)).count();
        let at_debug = usize::from(level != "info");
        let at_trace = usize::from(level == "trace");
        for (text, want) in [
            ("the caller is billing", at_debug),
            ("the caller's rate: within it", at_debug),
            ("attempt 1 has ended", at_debug),
            ("another attempt in ", at_debug),
            ("the attempt waits: DevRev has paused", at_debug),
            ("the attempt goes after a wait of", at_debug),
            ("attempt 2 has ended", at_debug),
            ("a request's head is accepted", at_trace),
            ("goes at once", at_debug),
            ("what DevRev's answer says of the quota", 2 * at_trace),
            ("request", 1 + at_trace),
        ] {
            assert_eq!(says(&first, text), want, "{level}: {text}: {first:#?}");
        }
        assert_eq!(says(&second, "refused: "), at_debug, "{second:#?}");
        if level == "info" {
            assert_eq!((first.len(), second.len()), (1, 1), "{seen}");
        }
        running.gateway.terminate();
        let (status, _) = running.gateway.end();
        assert_eq!(status, Some(0));
    }
}
