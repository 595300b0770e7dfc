//! Refuses attempts with a token that DevRev refuses, before they cost quota. One at a time passes, as the probe.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::{super::Either, injected};
use crate::{
    body::Body,
    error::Error,
    policy::token_health::{FIRST_PAUSE, Pass},
    state::tokens::{PlanTokens, Token},
};

/// See the module.
#[derive(Clone)]
pub(crate) struct TokenGate<S> {
    inner: S,
    tokens: PlanTokens,
}

impl<S> TokenGate<S> {
    pub(crate) fn new(inner: S, tokens: PlanTokens) -> Self {
        TokenGate { inner, tokens }
    }
}

impl<S> Service<Request<Body>> for TokenGate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = Either<Passed<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let probe = match self.pass(&request) {
            Ok(probe) => probe,
            Err(error) => return Either::refused(error),
        };
        if let Some(Probe { token, number }) = &probe {
            request.extensions_mut().insert(Probing {
                token: token.clone(),
                number: *number,
            });
        }
        Either::inner(Passed {
            below: self.inner.call(request),
            probe,
        })
    }
}

impl<S> TokenGate<S> {
    fn pass(&self, request: &Request<Body>) -> Result<Option<Probe>, Error> {
        let Some(name) = injected(request) else {
            return Ok(None);
        };
        let token = self.tokens.get(name).ok_or(Error::TokenUnavailable {
            retry_after: FIRST_PAUSE,
        })?;
        match token.try_pass() {
            Ok(Pass::Free) => Ok(None),
            Ok(Pass::Probe(number)) => Ok(Some(Probe { token, number })),
            Err(retry_after) => Err(Error::TokenUnavailable { retry_after }),
        }
    }
}

/// An extension for the credential layer: this attempt is the probe of that value of the token, and of no other.
#[derive(Clone)]
pub(super) struct Probing {
    pub token: Arc<Token>,
    pub number: u64,
}

/// Releases the probe when it is dropped: its attempt has ended, or its caller went away.
struct Probe {
    token: Arc<Token>,
    number: u64,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.token.release_probe(self.number);
    }
}

pin_project! {
    /// An attempt that passed the gate.
    pub struct Passed<F> {
        #[pin]
        below: F,
        probe: Option<Probe>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Error>>> Future for Passed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let result = ready!(this.below.poll(cx));
        this.probe.take();
        Poll::Ready(result)
    }
}
