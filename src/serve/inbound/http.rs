//! What hyper may hold on behalf of a client. `serve/memory` adds it up.

use std::time::Duration;

use http::{HeaderValue, Request, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto,
};

use super::{connection::ConnectionSettings, delivery::MAX_UNWRITTEN, head::Speaks};
use crate::types::RequestLimits;

/// Those of connections with the same limits.
pub(super) struct Builders {
    either: auto::Builder<TokioExecutor>,
    http1: auto::Builder<TokioExecutor>,
    http2: auto::Builder<TokioExecutor>,
}

impl Builders {
    pub(super) fn new(settings: &ConnectionSettings, limits: RequestLimits) -> Builders {
        let either = http_builder(settings, limits);
        Builders {
            http1: either.clone().http1_only(),
            http2: either.clone().http2_only(),
            either,
        }
    }

    pub(super) fn of(&self, speaks: Speaks) -> &auto::Builder<TokioExecutor> {
        match speaks {
            Speaks::Either => &self.either,
            Speaks::Http1 => &self.http1,
            Speaks::Http2 => &self.http2,
        }
    }
}

fn http_builder(
    settings: &ConnectionSettings,
    limits: RequestLimits,
) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // hyper's own limits are above ours, so that a request slightly over the limit gets our answer.
    let head = limits.max_header_bytes.saturating_add(16 * 1024);
    builder
        .http1()
        .timer(TokioTimer::new())
        // hyper also runs this timer between requests. `Activity` enforces both times exactly.
        .header_read_timeout(settings.header_timeout + settings.idle_timeout)
        .max_buf_size(head)
        .max_headers(limits.max_headers.saturating_mul(2));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * MAX_STREAMS)
        .max_send_buf_size(MAX_UNWRITTEN)
        .max_local_error_reset_streams(MAX_RESETS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_header_list_size(u32::try_from(head).unwrap_or(u32::MAX));
    builder
}

/// Whether the client may wait for a 100 before it sends its body (RFC 9110 section 10.1.1).
pub(super) fn expects_100(request: &Request<Incoming>) -> bool {
    let value = request.headers().get(header::EXPECT);
    let is_100 = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    value.is_some_and(is_100) && !request.body().is_end_stream()
}

/// Requests at once on a connection of HTTP/2; RFC 9113 section 6.5.2 recommends no fewer.
const MAX_STREAMS: u32 = 100;

/// Bytes of a request's body that hyper holds before a layer reads them: HTTP/2's own first value, which holds anyway until the client has
/// accepted another. The window of the connection is that of all its streams, so that no unread body stops another request.
pub(crate) const STREAM_WINDOW: u32 = 65_535;

/// Streams that a client resets before they are served, or breaks. More end its connection: h2 remembers them for a while.
const MAX_RESETS: usize = 32;
