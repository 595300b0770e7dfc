//! Bounds the requests in flight, and deals the places among callers. A place is held until the answer's body has ended, not only its
//! head.
//!
//! A request whose caller is not known yet takes a place in `authenticate` if it must wait there.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower::Service;

use super::{BoxFuture, Places};
use crate::{
    body::Body,
    error::Error,
    policy::allocator::Claim,
    types::{Caller, PeerAddress},
};

/// See the module.
#[derive(Clone)]
pub(crate) struct Admission<S> {
    inner: S,
    places: Places,
    /// False if anybody can make up another caller.
    callers_are_known: bool,
}

impl<S> Admission<S> {
    pub(crate) fn new(inner: S, places: Places, callers_are_known: bool) -> Self {
        Admission {
            inner,
            places,
            callers_are_known,
        }
    }

    fn claim(&self, request: &Request<Body>) -> Result<Claim, Error> {
        let extensions = request.extensions();
        if !self.callers_are_known {
            let address = extensions.get::<PeerAddress>();
            return Ok(Claim::unknown(address.and_then(PeerAddress::ip)));
        }
        let caller = extensions.get::<Arc<Caller>>().ok_or(Error::Internal)?;
        Ok(Claim::caller(caller.group.clone(), &caller.share))
    }
}

impl<S> Service<Request<Body>> for Admission<S>
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
        let claim = self.claim(&request);
        let place = match claim.and_then(|claim| self.places.take(&claim, request.headers())) {
            Ok(place) => place,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        request.extensions_mut().insert(place.clone());
        let below = self.inner.call(request);
        Box::pin(async move {
            let response = below.await?;
            Ok(response.map(|body| body.guarded(place)))
        })
    }
}
