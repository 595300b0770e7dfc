//! Renames deprecated fields, once per request, so that retries send the renamed body.

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use tower::Service;

use super::{BodyLimits, BoxFuture, Buffered};
use crate::{
    allocation::Place,
    body::{Body, InboundFault},
    error::Error,
    policy::{
        operation::Operation,
        rewrite::{RewriteFault, Rewritten, Rule, Skip, rewrite, skip},
    },
    record::Record,
    telemetry::metrics::Metrics,
};

/// What [`Rewrite`] needs.
pub(crate) struct RewriteParams {
    /// By the operation's normalised name.
    pub rules: Arc<HashMap<String, Arc<Rule>>>,
    /// Upper bound of a body to which a rule applies, in bytes.
    pub max_rewrite_body: u64,
    pub body: BodyLimits,
    pub metrics: Arc<Metrics>,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Rewrite<S> {
    inner: S,
    params: Arc<RewriteParams>,
}

impl<S> Rewrite<S> {
    pub(crate) fn new(inner: S, params: Arc<RewriteParams>) -> Self {
        Rewrite { inner, params }
    }
}

impl<S> Service<Request<Body>> for Rewrite<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error, Future = BoxFuture>
        + Clone
        + Send
        + 'static,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> BoxFuture {
        let Some(rule) = self.params.rule_for(&request) else {
            return self.inner.call(request);
        };
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let params = self.params.clone();
        Box::pin(async move {
            let request = params.apply(&rule, request).await?;
            inner.call(request).await
        })
    }
}

impl RewriteParams {
    fn rule_for(&self, request: &Request<Body>) -> Option<Arc<Rule>> {
        let operation = request.extensions().get::<Operation>()?;
        let rule = self.rules.get(operation.name())?;
        match skip(request.method(), request.headers()) {
            None => Some(rule.clone()),
            Some(Skip::Method) => None,
            Some(Skip::Unreadable(reason)) => {
                self.metrics.rewrite_skipped(reason);
                None
            }
        }
    }

    async fn apply(&self, rule: &Rule, request: Request<Body>) -> Result<Request<Body>, Error> {
        let (mut head, mut body) = request.into_parts();
        let max_bytes = self.max_rewrite_body;
        // With a Content-Length, its value: nothing is read of a body that is too large.
        if http_body::Body::size_hint(&body).lower() > max_bytes {
            return Err(Error::BodyTooLarge { max_bytes });
        }
        let limit = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let fault = head.extensions.get::<InboundFault>();
        let claim = Place::claim(&head.extensions);
        let Buffered { read, memory } = self.body.read(&mut body, fault, limit, &claim).await?;
        if !read.complete {
            return Err(Error::BodyTooLarge { max_bytes });
        }
        let bytes = read.bytes;
        let (bytes, fields, fault) = match rewrite(&bytes, rule) {
            Ok(Rewritten::Unchanged) => (bytes, Vec::new(), None),
            Ok(Rewritten::Seen { fields }) => (bytes, fields, None),
            Ok(Rewritten::Changed { body, fields }) => (Bytes::from(body), fields, None),
            // A refused use counts as well, so that an operator sees which callers mode "refuse" affects.
            Err(RewriteFault::Deprecated { field }) => (
                bytes,
                vec![field.clone()],
                Some(Error::DeprecatedField {
                    field: field.into(),
                }),
            ),
            Err(RewriteFault::Conflict { old, .. }) => (
                bytes,
                vec![old.clone()],
                Some(Error::FieldConflict { field: old.into() }),
            ),
            Err(_) => return Err(Error::Parse),
        };
        if !fields.is_empty() {
            let record = head.extensions.get::<Record>().cloned().unwrap_or_default();
            let mut facts = record.facts();
            facts.deprecated = fields.into_iter().map(Arc::from).collect();
            facts.deprecation_link = rule.link.clone();
        }
        if let Some(error) = fault {
            return Err(error);
        }
        head.headers.remove(header::TRANSFER_ENCODING);
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        Ok(Request::from_parts(head, Body::full(bytes).guarded(memory)))
    }
}
