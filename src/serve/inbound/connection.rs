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
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    activity::{Activity, Unreads},
    arrival::client_of,
    delivery::Delivery,
    head::Speaks,
    http::{Builders, expects_100},
    refusal::RefusalStream,
    worker_time::Starts,
};
use crate::{
    body::{Body, InboundFault},
    policy::client_address::TrustedProxies,
    serve::worker::{Published, Serving},
    state::{
        State,
        connections::{ConnectionTable, OpenConnection},
    },
    telemetry::labels::ConnectionEnd,
    types::{Certificate, Peer, PeerAddress, RequestLimits},
};

/// What all connections have in common.
pub(crate) struct ConnectionSettings {
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub drain_timeout: Duration,
    /// That a proxy seems to use another field has been logged.
    pub told_of_field: AtomicBool,
    /// Connections from trusted proxies begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Whose word about a client is taken.
    pub proxies: TrustedProxies,
    /// As many as `listen.max_connections`, for all workers together.
    pub connections: Arc<ConnectionTable>,
    pub state: Arc<State>,
}

/// In a drain, so long an idle connection is still open: whoever calls on it within this time gets an answer, which says that the
/// connection ends. Closed at once, it would lose a request that is on its way. Short, because the process ends no sooner.
pub(super) const IDLE_GRACE: Duration = Duration::from_secs(1);

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
    pub(super) settings: Arc<ConnectionSettings>,
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
    pub(super) fn follow_limits(&mut self) {
        let limits = self.published.load().plan.request;
        if limits != self.limits {
            self.limits = limits;
            self.builders = Arc::new(Builders::new(&self.settings, limits));
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
        let shared = settings.clone();
        let draining = settings.state.draining.clone();
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
            let client = address.map(|address| client_of(address, &request, &shared, &on));
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
            if let Some(address) = client {
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
            let (start, on, draining) = (starts.begin(), on.clone(), draining.clone());
            async move {
                let mut response = start.run(stack.oneshot(request)).await?;
                drop(pending);
                let is_unread = body.is_some_and(|body| body.bytes() == 0 && !body.ended());
                // Told on an answer, so that the client does not lose a request when the connection ends.
                let ends = is_unread
                    || Instant::now() >= tell && !on.is_proven()
                    // With those behind it, the last answer says so.
                    || draining.has_begun() && !activity.has_another();
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
        // In a drain: until then it is open although it is idle.
        let mut grace = None;
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
                    let is_stranger = !open.is_proven() && !open.is_pending();
                    let is_late = now >= proof && is_stranger;
                    let idle_timeout = grace.map_or(settings.idle_timeout, |_| IDLE_GRACE);
                    // Whoever has no good credential holds up no drain with half a head.
                    let head_timeout = match grace {
                        Some(_) if is_stranger => settings.header_timeout.min(IDLE_GRACE),
                        _ => settings.header_timeout,
                    };
                    let deadline = watch.deadline(head_timeout, idle_timeout);
                    let deadline = grace.map_or(deadline, |grace| deadline.max(grace));
                    let tells = grace.is_some() && watch.is_http2();
                    // A head may begin at any time, so check at least once per `header_timeout`.
                    until = deadline.min(now + settings.header_timeout);
                    if let Some(overdue) = watch.next_overdue() {
                        until = until.min(overdue.max(now + Duration::from_millis(100)));
                    }
                    if !open.is_proven() {
                        until = until.min(proof.max(now + Duration::from_secs(1)));
                    }
                    if ending || tells || is_late || unread != Unreads::None || deadline <= now {
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
                () = settings.state.draining.begun(), if grace.is_none() => {
                    // HTTP/2 can say so at once and lose nothing: the last stream is named when the client has answered a PING.
                    let now = Instant::now();
                    let wait = if watch.is_http2() { Duration::ZERO } else { IDLE_GRACE };
                    grace = Some(now + wait);
                    // Time for a head that begins in the grace, and no more for another one behind it.
                    proof = proof.min(now + 2 * IDLE_GRACE);
                    until = until.min(now + wait);
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
    pub(super) fn report_end(&self, reason: ConnectionEnd, address: Option<PeerAddress>) {
        let why = match reason {
            ConnectionEnd::Unread => "its client did not read an answer",
            ConnectionEnd::Unproven => "it brought no good credential in time",
            ConnectionEnd::GaveWay => "it made room for another one",
            ConnectionEnd::HeadsFull | ConnectionEnd::ProxyHeader => reason.label(),
        };
        super::report_end(&self.settings.state, reason, address.as_ref(), &why);
    }
}
