//! What is known of a caller's body while it is read.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

/// The caller's fault in a request's body, if any, and how much of the body was read. Layers need it to tell the caller's faults from
/// DevRev's: hyper reports both as an error of the upstream call.
#[derive(Clone, Debug, Default)]
pub struct InboundFault(Arc<Inbound>);

#[derive(Debug)]
struct Inbound {
    mark: AtomicU8,
    bytes: AtomicU64,
    begun: Instant,
    /// When the latest bytes came, in milliseconds since the beginning.
    latest: AtomicU64,
    /// Somebody waits for more of the body.
    awaited: AtomicBool,
    /// It was read to its end.
    ended: AtomicBool,
}

impl Default for Inbound {
    fn default() -> Self {
        Inbound {
            mark: AtomicU8::default(),
            bytes: AtomicU64::default(),
            begun: Instant::now(),
            latest: AtomicU64::default(),
            awaited: AtomicBool::default(),
            ended: AtomicBool::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The body was malformed or incomplete.
    Broken,
    /// The body exceeds the limit.
    TooLarge,
    /// The body made no progress.
    TooSlow,
    /// The body has not begun, because the caller waits for a 100 that it cannot get.
    Expects,
}

impl InboundFault {
    pub fn get(&self) -> Option<Fault> {
        match self.0.mark.load(Ordering::Acquire) {
            1 => Some(Fault::Broken),
            2 => Some(Fault::TooLarge),
            3 => Some(Fault::TooSlow),
            4 => Some(Fault::Expects),
            _ => None,
        }
    }

    pub(super) fn set(&self, fault: Fault) {
        let mark = match fault {
            Fault::Broken => 1,
            Fault::TooLarge => 2,
            Fault::TooSlow => 3,
            Fault::Expects => 4,
        };
        self.0.mark.store(mark, Ordering::Release);
    }

    /// Bytes of the body that were read so far.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// When the latest bytes of it came; the request's arrival if none have.
    pub fn latest(&self) -> Instant {
        self.0.begun + Duration::from_millis(self.0.latest.load(Ordering::Relaxed))
    }

    /// Whether somebody waits for the caller to send more of it.
    pub fn is_awaited(&self) -> bool {
        self.0.awaited.load(Ordering::Relaxed)
    }

    /// Whether the body was read to its end, without a fault.
    pub fn ended(&self) -> bool {
        self.0.ended.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        self.0.ended.store(true, Ordering::Release);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        let latest = u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.latest.store(latest, Ordering::Relaxed);
    }

    pub(super) fn set_awaited(&self, awaited: bool) {
        self.0.awaited.store(awaited, Ordering::Relaxed);
    }
}

/// A caller's body as it comes from hyper.
pub(super) struct Received {
    /// `None` only while it is dropped.
    body: Option<Incoming>,
    /// Over HTTP/2 an answer to a body that is not read to its end is followed by a reset of the stream, for which some clients drop the answer.
    http2: bool,
}

/// Of a body that nobody wants, so much is read and forgotten: what the client may send before it learns of the answer.
const FORGOTTEN: usize = 64 * 1024;

/// It is on its way, so it comes soon or never.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(1);

impl Received {
    pub(super) fn new(body: Incoming, http2: bool) -> Received {
        Received {
            body: Some(body),
            http2,
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(mut body) = self.body.take()
            && self.http2
            && !body.is_end_stream()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(timeout(FORGOTTEN_WITHIN, async move {
                let mut read = 0;
                while read < FORGOTTEN
                    && let Some(Ok(frame)) = body.frame().await
                {
                    read += frame.data_ref().map_or(0, Bytes::len);
                }
            }));
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::new, Body::size_hint)
    }
}
