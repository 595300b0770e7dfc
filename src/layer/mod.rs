//! The layers of the stack, one file or folder each. A layer carries bytes and waits; `policy` makes its decisions.
//!
//! Layers import neither each other nor the configuration. Each takes a small parameter struct of its own.

pub(crate) mod admission;
pub(crate) mod attempt;
pub(crate) mod authenticate;
pub(crate) mod authorize;
pub(crate) mod circuit;
pub(crate) mod collect;
pub(crate) mod credential;
pub(crate) mod headers;
pub(crate) mod lane;
pub(crate) mod protocol;
pub mod quota;
pub(crate) mod rate_limit;
pub(crate) mod rescue;
pub(crate) mod retry;
pub(crate) mod rewrite;
pub(crate) mod telemetry;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Extensions, HeaderMap, HeaderValue, Request, Response, Uri, header};
use pin_project_lite::pin_project;

use crate::{
    allocation::{Allocation, FREE_HEAD, HEADS, Place, PlanPool, Pool},
    body::{Body, InboundFault, ReadAhead, read_up_to},
    error::Error,
    policy::{
        allocator::Claim,
        operation::{Operation, TOKEN_INFO},
        retry::AttemptEnd,
        target::head_bytes,
    },
    record::Record,
    telemetry::metrics::Metrics,
    types::{Caller, RequestId, RetryAfter},
};

/// The future of layers that wait.
pub type BoxFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

pin_project! {
    /// The future of layers that decide by the request's head: an immediate refusal, or the inner service's future. `Boxed`
    /// is for the rare request whose head does not suffice.
    #[project = EitherProjection]
    pub enum Either<F> {
        Refused { error: Option<Error> },
        Inner { #[pin] future: F },
        Boxed { future: BoxFuture },
    }
}

impl<F> Either<F> {
    pub(crate) fn refused(error: Error) -> Self {
        Either::Refused { error: Some(error) }
    }

    pub(crate) fn inner(future: F) -> Self {
        Either::Inner { future }
    }

    pub(crate) fn boxed(future: BoxFuture) -> Self {
        Either::Boxed { future }
    }
}

impl<F: Future<Output = Result<Response<Body>, Error>>> Future for Either<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project() {
            EitherProjection::Refused { error } => {
                Poll::Ready(Err(error.take().unwrap_or(Error::Internal)))
            }
            EitherProjection::Inner { future } => future.poll(cx),
            EitherProjection::Boxed { future } => future.as_mut().poll(cx),
        }
    }
}

/// The record of this request; a new one where a test calls a layer by itself.
pub(crate) fn record<B>(request: &Request<B>) -> Record {
    request
        .extensions()
        .get::<Record>()
        .cloned()
        .unwrap_or_default()
}

/// The id of a request, for its lines at `debug` and `trace`. Their fields are evaluated only if the line is written.
pub(crate) fn id_of(extensions: &Extensions) -> &str {
    extensions.get::<RequestId>().map_or("", RequestId::as_str)
}

/// Logs who sent a request.
pub(crate) fn log_caller<B>(request: &Request<B>, caller: &Caller, own_token: bool) {
    tracing::debug!(
        request_id = id_of(request.extensions()),
        caller = &*caller.name,
        group = &*caller.group,
        own_token,
        max_wait_ms = caller.max_wait.as_millis() as u64,
        "the caller is {}",
        caller.name
    );
}

/// The group whose quota an attempt takes; see [`Caller::quota_group`].
///
/// # Errors
/// If no layer above has identified the caller.
pub(crate) fn quota_group(extensions: &Extensions) -> Result<Option<&Arc<str>>, Error> {
    let caller = extensions.get::<Arc<Caller>>().ok_or(Error::Internal)?;
    let operation = extensions.get::<Operation>().ok_or(Error::Internal)?;
    Ok(caller.quota_group(operation))
}

/// The places in flight, as one plan bounds them.
#[derive(Clone)]
pub(crate) struct Places {
    pub pool: Arc<Pool>,
    pub max: usize,
    /// Bytes of large heads.
    pub heads: Arc<Pool>,
}

