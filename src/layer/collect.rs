//! Reads a small answer into memory at once, whether the caller reads it or not, so that a caller who does not holds no connection to
//! DevRev. The answer is passed on as it comes.
//!
//! Above `quota`, which may put back a part that it has read.

use std::task::{Context, Poll};

use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body as _;
use tower::Service;

use super::BoxFuture;
use crate::{
    allocation::{Place, PlanPool},
    body::{Body, Start},
    error::Error,
};

/// Most answers of DevRev's are smaller; a page of a list may be larger. One of unknown length is passed on as it comes.
const SMALL: u64 = 64 * 1024;

/// See the module.
#[derive(Clone)]
pub(crate) struct Collect<S> {
    inner: S,
    buffered: PlanPool,
}

impl<S> Collect<S> {
    pub(crate) fn new(inner: S, buffered: PlanPool) -> Self {
        Collect { inner, buffered }
    }
}

impl<S> Service<Request<Body>> for Collect<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> BoxFuture {
        let extensions = request.extensions();
        let claim = Place::claim(extensions);
        let buffered = self.buffered.clone();
        let below = self.inner.call(request);
        Box::pin(async move {
            let (head, body) = below.await?.into_parts();
            let size = body.size_hint().exact().filter(|size| *size <= SMALL);
            let memory = match size {
                Some(size) if !body.is_read() && !body.is_end_stream() => {
                    // Without memory for it, it is passed on as it comes.
                    buffered.take(&claim, size).ok()
                }
                _ => None,
            };
            let body = match memory {
                Some(memory) => {
                    let (mut start, mut body) = (Start::default(), body);
                    // Most small answers are there with their head.
                    let _ = start.take_in(&mut body, usize::MAX).now_or_never();
                    let body = start.put_back(body);
                    let left = body.size_hint().exact();
                    match left.filter(|_| !body.is_read()) {
                        Some(left) => body.pumped(left).guarded(memory),
                        None => body.guarded(memory),
                    }
                }
                None => body,
            };
            Ok(Response::from_parts(head, body))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http_body_util::BodyExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        sync::oneshot,
    };
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{allocation::Pool, body::Guard, policy::progress::ProgressRules};

    /// Dropped when the answer has left its connection.
    struct Lane(#[allow(dead_code, reason = "held, not read")] oneshot::Sender<()>);

    impl Guard for Lane {
        fn finished(&mut self) {
            let (nobody, _) = oneshot::channel();
            self.0 = nobody;
        }
    }

    /// An answer whose head and first half are there, the other end of its connection, and the end of its lane.
    async fn half_an_answer() -> (Response<Body>, DuplexStream, oneshot::Receiver<()>) {
        let (near, mut far) = tokio::io::duplex(1024);
        let io = hyper_util::rt::TokioIo::new(near);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::new(http_body_util::Empty::<Bytes>::new());
        let answer = tokio::spawn(async move { sender.send_request(request).await });
        far.read_u8().await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst";
        far.write_all(head).await.unwrap();
        let rules = ProgressRules {
            stall: Duration::from_secs(30),
            min_rate: None,
        };
        let (lane, left) = oneshot::channel();
        let answer = answer.await.unwrap().unwrap();
        let answer = answer.map(|body| Body::answer(body, rules).guarded(Lane(lane)));
        (answer, far, left)
    }

    /// It leaves its lane though nobody reads it, its head has not waited for that, and no byte is lost.
    #[tokio::test]
    async fn a_small_answer_is_passed_on_as_it_comes_and_holds_no_lane() {
        let (answer, mut far, left) = half_an_answer().await;
        let pool = Pool::new();
        let buffered = PlanPool {
            pool: pool.clone(),
            capacity: 100,
        };
        let mut answer = Some(answer);
        let below = service_fn(move |_: Request<Body>| {
            let answer = answer.take().expect("one call");
            std::future::ready(Ok::<_, Error>(answer))
        });
        let passed_on = Collect::new(below, buffered)
            .oneshot(Request::new(Body::empty()))
            .now_or_never()
            .expect("at once")
            .unwrap();
        assert_eq!(
            (pool.used(), passed_on.body().size_hint().exact()),
            (10, Some(10))
        );
        far.write_all(b" half").await.unwrap();
        assert!(left.await.is_err(), "the lane is free");
        let bytes = passed_on.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes, "first half");
        assert_eq!(pool.used(), 0);
    }
}
