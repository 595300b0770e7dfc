//! Puts the upstream credential on, per attempt, so that a rotated token is used. Last of all: nothing that the
//! caller's `Connection` names can take it off again.
//!
//! Its answer tells whether DevRev takes the token; `gate`, further up, holds back what would go out with one that is refused.

pub mod gate;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, header::AUTHORIZATION};
use tower::{Layer, Service};

use self::gate::Probing;
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
pub struct CredentialLayer {
    tokens: PlanTokens,
}

impl CredentialLayer {
    /// `tokens` are looked up for each attempt, so that one that follows a change uses the new value.
    pub fn new(tokens: PlanTokens) -> Self {
        CredentialLayer { tokens }
    }
}

impl<S> Layer<S> for CredentialLayer {
    type Service = Credential<S>;

    fn layer(&self, inner: S) -> Credential<S> {
        Credential {
            inner,
            tokens: self.tokens.clone(),
        }
    }
}

#[derive(Clone)]
pub struct Credential<S> {
    inner: S,
    tokens: PlanTokens,
}

/// A new value is there already: whoever comes again uses it.
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
        let turn = match token.send(probe) {
            Ok(turn) => turn,
            Err(retry_after) => return refused(retry_after),
        };
        request.headers_mut().insert(AUTHORIZATION, token.header());
        let below = self.inner.call(request);
        Box::pin(async move {
            let mut response = below.await?;
            // The caller's own credential was good; a 401 would send its owner looking in the wrong place.
            if tokens.settle(&token, turn, response.status()) {
                let retry_after = match tokens.is_current(&token) {
                    true => token.refused_for().unwrap_or(REPLACED),
                    false => REPLACED,
                };
                response.extensions_mut().insert(TokenRefused(retry_after));
            }
            Ok(response)
        })
    }
}

/// The name of the token that this request gets, if it gets one of ours.
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
