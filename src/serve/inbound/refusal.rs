//! hyper answers a head that it cannot parse by itself, with a status and no body. This stream sits between hyper and the socket, and
//! replaces that answer with a refusal in revgate's form. It also follows the input. Where a head of HTTP/1.1 goes wrong, or there is no
//! room for more of it, hyper gets bytes that no head can have instead: so it answers when the requests before it have their answers, and
//! reads nothing more. Where a body goes wrong, hyper gets an error.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use memchr::memmem::find;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    activity::Activity,
    head::{HeadReader, PREFACE, Speaks},
    refused::refuse,
    turn::Turn,
    worker_time::{READ, READ_OF_FRAMES, poll_take},
};
use crate::{
    allocation::{Allocation, HEADS},
    error::Error,
    policy::{
        first_bytes::{Beginning, WrongProtocol, beginning},
        http1::{Cut, HeadFault},
    },
    state::{State, connections::OpenConnection},
    telemetry::labels::{ConnectionEnd, HandshakeFailure},
    types::{PeerAddress, RequestLimits},
};

pub(super) struct RefusalStream<I> {
    inner: I,
    activity: Activity,
    state: Arc<State>,
    open: OpenConnection,
    address: Option<PeerAddress>,
    /// The answer that is written instead of hyper's, and how much of it is written.
    replacement: Option<(Vec<u8>, usize)>,
    head: HeadReader,
    /// What the connection began with.
    first: Vec<u8>,
    /// For the head that is incomplete.
    room: Option<Allocation>,
    turn: Turn,
    max_head: usize,
    /// What hyper reads next, if the input went wrong.
    end: Option<End>,
}

/// The end of an input that went wrong.
enum End {
    /// In a head, for this reason. hyper gets the rest of [`NO_HEAD`].
    Head(Error, &'static [u8]),
    Body,
}

/// No head of HTTP/1.1 goes on with this, wherever it begins: hyper looks at a head when its last line has come, and finds the first byte.
pub(super) const NO_HEAD: &[u8] = b"\0\r\n\r\n";

/// Enough to know another protocol by.
const MAX_FIRST: usize = 16;

/// hyper's error has a status line and three fields.
const MAX_HYPER_ERROR: usize = 256;

/// hyper reads at most so much at once, so that its buffers stay small: it doubles one that a read has filled.
const MAX_READ: usize = 16 * 1024 - 1;

/// And so much where HTTP/2 may send heads; see `turn`.
const MAX_READ_OF_HEADS: usize = 4 * 1024;

/// What a header block may cost that HTTP/2 sends in several frames, times the limit of a head. h2 stops at about that limit, counting 32
/// bytes for each field beside its name and value; in memory a field takes up to 120, in a vector that doubles.
const CONTINUED: usize = 8;

impl<I> RefusalStream<I> {
    pub(super) fn new(
        inner: I,
        activity: Activity,
        state: Arc<State>,
        (open, address): (OpenConnection, Option<PeerAddress>),
        limits: RequestLimits,
        speaks: Speaks,
    ) -> Self {
        RefusalStream {
            inner,
            activity,
            state,
            open,
            address,
            replacement: None,
            head: HeadReader::new(speaks),
            first: Vec::with_capacity(MAX_FIRST),
            room: None,
            turn: Turn::default(),
            max_head: limits.max_header_bytes,
            end: None,
        }
    }

    /// Whether `bytes` are an error of hyper's own: a short head without a body, while no request is in flight, and without the
    /// request id that every answer of the stack has.
    fn is_hyper_error(&self, bytes: &[u8]) -> bool {
        bytes.starts_with(b"HTTP/1.")
            && bytes.get(8..10) == Some(b" 4")
            && bytes.len() < MAX_HYPER_ERROR
            && bytes.ends_with(b"\r\n\r\n")
            && find(bytes, b"content-length: 0").is_some()
            && find(bytes, b"x-request-id").is_none()
            && self.activity.is_idle()
    }

    /// The refusal instead of hyper's error.
    fn instead_of(&self, bytes: &[u8]) -> Vec<u8> {
        match (&self.end, &bytes[9..12]) {
            (Some(End::Head(error, _)), _) => self.refusal(error),
            (_, b"414" | b"431") => self.refusal(&Error::HeadersTooLarge),
            _ => self.refusal(&Error::Malformed),
        }
    }

    fn refusal(&self, error: &Error) -> Vec<u8> {
        let http2 = matches!(error, Error::Protocol(WrongProtocol::NotAgreedOn));
        refuse(&self.state, self.address.as_ref(), error, http2)
    }

