//! The body type of the whole stack, and guards that live until a body ends.

mod inbound;
mod pace;
mod pump;
mod read;

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tower::BoxError;

pub use self::inbound::{Fault, InboundFault};
pub use self::read::{ReadAhead, Start, read_up_to};
use self::{inbound::Received, pace::Pace, pump::Pump};
use crate::policy::{progress::ProgressRules, trailers};

/// The body of a request or an answer.
pub struct Body {
    source: Source,
    /// Dropped with the body: permits, counters, connections.
    guards: Vec<Box<dyn Guard>>,
    /// It has broken off. The error waits until hyper has had an opportunity to write what came before, which it drops with the error.
    error: Option<BoxError>,
}

enum Source {
    /// In memory; empty once it has been read.
    Full(Bytes),
    /// An answer's body that a task reads into memory.
    Pumped(Pump),
    /// An answer's body.
    Answer { inner: Incoming, pace: Pace },
    /// A caller's body, with a limit, whose faults are recorded.
    Inbound {
        inner: Received,
        left: u64,
        pace: Pace,
        /// Instead of `pace`, while the caller may wait for a 100 that it does not get.
        expects: Option<Pace>,
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

/// The guards of a body that was taken apart.
pub struct Guards(#[allow(dead_code, reason = "held, not read")] Vec<Box<dyn Guard>>);

impl Guard for Guards {}

/// A value that lives until the body ends or is dropped.
pub trait Guard: Send + 'static {
    /// Called when the body has ended without an error.
    fn finished(&mut self) {}
    /// Called for every chunk of data.
    fn data(&mut self, _bytes: usize) {}
    /// Called when nobody will read the rest of the body, although the body is kept.
    fn given_up(&mut self) {}
}

impl Body {
    pub fn empty() -> Self {
        Body::full(Bytes::new())
    }

    pub fn full(bytes: Bytes) -> Self {
        Source::Full(bytes).into()
    }

    /// An answer's body, which ends with an error if DevRev stops sending it.
    pub fn answer(inner: Incoming, rules: ProgressRules) -> Self {
        Source::Answer {
            inner,
            pace: Pace::new(rules),
        }
        .into()
    }

    /// A caller's body, of at most `limit` bytes, which ends with an error if the caller stops sending it. `expects` means that the
    /// caller may wait for a 100 first.
    pub fn inbound(
        inner: Incoming,
        http2: bool,
        expects: bool,
        limit: u64,
        rules: ProgressRules,
        fault: InboundFault,
    ) -> Self {
        if inner.is_end_stream() {
            return Body::empty();
        }
        Source::Inbound {
            inner: Received::new(inner, http2),
            left: limit,
            pace: Pace::new(rules),
            // Over HTTP/1.1 hyper sends it as soon as somebody wants the body. Over HTTP/2 it cannot.
            expects: (http2 && expects).then(|| Pace::new(without_100(rules))),
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

    /// Of a small answer: read into memory at once, whoever reads it and when.
    #[must_use]
    pub fn pumped(self, size: u64) -> Body {
        Source::Pumped(Pump::start(self, size)).into()
    }

    /// Forgets the rest of the body, with its connection. What was read of it may still be in memory, so the guards that stand for that stay.
    pub fn give_up(&mut self) {
        self.source = Source::Full(Bytes::new());
        for guard in &mut self.guards {
            guard.given_up();
        }
    }

    /// Takes the bytes of a body that is wholly in memory, with what holds their memory; `None` if it is not.
    pub fn take_read(&mut self) -> Option<(Bytes, Guards)> {
        match &mut self.source {
            Source::Full(bytes) => Some((
                std::mem::take(bytes),
                Guards(std::mem::take(&mut self.guards)),
            )),
            _ => None,
        }
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
            error: None,
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(error) = this.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = match ready!(this.source.poll(cx)) {
            Some(Err(error)) => {
                this.error = Some(error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Ok(frame)) => Some(frame),
            None => None,
        };
        let data = frame.as_ref().and_then(Frame::data_ref);
        for guard in &mut this.guards {
            if let Some(data) = data {
                guard.data(data.len());
            }
            // hyper does not poll again if it knows the end from Content-Length.
            if data.is_none() || this.source.is_end() {
                guard.finished();
            }
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.error.is_none() && self.source.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Pumped(pump) => SizeHint::with_exact(pump.left()),
            Source::Answer { inner, .. } => inner.size_hint(),
            Source::Inbound { inner, .. } => inner.size_hint(),
            Source::Prefixed { first, last, rest } => {
                let first = first.len() as u64;
                let rest = rest.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(first + rest.lower());
                // What breaks off has no length: `Content-Length` has that of the whole.
                let breaks_off = matches!(last, Some(Err(_)));
                if let Some(upper) = rest.upper().filter(|_| !breaks_off) {
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
            Source::Pumped(pump) => pump.poll(cx),
            Source::Answer { inner, pace } => {
                let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) else {
                    ready!(pace.poll_stalled(cx));
                    return Poll::Ready(Some(Err("DevRev stopped sending its answer".into())));
                };
                pace.came(data_len(&frame));
                let frame = frame.map(|frame| frame.map_err(Into::into).map(without_forbidden));
                // Trailers of which nothing is left.
                let nothing =
                    |frame: &Frame<Bytes>| frame.trailers_ref().is_some_and(HeaderMap::is_empty);
                match frame {
                    Some(Ok(frame)) if nothing(&frame) => Poll::Ready(None),
                    frame => Poll::Ready(frame),
                }
            }
            Source::Inbound {
                inner,
                left,
                pace,
                expects,
                fault,
            } => {
                let Poll::Ready(frame) = Pin::new(&mut *inner).poll_frame(cx) else {
                    fault.set_awaited(true);
                    if let Some(pace) = expects {
                        ready!(pace.poll_stalled(cx));
                        fault.set(Fault::Expects);
                        return Poll::Ready(Some(Err("the caller waits for a 100".into())));
                    }
                    ready!(pace.poll_stalled(cx));
                    fault.set(Fault::TooSlow);
                    return Poll::Ready(Some(Err("the caller stopped sending its body".into())));
                };
                fault.set_awaited(false);
                *expects = None;
                pace.came(data_len(&frame));
                match &frame {
                    Some(Err(_)) => fault.set(Fault::Broken),
                    // They are not passed on, so that nothing comes behind what was checked, such as a second credential.
                    Some(Ok(frame)) if frame.is_trailers() => {
                        fault.end();
                        return Poll::Ready(None);
                    }
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
            Source::Pumped(pump) => pump.is_end(),
            Source::Answer { inner, .. } => inner.is_end_stream(),
            Source::Inbound { inner, .. } => inner.is_end_stream(),
            Source::Prefixed {
                first, last, rest, ..
            } => first.is_empty() && last.is_none() && rest.is_end_stream(),
        }
    }
}

/// How long a client may wait for a 100 that it does not get. Most send their body after a second without one.
const WITHOUT_100: Duration = Duration::from_secs(2);

fn without_100(rules: ProgressRules) -> ProgressRules {
    ProgressRules {
        stall: rules.stall.min(WITHOUT_100),
        ..rules
    }
}

/// Without the trailer fields that must not be passed on.
fn without_forbidden(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        trailers::strip(trailers);
    }
    frame
}

fn data_len<E>(frame: &Option<Result<Frame<Bytes>, E>>) -> usize {
    let data = frame
        .as_ref()
        .and_then(|frame| frame.as_ref().ok()?.data_ref());
    data.map_or(0, Bytes::len)
}

/// All of `bytes` as a frame, unless there are none.
fn take(bytes: &mut Bytes) -> Option<Frame<Bytes>> {
    let bytes = std::mem::take(bytes);
    (!bytes.is_empty()).then(|| Frame::data(bytes))
}
