//! Reads bodies into memory.

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use http_body_util::BodyExt;
use tower::BoxError;

use super::Body;

/// A larger slice is at least half of the buffer it comes from.
const SMALL: usize = 16 * 1024;

/// Chunks that become one. The first is not copied unless another follows, or it is small.
#[derive(Default)]
struct Joined {
    first: Bytes,
    all: BytesMut,
}

impl Joined {
    fn len(&self) -> usize {
        self.first.len().max(self.all.len())
    }

    fn push(&mut self, data: Bytes) {
        if self.first.is_empty() {
            self.first = data;
            return;
        }
        if self.all.is_empty() {
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&data);
    }

    /// All of them.
    fn bytes(&mut self) -> Bytes {
        if !self.all.is_empty() {
            self.first = self.all.split().freeze();
        } else if self.first.len() < SMALL {
            // It is a slice of hyper's buffer, and would keep all of it in memory.
            self.first = Bytes::copy_from_slice(&self.first);
        }
        self.first.clone()
    }
}

/// The result of [`read_up_to`].
pub struct ReadAhead {
    pub bytes: Bytes,
    /// False if the body exceeds the limit; the rest is still in it.
    pub complete: bool,
}

/// Reads up to `limit` bytes, and the chunk that exceeds it. `may_keep` is asked before a chunk of so many bytes is kept.
///
/// # Errors
/// The error of the body itself, or one if a chunk may not be kept.
pub async fn read_up_to(
    body: &mut Body,
    limit: usize,
    mut may_keep: impl FnMut(usize) -> bool,
) -> Result<ReadAhead, BoxError> {
    let mut joined = Joined::default();
    let complete = loop {
        if joined.len() > limit {
            break false;
        }
        let Some(frame) = body.frame().await else {
            break true;
        };
        // Drops trailers of a body that is read ahead: they are rare.
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if !may_keep(data.len()) {
            return Err("there is no memory for the body".into());
        }
        joined.push(data);
    };
    Ok(ReadAhead {
        bytes: joined.bytes(),
        complete,
    })
}

/// The start of an answer's body, which is put back afterwards.
#[derive(Default)]
pub struct Start {
    joined: Joined,
    /// Trailers or an error that came.
    last: Option<Result<Frame<Bytes>, BoxError>>,
    ended: bool,
}

impl Start {
    /// Reads until the body has ended, or broken off, or there are `limit` bytes. If this is dropped before, what was read is kept.
    pub async fn take_in(&mut self, body: &mut Body, limit: usize) {
        while self.joined.len() < limit && self.last.is_none() && !self.ended {
            match body.frame().await.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.joined.push(data),
                // The caller gets the same trailers, or the same error.
                Some(Ok(Err(trailers))) => self.last = Some(Ok(trailers)),
                Some(Err(error)) => self.last = Some(Err(error)),
                None => self.ended = true,
            }
        }
    }

    /// What was read.
    pub fn bytes(&mut self) -> Bytes {
        self.joined.bytes()
    }

    /// The body as it came.
    pub fn put_back(mut self, rest: Body) -> Body {
        let bytes = self.bytes();
        if self.ended {
            return Body::full(bytes);
        }
        Body::resumed(bytes, self.last, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After it was taken in: whether the body still holds its connection, and its bytes.
    async fn taken(body: Body, limit: usize) -> (bool, Bytes) {
        let (mut start, mut body) = (Start::default(), body);
        start.take_in(&mut body, limit).await;
        let body = start.put_back(body);
        let held = !body.is_read();
        let bytes = body.collect().await.expect("a body").to_bytes();
        (held, bytes)
    }

    #[tokio::test]
    async fn a_small_answer_holds_no_connection_and_no_byte_is_lost() {
        const LIMIT: usize = 1000;
        for (size, held) in [(0, false), (300, false), (LIMIT + 1, true)] {
            let bytes = Bytes::from(vec![b'x'; size]);
            let rest = Bytes::from_static(b"rest");
            let body = Body::prefixed(bytes.clone(), Body::full(rest.clone()));
            let whole = Bytes::from([bytes, rest].concat());
            assert_eq!(taken(body, LIMIT).await, (held, whole), "{size}");
        }
    }
}
