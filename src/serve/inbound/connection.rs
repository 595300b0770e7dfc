//! Accepts connections, bounds and serves them, and ends them in a drain.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    listener::Listener,
    refusal::RefusalStream,
    tls::{TlsConnection, handshake},
};
use crate::{
    body::{Body, Guard, InboundFault},
    serve::worker::Published,
    state::State,
    types::{AmbiguousFraming, Certificate, Peer, RequestLimits},
};

/// What all connections have in common.
pub(crate) struct ConnectionSettings {
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub drain_timeout: Duration,
    /// `listen.max_connections`, for all workers together.
    pub connections: Arc<Semaphore>,
    pub state: Arc<State>,
}

enum AsyncListener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// Serves until a drain has ended every connection, or `drain_timeout` is over.
pub(crate) async fn serve(
    listener: Listener,
    published: Published,
    settings: Arc<ConnectionSettings>,
) {
    let listener = match listener {
        Listener::Tcp(listener) => {
            tokio::net::TcpListener::from_std(listener).map(AsyncListener::Tcp)
        }
        Listener::Unix(listener) => {
            tokio::net::UnixListener::from_std(listener).map(AsyncListener::Unix)
        }
    };
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener could not be used"),
    };
    let mut connections = JoinSet::new();
    let mut limits = published.load().plan.request;
    let mut builder = Arc::new(http_builder(&settings, limits));
    loop {
        // At the limit, further connections wait in the kernel's backlog.
        let accepted = async {
            let permit = settings
                .connections
                .clone()
                .acquire_owned()
                .await
                .map_err(io::Error::other)?;
            let stream = match &listener {
                AsyncListener::Tcp(listener) => {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    Stream::Tcp(stream)
                }
                AsyncListener::Unix(listener) => Stream::Unix(listener.accept().await?.0),
            };
            Ok::<_, io::Error>((permit, stream))
        };
        tokio::select! {
            () = settings.state.draining.begun() => break,
            accepted = accepted => match accepted {
                Ok((permit, stream)) => {
                    let now = published.load().plan.request;
                    if now != limits {
                        limits = now;
                        builder = Arc::new(http_builder(&settings, limits));
                    }
                    let (published, settings, builder) =
                        (published.clone(), settings.clone(), builder.clone());
                    connections.spawn(async move {
                        settings.state.metrics.connections(1);
                        accept(stream, published, limits, &settings, &builder).await;
                        settings.state.metrics.connections(-1);
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Probably out of file descriptors; an immediate retry would spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(settings.drain_timeout, all_ended).await.is_err() {
        tracing::warn!(
            left = connections.len(),
            "drain.timeout is over; the remaining connections are closed"
        );
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

/// Does the TLS handshake on TCP, or reads the peer's uid on a unix socket, and serves the connection then.
async fn accept(
    stream: Stream,
    published: Published,
    limits: RequestLimits,
    settings: &ConnectionSettings,
    builder: &auto::Builder<TokioExecutor>,
) {
    // Without certificates, nothing is ever retired.
    let never = CancellationToken::new();
    match (stream, &settings.state.handshakes) {
        (Stream::Unix(stream), _) => {
            let uid = stream.peer_cred().map(|peer| Peer::Uid(peer.uid())).ok();
            serve_connection(stream, published, limits, settings, builder, (uid, never)).await;
        }
        (Stream::Tcp(stream), None) => {
            serve_connection(stream, published, limits, settings, builder, (None, never)).await;
        }
        (Stream::Tcp(stream), Some(handshakes)) => {
            let metrics = &settings.state.metrics;
            let shaken = handshake(handshakes, stream, settings.header_timeout, metrics);
            let secured = tokio::select! {
                secured = shaken => secured,
                // No request has been sent yet, so none is lost.
                () = settings.state.draining.begun() => None,
            };
            if let Some(TlsConnection {
                stream,
                peer,
                retired,
            }) = secured
            {
                serve_connection(
                    stream,
                    published,
                    limits,
                    settings,
                    builder,
                    (peer, retired),
                )
                .await;
            }
        }
    }
}

fn http_builder(
    settings: &ConnectionSettings,
    limits: RequestLimits,
) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // hyper's own limits are above ours, so that a request slightly over the limit gets our answer.
    let buffer = limits.max_header_bytes.saturating_mul(2).max(16 * 1024);
    builder
        .http1()
        .timer(TokioTimer::new())
        // hyper also runs this timer between requests. `Activity` enforces both times exactly.
        .header_read_timeout(settings.header_timeout + settings.idle_timeout)
        .max_buf_size(buffer)
        .max_headers(limits.max_headers.saturating_mul(2));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .max_concurrent_streams(200)
        .max_header_list_size(u32::try_from(buffer.saturating_mul(4)).unwrap_or(u32::MAX));
    builder
}

/// What a connection is doing. Its stream and its service write it, and the timer that bounds the connection reads it.
#[derive(Clone)]
pub(crate) struct Activity(Arc<Mutex<ActivityState>>);

struct ActivityState {
    busy: usize,
    since: Instant,
    /// When the first byte of an incomplete head was read.
    head: Option<Instant>,
    served: bool,
    /// The last head had both Transfer-Encoding and Content-Length. hyper drops the latter, so the stack cannot see it.
    ambiguous: bool,
}

impl Activity {
    fn new() -> Self {
        Activity(Arc::new(Mutex::new(ActivityState {
            busy: 0,
            since: Instant::now(),
            head: None,
            served: false,
            ambiguous: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, ActivityState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.state().busy == 0
    }

    /// Bytes were read while no request was in flight, so a head has begun.
    ///
    /// HTTP/2 sends other frames between requests, so only the first head of a connection is timed there.
    pub(crate) fn head_begins(&self, http2: bool) {
        let mut state = self.state();
        if !(http2 && state.served) {
            state.head.get_or_insert_with(Instant::now);
        }
    }

    pub(crate) fn ambiguous(&self) {
        self.state().ambiguous = true;
    }

    fn begin(&self) -> (Busy, bool) {
        let mut state = self.state();
        state.busy += 1;
        state.head = None;
        state.served = true;
        let ambiguous = std::mem::take(&mut state.ambiguous);
        drop(state);
        (Busy(self.clone()), ambiguous)
    }

    /// When to end the connection if nothing more happens on it.
    fn deadline(&self, settings: &ConnectionSettings) -> Instant {
        let state = self.state();
        if state.busy > 0 {
            return Instant::now() + settings.idle_timeout;
        }
        let idle = state.since + settings.idle_timeout;
        state
            .head
            .map_or(idle, |begun| begun + settings.header_timeout)
    }
}

/// Held while a request is in flight, until the end of its answer's body.
struct Busy(Activity);

impl Guard for Busy {}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.busy -= 1;
        state.since = Instant::now();
    }
}

/// A peer whose certificate is no longer valid here: it still has one, but the certificate names no caller.
fn without_names(peer: &Peer) -> Peer {
    match peer {
        Peer::Certificate(certificate) => Peer::Certificate(Arc::new(Certificate {
            names: Vec::new(),
            not_after: certificate.not_after,
        })),
        Peer::Uid(uid) => Peer::Uid(*uid),
    }
}

async fn serve_connection<I>(
    stream: I,
    published: Published,
    limits: RequestLimits,
    settings: &ConnectionSettings,
    builder: &auto::Builder<TokioExecutor>,
    (peer, retired): (Option<Peer>, CancellationToken),
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Activity::new();
    let watch = activity.clone();
    // A client may keep using a connection that was asked to end. Its certificate names no caller from then on.
    let (revoked, peer_without_names) = (
        Arc::new(AtomicBool::new(false)),
        peer.as_ref().map(without_names),
    );
    let is_revoked = revoked.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (busy, ambiguous) = activity.begin();
        // The request keeps this plan to its last attempt.
        let (stack, max_body) = {
            let serving = published.load();
            (serving.stack.clone(), serving.plan.request.max_body)
        };
        let fault = InboundFault::default();
        let mut request = request.map(|body| Body::inbound(body, max_body, fault.clone()));
        request.extensions_mut().insert(fault);
        if ambiguous {
            request.extensions_mut().insert(AmbiguousFraming);
        }
        let peer = match is_revoked.load(Ordering::Acquire) {
            true => &peer_without_names,
            false => &peer,
        };
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer.clone());
        }
        async move {
            stack
                .oneshot(request)
                .await
                .map(|response| response.map(|body| body.guarded(busy)))
        }
    });
    let stream = RefusalStream::new(
        stream,
        watch.clone(),
        settings.state.metrics.clone(),
        limits.max_header_bytes.saturating_mul(2),
    );
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut ending = false;
    let mut until = Instant::now() + settings.header_timeout;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = sleep_until(until) => {
                if retired.is_cancelled() {
                    revoked.store(true, Ordering::Release);
                }
                let deadline = watch.deadline(settings);
                // A head may begin at any time, so check at least once per `header_timeout`.
                until = deadline.min(Instant::now() + settings.header_timeout);
                if ending || deadline <= Instant::now() {
                    if ending && watch.is_idle() {
                        return;
                    }
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                    // Cut it if it does not end by then.
                    until = Instant::now() + Duration::from_secs(1);
                }
            }
            () = settings.state.draining.begun(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = retired.cancelled(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
                // Requests already sent still pass with the certificate.
                until = Instant::now() + Duration::from_secs(1);
            }
        }
    }
}
