//! Adds the DevRev token to each attempt, so that a rotated token is used. Below `headers`, so that a caller's `Connection` field
//! cannot have it stripped.
//!
//! `token_gate`, further up, refuses attempts with a token that DevRev refuses, and has a 401 to an attempt confirmed. Both layers
//! speak of one value of a token.

mod confirmation;
#[cfg(test)]
mod tests;
pub(crate) mod token_gate;

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use tower::Service;

use super::BoxFuture;
use crate::{
    body::Body,
    error::Error,
    policy::{
        operation::{Operation, OperationLabel},
        token_health::FIRST_PAUSE,
    },
    state::{
        introspection::Verdict,
        tokens::{PlanTokens, Token},
    },
    types::{Caller, CallerToken},
};

/// On a confirmation: the value that it is about. It is sent with that value whatever is known of it.
#[derive(Clone)]
struct Confirms(Arc<Token>);

/// On a 401 to an attempt with an injected token: what must be known to have it confirmed.
#[derive(Clone)]
struct Unauthorized {
    token: Arc<Token>,
    caller: Arc<Caller>,
    operation: OperationLabel,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Credential<S> {
    inner: S,
    tokens: PlanTokens,
}

impl<S> Credential<S> {
    /// `tokens` are looked up for each attempt, so that an attempt after a change uses the new value.
    pub(crate) fn new(inner: S, tokens: PlanTokens) -> Self {
        Credential { inner, tokens }
    }
}

impl<S> Service<Request<Body>> for Credential<S>
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

    fn call(&mut self, mut request: Request<Body>) -> BoxFuture {
        request.headers_mut().remove(AUTHORIZATION);
        let credential = self.credential(&request);
        let (header, injected) = match credential {
            Ok(Credentials::None) => return Box::pin(self.inner.call(request)),
            Ok(Credentials::Own(header)) => (header, None),
            Ok(Credentials::Injected(injected)) => (injected.token.header(), Some(injected)),
            Err(retry_after) => {
                return Box::pin(std::future::ready(Err(Error::TokenUnavailable {
                    retry_after,
                })));
            }
        };
        request.headers_mut().insert(AUTHORIZATION, header);
        let verdict = request.extensions().get::<Verdict>().cloned();
        let below = self.inner.call(request);
        Box::pin(async move {
            let mut response = below.await?;
            if response.status() == StatusCode::UNAUTHORIZED {
                match (injected, verdict) {
                    (Some(injected), _) => {
                        response.extensions_mut().insert::<Unauthorized>(injected);
                    }
                    (None, Some(verdict)) => verdict.doubt(),
                    (None, None) => {}
                }
            }
            Ok(response)
        })
    }
}

/// What an attempt is sent with.
enum Credentials {
    None,
    /// A 401 says nothing about a configured token: it is passed to the caller, who alone can replace a token of its own. What was
    /// known of that token counts no more. A confirmation takes its answer as it is.
    Own(HeaderValue),
    Injected(Unauthorized),
}

impl<S> Credential<S> {
    /// # Errors
    /// The time until a retry makes sense: there is no token, or DevRev refuses it.
    fn credential(&self, request: &Request<Body>) -> Result<Credentials, Duration> {
        let extensions = request.extensions();
        if let Some(Confirms(token)) = extensions.get::<Confirms>() {
            return Ok(Credentials::Own(token.header()));
        }
        let operation = extensions.get::<Operation>();
        let Some(operation) = operation.filter(|operation| operation.takes_credential()) else {
            return Ok(Credentials::None);
        };
        if let Some(caller_token) = extensions.get::<CallerToken>() {
            return Ok(Credentials::Own(caller_token.header.clone()));
        }
        let caller = extensions.get::<Arc<Caller>>().ok_or(FIRST_PAUSE)?;
        let name = caller.token.as_ref().ok_or(FIRST_PAUSE)?;
        let token = self.tokens.get(name).ok_or(FIRST_PAUSE)?;
        token.try_send()?;
        Ok(Credentials::Injected(Unauthorized {
            token,
            caller: caller.clone(),
            operation: operation.label(),
        }))
    }
}
