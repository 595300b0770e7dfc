//! Holds back what would go out with a token that DevRev refuses, before it costs quota. One attempt at a time finds out.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{super::Either, injected};
use crate::{
    body::Body,
    error::Error,
    policy::token_health::{FIRST_PAUSE, Pass},
    state::tokens::{PlanTokens, Token},
};

/// See the module.
#[derive(Clone)]
pub struct GateLayer {
    tokens: PlanTokens,
}

impl GateLayer {
    pub fn new(tokens: PlanTokens) -> Self {
        GateLayer { tokens }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            inner,
            tokens: self.tokens.clone(),
        }
    }
}

#[derive(Clone)]
pub struct Gate<S> {
    inner: S,
    tokens: PlanTokens,
}

impl<S> Service<Request<Body>> for Gate<S>
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

impl<S> Gate<S> {
    fn pass(&self, request: &Request<Body>) -> Result<Option<Probe>, Error> {
        let Some(name) = injected(request) else {
            return Ok(None);
        };
        let token = self.tokens.get(name).ok_or(Error::TokenUnavailable {
            retry_after: FIRST_PAUSE,
        })?;
        match token.ask() {
            Ok(Pass::Free) => Ok(None),
            Ok(Pass::Probe(number)) => Ok(Some(Probe { token, number })),
            Err(retry_after) => Err(Error::TokenUnavailable { retry_after }),
        }
    }
}

/// On its way down: this attempt is the probe of that value of the token, and of no other.
#[derive(Clone)]
pub(super) struct Probing {
    pub token: Arc<Token>,
    pub number: u64,
}

/// The probe's place. Dropped, for its attempt has ended or its caller left, it is free again.
struct Probe {
    token: Arc<Token>,
    number: u64,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.token.give_back(self.number);
    }
}

pin_project! {
    /// An attempt that was let pass.
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
