//! Accepts connections, bounds and serves them, and ends them in a drain.

use std::{
    io,
    sync::{
        Arc,
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
    activity::Activity,
    listener::Listener,
    refusal::RefusalStream,
    tls::{TlsConnection, handshake},
};
use crate::{
    body::{Body, InboundFault},
    serve::worker::Published,
    state::State,
    telemetry::client_lines::Topic,
    types::{AmbiguousFraming, Certificate, Peer, PeerAddress, RequestLimits},
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
    let mut server = Server::new(published, settings);
    loop {
        // At the limit, further connections wait in the kernel's backlog.
        let accepted = async {
            let permit = server
                .settings
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
            () = server.settings.state.draining.begun() => break,
            accepted = accepted => match accepted {
                Ok((permit, stream)) => {
                    server.follow_limits();
                    let (server, state) = (server.clone(), server.settings.state.clone());
                    connections.spawn(async move {
                        state.metrics.connections(1);
                        server.accept(stream).await;
                        state.metrics.connections(-1);
                        drop(permit);
                    });
                }
                Err(error) => {
                    if server.settings.state.client_lines.try_pass(Topic::Accept, None) {
                        tracing::warn!(%error, "a connection could not be accepted");
                    }
                    // Probably out of file descriptors; an immediate retry would spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(server.settings.drain_timeout, all_ended)
        .await
        .is_err()
    {
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

/// Serves connections.
#[derive(Clone)]
struct Server {
    published: Published,
    settings: Arc<ConnectionSettings>,
    /// Those of the plan that was in use when the last connection was accepted. A connection keeps them.
    limits: RequestLimits,
    /// For `limits`.
    builder: Arc<auto::Builder<TokioExecutor>>,
}

impl Server {
    fn new(published: Published, settings: Arc<ConnectionSettings>) -> Self {
        let limits = published.load().plan.request;
        Server {
            builder: Arc::new(http_builder(&settings, limits)),
            published,
            settings,
            limits,
        }
    }

    /// Takes over the limits of a reload, for the next connection.
    fn follow_limits(&mut self) {
        let limits = self.published.load().plan.request;
        if limits != self.limits {
            self.limits = limits;
            self.builder = Arc::new(http_builder(&self.settings, limits));
        }
    }

    /// Does the TLS handshake on TCP, or reads the peer's uid on a unix socket, and serves the connection then.
    async fn accept(self, stream: Stream) {
        // Without certificates, nothing is ever retired.
        let never = CancellationToken::new();
        let settings = self.settings.clone();
        let address = match &stream {
            Stream::Tcp(stream) => stream.peer_addr().map(|peer| PeerAddress(peer.ip())).ok(),
            Stream::Unix(_) => None,
        };
        match (stream, &settings.state.handshakes) {
            (Stream::Unix(stream), _) => {
                let uid = stream.peer_cred().map(|peer| Peer::Uid(peer.uid())).ok();
                self.serve(stream, address, uid, never).await;
            }
            (Stream::Tcp(stream), None) => self.serve(stream, address, None, never).await,
            (Stream::Tcp(stream), Some(handshakes)) => {
                let state = &settings.state;
                let within = settings.header_timeout;
                let connection = tokio::select! {
                    connection = handshake(handshakes, stream, within, state) => connection,
                    // No request has been sent yet, so none is lost.
                    () = settings.state.draining.begun() => None,
                };
                if let Some(TlsConnection {
                    stream,
                    peer,
                    retired,
                }) = connection
                {
                    self.serve(stream, address, peer, retired).await;
                }
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

impl Server {
    async fn serve<I>(
        self,
        stream: I,
        address: Option<PeerAddress>,
        peer: Option<Peer>,
        retired: CancellationToken,
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
        let Server {
            published,
            settings,
            limits,
            builder,
        } = self;
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (busy, ambiguous) = activity.begin();
            // The request keeps this plan to its last attempt.
            let (stack, limits) = {
                let serving = published.load();
                (serving.stack.clone(), serving.plan.request)
            };
            let fault = InboundFault::default();
            let mut request = request
                .map(|body| Body::inbound(body, limits.max_body, limits.progress, fault.clone()));
            request.extensions_mut().insert(fault);
            if let Some(PeerAddress(address)) = address {
                request.extensions_mut().insert(PeerAddress(address));
            }
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
                    let deadline = watch.deadline(settings.header_timeout, settings.idle_timeout);
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
}
