//! Clients without a good credential: how much of the gateway's memory and connections they can take, and for how long.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use revgate::simulator::{self, Fault, Simulator, TextDuration};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    http::{Client, get, request},
    process::{Process, peak},
    rig::{self, KEY, OTHER_KEY, hash, plan},
};

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The program in front of a simulator, over plain TCP or TLS.
struct Program {
    _devrev: Simulator,
    _folder: tempfile::TempDir,
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    /// Of HTTP/1.1 and of HTTP/2.
    tls: Option<[TlsConnector; 2]>,
}

impl Program {
    /// `listen` goes into its section, `more` behind all.
    async fn start(workers: usize, tls: bool, listen: &str, more: &str) -> Program {
        let devrev = simulator::start(simulator::Options::default());
        let devrev = devrev.await.expect("starts");
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a pair");
        std::fs::write(at("cert"), own.cert.pem()).expect("written");
        std::fs::write(at("key"), own.signing_key.serialize_pem()).expect("written");
        let secure = match tls {
            true => format!("tls = {{ cert = {:?}, key = {:?} }}", at("cert"), at("key")),
            false => String::new(),
        };
        let text = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\nworkers = {workers}\n{secure}\n{listen}\n\
             [admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://{}\"\n\
             [tokens.main]\nenv = \"DEVREV_TOKEN\"\n\
             [callers.a]\nkey_sha256 = \"{}\"\nrate = \"1000/s\"\nburst = 1000\n\
             [callers.b]\nkey_sha256 = \"{}\"\nrate = \"1000/s\"\nburst = 1000\n{more}\n",
            devrev.addr(),
            hash(OTHER_KEY),
            hash(KEY),
        );
        std::fs::write(at("revgate.toml"), text).expect("written");
        let mut process = Process::start(&["run", "-c", &at("revgate.toml")], "info");
        let admin = process.bound("admin");
        let address = process.bound("proxy");
        Program {
            _devrev: devrev,
            _folder: folder,
            process,
            address,
            admin,
            tls: tls.then(|| ["http/1.1", "h2"].map(|alpn| connector(own.cert.der(), alpn))),
        }
    }

    async fn connect(&self) -> Box<dyn Stream> {
        self.connect_for(b"").await
    }

    /// Connects to send these bytes.
    async fn connect_for(&self, bytes: &[u8]) -> Box<dyn Stream> {
        let stream = TcpStream::connect(self.address).await.expect("connects");
        match &self.tls {
            None => Box::new(stream),
            Some([http1, http2]) => {
                let tls = match bytes.starts_with(PREFACE) {
                    true => http2,
                    false => http1,
                };
                let name = ServerName::try_from("localhost").expect("a name");
                Box::new(tls.connect(name, stream).await.expect("a handshake"))
            }
        }
    }

    /// Sends these bytes on a connection of their own, as far as the gateway lets it.
    async fn hold(&self, bytes: &[u8]) -> Box<dyn Stream> {
        let mut stream = self.connect_for(bytes).await;
        let _ = timeout(Duration::from_secs(2), stream.write_all(bytes)).await;
        let _ = stream.flush().await;
        stream
    }

    /// Caller b makes a call on a new connection.
    async fn b_is_served(&self) -> Duration {
        let start = Instant::now();
        let mut client = Client::over(self.connect().await);
        client.send(get("/works.list", KEY)).await;
        let answer = client.answer().await.expect("an answer for b");
        assert_eq!(answer.status, 200, "{answer:?}");
        start.elapsed()
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = rig::admin(self.admin, "GET", "/metrics", "").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0.0, |value| value.trim().parse().expect("a number"))
    }
}

fn connector(cert: &CertificateDer<'_>, alpn: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone().into_owned()).expect("a root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.into()];
    TlsConnector::from(Arc::new(config))
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A field as HPACK writes it without its table.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127, "one byte of length");
        out.push(text.len() as u8);
        out.extend(text.as_bytes());
    }
    out
}

fn get_block(key: &str) -> Vec<u8> {
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", "/works.list"),
        ("authorization", key),
    ];
    fields.map(|(name, value)| field(name, value)).concat()
}

/// The start of a connection of HTTP/2 whose streams may send nothing.
fn window_zero() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])].concat()
}

