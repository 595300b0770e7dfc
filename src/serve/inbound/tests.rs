//! What a client sees of a drain, with the clock stopped.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{ConnectionSettings, IDLE_GRACE, Origin, Server},
    head::{PREFACE, Speaks},
};
use crate::{
    config,
    plan::Plan,
    policy::allocator::{Claim, Party},
    serve::{
        upstream_options,
        worker::{Published, Serving},
    },
    stack,
    state::{
        State,
        connections::{ConnectionTable, OpenConnection},
        draining::{Drain, Draining},
    },
    upstream::{OwnListeners, Upstream},
};

/// Refused, which takes no time and no upstream.
const REQUEST: &[u8] = b"GET /works.list HTTP/1.1\r\nHost: a\r\n\r\n";

struct Rig {
    server: Server,
    settings: Arc<ConnectionSettings>,
    drain: Drain,
}

impl Rig {
    fn new() -> Rig {
        let text = format!(
            "[tokens.main]\nenv = \"T\"\n[callers.a]\nkey_sha256 = \"{}\"\n",
            "0".repeat(64)
        );
        let env = BTreeMap::from([("T".to_owned(), "token".to_owned())]);
        let config = config::from_toml(&text, &env).unwrap();
        let plan = Arc::new(Plan::of(&config).unwrap());
        let (drain, draining) = Draining::new();
        let state = Arc::new(State::new(&plan, draining, Handle::current()).unwrap());
        let options = upstream_options(&config, 2, OwnListeners::default(), None).unwrap();
        let upstream = Upstream::new(options, plan.upstream);
        let lanes = upstream.lanes();
        let settings = Arc::new(ConnectionSettings {
            header_timeout: config.listen.header_timeout,
            idle_timeout: config.listen.idle_timeout,
            drain_timeout: config.drain.timeout,
            told_of_field: false.into(),
            proxy_protocol: config.listen.proxy_protocol,
            proxies: config.listen.proxies(),
            connections: ConnectionTable::new(10),
            state: state.clone(),
        });
        let published = Published(Arc::new(ArcSwap::from_pointee(Serving {
            stack: stack::build(&plan, &state, upstream, Some(lanes)),
            plan,
        })));
        Rig {
            server: Server::new(published, settings.clone()),
            settings,
            drain,
        }
    }

    /// The client's end of a connection, and the task that serves it.
    async fn connect(&self) -> (Client, JoinHandle<()>) {
        self.connect_on(self.settings.connections.open(None).await)
    }

    /// One that has brought a good credential.
    async fn connect_known(&self) -> (Client, JoinHandle<()>) {
        let open = self.settings.connections.open(None).await;
        assert!(open.prove(&Claim {
            party: Party::Caller {
                group: "main".into(),
                name: "a".into(),
            },
            ..Claim::unknown(None)
        }));
        self.connect_on(open)
    }

    fn connect_on(&self, open: OpenConnection) -> (Client, JoinHandle<()>) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let origin = Origin {
            address: None,
            peer: None,
            retired: CancellationToken::new(),
            speaks: Speaks::Either,
            at: Instant::now(),
            open,
        };
        let served = tokio::spawn(self.server.clone().serve(theirs, origin));
        (Client(ours), served)
    }
}

struct Client(DuplexStream);

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// What comes up to the end of an answer's head and body; empty at the end of the connection.
    async fn answer(&mut self) -> String {
        let mut text = String::new();
        while !text.ends_with("}\n") && !text.ends_with('}') {
            let mut chunk = [0; 4096];
            match self.0.read(&mut chunk).await.unwrap_or(0) {
                0 => break,
                read => text += std::str::from_utf8(&chunk[..read]).unwrap(),
            }
        }
        text
    }

    async fn has_ended(&mut self) -> bool {
        self.0.read(&mut [0]).await.unwrap_or(0) == 0
    }
}

/// Longer than any test takes of its stopped clock.
const DRAIN: Duration = Duration::from_secs(25);

const HALF: Duration = Duration::from_millis(500);

#[tokio::test(start_paused = true)]
async fn an_idle_connection_has_a_grace_in_which_a_request_gets_its_answer() {
    let rig = Rig::new();
    let (mut used, mut fresh, mut idle) = (
        rig.connect().await.0,
        rig.connect().await.0,
        rig.connect().await.0,
    );
    for client in [&mut used, &mut idle] {
        client.send(REQUEST).await;
        let answer = client.answer().await;
        assert!(!answer.contains("connection: close"), "{answer}");
    }
    rig.drain.begin(DRAIN);
    let begun = Instant::now();
    sleep(HALF).await;
    for client in [&mut used, &mut fresh] {
        client.send(REQUEST).await;
        let answer = client.answer().await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert!(client.has_ended().await);
    }
    assert_eq!(begun.elapsed(), HALF);
    assert!(idle.has_ended().await);
    let open = begun.elapsed();
    assert!(open >= IDLE_GRACE && open < 2 * IDLE_GRACE, "{open:?}");
}

