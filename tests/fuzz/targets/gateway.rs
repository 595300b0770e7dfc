//! A whole gateway between two pipes: the bytes of a client, and those of DevRev as its answers. Time stands still while there is
//! something to do, so that every timeout passes at once.
//!
//! The first byte of the input has flags, the second one is the size of the pipes. Then come sections: the client's bytes, and behind each
//! `\n--\n` an answer of DevRev. `\n..\n` within a section is a pause until nothing happens any more.
#![no_main]

mod servers;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use libfuzzer_sys::fuzz_target;
use revgate::{
    config::{Config, from_toml},
    fuzzing::{Gateway, connect_with},
    policy::http1::Input,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{sleep, timeout},
};

use self::servers::Server;

const TOKEN: &str = "devrev-token-of-the-fuzzer";
const KEY: &str = "key-of-the-fuzzer-0123456789abcdef";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first byte decides.
#[derive(Clone, Copy)]
struct Flags(u8);

impl Flags {
    fn has(self, bit: u8) -> bool {
        self.0 >> bit & 1 > 0
    }

    fn upstream_speaks_http2(self) -> bool {
        self.has(0)
    }

    /// The client speaks HTTP/2, and its pieces are frames; see [`frame`].
    fn client_sends_frames(self) -> bool {
        self.has(1)
    }

    fn client_leaves(self) -> bool {
        self.has(2)
    }

    fn client_stops_reading(self) -> bool {
        self.has(3)
    }

    fn upstream_closes(self) -> bool {
        self.has(4)
    }

    fn is_agreed(self) -> bool {
        self.has(5)
    }

    /// It sends no frames of its own choice over HTTP/2, but answers as servers do; see [`response`].
    fn upstream_is_a_server(self) -> bool {
        self.upstream_speaks_http2() && self.has(6)
    }
}

fn config(http2: &str) -> Config {
    let text = format!(
        r#"
        [listen]
        max_connections = 2
        [upstream]
        url = "http://127.0.0.1:9"
        http2 = "{http2}"
        max_connections = 2
        [tokens.main]
        env = "TOKEN"
        [callers.known]
        key = {{ env = "KEY" }}
        [callers.anyone]
        anonymous = true
        allow = ["works.*", "auth-tokens.*", "keyrings.authorize"]
        "#
    );
    let variables = [("TOKEN", TOKEN), ("KEY", KEY)];
    let variables: BTreeMap<_, _> = variables
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    from_toml(&text, &variables).expect("a good configuration")
}

static CONFIGS: LazyLock<[Config; 2]> = LazyLock::new(|| [config("never"), config("always")]);

fn split<'a>(text: &'a [u8], mark: &[u8]) -> Vec<&'a [u8]> {
    let (mut rest, mut all) = (text, Vec::new());
    while let Some(at) = rest.windows(mark.len()).position(|window| window == mark) {
        all.push(&rest[..at]);
        rest = &rest[at + mark.len()..];
    }
    all.push(rest);
    all
}

