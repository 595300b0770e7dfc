//! The bound of bodies that are rewritten, over both protocols.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    http::{Answer, TIMEOUT},
    rig::{KEY, Rig},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

pub const VERSIONS: [Version; 2] = [Version::Http1, Version::Http2];

/// How a body is sent.
#[derive(Clone, Copy, Debug)]
enum Framing {
    /// With its length.
    Declared,
    /// In parts, without a length.
    Parts,
    /// Only the length, and none of its bytes.
    Announced,
    /// In parts, without a length and without an end.
    Endless,
}

type Sent = UnsyncBoxBody<Bytes, std::convert::Infallible>;

impl Framing {
    fn body(self, text: &str) -> Sent {
        let whole = Bytes::copy_from_slice(text.as_bytes());
        let parts: Vec<_> = text
            .as_bytes()
            .chunks(300)
            .map(Bytes::copy_from_slice)
            .collect();
        let parts = stream::iter(parts.into_iter().map(|part| Ok(Frame::data(part))));
        match self {
            Framing::Declared => Full::new(whole).boxed_unsync(),
            Framing::Parts => StreamBody::new(parts).boxed_unsync(),
            Framing::Announced => StreamBody::new(stream::pending()).boxed_unsync(),
            Framing::Endless => StreamBody::new(parts.chain(stream::pending())).boxed_unsync(),
        }
    }
}

/// One request on a connection of its own.
async fn send(address: SocketAddr, version: Version, request: Request<Sent>) -> Answer {
    let io = TokioIo::new(TcpStream::connect(address).await.expect("connects"));
    let exchange = async {
        match version {
            Version::Http1 => {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
                    .await
                    .expect("HTTP/1.1");
                tokio::spawn(connection);
                answer(sender.send_request(request).await.expect("an answer")).await
            }
            Version::Http2 => {
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                        .await
                        .expect("HTTP/2");
                tokio::spawn(connection);
                answer(sender.send_request(request).await.expect("an answer")).await
            }
        }
    };
    timeout(TIMEOUT, exchange).await.expect("an answer in time")
}

async fn answer(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let text = |value: &hyper::header::HeaderValue| value.to_str().expect("text").to_owned();
    Answer {
        status: head.status.as_u16(),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        body: body.collect().await.expect("a body").to_bytes().to_vec(),
        whole: true,
    }
}

