//! Puts the upstream credential on, per attempt, so that a rotated token is used. Last of all: nothing that the
//! caller's `Connection` names can take it off again.

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use tower::{Layer, Service};

use super::BoxFuture;
use crate::{
    body::Body,
    error::Error,
    types::{Caller, Named, OwnToken, TokenRefused},
};

pub struct Parameters {
    /// `Bearer TOKEN` by the token's name: looked up for each attempt, so that one that follows a change uses it.
    pub tokens: Arc<ArcSwap<Tokens>>,
}

/// `Bearer TOKEN` by name.
pub type Tokens = HashMap<Arc<str>, HeaderValue>;

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

/// A refused token is mended by an operator, not by a caller's haste.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

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
        let injected = extensions
            .get::<Arc<Caller>>()
            .and_then(|caller| caller.token.clone());
        request.headers_mut().remove(AUTHORIZATION);
        if !takes {
            return Box::pin(self.inner.call(request));
        }
        let (value, ours) = match (own, injected) {
            (Some(own), _) => (Some(own), false),
            (None, Some(name)) => (self.parameters.tokens.load().get(&name).cloned(), true),
            (None, None) => (None, true),
        };
        let Some(value) = value else {
            return Box::pin(std::future::ready(Err(Error::TokenUnavailable {
                retry_after: RETRY_AFTER,
            })));
        };
        request.headers_mut().insert(AUTHORIZATION, value);
        let below = self.inner.call(request);
        if !ours {
            return Box::pin(below);
        }
        Box::pin(async move {
            let mut response = below.await?;
            // The caller's own credential was good; a 401 would send its owner looking in the wrong place.
            if response.status() == StatusCode::UNAUTHORIZED {
                response.extensions_mut().insert(TokenRefused(RETRY_AFTER));
            }
            Ok(response)
        })
    }
}
