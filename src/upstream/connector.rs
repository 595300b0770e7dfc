//! Connects: name look-up, TCP and TLS, within one timeout.

use std::{sync::Arc, time::Duration};

use http::Uri;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use tower::BoxError;

use super::OwnListeners;
use crate::tcp;

pub(crate) struct Connector {
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
    own_listeners: OwnListeners,
}

/// A connection without or with TLS.
pub(crate) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

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
        tcp::set_options(&stream);
        let Some(config) = &self.tls else {
            return Ok(Connected {
                stream: Either::Left(stream),
                http2: false,
            });
        };
        let name = ServerName::try_from(self.host.clone())?;
        let stream = TlsConnector::from(config.clone())
            .connect(name, stream)
            .await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Connected {
            stream: Either::Right(Box::new(stream)),
            http2,
        })
    }
}
