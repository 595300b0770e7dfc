//! How much a connection may send us before we have understood it.
//!
//! The parser collects an answer in memory until it is whole, however long the server says it is. The meter ends such a connection.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::fleet::register::MAX_VALUE;

/// An answer: a value, and what is around it.
const OF_A_CALL: usize = MAX_VALUE + 4096;

/// For what no call waits for any more: the answers to those that timed out until the connection is given up, and hints.
const BESIDE: usize = 4 * OF_A_CALL;

/// What may still come. Shared by the stream and those that call over it.
#[derive(Debug, Default)]
pub(super) struct Meter {
    calls: AtomicUsize,
    left: AtomicUsize,
}

impl Meter {
    pub(super) fn new() -> Arc<Meter> {
        let meter = Meter::default();
        meter.refill();
        Arc::new(meter)
    }

    /// Something was understood.
    pub(super) fn refill(&self) {
        let calls = self.calls.load(Relaxed);
        self.left.store(BESIDE + calls * OF_A_CALL, Relaxed);
    }

    /// A call that waits for its answer until this is dropped.
    pub(super) fn call(self: &Arc<Meter>) -> Waiting {
        self.calls.fetch_add(1, Relaxed);
        self.refill();
        Waiting(self.clone())
    }
}

pub(super) struct Waiting(Arc<Meter>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Relaxed);
        self.0.refill();
    }
}

pin_project! {
    /// A stream that fails when more comes than may.
    pub(super) struct Metered<S> {
        #[pin]
        stream: S,
        meter: Arc<Meter>,
    }
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S, meter: Arc<Meter>) -> Metered<S> {
        Metered { stream, meter }
    }
}

impl<S: AsyncRead> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buf.filled().len();
        ready!(this.stream.poll_read(cx, buf))?;
        let came = buf.filled().len() - before;
        let left = this.meter.left.load(Relaxed);
        match left.checked_sub(came) {
            Some(left) => this.meter.left.store(left, Relaxed),
            None => return Poll::Ready(Err(io::Error::other("it sent more than any answer has"))),
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite> AsyncWrite for Metered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, repeat};

    use super::*;

    async fn taken(stream: &mut Metered<tokio::io::Repeat>, size: usize) -> bool {
        stream.read_exact(&mut vec![0; size]).await.is_ok()
    }

    #[tokio::test]
    async fn what_is_understood_makes_room() {
        let meter = Meter::new();
        let mut stream = Metered::new(repeat(b'x'), meter.clone());
        assert!(taken(&mut stream, BESIDE).await);
        let waiting = meter.call();
        assert!(taken(&mut stream, BESIDE + OF_A_CALL).await);
        drop(waiting);
        assert!(taken(&mut stream, BESIDE).await);
        assert!(!taken(&mut stream, 1).await);
    }
}
