//! The innermost service of the stack: the only one that opens connections to DevRev.
//!
//! Each worker thread has its own `Upstream`. The thread's runtime drives its connections, and no other thread uses them.

mod answer;
pub(crate) mod connector;
mod failure_log;
pub(crate) mod fetch;
mod form;
mod lanes;
mod pool;
mod proxy;
mod race;
mod self_connection;
pub(crate) mod tls;

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Uri};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tower::Service;

pub(crate) use self::lanes::{Lane, Lanes};
pub(crate) use self::proxy::Proxy;
pub(crate) use self::self_connection::OwnListeners;
use self::{
    answer::Exchange,
    connector::{Connected, Connector},
    form::{set_absolute_form, set_origin_form},
    lanes::MAX_STREAMS,
    pool::{Idle, reap},
};
use crate::{
    body::{Body, InboundFault},
    error::Error,
    policy::progress::ProgressRules,
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
    /// HTTP/1.1 connections of this worker, in use and idle together.
    pub max_connections: usize,
    /// No attempt may go to these.
    pub own_listeners: OwnListeners,
    pub proxy: Option<Proxy>,
}

/// Bounds that a reload may change while connections stay open.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Name look-up, TCP and TLS together.
    pub connect_timeout: Duration,
    /// One attempt, from the end of its request to the answer's head.
    pub attempt_timeout: Duration,
    /// Of a pooled connection.
    pub idle_timeout: Duration,
    /// For the answer to a body over the limit.
    pub max_body: u64,
    /// How fast an answer must arrive.
    pub progress: ProgressRules,
}

/// The client of the upstream. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Upstream {
    inner: Arc<Inner>,
    bounds: Bounds,
}

struct Inner {
    options: Options,
    connector: Connector,
    lanes: Lanes,
    idle: Mutex<VecDeque<Idle>>,
    /// Notified when a connection becomes idle, and when the pool is dropped.
    idle_changed: Arc<Notify>,
    /// The only HTTP/2 connection, once there is one. With `http2_only` the lock is held while connecting, so that a burst opens one
    /// connection.
    multiplexed: tokio::sync::Mutex<Option<http2::SendRequest<Body>>>,
}

