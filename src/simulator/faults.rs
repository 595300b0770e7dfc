//! An answer's body, intact or with a fault.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::header;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};

use super::answers::{Answer, Content};
use super::plan::Fault;
use super::wire::{BEFORE_RESET, CloseMode, RawEnding};

use crate::wall_clock;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

const EVENT_PAUSE: Duration = Duration::from_millis(10);
static BLOCK: [u8; 16 * 1024] = [b'x'; 16 * 1024];

/// The body without a fault.
pub(super) fn intact(content: Content) -> Body {
    match content {
        Content::Whole(bytes) => Full::new(bytes)
            .map_err(|never| match never {})
            .boxed_unsync(),
        Content::Events(events) => paced(events.into_iter(), EVENT_PAUSE),
        Content::Blob(bytes) => streamed(stream::unfold(bytes, |left| async move {
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK.len());
            (take > 0).then(|| (Ok(Bytes::from_static(&BLOCK[..take])), left - take as u64))
        })),
    }
}

/// The body in pieces of `size` bytes.
pub(super) fn dripped(content: &Content, size: usize, pause: Duration) -> Body {
    let mut whole = sample(content);
    let size = size.max(1);
    let pieces = std::iter::from_fn(move || {
        (!whole.is_empty()).then(|| whole.split_to(size.min(whole.len())))
    });
    paced(pieces, pause)
}

/// Half the body, then an error: the HTTP/2 form of a broken connection.
pub(super) fn halved(content: &Content) -> Body {
    let whole = sample(content);
    let half = whole.slice(..whole.len() / 2);
    streamed(stream::unfold(Some(half), |half| async move {
        match half {
            Some(half) if !half.is_empty() => Some((Ok(half), Some(Bytes::new()))),
            Some(_) => {
                // A stream's reset overtakes queued frames, even the head.
                tokio::time::sleep(BEFORE_RESET).await;
                Some((Err(io::ErrorKind::ConnectionReset.into()), None))
            }
            None => None,
        }
    }))
}

/// The bytes of a fault that hyper cannot produce, for an HTTP/1.1 connection. `None` for the others.
pub(super) fn raw_ending(fault: &Fault, answer: &Answer) -> Option<RawEnding> {
    let body = sample(&answer.content);
    let half = &body[..body.len() / 2];
    let cut_short = || {
        // At least 1, so that an empty body can be cut short as well.
        let announced = body.len().max(1).to_string();
        [&head(answer, &[("content-length", &announced)]), half].concat()
    };
    let (bytes, end) = match fault {
        Fault::Reset => (Vec::new(), CloseMode::Reset),
        Fault::Close => (Vec::new(), CloseMode::Close),
        Fault::ResetMidBody => (cut_short(), CloseMode::Reset),
        Fault::Truncate => (cut_short(), CloseMode::Close),
        Fault::CloseAfter => {
            let length = body.len().to_string();
            let head = head(answer, &[("content-length", &length)]);
            ([&head[..], &body].concat(), CloseMode::Close)
        }
        Fault::BothLengths => {
            let length = body.len().to_string();
            let lengths = [("content-length", &*length), ("transfer-encoding", "chunked")];
            let size = format!("{:x}\r\n", body.len());
            let head = head(answer, &lengths);
            let parts: [&[u8]; 4] = [&head, size.as_bytes(), &body, b"\r\n0\r\n\r\n"];
            // A chunk of size 0 ends the body, so an empty body has no other chunk.
            let bytes = if body.is_empty() {
                [&head[..], b"0\r\n\r\n"].concat()
            } else {
                parts.concat()
            };
            (bytes, CloseMode::Close)
        }
        Fault::Garbage => (b"\x15\x03\x01\x00\x02\x02\x46 this is not HTTP\r\n\r\n".to_vec(), CloseMode::Close),
        Fault::Unasked101 => (
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_vec(),
            CloseMode::Close,
        ),
        _ => return None,
    };
    Some(RawEnding {
        bytes: bytes.into(),
        end,
    })
}

fn head(answer: &Answer, framing: &[(&str, &str)]) -> Vec<u8> {
    let date = httpdate::fmt_http_date(wall_clock::now());
    let mut out = format!("HTTP/1.1 {}\r\ndate: {date}\r\n", answer.status).into_bytes();
    let mut line = |name: &str, value: &[u8]| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    };
    for (name, value) in &answer.headers {
        if name != header::CONTENT_LENGTH {
            line(name.as_str(), value.as_bytes());
        }
    }
    for (name, value) in framing {
        line(name, value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// The body in one piece. A blob is cut to one block.
fn sample(content: &Content) -> Bytes {
    match content {
        Content::Whole(bytes) => bytes.clone(),
        Content::Events(events) => events.concat().into(),
        Content::Blob(bytes) => {
            let size = usize::try_from(*bytes).unwrap_or(usize::MAX);
            Bytes::from_static(&BLOCK[..size.min(BLOCK.len())])
        }
    }
}

fn paced(pieces: impl Iterator<Item = Bytes> + Send + 'static, pause: Duration) -> Body {
    streamed(stream::unfold(
        (pieces, true),
        move |(mut pieces, first)| async move {
            let piece = pieces.next()?;
            if !first {
                tokio::time::sleep(pause).await;
            }
            Some((Ok(piece), (pieces, false)))
        },
    ))
}

fn streamed(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    use futures_util::StreamExt;
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}
