//! Connections that bring nothing.

use std::time::Duration;

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Scene,
    floods::{self, Frame},
    stream::{Caller, Head, Reading},
};
use crate::client::Protocol;

/// A full backlog delays a connection, which is no reason to wait for it.
async fn connect(scene: &Scene) -> Option<TcpStream> {
    let connected = timeout(Duration::from_secs(1), TcpStream::connect(scene.proxy)).await;
    connected.ok()?.ok()
}

/// Connects, sends `begin` and then nothing more.
async fn begun(scene: &Scene, number: usize, begin: &[u8]) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..number {
        if let Some(mut stream) = connect(scene).await {
            let wait = Duration::from_secs(1);
            let _ = timeout(wait, stream.write_all(begin)).await;
            all.push(stream);
        }
    }
    all
}

/// Connections on which nothing is sent.
pub async fn silent(scene: Scene, number: usize) {
    let all = begun(&scene, number, b"").await;
    scene.hold(all).await;
}

/// As [`silent`], with a new connection for each that the gateway ends.
pub async fn silent_again_and_again(scene: Scene, number: usize) {
    let mut lanes = JoinSet::new();
    for _ in 0..number {
        let scene = scene.clone();
        lanes.spawn(async move {
            loop {
                if let Some(mut stream) = connect(&scene).await {
                    scene.took_hold();
                    let _ = stream.read(&mut [0; 1024]).await;
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
    while lanes.join_next().await.is_some() {}
}

/// Connections that end as soon as they are there: more than a thousand a second, and fewer than fill the kernel's queue of a gateway
/// that is built for tests, in which no place could be kept for b.
pub async fn opened_and_closed(scene: Scene, lanes: usize) {
    let mut all = JoinSet::new();
    for _ in 0..lanes {
        let scene = scene.clone();
        all.spawn(async move {
            loop {
                if let Some(stream) = connect(&scene).await {
                    // With a reset, so that the ports can be used again at once.
                    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                }
                scene.took_hold();
                sleep(Duration::from_millis(5)).await;
            }
        });
    }
    while all.join_next().await.is_some() {}
}

/// Heads without an end, of almost the greatest length.
pub async fn unfinished_heads(scene: Scene, number: usize, length: usize) {
    let filler = |length: usize| "a".repeat(length);
    let begin = match scene.protocol {
        Protocol::Http1 => {
            let head = "GET /works.get HTTP/1.1\r\nHost: api.devrev.ai\r\nFiller: ";
            format!("{head}{}", filler(length)).into_bytes()
        }
        Protocol::Http2 => {
            let fields = [("filler".to_owned(), filler(length))];
            let mut bytes = floods::preface();
            let block = floods::fields("/works.get", None, &fields);
            let mut parts = block.chunks(16 * 1024);
            let first = parts.next().expect("a part");
            bytes.extend(Frame::headers(1, first).unended().bytes());
            for part in parts {
                bytes.extend(Frame::continuation(1, part).unended().bytes());
            }
            bytes
        }
    };
    let all = begun(&scene, number, &begin).await;
    scene.hold(all).await;
}

/// Refused calls whose answers find no window.
pub async fn without_a_window(scene: Scene, number: usize) {
    let mut callers = Vec::new();
    let head = Head::get("/works.get?id=TKT-1", None);
    for _ in 0..number {
        let mut caller = Caller::new(&scene, Reading::Nothing);
        let sent = timeout(Duration::from_secs(1), caller.send(&head)).await;
        callers.push((caller, sent));
    }
    scene.hold(callers).await;
}

/// Requests without end on connections from which nothing is ever read.
pub async fn never_read(scene: Scene, connections: usize, credential: Option<&'static str>) {
    let head = Head::get("/works.list", credential);
    let mut lanes = JoinSet::new();
    for _ in 0..connections {
        let (scene, head) = (scene.clone(), head.clone());
        lanes.spawn(async move {
            let Some(mut stream) = connect(&scene).await else {
                return;
            };
            let mut next = 1;
            if scene.protocol == Protocol::Http2 {
                let _ = stream.write_all(&floods::preface()).await;
            }
            for _ in 0..10_000 {
                let bytes = match scene.protocol {
                    Protocol::Http1 => head.http1(),
                    Protocol::Http2 => {
                        let block = floods::fields(&head.target, credential, &[]);
                        Frame::headers(next, &block).ends_stream().bytes()
                    }
                };
                next += 2;
                if stream.write_all(&bytes).await.is_err() {
                    break;
                }
                scene.took_hold();
            }
            std::future::pending::<()>().await;
            drop(stream);
        });
    }
    while lanes.join_next().await.is_some() {}
}
