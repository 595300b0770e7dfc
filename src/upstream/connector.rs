//! Connects: name look-up, TCP, the proxy's tunnel and TLS, within one timeout.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use http::Uri;
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use tower::BoxError;

use super::{
    OwnListeners,
    proxy::{Proxy, Tunnel},
    race::first_to_connect,
};
use crate::{
    policy::{addresses::attempt_order, descriptors::PER_OTHER_CONNECT},
    tcp,
};

pub(crate) struct Connector {
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
    own_listeners: OwnListeners,
    proxy: Option<Proxy>,
    look_up: LookUp,
    /// Sockets of one connect.
    at_once: usize,
}

/// Finds the addresses of a host.
type LookUp = fn(&str, u16) -> BoxFuture<'_, io::Result<Vec<SocketAddr>>>;

/// A connection to the host itself, or through the proxy.
type Transport = Either<TcpStream, Tunnel>;

/// A connection without or with TLS.
pub(crate) type Stream = Either<Transport, Box<TlsStream<Transport>>>;

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
        proxy: Option<Proxy>,
    ) -> Self {
        let default_port = if tls.is_some() { 443 } else { 80 };
        Connector {
            host: unbracketed(url.host().unwrap_or_default()).to_owned(),
            port: url.port_u16().unwrap_or(default_port),
            tls,
            own_listeners,
            proxy,
            look_up: system_look_up,
            at_once: PER_OTHER_CONNECT,
        }
    }

    /// To so many addresses a connect may have sockets at once.
    #[must_use]
    pub(crate) fn racing(self, at_once: usize) -> Self {
        Connector { at_once, ..self }
    }

    /// # Errors
    /// What went wrong, on one line.
    pub(crate) async fn connect(&self, within: Duration) -> Result<Connected, BoxError> {
        let until = Instant::now() + within;
        let target = host_and_port(&self.host, self.port);
        let transport = match &self.proxy {
            None => Either::Left(self.connect_tcp(&self.host, self.port, until).await?),
            Some(proxy) => {
                let stream = self.connect_tcp(&proxy.host, proxy.port, until).await?;
                let tunnel = proxy.open(stream, &target);
                let step = format!("the tunnel to {target} through the proxy {proxy}");
                Either::Right(in_time(until, step, tunnel).await?)
            }
        };
        let Some(config) = &self.tls else {
            return Ok(Connected {
                stream: Either::Left(transport),
                http2: false,
            });
        };
        let name = ServerName::try_from(self.host.clone())?;
        let handshake = TlsConnector::from(config.clone()).connect(name, transport);
        let stream = in_time(until, format!("TLS with {target}"), handshake).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Connected {
            stream: Either::Right(Box::new(stream)),
            http2,
        })
    }

    async fn connect_tcp(
        &self,
        host: &str,
        port: u16,
        until: Instant,
    ) -> Result<TcpStream, BoxError> {
        let host = unbracketed(host);
        let found = (self.look_up)(host, port);
        let found = in_time(until, format!("the look-up of {host}"), found).await?;
        let race = first_to_connect(attempt_order(found), self.at_once, TcpStream::connect);
        let step = format!("the connection to {}", host_and_port(host, port));
        let stream = in_time(until, step, race).await?;
        // Checked for the address to which the name resolved, before anything is written.
        let local = stream.local_addr().ok().map(|local| local.ip());
        if self.own_listeners.contains(stream.peer_addr()?, local) {
            let (key, instead) = match self.proxy {
                Some(_) => ("upstream.proxy", "name the proxy"),
                None => ("upstream.url", "name DevRev's API"),
            };
            return Err(
                format!("{key} leads to a listener of this gateway itself; {instead}").into(),
            );
        }
        tcp::set_options(&stream);
        Ok(stream)
    }
}

/// Only a URI has brackets around an IPv6 address.
fn unbracketed(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}

fn host_and_port(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Asks the system, which answers for both families.
fn system_look_up(host: &str, port: u16) -> BoxFuture<'_, io::Result<Vec<SocketAddr>>> {
    Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
}

