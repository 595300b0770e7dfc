//! Who called: what the log says of a client, and whose word about its address is taken.

use std::net::SocketAddr;

use http::{Request, StatusCode};
use tokio::net::{TcpSocket, UnixStream};

use crate::{
    edge::{EDGES, Edge, Upstream},
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
            "[listen]trusted_proxies = [\"127.0.0.0/8\"]\nclient_field = \"{field}\"\n\
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