/// Waits for the end of a connection, whatever comes before it.
async fn ends_within(stream: &mut (dyn Stream + '_), time: Duration) {
    let ended = async {
        let mut buffer = [0; 4096];
        while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
    };
    timeout(time, ended).await.expect("the connection ends");
}

/// Growth of the process's peak memory in MiB.
fn grown(program: &Program, before: u64) -> u64 {
    (peak(&program.process) - before) / 1024
}

fn unfinished_http1() -> Vec<u8> {
    format!(
        "GET /works.list HTTP/1.1\r\nHost: x\r\nA: {}",
        "a".repeat(60_000)
    )
    .into_bytes()
}

/// A header block in two frames that does not end.
fn unfinished_http2() -> Vec<u8> {
    let fields = (0..150).flat_map(|_| field("a", &"a".repeat(100)));
    let block: Vec<u8> = get_block("no").into_iter().chain(fields).collect();
    let more: Vec<u8> = (0..150)
        .flat_map(|_| field("b", &"b".repeat(100)))
        .collect();
    [
        window_zero(),
        frame(HEADERS, END_STREAM, 1, &block),
        frame(CONTINUATION, 0, 1, &more),
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_heads_share_a_budget_and_end_when_it_is_spent() {
    for (workers, tls, heads, bytes) in [
        (1, false, 1500, unfinished_http1()),
        (2, false, 1500, unfinished_http2()),
        (2, true, 150, unfinished_http1()),
        (1, true, 150, unfinished_http2()),
    ] {
        let program = Program::start(workers, tls, "", "").await;
        program.b_is_served().await;
        let before = peak(&program.process);
        let mut held = Vec::new();
        for number in 0..heads {
            held.push(program.hold(&bytes).await);
            if number % 500 == 100 {
                program.b_is_served().await;
            }
        }
        program.b_is_served().await;
        let mib = grown(&program, before);
        assert!(mib < 64, "{mib} MiB, {workers} workers, TLS {tls}");
        let ended = program
            .metric("revgate_connections_ended_total{reason=\"heads_full\"}")
            .await;
        assert!(ended > 0.0 || tls, "{workers} workers, TLS {tls}");
    }
}

#[tokio::test]
async fn a_head_for_which_there_is_no_room_is_answered() {
    let program = Program::start(1, false, "", "").await;
    let mut held = Vec::new();
    let refused = loop {
        let mut client = Client::over(program.hold(&unfinished_http1()).await);
        match timeout(Duration::from_millis(50), client.answer()).await {
            Ok(Some(answer)) => break answer,
            // Its answer was lost, since the gateway left some of the head unread.
            Ok(None) => {}
            Err(_) => held.push(client),
        }
        assert!(held.len() < 300);
    };
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "overloaded")
    );
    assert!(refused.header("retry-after").is_some() && refused.header("x-request-id").is_some());
}

/// A receiver of spans that takes connections and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_refused_calls_with_large_heads_are_small() {
    let receiver = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let trace = format!(
        "[trace]\notlp = \"http://{}\"\nsample = 1.0",
        receiver.local_addr().expect("bound")
    );
    let program = Program::start(1, false, "", &trace).await;
    program.b_is_served().await;
    let before = peak(&program.process);
    let (id, more) = ("i".repeat(100), "m".repeat(60_000));
    let method = "M".repeat(32);
    for _ in 0..130 {
        let mut client = Client::over(program.connect().await);
        for number in 0..20 {
            let headers = [("Authorization", "no"), ("X-Request-Id", &id), ("M", &more)];
            let method = if number % 2 == 0 { "GET" } else { &method };
            client
                .send(request(method, "/works.list", &headers, ""))
                .await;
            assert_eq!(client.answer().await.expect("an answer").status, 401);
        }
    }
    let mib = grown(&program, before);
    assert!(mib < 32, "{mib} MiB");
    let dropped = "revgate_trace_spans_dropped_total{reason=\"queue_full\"}";
    assert!(program.metric(dropped).await > 0.0);
}