/// A number of HPACK with a prefix of seven bits.
fn number(mut value: usize, out: &mut Vec<u8>) {
    if value < 127 {
        return out.push(value as u8);
    }
    out.push(127);
    value -= 127;
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A frame of HTTP/2: a byte each for its kind, flags and stream, then the payload. Of the kind `h` it is a HEADERS frame whose payload
/// comes as lines.
fn frame(piece: &[u8]) -> Vec<u8> {
    let Some((&[kind, flags, stream], payload)) = piece.split_first_chunk() else {
        return Vec::new();
    };
    let (kind, flags, payload) = match kind {
        b'h' => {
            let mut block = Vec::new();
            for line in payload.split(|byte| *byte == b'\n') {
                let mut field = line.splitn(2, |byte| *byte == b'=');
                if let (Some(name), Some(value)) = (field.next(), field.next()) {
                    block.push(0);
                    for text in [name, value] {
                        number(text.len(), &mut block);
                        block.extend_from_slice(text);
                    }
                }
            }
            (1, flags & 15, block)
        }
        _ => (kind & 15, flags, payload.to_vec()),
    };
    let length = (payload.len() as u32).to_be_bytes();
    let head = [
        length[1],
        length[2],
        length[3],
        kind,
        flags,
        0,
        0,
        0,
        stream & 15,
    ];
    [&head, &*payload].concat()
}

fn pieces(section: &[u8], frames: bool) -> Vec<Vec<u8>> {
    let pieces = split(section, b"\n..\n").into_iter();
    match frames {
        true => pieces.map(frame).collect(),
        false => pieces.map(<[u8]>::to_vec).collect(),
    }
}

/// DevRev.
#[derive(Default)]
struct Upstream {
    /// Those that are left, each in pieces.
    answers: Vec<Vec<Vec<u8>>>,
    /// What came on each connection.
    came: Vec<Vec<u8>>,
    /// The heads that a server of HTTP/2 has read, as HTTP/1.1 writes them.
    heads: Vec<Vec<u8>>,
}

/// Waits until everything else waits.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

/// Reads what comes, and answers each time when nothing more comes.
async fn answer(pipe: DuplexStream, upstream: Arc<Mutex<Upstream>>, flags: Flags) {
    if flags.upstream_is_a_server() {
        return serve(pipe, upstream).await;
    }
    let number = {
        let mut upstream = upstream.lock().expect("no panic");
        upstream.came.push(Vec::new());
        upstream.came.len() - 1
    };
    let (mut input, mut output) = tokio::io::split(pipe);
    if flags.upstream_speaks_http2() {
        let settings = frame(&[4, 0, 0]);
        let _ = output.write_all(&settings).await;
    }
    let mut buffer = [0; 4096];
    loop {
        let mut silent = false;
        while !silent {
            tokio::select! {
                biased;
                read = input.read(&mut buffer) => match read {
                    Ok(count @ 1..) => {
                        let mut upstream = upstream.lock().expect("no panic");
                        upstream.came[number].extend_from_slice(&buffer[..count]);
                    }
                    _ => return,
                },
                () = settle() => silent = true,
            }
        }
        let next = {
            let mut upstream = upstream.lock().expect("no panic");
            match upstream.came[number].is_empty() || upstream.answers.is_empty() {
                true => None,
                false => Some(upstream.answers.remove(0)),
            }
        };
        let Some(answer) = next else {
            if flags.upstream_closes() {
                return;
            }
            // Silent for ever, until the gateway closes.
            match input.read(&mut buffer).await {
                Ok(count @ 1..) => {
                    let mut upstream = upstream.lock().expect("no panic");
                    upstream.came[number].extend_from_slice(&buffer[..count]);
                    continue;
                }
                _ => return,
            }
        };
        for piece in answer {
            // It may not be read.
            let _ = timeout(Duration::from_secs(100), output.write_all(&piece)).await;
            settle().await;
        }
    }
}

/// An answer of lines: its status, and its fields. Behind an empty line comes the body.
fn response(text: &[u8]) -> Response<Full<Bytes>> {
    let mut parts = text.splitn(2, |byte| *byte == b'\n');
    let status = parts
        .next()
        .and_then(|status| StatusCode::from_bytes(status).ok());
    let mut rest = parts.next().unwrap_or_default();
    let mut fields = HeaderMap::new();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            break;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    let mut response = Response::new(Full::from(rest.to_vec()));
    let status = status.filter(|status| !status.is_informational());
    *response.status_mut() = status.unwrap_or(StatusCode::OK);
    *response.headers_mut() = fields;
    response
}

/// Answers each request over HTTP/2; not at all when no answer is left.
async fn serve(pipe: DuplexStream, upstream: Arc<Mutex<Upstream>>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let upstream = upstream.clone();
        async move {
            let (parts, body) = request.into_parts();
            let (target, authority) = (parts.uri.path_and_query(), parts.uri.authority());
            let target = target.map_or("", |target| target.as_str());
            let authority = authority.map_or("", |authority| authority.as_str());
            let mut head = format!(
                "{} {target} HTTP/1.1\r\nhost: {authority}\r\n",
                parts.method
            );
            for (name, value) in &parts.headers {
                head += &format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()));
            }
            let answer = {
                let mut upstream = upstream.lock().expect("no panic");
                upstream.heads.push(head.into_bytes());
                (!upstream.answers.is_empty()).then(|| upstream.answers.remove(0))
            };
            let trailers = body
                .collect()
                .await
                .ok()
                .and_then(|body| body.trailers().cloned());
            assert!(trailers.is_none(), "{trailers:?}");
            match answer {
                Some(answer) => Ok::<_, Infallible>(response(&answer.concat())),
                None => std::future::pending().await,
            }
        }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(pipe), service).await;
}

