//! The protocols on both sides: HTTP/2, TLS with each result of ALPN, unix sockets, and recorded requests of DevRev's real clients.

use std::{net::SocketAddr, sync::Arc};

use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use revgate::simulator::Simulator;
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    http::{Client, exchange, get, request},
    rig::{self, KEY, Rig, TOKEN, header},
};

#[tokio::test]
async fn recorded_requests_of_real_clients_go_through() {
    let recorded: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("client-requests.json")).expect("the recording");
    let rig = Rig::new("").await;
    for one in &recorded {
        let text = |key: &str| one[key].as_str().expect("text").to_owned();
        let (client, body) = (text("client"), text("body"));
        let mut bytes = format!(
            "{} {} HTTP/1.1\r\nHost: api.devrev.ai\r\n",
            text("method"),
            text("target")
        );
        for pair in one["headers"].as_array().expect("headers") {
            let value = pair[1].as_str().expect("a value").replace("T0KEN", KEY);
            bytes += &format!("{}: {value}\r\n", pair[0].as_str().expect("a name"));
        }
        let answer = rig.send(format!("{bytes}\r\n{body}")).await;
        assert!(
            answer.header("proxy-status").is_none(),
            "{client}: {answer:?}"
        );
        let sent = rig.last();
        assert_eq!(sent.target, text("target"), "{client}");
        assert_eq!(
            header(&sent, "authorization"),
            Some(format!("Bearer {TOKEN}").as_str()),
            "{client}"
        );
        let renamed = body
            .replace("user_don", "id")
            .replace("rev_org_don", "rev_org");
        assert_eq!(
            sent.body,
            if sent.target == "/rev-users.link" {
                renamed
            } else {
                body
            },
            "{client}"
        );
        for kept in ["User-Agent", "Accept", "Accept-Encoding", "X-Devrev-Scope"] {
            let before = one["headers"]
                .as_array()
                .expect("headers")
                .iter()
                .find(|pair| pair[0] == kept);
            let before = before.and_then(|pair| pair[1].as_str());
            assert_eq!(
                header(&sent, &kept.to_ascii_lowercase()),
                before,
                "{client}: {kept}"
            );
        }
    }
    assert_eq!(rig.devrev.received().len(), recorded.len());
}

#[tokio::test]
async fn http2_by_prior_knowledge_on_the_same_port() {
    let rig = Rig::new("").await;
    let stream = TcpStream::connect(rig.address).await.expect("connects");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let request = hyper::Request::post(format!("http://{}/rev-users.link", rig.address))
        .header("authorization", KEY)
        .header("content-type", "application/json")
        .body(Full::new(bytes::Bytes::from_static(
            b"{\"user_don\":\"REVU-1\"}",
        )))
        .expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert!(response.into_body().collect().await.is_ok());
    assert_eq!(rig.last().body, "{\"id\":\"REVU-1\"}");
}

/// Terminates TLS in front of the simulator, offering `alpn`.
async fn terminator(devrev: &Simulator, alpn: &[&[u8]]) -> (u16, tempfile::NamedTempFile) {
    terminate(devrev.addr(), alpn).await
}

/// Terminates TLS in front of this address, as `localhost` and offering `alpn`. Returns the port, and a file with its certificate.
pub async fn terminate(upstream: SocketAddr, alpn: &[&[u8]]) -> (u16, tempfile::NamedTempFile) {
    terminator_of("localhost", upstream, alpn).await
}

/// As [`terminate`], as this host.
pub async fn terminator_of(
    host: &str,
    upstream: SocketAddr,
    alpn: &[&[u8]],
) -> (u16, tempfile::NamedTempFile) {
    let own = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), own.cert.pem()).expect("written");
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("a server");
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(stream).await else {
                    return;
                };
                let Ok(mut plain) = TcpStream::connect(upstream).await else {
                    return;
                };
                let _ = tokio::io::copy_bidirectional(&mut tls, &mut plain).await;
            });
        }
    });
    (port, file)
}

