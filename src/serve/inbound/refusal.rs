//! hyper answers a head that it cannot parse by itself, with a bare status and no body. This stands between it
//! and the socket, and gives that answer the shape that every refusal of revgate has.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, header};
use http_body_util::BodyExt;
use memchr::memmem::find;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Activity;
use crate::{
    error::Error,
    layer::headers::X_REQUEST_ID,
    policy::operation::OperationLabel,
    telemetry::{labels::Source, metrics::Metrics},
    types::{RequestId, other},
};

pub struct Refusals<I> {
    inner: I,
    activity: Activity,
    metrics: std::sync::Arc<Metrics>,
    /// Bytes on their way instead of hyper's, and how many of them are out.
    instead: Option<(Vec<u8>, usize)>,
    /// The head that is being read, in lower case; bounded by what hyper reads of one.
    head: Vec<u8>,
    max_head: usize,
    http2: bool,
    /// `head` is whole: the next byte begins another. It is kept until then for what hyper says of it.
    complete: bool,
}

/// hyper's has a status line and three fields.
const LONGEST_BARE: usize = 256;

impl<I> Refusals<I> {
    pub fn new(
        inner: I,
        activity: Activity,
        metrics: std::sync::Arc<Metrics>,
        max_head: usize,
    ) -> Self {
        Refusals {
            inner,
            activity,
            metrics,
            instead: None,
            head: Vec::new(),
            max_head,
            http2: false,
            complete: false,
        }
    }

    /// Whether `bytes` are hyper's own words: a short bodiless error's head, while no request is on its way, and
    /// without the id that every answer of the stack carries.
    fn is_bare(&self, bytes: &[u8]) -> bool {
        bytes.starts_with(b"HTTP/1.1 4")
            && bytes.len() < LONGEST_BARE
            && bytes.ends_with(b"\r\n\r\n")
            && find(bytes, b"content-length: 0").is_some()
            && find(bytes, b"x-request-id").is_none()
            && self.activity.is_idle()
    }

    fn refusal(&self, bytes: &[u8]) -> Vec<u8> {
        // hyper says 431 of a Content-Length beyond its numbers as well; that head is small.
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
        // A refusal's body is whole from the start, so this is ready at once.
        let body = body.collect();
        let body = futures_util::FutureExt::now_or_never(body).and_then(Result::ok);
        let body = body
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        head.headers
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Ok(date) =
            HeaderValue::try_from(httpdate::fmt_http_date(std::time::SystemTime::now()))
        {
            head.headers.insert(header::DATE, date);
        }
        head.headers.insert(X_REQUEST_ID, RequestId::random().0);
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

impl<I: AsyncWrite + Unpin> Refusals<I> {
    /// Writes what goes out instead of `bytes`; `None` when they go out themselves.
    fn poll_instead(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Option<Poll<io::Result<usize>>> {
        if self.instead.is_none() {
            if !self.is_bare(bytes) {
                return None;
            }
            self.instead = Some((self.refusal(bytes), 0));
        }
        Some(self.poll_out(cx).map_ok(|()| bytes.len()))
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((out, sent)) = &mut self.instead {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &out[*sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *sent += written;
            if *sent == out.len() {
                self.instead = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<I> Refusals<I> {
    /// Looks at the bytes of a head on their way to hyper, for what hyper does not tell.
    fn look(&mut self, bytes: &[u8]) {
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

impl<I: AsyncRead + Unpin> AsyncRead for Refusals<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.look(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Refusals<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.poll_instead(cx, buf) {
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
        match self.poll_instead(cx, first) {
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