/// Sends the pieces, and returns what came.
async fn client(pipe: DuplexStream, pieces: Vec<Vec<u8>>, flags: Flags, came: Arc<Mutex<Vec<u8>>>) {
    let (mut input, mut output) = tokio::io::split(pipe);
    let write = async {
        for piece in pieces {
            if output.write_all(&piece).await.is_err() {
                return;
            }
            settle().await;
        }
        if flags.client_leaves() {
            let _ = output.shutdown().await;
        }
    };
    let read = async {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = input.read(&mut buffer).await {
            came.lock()
                .expect("no panic")
                .extend_from_slice(&buffer[..count]);
            if flags.client_stops_reading() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::join!(write, read);
}

fuzz_target!(|input: &[u8]| {
    let Some((&[flags, size], text)) = input.split_first_chunk() else {
        return;
    };
    let flags = Flags(flags);
    let size = usize::from(size) * 16 + 1;
    let mut sections = split(text, b"\n--\n").into_iter();
    let mut sent = pieces(
        sections.next().unwrap_or_default(),
        flags.client_sends_frames(),
    );
    if flags.client_sends_frames() {
        sent.insert(0, PREFACE.to_vec());
    }
    let answers = sections.map(|section| {
        pieces(
            section,
            flags.upstream_speaks_http2() && !flags.upstream_is_a_server(),
        )
    });
    let upstream = Arc::new(Mutex::new(Upstream {
        answers: answers.collect(),
        came: Vec::new(),
        heads: Vec::new(),
    }));
    fastrand::seed(0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let all = sent.concat();
    let came = runtime.block_on(async {
        let of_upstream = upstream.clone();
        connect_with(move || {
            let (near, far) = tokio::io::duplex(size);
            tokio::spawn(answer(far, of_upstream.clone(), flags));
            Ok(near)
        });
        let config = &CONFIGS[usize::from(flags.upstream_speaks_http2())];
        let gateway = Gateway::new(config).expect("a gateway");
        let (near, far) = tokio::io::duplex(size);
        let came = Arc::new(Mutex::new(Vec::new()));
        let client = tokio::spawn(client(far, sent, flags, came.clone()));
        let address = IpAddr::from(Ipv4Addr::LOCALHOST);
        let agreed = flags.is_agreed().then_some(flags.client_sends_frames());
        let served = timeout(
            Duration::from_secs(24 * 3600),
            gateway.serve(near, address, agreed),
        );
        served.await.expect("a connection ends");
        // An attempt whose client has left may confirm a token, and a connection to DevRev may be opened.
        sleep(Duration::from_secs(100)).await;
        client.abort();
        let left = gateway.left();
        assert!(left.is_empty(), "{left:?} left");
        let came = came.lock().expect("no panic");
        came.clone()
    });
    drop(runtime);
    let upstream = upstream.lock().expect("no panic");
    if !flags.upstream_speaks_http2() {
        upstream.came.iter().for_each(|came| check_requests(came));
    }
    upstream.heads.iter().for_each(|head| check_request(head));
    let is_http2 = match flags.is_agreed() {
        true => flags.client_sends_frames(),
        false => all.starts_with(PREFACE),
    };
    match is_http2 {
        true => check_frames(&came),
        false => check_answers(&came, &all),
    }
});

/// Name and value of each field.
fn fields(head: &[u8]) -> Vec<(String, &[u8])> {
    let lines = split(head, b"\r\n").into_iter().skip(1);
    let lines = lines.filter(|line| !line.is_empty());
    let fields = lines.map(|line| {
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.expect("a field"));
        let name = String::from_utf8_lossy(name).to_lowercase();
        (name, value[1..].trim_ascii())
    });
    fields.collect()
}

/// What DevRev got over HTTP/1.1.
fn check_requests(came: &[u8]) {
    let (mut input, mut begun) = (Input::default(), 0);
    for at in 0..came.len() {
        let before = input.incomplete_head();
        let read = input.read(&came[at..=at]);
        read.unwrap_or_else(|cut| panic!("{}: {}", cut.fault, String::from_utf8_lossy(came)));
        match (before, input.incomplete_head()) {
            (0, 1) => begun = at,
            (1.., 0) => check_request(&came[begun..=at]),
            _ => {}
        }
    }
}

fn check_request(head: &[u8]) {
    let shown = String::from_utf8_lossy(head);
    let target = shown.split(' ').nth(1).expect("a target");
    let path = target.split('?').next().unwrap_or_default();
    let fields = fields(head);
    let named = |wanted: &str| {
        let folds = |name: &str| name.replace(['_', '.'], "-") == wanted;
        let found = fields.iter().filter(move |(name, _)| folds(name));
        found.map(|(_, value)| *value).collect::<Vec<_>>()
    };
    assert_eq!(named("host"), [b"127.0.0.1:9"], "{shown}");
    assert!(named("proxy-authorization").is_empty(), "{shown}");
    assert!(named("x-original-url").is_empty() && named("x-http-method-override").is_empty());
    let credentials = named("authorization");
    let is_token = |value: &[u8]| value.ends_with(TOKEN.as_bytes());
    assert!(
        credentials.len() < 2 && credentials.iter().all(|value| is_token(value)),
        "{shown}"
    );
    if !credentials.is_empty() {
        for bits in 0..64 {
            let server = Server::of([bits & 7 | (bits & 8) << 4, bits * 4 + 3, bits >> 3]);
            let read = server.read(path);
            let denied = [
                "auth-tokens.create",
                "auth-tokens.update",
                "auth-tokens.delete",
                "keyrings.authorize",
            ];
            assert!(
                !read.is_some_and(|read| denied.contains(&&*read)),
                "{shown} {server:?}"
            );
        }
    }
}

/// What the client got over HTTP/1.1: answers one after another, of which the last one may be cut off.
fn check_answers(mut came: &[u8], sent: &[u8]) {
    let whole = String::from_utf8_lossy(came);
    let asks_for_heads = sent.windows(5).any(|window| window == b"HEAD ");
    while !came.is_empty() {
        let version = &came[..came.len().min(9)];
        assert!(
            b"HTTP/1.1 ".starts_with(version) || b"HTTP/1.0 ".starts_with(version),
            "{whole}"
        );
        let Some(end) = came.windows(4).position(|window| window == b"\r\n\r\n") else {
            return;
        };
        let (head, rest) = came.split_at(end + 4);
        let status = head
            .get(9..12)
            .and_then(|status| str::from_utf8(status).ok());
        let status: u16 = status
            .and_then(|status| status.parse().ok())
            .expect("a status");
        let fields = fields(&head[..end]);
        for (name, _) in &fields {
            let is_good =
                |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert!(!name.is_empty() && name.bytes().all(is_good), "{whole}");
        }
        let named = |wanted: &str| {
            let found = fields.iter().filter(move |(name, _)| name == wanted);
            found.map(|(_, value)| *value).collect::<Vec<_>>()
        };
        came = rest;
        if status < 200 || matches!(status, 204 | 304) {
            continue;
        }
        if asks_for_heads {
            return;
        }
        match (&*named("transfer-encoding"), &*named("content-length")) {
            ([b"chunked"], []) => match after_chunks(came) {
                Some(rest) => came = rest,
                None => return,
            },
            ([], [length]) => {
                let length = str::from_utf8(length)
                    .ok()
                    .and_then(|length| length.parse().ok());
                let length: usize = length.unwrap_or_else(|| panic!("no length: {whole}"));
                came = came.get(length..).unwrap_or_default();
            }
            ([], []) => return,
            _ => panic!("two lengths: {whole}"),
        }
    }
}

/// What follows a chunked body; `None` if it is cut off.
fn after_chunks(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n")?;
        let size = str::from_utf8(&bytes[..end]).ok();
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.unwrap_or_else(|| panic!("no chunk: {:?}", &bytes[..end]));
        bytes = &bytes[end + 2..];
        if size == 0 {
            // Trailers, and an empty line.
            loop {
                let end = bytes.windows(2).position(|window| window == b"\r\n")?;
                bytes = &bytes[end + 2..];
                if end == 0 {
                    return Some(bytes);
                }
            }
        }
        bytes = bytes.get(size..)?;
        let (end, rest) = bytes.split_at_checked(2)?;
        assert_eq!(end, b"\r\n");
        bytes = rest;
    }
}

/// What the client got over HTTP/2: frames, of which the last one may be cut off.
fn check_frames(mut came: &[u8]) {
    let mut first = true;
    while let Some((&[a, b, c, kind, flags, r, _, _, stream], rest)) = came.split_first_chunk() {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        assert!(
            length <= 16_384 && kind <= 9 && r == 0,
            "a frame of {length} bytes, kind {kind}"
        );
        assert_eq!(
            first,
            first && (kind, flags & 1, stream) == (4, 0, 0),
            "SETTINGS come first"
        );
        first = false;
        came = rest.get(length..).unwrap_or_default();
    }
}
