//! Refuses attempts with a token that DevRev refuses, before they cost quota, and has a 401 confirmed before a token counts as refused.
//!
//! A 401 to an attempt waits for its confirmation. While the token is refused, the request that finds a probe due starts it, waits for
//! its result and goes on if DevRev accepts the token. Others are refused meanwhile, so that requests with a refused
//! token do not fill the places in flight. The first one after a good result passes.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio::time::{Instant, timeout_at};
use tower::Service;

use super::{
    super::{BoxFuture, Either},
    Unauthorized, confirmation,
};
use crate::{
    body::{Body, Start},
    error::Error,
    policy::{
        operation::Operation,
        token_health::{FIRST_PAUSE, Finding},
    },
    state::{
        draining::Draining,
        tokens::{Confirming, Doubted, PlanTokens},
    },
    types::{Caller, CallerToken, Deadline},
};

/// Of a 401 that waits for a confirmation. DevRev's errors are far smaller; a larger one stays on its connection.
const MAX_TAKEN: usize = 8 * 1024;

/// See the module.
#[derive(Clone)]
pub(crate) struct TokenGate<S> {
    inner: S,
    gate: Arc<Gate<S>>,
}

/// What the attempts of one worker share.
struct Gate<S> {
    /// Where confirmations are sent.
    below: S,
    tokens: PlanTokens,
    draining: Draining,
}

impl<S: Clone> TokenGate<S> {
    pub(crate) fn new(inner: S, tokens: PlanTokens, draining: Draining) -> Self {
        let below = inner.clone();
        TokenGate {
            inner,
            gate: Arc::new(Gate {
                below,
                tokens,
                draining,
            }),
        }
    }
}

impl<S> Service<Request<Body>> for TokenGate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = Either<Passed<S, S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let gate = self.gate.clone();
        let probe = match gate.pass(&request) {
            Ok(probe) => probe,
            Err(error) => return Either::refused(error),
        };
        let Some((confirming, caller)) = probe else {
            return Either::inner(Passed {
                below: self.inner.call(request),
                gate,
                confirming: None,
            });
        };
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let deadline = request.extensions().get::<Deadline>().copied();
        Either::boxed(Box::pin(async move {
            let deadline = deadline.map_or_else(Instant::now, |Deadline(at)| at);
            gate.probe(confirming, &caller, deadline).await?;
            let passed = Passed {
                below: inner.call(request),
                gate,
                confirming: None,
            };
            passed.await
        }))
    }
}

impl<S> Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    /// The probe that must be made before this attempt, if one is due.
    fn pass(&self, request: &Request<Body>) -> Result<Option<(Confirming, Arc<Caller>)>, Error> {
        let extensions = request.extensions();
        let operation = extensions.get::<Operation>();
        let injects = operation.is_some_and(Operation::takes_credential)
            && extensions.get::<CallerToken>().is_none();
        let caller = extensions.get::<Arc<Caller>>().filter(|_| injects);
        let Some((caller, name)) = caller.and_then(|caller| Some((caller, caller.token.as_ref()?)))
        else {
            return Ok(None);
        };
        let token = self.tokens.get(name).ok_or(Error::TokenUnavailable {
            retry_after: FIRST_PAUSE,
        })?;
        match self.tokens.try_pass(&token) {
            Ok(probe) => Ok(probe.map(|confirming| (confirming, caller.clone()))),
            Err(retry_after) => Err(Error::TokenUnavailable { retry_after }),
        }
    }

    /// Makes the probe that is due, and waits for its result until `deadline`.
    async fn probe(
        &self,
        confirming: Confirming,
        caller: &Caller,
        deadline: Instant,
    ) -> Result<(), Error> {
        let (token, outcome) = (confirming.token().clone(), confirming.outcome());
        confirmation::start(self.below.clone(), confirming, caller);
        let finding = timeout_at(deadline, outcome.finding());
        let finding = self.draining.bound(finding).await?;
        // A new value has come meanwhile, and this probe says nothing about it.
        if finding == Ok(Finding::Good) || self.tokens.is_replaced(&token) {
            return Ok(());
        }
        Err(Error::TokenUnavailable {
            retry_after: self.tokens.retry_after(&token),
        })
    }

    /// Finds out what a 401 means: it is the caller's if DevRev does not refuse the token.
    async fn confirm(
        self: Arc<Self>,
        response: Response<Body>,
        unauthorized: Unauthorized,
    ) -> Result<Response<Body>, Error> {
        let Unauthorized {
            token,
            caller,
            operation,
        } = unauthorized;
        let outcome = match self.tokens.doubt(&token, operation) {
            Doubted::Settled => return Ok(response),
            Doubted::Refused(retry_after) => return Err(Error::TokenRefused { retry_after }),
            Doubted::Wait(outcome) => outcome,
            Doubted::Confirm(confirming) => {
                let outcome = confirming.outcome();
                confirmation::start(self.below.clone(), confirming, &caller);
                outcome
            }
        };
        // It is taken in while it waits, so that it holds no connection.
        let (head, mut body) = response.into_parts();
        let mut start = Start::default();
        let mut outcome = pin!(outcome.finding());
        let finding = async {
            tokio::select! {
                finding = &mut outcome => finding,
                () = start.take_in(&mut body, MAX_TAKEN) => outcome.await,
            }
        };
        // When the drain ends the wait, the caller gets DevRev's answer all the same.
        let finding = self.draining.bound(finding).await;
        match finding.unwrap_or(Finding::Unknown) {
            Finding::Refused => Err(Error::TokenRefused {
                retry_after: self.tokens.retry_after(&token),
            }),
            Finding::Good | Finding::Unknown => {
                Ok(Response::from_parts(head, start.put_back(body)))
            }
        }
    }
}

pin_project! {
    /// An attempt that passed the gate.
    pub struct Passed<S, F> {
        #[pin]
        below: F,
        gate: Arc<Gate<S>>,
        confirming: Option<BoxFuture>,
    }
}

impl<S, F> Future for Passed<S, F>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    F: Future<Output = Result<Response<Body>, Error>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if let Some(confirming) = this.confirming {
            return confirming.as_mut().poll(cx);
        }
        let mut response = match ready!(this.below.poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(error)),
        };
        // The quota has learnt from this answer by now.
        match response.extensions_mut().remove::<Unauthorized>() {
            None => Poll::Ready(Ok(response)),
            Some(unauthorized) => {
                let confirming = this.gate.clone().confirm(response, unauthorized);
                this.confirming
                    .insert(Box::pin(confirming))
                    .as_mut()
                    .poll(cx)
            }
        }
    }
}
