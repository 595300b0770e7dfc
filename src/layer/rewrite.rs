//! Renames deprecated fields, once per request, so that retries send the renamed body.

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use tokio::{task::spawn_blocking, time::Instant};
use tower::Service;

use super::{BodyLimits, BoxFuture, Buffered};
use crate::{
    allocation::{Place, PlanPool},
    body::{Body, InboundFault},
    error::Error,
    policy::{
        allocator::Claim,
        operation::Operation,
        rewrite::{RewriteFault, Rewritten, Rule, Skip, rewrite, skip},
    },
    record::Record,
    state::draining::Draining,
    telemetry::metrics::Metrics,
    types::Deadline,
};

/// What [`Rewrite`] needs.
pub(crate) struct RewriteParams {
    /// By the operation's normalised name.
    pub rules: Arc<HashMap<String, Arc<Rule>>>,
    /// Upper bound of a body to which a rule applies, in bytes.
    pub max_rewrite_body: u64,
    pub body: BodyLimits,
    /// Turns on a processor, for bodies that take long.
    pub turns: PlanPool,
    pub draining: Draining,
    pub metrics: Arc<Metrics>,
}

/// A larger body is rewritten on another thread, one at a time, so that it delays no other request: the costliest of this size takes about
/// half a millisecond.
const LONG: usize = 16 * 1024;

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

    async fn apply(
        &self,
        rule: &Arc<Rule>,
        request: Request<Body>,
    ) -> Result<Request<Body>, Error> {
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
        let rewritten = match bytes.len() {
            0..=LONG => rewrite(&bytes, rule),
            _ => {
                let deadline = head.extensions.get::<Deadline>();
                // The caller's wait is for quota: one that does not wait for that waits a moment for its turn all the same.
                let moment = Instant::now() + Duration::from_secs(1);
                let until = deadline.map_or(moment, |deadline| deadline.0.max(moment));
                self.rewrite_elsewhere(bytes.clone(), rule.clone(), &claim, until)
                    .await?
            }
        };
        let (bytes, fields, fault) = match rewritten {
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

    /// Rewrites on another thread, when it is this claim's turn.
    async fn rewrite_elsewhere(
        &self,
        bytes: Bytes,
        rule: Arc<Rule>,
        claim: &Claim,
        until: Instant,
    ) -> Result<Result<Rewritten, RewriteFault>, Error> {
        let PlanPool { pool, capacity } = &self.turns;
        let turn = pool.take(*capacity, claim, 1, until);
        let turn = self.draining.bound(turn).await?;
        let turn = turn.ok_or(Error::OVERLOADED)?;
        let rewritten = spawn_blocking(move || {
            let rewritten = rewrite(&bytes, &rule);
            // It lasts as long as the work, also if the caller has gone.
            drop(turn);
            rewritten
        });
        rewritten.await.map_err(|_| Error::Internal)
    }
}