    /// What is wrong with the head in which this fault is. The first one may belong to another protocol.
    fn wrong(&self, fault: HeadFault) -> Error {
        let wrong = match beginning(&self.first) {
            Some(Beginning::Tls) => {
                let reason = HandshakeFailure::NoTlsHere;
                self.state.metrics.tls_handshake_failure(reason);
                WrongProtocol::TlsOnPlain
            }
            Some(Beginning::Http2) => WrongProtocol::NotAgreedOn,
            Some(Beginning::ProxyHeader) => {
                let reason = ConnectionEnd::ProxyHeader;
                self.state.metrics.connection_ended(reason);
                WrongProtocol::UnexpectedProxyHeader
            }
            _ => return Error::from(fault),
        };
        Error::Protocol(wrong)
    }
}

impl<I: AsyncWrite + Unpin> RefusalStream<I> {
    /// Writes the replacement of `bytes`; `None` if they are to be written themselves.
    fn poll_replace(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Option<Poll<io::Result<usize>>> {
        if self.replacement.is_none() {
            if !self.is_hyper_error(bytes) {
                return None;
            }
            self.replacement = Some((self.instead_of(bytes), 0));
        }
        Some(self.poll_replacement(cx).map_ok(|()| bytes.len()))
    }

    fn poll_replacement(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((out, sent)) = &mut self.replacement {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &out[*sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *sent += written;
            if *sent == out.len() {
                self.replacement = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<I> RefusalStream<I> {
    /// Follows what is on its way to hyper. The error is where that ends, and how.
    fn inspect(&mut self, bytes: &[u8]) -> Result<(), (usize, End)> {
        let idle = self.activity.is_idle();
        let room = MAX_FIRST - self.first.len();
        if room > 0 {
            self.first
                .extend_from_slice(&bytes[..room.min(bytes.len())]);
        }
        let read = self.head.read(bytes);
        if !bytes.is_empty() {
            let incomplete = self.head.is_incomplete();
            let (http2, heads) = (self.head.is_http2(), self.head.heads());
            self.activity.has_read(incomplete, http2, heads);
        }
        read.map_err(|Cut { at, fault, in_body }| match in_body {
            true => (at, End::Body),
            false => (at, End::Head(self.wrong(fault), NO_HEAD)),
        })?;
        match idle || self.head.is_http2() {
            // Before hyper has served the requests that it has, it reads no more than its buffer holds.
            false => Ok(()),
            true if self.has_room() => Ok(()),
            true => {
                self.report_no_room();
                // The requests before this head are served.
                let good = bytes.len().saturating_sub(self.head.unfinished());
                Err((good, End::Head(Error::OVERLOADED, NO_HEAD)))
            }
        }
    }

    /// Takes the memory that the incomplete head may cost. False if there is none.
    fn has_room(&mut self) -> bool {
        let cost = self.head.cost(self.max_head.saturating_mul(CONTINUED)) as u64;
        let Some(room) = self.room.as_mut().filter(|_| cost > 0) else {
            self.room = None;
            if cost > 0 {
                self.room = self.state.heads.try_take(HEADS, self.open.claim(), cost);
            }
            return cost == 0 || self.room.is_some();
        };
        let more = cost.saturating_sub(room.units());
        more == 0 || room.try_grow(HEADS, more)
    }

    /// Counts and reports that there is no room for this head.
    fn report_no_room(&mut self) {
        self.room = None;
        let reason = ConnectionEnd::HeadsFull;
        let why = "large heads of requests take all the room there is";
        super::report_end(&self.state, reason, self.address.as_ref(), &why);
    }

    /// What hyper gets instead of input that went wrong. After that there is none.
    fn poll_end(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        match &mut self.end {
            Some(End::Head(_, rest)) if !self.head.is_http2() => {
                let (now, later) = rest.split_at(buf.remaining().min(rest.len()));
                buf.put_slice(now);
                *rest = later;
                Ok(())
            }
            Some(End::Head(..)) => Err(io::Error::other("no room for this head")),
            Some(End::Body) => Err(io::Error::other("the body is malformed")),
            None => Ok(()),
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for RefusalStream<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.is_some() {
            return Poll::Ready(self.poll_end(buf));
        }
        let this = &mut *self;
        let units = match &this.head {
            HeadReader::Http2(frames) if frames.body_left() == 0 => READ_OF_FRAMES,
            _ => READ,
        };
        ready!(poll_take(cx, units));
        let limit = match &this.head {
            HeadReader::Http2(frames) if frames.body_left() == 0 => {
                if !ready!(this.turn.poll(cx, &this.state.decoding, &this.open)) {
                    this.report_no_room();
                    return Poll::Ready(Err(io::Error::other("no turn for its heads")));
                }
                MAX_READ_OF_HEADS
            }
            HeadReader::Http2(frames) => MAX_READ.min(frames.body_left()),
            // The frames behind it wait for their turn.
            HeadReader::Preface(matched) => PREFACE.len() - matched,
            HeadReader::Undecided(_) | HeadReader::Http1(_) => MAX_READ,
        };
        let before = buf.filled().len();
        let read = if buf.remaining() > limit {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(limit));
            let read = Pin::new(&mut this.inner).poll_read(cx, &mut part);
            let filled = part.filled().len();
            buf.advance(filled);
            read
        } else {
            Pin::new(&mut this.inner).poll_read(cx, buf)
        };
        let blocks = this.head.blocks();
        if read.is_pending() {
            this.turn.end(false);
        }
        ready!(read)?;
        if let Err((good, end)) = self.inspect(&buf.filled()[before..]) {
            self.end = Some(end);
            buf.set_filled(before + good);
            if good == 0 || !matches!(self.end, Some(End::Body)) {
                return Poll::Ready(self.poll_end(buf));
            }
        }
        let has_heads = self.head.blocks() > blocks;
        self.turn.end(has_heads);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for RefusalStream<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.poll_replace(cx, buf) {
            Some(poll) => poll,
            None => Pin::new(&mut self.inner).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs
            .iter()
            .find(|buf| !buf.is_empty())
            .map_or(&[][..], |buf| buf);
        match self.poll_replace(cx, first) {
            Some(poll) => poll,
            None => Pin::new(&mut self.inner).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