#[tokio::test]
async fn connections_without_a_key_end_in_time_and_keep_nobody_out() {
    let unread = [
        window_zero(),
        frame(HEADERS, END_STREAM | END_HEADERS, 1, &get_block("no")),
    ]
    .concat();
    // One byte of a window, so that hyper hands the answer on; and one that is only opened.
    let one = [
        &window_zero()[..],
        &frame(HEADERS, END_STREAM | END_HEADERS, 1, &get_block("no")),
        &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
    ]
    .concat();
    for (workers, tls, bytes) in [
        (1, false, &unread[..]),
        (2, false, &one),
        (2, true, &unread),
        (1, false, b""),
        (1, true, b"GET /works.list HTTP/1.1\r\nHost: x\r\n\r\n"),
    ] {
        let listen = "max_connections = 20\nheader_timeout = \"3s\"";
        let program = Program::start(workers, tls, listen, "").await;
        let start = Instant::now();
        let mut held = Vec::new();
        for _ in 0..40 {
            held.push(program.hold(bytes).await);
        }
        let took = program.b_is_served().await;
        assert!(
            took < Duration::from_secs(1),
            "{took:?}, {workers} workers, TLS {tls}"
        );
        for stream in &mut held {
            ends_within(&mut **stream, Duration::from_secs(6)).await;
        }
        assert!(start.elapsed() > Duration::from_secs(2));
        let ended = "revgate_connections_ended_total{reason=\"unproven\"}";
        assert!(program.metric(ended).await > 0.0);
        let gave_way = "revgate_connections_ended_total{reason=\"gave_way\"}";
        assert!(program.metric(gave_way).await >= 20.0);
        program.b_is_served().await;
    }
}

#[tokio::test]
async fn a_connection_with_a_good_credential_is_not_ended() {
    for tls in [false, true] {
        let program = Program::start(1, tls, "header_timeout = \"500ms\"", "").await;
        let mut client = Client::over(program.connect().await);
        let mut http2 = program
            .hold(
                &[
                    PREFACE,
                    &frame(SETTINGS, 0, 0, &[]),
                    &frame(HEADERS, END_STREAM | END_HEADERS, 1, &get_block(KEY)),
                ]
                .concat(),
            )
            .await;
        client.send(get("/works.list", KEY)).await;
        assert_eq!(client.answer().await.expect("an answer").status, 200);
        tokio::time::sleep(Duration::from_millis(2500)).await;
        client.send(get("/works.list", KEY)).await;
        assert_eq!(client.answer().await.expect("still there").status, 200);
        let mut buffer = vec![0; 64 * 1024];
        let read = http2.read(&mut buffer).await.expect("an answer");
        assert!(read > 0);
        let more = http2.write_all(&frame(PING, 0, 0, &[7; 8])).await;
        more.expect("still there");
        let mut seen = buffer[..read].to_vec();
        while !seen.windows(8).any(|bytes| bytes == [7; 8]) {
            let read = timeout(Duration::from_secs(5), http2.read(&mut buffer)).await;
            let read = read.expect("in time").expect("still there");
            assert!(read > 0, "it ended");
            seen.extend(&buffer[..read]);
        }
    }
}

