//! The innermost service of the stack: the only one that opens connections to DevRev.
//!
//! Each worker thread has its own `Upstream`. The thread's runtime drives its connections, and no other thread uses them.

pub(crate) mod connector;
pub(crate) mod fetch;
mod form;
mod pool;
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

use http::{Request, Response, StatusCode, Uri, header};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tower::Service;

pub(crate) use self::self_connection::OwnListeners;
use self::{
    connector::{Connected, Connector},
    form::{set_absolute_form, set_origin_form},
    pool::{Idle, ReturnToPool, reap},
};
use crate::{
    body::{Body, Fault, Guard, InboundFault},
    error::Error,
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
}

/// Bounds that a reload may change while connections stay open.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Name look-up, TCP and TLS together.
    pub connect_timeout: Duration,
    /// One attempt, until the answer's head.
    pub attempt_timeout: Duration,
    /// Of a pooled connection.
    pub idle_timeout: Duration,
    /// For the answer to a body over the limit.
    pub max_body: u64,
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
    /// A permit is a connection in use. A connection is opened only if none is idle, so all connections together never exceed the
    /// permits.
    slots: Arc<Semaphore>,
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
    /// The permit is given back when the connection is idle or closed.
    Http1(http1::SendRequest<Body>, OwnedSemaphorePermit),
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
            ),
            slots: Arc::new(Semaphore::new(options.max_connections)),
            idle: Mutex::default(),
            multiplexed: tokio::sync::Mutex::default(),
            idle_changed: idle_changed.clone(),
            options,
        });
        tokio::spawn(reap(Arc::downgrade(&inner), idle_changed));
        Upstream { inner, bounds }
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
                Some(Fault::Broken) if result.is_err() => Err(Error::BrokenBody),
                Some(Fault::TooLarge) if result.is_err() => Err(Error::BodyTooLarge {
                    max_bytes: max_body,
                }),
                _ => result,
            }
        })
    }
}

/// One attempt, from the connection to the head of the answer.
async fn attempt(
    inner: Arc<Inner>,
    bounds: Bounds,
    mut request: Request<Body>,
) -> Result<Response<Body>, Error> {
    let until = Instant::now() + bounds.attempt_timeout;
    loop {
        let leased = timeout_at(until, inner.lease(until, bounds)).await;
        let Lease { sender, reused } = leased.unwrap_or_else(|_elapsed| {
            let cause = "no connection within upstream.attempt_timeout";
            Err(Error::unreachable(cause))
        })?;
        let (result, lease) = match sender {
            Sender::Http1(mut sender, permit) => {
                set_origin_form(&mut request, &inner.options.url);
                let sent = timeout_at(until, sender.try_send_request(request)).await;
                (sent, Some((sender, permit)))
            }
            Sender::Http2(mut sender) => {
                set_absolute_form(&mut request, &inner.options.url);
                let sent = timeout_at(until, sender.try_send_request(request)).await;
                (sent, None)
            }
        };
        match result {
            Err(_elapsed) => return Err(Error::UpstreamTimeout),
            Ok(Ok(response)) => return accept(&inner, response, bounds.idle_timeout, lease),
            Ok(Err(mut error)) => match error.take_message() {
                // DevRev closed the idle connection before anything of the request was written. Use another one. This loop ends,
                // because each round takes a connection out of the pool.
                Some(unsent) if reused => request = unsent,
                Some(_) => return Err(Error::unreachable(error.into_error())),
                None => return Err(Error::broken(error.into_error())),
            },
        }
    }
}

/// Makes the answer from its head. The connection returns to the pool when the body ends.
fn accept(
    inner: &Arc<Inner>,
    response: Response<Incoming>,
    idle_timeout: Duration,
    lease: Option<(http1::SendRequest<Body>, OwnedSemaphorePermit)>,
) -> Result<Response<Body>, Error> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::broken("a 101 without an upgrade request"));
    }
    let (mut head, body) = response.into_parts();
    // RFC 9112 section 6.3: Transfer-Encoding overrides Content-Length, which must be removed.
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    let body = Body::incoming(body);
    let ended = http_body::Body::is_end_stream(&body);
    let body = match lease {
        None => body,
        Some((sender, permit)) => {
            let mut return_to_pool = ReturnToPool {
                inner: inner.clone(),
                idle_timeout,
                lease: Some((sender, permit)),
                whole: false,
            };
            if ended {
                return_to_pool.finished();
                body
            } else {
                body.guarded(return_to_pool)
            }
        }
    };
    Ok(Response::from_parts(head, body))
}

impl Inner {
    async fn lease(&self, until: Instant, bounds: Bounds) -> Result<Lease, Error> {
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
        let permit = timeout_at(until, self.slots.clone().acquire_owned())
            .await
            .map_err(|_| Error::Overloaded {
                retry_after: Duration::from_secs(1),
            })?
            .map_err(|_| Error::Internal)?;
        if let Some(sender) = self.check_out(bounds.idle_timeout) {
            return Ok(Lease {
                sender: Sender::Http1(sender, permit),
                reused: true,
            });
        }
        let Connected { stream, http2 } = self.connect(bounds).await?;
        if http2 {
            let sender = http2_handshake(stream).await?;
            *self.multiplexed.lock().await = Some(sender.clone());
            return Ok(Lease::new(Sender::Http2(sender)));
        }
        let sender = http1_handshake(stream).await?;
        Ok(Lease::new(Sender::Http1(sender, permit)))
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

/// More than DevRev sends. hyper's default.
const MAX_RESPONSE_HEADERS: usize = 100;

async fn http1_handshake(stream: connector::Stream) -> Result<http1::SendRequest<Body>, Error> {
    let (sender, connection) = http1::Builder::new()
        .max_headers(MAX_RESPONSE_HEADERS)
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
        .adaptive_window(true)
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
