//! Reads bodies into memory.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tower::BoxError;

use super::Body;

/// Chunks that become one. The first is not copied unless another follows.
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

    fn into_bytes(self) -> Bytes {
        match self.all.is_empty() {
            true => self.first,
            false => self.all.freeze(),
        }
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
        bytes: joined.into_bytes(),
        complete,
    })
}

/// The same body, read to its end or to its error. Its length must be known and small.
pub async fn read_whole(mut body: Body) -> Body {
    let (mut joined, mut last) = (Joined::default(), None);
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => joined.push(data),
            Ok(Err(trailers)) => last = Some(Ok(trailers)),
            Err(error) => {
                last = Some(Err(error));
                break;
            }
        }
    }
    let bytes = joined.into_bytes();
    match last {
        None => Body::full(bytes),
        last => Body::resumed(bytes, last, Body::empty()),
    }
}
