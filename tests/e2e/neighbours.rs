//! One caller misuses what its calls have in common with another's quota, pauses and retries. The other's calls go on, over
//! HTTP/1.1 and HTTP/2.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{
    future::join_all,
    stream::{self, StreamExt},
};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use revgate::simulator::{Fault, FaultPlan, Rule, Status};
use tokio::{net::TcpStream, task::JoinHandle};

use crate::{
    http::{Client, request},
    quota::{quota, until},
    rig::{KEY, Rig, hash, status},
};

/// The one that misuses.
const A: &str = KEY;
/// The other.
const B: &str = "neighbour-key-0006";

/// The circuit never opens, so that it is the quota and the retries that show.
const COMMON: &str = "[upstream.circuit]\nfailures = 100000\n\
    [retry]\nbackoff = { min = \"1ms\", max = \"2ms\" }\n";

async fn rig() -> Rig {
    let b = format!(
        "[callers.neighbour]\nkey_sha256 = \"{}\"\nrate = \"1000/s\"\nburst = 1000\n",
        hash(B)
    );
    Rig::new(&format!("{COMMON}{b}")).await
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    Http1,
    Http2,
}

type AnyBody = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// A caller over one protocol. Over HTTP/2 its calls share a connection.
#[derive(Clone)]
struct Caller {
    key: &'static str,
    address: SocketAddr,
    http2: Option<SendRequest<AnyBody>>,
}

impl Caller {
    async fn new(rig: &Rig, protocol: Protocol, key: &'static str) -> Caller {
        let mut http2 = None;
        if protocol == Protocol::Http2 {
            let stream = TcpStream::connect(rig.address).await.expect("connects");
            let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
            let (sender, connection) = handshake.await.expect("HTTP/2");
            tokio::spawn(connection);
            http2 = Some(sender);
        }
        Caller {
            key,
            address: rig.address,
            http2,
        }
    }

    /// The status of a call that waits so many seconds at most.
    async fn call(&self, target: &str, wait: u32) -> u16 {
        let wait = format!("wait={wait}");
        let Some(mut sender) = self.http2.clone() else {
            let headers = [("Authorization", self.key), ("Prefer", wait.as_str())];
            let mut client = Client::connect(self.address).await;
            client.send(request("GET", target, &headers, "")).await;
            return client.answer().await.expect("an answer").status;
        };
        let request = hyper::Request::get(format!("http://api.devrev.ai{target}"))
            .header("authorization", self.key)
            .header("prefer", wait)
            .body(http_body_util::Empty::new().boxed_unsync())
            .expect("a request");
        sender.ready().await.expect("ready");
        let answer = sender.send_request(request).await.expect("an answer");
        let status = answer.status().as_u16();
        answer.into_body().collect().await.expect("a body");
        status
    }

    /// Begins an upload and never ends it.
    fn upload(&self, target: &'static str) -> JoinHandle<()> {
        let caller = self.clone();
        tokio::spawn(async move {
            let Some(mut sender) = caller.http2 else {
                let head = format!(
                    "POST {target} HTTP/1.1\r\nHost: api.devrev.ai\r\nAuthorization: {}\r\n\
                     Content-Length: 1000000\r\n\r\nthe beginning",
                    caller.key
                );
                let mut client = Client::connect(caller.address).await;
                client.send(head).await;
                std::future::pending::<()>().await;
                return;
            };
            let beginning = Ok(Frame::data(Bytes::from_static(b"the beginning")));
            let never = stream::once(std::future::ready(beginning)).chain(stream::pending());
            let request = hyper::Request::post(format!("http://api.devrev.ai{target}"))
                .header("authorization", caller.key)
                .header("content-length", "1000000")
                .body(StreamBody::new(never).boxed_unsync())
                .expect("a request");
            sender.ready().await.expect("ready");
            let _answer = sender.send_request(request).await;
            std::future::pending::<()>().await;
        })
    }
}

/// Both callers over each of the protocols.
async fn each(scenario: impl AsyncFn(Rig, Caller, Caller)) {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let rig = rig().await;
        let a = Caller::new(&rig, protocol, A).await;
        let b = Caller::new(&rig, protocol, B).await;
        scenario(rig, a, b).await;
    }
}

