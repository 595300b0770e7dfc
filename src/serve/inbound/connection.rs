//! Serves connections, bounds them, and ends them in a drain.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Request, Version, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    accept::{Accepted, AsyncListener, Stream, accept},
    activity::{Activity, Unreads},
    delivery::Delivery,
    head::Speaks,
    http::{Builders, expects_100},
    listener::Listener,
    refusal::RefusalStream,
    tls::{TlsConnection, handshake},
    worker_time::Starts,
};
use crate::{
    body::{Body, InboundFault},
    event::Event,
    serve::worker::{Published, Serving},
    state::{
        State,
        connections::{ConnectionTable, OpenConnection},
    },
    telemetry::{client_lines::Topic, labels::ConnectionEnd},
    types::{Certificate, Peer, PeerAddress, RequestLimits},
};

/// What all connections have in common.
pub(crate) struct ConnectionSettings {
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub drain_timeout: Duration,
    /// As many as `listen.max_connections`, for all workers together.
    pub connections: Arc<ConnectionTable>,
    pub state: Arc<State>,
}

/// Serves until a drain has ended every connection, or `drain_timeout` is over.
pub(crate) async fn serve(
    listener: Listener,
    published: Published,
    settings: Arc<ConnectionSettings>,
) {
    let listener = match AsyncListener::new(listener) {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::error!(event = Event::ListenerFailed.label(), %error, "a listener could not be used");
        }
    };
    let mut connections = JoinSet::new();
    let mut server = Server::new(published, settings);
    // Not made anew in each round, because it may have accepted a connection that waits for its turn.
    let table = server.settings.connections.clone();
    let mut accepting = Box::pin(accept(&listener, &table));
    loop {
        tokio::select! {
            () = server.settings.state.draining.begun() => break,
            accepted = accepting.as_mut() => {
                match accepted {
                    Ok(accepted) => {
                        server.follow_limits();
                        let (server, state) = (server.clone(), server.settings.state.clone());
                        connections.spawn(async move {
                            state.metrics.connections(1);
                            server.accept(accepted).await;
                            state.metrics.connections(-1);
                        });
                    }
                    Err(error) => {
                        if server.settings.state.client_lines.try_pass(Topic::Accept, None) {
                            tracing::warn!(event = Event::AcceptFailed.label(), %error, "a connection could not be accepted");
                        }
                        // Probably out of file descriptors; an immediate retry would spin.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
                accepting = Box::pin(accept(&listener, &table));
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(accepting);
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(server.settings.drain_timeout, all_ended)
        .await
        .is_err()
    {
        tracing::warn!(
            event = Event::DrainTimeout.label(),
            left = connections.len(),
            "drain.timeout is over; the remaining connections are closed"
        );
    }
}

/// Of a connection that is served.
pub(super) struct Origin {
    pub address: Option<PeerAddress>,
    pub peer: Option<Peer>,
    /// Cancelled when what let the client in is no longer valid.
    pub retired: CancellationToken,
    pub speaks: Speaks,
    pub at: Instant,
    pub open: OpenConnection,
}

/// Serves connections.
#[derive(Clone)]
pub(super) struct Server {
    published: Published,
    settings: Arc<ConnectionSettings>,
    /// Those of the plan that was in use when the last connection was accepted. A connection keeps them.
    limits: RequestLimits,
    /// For `limits`.
    builders: Arc<Builders>,
}

impl Server {
    pub(super) fn new(published: Published, settings: Arc<ConnectionSettings>) -> Self {
        let limits = published.load().plan.request;
        Server {
            builders: Arc::new(Builders::new(&settings, limits)),
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
            self.builders = Arc::new(Builders::new(&self.settings, limits));
        }
    }

    /// Does the TLS handshake on TCP, or reads the peer's uid on a unix socket, and serves the connection then.
    async fn accept(self, accepted: Accepted) {
        let settings = self.settings.clone();
        let Accepted {
            stream,
            address,
            at,
            open,
            counted: _counted,
        } = accepted;
        let mut origin = Origin {
            address,
            peer: None,
            // Without certificates, nothing is ever retired.
            retired: CancellationToken::new(),
            speaks: Speaks::Either,
            at,
            open,
        };
        match (stream, &settings.state.handshakes) {
            (Stream::Unix(stream), _) => {
                origin.peer = stream.peer_cred().map(|peer| Peer::Uid(peer.uid())).ok();
                self.serve(stream, origin).await;
            }
            (Stream::Tcp(stream), None) => self.serve(stream, origin).await,
            (Stream::Tcp(stream), Some(handshakes)) => {
                let state = &settings.state;
                let within = settings.header_timeout;
                let give_way = origin.open.give_way().clone();
                let connection = tokio::select! {
                    connection = handshake(handshakes, stream, within, state) => connection,
                    // No request has been sent yet, so none is lost.
                    () = settings.state.draining.begun() => None,
                    () = give_way.cancelled() => {
                        self.report_end(ConnectionEnd::GaveWay, address);
                        None
                    }
                };
                if let Some(TlsConnection {
                    stream,
                    peer,
                    retired,
                    speaks,
                }) = connection
                {
                    origin.peer = peer;
                    origin.retired = retired;
                    origin.speaks = speaks;
                    self.serve(stream, origin).await;
                }
            }
        }
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

impl Server {
    pub(super) async fn serve<I>(self, stream: I, origin: Origin)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Origin {
            address,
            peer,
            retired,
            speaks,
            at,
            open,
        } = origin;
        let activity = Activity::new();
        let watch = activity.clone();
        // A client may keep using a connection that was asked to end. Its certificate names no caller from then on.
        let (revoked, peer_without_names) = (
            Arc::new(AtomicBool::new(false)),
            peer.as_ref().map(without_names),
        );
        let (is_revoked, on) = (revoked.clone(), open.clone());
        let (published, settings) = (self.published.clone(), self.settings.clone());
        let starts = Starts::new();
        let tell = at + settings.header_timeout / 2;
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let busy = activity.begin();
            let in_use = on.begin();
            // The request keeps this plan to its last attempt.
            let (stack, limits, answers) = {
                let Serving { stack, plan } = &**published.load();
                (stack.clone(), plan.request, plan.upstream.progress)
            };
            let fault = InboundFault::default();
            let http2 = request.version() == Version::HTTP_2;
            let RequestLimits {
                max_body, progress, ..
            } = limits;
            let expects = expects_100(&request);
            let mut request = request
                .map(|body| Body::inbound(body, http2, expects, max_body, progress, fault.clone()));
            // The client need not send the body of which it is told before, and hyper does not wait for it.
            let body = (expects && !http2).then(|| fault.clone());
            let extensions = request.extensions_mut();
            extensions.insert(fault);
            extensions.insert::<OpenConnection>(on.clone());
            if let Some(address) = address {
                extensions.insert(address);
            }
            let peer = match is_revoked.load(Ordering::Acquire) {
                true => &peer_without_names,
                false => &peer,
            };
            if let Some(peer) = peer {
                extensions.insert(peer.clone());
            }
            let activity = activity.clone();
            // From here on and not from the layer that authenticates: with HTTP/2 the request is a task of its own, which has yet to run.
            let pending = (!on.is_proven()).then(|| on.pend());
            let (start, on) = (starts.begin(), on.clone());
            async move {
                let mut response = start.run(stack.oneshot(request)).await?;
                drop(pending);
                let is_unread = body.is_some_and(|body| body.bytes() == 0 && !body.ended());
                // Told on an answer, so that the client does not lose a request when the connection ends.
                let ends = is_unread || Instant::now() >= tell && !on.is_proven();
                if http2 {
                    response.headers_mut().remove(header::CONNECTION);
                } else if ends {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                let kind = response.headers().get(header::CONTENT_TYPE);
                let rules = answers.for_answer(kind.map(HeaderValue::as_bytes));
                Ok::<_, Infallible>(response.map(|body| {
                    let delivery = Delivery::new(body.guarded(busy).guarded(in_use), rules);
                    activity.answers(delivery.unread(), http2);
                    delivery
                }))
            }
        });
        let stream = RefusalStream::new(
            stream,
            watch.clone(),
            settings.state.clone(),
            (open.clone(), address),
            self.limits,
            speaks,
        );
        let connection = self
            .builders
            .of(speaks)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut ending = false;
        // Until then it has to bring a good credential.
        let mut proof = at + settings.header_timeout;
        let mut until = proof;
        loop {
            tokio::select! {
                // A request that has come is read before the connection is looked at.
                biased;
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = sleep_until(until) => {
                    let now = Instant::now();
                    if retired.is_cancelled() {
                        revoked.store(true, Ordering::Release);
                    }
                    let unread = watch.cut_unread(now);
                    if unread == Unreads::All {
                        return self.report_end(ConnectionEnd::Unread, address);
                    }
                    // While it is being found out who the caller is, the connection has not failed to say so.
                    let is_late = now >= proof && !open.is_proven() && !open.is_pending();
                    let deadline = watch.deadline(settings.header_timeout, settings.idle_timeout);
                    // A head may begin at any time, so check at least once per `header_timeout`.
                    until = deadline.min(now + settings.header_timeout);
                    if let Some(overdue) = watch.next_overdue() {
                        until = until.min(overdue.max(now + Duration::from_millis(100)));
                    }
                    if !open.is_proven() {
                        until = until.min(proof.max(now + Duration::from_secs(1)));
                    }
                    if ending || is_late || unread != Unreads::None || deadline <= now {
                        // Whoever has no good credential keeps nothing by leaving an answer unread.
                        if ending && (watch.is_idle() || is_late) {
                            return;
                        }
                        if is_late {
                            self.report_end(ConnectionEnd::Unproven, address);
                        }
                        ending = true;
                        connection.as_mut().graceful_shutdown();
                        // Cut it if it does not end by then.
                        until = now + Duration::from_secs(1);
                    }
                }
                () = settings.state.draining.begun(), if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = open.give_way().cancelled(), if !ending => {
                    self.report_end(ConnectionEnd::GaveWay, address);
                    if !open.is_proven() && !open.is_pending() {
                        return;
                    }
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                    proof = Instant::now();
                    until = proof + Duration::from_secs(1);
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

    /// Counts and reports that revgate ends a connection.
    fn report_end(&self, reason: ConnectionEnd, address: Option<PeerAddress>) {
        super::report_end(&self.settings.state, reason, address, "connection ended");
    }
}
