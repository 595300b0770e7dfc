//! hyper answers a head that it cannot parse by itself, with a status and no body. This stream sits between hyper and the socket, and
//! replaces that answer with a refusal in revgate's form.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, header};
use http_body_util::BodyExt;
use memchr::memmem::find;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use crate::{
    error::Error,
    policy::operation::OperationLabel,
    telemetry::{labels::Source, metrics::Metrics},
    types::{RequestId, other},
    wall_clock,
};

pub(super) struct RefusalStream<I> {
    inner: I,
    activity: Activity,
    metrics: Arc<Metrics>,
    /// The answer that is written instead of hyper's, and how much of it is written.
    replacement: Option<(Vec<u8>, usize)>,
    /// The head that is being read, in lower case, up to hyper's limit.
    head: Vec<u8>,
    max_head: usize,
    http2: bool,
    /// `head` is complete, and the next byte begins another. It is kept until then, because hyper may refuse it.
    complete: bool,
}

/// hyper's error has a status line and three fields.
const MAX_HYPER_ERROR: usize = 256;

impl<I> RefusalStream<I> {
    pub(super) fn new(
        inner: I,
        activity: Activity,
        metrics: Arc<Metrics>,
        max_head: usize,
    ) -> Self {
        RefusalStream {
            inner,
            activity,
            metrics,
            replacement: None,
            head: Vec::new(),
            max_head,
            http2: false,
            complete: false,
        }
    }

    /// Whether `bytes` are an error of hyper's own: a short head without a body, while no request is in flight, and without the
    /// request id that every answer of the stack has.
    fn is_hyper_error(&self, bytes: &[u8]) -> bool {
        bytes.starts_with(b"HTTP/1.1 4")
            && bytes.len() < MAX_HYPER_ERROR
            && bytes.ends_with(b"\r\n\r\n")
            && find(bytes, b"content-length: 0").is_some()
            && find(bytes, b"x-request-id").is_none()
            && self.activity.is_idle()
    }

    fn refusal(&self, bytes: &[u8]) -> Vec<u8> {
        // hyper also answers 431 if Content-Length does not fit its integer. Such a head is small.
        let large =
            self.head.len() >= self.max_head / 2 || find(&self.head, b"content-length").is_none();
        let error = match &bytes[9..12] {
            b"414" => Error::HeadersTooLarge,
            b"431" if large => Error::HeadersTooLarge,
            _ => Error::Malformed,
        };
        let status = error.status().as_u16();
        self.metrics.request(
            &other(),
            OperationLabel::OTHER,
            status,
            Source::Gateway,
            0.0,
        );
        self.metrics.refused(&other(), error.code());
        tracing::debug!(code = error.code().label(), "refused: {error}");
        let (mut head, body) = error.response(None).into_parts();
        // A refusal's body is one buffer, so this is ready at once.
        let body = body.collect();
        let body = futures_util::FutureExt::now_or_never(body).and_then(Result::ok);
        let body = body
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        head.headers
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(wall_clock::now())) {
            head.headers.insert(header::DATE, date);
        }
        head.headers
            .insert(RequestId::HEADER, RequestId::random().0);
        let mut out = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
        for (name, value) in &head.headers {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&body);
        out
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
            self.replacement = Some((self.refusal(bytes), 0));
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
    /// Reads a head on its way to hyper, for what hyper does not report.
    fn inspect(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || !self.activity.is_idle() {
            self.head.clear();
            return;
        }
        if std::mem::take(&mut self.complete) {
            self.head.clear();
        }
        self.http2 |= bytes.starts_with(b"PRI");
        self.activity.head_begins(self.http2);
        if self.http2 || self.head.len() + bytes.len() > self.max_head {
            return;
        }
        self.head.extend(bytes.iter().map(u8::to_ascii_lowercase));
        if let Some(end) = find(&self.head, b"\r\n\r\n") {
            self.complete = true;
            let head = &self.head[..end];
            if find(head, b"\ntransfer-encoding").is_some()
                && find(head, b"\ncontent-length").is_some()
            {
                self.activity.ambiguous();
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for RefusalStream<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.inspect(&buf.filled()[before..]);
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
