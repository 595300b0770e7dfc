//! What a 401 of DevRev's does to callers that share a token: over both protocols, with one worker and with two.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Request, body::Frame, http::request::Builder};
use hyper_util::rt::{TokioExecutor, TokioIo};
use revgate::{
    serve::Gateway,
    simulator::{Fault, FaultPlan, Rule, Simulator, Status},
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    http::{Answer, TIMEOUT},
    rewrite::{VERSIONS, Version},
    rig::{self, TOKEN, hash, header},
};

const OWN: &str = "/auth-tokens.info";

type Sent = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// A gateway with one token in a file, and the callers "a" and "b", which use it.
struct Rig {
    devrev: Simulator,
    gateway: Gateway,
    version: Version,
    folder: tempfile::TempDir,
}

impl Rig {
    async fn new(version: Version, workers: usize, upstream: &str) -> Rig {
        let devrev = rig::simulator().await;
        let folder = tempfile::tempdir().expect("a folder");
        let token = folder.path().join("token");
        std::fs::write(&token, TOKEN).expect("written");
        let mut text = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\nworkers = {workers}\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [upstream]\nurl = \"http://{}\"\n{upstream}\n[defaults]\nrate = \"100000/s\"\nburst = 100000\n\
             [tokens.main]\nfile = \"{}\"\n",
            devrev.addr(),
            token.display(),
        );
        for name in ["a", "b"] {
            let hash = hash(&format!("key-of-{name}"));
            let _ = write!(text, "[callers.{name}]\nkey_sha256 = \"{hash}\"\n");
        }
        let file = folder.path().join("revgate.toml");
        std::fs::write(&file, text).expect("written");
        let gateway = rig::watching(&file);
        Rig {
            devrev,
            gateway,
            version,
            folder,
        }
    }

    fn plan(&self, operation: &str, status: Status) {
        let rule = Rule::new(operation, Fault::Status(status));
        self.devrev.set_plan(FaultPlan::none().with(rule));
    }

    fn works(&self) {
        self.devrev.set_plan(FaultPlan::none());
    }

    async fn call(&self, caller: &str, operation: &str) -> Answer {
        let body = StreamBody::new(stream::empty()).boxed_unsync();
        let request = self.request("GET", caller, operation).body(body);
        let address = self.gateway.address().expect("TCP");
        send(address, self.version, request.expect("a request")).await
    }

    fn request(&self, method: &str, caller: &str, operation: &str) -> Builder {
        let address = self.gateway.address().expect("TCP");
        Request::builder()
            .method(method)
            .uri(format!("http://{address}{operation}"))
            .header("host", address.to_string())
            .header("authorization", format!("key-of-{caller}"))
    }

    /// The targets that DevRev saw since the last time: of callers, and of revgate's own calls.
    fn seen(&self, from: usize) -> (usize, usize) {
        let received = self.devrev.received();
        let own = received[from..].iter().filter(|call| call.target == OWN);
        let own = own.count();
        (received.len() - from - own, own)
    }

    async fn metrics(&self) -> String {
        let address = self.gateway.admin_address();
        rig::admin(address, "GET", "/metrics", "").await.text()
    }

    /// Writes the same token anew, so that a probe is due.
    async fn touch(&self) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, TOKEN).expect("written");
        std::fs::rename(new, self.folder.path().join("token")).expect("renamed");
        let answer = rig::admin(self.gateway.admin_address(), "POST", "/reload", "").await;
        assert_eq!(answer.json()["result"], "unchanged", "{answer:?}");
    }
}

