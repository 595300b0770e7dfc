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
