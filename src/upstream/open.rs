//! Opens a connection: to the point where it can take exchanges, over HTTP/2 with DevRev's first SETTINGS.

use std::{
    convert::Infallible, error::Error as _, future::Future, pin::Pin, sync::Arc, time::Duration,
};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    MAX_HEAD,
    answer::MAX_FIELDS,
    connector::{Connected, Connector},
    frames::Frames,
    wire::{Interim, Watched, Wire},
};
use crate::{body::Body, error::Error, policy::upstream::MAX_STREAMS};

/// What DevRev may send of one answer before it is read, in bytes. The default of RFC 9113 section 6.5.2; at 10 ms to DevRev it carries
/// 6 MB/s.
const STREAM_WINDOW: u32 = 65_535;

/// What DevRev may send of all answers before any is read.
pub(crate) const MAX_UPSTREAM_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;

/// Bytes of an answer that hyper reads at once over HTTP/1.1. More than the largest head, so that `answer` can say what is too large.
pub(crate) const MAX_UPSTREAM_BUFFER: usize = 96 * 1024;

/// Of a head that h2 hands on, so that `answer` can say what is too large. One beyond it, it refuses by itself.
pub(crate) const MAX_HTTP2_HEAD: usize = 2 * MAX_HEAD;

/// A connection of HTTP/2 that is silent for so long while an answer is awaited gets a PING.
const PING_AFTER: Duration = Duration::from_secs(10);

/// It ends if nothing comes for so long after that. Both together are less than an attempt may take by default.
const PONG_WITHIN: Duration = Duration::from_secs(10);

pub(super) enum Sender {
    Http1(Http1),
    Http2(http2::SendRequest<Body>, Arc<Wire>),
}

/// The connection ends with it: hyper would go on with a request that DevRev has answered, in which nobody has a part any more.
pub(super) struct Http1 {
    pub request: http1::SendRequest<Body>,
    pub interim: Interim,
    _end: oneshot::Sender<Infallible>,
}

impl Sender {
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Sender::Http1(sender) => sender.request.is_closed(),
            Sender::Http2(sender, _) => sender.is_closed(),
        }
    }

    /// Ends the connection, which has no exchange.
    pub(super) fn end(self) {
        if let Sender::Http2(sender, wire) = self {
            drop(sender);
            wire.end();
        }
    }
}

/// A connection that can take exchanges.
pub(super) struct Opened {
    pub sender: Sender,
    /// Exchanges at once.
    pub places: usize,
    /// Must be polled for anything to happen.
    pub connection: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
}

/// What a connection is made on.
trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for S {}

/// # Errors
/// [`Error::Unreachable`].
pub(super) async fn open(
    connector: &Connector,
    http2_only: bool,
    within: Duration,
) -> Result<Opened, Error> {
    let deadline = Instant::now() + within;
    #[cfg(fuzzing)]
    if let Some(pipe) = super::fuzzing::connect() {
        return handshake(pipe?, http2_only, deadline).await;
    }
    let connected = connector.connect(within).await;
    let Connected { stream, http2 } = connected.map_err(Error::unreachable)?;
    handshake(stream, http2 || http2_only, deadline).await
}

async fn handshake<S: Transport>(
    stream: S,
    http2: bool,
    deadline: Instant,
) -> Result<Opened, Error> {
    let handshake = async {
        match http2 {
            true => http2_handshake(stream).await,
            false => http1_handshake(stream).await,
        }
    };
    let opened = timeout_at(deadline, handshake).await;
    opened.unwrap_or_else(|_elapsed| {
        Err(Error::unreachable("HTTP/2 took too long: no SETTINGS came"))
    })
}

async fn http1_handshake<S: Transport>(stream: S) -> Result<Opened, Error> {
    let interim = Interim::default();
    let stream = Watched::new(stream, interim.clone());
    let (request, connection) = http1::Builder::new()
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_UPSTREAM_BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Error::unreachable)?;
    let (end, ended) = oneshot::channel();
    let sender = Http1 {
        request,
        interim,
        _end: end,
    };
    Ok(Opened {
        sender: Sender::Http1(sender),
        places: 1,
        connection: Box::pin(async {
            tokio::select! {
                ended = connection => ended,
                _ = ended => Ok(()),
            }
        }),
    })
}

async fn http2_handshake<S: Transport>(stream: S) -> Result<Opened, Error> {
    let wire = Wire::new();
    let stream = Watched::new(stream, (Frames::default(), wire.clone()));
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PONG_WITHIN)
        .max_header_list_size(MAX_HTTP2_HEAD as u32)
        // The windows of all streams together. If it were less, answers that nobody reads would use it up and stop all others.
        .initial_connection_window_size(MAX_UPSTREAM_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Error::unreachable)?;
    let mut connection = Box::pin(connection);
    // It says how many exchanges there may be. Without it, nothing at the other end speaks HTTP/2.
    let places = loop {
        if let Some(streams) = wire.known().streams {
            break streams;
        }
        tokio::select! {
            () = wire.changed() => {}
            ended = &mut connection => {
                return Err(match ended {
                    Ok(()) => Error::unreachable("the connection was closed before any SETTINGS came"),
                    Err(error) => {
                        let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                        Error::unreachable(format!("HTTP/2 failed: {cause}"))
                    }
                });
            }
        }
    };
    Ok(Opened {
        sender: Sender::Http2(sender, wire),
        places,
        connection,
    })
}