impl Places {
    /// A place for a request with these header fields.
    ///
    /// # Errors
    /// If none is free for this claim, or no room for its large head.
    pub(crate) fn take(&self, claim: &Claim, headers: &HeaderMap) -> Result<Place, Error> {
        let place = self.pool.try_take(self.max as u64, claim, 1);
        let in_flight = Arc::new(place.ok_or(Error::OVERLOADED)?);
        let large = head_bytes(headers).saturating_sub(FREE_HEAD);
        let head = match large {
            0 => None,
            bytes => {
                let taken = self.heads.try_take(HEADS, claim, bytes as u64);
                Some(Arc::new(taken.ok_or(Error::OVERLOADED)?))
            }
        };
        Ok(Place { in_flight, head })
    }
}

/// Refuses a request that breaks a rule of its caller. While the rules are not enforced, it counts the refusal and lets the request
/// pass.
pub(crate) fn refuse_if_enforced(
    refusal: Error,
    caller: &Caller,
    record: &Record,
    metrics: &Metrics,
) -> Result<(), Error> {
    if caller.enforce {
        return Err(refusal);
    }
    let code = refusal.code();
    record.facts().would_refuse.get_or_insert(code);
    metrics.would_refuse(&caller.name, code);
    Ok(())
}

/// A call of revgate's own that asks DevRev about the token with which it is sent: a read without a body. For its way down it needs
/// the extensions of an attempt.
pub(crate) fn token_info_request() -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from_static(TOKEN_INFO);
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(header::ACCEPT, json);
    request
}

/// Bounds of a caller's body.
#[derive(Clone)]
pub(crate) struct BodyLimits {
    /// Of any body, in bytes.
    pub max: u64,
    /// Where bodies are kept that are read ahead.
    pub buffered: PlanPool,
}

/// The start of a body, and the memory that it takes.
pub(crate) struct Buffered {
    pub read: ReadAhead,
    pub memory: Allocation,
}

impl BodyLimits {
    /// Reads a caller's body, or the start of one that has more than `read_ahead` bytes, into memory that is dealt out to this claim.
    ///
    /// # Errors
    /// When it breaks off, stands still or exceeds the limits, or when there is no memory for it.
    pub(crate) async fn read(
        &self,
        body: &mut Body,
        fault: Option<&InboundFault>,
        read_ahead: usize,
        claim: &Claim,
    ) -> Result<Buffered, Error> {
        // Of a known length all is taken at once, so that a request finds out before its body is read.
        let known = http_body::Body::size_hint(body).lower();
        let known = known.min(read_ahead as u64);
        let mut memory = self.buffered.take(claim, known)?;
        let (mut came, mut taken, mut is_full) = (0, known, false);
        let read = read_up_to(body, read_ahead, |bytes| {
            came += bytes as u64;
            let more = came.saturating_sub(taken);
            is_full = more > 0 && !memory.try_grow(self.buffered.capacity, more);
            taken += more;
            !is_full
        });
        match read.await {
            Ok(read) => Ok(Buffered { read, memory }),
            Err(_) if is_full => Err(Error::OVERLOADED),
            Err(_) => Err(fault
                .and_then(InboundFault::get)
                .map_or(Error::BrokenBody, |fault| Error::of_body(fault, self.max))),
        }
    }
}

/// How an attempt ended, in policy's terms; `None` if revgate itself refused or ended it.
pub(crate) fn attempt_end(result: &Result<Response<Body>, Error>) -> Option<AttemptEnd> {
    match result {
        Ok(response) => Some(AttemptEnd::Status {
            status: response.status(),
            retry_after: response.extensions().get().map(|RetryAfter(time)| *time),
        }),
        Err(Error::Unreachable(_)) => Some(AttemptEnd::NotWritten),
        Err(Error::AlsoUnreachable(_)) => Some(AttemptEnd::AlsoNotWritten),
        Err(Error::NotProcessed(_)) => Some(AttemptEnd::NotProcessed),
        Err(Error::Broken(_)) => Some(AttemptEnd::Lost),
        Err(Error::UpstreamTimeout) => Some(AttemptEnd::TimedOut),
        Err(_) => None,
    }
}