#[tokio::test]
async fn tls_to_the_upstream_by_alpn_with_roots_from_a_file() {
    for (alpn, version) in [
        (&[&b"h2"[..], b"http/1.1"][..], "HTTP/2.0"),
        (&[&b"http/1.1"[..]][..], "HTTP/1.1"),
    ] {
        let devrev = rig::simulator().await;
        let (port, roots) = terminator(&devrev, alpn).await;
        let gateway = tls_gateway(port, &format!("{{ file = {:?} }}", roots.path()));
        let mut client = Client::connect(gateway.address().expect("TCP")).await;
        for _ in 0..3 {
            client
                .send(request(
                    "POST",
                    "/works.list",
                    &[("Authorization", KEY)],
                    "{\"limit\":2}",
                ))
                .await;
            assert_eq!(
                client.answer().await.expect("an answer").status,
                200,
                "{version}"
            );
        }
        let sent = devrev.received();
        assert_eq!((sent.len(), sent[0].version.as_str()), (3, version));
        assert_eq!(sent[2].body, "{\"limit\":2}");
    }
}

#[tokio::test]
async fn a_certificate_without_a_trusted_root_is_refused() {
    let devrev = rig::simulator().await;
    let (port, _roots) = terminator(&devrev, &[b"http/1.1"]).await;
    for roots in ["\"bundled\"", "\"system\""] {
        let text = format!("{roots}\nhttp2 = \"never\"\n[retry]\nmax_attempts = 1");
        let Ok(gateway) = std::panic::catch_unwind(|| tls_gateway(port, &text)) else {
            // With "system", a machine without root certificates does not start.
            continue;
        };
        let answer = exchange(gateway.address().expect("TCP"), get("/works.list", KEY)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (502, "upstream_unreachable"),
            "{roots}"
        );
    }
    assert!(devrev.received().is_empty());
}

fn tls_gateway(port: u16, roots: &str) -> revgate::serve::Gateway {
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [tokens.main]\nenv = \"DEVREV_TOKEN\"\n[callers.billing]\nkey_sha256 = \"{}\"\n\
         [upstream]\nurl = \"https://localhost:{port}\"\nroots = {roots}\n",
        rig::hash(KEY),
    );
    rig::start(&text, &[("DEVREV_TOKEN", TOKEN)])
}

#[tokio::test]
async fn http2_to_the_upstream_by_prior_knowledge() {
    let devrev = rig::simulator().await;
    let text = devrev.addr().to_string();
    let toml = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[auth]\nmode = \"validate\"\nintrospect = false\n\
         [upstream]\nurl = \"http://{text}\"\nhttp2 = \"always\"\n"
    );
    let gateway = rig::start(&toml, &[]);
    let mut client = Client::connect(gateway.address().expect("TCP")).await;
    // In mode "validate" the caller's token is forwarded as Bearer, even if it came bare.
    client.send(get("/works.list", "e30.e30.c2ln")).await;
    assert_eq!(client.answer().await.expect("an answer").status, 200);
    let sent = devrev.received();
    assert_eq!(sent[0].version, "HTTP/2.0");
    assert_eq!(
        header(&sent[0], "authorization"),
        Some("Bearer e30.e30.c2ln")
    );
}

#[tokio::test]
async fn a_unix_socket_serves_the_anonymous_caller() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let devrev = rig::simulator().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("revgate.sock");
    let toml = format!(
        "[listen]\naddress = \"unix:{}\"\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://{}\"\n\
         [tokens.main]\nenv = \"DEVREV_TOKEN\"\n[callers.app]\nanonymous = true\n",
        path.display(),
        devrev.addr(),
    );
    let gateway = rig::start(&toml, &[("DEVREV_TOKEN", TOKEN)]);
    let mut stream = tokio::net::UnixStream::connect(&path)
        .await
        .expect("connects");
    stream
        .write_all(b"GET /dev-users.self HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .expect("writes");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("reads");
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    gateway.drain().await;
    assert!(!path.exists());
}
