//! Requests that a page could send from a browser on this machine, to a gateway that serves clients without a credential.

use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use revgate::simulator::Simulator;
use tokio::net::TcpStream;

use crate::{
    http::{Answer, exchange},
    rig::{self, KEY, TOKEN, hash},
};

fn file(devrev: &Simulator, listen: &str) -> String {
    format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n{listen}\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nurl = \"http://{}\"\n[tokens.main]\nenv = \"DEVREV_TOKEN\"\n\
         [callers.app]\nanonymous = true\n[callers.keyed]\nkey_sha256 = \"{}\"\n",
        devrev.addr(),
        hash(KEY),
    )
}

/// A call with these fields, `host` first among them, over HTTP/1.1 or HTTP/2.
async fn call(
    address: std::net::SocketAddr,
    http2: bool,
    method: &str,
    fields: &[(&str, &str)],
) -> Answer {
    let (host, rest) = fields.split_first().expect("a host");
    if !http2 {
        let mut bytes = format!("{method} /works.create HTTP/1.1\r\nHost: {}\r\n", host.1);
        for (name, value) in rest {
            bytes += &format!("{name}: {value}\r\n");
        }
        return exchange(address, bytes + "Content-Length: 2\r\n\r\n{}").await;
    }
    let stream = TcpStream::connect(address).await.expect("connects");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let mut request = hyper::Request::builder()
        .method(method)
        .uri(format!("http://{}/works.create", host.1));
    for (name, value) in rest {
        request = request.header(*name, *value);
    }
    let body = Full::new(bytes::Bytes::from_static(b"{}"));
    let answer = sender.send_request(request.body(body).expect("a request"));
    let (parts, body) = answer.await.expect("an answer").into_parts();
    let fields = parts.headers.iter().map(|(name, value)| {
        let value = value.to_str().expect("text").to_owned();
        (name.to_string(), value)
    });
    Answer {
        status: parts.status.as_u16(),
        headers: fields.collect(),
        body: body.collect().await.expect("a body").to_bytes().into(),
        whole: true,
    }
}

#[tokio::test]
async fn a_page_of_another_site_calls_nothing_without_a_key() {
    for workers in [1, 2] {
        let devrev = rig::simulator().await;
        let listen = format!("workers = {workers}\nhosts = [\"devrev.local\"]");
        let gateway = rig::start(&file(&devrev, &listen), &[("DEVREV_TOKEN", TOKEN)]);
        let address = gateway.address().expect("TCP");
        let own = address.to_string();
        let own_origin = format!("http://{own}");
        let upstream = devrev.addr().to_string();
        let text = ("Content-Type", "text/plain");
        let evil = ("Origin", "https://evil.example");
        let key = ("Authorization", KEY);
        let preflight = ("Access-Control-Request-Method", "POST");
        for (method, fields, want) in [
            ("POST", vec![("Host", own.as_str())], None),
            ("POST", vec![("Host", "localhost:1")], None),
            ("POST", vec![("Host", "[::1]")], None),
            ("POST", vec![("Host", upstream.as_str())], None),
            ("POST", vec![("Host", "devrev.local:80")], None),
            ("POST", vec![("Host", &own), ("Origin", &own_origin)], None),
            (
                "GET",
                vec![("Host", &own), ("Sec-Fetch-Site", "none")],
                None,
            ),
            // With a key a page may call, as any program may.
            ("POST", vec![("Host", "evil.example"), evil, key], None),
            ("POST", vec![("Host", &own), evil, text], Some("page")),
            (
                "POST",
                vec![("Host", &own), ("Origin", "null"), text],
                Some("page"),
            ),
            (
                "POST",
                vec![("Host", &own), ("Sec-Fetch-Site", "cross-site")],
                Some("page"),
            ),
            (
                "POST",
                vec![("Host", &own), ("Sec-Fetch-Site", "same-site")],
                Some("page"),
            ),
            (
                "GET",
                vec![("Host", &own), ("Sec-Fetch-Site", "cross-site")],
                Some("page"),
            ),
            (
                "OPTIONS",
                vec![("Host", &own), evil, preflight],
                Some("page"),
            ),
            // After DNS rebinding the browser takes the page for the same origin.
            ("POST", vec![("Host", "evil.example"), text], Some("Host")),
            (
                "POST",
                vec![("Host", "evil.example"), ("Sec-Fetch-Site", "same-origin")],
                Some("Host"),
            ),
            (
                "POST",
                vec![("Host", "evil.example"), ("Origin", "http://evil.example")],
                Some("Host"),
            ),
            (
                "OPTIONS",
                vec![("Host", "evil.example"), preflight],
                Some("Host"),
            ),
        ] {
            for http2 in [false, true] {
                let before = devrev.received().len();
                let answer = call(address, http2, method, &fields).await;
                let arrived = devrev.received().len() - before;
                let says = format!("{method} {fields:?} {http2}: {answer:?}");
                let allows = answer.headers.iter();
                let mut allows = allows.filter(|(name, _)| name.starts_with("access-control-"));
                assert!(allows.next().is_none(), "{says}");
                let Some(word) = want else {
                    assert!(answer.header("proxy-status").is_none(), "{says}");
                    assert_eq!(arrived, 1, "{says}");
                    continue;
                };
                assert_eq!((answer.status, arrived), (403, 0), "{says}");
                assert_eq!(answer.json()["type"], "forbidden", "{says}");
                assert_eq!(answer.code(), "forbidden", "{says}");
                let detail = answer.json()["detail"].to_string();
                assert!(detail.contains(word), "{says}");
                assert!(answer.header("proxy-status").is_some(), "{says}");
            }
        }
        let metrics = rig::admin(gateway.admin_address(), "GET", "/metrics", "").await;
        let metrics = String::from_utf8(metrics.body).expect("text");
        for line in [
            "revgate_auth_failures_total{reason=\"foreign_page\"} 12",
            "revgate_auth_failures_total{reason=\"foreign_host\"} 8",
        ] {
            assert!(metrics.contains(line), "{line}\n{metrics}");
        }
    }
}
