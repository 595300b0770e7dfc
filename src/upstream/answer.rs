//! An answer, from its head on: what is too much of it, and how long it holds its connection.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::{
    runtime::Handle,
    sync::oneshot::{self, error::TryRecvError},
    time::{Instant, timeout_at},
};

use super::{
    Lane, Sending,
    lease::Slot,
    open::{Http1, Sender},
};
use crate::{
    body::{Body, Guard},
    error::Error,
    lock::Lock,
    policy::progress::ProgressRules,
};

/// Bytes of an answer's head, over either protocol: names and values, and 32 for each field (RFC 9113 section 6.5.2). What a request may
/// have by default.
pub(crate) const MAX_HEAD: usize = 64 * 1024;

/// More than DevRev sends. What a request may have by default.
pub(super) const MAX_FIELDS: usize = 100;

/// Makes the answer from its head. Its connection returns to the pool when the body ends.
///
/// # Errors
/// If it is no answer to the request, or its head is too large.
pub(super) fn accept(
    response: Response<Incoming>,
    exchange: Exchange,
    rules: ProgressRules,
) -> Result<Response<Body>, Error> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::broken("a 101 without an upgrade request"));
    }
    let (mut head, body) = response.into_parts();
    check(&head.headers)?;
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

fn check(headers: &HeaderMap) -> Result<(), Error> {
    let fields = headers.len();
    if fields > MAX_FIELDS {
        return Err(Error::broken(format!(
            "the answer's head has {fields} fields; at most {MAX_FIELDS} are accepted"
        )));
    }
    let sizes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32);
    let bytes: usize = sizes.sum();
    if bytes > MAX_HEAD {
        return Err(Error::broken(format!(
            "the answer's head has {bytes} bytes; at most {MAX_HEAD} are accepted"
        )));
    }
    Ok(())
}

/// A request and its answer on a connection.
pub(super) enum Exchange {
    Http1(Http1, Arc<Held>),
    Http2(#[expect(dead_code, reason = "dropped")] Answered),
}

/// Over HTTP/2 a request may go on when its answer is over. When this is dropped, the answer is.
pub(super) struct Answered {
    held: Arc<Held>,
    rest: Option<Rest>,
    sending: Sending,
}

/// What is still to be sent of a request.
type Rest = oneshot::Receiver<Infallible>;

impl Answered {
    pub(super) fn new(held: Arc<Held>, rest: Option<Rest>, sending: Sending) -> Answered {
        Answered {
            held,
            rest,
            sending,
        }
    }
}

impl Drop for Answered {
    /// The rest of the request keeps its place only as long as DevRev takes it.
    fn drop(&mut self) {
        let rest = self.rest.take();
        let rest = rest.and_then(|mut rest| match rest.try_recv() {
            Err(TryRecvError::Closed) => None,
            _ => Some(rest),
        });
        let (Some(rest), Ok(runtime)) = (rest, Handle::try_current()) else {
            return;
        };
        let (held, sending) = (self.held.clone(), self.sending.restarted());
        runtime.spawn(async move {
            tokio::select! {
                _sent = rest => {}
                () = sending.stalled() => held.abandon(),
            }
        });
    }
}

/// What an attempt holds until its answer has been read and its request has been sent. Over HTTP/2 a stream is open as long as either goes
/// on.
#[derive(Default)]
pub(super) struct Held(Lock<(Option<Slot>, Option<Lane>)>);

impl Held {
    pub(super) fn new(lane: Option<Lane>) -> Arc<Held> {
        Arc::new(Held(Lock::new((None, lane))))
    }

    /// Holds this place from now on.
    pub(super) fn hold(&self, slot: Slot) {
        let _old = self.0.lock().0.replace(slot);
    }

    pub(super) fn take_slot(&self) -> Option<Slot> {
        self.0.lock().0.take()
    }

    pub(super) fn take_lane(&self) -> Option<Lane> {
        self.0.lock().1.take()
    }

    pub(super) fn set_lane(&self, lane: Lane) {
        self.0.lock().1 = Some(lane);
    }

    pub(super) fn suspect(&self) {
        if let Some(slot) = &self.0.lock().0 {
            slot.suspect();
        }
    }

    /// Gives back what is held, with a connection that is no good.
    fn abandon(&self) {
        let (slot, _lane) = std::mem::take(&mut *self.0.lock());
        if let Some(slot) = slot {
            slot.abandon();
        }
    }
}

/// Holds it as long as the request's body.
pub(super) struct WithRequest {
    _held: Arc<Held>,
    _rest: oneshot::Sender<Infallible>,
}

impl WithRequest {
    pub(super) fn new(held: Arc<Held>) -> (WithRequest, Rest) {
        let (sender, rest) = oneshot::channel();
        let guard = WithRequest {
            _held: held,
            _rest: sender,
        };
        (guard, rest)
    }
}

impl Guard for WithRequest {}

/// How long a connection may take to be ready after its answer has ended. Usually its task needs one poll. It takes longer if DevRev
/// answers without reading the request's body; then a new connection is cheaper.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

impl Exchange {
    /// The answer was read completely, so the connection returns to the pool. Otherwise it is closed.
    fn end(self) {
        let Exchange::Http1(mut sender, held) = self else {
            return;
        };
        let (slot, lane) = (held.take_slot(), held.take_lane());
        let Some(slot) = slot else {
            return;
        };
        if sender.request.is_ready() {
            slot.give_back(Sender::Http1(sender));
        } else if !sender.request.is_closed() {
            // Its task has not noticed the end yet, or the request's body is not written completely: wait a little.
            tokio::spawn(async move {
                let deadline = Instant::now() + READY_TIMEOUT;
                if matches!(
                    timeout_at(deadline, sender.request.ready()).await,
                    Ok(Ok(()))
                ) {
                    slot.give_back(Sender::Http1(sender));
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