/// One request on a connection of its own, which may end before the request's body does.
async fn send(address: SocketAddr, version: Version, request: Request<Sent>) -> Answer {
    let exchange = async {
        let io = TokioIo::new(TcpStream::connect(address).await.expect("connects"));
        let response = match version {
            Version::Http1 => {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
                    .await
                    .expect("HTTP/1.1");
                tokio::spawn(connection);
                sender.send_request(request).await.expect("an answer")
            }
            Version::Http2 => {
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                        .await
                        .expect("HTTP/2");
                tokio::spawn(connection);
                sender.send_request(request).await.expect("an answer")
            }
        };
        let (head, body) = response.into_parts();
        let text = |value: &hyper::header::HeaderValue| value.to_str().expect("text").to_owned();
        let headers = head.headers.iter();
        Answer {
            status: head.status.as_u16(),
            headers: headers
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            body: body.collect().await.expect("a body").to_bytes().to_vec(),
            whole: true,
        }
    };
    timeout(TIMEOUT, exchange).await.expect("an answer in time")
}

fn unavailable(answer: &Answer) -> u64 {
    assert_eq!(answer.code(), "token_unavailable", "{answer:?}");
    let seconds = answer.header("retry-after").expect("a time");
    seconds.parse().expect("whole seconds")
}

/// DevRev's own 401.
fn unauthorized() -> Status {
    let mut status = Status::new(401);
    status.body = Some(serde_json::json!({"type": "unauthenticated", "message": "not this one"}));
    status.headers = [("x-from".to_owned(), "devrev".to_owned())].into();
    status
}

fn is_devrevs_own(answer: &Answer) {
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(answer.header("x-from"), Some("devrev"));
    let want = serde_json::json!({"type": "unauthenticated", "message": "not this one"});
    assert_eq!(answer.json(), want);
    assert_eq!(answer.header("proxy-status"), None);
    assert_eq!(answer.header("www-authenticate"), None);
}

#[tokio::test]
async fn an_operation_that_answers_401_is_no_other_callers_problem() {
    for (version, workers) in VERSIONS.into_iter().flat_map(|v| [(v, 1), (v, 2)]) {
        let rig = Rig::new(version, workers, "").await;
        rig.plan("works.get", unauthorized());
        let start = Instant::now();
        let misuses = async {
            for _ in 0..50 {
                is_devrevs_own(&rig.call("a", "/works.get?id=1").await);
            }
        };
        let works = stream::iter(0..200)
            .map(|_| rig.call("b", "/works.list"))
            .buffer_unordered(8)
            .for_each(async |answer| assert_eq!(answer.status, 200, "{answer:?}"));
        tokio::join!(misuses, works);
        // At first, and then after each pause.
        let most = 1 + usize::try_from(start.elapsed().as_secs() / 5).expect("a test is short");
        let (callers, own) = rig.seen(0);
        assert_eq!(callers, 250);
        assert!((1..=most).contains(&own), "{own} in {:?}", start.elapsed());
        let metrics = rig.metrics().await;
        let good = format!("revgate_token_confirmations_total{{result=\"good\"}} {own}\n");
        assert!(metrics.contains(&good), "{metrics}");
        assert!(metrics.contains("revgate_token_refused{token=\"main\"} 0\n"));
        // It is no caller's request.
        assert!(!metrics.contains("auth-tokens.info"), "{metrics}");
        assert!(metrics.contains("revgate_attempts_total{outcome=\"success\"} 250\n"));
        // It is sent as any call of revgate's: with the token, a name and a trace of the gateway.
        let received = rig.devrev.received();
        let own = received.iter().find(|call| call.target == OWN);
        let own = own.expect("a confirmation");
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!((own.method.as_str(), own.body.as_str()), ("GET", ""));
        assert_eq!(header(own, "authorization"), Some(bearer.as_str()));
        assert_eq!(header(own, "via"), Some("1.1 revgate"));
        assert!(header(own, "x-request-id").is_some());
    }
}

