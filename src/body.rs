//! The body type of the whole stack, and guards that live until a body ends.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
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
    Empty,
    Full(Option<Bytes>),
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
        first: Option<Bytes>,
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
        Source::Empty.into()
    }

    pub fn full(bytes: Bytes) -> Self {
        Source::Full((!bytes.is_empty()).then_some(bytes)).into()
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
        let first = (!first.is_empty()).then_some(first);
        Source::Prefixed {
            first,
            last,
            rest: Box::new(rest),
        }
        .into()
    }

    /// Whether the whole body is in memory, so that keeping it holds no connection.
    pub fn is_read(&self) -> bool {
        matches!(self.source, Source::Empty | Source::Full(_))
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
    use http_body_util::BodyExt;
    let mut first: Option<Bytes> = None;
    let mut more = bytes::BytesMut::new();
    loop {
        let size = if more.is_empty() {
            first.as_ref().map_or(0, Bytes::len)
        } else {
            more.len()
        };
        if size > limit {
            return Ok(ReadAhead {
                bytes: join(first, more),
                complete: false,
            });
        }
        match body.frame().await {
            None => {
                return Ok(ReadAhead {
                    bytes: join(first, more),
                    complete: true,
                });
            }
            Some(frame) => {
                // Drops trailers of a body that is read ahead: they are rare.
                let Ok(data) = frame?.into_data() else {
                    continue;
                };
                match &first {
                    None => first = Some(data),
                    Some(one) => {
                        if more.is_empty() {
                            more.extend_from_slice(one);
                        }
                        more.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

fn join(first: Option<Bytes>, more: bytes::BytesMut) -> Bytes {
    if more.is_empty() {
        first.unwrap_or_default()
    } else {
        more.freeze()
    }
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
        match &frame {
            None => this.guards.iter_mut().for_each(|guard| guard.finished()),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.guards
                        .iter_mut()
                        .for_each(|guard| guard.data(data.len()));
                    // hyper does not poll again if it knows the end from Content-Length.
                    if this.source.is_end() {
                        this.guards.iter_mut().for_each(|guard| guard.finished());
                    }
                } else {
                    this.guards.iter_mut().for_each(|guard| guard.finished());
                }
            }
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Source::Incoming(body) | Source::Inbound { inner: body, .. } => body.size_hint(),
            Source::Prefixed { first, rest, .. } => {
                let first = first.as_ref().map_or(0, |b| b.len() as u64);
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
            Source::Empty => Poll::Ready(None),
            Source::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Source::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Source::Inbound { inner, left, fault } => {
                let frame = ready!(Pin::new(inner).poll_frame(cx));
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
                    }
                    None => {}
                }
                Poll::Ready(frame.map(|f| f.map_err(Into::into)))
            }
            Source::Prefixed { first, last, rest } => match first.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => match last.take() {
                    Some(last) => Poll::Ready(Some(last)),
                    None => Pin::new(&mut **rest).poll_frame(cx),
                },
            },
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Source::Empty => true,
            Source::Full(bytes) => bytes.is_none(),
            Source::Incoming(body) | Source::Inbound { inner: body, .. } => body.is_end_stream(),
            Source::Prefixed { first, last, rest } => {
                first.is_none() && last.is_none() && rest.is_end_stream()
            }
        }
    }
}
