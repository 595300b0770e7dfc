//! The body type of the whole stack, and guards that live until a body ends.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tower::BoxError;

/// The caller's fault in a request's body, if any, and how much of the body was read. Layers need it to tell the caller's faults from
/// DevRev's: hyper reports both as an error of the upstream call.
#[derive(Clone, Debug, Default)]
pub struct InboundFault(Arc<Inbound>);

#[derive(Debug, Default)]
struct Inbound {
    mark: AtomicU8,
    bytes: AtomicU64,
    ended: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The body was malformed or incomplete.
    Broken,
    /// The body exceeds the limit.
    TooLarge,
}

impl InboundFault {
    pub fn get(&self) -> Option<Fault> {
        match self.0.mark.load(Ordering::Acquire) {
            1 => Some(Fault::Broken),
            2 => Some(Fault::TooLarge),
            _ => None,
        }
    }

    fn set(&self, fault: Fault) {
        let mark = match fault {
            Fault::Broken => 1,
            Fault::TooLarge => 2,
        };
        self.0.mark.store(mark, Ordering::Release);
    }

    /// Bytes of the body that were read so far.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Whether the body was read to its end, without a fault.
    pub fn ended(&self) -> bool {
        self.0.ended.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.0.ended.store(true, Ordering::Release);
    }

    fn read(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The body of a request or an answer.
pub struct Body {
    source: Source,
    /// Dropped with the body: permits, counters, connections.
    guards: Vec<Box<dyn Guard>>,
}

enum Source {
    /// In memory; empty once it has been read.
    Full(Bytes),
    /// Read by hyper.
    Incoming(Incoming),
    /// A caller's body, with a limit, whose faults are recorded.
    Inbound {
        inner: Incoming,
        left: u64,
        fault: InboundFault,
    },
    /// A part that was read ahead, then the rest.
    Prefixed {
        first: Bytes,
        /// Trailers or an error that came while reading ahead.
        last: Option<Result<Frame<Bytes>, BoxError>>,
        rest: Box<Body>,
    },
}

/// A value that lives until the body ends or is dropped.
pub trait Guard: Send + 'static {
    /// Called when the body has ended without an error.
    fn finished(&mut self) {}
    /// Called for every chunk of data.
    fn data(&mut self, _bytes: usize) {}
}

impl Body {
    pub fn empty() -> Self {
        Body::full(Bytes::new())
    }

    pub fn full(bytes: Bytes) -> Self {
        Source::Full(bytes).into()
    }

    pub fn incoming(body: Incoming) -> Self {
        Source::Incoming(body).into()
    }

    /// A caller's body, of at most `limit` bytes.
    pub fn inbound(inner: Incoming, limit: u64, fault: InboundFault) -> Self {
        if inner.is_end_stream() {
            return Body::empty();
        }
        Source::Inbound {
            inner,
            left: limit,
            fault,
        }
        .into()
    }

    /// `first`, which was read already, then the rest.
    pub fn prefixed(first: Bytes, rest: Body) -> Self {
        Body::resumed(first, None, rest)
    }

    /// As `prefixed`, with trailers or an error that came after `first`.
    pub fn resumed(first: Bytes, last: Option<Result<Frame<Bytes>, BoxError>>, rest: Body) -> Self {
        Source::Prefixed {
            first,
            last,
            rest: Box::new(rest),
        }
        .into()
    }

    /// Whether the whole body is in memory, so that keeping it holds no connection.
    pub fn is_read(&self) -> bool {
        matches!(self.source, Source::Full(_))
    }

    #[must_use]
    pub fn guarded(mut self, guard: impl Guard) -> Self {
        self.guards.push(Box::new(guard));
        self
    }
}

impl From<Source> for Body {
    fn from(source: Source) -> Self {
        Body {
            source,
            guards: Vec::new(),
        }
    }
}

/// Reads up to `limit` bytes.
///
/// # Errors
/// The error of the body itself.
pub async fn read_up_to(body: &mut Body, limit: usize) -> Result<ReadAhead, BoxError> {
    let mut first = Bytes::new();
    // A body of one chunk is not copied.
    let mut joined = BytesMut::new();
    let complete = loop {
        if first.len().max(joined.len()) > limit {
            break false;
        }
        let Some(frame) = body.frame().await else {
            break true;
        };
        // Drops trailers of a body that is read ahead: they are rare.
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if first.is_empty() {
            first = data;
            continue;
        }
        if joined.is_empty() {
            joined.extend_from_slice(&first);
        }
        joined.extend_from_slice(&data);
    };
    let bytes = if joined.is_empty() {
        first
    } else {
        joined.freeze()
    };
    Ok(ReadAhead { bytes, complete })
}

/// The result of `read_up_to`.
pub struct ReadAhead {
    pub bytes: Bytes,
    /// False if the body exceeds the limit; the rest is still in it.
    pub complete: bool,
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = ready!(this.source.poll(cx));
        let data = match &frame {
            Some(Err(_)) => return Poll::Ready(frame),
            Some(Ok(frame)) => frame.data_ref(),
            None => None,
        };
        for guard in &mut this.guards {
            if let Some(data) = data {
                guard.data(data.len());
            }
            // hyper does not poll again if it knows the end from Content-Length.
            if data.is_none() || this.source.is_end() {
                guard.finished();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Incoming(body) | Source::Inbound { inner: body, .. } => body.size_hint(),
            Source::Prefixed { first, rest, .. } => {
                let first = first.len() as u64;
                let rest = rest.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(first + rest.lower());
                if let Some(upper) = rest.upper() {
                    hint.set_upper(first + upper);
                }
                hint
            }
        }
    }
}

impl Source {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Source::Full(bytes) => Poll::Ready(take(bytes).map(Ok)),
            Source::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Source::Inbound { inner, left, fault } => {
                let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
                match &frame {
                    Some(Err(_)) => fault.set(Fault::Broken),
                    Some(Ok(frame)) => {
                        let size = frame.data_ref().map_or(0, Bytes::len) as u64;
                        fault.read(size);
                        let Some(rest) = left.checked_sub(size) else {
                            fault.set(Fault::TooLarge);
                            return Poll::Ready(Some(Err(
                                "the request's body is over the limit".into()
                            )));
                        };
                        *left = rest;
                        // hyper does not poll again if it knows the end from Content-Length.
                        if inner.is_end_stream() {
                            fault.end();
                        }
                    }
                    None => fault.end(),
                }
                Poll::Ready(frame.map(|f| f.map_err(Into::into)))
            }
            Source::Prefixed { first, last, rest } => {
                match take(first).map(Ok).or_else(|| last.take()) {
                    Some(frame) => Poll::Ready(Some(frame)),
                    None => Pin::new(&mut **rest).poll_frame(cx),
                }
            }
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Source::Full(bytes) => bytes.is_empty(),
            Source::Incoming(body) | Source::Inbound { inner: body, .. } => body.is_end_stream(),
            Source::Prefixed { first, last, rest } => {
                first.is_empty() && last.is_none() && rest.is_end_stream()
            }
        }
    }
}

/// All of `bytes` as a frame, unless there are none.
fn take(bytes: &mut Bytes) -> Option<Frame<Bytes>> {
    let bytes = std::mem::take(bytes);
    (!bytes.is_empty()).then(|| Frame::data(bytes))
}
