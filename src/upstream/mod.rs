//! The innermost service of the stack: the only one that opens connections to DevRev.
//!
//! Each worker thread has its own `Upstream`. The thread's runtime drives its connections, and no other thread uses them.

mod answer;
pub(crate) mod connector;
mod failure_log;
pub(crate) mod fetch;
mod form;
mod frames;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod lanes;
mod lease;
mod open;
mod pool;
mod proxy;
mod race;
mod self_connection;
pub(crate) mod tls;
mod wire;

use std::{
    error::Error as _,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Uri};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tower::Service;

pub(crate) use self::{
    answer::MAX_HEAD,
    lanes::{Lane, Lanes, Turn},
    open::{MAX_HTTP2_HEAD, MAX_UPSTREAM_BUFFER, MAX_UPSTREAM_WINDOW},
    proxy::Proxy,
    self_connection::OwnListeners,
};
use self::{
    answer::{Answered, Exchange, Held, MAX_FIELDS, WithRequest},
    failure_log::FailureLog,
    form::{set_absolute_form, set_origin_form},
    lease::Lease,
    open::Sender,
    pool::Pool,
};
use crate::{
    body::{Body, InboundFault},
    error::Error,
    policy::{progress::ProgressRules, upstream::Rules},
};

/// How to connect to the upstream.
#[derive(Clone)]
pub(crate) struct Options {
    /// Scheme and authority.
    pub url: Uri,
    /// `None` for plain `http://`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// HTTP/2 by prior knowledge on `http://`.
    pub http2_only: bool,
    /// Connections of this worker that take exchanges, or are being opened.
    pub max_connections: usize,
    /// Of a connect, while it tries the addresses of a name.
    pub sockets_per_connect: usize,
    /// No attempt may go to these.
    pub own_listeners: OwnListeners,
    pub proxy: Option<Proxy>,
    pub failures: Arc<FailureLog>,
}

/// Bounds that a reload may change while connections stay open.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For all that it takes to open a connection.
    pub connect_timeout: Duration,
    /// One attempt, from the end of its request to the answer's head.
    pub attempt_timeout: Duration,
    /// Of a pooled connection.
    pub idle_timeout: Duration,
    /// An older connection takes no more attempts.
    pub max_age: Duration,
    /// For the answer to a body over the limit.
    pub max_body: u64,
    /// How fast an answer must arrive.
    pub progress: ProgressRules,
}

impl Bounds {
    fn rules(&self, max_connections: usize) -> Rules {
        Rules {
            idle_timeout: self.idle_timeout,
            max_age: self.max_age,
            max_connections,
        }
    }
}

/// The client of the upstream. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Upstream {
    pool: Arc<Pool>,
    bounds: Bounds,
}

impl Upstream {
    /// Must be called on the runtime that will drive the connections.
    pub(crate) fn new(options: Options, bounds: Bounds) -> Self {
        Upstream {
            pool: Pool::new(options, bounds),
            bounds,
        }
    }

    /// Where an attempt takes its lane before it is sent. There are as many as places on the connections that are open or may be opened.
    pub(crate) fn lanes(&self) -> Lanes {
        self.pool.lanes.clone()
    }

    /// The same connections, from now on within other bounds.
    #[must_use]
    pub(crate) fn within(&self, bounds: Bounds) -> Self {
        self.pool.set_bounds(bounds);
        Upstream {
            pool: self.pool.clone(),
            bounds,
        }
    }
}

impl Service<Request<Body>> for Upstream {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Upstream { pool, bounds } = self.clone();
        Box::pin(async move {
            let fault = request.extensions().get::<InboundFault>().cloned();
            let max_body = bounds.max_body;
            let result = attempt(pool, bounds, request).await;
            // hyper reports an error of the caller's body as an error of the upstream call.
            match fault.and_then(|fault| fault.get()) {
                Some(fault) if result.is_err() => Err(Error::of_body(fault, max_body)),
                _ => result,
            }
        })
    }
}