/// A connection for one attempt.
struct Lease {
    sender: Sender,
    /// An attempt used it before, so DevRev may have closed it meanwhile.
    reused: bool,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Upstream {
    /// Must be called on the runtime that will drive the connections.
    pub(crate) fn new(options: Options, bounds: Bounds) -> Self {
        let idle_changed = Arc::new(Notify::new());
        let inner = Arc::new(Inner {
            connector: Connector::new(
                &options.url,
                options.tls.clone(),
                options.own_listeners.clone(),
                options.proxy.clone(),
            )
            .reporting(),
            lanes: Lanes::new(options.max_connections, options.http2_only),
            idle: Mutex::default(),
            multiplexed: tokio::sync::Mutex::default(),
            idle_changed: idle_changed.clone(),
            options,
        });
        tokio::spawn(reap(Arc::downgrade(&inner), idle_changed));
        Upstream { inner, bounds }
    }

    /// Where an attempt takes its lane before it is sent. One connection is opened for each attempt under way if none is idle, so all
    /// connections together never exceed the lanes.
    pub(crate) fn lanes(&self) -> Lanes {
        self.inner.lanes.clone()
    }

    /// The same connections, used within other bounds.
    #[must_use]
    pub(crate) fn within(&self, bounds: Bounds) -> Self {
        Upstream {
            inner: self.inner.clone(),
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
        let Upstream { inner, bounds } = self.clone();
        Box::pin(async move {
            let fault = request.extensions().get::<InboundFault>().cloned();
            let max_body = bounds.max_body;
            let result = attempt(inner, bounds, request).await;
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
    inner: Arc<Inner>,
    bounds: Bounds,
    mut request: Request<Body>,
) -> Result<Response<Body>, Error> {
    let lane = request.extensions_mut().remove::<Lane>();
    let sending = Sending::new(&request, bounds.attempt_timeout);
    loop {
        let lease = sending.until_overdue(inner.lease(bounds)).await;
        let Lease { sender, reused } = lease.unwrap_or(Err(Error::UpstreamTimeout))?;
        let (result, sender) = match sender {
            Sender::Http1(mut sender) => {
                set_origin_form(&mut request, &inner.options.url);
                let sent = sender.try_send_request(request);
                (sending.until_overdue(sent).await?, Some(sender))
            }
            Sender::Http2(mut sender) => {
                set_absolute_form(&mut request, &inner.options.url);
                let sent = sender.try_send_request(request);
                (sending.until_overdue(sent).await?, None)
            }
        };
        match result {
            Ok(response) => {
                let exchange = Exchange {
                    inner,
                    sender,
                    lane,
                    idle_timeout: bounds.idle_timeout,
                };
                return answer::accept(response, exchange, bounds.progress);
            }
            Err(mut error) => match error.take_message() {
                // DevRev closed the idle connection before anything of the request was written. Use another one. This loop ends,
                // because each round takes a connection out of the pool.
                Some(unsent) if reused => request = unsent,
                Some(_) => return Err(Error::unreachable(error.into_error())),
                None => return Err(Error::broken(error.into_error())),
            },
        }
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

    fn overdue(&self) -> Instant {
        let latest = self.inbound.as_ref().map(InboundFault::latest);
        latest.map_or(self.begun, |latest| latest.max(self.begun)) + self.timeout
    }
}

impl Inner {
    async fn lease(&self, bounds: Bounds) -> Result<Lease, Error> {
        if self.options.http2_only {
            let mut shared = self.multiplexed.lock().await;
            if let Some(lease) = reuse(&shared) {
                return Ok(lease);
            }
            let Connected { stream, .. } = self.connect(bounds).await?;
            let sender = http2_handshake(stream).await?;
            *shared = Some(sender.clone());
            return Ok(Lease::new(Sender::Http2(sender)));
        }
        // Locked only for the moment in which a connection is stored. An attempt in that moment opens one more.
        if let Ok(shared) = self.multiplexed.try_lock()
            && let Some(lease) = reuse(&shared)
        {
            return Ok(lease);
        }
        if let Some(sender) = self.check_out(bounds.idle_timeout) {
            return Ok(Lease {
                sender: Sender::Http1(sender),
                reused: true,
            });
        }
        let Connected { stream, http2 } = self.connect(bounds).await?;
        self.lanes.set_http2(http2);
        if http2 {
            let sender = http2_handshake(stream).await?;
            *self.multiplexed.lock().await = Some(sender.clone());
            return Ok(Lease::new(Sender::Http2(sender)));
        }
        let sender = http1_handshake(stream).await?;
        Ok(Lease::new(Sender::Http1(sender)))
    }

    async fn connect(&self, bounds: Bounds) -> Result<Connected, Error> {
        let connected = self.connector.connect(bounds.connect_timeout).await;
        connected.map_err(Error::unreachable)
    }
}

impl Lease {
    /// Of a new connection.
    fn new(sender: Sender) -> Self {
        Lease {
            sender,
            reused: false,
        }
    }
}

/// The shared HTTP/2 connection, if it is open.
fn reuse(shared: &Option<http2::SendRequest<Body>>) -> Option<Lease> {
    let sender = shared.as_ref().filter(|sender| !sender.is_closed())?;
    Some(Lease {
        sender: Sender::Http2(sender.clone()),
        reused: true,
    })
}

/// What DevRev may send of one answer before it is read, in bytes. The default of RFC 9113 section 6.5.2; at 10 ms to DevRev it carries
/// 6 MB/s.
const STREAM_WINDOW: u32 = 65_535;

/// What DevRev may send of all answers before any is read.
pub(crate) const MAX_UPSTREAM_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;

/// Bytes of an answer that hyper reads at once over HTTP/1.1, and so the largest head.
pub(crate) const MAX_UPSTREAM_BUFFER: usize = 96 * 1024;

/// More than DevRev sends. hyper's default.
const MAX_RESPONSE_HEADERS: usize = 100;

async fn http1_handshake(stream: connector::Stream) -> Result<http1::SendRequest<Body>, Error> {
    let (sender, connection) = http1::Builder::new()
        .max_headers(MAX_RESPONSE_HEADERS)
        .max_buf_size(MAX_UPSTREAM_BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Error::unreachable)?;
    drive(connection);
    Ok(sender)
}

async fn http2_handshake(stream: connector::Stream) -> Result<http2::SendRequest<Body>, Error> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // Detects a dead connection within 30 s, long before TCP does.
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        // The windows of all streams together. If it were less, answers that nobody reads would use it up and stop all others.
        .initial_connection_window_size(MAX_UPSTREAM_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Error::unreachable)?;
    drive(connection);
    Ok(sender)
}

/// Runs a connection in the background, until either side closes it.
fn drive(connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
}
