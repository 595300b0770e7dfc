//! What a path or a field may mean to some server, whatever it means to others: nothing goes on that one of them could take for something
//! that the caller may not do.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use revgate::simulator::Received;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    http::{Answer, TIMEOUT, exchange, request},
    rig::{KEY, Rig, TOKEN, header},
};

const VERSIONS: [&str; 2] = ["HTTP/1.1", "HTTP/2"];

/// One request on a connection of its own.
async fn send(
    address: SocketAddr,
    version: &str,
    call: (&str, &str),
    fields: &[(&str, &str)],
) -> Answer {
    let (method, target) = call;
    let mut all = vec![("Authorization", KEY)];
    all.extend(fields);
    if version == "HTTP/1.1" {
        return exchange(address, request(method, target, &all, "")).await;
    }
    let exchange = async {
        let io = TokioIo::new(TcpStream::connect(address).await.expect("connects"));
        let handshake = http2::handshake(TokioExecutor::new(), io);
        let (mut sender, connection) = handshake.await.expect("HTTP/2");
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{address}{target}"));
        for (name, value) in all {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::new())).expect("a request");
        let (head, body) = sender
            .send_request(request)
            .await
            .expect("an answer")
            .into_parts();
        let fields = head.headers.iter();
        Answer {
            status: head.status.as_u16(),
            headers: fields
                .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
                .collect(),
            body: body.collect().await.expect("a body").to_bytes().to_vec(),
            whole: true,
        }
    };
    timeout(TIMEOUT, exchange).await.expect("an answer in time")
}

/// What arrived since the last look.
fn taken(rig: &Rig, seen: &mut usize) -> Vec<Received> {
    let new = rig.devrev.received().split_off(*seen);
    *seen += new.len();
    new
}

#[tokio::test]
async fn what_some_server_may_take_for_a_forbidden_operation_is_refused() {
    let rig = Rig::new("").await;
    #[rustfmt::skip]
    let table = [
        ("/internal%3f/auth-tokens.create", "forbidden"),
        ("/works.list%23/auth-tokens.create", "forbidden"),
        ("/internal%253f/auth-tokens.create", "forbidden"),
        ("/works.list%2523%252fauth-tokens.create", "forbidden"),
        ("/works.list;/auth-tokens.create", "forbidden"),
        ("/works.list%3b%2fauth-tokens.create", "forbidden"),
        ("/x%5cauth-tokens.create", "forbidden"),
        ("/a%3fb/auth-tokens.create%23c", "forbidden"),
        ("/auth-tokens.create%20", "forbidden"),
        ("/internal/auth-tokens.self.delete", "forbidden"),
        ("/%2f%2fauth-tokens.update%2f", "forbidden"),
        ("/auth-to%e2%84%aaens.delete", "forbidden"),
        ("/works.list%00", "bad_request"),
        ("/works.list%0d%0aX:%20y", "bad_request"),
        ("/works.list%2509", "bad_request"),
        ("/auth-tokens%c0%aecreate", "bad_request"),
        ("/auth-tokens%u002ecreate", "bad_request"),
        ("/%2525252561uth-tokens.create", "bad_request"),
        ("/a/..%3fx/auth-tokens.create", "bad_request"),
        ("/a/%252e%252e%23/b", "bad_request"),
    ];
    for version in VERSIONS {
        for (target, code) in table {
            for method in ["POST", "GET"] {
                let answer = send(rig.address, version, (method, target), &[]).await;
                assert_eq!(
                    answer.code(),
                    code,
                    "{version} {method} {target}: {answer:?}"
                );
            }
        }
    }
    assert!(rig.devrev.received().is_empty());
    // A control character has a message of its own.
    let answer = send(rig.address, VERSIONS[0], ("GET", "/a%0ab"), &[]).await;
    assert!(answer.text().contains("control character"), "{answer:?}");
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn what_is_allowed_is_allowed_in_every_reading() {
    let rig = Rig::new("[defaults]\nallow = [\"works.*\", \"internal/search.hybrid\"]\n").await;
    let mut seen = 0;
    for version in VERSIONS {
        #[rustfmt::skip]
        let refused = [
            "/works.x/accounts.delete", "/works.x%2faccounts.delete", "/works.x%5caccounts.delete", "/works.list%23/accounts.delete",
            "/works.list%3f/accounts.delete", "/accounts.delete%3fworks.list", "/works.list;/accounts.delete", "/accounts.delete",
            "/internal/search.hybrid/accounts.delete", "/internal/works.list", "/accounts.delete/works.list",
        ];
        for target in refused {
            let answer = send(rig.address, version, ("POST", target), &[]).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (403, "forbidden"),
                "{version} {target}"
            );
        }
        assert!(taken(&rig, &mut seen).is_empty());
        // Byte for byte.
        #[rustfmt::skip]
        let allowed = [
            "/works.list", "/Works.LIST", "//works.list", "/works.list/", "/works%2elist", "/internal/search.hybrid",
            "/works.list?x=/auth-tokens.create&y=%2f%00;..",
        ];
        for target in allowed {
            let answer = send(rig.address, version, ("GET", target), &[]).await;
            assert_ne!(answer.status, 403, "{version} {target}");
            let arrived = taken(&rig, &mut seen);
            assert_eq!(arrived.len(), 1, "{version} {target}");
            assert_eq!(arrived[0].target, target);
            assert_eq!(
                header(&arrived[0], "authorization"),
                Some(format!("Bearer {TOKEN}").as_str())
            );
        }
    }
}