/// One attempt, from its connection to the head of the answer.
async fn attempt(
    pool: Arc<Pool>,
    bounds: Bounds,
    mut request: Request<Body>,
) -> Result<Response<Body>, Error> {
    let held = Held::new(request.extensions_mut().remove::<Lane>());
    let mut sending = Sending::new(&request, bounds.attempt_timeout);
    let mut rest = None;
    loop {
        let lease = sending
            .until_overdue(pool.lease(bounds.connect_timeout))
            .await;
        let lease = lease.unwrap_or(Err(Error::UpstreamTimeout))?;
        let Some(Lease {
            sender,
            reused,
            slot,
        }) = lease
        else {
            // DevRev allows fewer attempts than when this one took its lane.
            let lane = held.take_lane().ok_or(Error::OVERLOADED)?;
            held.set_lane(lane.again().await?);
            sending = Sending::new(&request, bounds.attempt_timeout);
            continue;
        };
        held.hold(slot);
        let upstream = &pool.options.url;
        let (result, sender) = match sender {
            Sender::Http1(mut sender) => {
                set_origin_form(&mut request, upstream);
                sender.interim.count(&mut request);
                let sent = sender.request.try_send_request(request);
                (sending.until_overdue(sent).await?, Some(sender))
            }
            Sender::Http2(mut sender, _) => {
                set_absolute_form(&mut request, upstream);
                if rest.is_none() && !http_body::Body::is_end_stream(request.body()) {
                    let (guard, of_request) = WithRequest::new(held.clone());
                    rest = Some(of_request);
                    request = request.map(|body| body.guarded(guard));
                }
                let sent = sender.try_send_request(request);
                let sent = sending.until_overdue(sent).await;
                if matches!(sent, Err(Error::UpstreamTimeout)) {
                    held.suspect();
                }
                (sent?, None)
            }
        };
        match result {
            Ok(response) => {
                let exchange = match sender {
                    Some(sender) => Exchange::Http1(sender, held),
                    None => Exchange::Http2(Answered::new(held, rest, sending)),
                };
                return answer::accept(response, exchange, bounds.progress);
            }
            Err(mut error) => match error.take_message() {
                // DevRev closed the connection before anything of the request was written. Use another one. This loop ends, because each round
                // takes a connection out of the pool.
                Some(unsent) if reused => {
                    if let Some(slot) = held.take_slot() {
                        slot.close();
                    }
                    request = unsent;
                }
                Some(_) => return Err(Error::unreachable(error.into_error())),
                None => return Err(failed(error.into_error())),
            },
        }
    }
}

/// An attempt that ended on its connection without an answer, after some of it may have been written.
fn failed(error: hyper::Error) -> Error {
    let of_http2 = error
        .source()
        .and_then(|source| source.downcast_ref::<h2::Error>());
    match of_http2 {
        // RFC 9113 sections 6.8 and 8.7: this stream was above the last one of a GOAWAY, or was refused before any work. A stream that DevRev
        // may have worked on ends with another error.
        Some(http2)
            if http2.is_remote()
                && (http2.is_go_away() || http2.reason() == Some(h2::Reason::REFUSED_STREAM)) =>
        {
            Error::not_processed(error)
        }
        Some(http2) if http2.is_library() && http2.is_reset() => Error::broken(format!(
            "the answer's head is malformed, or has more than {MAX_HTTP2_HEAD} bytes: {http2}"
        )),
        _ if error.is_parse_too_large() => Error::broken(format!(
            "the answer's head has more than {MAX_FIELDS} fields or {MAX_UPSTREAM_BUFFER} bytes"
        )),
        _ => Error::broken(error),
    }
}

/// How long an attempt may take. The time runs from its beginning, and while its body is sent, from each part that was sent.
struct Sending {
    begun: Instant,
    /// Of a body that is sent as it comes.
    inbound: Option<InboundFault>,
    timeout: Duration,
}

impl Sending {
    fn new(request: &Request<Body>, timeout: Duration) -> Sending {
        let is_read = request.body().is_read();
        let inbound = request.extensions().get::<InboundFault>();
        Sending {
            begun: Instant::now(),
            inbound: inbound.filter(|_| !is_read).cloned(),
            timeout,
        }
    }

    /// # Errors
    /// When the time is over. It's the caller's fault if it is the caller who has not sent its body.
    async fn until_overdue<T>(&self, doing: impl Future<Output = T>) -> Result<T, Error> {
        tokio::pin!(doing);
        loop {
            if let Ok(done) = timeout_at(self.overdue(), &mut doing).await {
                return Ok(done);
            }
            if self.overdue() <= Instant::now() {
                let awaited = self.inbound.as_ref().is_some_and(InboundFault::is_awaited);
                return Err(match awaited {
                    true => Error::RequestTimeout,
                    false => Error::UpstreamTimeout,
                });
            }
        }
    }

    /// The same, as if it began now.
    fn restarted(&self) -> Sending {
        Sending {
            begun: Instant::now(),
            inbound: self.inbound.clone(),
            timeout: self.timeout,
        }
    }

    /// Waits until DevRev has taken nothing of the body for so long, although there was more.
    async fn stalled(&self) {
        loop {
            sleep_until(self.overdue()).await;
            let awaited = self.inbound.as_ref().is_some_and(InboundFault::is_awaited);
            if awaited {
                // Whoever reads it ends it in time.
                sleep(self.timeout).await;
            } else if self.overdue() <= Instant::now() {
                return;
            }
        }
    }

    fn overdue(&self) -> Instant {
        let latest = self.inbound.as_ref().map(InboundFault::latest);
        latest.map_or(self.begun, |latest| latest.max(self.begun)) + self.timeout
    }
}
