//! Stands between the socket and hyper on a connection, and notes what the pool must know of it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::Instant,
};

use super::frames::{Frames, Said};
use crate::{body::Body, lock::Lock, policy::upstream::MAX_STREAMS};

/// What is known of a connection of HTTP/2.
pub(super) struct Wire {
    known: Lock<Known>,
    changed: Notify,
    end: Lock<End>,
}

/// How a connection ends on which there are requests that DevRev does not read: hyper would wait for them for ever.
#[derive(Default)]
struct End {
    stalled: bool,
    cut: bool,
    reader: Option<Waker>,
}

#[derive(Clone, Copy)]
pub(super) struct Known {
    /// When the last byte came.
    pub heard: Instant,
    /// The streams that DevRev allows at once; `None` before its first SETTINGS.
    pub streams: Option<usize>,
    /// It takes no more.
    pub going_away: bool,
}

impl Wire {
    pub(super) fn new() -> Arc<Wire> {
        Arc::new(Wire {
            known: Lock::new(Known {
                heard: Instant::now(),
                streams: None,
                going_away: false,
            }),
            changed: Notify::new(),
            end: Lock::new(End::default()),
        })
    }

    pub(super) fn known(&self) -> Known {
        *self.known.lock()
    }

    /// DevRev reads nothing more of a request that it has answered.
    pub(super) fn set_stalled(&self) {
        self.end.lock().stalled = true;
    }

    /// There is no exchange any more, and there will be none.
    pub(super) fn end(&self) {
        let reader = {
            let mut end = self.end.lock();
            end.cut = end.stalled;
            end.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn is_cut(&self, cx: &Context<'_>) -> bool {
        let mut end = self.end.lock();
        if !end
            .reader
            .as_ref()
            .is_some_and(|reader| reader.will_wake(cx.waker()))
        {
            end.reader = Some(cx.waker().clone());
        }
        end.cut
    }

    /// Waits for SETTINGS or a GOAWAY. One at a time may wait.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Interim answers (1xx) to one request of HTTP/1.1. hyper reads them without end, and nothing else on the worker gets its turn meanwhile.
#[derive(Clone, Default)]
pub(super) struct Interim(Arc<AtomicUsize>);

/// Far more than a server sends within the time of an attempt.
const MAX_INTERIM: usize = 100;

impl Interim {
    /// Counts those to this request from now on.
    pub(super) fn count(&self, request: &mut Request<Body>) {
        self.0.store(0, Ordering::Relaxed);
        let count = self.0.clone();
        hyper::ext::on_informational(request, move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
    }
}

/// Looks at what comes.
pub(super) trait Watch: Unpin {
    /// # Errors
    /// If the connection is to end.
    fn came(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Whether the connection is to end, whatever comes. Wakes whoever reads when that changes.
    fn is_cut(&self, _: &Context<'_>) -> bool {
        false
    }
}

impl Watch for Interim {
    /// hyper has counted what came before.
    fn came(&mut self, _: &[u8]) -> io::Result<()> {
        flood(self.0.load(Ordering::Relaxed) > MAX_INTERIM)
    }
}

impl Watch for (Frames, Arc<Wire>) {
    fn came(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (frames, wire) = self;
        let mut known = wire.known.lock();
        known.heard = Instant::now();
        frames.read(bytes, |said| {
            match said {
                Said::Settings(Some(streams)) => {
                    known.streams = Some(usize::try_from(streams).unwrap_or(usize::MAX));
                }
                // Without the setting there is no limit at first, and none of them changes what was said before.
                Said::Settings(None) => known.streams = known.streams.or(Some(MAX_STREAMS)),
                Said::GoAway => known.going_away = true,
            }
            wire.changed.notify_one();
        });
        flood(frames.is_flood())
    }

    fn is_cut(&self, cx: &Context<'_>) -> bool {
        self.1.is_cut(cx)
    }
}

fn flood(is_flood: bool) -> io::Result<()> {
    match is_flood {
        true => Err(io::Error::other("interim answers without end")),
        false => Ok(()),
    }
}

/// A stream whose input is looked at.
pub(super) struct Watched<S, W> {
    inner: S,
    watch: W,
}

impl<S, W> Watched<S, W> {
    pub(super) fn new(inner: S, watch: W) -> Self {
        Watched { inner, watch }
    }
}

impl<S: AsyncRead + Unpin, W: Watch> AsyncRead for Watched<S, W> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.watch.is_cut(cx) {
            let why = "requests that were answered are not read";
            return Poll::Ready(Err(io::Error::other(why)));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
        let read = &buffer.filled()[before..];
        if !read.is_empty() {
            this.watch.came(read)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, W: Unpin> AsyncWrite for Watched<S, W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
