//! Turns errors and panics into answers: the layers below may fail with an `Error`, and above there is always an answer. Adds the
//! headers that every answer has.

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, header::LINK};
use tower::Service;

use super::record;
use crate::{body::Body, error::Error, record::Record, types::RequestId};

#[derive(Clone)]
pub(crate) struct Rescue<S> {
    inner: S,
}

impl<S> Rescue<S> {
    pub(crate) fn new(inner: S) -> Self {
        Rescue { inner }
    }
}

impl<S> Service<Request<Body>> for Rescue<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let record = record(&request);
        let id = request.extensions().get::<RequestId>().cloned();
        let below = std::panic::catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
        Box::pin(async move {
            let result = match below {
                Ok(future) => AssertUnwindSafe(future)
                    .catch_unwind()
                    .await
                    .unwrap_or(Err(Error::Internal)),
                Err(_panic) => Err(Error::Internal),
            };
            let mut response = result.unwrap_or_else(|error| {
                log(&error, id.as_ref());
                record.facts().code = Some(error.code());
                error.response(id.as_ref())
            });
            add_headers(&mut response, id, &record);
            Ok(response)
        })
    }
}

fn log(error: &Error, id: Option<&RequestId>) {
    tracing::debug!(
        code = error.code().label(),
        request_id = id.map_or("", RequestId::as_str),
        cause = std::error::Error::source(error).map(tracing::field::display),
        "refused: {error}"
    );
}

/// Adds the headers that every answer has.
fn add_headers(response: &mut Response<Body>, id: Option<RequestId>, record: &Record) {
    let facts = record.facts();
    let headers = response.headers_mut();
    if let Some(RequestId(id)) = id {
        headers.insert(RequestId::HEADER, id);
    }
    if let Some((policy, limit)) = &facts.rate {
        headers.insert("ratelimit-policy", policy.clone());
        headers.insert("ratelimit", limit.clone());
    }
    if !facts.deprecated.is_empty() {
        // RFC 9745 section 2. 2025-03-27 is the date of DevRev's beta changelog. A date from DevRev itself takes precedence.
        headers
            .entry("deprecation")
            .or_insert(HeaderValue::from_static("@1743033600"));
        // Several links may stand side by side (RFC 8288 section 3), so DevRev's stay.
        if let Some(link) = &facts.deprecation_link {
            headers.append(LINK, link.clone());
        }
    }
    if facts.attempts > 1 || !facts.waited.is_zero() {
        let timing = format!(
            "wait;dur={:.1}, attempts;desc=\"{}\"",
            facts.waited.as_secs_f64() * 1e3,
            facts.attempts
        );
        if let Ok(timing) = HeaderValue::try_from(timing) {
            headers.append("server-timing", timing);
        }
    }
}
