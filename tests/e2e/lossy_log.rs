//! The log under pressure: a reader that has stopped, and floods of clients that nobody knows.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, ChildStderr, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Bytes,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use revgate::simulator::{self, Simulator};
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    http::{Client, request},
    rig::{KEY, TOKEN, hash},
    signer::Signer,
};

/// No request may take longer, and so no drain either.
const PATIENCE: Duration = Duration::from_secs(20);

/// Most lines that wait in the process.
const QUEUE: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}
use Protocol::{Http1, Http2};

/// The program, with a log that is read only on demand.
struct Program {
    _devrev: Simulator,
    file: tempfile::NamedTempFile,
    child: Child,
    log: BufReader<ChildStderr>,
    proxy: SocketAddr,
    admin: SocketAddr,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port on loopback in a line of either format.
fn address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("127.0.0.1:")?;
    let port = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    format!("127.0.0.1:{port}").parse().ok()
}

impl Program {
    async fn start(workers: usize, format: &str) -> Program {
        Program::with(workers, format, "", "").await
    }

    /// `listen` is appended to its section, `more` to the file.
    async fn with(workers: usize, format: &str, listen: &str, more: &str) -> Program {
        let devrev = simulator::start(simulator::Options::default())
            .await
            .expect("the simulator starts");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let toml = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\nworkers = {workers}\n{listen}\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [upstream]\nurl = \"http://{}\"\n[tokens.main]\nenv = \"DEVREV_TOKEN\"\n\
             [callers.billing]\nkey_sha256 = \"{}\"\ndeny = [\"works.list\"]\n\
             [log]\naccess = \"all\"\nformat = \"{format}\"\n{more}\n",
            devrev.addr(),
            hash(KEY),
        );
        std::fs::write(file.path(), toml).expect("written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_revgate"))
            .args(["run", "-c"])
            .arg(file.path())
            .env("DEVREV_TOKEN", TOKEN)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let (mut proxy, mut admin) = (None, None);
        while proxy.is_none() || admin.is_none() {
            let mut line = String::new();
            assert!(log.read_line(&mut line).expect("reads") > 0, "it ended");
            if line.contains("\"admin\"") {
                admin = address(&line);
            } else if line.contains("\"proxy\"") {
                proxy = address(&line);
            }
        }
        Program {
            _devrev: devrev,
            file,
            child,
            log,
            proxy: proxy.expect("an address"),
            admin: admin.expect("an address"),
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for the end without reading the log.
    async fn ended(&mut self) -> Option<i32> {
        let ends = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a process") {
                return status.code();
            }
            assert!(Instant::now() < ends, "it does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The log up to a line with this text.
    fn read_until(&mut self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while lines
            .last()
            .is_none_or(|line: &String| !line.contains(text))
        {
            let mut line = String::new();
            assert!(
                self.log.read_line(&mut line).expect("reads") > 0,
                "it ended"
            );
            lines.push(line);
        }
        lines
    }

    /// Ends the program, and returns what is left of its log.
    async fn rest(&mut self) -> Vec<String> {
        self.signal("-TERM");
        let mut text = String::new();
        self.log.read_to_string(&mut text).expect("reads");
        assert_eq!(self.ended().await, Some(0), "{text}");
        text.lines().map(str::to_owned).collect()
    }

    async fn admin(&self, method: &str, path: &str) -> String {
        let mut client = Client::connect(self.admin).await;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        let body = match method {
            "POST" => "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
            _ => "\r\n",
        };
        client.send(head + body).await;
        let answer = client.answer().await.expect("an answer");
        assert_eq!(answer.status, 200, "{method} {path}");
        String::from_utf8_lossy(&answer.body).into_owned()
    }

    async fn dropped(&self) -> usize {
        let metrics = self.admin("GET", "/metrics").await;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("revgate_log_lines_dropped_total "));
        line.expect("the metric").parse().expect("a number")
    }

    /// Sends requests over several connections, and checks that each gets this status in time.
    async fn flood(&self, protocol: Protocol, requests: usize, call: Call) {
        const CONNECTIONS: usize = 8;
        let proxy = self.proxy;
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            all.spawn(async move {
                let mut sender = Sender::connect(proxy, protocol).await;
                for _ in 0..requests / CONNECTIONS {
                    let answer = timeout(PATIENCE, sender.send(call));
                    assert_eq!(answer.await.expect("an answer in time"), call.status);
                }
            });
        }
        while let Some(done) = all.join_next().await {
            done.expect("all were answered");
        }
    }
}

#[derive(Clone, Copy)]
struct Call {
    path: &'static str,
    key: Option<&'static str>,
    status: u16,
}

/// A known caller's, which revgate refuses by itself, so that the simulator's speed does not matter.
const DENIED: Call = Call {
    path: "/works.list",
    key: Some(KEY),
    status: 403,
};

const WITHOUT_A_KEY: Call = Call {
    path: "/works.list",
    key: None,
    status: 401,
};

enum Sender {
    Http1(Client),
    Http2(SendRequest<Empty<Bytes>>),
}