#[tokio::test]
async fn the_callback_carries_no_token_in_any_reading() {
    let rig = Rig::new("").await;
    let mut seen = 0;
    for version in VERSIONS {
        for target in [
            "/keyrings.authorize?code=1",
            "/internal/keyrings.authorize",
            "/internal%3f/keyrings.authorize",
            "/works.list%23/keyrings.authorize",
            "/works.list;/keyrings.authorize",
            "/x%255ckeyrings.authorize",
            "/keyrings.authorize/x",
            "/keyrings.authorize%20",
        ] {
            send(rig.address, version, ("GET", target), &[]).await;
            let arrived = taken(&rig, &mut seen);
            assert_eq!(arrived.len(), 1, "{version} {target}");
            assert_eq!(arrived[0].target, target);
            assert_eq!(
                header(&arrived[0], "authorization"),
                None,
                "{version} {target}"
            );
        }
        for target in [
            "/works.list?x=keyrings.authorize",
            "/internal/works.list",
            "/keyrings.authorized",
        ] {
            send(rig.address, version, ("GET", target), &[]).await;
            let arrived = taken(&rig, &mut seen);
            assert!(
                header(&arrived[0], "authorization").is_some(),
                "{version} {target}"
            );
        }
    }
    // It takes no unit of the quota either, and its name in the metrics is one of a fixed set.
    let metrics = rig.admin("/metrics").await.text();
    let labels = [
        "operation=\"keyrings.authorize\"",
        "operation=\"works.list\"",
        "operation=\"other\"",
    ];
    for line in metrics.lines().filter(|line| line.contains("operation=\"")) {
        assert!(labels.iter().any(|label| line.contains(label)), "{line}");
    }
}

/// Characters that some server gives a meaning, in every encoding, around what may not be called.
#[tokio::test]
async fn no_spelling_of_a_forbidden_operation_goes_out() {
    let rig = Rig::new("").await;
    let mut client = crate::http::Client::connect(rig.address).await;
    let encoded = |c: char, times: usize| match times {
        0 => c.to_string(),
        _ => format!("%{}{:02X}", "25".repeat(times - 1), u32::from(c)),
    };
    let mut count = 0;
    for (before, after) in [
        ("/", ""),
        ("/internal/", "/x"),
        ("/works.list", ""),
        ("/a", "works.list"),
        ("/", "b"),
    ] {
        for separator in ['/', '\\', '?', '#', ';', ' ', '\n', '\0'] {
            for times in 0..5 {
                let raw = encoded(separator, times);
                if times == 0 && !matches!(separator, '/' | '\\' | ';') {
                    continue;
                }
                // A slash in front, so that the operation begins a segment; and behind, so that it ends one.
                for slash in ["/", "%2f", "%255C"] {
                    let target = format!("{before}{raw}{slash}auth-%74okens.create{raw}{after}");
                    let answer = client
                        .send(request("POST", &target, &[("Authorization", KEY)], ""))
                        .await
                        .answer()
                        .await;
                    let status = answer.map(|answer| answer.status);
                    assert!(matches!(status, Some(403 | 400)), "{target}: {status:?}");
                    if status == Some(400) {
                        client = crate::http::Client::connect(rig.address).await;
                    }
                    count += 1;
                }
            }
        }
    }
    assert!(count > 400, "{count}");
    assert!(rig.devrev.received().is_empty());
}

#[tokio::test]
async fn fields_that_say_what_is_to_be_done_stay_here() {
    let rig = Rig::new("").await;
    let mut seen = 0;
    #[rustfmt::skip]
    let dropped = [
        ("X-Original-URL", "/auth-tokens.create"), ("X-Rewrite-URL", "/auth-tokens.create"), ("X-HTTP-Method-Override", "DELETE"),
        ("X-HTTP-Method", "DELETE"), ("X-Method-Override", "DELETE"), ("X-Original-Method", "DELETE"), ("X-Forwarded-Uri", "/x"),
        ("X-Forwarded-Path", "/x"), ("X-Forwarded-Prefix", "/x"), ("X-Forwarded-Method", "PUT"), ("X-Original-Uri", "/x"),
        ("X-Host", "elsewhere"), ("X-Envoy-Original-Path", "/x"), ("Proxy", "http://elsewhere"), ("x_original_url", "/x"),
        ("x_request_id", "forged"), ("X.Request.Id", "forged"), ("X_Forwarded_For", "192.0.2.1"), ("Content_Length", "7"),
        ("Transfer_Encoding", "chunked"), ("Accept_Encoding", "x"), ("keep_alive", "1"), ("x~real~ip", "192.0.2.1"),
    ];
    #[rustfmt::skip]
    let kept = [("X-Original", "1"), ("my_own", "2"), ("Authorization_", "3"), ("X-Devrev-Scope", "beta"), ("X-Request-Id", "mine")];
    for version in VERSIONS {
        let fields = [&dropped[..], &kept[..]].concat();
        let answer = send(
            rig.address,
            version,
            ("GET", "/works.list?_method=DELETE"),
            &fields,
        )
        .await;
        assert_eq!(answer.status, 200, "{version}: {answer:?}");
        let arrived = taken(&rig, &mut seen).pop().expect("it arrived");
        assert_eq!(
            (arrived.method.as_str(), arrived.target.as_str()),
            ("GET", "/works.list?_method=DELETE")
        );
        for (name, value) in dropped {
            assert_eq!(
                header(&arrived, &name.to_lowercase()),
                None,
                "{version} {name}"
            );
            let shown = arrived
                .headers
                .iter()
                .any(|(_, found)| value.len() > 3 && found == value && value != "chunked");
            assert!(!shown, "{version} {name}: {:?}", arrived.headers);
        }
        for (name, value) in kept {
            assert_eq!(
                header(&arrived, &name.to_lowercase()),
                Some(value),
                "{version} {name}"
            );
        }
    }
}
