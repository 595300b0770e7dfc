//! Connections: accepted, bounded, served by the stack, and ended in order.

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
    refusal::Refusals,
    tls::{Secured, shake},
};
use crate::{
    body::{Body, Guard, InboundFault},
    serve::worker::Published,
    state::State,
    types::{AmbiguousFraming, Certificate, Peer, RequestLimits},
};

pub struct Settings {
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub drain_timeout: Duration,
    /// Of all workers together.
    pub connections: Arc<Semaphore>,
    pub state: Arc<State>,
}

enum Accepting {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// Serves until the drain has ended every connection or its time is over.
pub async fn serve(listener: Listener, published: Published, settings: Arc<Settings>) {
    let accepting = match listener {
        Listener::Tcp(listener) => tokio::net::TcpListener::from_std(listener).map(Accepting::Tcp),
        Listener::Unix(listener) => {
            tokio::net::UnixListener::from_std(listener).map(Accepting::Unix)
        }
    };
    let accepting = match accepting {
        Ok(accepting) => accepting,
        Err(error) => return tracing::error!(%error, "a listener could not be used"),
    };
    let mut connections = JoinSet::new();
    let mut limits = published.load().plan.request;
    let mut builder = Arc::new(build(&settings, limits));
    loop {
        // Where all places are taken, connections wait in the kernel's backlog.
        let accepted = async {
            let permit = settings
                .connections
                .clone()
                .acquire_owned()
                .await
                .map_err(io::Error::other)?;
            let stream = match &accepting {
                Accepting::Tcp(listener) => {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    Stream::Tcp(stream)
                }
                Accepting::Unix(listener) => Stream::Unix(listener.accept().await?.0),
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
                        builder = Arc::new(build(&settings, limits));
                    }
                    let (published, settings, builder) =
                        (published.clone(), settings.clone(), builder.clone());
                    connections.spawn(async move {
                        settings.state.metrics.connections(1);
                        begin(stream, published, limits, &settings, &builder).await;
                        settings.state.metrics.connections(-1);
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Out of descriptors: trying again at once would only spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(accepting);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(settings.drain_timeout, all_ended).await.is_err() {
        tracing::warn!(
            left = connections.len(),
            "drain.timeout is over; connections are cut"
        );
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

/// What the kind of the socket asks for first: a handshake, or who is at the other end.
async fn begin(
    stream: Stream,
    published: Published,
    limits: RequestLimits,
    settings: &Settings,
    builder: &auto::Builder<TokioExecutor>,
) {
    // On sockets without certificates nothing retires.
    let never = CancellationToken::new();
    match (stream, &settings.state.handshakes) {
        (Stream::Unix(stream), _) => {
            let uid = stream.peer_cred().map(|peer| Peer::Uid(peer.uid())).ok();
            connection(stream, published, limits, settings, builder, (uid, never)).await;
        }
        (Stream::Tcp(stream), None) => {
            connection(stream, published, limits, settings, builder, (None, never)).await;
        }
        (Stream::Tcp(stream), Some(handshakes)) => {
            let metrics = &settings.state.metrics;
            let shaken = shake(handshakes, stream, settings.header_timeout, metrics);
            let secured = tokio::select! {
                secured = shaken => secured,
                // Nothing was asked yet, so nothing is lost.
                () = settings.state.draining.begun() => None,
            };
            if let Some(Secured {
                stream,
                peer,
                retired,
            }) = secured
            {
                connection(
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

fn build(settings: &Settings, limits: RequestLimits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // hyper's own limits stand above ours, so that what is only a little over gets an answer that says so.
    let buffer = limits.max_header_bytes.saturating_mul(2).max(16 * 1024);
    builder
        .http1()
        .timer(TokioTimer::new())
        // Runs between requests as well, where the idle time is what counts; `Activity` keeps both.
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

/// What a connection is doing. Written where its bytes and its requests pass, read by the timer that bounds it.
#[derive(Clone)]
pub struct Activity(Arc<Mutex<ActivityState>>);

struct ActivityState {
    busy: usize,
    since: Instant,
    /// When the first byte of a head came that has not become a request yet.
    head: Option<Instant>,
    served: bool,
    /// The head that was read last had both Transfer-Encoding and Content-Length; hyper drops the latter unseen.
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

    pub fn is_idle(&self) -> bool {
        self.state().busy == 0
    }

    /// Bytes have come while no request was on its way: a head has begun.
    ///
    /// HTTP/2 has frames of its own between requests, so there only the first head is timed.
    pub fn head_begins(&self, http2: bool) {
        let mut state = self.state();
        if !(http2 && state.served) {
            state.head.get_or_insert_with(Instant::now);
        }
    }

    pub fn ambiguous(&self) {
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

    /// When the connection is to end if nothing more happens on it.
    fn ends(&self, settings: &Settings) -> Instant {
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

/// Held while a request is on its way, until its answer's body has ended.
struct Busy(Activity);

impl Guard for Busy {}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.busy -= 1;
        state.since = Instant::now();
    }
}

/// What is left of a peer whose certificate counts no more: it showed one, and it names no caller.
fn nobody(peer: &Peer) -> Peer {
    match peer {
        Peer::Certificate(certificate) => Peer::Certificate(Arc::new(Certificate {
            names: Vec::new(),
            not_after: certificate.not_after,
        })),
        Peer::Uid(uid) => Peer::Uid(*uid),
    }
}

async fn connection<I>(
    stream: I,
    published: Published,
    limits: RequestLimits,
    settings: &Settings,
    builder: &auto::Builder<TokioExecutor>,
    (peer, retired): (Option<Peer>, CancellationToken),
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Activity::new();
    let watch = activity.clone();
    // A client may keep a connection that it was asked to end; the certificate on it is nobody's from then on.
    let (void, voided) = (Arc::new(AtomicBool::new(false)), peer.as_ref().map(nobody));
    let is_void = void.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (busy, ambiguous) = activity.begin();
        // One plan from here to the request's last attempt.
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
        let shown = match is_void.load(Ordering::Acquire) {
            true => &voided,
            false => &peer,
        };
        if let Some(peer) = shown {
            request.extensions_mut().insert(peer.clone());
        }
        async move {
            stack
                .oneshot(request)
                .await
                .map(|response| response.map(|body| body.guarded(busy)))
        }
    });
    let stream = Refusals::new(
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
                    void.store(true, Ordering::Release);
                }
                let ends = watch.ends(settings);
                // A head may begin at any time, so it is looked at no less often than a head may take.
                until = ends.min(Instant::now() + settings.header_timeout);
                if ending || ends <= Instant::now() {
                    if ending && watch.is_idle() {
                        return;
                    }
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                    // What does not go of its own accord is cut.
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
                // For what was on its way already.
                until = Instant::now() + Duration::from_secs(1);
            }
        }
    }
}