impl Sender {
    async fn connect(address: SocketAddr, protocol: Protocol) -> Sender {
        if protocol == Http1 {
            return Sender::Http1(Client::connect(address).await);
        }
        let stream = TcpStream::connect(address).await.expect("connects");
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.expect("HTTP/2");
        tokio::spawn(connection);
        Sender::Http2(sender)
    }

    async fn send(&mut self, call: Call) -> u16 {
        let header = call.key.map(|key| ("authorization", key));
        match self {
            Sender::Http1(client) => {
                let headers: Vec<_> = header.into_iter().collect();
                client.send(request("GET", call.path, &headers, "")).await;
                client.answer().await.expect("an answer").status
            }
            Sender::Http2(sender) => {
                let uri = format!("http://api.devrev.ai{}", call.path);
                let mut request = hyper::Request::get(uri);
                if let Some((name, value)) = header {
                    request = request.header(name, value);
                }
                let request = request.body(Empty::new()).expect("a request");
                sender.ready().await.expect("ready");
                let answer = sender.send_request(request).await.expect("an answer");
                let status = answer.status().as_u16();
                answer.into_body().collect().await.expect("a body");
                status
            }
        }
    }
}

/// The number behind `"name":` or `name=` in a line of either format.
fn number(line: &str, name: &str) -> usize {
    // Text on a pipe has no colours.
    let json = format!("\"{name}\":");
    let text = format!("{name}=");
    let (_, rest) = line
        .split_once(&json)
        .or_else(|| line.split_once(&text))
        .unwrap_or_else(|| panic!("no {name} in {line}"));
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|n| n.parse().ok()).expect("a number")
}

fn is_json(lines: &[String]) -> bool {
    let json = |line: &String| serde_json::from_str::<serde_json::Value>(line).is_ok();
    lines.iter().all(json)
}

