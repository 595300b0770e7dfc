//! Connects: name look-up, TCP and TLS, within one timeout.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::BoxError;

use super::OwnListeners;

pub(crate) struct Connector {
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
    own_listeners: OwnListeners,
}

pub(crate) struct Connected {
    pub stream: Stream,
    /// HTTP/2 was negotiated by ALPN.
    pub http2: bool,
}

impl Connector {
    pub(crate) fn new(
        url: &Uri,
        tls: Option<Arc<rustls::ClientConfig>>,
        own_listeners: OwnListeners,
    ) -> Self {
        let default_port = if tls.is_some() { 443 } else { 80 };
        // Only a URI has brackets around an IPv6 address.
        let host = url
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned();
        let port = url.port_u16().unwrap_or(default_port);
        Connector {
            host,
            port,
            tls,
            own_listeners,
        }
    }

    pub(crate) async fn connect(&self, within: Duration) -> Result<Connected, BoxError> {
        match timeout(within, self.connect_untimed()).await {
            Ok(result) => result,
            Err(_elapsed) => Err("connecting took too long".into()),
        }
    }

    async fn connect_untimed(&self) -> Result<Connected, BoxError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        // Checked for the address to which the name resolved, before anything is written.
        let local = stream.local_addr().ok().map(|local| local.ip());
        if self.own_listeners.contains(stream.peer_addr()?, local) {
            return Err(
                "upstream.url leads to a listener of this gateway itself; name DevRev's API".into(),
            );
        }
        // Requests are small and written as a whole, so Nagle's algorithm would only delay them.
        stream.set_nodelay(true)?;
        let Some(config) = &self.tls else {
            return Ok(Connected {
                stream: Stream::Tcp(stream),
                http2: false,
            });
        };
        let name = ServerName::try_from(self.host.clone())?;
        let stream = TlsConnector::from(config.clone())
            .connect(name, stream)
            .await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Connected {
            stream: Stream::Tls(Box::new(stream)),
            http2,
        })
    }
}

pub(crate) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
