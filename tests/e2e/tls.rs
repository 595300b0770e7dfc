//! TLS with clients: server certificates, client certificates, and files that change.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType, date_time_ymd,
};
use revgate::{config, serve::Gateway, simulator::Simulator};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    http::{Answer, Client, request},
    rig::{self, KEY, hash, header},
};

const PATIENCE: Duration = Duration::from_secs(20);
const BILLING: &str = "spiffe://example.org/ns/default/sa/billing";

/// A CA.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
struct Pair {
    cert: String,
    key: String,
}

#[derive(Clone, Copy)]
struct Years(i32, i32);
const NOW: Years = Years(2000, 2100);

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        let issuer = Issuer::new(params, key);
        Authority { issuer, pem }
    }

    fn sign(&self, name: &str, years: Years, usage: ExtendedKeyUsagePurpose) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        let text = name.try_into().expect("ASCII");
        params.subject_alt_names = vec![if name.contains("://") {
            SanType::URI(text)
        } else {
            SanType::DnsName(text)
        }];
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("signed").pem();
        let key = key.serialize_pem();
        Pair { cert, key }
    }

    fn client(&self, name: &str) -> Pair {
        self.sign(name, NOW, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn server(&self) -> Pair {
        self.sign("localhost", NOW, ExtendedKeyUsagePurpose::ServerAuth)
    }
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")
}

struct Rig {
    devrev: Simulator,
    gateway: Gateway,
    folder: tempfile::TempDir,
    /// The CA of the server certificate.
    authority: Authority,
    /// The CA of client certificates.
    clients: Authority,
}

impl Rig {
    /// `tls` is appended to cert and key; `@` stands for the folder.
    async fn new(tls: &str, extra: &str) -> Rig {
        let devrev = rig::simulator().await;
        let folder = tempfile::tempdir().expect("a folder");
        let (authority, clients) = (Authority::new("servers"), Authority::new("clients"));
        let at = |name: &str| folder.path().join(name);
        write(&at("cert.pem"), &authority.server());
        std::fs::write(at("clients.pem"), &clients.pem).expect("written");
        for name in ["spiffe", "dns", "key", "any"] {
            std::fs::write(at(name), format!("token-of-{name}")).expect("written");
        }
        let text = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n\
             tls = {{ cert = \"@cert.pem\", key = \"@cert.key\"{tls} }}\n\
             [admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://{}\"\n\
             [tokens.spiffe]\nfile = \"@spiffe\"\n[tokens.dns]\nfile = \"@dns\"\n\
             [tokens.key]\nfile = \"@key\"\n[tokens.any]\nfile = \"@any\"\n\
             [callers.key]\nkey_sha256 = \"{}\"\ntoken = \"key\"\n{extra}\n",
            devrev.addr(),
            hash(KEY),
        );
        let text = text.replace('@', &format!("{}/", folder.path().display()));
        let file = at("revgate.toml");
        std::fs::write(&file, text).expect("written");
        let gateway = rig::watching(&file);
        Rig {
            devrev,
            gateway,
            folder,
            authority,
            clients,
        }
    }

    /// With callers identified by client certificates.
    async fn mutual(auth: &str, extra: &str) -> Rig {
        let tls = format!(", client_ca = \"@clients.pem\", client_auth = \"{auth}\"");
        let callers = format!(
            "[callers.spiffe]\nmtls_san = \"{BILLING}\"\ntoken = \"spiffe\"\n\
             [callers.dns]\nmtls_san = \"Reports.Internal\"\ntoken = \"dns\"\n{extra}"
        );
        Rig::new(&tls, &callers).await
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn client(&self, show: Option<&Pair>) -> Arc<ClientConfig> {
        self.client_of(show, rustls::DEFAULT_VERSIONS, &[])
    }

    fn client_of(
        &self,
        show: Option<&Pair>,
        versions: &[&'static rustls::SupportedProtocolVersion],
        alpn: &[&[u8]],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.authority.pem)).expect("a root");
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match show {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
                builder
                    .with_client_auth_cert(vec![certificate(&pair.cert)], key)
                    .expect("a pair")
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    async fn tcp(&self) -> TcpStream {
        let address = self.gateway.address().expect("TCP");
        TcpStream::connect(address).await.expect("connects")
    }

    async fn shake(&self, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(config.clone());
        connector.connect(name, self.tcp().await).await
    }

    /// `None` when the handshake failed. With TLS 1.3 a client learns only afterwards that its certificate was refused.
    async fn call(&self, config: &Arc<ClientConfig>, key: Option<&str>) -> Option<Answer> {
        let mut client = Client::over(self.shake(config).await.ok()?);
        ask(&mut client, key).await
    }

    /// The token of the last request at the simulator.
    fn last(&self) -> String {
        let received = self.devrev.received();
        let last = received.last().expect("a request at the simulator");
        let token = header(last, "authorization").expect("a token");
        token.replace("Bearer token-of-", "")
    }

    async fn admin(&self, path: &str) -> Answer {
        rig::admin(self.gateway.admin_address(), "GET", path, "").await
    }

    /// How many handshakes failed for this reason.
    async fn failures(&self, reason: &str) -> u64 {
        let metrics = self.admin("/metrics").await;
        let start = format!("revgate_tls_handshake_failures_total{{reason=\"{reason}\"}} ");
        let text = metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0, |count| count.parse().expect("a number"))
    }

    async fn until_failures(&self, reason: &str, count: u64) {
        until(|| async { self.failures(reason).await == count }, reason).await;
    }

    async fn until_reloaded(&self, result: &str, text: &str) {
        let so = || async {
            let reload = self.admin("/status").await.json()["reload"].clone();
            reload["result"] == result && reload.to_string().contains(text)
        };
        until(so, text).await;
    }
}

/// Replaces each file atomically, the certificate's last. The gateway may read the pair in between, when it does not match.
fn write(cert: &Path, pair: &Pair) {
    replace(&cert.with_extension("key"), &pair.key);
    replace(cert, &pair.cert);
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("written");
    let own = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&new, own).expect("permitted");
    std::fs::rename(new, path).expect("renamed");
}

async fn until<F: Future<Output = bool>>(so: impl Fn() -> F, what: &str) {
    let ends = Instant::now() + PATIENCE;
    while !so().await {
        assert!(Instant::now() < ends, "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn ask(client: &mut Client<TlsStream<TcpStream>>, key: Option<&str>) -> Option<Answer> {
    let headers: Vec<_> = key.into_iter().map(|key| ("Authorization", key)).collect();
    let bytes = request("GET", "/dev-users.self", &headers, "");
    client.0.write_all(&bytes).await.ok()?;
    client.answer().await
}

#[tokio::test]
async fn a_key_over_tls_with_each_version_and_protocol() {
    let rig = Rig::new("", "").await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (alpn, agreed) in [
            (&[][..], None),
            (&[&b"http/1.1"[..]][..], Some(&b"http/1.1"[..])),
        ] {
            let config = rig.client_of(None, &[version], alpn);
            let stream = rig.shake(&config).await.expect("a handshake");
            assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
            let mut client = Client::over(stream);
            for _ in 0..2 {
                let answer = ask(&mut client, Some(KEY)).await.expect("an answer");
                assert_eq!(answer.status, 200, "{answer:?}");
            }
            let wrong = ask(&mut client, Some("wrong")).await.expect("an answer");
            assert_eq!(wrong.code(), "unauthenticated");
        }
        let config = rig.client_of(None, &[version], &[b"h2", b"http/1.1"]);
        let stream = rig.shake(&config).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("HTTP/2");
        tokio::spawn(connection);
        for _ in 0..2 {
            let request = hyper::Request::get("https://localhost/dev-users.self")
                .header("authorization", KEY)
                .body(Empty::<bytes::Bytes>::new())
                .expect("a request");
            let response = sender.send_request(request).await.expect("an answer");
            assert_eq!(response.status(), 200);
            assert!(response.into_body().collect().await.is_ok());
        }
    }
    let config = rig.client_of(None, rustls::DEFAULT_VERSIONS, &[b"spdy/3"]);
    assert!(rig.shake(&config).await.is_err());
    rig.until_failures("incompatible", 1).await;
}

#[tokio::test]
async fn a_certificate_identifies_the_caller() {
    let rig = Rig::mutual(
        "required",
        "[callers.any]\nanonymous = true\ntoken = \"any\"\n",
    )
    .await;
    for (name, key, want) in [
        (BILLING, None, Ok("spiffe")),
        ("reports.internal", None, Ok("dns")),
        ("REPORTS.INTERNAL", None, Ok("dns")),
        // A key is checked before the certificate, and a wrong key is refused whatever the certificate.
        (BILLING, Some(KEY), Ok("key")),
        ("nobody.internal", Some(KEY), Ok("key")),
        (BILLING, Some("wrong"), Err(())),
        // A verified certificate that names no caller: never the anonymous caller.
        ("nobody.internal", None, Err(())),
        ("*.internal", None, Err(())),
        ("spiffe://example.org/ns/default/sa/billing2", None, Err(())),
        ("spiffe://example.org/ns/default/sa", None, Err(())),
    ] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = rig.client_of(Some(&rig.clients.client(name)), &[version], &[]);
            let answer = rig.call(&config, key).await.expect("a connection");
            match want {
                Ok(token) => {
                    assert_eq!(answer.status, 200, "{name} {key:?}: {answer:?}");
                    assert_eq!(rig.last(), token, "{name} {key:?}");
                }
                Err(()) => {
                    assert_eq!(answer.status, 401, "{name} {key:?}: {answer:?}");
                    assert_eq!(answer.code(), "unauthenticated");
                }
            }
        }
    }
    // HTTP/2 streams share the identity of their connection.
    let config = rig.client_of(
        Some(&rig.clients.client(BILLING)),
        rustls::DEFAULT_VERSIONS,
        &[b"h2"],
    );
    let stream = rig.shake(&config).await.expect("a handshake");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = hyper::Request::get("https://localhost/dev-users.self")
            .body(Empty::<bytes::Bytes>::new())
            .expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(
            (response.status().as_u16(), rig.last().as_str()),
            (200, "spiffe")
        );
    }
}

