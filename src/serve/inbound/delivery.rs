//! Holds an answer's guards until hyper has written the answer, not only until hyper has read it; and lets hyper read no more than it
//! can write soon. So a client that does not read holds its place in flight, and no more memory than a place may cost.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tower::BoxError;

use crate::{body::Body, lock::Lock};

/// Bytes of one answer that hyper may hold before it has to write some of them; it holds one piece of DevRev's answer in any case.
pub(crate) const MAX_UNWRITTEN: usize = 8 * 1024;

/// An answer's body on its way to hyper.
pub(super) struct Delivery {
    /// `None` once it has ended.
    body: Option<Body>,
    unwritten: Arc<Unwritten>,
}

#[derive(Default)]
struct Unwritten(Lock<UnwrittenState>);

#[derive(Default)]
struct UnwrittenState {
    bytes: usize,
    /// Waits for room.
    waker: Option<Waker>,
    /// The body after its end, for its guards. Dropped with the last of its bytes.
    ended: Option<Body>,
}

impl Delivery {
    pub(super) fn new(body: Body) -> Self {
        Delivery {
            body: Some(body),
            unwritten: Arc::default(),
        }
    }

    /// Keeps the body until its last bytes are written.
    fn end(&mut self) {
        let mut state = self.unwritten.0.lock();
        if state.bytes > 0 {
            state.ended = self.body.take();
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.end();
    }
}

impl HttpBody for Delivery {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        {
            let mut state = this.unwritten.0.lock();
            if state.bytes >= MAX_UNWRITTEN {
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|bytes| {
                    this.unwritten.0.lock().bytes += bytes.len();
                    Bytes::from_owner(Piece {
                        bytes,
                        unwritten: this.unwritten.clone(),
                    })
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.body.as_ref();
        body.map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
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
        let (waker, ended) = {
            let mut state = self.unwritten.0.lock();
            state.bytes -= self.bytes.len();
            let ended = match state.bytes {
                0 => state.ended.take(),
                _ => None,
            };
            (state.waker.take(), ended)
        };
        // Not under the lock: both may run any code.
        drop(ended);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::FutureExt;
    use http_body_util::BodyExt;

    use super::*;
    use crate::body::Guard;

    struct Held(Arc<AtomicBool>);

    impl Guard for Held {}

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.store(false, Ordering::SeqCst);
        }
    }

    fn held(body: Body) -> (Delivery, Arc<AtomicBool>) {
        let held = Arc::new(AtomicBool::new(true));
        (Delivery::new(body.guarded(Held(held.clone()))), held)
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
}