/// Does one step of connecting. An error names it.
async fn in_time<T, E: fmt::Display>(
    until: Instant,
    step: String,
    doing: impl Future<Output = Result<T, E>>,
) -> Result<T, BoxError> {
    match timeout_at(until, doing).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(format!("{step} failed: {error}").into()),
        Err(_elapsed) => Err(format!("{step} took too long").into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener as StdListener;

    use socket2::{Domain, Socket, Type};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const WITHIN: Duration = Duration::from_secs(3);

    /// A listener whose backlog is full, so that the kernel drops further SYNs; and what fills it.
    struct Silent(
        #[expect(dead_code, reason = "held")] Socket,
        Vec<std::net::TcpStream>,
    );

    impl Silent {
        fn at(address: SocketAddr) -> io::Result<Silent> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.bind(&address.into())?;
            socket.listen(0)?;
            let mut silent = Silent(socket, Vec::new());
            let soon = Duration::from_millis(300);
            while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, soon) {
                silent.1.push(stream);
            }
            Ok(silent)
        }
    }

    /// A listener on 127.0.0.1, and silent ones on the same port of 127.0.0.2 and 127.0.0.3.
    fn some_silent() -> (TcpListener, u16, Vec<Silent>) {
        loop {
            let listener = StdListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let silent = [2, 3].map(|last| Silent::at(([127, 0, 0, last], port).into()));
            // Someone else may have the port of another address.
            if let Ok(silent) = silent.into_iter().collect() {
                listener.set_nonblocking(true).unwrap();
                return (TcpListener::from_std(listener).unwrap(), port, silent);
            }
        }
    }

    /// The silent addresses first. On the port behind it nothing listens at all.
    fn several(_: &str, port: u16) -> BoxFuture<'_, io::Result<Vec<SocketAddr>>> {
        let addresses = [2, 3, 4, 1].map(|last| ([127, 0, 0, last], port).into());
        Box::pin(async move { Ok(addresses.into()) })
    }

    fn unknown(_: &str, _: u16) -> BoxFuture<'_, io::Result<Vec<SocketAddr>>> {
        Box::pin(async { Err(io::Error::other("no such name")) })
    }

    fn endless(_: &str, _: u16) -> BoxFuture<'_, io::Result<Vec<SocketAddr>>> {
        Box::pin(std::future::pending())
    }

    fn connector(url: &str, proxy: Option<&str>, look_up: LookUp) -> Connector {
        let proxy = proxy.map(|proxy| Proxy::new(&proxy.parse().unwrap()));
        let url: Uri = url.parse().unwrap();
        Connector {
            look_up,
            ..Connector::new(&url, None, OwnListeners::default(), proxy)
        }
    }

    #[tokio::test]
    async fn addresses_that_do_not_answer_cost_a_quarter_of_a_second_each() {
        let (listener, port, _silent) = some_silent();
        let start = Instant::now();
        let url = format!("http://devrev.example:{port}");
        let connecting = connector(&url, None, several);
        let (connected, accepted) = tokio::join!(connecting.connect(WITHIN), listener.accept());
        let Either::Left(Either::Left(stream)) = connected.unwrap().stream else {
            panic!("neither a tunnel nor TLS");
        };
        assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
        assert_eq!(stream.local_addr().unwrap(), accepted.unwrap().1);
        // Two are silent, one refuses.
        let took = start.elapsed();
        let range = Duration::from_millis(500)..WITHIN / 2;
        assert!(range.contains(&took), "{took:?}");
        tcp::assert_options(&stream);
    }

    #[tokio::test]
    async fn a_proxy_has_several_addresses_too() {
        let (listener, port, _silent) = some_silent();
        let proxy = format!("http://proxy.example:{port}");
        let connecting = connector("http://devrev.example", Some(&proxy), several);
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\n\r\nhello")
                .await
                .unwrap();
            String::from_utf8(head).unwrap()
        };
        let (connected, head) = tokio::join!(connecting.connect(WITHIN), answering);
        assert!(
            head.starts_with("CONNECT devrev.example:80 HTTP/1.1\r\n"),
            "{head}"
        );
        let mut hello = String::new();
        let mut stream = connected.unwrap().stream;
        stream.read_to_string(&mut hello).await.unwrap();
        assert_eq!(hello, "hello");
    }

    #[tokio::test]
    async fn an_error_names_the_step_and_comes_in_time() {
        let silent = some_silent();
        let refusing = StdListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let (silent_at, refusing) = (format!("127.0.0.2:{}", silent.1), refusing.to_string());
        // Nobody accepts here, but the kernel connects.
        let stalling = StdListener::bind("127.0.0.1:0").unwrap();
        let stalling = format!("http://{}", stalling.local_addr().unwrap());
        for (url, proxy, look_up, want) in [
            (
                "devrev.example",
                None,
                unknown as LookUp,
                "the look-up of devrev.example failed: no such name".to_owned(),
            ),
            (
                "devrev.example",
                None,
                endless,
                "the look-up of devrev.example took too long".into(),
            ),
            (
                &silent_at,
                None,
                system_look_up,
                format!("the connection to {silent_at} took too long"),
            ),
            (
                &refusing,
                None,
                system_look_up,
                format!("the connection to {refusing} failed: {refusing}: Connection refused"),
            ),
            (
                "[::1]:9",
                Some(&*stalling),
                system_look_up,
                format!("the tunnel to [::1]:9 through the proxy {stalling} took too long"),
            ),
            (
                "devrev.example",
                Some("http://proxy.example:1"),
                unknown,
                "the look-up of proxy.example failed".into(),
            ),
        ] {
            let start = Instant::now();
            let connecting = connector(&format!("http://{url}"), proxy, look_up);
            let Err(error) = connecting.connect(WITHIN / 10).await else {
                panic!("{want}");
            };
            assert!(error.to_string().starts_with(&want), "{want}: {error}");
            assert!(start.elapsed() < WITHIN, "{want}");
        }
    }
}
