//! A gateway over plain TCP or TLS, with one worker or two, in front of an upstream that shows every byte.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use revgate::serve::Gateway;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;

use crate::{
    http::Client,
    rig::{self, KEY, TOKEN, hash},
};

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Workers, and whether connections are over TLS.
pub const EDGES: [(usize, bool); 3] = [(1, false), (2, false), (2, true)];

pub struct Edge {
    pub address: SocketAddr,
    certificate: Option<CertificateDer<'static>>,
    _gateway: Gateway,
    _folder: tempfile::TempDir,
}

impl Edge {
    /// `extra` goes behind all, or into the section "listen" if it begins with that.
    pub fn start(upstream: &Upstream, (workers, tls): (usize, bool), extra: &str) -> Edge {
        let (listen, extra) = match extra.strip_prefix("[listen]") {
            Some(listen) => (listen, ""),
            None => ("", extra),
        };
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a pair");
        std::fs::write(at("cert"), own.cert.pem()).expect("written");
        std::fs::write(at("key"), own.signing_key.serialize_pem()).expect("written");
        let secure = match tls {
            true => format!("tls = {{ cert = {:?}, key = {:?} }}", at("cert"), at("key")),
            false => String::new(),
        };
        let text = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\nworkers = {workers}\n{secure}\n{listen}\n\
             [admin]\naddress = \"127.0.0.1:0\"\n[tokens.main]\nenv = \"DEVREV_TOKEN\"\n\
             [callers.billing]\nkey_sha256 = \"{}\"\nrate = \"1000/s\"\nburst = 10000\n\
             [upstream]\nurl = \"http://{}\"\nhttp2 = \"{}\"\n{extra}\n",
            hash(KEY),
            upstream.address,
            if upstream.http2 { "always" } else { "never" },
        );
        let gateway = rig::start(&text, &[("DEVREV_TOKEN", TOKEN)]);
        Edge {
            address: gateway.address().expect("TCP"),
            certificate: tls.then(|| own.cert.der().clone()),
            _gateway: gateway,
            _folder: folder,
        }
    }

    /// Offers these protocols over TLS.
    pub async fn connect(&self, alpn: &[&str]) -> Box<dyn Stream> {
        self.behind(b"", 1, alpn).await
    }

    /// As `connect`, after a header that comes before all else, in so many pieces.
    pub async fn behind(&self, header: &[u8], pieces: usize, alpn: &[&str]) -> Box<dyn Stream> {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        stream.set_nodelay(true).expect("set");
        for piece in header.chunks(header.len().div_ceil(pieces).max(1)) {
            stream.write_all(piece).await.expect("written");
            tokio::task::yield_now().await;
        }
        let Some(certificate) = &self.certificate else {
            return Box::new(stream);
        };
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a root");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = TlsConnector::from(Arc::new(config)).connect(name, stream);
        Box::new(tls.await.expect("a handshake"))
    }

    pub async fn http1(&self) -> Client<Box<dyn Stream>> {
        Client::over(self.connect(&["http/1.1"]).await)
    }

    pub async fn http2(&self) -> h2::client::SendRequest<Bytes> {
        let stream = self.connect(&["h2"]).await;
        let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        sender
    }
}

/// A request as the upstream got it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The request line and the fields; over HTTP/2 the method, the path and the fields.
    pub head: String,
    pub body: Vec<u8>,
    /// What came behind the body.
    pub trailers: String,
}

impl Seen {
    /// The values of this field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1);
        let fields = lines.filter_map(|line| line.split_once(": "));
        fields
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }
}

pub struct Upstream {
    address: String,
    http2: bool,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Upstream {
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Of HTTP/1.1. Gives these answers, the last one again and again.
    pub async fn http1(answers: &[&str]) -> Upstream {
        let answers: Vec<_> = answers.iter().map(|text| (*text).to_owned()).collect();
        Upstream::start(false, move |stream, seen| {
            let answers = answers.clone();
            tokio::spawn(async move {
                let mut client = Client::over(stream);
                while let Some(request) = request(&mut client).await {
                    let number = {
                        let mut seen = seen.lock().unwrap();
                        seen.push(request);
                        seen.len() - 1
                    };
                    let answer = answers.get(number).or(answers.last()).expect("one");
                    if client.0.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        })
        .await
    }

    /// Of HTTP/2. Answers with a body and these trailers.
    pub async fn http2(trailers: HeaderMap) -> Upstream {
        Upstream::start(true, move |stream, seen| {
            let trailers = trailers.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(answer(request, respond, trailers.clone(), seen.clone()));
                }
            });
        })
        .await
    }

    async fn start(
        http2: bool,
        serve: impl Fn(TcpStream, Arc<Mutex<Vec<Seen>>>) + Send + 'static,
    ) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let upstream = Upstream {
            address,
            http2,
            seen: seen.clone(),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, seen.clone());
            }
        });
        upstream
    }
}

async fn request(client: &mut Client) -> Option<Seen> {
    let head = client.until("\r\n\r\n").await?;
    let mut seen = Seen {
        head,
        ..Seen::default()
    };
    if let Some(length) = seen.all("content-length").first() {
        let length: usize = length.parse().expect("a length");
        while client.1.len() < length && client.more().await {}
        seen.body = client.1.drain(..length).collect();
    } else if !seen.all("transfer-encoding").is_empty() {
        loop {
            let size = client.until("\r\n").await?;
            let size = usize::from_str_radix(size.trim(), 16).expect("a size");
            if size == 0 {
                break;
            }
            while client.1.len() < size + 2 && client.more().await {}
            seen.body.extend(client.1.drain(..size));
            client.1.drain(..2);
        }
        loop {
            match client.until("\r\n").await? {
                line if line == "\r\n" => break,
                line => seen.trailers += &line,
            }
        }
    }
    Some(seen)
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    trailers: HeaderMap,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    let (head, mut body) = request.into_parts();
    let mut one = Seen {
        head: format!("{} {}\n", head.method, head.uri.path()),
        ..Seen::default()
    };
    for (name, value) in &head.headers {
        one.head += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        one.body.extend_from_slice(&data);
    }
    if let Ok(Some(trailers)) = body.trailers().await {
        one.trailers = format!("{trailers:?}");
    }
    seen.lock().unwrap().push(one);
    let head = Response::builder().header("trailer", "x-checksum, expires");
    let mut stream = respond
        .send_response(head.body(()).expect("an answer"), false)
        .expect("sent");
    let end = trailers.is_empty();
    stream
        .send_data(Bytes::from_static(b"hello"), end)
        .expect("sent");
    if !end {
        stream.send_trailers(trailers).expect("sent");
    }
}