/// A browser shows its user's certificate for any page, so only what the user's own pages send counts.
#[tokio::test]
async fn a_page_of_another_site_gets_nothing_by_a_certificate() {
    let anonymous = "[callers.any]\nanonymous = true\ntoken = \"any\"\n";
    let rig = Rig::mutual("optional", anonymous).await;
    let certificate = rig.clients.client(BILLING);
    for alpn in [&b"http/1.1"[..], b"h2"] {
        for (shown, host, origin, want) in [
            (true, "gateway.internal", None, Some("spiffe")),
            (
                true,
                "gateway.internal",
                Some("https://gateway.internal"),
                Some("spiffe"),
            ),
            (true, "gateway.internal", Some("https://evil.example"), None),
            (false, "localhost", None, Some("any")),
            (false, "localhost", Some("https://evil.example"), None),
            (false, "gateway.internal", None, None),
        ] {
            let pair = shown.then_some(&certificate);
            let config = rig.client_of(pair, rustls::DEFAULT_VERSIONS, &[alpn]);
            let stream = TokioIo::new(rig.shake(&config).await.expect("a handshake"));
            let is_http2 = alpn == b"h2";
            let uri = match is_http2 {
                true => format!("https://{host}/dev-users.self"),
                false => "/dev-users.self".to_owned(),
            };
            let mut request = hyper::Request::get(uri);
            if !is_http2 {
                request = request.header("host", host);
            }
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            let request = request
                .body(Empty::<bytes::Bytes>::new())
                .expect("a request");
            let before = rig.devrev.received().len();
            let status = if is_http2 {
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                        .await
                        .expect("HTTP/2");
                tokio::spawn(connection);
                sender
                    .send_request(request)
                    .await
                    .expect("an answer")
                    .status()
            } else {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
                    .await
                    .expect("HTTP/1.1");
                tokio::spawn(connection);
                sender
                    .send_request(request)
                    .await
                    .expect("an answer")
                    .status()
            };
            let says = format!("{shown} {host} {origin:?} {is_http2}");
            match want {
                Some(token) => {
                    assert_eq!(status, 200, "{says}");
                    assert_eq!(rig.last(), token, "{says}");
                }
                None => {
                    assert_eq!(status, 403, "{says}");
                    assert_eq!(rig.devrev.received().len(), before, "{says}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_bad_certificate_fails_the_handshake() {
    for auth in ["required", "optional"] {
        let rig = Rig::mutual(auth, "[callers.any]\nanonymous = true\ntoken = \"any\"\n").await;
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        let server = ExtendedKeyUsagePurpose::ServerAuth;
        let stranger = Authority::new("strangers").client(BILLING);
        let impostor = Authority::new("clients").client(BILLING);
        let sign = |years, usage| rig.clients.sign(BILLING, years, usage);
        for (pair, reason, count) in [
            (stranger, "unknown_authority", 1),
            // The CA of the server certificate signs no client certificate.
            (rig.authority.client(BILLING), "unknown_authority", 2),
            (
                sign(Years(2000, 2001), client.clone()),
                "certificate_expired",
                1,
            ),
            (
                sign(Years(2099, 2100), client),
                "certificate_not_yet_valid",
                1,
            ),
            (sign(NOW, server), "bad_certificate", 1),
            // Another CA with the same name.
            (impostor, "bad_certificate", 2),
        ] {
            let config = rig.client(Some(&pair));
            let answer = rig.call(&config, Some(KEY)).await;
            assert!(answer.is_none(), "{auth} {reason}: {answer:?}");
            rig.until_failures(reason, count).await;
        }
        assert!(rig.devrev.received().is_empty());
        let none = rig.client(None);
        if auth == "required" {
            // A key does not make up for it.
            assert!(rig.call(&none, Some(KEY)).await.is_none());
            rig.until_failures("no_certificate", 1).await;
        } else {
            let answer = rig.call(&none, Some(KEY)).await.expect("a connection");
            assert_eq!((answer.status, rig.last().as_str()), (200, "key"));
            let answer = rig.call(&none, Some("wrong")).await.expect("a connection");
            assert_eq!(answer.status, 401);
            let answer = rig.call(&none, None).await.expect("a connection");
            assert_eq!((answer.status, rig.last().as_str()), (200, "any"));
        }
    }
    let rig = Rig::mutual("optional", "").await;
    let answer = rig
        .call(&rig.client(None), None)
        .await
        .expect("a connection");
    assert_eq!(answer.code(), "unauthenticated");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_the_next_connection() {
    let rig = Rig::new("", "").await;
    let shown = |stream: &TlsStream<TcpStream>| {
        let shown = stream.get_ref().1.peer_certificates().expect("shown");
        shown[0].clone().into_owned()
    };
    let first = rig.shake(&rig.client(None)).await.expect("a handshake");
    let before = shown(&first);
    let mut old = Client::over(first);
    assert_eq!(
        ask(&mut old, Some(KEY)).await.expect("an answer").status,
        200
    );
    let renewed = rig.authority.server();
    write(&rig.at("cert.pem"), &renewed);
    rig.until_reloaded("applied", "listen.tls.cert").await;
    let next = rig.shake(&rig.client(None)).await.expect("a handshake");
    assert_ne!(before, shown(&next));
    assert_eq!(shown(&next), certificate(&renewed.cert));
    assert_eq!(
        ask(&mut old, Some(KEY))
            .await
            .expect("the old connection goes on")
            .status,
        200
    );
    // A bad file changes nothing.
    let other = rig.authority.server();
    let past = rig.authority.sign(
        "localhost",
        Years(2000, 2001),
        ExtendedKeyUsagePurpose::ServerAuth,
    );
    for (pair, problem) in [
        (
            Pair {
                cert: "no PEM".into(),
                ..other.clone()
            },
            "holds no certificate",
        ),
        (
            Pair {
                cert: renewed.cert.clone(),
                ..other
            },
            "is not the key of",
        ),
        (past, "has expired"),
    ] {
        write(&rig.at("cert.pem"), &pair);
        rig.until_reloaded("refused", problem).await;
        let next = rig.shake(&rig.client(None)).await.expect("a handshake");
        assert_eq!(shown(&next), certificate(&renewed.cert), "{problem}");
        let status = rig.admin("/status").await;
        assert!(!status.text().contains("PRIVATE KEY"));
    }
    assert_eq!(
        ask(&mut old, Some(KEY)).await.expect("an answer").status,
        200
    );
}

#[tokio::test]
async fn a_session_is_resumed_with_its_caller() {
    let rig = Rig::mutual("required", "").await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = rig.client_of(Some(&rig.clients.client(BILLING)), &[version], &[]);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let stream = rig.shake(&config).await.expect("a handshake");
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
            let mut client = Client::over(stream);
            let answer = ask(&mut client, None).await.expect("an answer");
            assert_eq!((answer.status, rig.last().as_str()), (200, "spiffe"));
        }
    }
}

#[tokio::test]
async fn a_new_client_ca_ends_what_the_old_one_let_in() {
    let rig = Rig::mutual("required", "").await;
    let config = rig.client(Some(&rig.clients.client(BILLING)));
    let mut old = Client::over(rig.shake(&config).await.expect("a handshake"));
    assert_eq!(ask(&mut old, None).await.expect("an answer").status, 200);
    let others = Authority::new("others");
    replace(&rig.at("clients.pem"), &others.pem);
    rig.until_reloaded("applied", "listen.tls.client_ca").await;
    // The connection is closed gracefully, and neither its session nor its certificate is accepted for a new one. A request that comes
    // before the close is refused.
    let last = ask(&mut old, None).await;
    assert!(last.is_none_or(|answer| answer.status == 401));
    let seen = rig.devrev.received().len();
    assert!(rig.call(&config, None).await.is_none());
    assert_eq!(rig.devrev.received().len(), seen);
    let config = rig.client(Some(&others.client(BILLING)));
    let answer = rig.call(&config, None).await.expect("a connection");
    assert_eq!((answer.status, rig.last().as_str()), (200, "spiffe"));
}

/// The frame of a request without a body, or the head of one whose body follows.
fn frame(stream: u32, ends: bool) -> Vec<u8> {
    let mut block = vec![if ends { 0x82 } else { 0x83 }, 0x87];
    for (name, value) in [(0x04, "/works.list"), (0x01, "localhost")] {
        block.extend([name, value.len() as u8]);
        block.extend(value.as_bytes());
    }
    let flags = if ends { 0x05 } else { 0x04 };
    let mut frame = vec![0, 0, block.len() as u8, 0x01, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(block);
    frame
}

#[tokio::test]
async fn a_connection_that_ignores_goaway_is_not_served_after_its_client_ca_is_replaced() {
    let rig = Rig::mutual("required", "").await;
    let pair = rig.clients.client(BILLING);
    let config = rig.client_of(Some(&pair), rustls::DEFAULT_VERSIONS, &[b"h2"]);
    let mut old = rig.shake(&config).await.expect("a handshake");
    // Acknowledges nothing, so that the gateway never learns that the last stream is the last.
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    hello.extend(frame(1, false));
    hello.extend(frame(3, true));
    old.write_all(&hello).await.expect("sent");
    let seen = || {
        rig.devrev
            .received()
            .iter()
            .filter(|call| call.method == "GET")
            .count()
    };
    until(|| async { seen() == 1 }, "the first request").await;
    replace(&rig.at("clients.pem"), &Authority::new("others").pem);
    rig.until_reloaded("applied", "listen.tls.client_ca").await;
    sleep(Duration::from_secs(3)).await;
    let _ = old.write_all(&frame(5, true)).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(seen(), 1, "let in by authorities that are gone");
}

#[tokio::test]
async fn a_slow_handshake_is_cut_and_delays_no_other() {
    let rig = Rig::new(" }\nheader_timeout = \"3s\" #", "").await;
    let started = Instant::now();
    let mut idle = Vec::new();
    for bytes in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = rig.tcp().await;
        stream.write_all(bytes).await.expect("written");
        idle.push(stream);
    }
    let answer = rig.call(&rig.client(None), Some(KEY)).await;
    assert_eq!(answer.expect("served meanwhile").status, 200);
    for mut stream in idle {
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok() && rest.is_empty(), "{rest:?}");
    }
    assert!(started.elapsed() >= Duration::from_secs(3));
    rig.until_failures("timeout", 3).await;
}

#[tokio::test]
async fn plain_http_on_the_port_for_tls_gets_a_sentence() {
    let rig = Rig::new("", "").await;
    let mut client = Client::over(rig.tcp().await);
    let body = "x".repeat(100_000);
    let post = request("POST", "/works.create", &[("Authorization", KEY)], &body);
    client.send(&post).await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "bad_request")
    );
    assert!(answer.text().contains("https://"), "{}", answer.text());
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.rest().await.is_empty());
    rig.until_failures("plain_http", 1).await;
    // HTTP/2 by prior knowledge. A client shows the reason of a GOAWAY.
    let (mut sender, connection) = h2::client::handshake(rig.tcp().await).await.expect("sent");
    let ended = tokio::spawn(connection);
    let call = http::Request::get("http://localhost/works.list").body(());
    let call = sender.send_request(call.expect("a request"), true);
    let refused = match call {
        Ok((answer, _)) => answer.await.err(),
        Err(error) => Some(error),
    };
    let ended = ended.await.expect("no panic").err();
    let told = [refused, ended].map(|error| format!("{error:?}")).concat();
    assert!(told.contains("https://"), "{told}");
    rig.until_failures("plain_http", 2).await;
    assert!(rig.devrev.received().is_empty());
}