/// More than queue and pipe hold, which is some 4,300 lines.
const MANY: usize = 5000;

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_stopped_slows_no_request_no_reload_and_no_drain() {
    for (protocol, workers) in [(Http1, 1), (Http1, 2), (Http2, 1), (Http2, 2)] {
        let mut program = Program::start(workers, "json").await;
        program.flood(protocol, MANY, DENIED).await;
        assert!(program.dropped().await > 0, "{protocol:?} {workers}");
        // Admin listener and reload go on too.
        program.admin("GET", "/livez").await;
        let toml = std::fs::read_to_string(program.file.path()).expect("a file");
        let toml = toml.replace("works.list", "works.create");
        std::fs::write(program.file.path(), toml).expect("written");
        program.admin("POST", "/reload").await;
        let forwarded = Call {
            status: 200,
            ..DENIED
        };
        program.flood(protocol, 8, forwarded).await;
        program.signal("-TERM");
        let start = Instant::now();
        assert_eq!(program.ended().await, Some(0), "{protocol:?} {workers}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_is_counted_and_reported_and_the_queue_is_bounded() {
    for (format, protocol, workers) in [("json", Http1, 2), ("text", Http2, 1)] {
        let mut program = Program::start(workers, format).await;
        program.flood(protocol, MANY, DENIED).await;
        let dropped = program.dropped().await;
        // The reader goes on.
        let mut lines = program.read_until("lines were dropped");
        lines.extend(program.rest().await);
        assert_eq!(is_json(&lines), format == "json");
        let access = lines.iter().filter(|line| line.contains("forbidden"));
        let access = access.count();
        // What the pipe holds comes on top: 64 KiB.
        assert!((QUEUE / 2..=QUEUE + 400).contains(&access), "{access}");
        let gaps = lines
            .iter()
            .filter(|line| line.contains("lines were dropped"));
        let reported: usize = gaps.map(|line| number(line, "lines")).sum();
        assert_eq!(reported, dropped, "{format}");
        // No line is lost without being counted: there is one for each request.
        assert_eq!(access + reported, MANY, "{format}");
        assert!(
            lines.iter().any(|line| line.contains("drained")),
            "{format}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_unknown_clients_are_summed_up() {
    const REQUESTS: usize = 4000;
    for (format, protocol, workers) in [
        ("json", Http1, 1),
        ("json", Http2, 2),
        ("text", Http1, 2),
        ("text", Http2, 1),
    ] {
        // Its connections bring no good key, and a busy machine takes long for so many requests on each.
        let patient = "header_timeout = \"2m\"";
        let mut program = Program::with(workers, format, patient, "").await;
        let start = Instant::now();
        program.flood(protocol, REQUESTS, WITHOUT_A_KEY).await;
        program.flood(protocol, 80, DENIED).await;
        let seconds = start.elapsed().as_secs() as usize + 2;
        let lines = program.rest().await;
        let refusals = lines.iter().filter(|line| line.contains("unauthenticated"));
        let (summaries, single): (Vec<_>, Vec<_>) =
            refusals.partition(|line| line.contains("more requests of unknown clients"));
        let case = format!("{format} {protocol:?} {workers}: {}", lines.len());
        assert!(single.len() >= 16 && single.len() <= 16 * seconds, "{case}");
        assert!(
            !summaries.is_empty() && summaries.len() <= seconds + 1,
            "{case}"
        );
        let summed: usize = summaries.iter().map(|line| number(line, "lines")).sum();
        assert_eq!(single.len() + summed, REQUESTS, "{case}");
        assert!(
            summaries.iter().all(|line| number(line, "peers") == 1),
            "{case}"
        );
        // Those of a known caller have a line each.
        let known = lines.iter().filter(|line| line.contains("forbidden"));
        assert_eq!(known.count(), 80, "{case}");
    }
}

/// How many lines have this message, and the number that summaries with the other message count.
fn count(lines: &[String], message: &str, summary: &str) -> (usize, usize) {
    let single = lines.iter().filter(|line| line.contains(message)).count();
    let summaries = lines.iter().filter(|line| line.contains(summary));
    (single, summaries.map(|line| number(line, "lines")).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_and_handshakes_are_summed_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let key = Signer::ed25519().jwk(json!({"kid": "k", "alg": "EdDSA"}));
    std::fs::write(at("keys"), json!({"keys": [key]}).to_string()).expect("written");
    let more = format!(
        "[auth]\njwt = {{ issuer = \"https://issuer.example\", audience = \"revgate\", jwks = {{ file = \"{}\" }} }}\n\
         [callers.signed]\njwt_subject = \"s\"",
        at("keys")
    );
    let mut program = Program::with(1, "json", "", &more).await;
    let unsigned = Call {
        key: Some("Bearer eyJhbGciOiJub25lIn0.e30.c2ln"),
        ..WITHOUT_A_KEY
    };
    program.flood(Http1, 800, unsigned).await;
    let lines = program.rest().await;
    let (single, summed) = count(
        &lines,
        "signed token refused",
        "more signed tokens or client certificates refused",
    );
    assert!((16..400).contains(&single), "{single}");
    assert_eq!(single + summed, 800);

    let server = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a pair");
    std::fs::write(at("cert"), server.cert.pem()).expect("written");
    std::fs::write(at("key"), server.signing_key.serialize_pem()).expect("written");
    let tls = format!(
        "tls = {{ cert = \"{}\", key = \"{}\" }}",
        at("cert"),
        at("key")
    );
    let mut program = Program::with(1, "json", &tls, "").await;
    // It trusts nobody, and says so.
    let client = rustls::ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(client));
    for _ in 0..400 {
        let stream = TcpStream::connect(program.proxy).await.expect("connects");
        let name = ServerName::try_from("localhost").expect("a name");
        assert!(connector.connect(name, stream).await.is_err());
    }
    let failures = || async {
        let metrics = program.admin("GET", "/metrics").await;
        let failed = r#"revgate_tls_handshake_failures_total{reason="refused_by_client"} "#;
        let count = metrics.lines().find_map(|line| line.strip_prefix(failed));
        count.map_or(0, |count| count.parse().expect("a number"))
    };
    let ends = Instant::now() + PATIENCE;
    while failures().await < 400 {
        assert!(Instant::now() < ends, "the handshakes do not end");
    }
    let lines = program.rest().await;
    let (single, summed) = count(&lines, "TLS handshake failed", "more TLS handshakes failed");
    assert!((16..200).contains(&single), "{single}");
    assert_eq!(single + summed, 400);
}

/// h2 warns of each acknowledgement of a ping that it has not sent, and hyper of refusals that name the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_library_is_heard_only_if_asked_for_and_is_bounded_then() {
    for (level, asked) in [("", false), ("level = \"info,h2=warn\"", true)] {
        let mut program = Program::with(1, "json", "", level).await;
        let mut client = Client::connect(program.proxy).await;
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let ping = [0, 0, 8, 6, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        client.send(settings).await.send(ping.repeat(4000)).await;
        // Its own ping is acknowledged when the others have been read.
        let mut own = ping;
        own[4] = 0;
        client.send(own).await;
        let acknowledged = ping;
        let mut read = Vec::new();
        while !read.windows(ping.len()).any(|frame| frame == acknowledged) {
            assert!(client.more().await, "the connection ended");
            read.append(&mut client.1);
        }
        drop(client);
        let mut http2 = Sender::connect(program.proxy, Http2).await;
        let malformed = Call {
            path: "/a/../b",
            ..WITHOUT_A_KEY
        };
        assert_eq!(http2.send(malformed).await, 400);
        let lines = program.rest().await;
        let (single, summed) = count(&lines, "PING ack", "more lines of a library");
        match asked {
            true => {
                assert!((16..400).contains(&single), "{single}");
                assert_eq!(single + summed, 4000, "{lines:?}");
            }
            false => {
                assert_eq!((single, summed), (0, 0), "{lines:?}");
                let other = |line: &&String| !line.contains("\"target\":\"revgate");
                assert_eq!(lines.iter().find(other), None);
            }
        }
    }
}
