//! Holds an answer's guards until hyper has written the answer, not only until hyper has read it; and lets hyper read no more than it
//! can write soon. So a client that does not read holds its place in flight, and no more memory than a place may cost.
//!
//! It also knows how long the client lets the answer wait. hyper does not ask for a body while it cannot write, so a timer within the body
//! would not run; the connection asks instead.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;
use tower::BoxError;

use crate::{
    body::Body,
    lock::Lock,
    policy::progress::{Patience, ProgressRules},
};

/// Bytes of one answer that hyper may hold before it has to write some of them; it holds one piece of DevRev's answer in any case.
pub(crate) const MAX_UNWRITTEN: usize = 16 * 1024;

/// An answer's body on its way to hyper.
pub(super) struct Delivery(Arc<Unwritten>);

/// An answer that is being written, as its connection sees it.
pub(super) struct Unread(Weak<Unwritten>);

struct Unwritten(Lock<UnwrittenState>);

struct UnwrittenState {
    /// With its guards. Dropped with the last of its bytes.
    body: Option<Body>,
    /// Of the latest piece of the body, what hyper has not got yet.
    rest: Bytes,
    bytes: usize,
    /// Waits for room.
    waker: Option<Waker>,
    /// hyper wants no more of it.
    ended: bool,
    /// The client has not read it.
    cut: bool,
    /// More of the body has yet to come.
    source_waits: bool,
    rules: ProgressRules,
    /// With the client.
    patience: Patience,
    /// Since when the client is awaited.
    since: Option<Instant>,
}

impl UnwrittenState {
    /// The client has read so many bytes more.
    fn has_read(&mut self, bytes: usize) {
        let now = Instant::now();
        if let Some(since) = self.since {
            let waited = now.saturating_duration_since(since);
            self.patience.waited(&self.rules, waited, bytes);
        }
        let is_awaited = self.bytes > 0 || !self.source_waits;
        self.since = is_awaited.then_some(now);
    }
}

impl Delivery {
    pub(super) fn new(body: Body, rules: ProgressRules) -> Self {
        Delivery(Arc::new(Unwritten(Lock::new(UnwrittenState {
            body: Some(body),
            rest: Bytes::new(),
            bytes: 0,
            waker: None,
            ended: false,
            cut: false,
            source_waits: false,
            rules,
            patience: Patience::new(&rules),
            since: Some(Instant::now()),
        }))))
    }

    pub(super) fn unread(&self) -> Unread {
        Unread(Arc::downgrade(&self.0))
    }
}

impl Unread {
    /// When the client has let it wait too long, if nothing happens before.
    pub(super) fn overdue(&self) -> Option<Instant> {
        let unwritten = self.0.upgrade()?;
        let state = unwritten.0.lock();
        let since = state.since.filter(|_| !state.cut)?;
        Some(since + state.patience.left())
    }

    /// Whether all of it is written.
    pub(super) fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// Whether the client has let the answer wait too long. The rest of it is given up then, and its connection to DevRev. It keeps its place
    /// and its memory while hyper holds pieces of it: until the client's connection ends.
    pub(super) fn cut_if_overdue(&self, now: Instant) -> bool {
        let Some(unwritten) = self.0.upgrade() else {
            return false;
        };
        let mut state = unwritten.0.lock();
        let is_overdue = |since: Instant| since + state.patience.left() <= now;
        if !state.cut && state.since.is_some_and(is_overdue) {
            state.cut = true;
            state.since = None;
            state.rest = Bytes::new();
            if let Some(body) = &mut state.body {
                body.give_up();
            }
        }
        state.cut
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let body = {
            let mut state = self.0.0.lock();
            state.ended = true;
            match state.bytes {
                0 => state.body.take(),
                _ => None,
            }
        };
        // Not under the lock: it may run any code.
        drop(body);
    }
}

impl HttpBody for Delivery {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = self.0.0.lock();
        if state.cut {
            return Poll::Ready(Some(Err("the client did not read the answer".into())));
        }
        if state.bytes >= MAX_UNWRITTEN {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if state.rest.is_empty() {
            let Some(body) = &mut state.body else {
                return Poll::Ready(None);
            };
            let frame = Pin::new(body).poll_frame(cx);
            state.source_waits = frame.is_pending();
            state.has_read(0);
            match frame.map_ok(Frame::into_data) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(Err(trailers)))) => return Poll::Ready(Some(Ok(trailers))),
                Poll::Ready(Some(Ok(Ok(data)))) => state.rest = data,
            }
        }
        // In small pieces, so that progress shows before a large one is written.
        let size = state.rest.len().min(MAX_UNWRITTEN);
        let bytes = state.rest.split_to(size);
        state.bytes += size;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(Piece {
            bytes,
            unwritten: self.0.clone(),
        })))))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.0.lock();
        let is_over = state.body.as_ref().is_none_or(HttpBody::is_end_stream);
        is_over && state.rest.is_empty() && !state.cut
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.0.0.lock();
        let body = state.body.as_ref();
        let hint = body.map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint);
        let rest = state.rest.len() as u64;
        let mut with_rest = SizeHint::new();
        with_rest.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            with_rest.set_upper(upper + rest);
        }
        with_rest
    }
}

/// Bytes that hyper has read. It drops them when they are written, or never will be.
struct Piece {
    bytes: Bytes,
    unwritten: Arc<Unwritten>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let (waker, body) = {
            let mut state = self.unwritten.0.lock();
            state.bytes -= self.bytes.len();
            state.has_read(self.bytes.len());
            let body = match state.bytes {
                0 if state.ended => state.body.take(),
                _ => None,
            };
            (state.waker.take(), body)
        };
        // Not under the lock: both may run any code.
        drop(body);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        num::NonZeroU64,
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use futures_util::FutureExt;
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::body::Guard;

