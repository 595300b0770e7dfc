//! How much memory a gateway may take: everything that grows with what clients, DevRev or receivers do, with its bound. A test adds the
//! rows up for the default configuration and compares the sum with the memory limits in `deploy/`, and wants every limit of the
//! configuration in a row.
//!
//! What the kernel holds in its socket buffers is not in it: when a container's memory is short, the kernel shrinks them.

use super::inbound::{delivery::MAX_UNWRITTEN, http::STREAM_WINDOW, tls::MAX_TLS_UNSENT};
use crate::{
    allocation::{DECODING, FREE_HEAD, HEADS},
    config::Config,
    policy::{introspect, upstream::MAX_STREAMS},
    telemetry::{
        export::{MAX_BATCH, MAX_QUEUED},
        log::queue,
        trace::MAX_SPAN,
    },
    upstream::{MAX_HTTP2_HEAD, MAX_UPSTREAM_BUFFER, MAX_UPSTREAM_WINDOW},
};

/// One thing that takes memory.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub what: &'static str,
    /// The keys of the configuration that bound it.
    pub keys: &'static [&'static str],
    /// How many there may be.
    pub count: usize,
    /// Bytes of each.
    pub each: usize,
}

impl Bound {
    /// Bytes of all.
    pub fn bytes(&self) -> usize {
        self.count.saturating_mul(self.each)
    }
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The process without clients, with its code.
const AT_REST: usize = 24 * MIB;

/// A connection between two requests. Measured: 33 KiB with HTTP/1.1 and 35 KiB with HTTP/2, over TLS 40 and 47 KiB.
const CONNECTION: usize = 48 * KIB;

/// A request: the futures of its layers, and hyper's buffer with its small head.
const PLACE: usize = 2 * FREE_HEAD;

/// A connection to DevRev, without what comes on it.
const UPSTREAM_CONNECTION: usize = 64 * KIB;

/// An attempt over HTTP/1.1: hyper's buffer, which may hold one piece of an answer while it reads the next.
const UPSTREAM_BUFFERS: usize = 2 * MAX_UPSTREAM_BUFFER;

/// An attempt over HTTP/2: its head, and what DevRev may send before any is read.
const UPSTREAM_STREAM: usize = MAX_HTTP2_HEAD + MAX_UPSTREAM_WINDOW as usize / MAX_STREAMS;

/// Rewriting a body takes up to so many times its size. Large ones are rewritten one at a time.
const REWRITE: usize = 18;

/// A span while it is encoded.
const ENCODED_SPAN: usize = 4 * KIB;

/// What is known of one token: its keyed hash, its place in the cache, and the user of a good one.
const KNOWN_TOKEN: usize = 400;

/// A worker has attempts over one protocol or the other, and a lane for each.
fn upstream_input(config: &Config) -> usize {
    let http1 = config
        .upstream
        .max_connections
        .saturating_mul(UPSTREAM_BUFFERS);
    let streams = config.listen.workers.saturating_mul(MAX_STREAMS);
    http1.max(streams.saturating_mul(UPSTREAM_STREAM))
}

/// What may take memory under this configuration.
pub fn bounds(config: &Config) -> Vec<Bound> {
    let limits = &config.limits;
    let requests = limits.max_in_flight + config.quota.max_waiting;
    // A request leaves a part of its body unread only once so much of it is kept.
    let kept = config.retry.max_replay_body.max(1);
    let row = |what, keys, count, each| Bound {
        what,
        keys,
        count,
        each,
    };
    vec![
        row("the process at rest", &[], 1, AT_REST),
        row(
            "clients' connections",
            &["listen.max_connections"],
            config.listen.max_connections,
            CONNECTION,
        ),
        row(
            "large heads of requests",
            &["limits.max_header_bytes", "limits.max_headers"],
            1,
            usize::try_from(HEADS).unwrap_or(usize::MAX),
        ),
        row(
            "heads of HTTP/2 while they are decoded",
            &[],
            1,
            usize::try_from(DECODING).unwrap_or(usize::MAX),
        ),
        row(
            "requests in flight, and requests that wait for quota",
            &["limits.max_in_flight", "quota.max_waiting"],
            requests,
            PLACE,
        ),
        row(
            "bodies and small answers that are kept",
            &["limits.max_buffered"],
            1,
            limits.max_buffered,
        ),
        row(
            "bodies that are not read yet",
            &["retry.max_replay_body", "limits.max_body"],
            requests.min(limits.max_buffered / kept),
            STREAM_WINDOW as usize,
        ),
        row(
            "bodies that are rewritten",
            &["limits.max_rewrite_body"],
            1,
            usize::try_from(limits.max_rewrite_body)
                .unwrap_or(usize::MAX)
                .saturating_mul(REWRITE),
        ),
        row(
            "answers that are not written yet",
            &["limits.max_in_flight"],
            limits.max_in_flight,
            MAX_UNWRITTEN + MAX_TLS_UNSENT,
        ),
        row(
            "connections to DevRev",
            &["upstream.max_connections"],
            config.upstream.max_connections,
            UPSTREAM_CONNECTION,
        ),
        row(
            "what comes on them, over the protocol that takes more",
            &[],
            1,
            upstream_input(config),
        ),
        row(
            "the log's queue, and what is written of it",
            &[],
            2,
            queue::MAX_BYTES,
        ),
        row(
            "spans in the queue and in an export",
            &[],
            MAX_QUEUED + MAX_BATCH,
            MAX_SPAN,
        ),
        row("an export of spans", &[], MAX_BATCH, ENCODED_SPAN),
        row(
            "known tokens, good and bad",
            &[],
            2 * introspect::DEFAULT_CAPACITY,
            KNOWN_TOKEN,
        ),
    ]
}