/// Calls that wait for nothing, so that any pause or hold fails them.
async fn all_go_at_once(b: &Caller, calls: usize) {
    let statuses = join_all((0..calls).map(|_| b.call("/works.list", 0))).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

fn always(operation: &str, fault: Fault) -> FaultPlan {
    FaultPlan::none().with(Rule::new(operation, fault))
}

#[tokio::test]
async fn a_callback_without_a_token_stops_no_group_and_spends_none() {
    let spent = |code| {
        let mut spent = Status::new(code);
        for (name, value) in [
            ("x-ratelimit-limit", "20"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "4000000000"),
        ] {
            spent.headers.insert(name.to_owned(), value.to_owned());
        }
        Fault::Status(spent)
    };
    for fault in [
        status(429, Some(300)),
        status(429, None),
        status(503, Some(300)),
        spent(200),
        spent(429),
    ] {
        each(async |rig, a, b| {
            let plan = always("keyrings.authorize", fault.clone());
            rig.devrev.set_plan(plan);
            for _ in 0..5 {
                let calls = (0..4).map(|_| a.call("/keyrings.authorize?code=1", 0));
                join_all(calls).await;
                all_go_at_once(&b, 10).await;
            }
            let quota = quota(&rig).await;
            assert_eq!(quota["state"], "open", "{fault:?}: {quota}");
            assert_eq!(quota["throttled"], 0, "{fault:?}: {quota}");
            assert_ne!(quota["limit"], 20, "{fault:?}: {quota}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_callback_waits_out_a_time_by_itself() {
    each(async |rig, a, b| {
        let plan = FaultPlan::none();
        let rule = Rule::new("keyrings.authorize", status(429, Some(1))).times(1);
        rig.devrev.set_plan(plan.with(rule));
        let others = async {
            while rig.devrev.received().is_empty() {
                tokio::task::yield_now().await;
            }
            // The answer may be on its way still.
            for _ in 0..20 {
                all_go_at_once(&b, 5).await;
            }
        };
        let (callback, ()) = tokio::join!(a.call("/keyrings.authorize?code=1", 20), others);
        assert_eq!(callback, 200);
        let received = rig.devrev.received();
        let callbacks = received.iter().filter(|r| r.target.contains("keyrings"));
        let at: Vec<u64> = callbacks.map(|r| r.at_ms).collect();
        assert!(at.len() == 2 && at[1] - at[0] >= 990, "{at:?}");
    })
    .await;
}

#[tokio::test]
async fn an_operation_that_answers_503_with_a_time_pauses_no_other() {
    each(async |rig, a, b| {
        rig.devrev
            .set_plan(always("works.get", status(503, Some(300))));
        assert_eq!(a.call("/works.get?id=TKT-1", 0).await, 503);
        for _ in 0..5 {
            let calls = (0..4).map(|_| a.call("/works.get?id=TKT-1", 30));
            let refused = join_all(calls).await;
            assert!(refused.iter().all(|status| *status == 429), "{refused:?}");
            all_go_at_once(&b, 10).await;
        }
        let quota = quota(&rig).await;
        assert_eq!(quota["state"], "open");
        assert_eq!(quota["paused_operation"]["operation"], "works.get");
        let sent = rig.devrev.received();
        let sent = sent.iter().filter(|r| r.target.contains("works.get"));
        assert_eq!(sent.count(), 1, "and is left alone itself");
        assert_eq!(rig.resume().await.status, 200);
        rig.devrev.set_plan(FaultPlan::none());
        assert_eq!(a.call("/works.get?id=TKT-1", 0).await, 200);
    })
    .await;
}

#[tokio::test]
async fn requests_that_wait_for_a_paused_operation_hold_no_other() {
    each(async |rig, a, b| {
        let rule = Rule::new("works.get", status(503, Some(2))).times(1);
        rig.devrev.set_plan(FaultPlan::none().with(rule));
        let waits = join_all((0..40).map(|_| a.call("/works.get?id=TKT-1", 30)));
        let others = async {
            until(&rig, |quota| quota["waiting"] != 0).await;
            all_go_at_once(&b, 20).await;
            assert_ne!(quota(&rig).await["waiting"], 0, "while they still wait");
        };
        let (waited, ()) = tokio::join!(waits, others);
        assert!(waited.iter().all(|status| *status == 200), "{waited:?}");
    })
    .await;
}

/// Reads of different operations, each of which fails once.
const FLAKY: [&str; 8] = [
    "accounts.get",
    "accounts.list",
    "articles.get",
    "articles.list",
    "parts.get",
    "parts.list",
    "tags.get",
    "tags.list",
];

#[tokio::test]
async fn the_failures_of_one_caller_leave_the_other_its_retries() {
    // Retries for sixty requests: ten, and a fifth of sixty, or one for each after a 429.
    for (fault, budget) in [
        (status(500, None), 22),
        (status(429, None), 70),
        (status(503, None), 22),
    ] {
        each(async |rig, a, b| {
            let once = |plan: FaultPlan, operation: &&str| {
                plan.with(Rule::new(operation, status(500, None)).times(1))
            };
            let plan = FLAKY.iter().fold(FaultPlan::none(), once);
            rig.devrev
                .set_plan(plan.with(Rule::new("works.get", fault.clone())));
            join_all((0..60).map(|_| a.call("/works.get?id=TKT-1", 30))).await;
            let received = rig.devrev.received().len();
            // More only if that took longer than ten seconds.
            assert!(received <= 60 + budget + 12, "{received} attempts");
            for operation in FLAKY {
                let status = b.call(&format!("/{operation}"), 30).await;
                assert_ne!(status, 500, "{operation}");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn uploads_that_never_end_hold_no_other_after_a_pause() {
    each(async |rig, a, b| {
        let rule = Rule::new("works.list", status(429, Some(2))).times(1);
        rig.devrev.set_plan(FaultPlan::none().with(rule));
        assert_eq!(a.call("/works.list", 0).await, 429);
        // They wait first, so that one of them probes.
        let uploads: Vec<_> = (0..8).map(|_| a.upload("/works.create")).collect();
        until(&rig, |quota| quota["waiting"] == 8).await;
        let statuses = join_all((0..20).map(|_| b.call("/works.list", 30))).await;
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        uploads.iter().for_each(JoinHandle::abort);
        let received = rig.devrev.received();
        let at = |n: usize| {
            let lists = received.iter().filter(|r| r.target.contains("works.list"));
            Duration::from_millis(lists.map(|r| r.at_ms).nth(n).expect("sent"))
        };
        // An upload that held the probe would hold them for as long as an attempt may take, which is 2 s here.
        let after = at(20) - at(0);
        assert!(after < Duration::from_millis(3800), "{after:?}");
    })
    .await;
}