    const RULES: ProgressRules = ProgressRules {
        stall: Duration::from_secs(10),
        min_rate: NonZeroU64::new(1000),
    };

    struct Held(Arc<AtomicBool>);

    impl Guard for Held {}

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.store(false, Ordering::SeqCst);
        }
    }

    fn held(body: Body) -> (Delivery, Arc<AtomicBool>) {
        let held = Arc::new(AtomicBool::new(true));
        (Delivery::new(body.guarded(Held(held.clone())), RULES), held)
    }

    fn piece(delivery: &mut Delivery) -> Option<Bytes> {
        let frame = delivery.frame().now_or_never()?;
        Some(frame?.expect("no error").into_data().expect("data"))
    }

    #[test]
    fn guards_are_held_until_the_last_bytes_are_written() {
        let (mut delivery, held) = held(Body::full("hello".into()));
        let piece = piece(&mut delivery).expect("a piece");
        assert!(delivery.is_end_stream());
        let half = piece.slice(2..);
        drop((delivery, piece));
        assert!(held.load(Ordering::SeqCst));
        assert_eq!(half, "llo");
        drop(half);
        assert!(!held.load(Ordering::SeqCst));
    }

    #[test]
    fn an_answer_without_a_body_and_one_that_is_given_up_hold_nothing() {
        for body in [Body::empty(), Body::full("hello".into())] {
            let (delivery, held) = held(body);
            drop(delivery);
            assert!(!held.load(Ordering::SeqCst));
        }
    }

    #[tokio::test]
    async fn no_more_is_read_until_something_is_written() {
        let body = Body::full(vec![0; MAX_UNWRITTEN].into());
        let rest = Body::prefixed(vec![1; 10].into(), body);
        let (mut delivery, _held) = held(Body::prefixed(vec![2; MAX_UNWRITTEN].into(), rest));
        let first = piece(&mut delivery).expect("a piece");
        assert!(piece(&mut delivery).is_none());
        let mut more = tokio::spawn(async move { delivery.frame().await });
        tokio::task::yield_now().await;
        assert!((&mut more).now_or_never().is_none());
        drop(first);
        let frame = more.await.expect("no panic").expect("a frame");
        assert_eq!(
            frame.expect("no error").into_data().expect("data").len(),
            10
        );
    }

    /// After the client has let an answer wait: whether it was cut.
    async fn is_cut_after(unread: &Unread, seconds: u64) -> bool {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        unread.cut_if_overdue(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_asked_for_is_cut_in_time() {
        let (mut delivery, held) = held(Body::full("hello".into()));
        let unread = delivery.unread();
        assert!(!is_cut_after(&unread, 9).await);
        assert!(is_cut_after(&unread, 1).await);
        assert!(delivery.frame().await.expect("a frame").is_err());
        drop(delivery);
        assert!(!held.load(Ordering::SeqCst), "it holds nothing more");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_written_is_cut_in_time() {
        let (mut delivery, held) = held(Body::full("hello".into()));
        let unread = delivery.unread();
        let unwritten = piece(&mut delivery).expect("a piece");
        drop(delivery);
        assert!(!is_cut_after(&unread, 9).await);
        assert!(is_cut_after(&unread, 1).await);
        assert!(held.load(Ordering::SeqCst), "its bytes are in memory");
        drop(unwritten);
        assert!(unread.is_over() && !held.load(Ordering::SeqCst));
    }

    /// Half of a large piece is written slowly, which is progress.
    #[tokio::test(start_paused = true)]
    async fn a_large_piece_is_handed_on_in_small_ones() {
        let (mut delivery, _held) = held(Body::full(vec![1; 5 * MAX_UNWRITTEN / 2].into()));
        let unread = delivery.unread();
        assert_eq!(delivery.size_hint().exact(), Some(40_960));
        let mut sizes = Vec::new();
        while !delivery.is_end_stream() {
            let unwritten = piece(&mut delivery).expect("a piece");
            sizes.push(unwritten.len());
            assert!(!is_cut_after(&unread, 9).await);
        }
        assert_eq!(sizes, [MAX_UNWRITTEN, MAX_UNWRITTEN, MAX_UNWRITTEN / 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_read_fast_enough_is_not_cut_and_a_slower_one_is() {
        for (bytes, want) in [(9000, false), (2000, true)] {
            let all = (0..10).fold(Body::empty(), |rest, _| {
                Body::prefixed(vec![0; bytes].into(), rest)
            });
            let (mut delivery, _held) = held(all);
            let (unread, mut cut) = (delivery.unread(), false);
            for _ in 0..10 {
                let unwritten = piece(&mut delivery).filter(|_| !cut);
                cut |= is_cut_after(&unread, 9).await;
                drop(unwritten);
                if cut {
                    break;
                }
            }
            assert_eq!(cut, want, "{bytes} bytes in 9 s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_for_devrev_is_not_to_blame() {
        let (near, mut far) = tokio::io::duplex(1024);
        let io = hyper_util::rt::TokioIo::new(near);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .expect("a connection");
        tokio::spawn(connection);
        tokio::spawn(async move {
            let mut request = [0; 1024];
            let _ = far.read(&mut request).await;
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n";
            far.write_all(head).await.expect("written");
            std::future::pending::<()>().await;
        });
        let request = http::Request::new(http_body_util::Empty::<Bytes>::new());
        let answer = sender.send_request(request).await.expect("an answer");
        let rules = ProgressRules {
            stall: Duration::from_secs(10_000),
            min_rate: None,
        };
        let (mut delivery, _held) = held(Body::answer(answer.into_body(), rules));
        let unread = delivery.unread();
        assert!(piece(&mut delivery).is_none());
        assert!(!is_cut_after(&unread, 1000).await);
    }
}