fn request(
    address: SocketAddr,
    operation: &str,
    headers: &[(&str, &str)],
    framing: Framing,
    body: &str,
) -> Request<Sent> {
    let mut request = Request::post(format!("http://{address}/{operation}"))
        .header("host", address.to_string())
        .header("authorization", KEY);
    if matches!(framing, Framing::Announced) {
        request = request.header("content-length", body.len());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(framing.body(body)).expect("a request")
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// A body of this many bytes that uses a deprecated field.
pub fn of_size(size: usize) -> String {
    let (head, tail) = (r#"{"user_don":""#, r#""}"#);
    format!("{head}{}{tail}", "U".repeat(size - head.len() - tail.len()))
}

/// Sends a body to an operation with a rule.
pub async fn link(address: SocketAddr, version: Version, body: &str) -> Answer {
    let request = request(address, "rev-users.link", JSON, Framing::Declared, body);
    send(address, version, request).await
}

pub fn assert_too_large(answer: &Answer, max_bytes: u64) {
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "body_too_large"),
        "{answer:?}"
    );
    assert_eq!(answer.json()["max_bytes"], max_bytes);
}

#[tokio::test]
async fn a_body_at_the_bound_is_rewritten() {
    let rig = Rig::new("[limits]\nmax_rewrite_body = \"1KiB\"\n").await;
    let body = of_size(1024);
    for version in VERSIONS {
        for framing in [Framing::Declared, Framing::Parts] {
            let request = request(rig.address, "rev-users.link", JSON, framing, &body);
            let answer = send(rig.address, version, request).await;
            assert_eq!(answer.status, 200, "{version:?} {framing:?}: {answer:?}");
            assert_eq!(
                rig.last().body,
                body.replace("user_don", "id"),
                "{version:?} {framing:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_body_over_the_bound_is_refused_before_its_end() {
    let rules = ["report", "refuse"].map(|mode| {
        format!(
            "[[rewrite]]\noperations = [\"works.{mode}\"]\nrename = {{ user_don = \"id\" }}\nmode = \"{mode}\"\n"
        )
    });
    let rig = Rig::new(&format!(
        "[limits]\nmax_rewrite_body = \"1KiB\"\n{}",
        rules.concat()
    ))
    .await;
    let body = of_size(1025);
    for version in VERSIONS {
        for framing in [
            Framing::Announced,
            Framing::Declared,
            Framing::Parts,
            Framing::Endless,
        ] {
            for operation in ["rev-users.link", "works.report", "works.refuse"] {
                for headers in [JSON, &[], &[("content-encoding", "identity")]] {
                    let request = request(rig.address, operation, headers, framing, &body);
                    let answer = send(rig.address, version, request).await;
                    assert_too_large(&answer, 1024);
                }
            }
        }
    }
    assert!(rig.devrev.received().is_empty());
}

#[tokio::test]
async fn a_body_without_a_rule_has_only_the_bound_of_all_bodies() {
    let limits = "[limits]\nmax_rewrite_body = \"1KiB\"\nmax_body = \"4KiB\"\n";
    let off = "[[rewrite]]\noperations = [\"rev-users.unlink\"]\nrename = { user_don = \"id\" }\nmode = \"off\"\n";
    let rig = Rig::new(&format!("{limits}{off}")).await;
    let others: [(&str, &[(&str, &str)]); 4] = [
        ("rev-users.link", &[("content-type", "text/plain")]),
        (
            "rev-users.link",
            &[
                ("content-type", "application/json"),
                ("content-encoding", "gzip"),
            ],
        ),
        ("works.list", JSON),
        ("rev-users.unlink", JSON),
    ];
    for version in VERSIONS {
        for framing in [Framing::Declared, Framing::Parts] {
            for (operation, headers) in others {
                let body = of_size(4096);
                let at = request(rig.address, operation, headers, framing, &body);
                let answer = send(rig.address, version, at).await;
                assert_eq!(
                    answer.status, 200,
                    "{version:?} {framing:?} {operation}: {answer:?}"
                );
                assert_eq!(rig.last().body, body, "{version:?} {framing:?} {operation}");
                let over = request(rig.address, operation, headers, framing, &of_size(4097));
                assert_too_large(&send(rig.address, version, over).await, 4096);
            }
        }
    }
}

#[tokio::test]
async fn the_bound_of_all_bodies_holds_for_rewritten_ones_too() {
    let rig = Rig::new("[limits]\nmax_body = \"1KiB\"\n").await;
    for version in VERSIONS {
        for framing in [Framing::Announced, Framing::Endless] {
            let body = of_size(1025);
            let request = request(rig.address, "rev-users.link", JSON, framing, &body);
            assert_too_large(&send(rig.address, version, request).await, 1024);
        }
    }
    assert!(rig.devrev.received().is_empty());
}

#[tokio::test]
async fn the_bound_is_explained() {
    let rig = Rig::new("[limits]\nmax_rewrite_body = \"1KiB\"\n").await;
    for (size, code) in [
        (1024, serde_json::Value::Null),
        (1025, "body_too_large".into()),
    ] {
        let body = utf8_percent_encode(&of_size(size), NON_ALPHANUMERIC).to_string();
        let question =
            format!("/explain?request=POST%20/rev-users.link&caller=billing&body={body}");
        let explained = rig.admin(&question).await.json();
        assert_eq!(explained["code"], code, "{size}: {explained}");
    }
    let explained = rig
        .admin("/explain?request=POST%20/rev-users.link&caller=billing")
        .await
        .json();
    assert_eq!(explained["forwarded"], true, "{explained}");
}
