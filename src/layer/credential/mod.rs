//! Adds the DevRev token to each attempt, so that a rotated token is used. Below `headers`, so that a caller's `Connection` field
//! cannot have it stripped.
//!
//! The answer says whether DevRev accepts the token. `token_gate`, further up, refuses attempts with a refused one.

#[cfg(test)]
mod tests;
pub(crate) mod token_gate;

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, header::AUTHORIZATION};
use tower::Service;

use self::token_gate::Probing;
use super::BoxFuture;
use crate::{
    body::Body,
    error::Error,
    policy::{operation::Operation, token_health::FIRST_PAUSE},
    state::tokens::PlanTokens,
    types::{Caller, CallerToken, TokenRefused},
};

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

/// A new value has replaced the refused one already, so a retry may follow soon.
const REPLACED: Duration = Duration::from_secs(1);

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
        let extensions = request.extensions();
        let takes_credential = extensions
            .get::<Operation>()
            .is_some_and(Operation::takes_credential);
        let caller_token = extensions.get::<CallerToken>().cloned();
        let name = injected(&request).cloned();
        let probing = extensions.get::<Probing>().cloned();
        request.headers_mut().remove(AUTHORIZATION);
        if !takes_credential {
            return Box::pin(self.inner.call(request));
        }
        if let Some(caller_token) = caller_token {
            // A 401 for it is passed to the caller: only the caller can replace it.
            let headers = request.headers_mut();
            headers.insert(AUTHORIZATION, caller_token.header);
            return Box::pin(self.inner.call(request));
        }
        let tokens = self.tokens.clone();
        let Some(token) = name.and_then(|name| tokens.get(&name)) else {
            return refused(FIRST_PAUSE);
        };
        let probe = probing
            .filter(|probing| Arc::ptr_eq(&probing.token, &token))
            .map(|probing| probing.number);
        let generation = match token.try_send(probe) {
            Ok(generation) => generation,
            Err(retry_after) => return refused(retry_after),
        };
        request.headers_mut().insert(AUTHORIZATION, token.header());
        let below = self.inner.call(request);
        Box::pin(async move {
            let mut response = below.await?;
            // The caller's own credential is good, so a 401 would make its owner look for the fault in the wrong place.
            if tokens.settle(&token, generation, response.status()) {
                let still_refused = token.refused_for().filter(|_| tokens.is_current(&token));
                let retry_after = still_refused.unwrap_or(REPLACED);
                response.extensions_mut().insert(TokenRefused(retry_after));
            }
            Ok(response)
        })
    }
}

/// The name of the configured token that is injected into this request, if one is.
fn injected(request: &Request<Body>) -> Option<&Arc<str>> {
    let extensions = request.extensions();
    let operation = extensions.get::<Operation>()?;
    if !operation.takes_credential() || extensions.get::<CallerToken>().is_some() {
        return None;
    }
    extensions.get::<Arc<Caller>>()?.token.as_ref()
}

fn refused(retry_after: Duration) -> BoxFuture {
    Box::pin(std::future::ready(Err(Error::TokenUnavailable {
        retry_after,
    })))
}