#[tokio::test]
async fn a_revoked_token_is_unavailable_for_all_after_one_confirmation() {
    for (version, workers) in VERSIONS.into_iter().flat_map(|v| [(v, 1), (v, 2)]) {
        let rig = Rig::new(version, workers, "").await;
        assert_eq!(rig.call("b", "/works.list").await.status, 200);
        rig.devrev.revoke(TOKEN);
        let from = rig.devrev.received().len();
        let calls = (0..15).flat_map(|_| ["a", "b"]);
        let answers = join_all(calls.map(|caller| rig.call(caller, "/works.list"))).await;
        for answer in &answers {
            assert!((1..=5).contains(&unavailable(answer)));
        }
        let (sent, own) = rig.seen(from);
        assert!(sent <= answers.len());
        assert_eq!(own, 1);
        let from = rig.devrev.received().len();
        for caller in ["a", "b"] {
            unavailable(&rig.call(caller, "/works.get?id=1").await);
        }
        assert_eq!(rig.seen(from), (0, 0));
        let metrics = rig.metrics().await;
        assert!(metrics.contains("revgate_token_confirmations_total{result=\"refused\"} 1\n"));
        assert!(metrics.contains("revgate_token_refused{token=\"main\"} 1\n"));
    }
}

#[tokio::test]
async fn an_upload_that_never_ends_does_not_hold_the_probe() {
    for (version, workers) in VERSIONS.into_iter().flat_map(|v| [(v, 1), (v, 2)]) {
        // One that is sent as it comes, and one whose few bytes are awaited.
        for sent in [100 * 1024, 100] {
            let rig = Rig::new(version, workers, "").await;
            rig.plan("*", unauthorized());
            unavailable(&rig.call("b", "/works.list").await);
            rig.works();
            rig.touch().await;
            let part = Ok(Frame::data(Bytes::from(vec![b' '; sent])));
            let body = StreamBody::new(stream::iter([part]).chain(stream::pending()));
            let upload = rig.request("POST", "a", "/works.create");
            let upload = upload.body(body.boxed_unsync()).expect("a request");
            let from = rig.devrev.received().len();
            let address = rig.gateway.address().expect("TCP");
            let upload = tokio::spawn(send(address, version, upload));
            if sent > 64 * 1024 {
                // The upload has started the probe, and goes on by itself.
                while rig.seen(from).1 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            let start = Instant::now();
            while rig.call("b", "/works.list").await.status != 200 {
                assert!(
                    start.elapsed() < Duration::from_secs(3),
                    "the probe is held"
                );
            }
            let answers = join_all((0..50).map(|_| rig.call("b", "/works.list"))).await;
            assert!(answers.iter().all(|answer| answer.status == 200));
            assert_eq!(rig.seen(from).1, 1, "one probe");
            assert!(!upload.is_finished(), "it still holds what it can");
            upload.abort();
        }
    }
}

#[tokio::test]
async fn a_401_that_waits_holds_no_connection() {
    for version in VERSIONS {
        let rig = Rig::new(version, 1, "max_connections = 1").await;
        rig.plan("works.get", unauthorized());
        let start = Instant::now();
        is_devrevs_own(&rig.call("a", "/works.get?id=1").await);
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "the one connection was free"
        );
        let metrics = rig.metrics().await;
        assert!(metrics.contains("revgate_token_confirmations_total{result=\"good\"} 1\n"));
    }
}

#[tokio::test]
async fn a_group_that_is_paused_keeps_its_callers_answer() {
    let rig = Rig::new(Version::Http1, 1, "").await;
    let mut paused = Status::new(429);
    paused.retry_after = Some(600);
    let plan = FaultPlan::none()
        .with(Rule::new("auth-tokens.info", Fault::Status(paused)))
        .with(Rule::new("works.get", Fault::Status(unauthorized())));
    rig.devrev.set_plan(plan);
    is_devrevs_own(&rig.call("a", "/works.get?id=1").await);
    let metrics = rig.metrics().await;
    assert!(metrics.contains("revgate_token_confirmations_total{result=\"unknown\"} 1\n"));
    assert!(metrics.contains("revgate_token_refused{token=\"main\"} 0\n"));
}
