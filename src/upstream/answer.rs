//! An answer, from its head on: how long it holds its connection.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use hyper::{body::Incoming, client::conn::http1};
use tokio::time::{Instant, timeout_at};

use super::{Inner, Lane};
use crate::{
    body::{Body, Guard},
    error::Error,
    policy::progress::ProgressRules,
};

/// Makes the answer from its head. Its connection returns to the pool when the body ends.
///
/// # Errors
/// If it is no answer to the request.
pub(super) fn accept(
    response: Response<Incoming>,
    exchange: Exchange,
    rules: ProgressRules,
) -> Result<Response<Body>, Error> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::broken("a 101 without an upgrade request"));
    }
    let (mut head, body) = response.into_parts();
    // RFC 9112 section 6.3: Transfer-Encoding overrides Content-Length, which must be removed.
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    let kind = head.headers.get(header::CONTENT_TYPE);
    let mut rules = rules.for_answer(kind.map(HeaderValue::as_bytes));
    if body.size_hint().exact().is_none() {
        // It may be made as it goes, in whatever pieces.
        rules.min_rate = None;
    }
    let body = Body::answer(body, rules);
    let body = match body.is_end_stream() {
        true => {
            exchange.end();
            body
        }
        false => body.guarded(InProgress(Some(exchange))),
    };
    Ok(Response::from_parts(head, body))
}

/// A request and its answer on a connection.
pub(super) struct Exchange {
    pub inner: Arc<Inner>,
    /// `None` over HTTP/2.
    pub sender: Option<http1::SendRequest<Body>>,
    pub lane: Option<Lane>,
    pub idle_timeout: Duration,
}

/// How long a connection may take to be ready after its answer has ended. Usually its task needs one poll. It takes longer if DevRev
/// answers without reading the request's body; then a new connection is cheaper.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

impl Exchange {
    /// The answer was read completely, so the connection returns to the pool. Otherwise it is closed.
    fn end(self) {
        let Exchange {
            inner,
            sender,
            lane,
            idle_timeout,
        } = self;
        let Some(mut sender) = sender else {
            return;
        };
        if sender.is_ready() {
            inner.check_in(sender, idle_timeout);
        } else if !sender.is_closed() {
            // Its task has not noticed the end yet, or the request's body is not written completely: wait a little.
            tokio::spawn(async move {
                let deadline = Instant::now() + READY_TIMEOUT;
                if matches!(timeout_at(deadline, sender.ready()).await, Ok(Ok(()))) {
                    inner.check_in(sender, idle_timeout);
                }
                drop(lane);
            });
        }
    }
}

/// Ends the exchange with the body.
struct InProgress(Option<Exchange>);

impl Guard for InProgress {
    fn finished(&mut self) {
        if let Some(exchange) = self.0.take() {
            exchange.end();
        }
    }

    fn given_up(&mut self) {
        self.0 = None;
    }
}
