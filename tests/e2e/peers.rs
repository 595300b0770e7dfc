//! Who called: what the log says of a client, and whose word about its address is taken.

use std::net::SocketAddr;

use http::{Request, StatusCode};
use tokio::net::{TcpSocket, UnixStream};

use crate::{
    edge::{EDGES, Edge, Stream, Upstream},
    http::{Client, request},
    process::Process,
    rig::{self, KEY, hash},
};

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

/// A connection from this address of loopback.
async fn from(source: &str, to: SocketAddr) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    let source = format!("{source}:0").parse().expect("an address");
    socket.bind(source).expect("loopback is a whole network");
    Client::over(socket.connect(to).await.expect("connects"))
}

/// The program with `listen` in its section, and every request in its log.
fn start(devrev: &str, address: &str, listen: &str) -> (Process, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = format!(
        "[listen]\naddress = \"{address}\"\n{listen}\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://{devrev}\"\n\
         [tokens.main]\nenv = \"DEVREV_TOKEN\"\n[callers.billing]\nkey_sha256 = \"{}\"\n[log]\naccess = \"all\"\n",
        hash(KEY),
    );
    std::fs::write(file.path(), text).expect("written");
    let path = file.path().to_str().expect("a path");
    (Process::start(&["run", "-c", path], "info"), file)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_client_and_takes_only_a_trusted_proxys_word() {
    let devrev = rig::simulator().await;
    let listen = "trusted_proxies = [\"127.0.0.2\", \"10.0.0.0/8\"]";
    let (mut gateway, _file) = start(&devrev.addr().to_string(), "127.0.0.1:0", listen);
    let address = gateway.bound("proxy");
    let (proxy, stranger) = (0, 1);
    let mut clients = [
        from("127.0.0.2", address).await,
        from("127.0.0.3", address).await,
    ];
    // Each request of one connection is for itself.
    for (from, key, forwarded, peer) in [
        (proxy, KEY, "203.0.113.7", "203.0.113.7"),
        (proxy, KEY, "9.9.9.9, 203.0.113.8, 10.0.0.1", "203.0.113.8"),
        (proxy, "wrong", "203.0.113.9", "203.0.113.9"),
        (proxy, KEY, "unknown", "127.0.0.2"),
        (stranger, KEY, "203.0.113.7", "127.0.0.3"),
        (stranger, "wrong", "127.0.0.2", "127.0.0.3"),
    ] {
        let client = &mut clients[from];
        let headers = [("Authorization", key), ("X-Forwarded-For", forwarded)];
        client
            .send(request("GET", "/works.list", &headers, ""))
            .await;
        let answer = client.answer().await.expect("an answer");
        let line = gateway.line(|line| line["target"] == "revgate::access");
        assert_eq!(line["peer"], peer, "{line}");
        assert_eq!(line["status"], answer.status);
        let refused = key == "wrong";
        assert_eq!(line["code"] == "unauthenticated", refused, "{line}");
    }
    // They are about the way to the gateway.
    let seen = devrev.received();
    assert!(
        seen.iter()
            .all(|seen| rig::header(seen, "x-forwarded-for").is_none())
    );
    // A proxy whose field is another is told once, and counts itself.
    let headers = [("Authorization", KEY), ("Forwarded", "for=203.0.113.7")];
    for _ in 0..2 {
        let proxy = &mut clients[proxy];
        proxy
            .send(request("GET", "/works.list", &headers, ""))
            .await;
        proxy.answer().await.expect("an answer");
        let line = gateway.line(|line| line["target"] == "revgate::access");
        assert_eq!(line["peer"], "127.0.0.2");
    }
    assert_eq!(gateway.seen.matches("listen.client_field").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_process_at_a_unix_socket() {
    let devrev = rig::simulator().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let address = format!("unix:{}", path.display());
    let (mut gateway, _file) = start(&devrev.addr().to_string(), &address, "");
    gateway.line(|line| line["listener"] == "proxy");
    let mut client = Client::over(UnixStream::connect(&path).await.expect("connects"));
    client
        .send(request("GET", "/works.list", &[("Authorization", KEY)], ""))
        .await;
    client.answer().await.expect("an answer");
    let line = gateway.line(|line| line["target"] == "revgate::access");
    let uid = std::os::unix::fs::MetadataExt::uid(&folder.path().metadata().expect("there"));
    assert_eq!(
        line["peer"],
        format!("uid {uid} pid {}", std::process::id())
    );
}

/// The anonymous caller is for clients on this machine. A proxy on it makes nobody else one.
#[tokio::test]
async fn a_proxy_on_this_machine_makes_nobody_else_anonymous() {
    for field in ["x-forwarded-for", "forwarded"] {
        let upstream = Upstream::http1(&[ANSWER]).await;
        let prefix = if field == "forwarded" { "for=" } else { "" };
        let listen = format!(
            "[listen]trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\nclient_field = \"{field}\"\n\
             [callers.app]\nanonymous = true\n"
        );
        for edge in EDGES {
            let gateway = Edge::start(&upstream, edge, &listen);
            let mut http1 = gateway.http1().await;
            let http2 = gateway.http2().await;
            for (forwarded, key, status) in [
                (None, None, 200),
                (Some("127.0.0.1"), None, 200),
                (Some("203.0.113.7"), None, 401),
                (Some("127.0.0.1, 203.0.113.7"), None, 401),
                (Some("127.0.0.1, 10.3.3.3"), None, 401),
                (Some("unknown"), None, 401),
                (Some("203.0.113.7"), Some(KEY), 200),
            ] {
                let forwarded = forwarded.map(|all| {
                    let parts = all.split(", ").map(|one| format!("{prefix}{one}"));
                    parts.collect::<Vec<_>>().join(", ")
                });
                let headers = forwarded.as_deref().map(|value| (field, value));
                let headers = headers
                    .into_iter()
                    .chain(key.map(|key| ("authorization", key)));
                let headers: Vec<_> = headers.collect();
                http1
                    .send(request("GET", "/works.list", &headers, ""))
                    .await;
                let answer = http1.answer().await.expect("an answer");
                assert_eq!(answer.status, status, "{edge:?} {headers:?}");
                let mut second = Request::get("http://localhost/works.list");
                for (name, value) in &headers {
                    second = second.header(*name, *value);
                }
                let mut http2 = http2.clone().ready().await.expect("ready");
                let (answer, _) = http2
                    .send_request(second.body(()).expect("a request"), true)
                    .expect("sent");
                let got = answer.await.expect("an answer").status();
                assert_eq!(got, StatusCode::from_u16(status).expect("one"), "{edge:?}");
            }
        }
        assert!(!upstream.seen().is_empty());
        for seen in upstream.seen() {
            assert!(seen.all(field).is_empty(), "{}", seen.head);
        }
    }
}

/// Version 2, with an IPv4 address.
fn v2(command: u8, client: [u8; 4]) -> Vec<u8> {
    let start = b"\r\n\r\n\0\r\nQUIT\n";
    let rest = [&client[..], &[127, 0, 0, 1, 0x12, 0x67, 0x1f, 0x90]].concat();
    // Padded by an element that is ignored.
    let tlv = [&[4, 0, 200][..], &[0; 200]].concat();
    let length = u16::try_from(rest.len() + tlv.len()).expect("short");
    [
        start,
        &[command, 0x11][..],
        &length.to_be_bytes(),
        &rest,
        &tlv,
    ]
    .concat()
}

#[tokio::test]
async fn a_proxy_header_names_the_client_before_anything_else() {
    let upstream = Upstream::http1(&[ANSWER]).await;
    let listen = "[listen]trusted_proxies = [\"127.0.0.0/8\"]\nproxy_protocol = true\n\
                  [callers.app]\nanonymous = true\n";
    for edge in EDGES {
        let gateway = Edge::start(&upstream, edge, listen);
        for (header, anonymous) in [
            (
                b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 443\r\n".to_vec(),
                401,
            ),
            (b"PROXY TCP4 127.0.0.9 127.0.0.1 4711 443\r\n".to_vec(), 200),
            (b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n".to_vec(), 401),
            (b"PROXY UNKNOWN\r\n".to_vec(), 401),
            (v2(0x21, [203, 0, 113, 7]), 401),
            (v2(0x21, [127, 0, 0, 9]), 200),
            // LOCAL: the load balancer's own.
            (v2(0x20, [203, 0, 113, 7]), 200),
        ] {
            for pieces in [1, header.len()] {
                let mut client = Client::over(gateway.behind(&header, pieces, &["http/1.1"]).await);
                for (headers, status) in [
                    (&[][..], anonymous),
                    (&[("Authorization", KEY)], 200),
                    (&[("X-Forwarded-For", "203.0.113.7")], 401),
                ] {
                    client
                        .send(request("GET", "/works.list", headers, ""))
                        .await;
                    let answer = client.answer().await.expect("an answer");
                    let shown = header.escape_ascii();
                    assert_eq!(answer.status, status, "{edge:?} {shown} {headers:?}");
                }
            }
            let stream: Box<dyn Stream> = gateway.behind(&header, 1, &["h2"]).await;
            let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
            tokio::spawn(connection);
            let mut sender = sender.ready().await.expect("ready");
            let call = Request::get("http://localhost/works.list").body(());
            let call = sender.send_request(call.expect("a request"), true);
            let answer = call.expect("sent").0.await.expect("an answer");
            assert_eq!(answer.status().as_u16(), anonymous, "{edge:?}");
        }
    }
}

/// Whoever is wrong about the PROXY header learns it, and so does the operator.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_header_is_required_of_trusted_proxies_and_refused_of_others() {
    let devrev = rig::simulator().await;
    let listen =
        "trusted_proxies = [\"127.0.0.2\"]\nproxy_protocol = true\nheader_timeout = \"2s\"";
    let (mut gateway, _file) = start(&devrev.addr().to_string(), "127.0.0.1:0", listen);
    let address = gateway.bound("proxy");
    let get = request("GET", "/works.list", &[("Authorization", KEY)], "");
    let v1 = b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 80\r\n".to_vec();
    let remote = v2(0x21, [203, 0, 113, 8]);
    for (source, header, peer) in [
        ("127.0.0.2", v1.clone(), "203.0.113.7"),
        ("127.0.0.2", remote.clone(), "203.0.113.8"),
        ("127.0.0.3", Vec::new(), "127.0.0.3"),
    ] {
        let mut client = from(source, address).await;
        client.send([&header[..], &get].concat()).await;
        let answer = client.answer().await.expect("an answer");
        assert_eq!(answer.status, 200);
        let line = gateway.line(|line| line["target"] == "revgate::access");
        assert_eq!(line["peer"], peer, "{line}");
    }
    // Without the header, with one of a stranger, twice.
    for (source, header, says) in [
        ("127.0.0.2", Vec::new(), "must begin with a PROXY header"),
        ("127.0.0.3", v1.clone(), "not expected"),
        ("127.0.0.3", remote.clone(), "not expected"),
        (
            "127.0.0.2",
            [v1.clone(), v1.clone()].concat(),
            "not expected",
        ),
    ] {
        let mut client = from(source, address).await;
        client.send([&header[..], &get].concat()).await;
        let answer = client.answer().await.expect("an answer");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "bad_request")
        );
        assert!(answer.text().contains(says), "{}", answer.text());
        assert!(client.rest().await.is_empty());
        let line = gateway.line(|line| line["code"] == "bad_request");
        assert_eq!(
            line["peer"] == "203.0.113.7",
            header.len() > v1.len() && source == "127.0.0.2"
        );
    }
    // What is malformed, too long or does not come ends.
    let huge = [&remote[..14], &[0xff, 0xff], &[0; 100]].concat();
    for (bytes, why) in [
        (
            b"PROXY TCP4 nonsense 127.0.0.1 1 2\r\n".to_vec(),
            "malformed",
        ),
        (huge, "longer than"),
        (b"PROXY TCP4".to_vec(), "header_timeout"),
        (Vec::new(), "header_timeout"),
    ] {
        let mut client = from("127.0.0.2", address).await;
        client.send(bytes).await;
        assert!(client.rest().await.is_empty());
        let line = gateway.line(|line| line["reason"] == "proxy_header");
        let message = line["message"].as_str().expect("a message");
        assert!(message.contains(why), "{message}");
        assert_eq!(line["peer"], "127.0.0.2");
    }
    assert_eq!(devrev.received().len(), 3);
}

#[tokio::test]
async fn a_tls_client_at_a_port_without_tls_is_told_and_counted() {
    let rig = rig::Rig::new("").await;
    let mut client = Client::connect(rig.address).await;
    client
        .send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        .await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "bad_request")
    );
    assert!(answer.text().contains("http://"), "{}", answer.text());
    let metrics = rig.admin("/metrics").await.text();
    let counted = "revgate_tls_handshake_failures_total{reason=\"no_tls_here\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_hides_no_other_unknown_client() {
    let devrev = rig::simulator().await;
    let (mut gateway, _file) = start(&devrev.addr().to_string(), "127.0.0.1:0", "");
    let address = gateway.bound("proxy");
    for (source, requests) in [("127.0.0.1", 40), ("127.0.0.7", 2), ("127.0.0.8", 1)] {
        let mut client = from(source, address).await;
        for _ in 0..requests {
            let headers = [("Authorization", "Bearer mistyped")];
            client
                .send(request("GET", "/works.list", &headers, ""))
                .await;
            assert_eq!(client.answer().await.expect("an answer").status, 401);
        }
    }
    gateway.terminate();
    let (code, log) = gateway.end();
    assert_eq!(code, Some(0), "{log}");
    for source in ["127.0.0.7", "127.0.0.8"] {
        let names = |line: &&str| line.contains(&format!("\"peer\":\"{source}\""));
        assert!(log.lines().filter(names).count() >= 1, "{source}: {log}");
    }
}
