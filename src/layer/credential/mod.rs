//! Puts the upstream credential on, per attempt, so that a rotated token is used. Last of all: nothing that the
//! caller's `Connection` names can take it off again.
//!
//! Its answer tells whether DevRev takes the token; `gate`, further up, holds back what would go out with one that is refused.

pub mod gate;
#[cfg(test)]
mod tests;
mod tokens;

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{Request, Response, header::AUTHORIZATION};
use tokio::time::Instant;
use tower::{Layer, Service};

pub use self::tokens::{Token, Tokens};
use self::{gate::Probing, tokens::injected};
use super::BoxFuture;
use crate::{
    body::Body,
    error::Error,
    policy::token_health::FIRST_PAUSE,
    telemetry::metrics::Metrics,
    types::{Named, OwnToken, TokenRefused},
};

pub struct Parameters {
    /// Looked up for each attempt, so that one that follows a change uses it.
    pub tokens: Arc<ArcSwap<Tokens>>,
    /// What a token's health counts its time from.
    pub epoch: Instant,
    pub metrics: Arc<Metrics>,
}

/// See the module.
#[derive(Clone)]
pub struct CredentialLayer(Arc<Parameters>);

impl CredentialLayer {
    pub fn new(parameters: Parameters) -> Self {
        CredentialLayer(Arc::new(parameters))
    }
}

impl<S> Layer<S> for CredentialLayer {
    type Service = Credential<S>;

    fn layer(&self, inner: S) -> Credential<S> {
        Credential {
            inner,
            parameters: self.0.clone(),
        }
    }
}

#[derive(Clone)]
pub struct Credential<S> {
    inner: S,
    parameters: Arc<Parameters>,
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
        let takes = extensions
            .get::<Named>()
            .is_some_and(|Named(operation)| operation.takes_credential());
        let own = extensions.get::<OwnToken>().map(|own| own.header.clone());
        let name = injected(&request).cloned();
        let probing = extensions.get::<Probing>().cloned();
        request.headers_mut().remove(AUTHORIZATION);
        if !takes {
            return Box::pin(self.inner.call(request));
        }
        if let Some(own) = own {
            // A 401 for it is its owner's affair.
            request.headers_mut().insert(AUTHORIZATION, own);
            return Box::pin(self.inner.call(request));
        }
        let parameters = self.parameters.clone();
        let token = name.and_then(|name| parameters.tokens.load().get(&name).cloned());
        let Some(token) = token else {
            return refused(FIRST_PAUSE);
        };
        let probe = probing
            .filter(|probing| Arc::ptr_eq(&probing.token, &token))
            .map(|probing| probing.number);
        let turn = match token.send(probe, parameters.epoch.elapsed()) {
            Ok(turn) => turn,
            Err(retry_after) => return refused(retry_after),
        };
        request.headers_mut().insert(AUTHORIZATION, token.header());
        let below = self.inner.call(request);
        Box::pin(async move {
            let mut response = below.await?;
            let now = parameters.epoch.elapsed();
            // The caller's own credential was good; a 401 would send its owner looking in the wrong place.
            if token.settle(turn, response.status(), now, &parameters.metrics) {
                let retry_after = match parameters.current(&token) {
                    true => token.refused_for(now).unwrap_or(REPLACED),
                    false => REPLACED,
                };
                response.extensions_mut().insert(TokenRefused(retry_after));
            }
            Ok(response)
        })
    }
}

impl Parameters {
    /// Whether this is still the value in use.
    fn current(&self, token: &Token) -> bool {
        self.tokens.load().values().any(|other| other.is(token))
    }
}

fn refused(retry_after: Duration) -> BoxFuture {
    Box::pin(std::future::ready(Err(Error::TokenUnavailable {
        retry_after,
    })))
}
