//! An HTTP proxy, through which connections are tunnelled (RFC 9110 section 9.3.6).

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::{client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A connection through the proxy.
pub(super) type Tunnel = TokioIo<Upgraded>;

/// The proxy. A clone shares its credentials.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    credentials: Arc<ArcSwapOption<HeaderValue>>,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("it answered 407: it wants credentials; name them in upstream.proxy_credentials")]
    WantsCredentials,
    #[error("it answered 407: it does not accept upstream.proxy_credentials")]
    RefusesCredentials,
    #[error("it answered {0}")]
    Refused(StatusCode),
    #[error("it closed the connection without an answer")]
    Closed,
    #[error("its answer is longer than {MAX_HEAD} bytes, or has more than {MAX_HEADERS} fields")]
    TooLarge,
    #[error("its answer is not HTTP/1.1 ({0})")]
    Malformed(hyper::Error),
    #[error(transparent)]
    Broken(hyper::Error),
    /// The upstream's host is no host to HTTP.
    #[error(transparent)]
    Target(#[from] http::Error),
}

impl From<hyper::Error> for ProxyError {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse_too_large() {
            ProxyError::TooLarge
        } else if error.is_parse() {
            ProxyError::Malformed(error)
        } else if error.is_incomplete_message() {
            ProxyError::Closed
        } else {
            ProxyError::Broken(error)
        }
    }
}

/// Bytes of the proxy's answer. hyper takes no fewer; proxies send a few hundred.
const MAX_HEAD: usize = 8192;

/// Fields of the proxy's answer.
const MAX_HEADERS: usize = 100;

impl Proxy {
    /// `url` has a host and a port. There are no credentials yet.
    pub(crate) fn new(url: &Uri) -> Proxy {
        Proxy {
            host: url.host().unwrap_or_default().into(),
            port: url.port_u16().unwrap_or(80),
            credentials: Arc::default(),
        }
    }

    /// The value of `Proxy-Authorization` from the next connection on.
    pub(crate) fn set_credentials(&self, credentials: Option<HeaderValue>) {
        self.credentials.store(credentials.map(Arc::new));
    }

    /// Asks the proxy at the other end of `stream` for a tunnel to `target`, a host and a port.
    pub(super) async fn open(&self, stream: TcpStream, target: &str) -> Result<Tunnel, ProxyError> {
        let mut request = Request::connect(target).header(header::HOST, target);
        let credentials = self.credentials.load_full();
        if let Some(credentials) = &credentials {
            request = request.header(header::PROXY_AUTHORIZATION, &**credentials);
        }
        let request = request.body(Empty::<Bytes>::new())?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await?;
        let tunnel = async {
            let response = sender.send_request(request).await?;
            match response.status() {
                status if status.is_success() => Ok(hyper::upgrade::on(response).await?),
                StatusCode::PROXY_AUTHENTICATION_REQUIRED if credentials.is_none() => {
                    Err(ProxyError::WantsCredentials)
                }
                StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(ProxyError::RefusesCredentials),
                status => Err(ProxyError::Refused(status)),
            }
        };
        let connection = async { Ok(connection.with_upgrades().await?) };
        // Bytes that came right behind the answer are the first that the tunnel yields.
        let ((), upgraded) = tokio::try_join!(connection, tunnel)?;
        Ok(TokioIo::new(upgraded))
    }
}

/// As in the configuration, which has no credentials in it.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A tunnel to `devrev.example:443` through a proxy that answers with these bytes, and what the proxy read.
    async fn through(
        answer: &'static [u8],
        credentials: Option<HeaderValue>,
    ) -> (Result<Tunnel, ProxyError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            // The proxy may close before it has read everything.
            let _ = stream.write_all(answer).await;
            String::from_utf8(head).unwrap()
        });
        let proxy = Proxy::new(&format!("http://{address}").parse().unwrap());
        proxy.set_credentials(credentials);
        let stream = TcpStream::connect(address).await.unwrap();
        let tunnel = proxy.open(stream, "devrev.example:443").await;
        (tunnel, asked.await.unwrap())
    }

    #[tokio::test]
    async fn what_comes_behind_the_answer_is_the_tunnels() {
        for answer in [
            &b"HTTP/1.1 200 Connection established\r\n\r\nfirst bytes"[..],
            b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nfirst bytes",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 299 Fine\r\nProxy-Agent: x\r\n\r\nfirst bytes",
        ] {
            let (tunnel, asked) = through(answer, None).await;
            let mut text = String::new();
            tunnel.unwrap().read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "first bytes");
            assert_eq!(
                asked,
                "CONNECT devrev.example:443 HTTP/1.1\r\nhost: devrev.example:443\r\n\r\n"
            );
        }
    }

    #[tokio::test]
    async fn credentials_go_to_the_proxy() {
        let credentials = HeaderValue::from_static("Basic dTpw");
        let (tunnel, asked) = through(b"HTTP/1.1 200 OK\r\n\r\n", Some(credentials)).await;
        assert!(tunnel.is_ok());
        assert!(
            asked.contains("\r\nproxy-authorization: Basic dTpw\r\n"),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn any_other_answer_is_an_error_that_says_what_it_was() {
        let credentials = Some(HeaderValue::from_static("Basic dTpw"));
        let wants = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 9999\r\n\r\n";
        for (answer, credentials, want) in [
            (&wants[..], None, "it answered 407: it wants credentials"),
            (wants, credentials, "it answered 407: it does not accept"),
            (
                b"HTTP/1.1 403 No\r\n\r\n",
                None,
                "it answered 403 Forbidden",
            ),
            (
                b"HTTP/1.1 502 No\r\n\r\n",
                None,
                "it answered 502 Bad Gateway",
            ),
            (
                b"HTTP/1.1 302 Go\r\nLocation: http://x/\r\n\r\n",
                None,
                "it answered 302 Found",
            ),
            (
                b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
                None,
                "it answered 101",
            ),
            (b"HTTP/1.1 204 X\r\n\r\n", None, ""),
            (
                b"SSH-2.0-OpenSSH_9.6\r\n",
                None,
                "its answer is not HTTP/1.1",
            ),
            (
                b"HTTP/1.1 2000 OK\r\n\r\n",
                None,
                "its answer is not HTTP/1.1",
            ),
            (
                b"HTTP/2.0 200 OK\r\n\r\n",
                None,
                "its answer is not HTTP/1.1",
            ),
            (
                b"\x15\x03\x01\x00\x02\x02\x16",
                None,
                "its answer is not HTTP/1.1",
            ),
            (b"", None, "it closed the connection without an answer"),
            (
                b"HTTP/1.1 200 OK\r\n",
                None,
                "it closed the connection without an answer",
            ),
            (&[b'x'; 100_000], None, ""),
        ] {
            let (tunnel, _) = through(answer, credentials).await;
            let error = tunnel
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(
                !error.is_empty() && error.starts_with(want),
                "{want}: {error}"
            );
        }
        let endless = "HTTP/1.1 200 OK\r\n".to_owned() + &"a: b\r\n".repeat(100_000);
        let many = "HTTP/1.1 200 OK\r\n".to_owned() + &"a:\r\n".repeat(101) + "\r\n";
        for answer in [endless, many] {
            let (tunnel, _) = through(Vec::leak(answer.into_bytes()), None).await;
            let error = tunnel.unwrap_err().to_string();
            assert!(
                error.starts_with("its answer is longer than 8192"),
                "{error}"
            );
        }
    }
}