/// In mode "validate" it takes a call to DevRev until a caller is known.
#[tokio::test]
async fn a_connection_is_not_ended_while_it_is_found_out_who_the_caller_is() {
    let slow = plan(
        "auth-tokens.info",
        Fault::Delay(TextDuration(Duration::from_secs(3))),
        1,
    );
    let options = simulator::Options {
        plan: slow,
        ..simulator::Options::default()
    };
    let devrev = simulator::start(options).await.expect("starts");
    let gateway = rig::start(
        &format!(
            "[listen]\naddress = \"127.0.0.1:0\"\nheader_timeout = \"500ms\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [auth]\nmode = \"validate\"\n[upstream]\nurl = \"http://{}\"\n",
            devrev.addr()
        ),
        &[],
    );
    let mut client = Client::connect(gateway.address().expect("TCP")).await;
    client.send(get("/works.list", "e30.e30.c2ln")).await;
    assert_eq!(client.answer().await.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_caller_that_opens_all_connections_keeps_nobody_out() {
    for (workers, tls) in [(1, false), (2, true)] {
        let program = Program::start(workers, tls, "max_connections = 16", "").await;
        let mut of_a = Vec::new();
        for _ in 0..40 {
            let mut client = Client::over(program.connect().await);
            client.send(get("/works.list", OTHER_KEY)).await;
            assert_eq!(client.answer().await.expect("an answer").status, 200);
            of_a.push(client);
            let took = program.b_is_served().await;
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
        // Its newest connections are still there.
        let newest = of_a.last_mut().expect("one");
        newest.send(get("/works.list", OTHER_KEY)).await;
        assert_eq!(newest.answer().await.expect("an answer").status, 200);
    }
}

/// What h2 and hyper bound by themselves, and what is set for them.
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_cost_no_memory_and_keep_nobody_waiting() {
    let streams = |count: u32| (0..count).map(|number| 2 * number + 1);
    let headers = |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &get_block("no"));
    let upload = |stream| frame(HEADERS, END_HEADERS, stream, &get_block(KEY));
    let start = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let floods: [(&str, Vec<u8>); 8] = [
        (
            "rapid reset",
            streams(20_000)
                .flat_map(|id| [headers(id), frame(RESET, 0, id, &[0, 0, 0, 8])].concat())
                .collect(),
        ),
        (
            "streams beyond the limit",
            streams(20_000).flat_map(headers).collect(),
        ),
        (
            "continuations",
            [
                frame(HEADERS, END_STREAM, 1, &get_block("no")),
                frame(CONTINUATION, 0, 1, &field("a", &"a".repeat(100))).repeat(20_000),
            ]
            .concat(),
        ),
        ("pings", frame(PING, 0, 0, &[1; 8]).repeat(100_000)),
        (
            "settings",
            frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(100_000),
        ),
        (
            "priorities",
            streams(100_000)
                .flat_map(|id| frame(PRIORITY, 0, id, &[0, 0, 0, 0, 1]))
                .collect(),
        ),
        (
            "empty data",
            [upload(1), frame(DATA, 0, 1, &[]).repeat(100_000)].concat(),
        ),
        (
            "bodies that are not read",
            streams(100)
                .flat_map(|id| [upload(id), frame(DATA, 0, id, &[0; 600])].concat())
                .collect(),
        ),
    ];
    let program = Program::start(1, false, "", "").await;
    program.b_is_served().await;
    let before = peak(&program.process);
    for (what, flood) in floods {
        let bytes = [&start[..], &flood].concat();
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(program.hold(&bytes).await);
            let took = program.b_is_served().await;
            assert!(took < Duration::from_secs(5), "{what}: {took:?}");
        }
        let mib = grown(&program, before);
        assert!(mib < 48, "{what}: {mib} MiB");
    }
}

/// A byte of HPACK can stand for a whole field. The program is stopped meanwhile, so that it finds all of them at once.
#[tokio::test(flavor = "multi_thread")]
async fn heads_that_grow_when_they_are_decoded_are_decoded_in_turn() {
    for workers in [1, 2] {
        let program = Program::start(workers, false, "", "").await;
        program.b_is_served().await;
        let before = peak(&program.process);
        let mut flood = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        for number in 0..100 {
            // A field that goes into the table once, and two thousand references to it.
            let mut block = get_block("no");
            if number == 0 {
                block.extend([0x40, 1, b'a', 0]);
            }
            block.extend([0x80 | 62; 2000]);
            let flags = END_STREAM | END_HEADERS;
            flood.extend(frame(HEADERS, flags, 2 * number + 1, &block));
        }
        let mut held = Vec::new();
        for _ in 0..200 {
            held.push(program.connect().await);
        }
        program.process.signal("-STOP");
        for stream in &mut held {
            let sent = timeout(Duration::from_secs(1), stream.write_all(&flood)).await;
            sent.expect("the kernel takes it").expect("sent");
        }
        program.process.signal("-CONT");
        program.b_is_served().await;
        let mib = grown(&program, before);
        assert!(mib < 64, "{mib} MiB, {workers} workers");
    }
}

/// It is told on an answer that its connection ends, so that no request is lost.
#[tokio::test]
async fn a_client_whose_credential_is_refused_again_and_again_loses_no_request() {
    let program = Program::start(1, false, "header_timeout = \"1s\"", "").await;
    let mut client = Client::connect(program.address).await;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < until, "the connection does not end");
        client.send(get("/works.list", "Bearer wrong")).await;
        let answer = client.answer().await.expect("an answer to every request");
        assert_eq!(answer.status, 401);
        if answer.header("connection") == Some("close") {
            return;
        }
    }
}