#[tokio::test]
async fn what_is_neither_tls_nor_http_is_closed_without_an_answer() {
    let rig = Rig::new("", "").await;
    let ssh = b"SSH-2.0-OpenSSH_9.6\r\n".to_vec();
    let record = b"\x16\x03\x01\x00\x05hello".to_vec();
    for (number, bytes) in [ssh, record, vec![0; 64]].into_iter().enumerate() {
        let mut stream = rig.tcp().await;
        stream.write_all(&bytes).await.expect("written");
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        // An alert and the end of the stream, or only the end.
        assert!(read.expect("closed").is_ok(), "{number}");
        assert!(rest.len() < 16 && !rest.starts_with(b"HTTP"), "{rest:?}");
        rig.until_failures("not_tls", number as u64 + 1).await;
    }
    drop(rig.tcp().await);
    rig.until_failures("closed", 1).await;
    assert!(rig.devrev.received().is_empty());
}

#[tokio::test]
async fn a_drain_ends_connections_and_handshakes_in_time() {
    let rig = Rig::new("", "").await;
    let mut client = Client::over(rig.shake(&rig.client(None)).await.expect("a handshake"));
    assert_eq!(
        ask(&mut client, Some(KEY)).await.expect("an answer").status,
        200
    );
    let _halfway = rig.tcp().await;
    let started = Instant::now();
    rig.gateway.drain().await;
    assert!(started.elapsed() < Duration::from_secs(5));
    // close_notify: the stream was not truncated.
    let mut rest = Vec::new();
    assert!(client.0.read_to_end(&mut rest).await.is_ok() && rest.is_empty());
}

#[test]
fn an_expired_certificate_is_no_obstacle_to_other_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let cert = folder.path().join("cert.pem");
    let usage = ExtendedKeyUsagePurpose::ServerAuth;
    write(
        &cert,
        &Authority::new("servers").sign("localhost", Years(2000, 2001), usage),
    );
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\ntls = {{ cert = {cert:?}, key = {:?} }}\n\
         [admin]\naddress = \"127.0.0.1:0\"\n[tokens.main]\nenv = \"T\"\n[callers.a]\nkey_sha256 = \"{}\"\n",
        cert.with_extension("key"),
        hash(KEY),
    );
    let env = BTreeMap::from([("T".to_owned(), "t".to_owned())]);
    let config = config::from_toml(&text, &env).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.warnings[0].path, "listen.tls.cert");
    assert!(Gateway::start(config, None).is_ok());
}
