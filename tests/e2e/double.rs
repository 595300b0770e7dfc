//! A double of DevRev that misbehaves on the wire in ways that no library does: over HTTP/2 it writes its frames by hand.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, watch},
};

/// Listens, and runs a script for each connection.
pub struct Double {
    pub address: SocketAddr,
    opened: watch::Receiver<usize>,
    ended: watch::Receiver<usize>,
    requests: Arc<AtomicUsize>,
}

/// For the scripts: counts the requests of all connections.
pub type Requests = Arc<AtomicUsize>;

impl Double {
    /// `script` gets each connection with its number, from 0.
    pub async fn start<F>(
        script: impl Fn(usize, TcpStream, Requests) -> F + Send + 'static,
    ) -> Double
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (opening, opened) = watch::channel(0);
        let (ending, ended) = watch::channel(0);
        let requests = Requests::default();
        let counted = requests.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                opening.send_modify(|opened| *opened += 1);
                let (run, ending) = (script(number, stream, counted.clone()), ending.clone());
                tokio::spawn(async move {
                    run.await;
                    ending.send_modify(|ended| *ended += 1);
                });
            }
        });
        Double {
            address,
            opened,
            ended,
            requests,
        }
    }

    pub fn opened(&self) -> usize {
        *self.opened.borrow()
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Waits until so many scripts have ended.
    pub async fn ended(&self, count: usize) {
        let mut ended = self.ended.clone();
        let wait = ended.wait_for(|ended| *ended >= count);
        let wait = tokio::time::timeout(crate::http::TIMEOUT, wait).await;
        assert!(
            wait.is_ok_and(|ended| ended.is_ok()),
            "{count} have not ended"
        );
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const REFUSED_STREAM: u32 = 7;

/// DevRev's end of a connection of HTTP/2.
pub struct Peer {
    read: OwnedReadHalf,
    pub write: Writer,
}

#[derive(Clone)]
pub struct Writer(Arc<Mutex<OwnedWriteHalf>>);

impl Peer {
    /// Reads the preface and sends SETTINGS.
    pub async fn accept(stream: TcpStream, settings: &[(u16, u32)]) -> Peer {
        let peer = Peer::silent(stream).await;
        peer.write.settings(settings).await;
        peer
    }

    /// Reads the preface and sends nothing.
    pub async fn silent(stream: TcpStream) -> Peer {
        let (mut read, write) = stream.into_split();
        let mut preface = [0; 24];
        let _ = read.read_exact(&mut preface).await;
        Peer {
            read,
            write: Writer(Arc::new(Mutex::new(write))),
        }
    }

    /// The stream of the next request; `None` when the client has closed the connection. Answers what the protocol wants answered.
    pub async fn request(&mut self) -> Option<u32> {
        loop {
            let (kind, flags, stream, payload) = self.frame().await?;
            match kind {
                HEADERS => return Some(stream),
                SETTINGS if flags & ACK == 0 => drop(self.write.frame(SETTINGS, ACK, 0, &[]).await),
                PING if flags & ACK == 0 => {
                    self.write.frame(PING, ACK, 0, &payload).await;
                }
                _ => {}
            }
        }
    }

    async fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.read.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.read.read_exact(&mut payload).await.ok()?;
        Some((kind, flags, u32::from_be_bytes(stream), payload))
    }
}

impl Writer {
    /// False once the client has gone.
    async fn frame(&self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.0.lock().await.write_all(&bytes).await.is_ok()
    }

    /// 103 without fields.
    pub async fn interim(&self, stream: u32) -> bool {
        // :status, of the static table, with another value.
        self.frame(HEADERS, END_HEADERS, stream, b"\x08\x03103")
            .await
    }

    pub async fn settings(&self, settings: &[(u16, u32)]) {
        let each = settings.iter();
        let payload: Vec<u8> = each
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        self.frame(SETTINGS, 0, 0, &payload).await;
    }

    /// 200 without a body.
    pub async fn answer(&self, stream: u32) {
        self.head(stream, &[], true).await;
    }

    /// A head with status 200 and these fields, in as many frames as it needs.
    pub async fn head(&self, stream: u32, fields: &[(String, String)], ends: bool) {
        // :status 200, of the static table.
        let mut block = vec![0x88];
        for (name, value) in fields {
            // Literal, never indexed, with a new name.
            block.push(0x10);
            for text in [name, value] {
                integer(&mut block, text.len());
                block.extend(text.as_bytes());
            }
        }
        let mut pieces = block.chunks(16_384).peekable();
        let mut kind = HEADERS;
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() {
                END_HEADERS
            } else {
                0
            };
            let end = if ends && kind == HEADERS {
                END_STREAM
            } else {
                0
            };
            self.frame(kind, last | end, stream, piece).await;
            kind = CONTINUATION;
        }
    }

    pub async fn data(&self, stream: u32, bytes: &[u8], ends: bool) {
        self.frame(DATA, u8::from(ends), stream, bytes).await;
    }

    pub async fn reset(&self, stream: u32, code: u32) {
        self.frame(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    /// Without an error. Streams above `last` were not processed.
    pub async fn go_away(&self, last: u32) {
        let payload = [last.to_be_bytes(), [0; 4]].concat();
        self.frame(GOAWAY, 0, 0, &payload).await;
    }
}

/// An integer of HPACK with a prefix of seven bits.
fn integer(out: &mut Vec<u8>, value: usize) {
    let Some(mut rest) = value.checked_sub(127) else {
        return out.push(u8::try_from(value).expect("below 127"));
    };
    out.push(127);
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).expect("below 128") | 0x80);
        rest /= 128;
    }
    out.push(u8::try_from(rest).expect("below 128"));
}

/// DevRev's end of a connection of HTTP/1.1. Its requests have no body.
pub struct Http1(pub TcpStream, Vec<u8>);

impl Http1 {
    pub fn accept(stream: TcpStream) -> Http1 {
        Http1(stream, Vec::new())
    }

    /// Reads a head; `None` when the client has closed the connection.
    pub async fn request(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.1.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.1.drain(..end + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            let mut chunk = [0; 4096];
            let read = self.0.read(&mut chunk).await.unwrap_or(0);
            if read == 0 {
                return None;
            }
            self.1.extend(&chunk[..read]);
        }
    }

    /// 103; false once the client has gone.
    pub async fn interim(&mut self) -> bool {
        let interim = b"HTTP/1.1 103 Early Hints\r\n\r\n";
        self.0.write_all(interim).await.is_ok()
    }

    /// 200 with these fields and no body.
    pub async fn answer(&mut self, fields: &[(String, String)]) {
        let mut text = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n".to_owned();
        for (name, value) in fields {
            text += &format!("{name}: {value}\r\n");
        }
        let _ = self.0.write_all(format!("{text}\r\n").as_bytes()).await;
    }
}
