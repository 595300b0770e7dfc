//! Follows a connection's input on its way to hyper: where heads begin and end, what is wrong with HTTP/1.1, and how much memory an
//! incomplete head may cost. Keeps nothing of the input but a few bytes.

use crate::{
    allocation::FREE_HEAD,
    policy::http1::{Cut, Input},
};

/// The start of every HTTP/2 connection (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    /// Its first bytes show it.
    Either,
    Http1,
    Http2,
}

/// What the input has been so far.
pub(super) enum HeadReader {
    /// So many bytes of HTTP/2's preface. They could still be a request of HTTP/1.1.
    Undecided(usize),
    Http1(Input),
    /// So many bytes of HTTP/2's preface. h2 ends the connection if it is none.
    Preface(usize),
    Http2(Frames),
}

impl HeadReader {
    pub(super) fn new(speaks: Speaks) -> Self {
        match speaks {
            Speaks::Either => HeadReader::Undecided(0),
            Speaks::Http1 => HeadReader::Http1(Input::default()),
            Speaks::Http2 => HeadReader::Preface(0),
        }
    }

    /// Reads on.
    ///
    /// # Errors
    ///
    /// Where HTTP/1.1 went wrong.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Cut> {
        if let HeadReader::Undecided(matched) | HeadReader::Preface(matched) = *self {
            let rest = &PREFACE[matched..];
            let same = rest
                .iter()
                .zip(bytes)
                .take_while(|(want, got)| want == got)
                .count();
            let seen = matched + same;
            let may_be_http1 = matches!(self, HeadReader::Undecided(_));
            if seen == PREFACE.len() || (same < bytes.len() && !may_be_http1) {
                bytes = &bytes[same..];
                *self = HeadReader::Http2(Frames::default());
            } else if same == bytes.len() {
                *self = match may_be_http1 {
                    true => HeadReader::Undecided(seen),
                    false => HeadReader::Preface(seen),
                };
                return Ok(());
            } else {
                let mut input = Input::default();
                // hyper has these already.
                let earlier = input.read(&PREFACE[..matched]);
                *self = HeadReader::Http1(input);
                earlier.map_err(|cut| Cut { at: 0, ..cut })?;
            }
        }
        match self {
            HeadReader::Undecided(_) | HeadReader::Preface(_) => Ok(()),
            HeadReader::Http1(input) => input.read(bytes),
            HeadReader::Http2(frames) => {
                frames.read(bytes);
                Ok(())
            }
        }
    }

    /// How many header blocks of HTTP/2 have ended so far.
    pub(super) fn blocks(&self) -> usize {
        match self {
            HeadReader::Undecided(_) | HeadReader::Http1(_) | HeadReader::Preface(_) => 0,
            HeadReader::Http2(frames) => frames.blocks,
        }
    }

    /// How many heads of HTTP/1.1 have ended so far.
    pub(super) fn heads(&self) -> u64 {
        match self {
            HeadReader::Http1(input) => input.ended_heads(),
            HeadReader::Undecided(_) | HeadReader::Preface(_) | HeadReader::Http2(_) => 0,
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        matches!(self, HeadReader::Http2(_) | HeadReader::Preface(_))
    }

    /// Whether a head has begun and is not complete.
    pub(super) fn is_incomplete(&self) -> bool {
        match self {
            HeadReader::Undecided(bytes) | HeadReader::Preface(bytes) => *bytes > 0,
            HeadReader::Http1(input) => input.incomplete_head() > 0,
            HeadReader::Http2(frames) => frames.block.is_some(),
        }
    }

    /// Bytes of the head of HTTP/1.1 that is incomplete.
    pub(super) fn unfinished(&self) -> usize {
        match self {
            HeadReader::Http1(input) => input.incomplete_head(),
            HeadReader::Undecided(_) | HeadReader::Preface(_) | HeadReader::Http2(_) => 0,
        }
    }

    /// What the incomplete head may cost in bytes, beyond what every connection costs; a head of HTTP/2 that goes on in further frames
    /// costs up to `continued`, because hyper decodes it as it comes, and a byte can stand for a whole field.
    pub(super) fn cost(&self, continued: usize) -> usize {
        match self {
            // hyper's buffer doubles as it grows.
            HeadReader::Http1(input) => {
                let beyond = input.incomplete_head().saturating_sub(FREE_HEAD);
                beyond.saturating_mul(2)
            }
            HeadReader::Http2(Frames {
                block: Some(block), ..
            }) if block.continued => continued,
            HeadReader::Undecided(_) | HeadReader::Preface(_) | HeadReader::Http2(_) => 0,
        }
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// The frames of HTTP/2.
#[derive(Default)]
pub(super) struct Frames {
    /// The frame's own head, as far as it has come.
    head: [u8; 9],
    filled: usize,
    /// Bytes of the frame that are still to come.
    left: usize,
    /// Header blocks that have ended.
    blocks: usize,
    block: Option<Block>,
}

/// A header block that has begun.
struct Block {
    /// It does not end with its first frame.
    continued: bool,
    /// It ends with the present frame.
    last: bool,
}

impl Frames {
    /// Bytes of a body that come next.
    pub(super) fn body_left(&self) -> usize {
        match self.head[3] {
            DATA if self.filled == 0 => self.left,
            _ => 0,
        }
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = &bytes[skipped..];
            } else {
                let wanted = self.head.len() - self.filled;
                let taken = wanted.min(bytes.len());
                self.head[self.filled..][..taken].copy_from_slice(&bytes[..taken]);
                self.filled += taken;
                bytes = &bytes[taken..];
                if self.filled < self.head.len() {
                    return;
                }
                self.filled = 0;
                self.begin();
            }
            if self.left == 0 && self.block.as_ref().is_some_and(|block| block.last) {
                self.block = None;
                self.blocks += 1;
            }
        }
    }

    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.head;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let last = flags & END_HEADERS != 0;
        match (kind, &mut self.block) {
            (HEADERS, _) => {
                self.block = Some(Block {
                    continued: !last,
                    last,
                });
            }
            (CONTINUATION, Some(block)) => block.last = last,
            // h2 ends a connection on which anything else comes within a header block.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use bytes::Bytes;
    use http::{Request, Response, Uri};
    use http_body_util::{BodyExt, Empty};
    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Reads it in pieces of this size.
    fn read(bytes: &[u8], size: usize) -> HeadReader {
        let mut reader = HeadReader::new(Speaks::Either);
        for piece in bytes.chunks(size) {
            let _ = reader.read(piece);
        }
        reader
    }

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let length_bytes = (length as u32).to_be_bytes();
        let mut frame = length_bytes[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(std::iter::repeat_n(0x42, length));
        frame
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        for size in [1, 3, 1000] {
            for (text, incomplete) in [
                ("GET / HTTP/1.1\r\nHost: x\r\n", true),
                ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", false),
                ("\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n", true),
                ("P", true),
                ("PRI * HTTP/2.0\r\n", true),
                ("PRI * HTTP/1.1\r\n\r\n", false),
            ] {
                let reader = read(text.as_bytes(), size);
                assert_eq!(reader.is_incomplete(), incomplete, "{text:?}");
            }
        }
    }

    #[test]
    fn what_is_agreed_on_is_not_guessed() {
        let preface = PREFACE.as_slice();
        let mut http1 = HeadReader::new(Speaks::Http1);
        assert!(http1.read(preface).is_err() && !http1.is_http2());
        let mut http2 = HeadReader::new(Speaks::Http2);
        assert_eq!(http2.read(&preface[..10]), Ok(()));
        assert!(http2.is_incomplete() && http2.is_http2());
        assert_eq!(http2.read(&preface[10..]), Ok(()));
        assert!(!http2.is_incomplete());
        // Neither the preface nor, as hyper knows by then, a request.
        let mut either = HeadReader::new(Speaks::Either);
        assert_eq!(either.read(b"PRI * HTTP/2.0\r\n"), Ok(()));
        assert_eq!(
            either.read(b"Host: a\r\n\r\n").map_err(|cut| cut.at),
            Err(0)
        );
    }

    #[test]
    fn only_what_goes_beyond_the_first_buffer_costs_something() {
        let head = [&b"GET / HTTP/1.1\r\nA: "[..], &[b'a'; FREE_HEAD]].concat();
        assert_eq!(read(&head[..FREE_HEAD], 1000).cost(1), 0);
        assert_eq!(read(&head, 1000).cost(1), 2 * (head.len() - FREE_HEAD));
        let whole = [&head, &b"\r\n\r\n"[..]].concat();
        assert_eq!(read(&whole, 1000).cost(1), 0);
    }

    #[test]
    fn a_header_block_of_several_frames_costs_what_it_may_become() {
        let settings = frame(4, 0, 0);
        let whole = frame(HEADERS, END_HEADERS, 10);
        let (first, more, last) = (
            frame(HEADERS, 0, 10),
            frame(CONTINUATION, 0, 7),
            frame(CONTINUATION, END_HEADERS, 7),
        );
        for size in [1, 5, 1000] {
            for (frames, incomplete, cost) in [
                (vec![&settings], false, 0),
                (vec![&settings, &whole], false, 0),
                (vec![&first], true, 9),
                (vec![&whole, &first, &more], true, 9),
                (vec![&first, &more, &last], false, 0),
                (vec![&first, &more, &last, &whole], false, 0),
            ] {
                let mut bytes = PREFACE.to_vec();
                frames.into_iter().for_each(|frame| bytes.extend(frame));
                let reader = read(&bytes, size);
                assert_eq!((reader.is_incomplete(), reader.cost(9)), (incomplete, cost));
            }
            // Not decoded before the frame is complete.
            let bytes = [&PREFACE[..], &whole[..12]].concat();
            let reader = read(&bytes, size);
            assert_eq!((reader.is_incomplete(), reader.cost(9)), (true, 0));
        }
    }

    #[test]
    fn what_is_left_of_a_body_is_known() {
        let bytes = [
            &PREFACE[..],
            &frame(HEADERS, END_HEADERS, 10),
            &frame(DATA, 0, 10),
        ]
        .concat();
        for (cut, left, blocks) in [(0, 0, 1), (4, 4, 1), (10, 10, 1), (12, 0, 1), (20, 0, 0)] {
            let HeadReader::Http2(frames) = read(&bytes[..bytes.len() - cut], 7) else {
                panic!("HTTP/2");
            };
            assert_eq!((frames.body_left(), frames.blocks), (left, blocks), "{cut}");
        }
    }

    proptest! {
        /// How the input is cut makes no difference.
        #[test]
        fn pieces_add_up(bytes in prop::collection::vec(any::<u8>(), 0..300), http2: bool, size in 1..50usize) {
            let start: &[u8] = if http2 { PREFACE } else { b"" };
            let bytes = [start, &bytes].concat();
            let (whole, pieces) = (read(&bytes, 1000), read(&bytes, size));
            if http2 {
                prop_assert!(pieces.is_http2());
                prop_assert_eq!(whole.is_incomplete(), pieces.is_incomplete());
            }
        }
    }

    /// The request line of each head that is complete, one byte after the other.
    fn heads(bytes: &[u8]) -> (Vec<String>, Option<Cut>) {
        let (mut input, mut begun, mut heads) = (Input::default(), 0, Vec::new());
        for at in 0..bytes.len() {
            let before = input.incomplete_head();
            if let Err(cut) = input.read(&bytes[at..=at]) {
                return (
                    heads,
                    Some(Cut {
                        at: at + cut.at,
                        ..cut
                    }),
                );
            }
            match (before, input.incomplete_head()) {
                (0, 1) => begun = at,
                (1.., 0) => {
                    let head = bytes[begun..at].trim_ascii_start();
                    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
                    heads.push(String::from_utf8(line.to_vec()).expect("ASCII"));
                }
                _ => {}
            }
        }
        (heads, None)
    }

    /// Those that hyper serves, whose buffer it reads in pieces of this size.
    fn served(bytes: &[u8], size: usize) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().expect("a runtime");
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(size);
            let served = Arc::new(Mutex::new(Vec::new()));
            let seen = served.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let seen = seen.clone();
                async move {
                    let line = format!("{} {}", request.method(), request.uri());
                    seen.lock().unwrap().push(line);
                    let _ = request.into_body().collect().await;
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            let server = server
                .half_close(true)
                .serve_connection(TokioIo::new(near), service);
            let (mut answers, mut requests) = tokio::io::split(far);
            let mut sink = tokio::io::sink();
            let (_, _, _) = tokio::join!(
                server,
                async {
                    let _ = requests.write_all(bytes).await;
                    let _ = requests.shutdown().await;
                },
                tokio::io::copy(&mut answers, &mut sink),
            );
            let served = served.lock().unwrap();
            served.clone()
        })
    }

    const PARTS: &[&str] = &[
        "GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /b HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /",
        "POST /c HTTP/1.1\r\nContent-Length: 3\r\ncontent-length: 3\r\nA:b\r\n\r\nabc",
        "POST /d HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST /e HTTP/1.1\r\nTransfer-Encoding:chunked\r\n\r\n01 ; a=\"b\"\r\na\r\nA;x\r\n0123456789\r\n0\r\nA: b\r\n\r\n",
        "\r\n\r\nPUT http://a/f?g HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        "DELETE /g HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /h HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 5\r\n\r\n",
        "Transfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
        "\r\n",
        "\n",
        "\r",
        " ",
        ";",
        ":",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        /// hyper serves the requests that are followed, and no others.
        #[test]
        fn hyper_sees_the_same_requests(
            parts in prop::collection::vec(prop::sample::select(PARTS), 1..6),
            changed in prop::option::weighted(0.7, (any::<prop::sample::Index>(), prop::option::of(prop::sample::select(&b"\r\n \t:;\0a05,\xff"[..])))),
            size in 1..200usize,
        ) {
            let mut bytes = parts.concat().into_bytes();
            if let Some((at, byte)) = changed {
                let at = at.index(bytes.len());
                bytes.splice(at..=at, byte);
            }
            bytes.extend(b"GET /last HTTP/1.1\r\n\r\n");
            let (heads, cut) = heads(&bytes);
            if let Some(cut) = cut {
                bytes.truncate(cut.at);
                // As `refusal` does.
                bytes.extend_from_slice(if cut.in_body { b"" } else { super::super::refusal::NO_HEAD });
            }
            let mut want = Vec::new();
            for head in &heads {
                let line: Vec<_> = head.split(' ').collect();
                // hyper refuses a target that is no URI, and closes.
                let Ok(uri) = line[1].parse::<Uri>() else { break };
                want.push(format!("{} {uri}", line[0]));
                if line[2].starts_with("HTTP/1.0") {
                    break;
                }
            }
            prop_assert_eq!(served(&bytes, size), want, "{}", String::from_utf8_lossy(&bytes));
        }
    }
}