/// Of a stranger for the grace, and of a client that has brought a good credential for `header_timeout`.
#[tokio::test(start_paused = true)]
async fn a_head_that_is_on_its_way_is_waited_for() {
    let rig = Rig::new();
    let nearly = IDLE_GRACE - Duration::from_millis(50);
    let stranger = (rig.connect().await, Duration::ZERO, nearly);
    let late_stranger = (rig.connect().await, nearly, nearly);
    let known = (rig.connect_known().await, Duration::ZERO, 3 * IDLE_GRACE);
    rig.drain.begin(DRAIN);
    let clients = [stranger, late_stranger, known];
    let clients = clients.map(|((mut client, served), begins, takes)| async move {
        sleep(begins).await;
        let (first, rest) = REQUEST.split_at(10);
        client.send(first).await;
        sleep(takes).await;
        client.send(rest).await;
        let answer = client.answer().await;
        assert!(answer.contains("connection: close"), "{takes:?}: {answer}");
        served.await.unwrap();
    });
    futures_util::future::join_all(clients).await;
}

#[tokio::test(start_paused = true)]
async fn half_a_head_of_a_stranger_holds_up_no_drain() {
    let half = &REQUEST[..10];
    let settings = frame(SETTINGS, 0, 0, &[]);
    let half_frame = [PREFACE, &settings[..], &[0, 0, 9, HEADERS]].concat();
    let another = [&REQUEST[10..], half].concat();
    let long = [&REQUEST[..REQUEST.len() - 2], b"A: "].concat();
    // What comes first, and then again and again.
    for (first, next) in [
        (half, &b""[..]),
        (&long, b"a"),
        (half, &another),
        (&PREFACE[..10], b""),
        (&half_frame, b""),
    ] {
        for begins in [-500, 0, 900] {
            let rig = Rig::new();
            let (client, served) = rig.connect().await;
            let (mut reads, mut writes) = tokio::io::split(client.0);
            let case = format!(
                "{:?} {begins}",
                String::from_utf8_lossy(&[first, next].concat())
            );
            let (first, next) = (first.to_vec(), next.to_vec());
            let wait = Duration::from_millis(u64::try_from(begins).unwrap_or(0));
            let before = Duration::from_millis(u64::try_from(-begins).unwrap_or(0));
            let sends = tokio::spawn(async move {
                sleep(wait).await;
                let mut sent = writes.write_all(&first).await;
                while sent.is_ok() {
                    sleep(Duration::from_millis(100)).await;
                    sent = writes.write_all(&next).await;
                }
            });
            let read = tokio::spawn(async move {
                tokio::io::copy(&mut reads, &mut tokio::io::sink())
                    .await
                    .unwrap_or(0)
            });
            sleep(before).await;
            rig.drain.begin(DRAIN);
            let begun = Instant::now();
            served.await.unwrap();
            let took = begun.elapsed();
            sends.abort();
            read.abort();
            assert!(took <= 3 * IDLE_GRACE + HALF, "{case}: {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_requests_the_last_one_ends_the_connection() {
    let rig = Rig::new();
    let (mut client, served) = rig.connect().await;
    rig.drain.begin(DRAIN);
    client.send(&[REQUEST, REQUEST, REQUEST].concat()).await;
    served.await.unwrap();
    let mut all = String::new();
    client.0.read_to_string(&mut all).await.unwrap();
    assert_eq!(all.matches("HTTP/1.1 401").count(), 3, "{all}");
    assert_eq!(all.matches("connection: close").count(), 1, "{all}");
    let last = all.rfind("HTTP/1.1 401").unwrap();
    assert!(all[last..].contains("connection: close"), "{all}");
}

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const HEADERS: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}

impl Client {
    /// The kind, flags, stream and payload of the next frame but SETTINGS; `None` at the end of the connection.
    async fn frame(&mut self) -> Option<(u8, u8, u8, Vec<u8>)> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let [_, high, low, kind, flags, .., stream] = head;
            let mut payload = vec![0; usize::from(high) << 8 | usize::from(low)];
            self.0.read_exact(&mut payload).await.ok()?;
            if kind != SETTINGS {
                return Some((kind, flags, stream, payload));
            }
        }
    }

    /// A GET on this stream.
    async fn get(&mut self, stream: u8) {
        let fields = [0x82, 0x86, 0x84, 0x41, 1, b'a'];
        self.send(&frame(HEADERS, 5, stream, &fields)).await;
    }
}

/// The client sends on until it knows, and none of that is lost: the first GOAWAY names no last stream, and the second one follows the
/// answer to a PING.
#[tokio::test(start_paused = true)]
async fn http2_loses_no_request_that_is_sent_before_the_client_knows() {
    for used_before in [true, false] {
        let rig = Rig::new();
        let (mut client, served) = rig.connect().await;
        client.send(PREFACE).await;
        client.send(&frame(SETTINGS, 0, 0, &[])).await;
        let mut stream = 1;
        if used_before {
            client.get(stream).await;
            while client.frame().await.unwrap().0 != HEADERS {}
            stream = 3;
        }
        tokio::task::yield_now().await;
        rig.drain.begin(DRAIN);
        sleep(HALF).await;
        // It has read nothing yet.
        client.get(stream).await;
        let (mut last_streams, mut answered, mut pinged) = (Vec::new(), false, false);
        while let Some((kind, flags, of, payload)) = client.frame().await {
            match kind {
                GOAWAY => last_streams.push(payload[..4].to_vec()),
                PING if flags == 0 => {
                    pinged = true;
                    client.send(&frame(PING, 1, 0, &payload)).await;
                }
                HEADERS if of == stream => answered = true,
                _ => {}
            }
        }
        assert!(answered && pinged);
        assert_eq!(
            last_streams,
            [vec![127, 255, 255, 255], vec![0, 0, 0, stream]]
        );
        served.await.unwrap();
    }
}
