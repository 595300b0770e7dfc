//! A drain serves the requests that wait and can be served in time, and refuses the others at once.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use revgate::{
    serve::Gateway,
    simulator::{Fault, FaultPlan, Options, Rule, TextDuration},
};
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};

use crate::{
    http::{Answer, Client, TIMEOUT, request},
    introspect::token,
    quota::until,
    rig::{KEY, Rig, status},
};

#[derive(Clone)]
struct Caller {
    credential: String,
    address: SocketAddr,
    http2: Option<SendRequest<Empty<Bytes>>>,
}

impl Caller {
    /// One over HTTP/1.1 and one over HTTP/2.
    async fn all(address: SocketAddr, credential: &str) -> [Caller; 2] {
        let stream = TcpStream::connect(address).await.expect("connects");
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.expect("HTTP/2");
        tokio::spawn(connection);
        [None, Some(sender)].map(|http2| Caller {
            credential: format!("Bearer {credential}"),
            address,
            http2,
        })
    }

    fn call(&self, target: &'static str) -> JoinHandle<Answer> {
        tokio::spawn(self.clone().send(target))
    }

    async fn send(self, target: &'static str) -> Answer {
        match self.http2 {
            None => {
                let mut client = Client::connect(self.address).await;
                let headers = [("Authorization", self.credential.as_str())];
                client.send(request("GET", target, &headers, "")).await;
                client.answer().await.expect("an answer")
            }
            Some(mut sender) => {
                let request = hyper::Request::get(format!("http://api.devrev.ai{target}"))
                    .header("authorization", self.credential)
                    .body(Empty::new())
                    .expect("a request");
                sender.ready().await.expect("ready");
                let answer = timeout(TIMEOUT, sender.send_request(request)).await;
                let (head, body) = answer.expect("in time").expect("an answer").into_parts();
                let body = body.collect().await.expect("a body").to_bytes();
                let headers = head.headers.iter();
                Answer {
                    status: head.status.as_u16(),
                    headers: headers
                        .map(|(name, value)| {
                            let value = String::from_utf8_lossy(value.as_bytes());
                            (name.to_string(), value.into_owned())
                        })
                        .collect(),
                    body: body.into(),
                    whole: true,
                }
            }
        }
    }
}

/// Drains, which must end.
async fn drain(gateway: Gateway) {
    let drained = timeout(TIMEOUT, gateway.drain()).await;
    assert!(drained.is_ok(), "the drain does not end");
}

async fn served(calls: Vec<JoinHandle<Answer>>) {
    for call in calls {
        let answer = call.await.expect("no panic");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

async fn refused(calls: Vec<JoinHandle<Answer>>) {
    for call in calls {
        let answer = call.await.expect("no panic");
        assert_eq!(answer.code(), "draining", "{answer:?}");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
}

fn once(operation: &str, fault: Fault) -> Rule {
    Rule::new(operation, fault).times(1)
}

#[tokio::test]
async fn those_that_wait_for_quota_are_served_if_they_can_be() {
    for workers in [1, 2] {
        // The reset is beyond the end of the drain, and the end of the pause is not.
        let listen = format!("workers = {workers}");
        let extra = "[drain]\ntimeout = \"15s\"\n";
        let rig = Rig::tables(&listen, "", extra, Options::default()).await;
        let plan = FaultPlan::none()
            .with(once("works.get", status(503, Some(28))))
            .with(once("works.list", status(429, Some(2))));
        rig.devrev.set_plan(plan);
        let [http1, http2] = Caller::all(rig.address, KEY).await;
        let mut late = vec![http1.call("/works.get?id=TKT-1")];
        until(&rig, |quota| quota["waiting"] == 1).await;
        late.push(http2.call("/works.get?id=TKT-2"));
        until(&rig, |quota| quota["waiting"] == 2).await;
        let mut soon = vec![http1.call("/works.list")];
        until(&rig, |quota| quota["state"] == "paused").await;
        for _ in 0..5 {
            soon.push(http1.call("/works.list"));
            soon.push(http2.call("/works.list"));
        }
        until(&rig, |quota| quota["waiting"] == 13).await;
        let Rig {
            devrev, gateway, ..
        } = rig;
        let begun = tokio::time::Instant::now();
        let draining = tokio::spawn(drain(gateway));
        refused(late).await;
        let at_once = begun.elapsed();
        served(soon).await;
        assert!(at_once < begun.elapsed(), "before those that are served");
        draining.await.expect("it ends");
        let received = devrev.received();
        assert_eq!(received.len(), 13, "each was sent once, and one twice");
    }
}

#[tokio::test]
async fn those_that_wait_for_a_connection_are_served() {
    let rig = Rig::tables("", "max_connections = 1", "", Options::default()).await;
    let slow = Fault::Delay(TextDuration(Duration::from_secs(2)));
    let quick = rig.call("GET", "/works.list", "").await;
    assert_eq!(quick.status, 200);
    rig.devrev
        .set_plan(FaultPlan::none().with(once("works.list", slow)));
    let callers = Caller::all(rig.address, KEY).await;
    let mut calls = vec![callers[0].call("/works.list")];
    while rig.devrev.received().len() < 2 {
        tokio::task::yield_now().await;
    }
    calls.extend(callers.iter().map(|caller| caller.call("/works.list")));
    // They hold a unit, and no connection.
    until(&rig, |quota| quota["in_flight"] == 3).await;
    let Rig {
        devrev: _devrev,
        gateway,
        ..
    } = rig;
    tokio::join!(drain(gateway), served(calls));
}

#[tokio::test]
async fn those_that_wait_to_be_tried_again_are_served() {
    let rig = Rig::new("[retry]\nbackoff = { min = \"1s\", max = \"1s\" }\n").await;
    let plan = FaultPlan::none()
        .with(once("works.list", status(500, None)))
        .with(once("works.list", status(500, None)));
    rig.devrev.set_plan(plan);
    let callers = Caller::all(rig.address, KEY).await;
    let calls = callers
        .iter()
        .map(|caller| caller.call("/works.list"))
        .collect();
    while rig.devrev.received().len() < 2 {
        tokio::task::yield_now().await;
    }
    let Rig {
        devrev: _devrev,
        gateway,
        ..
    } = rig;
    tokio::join!(drain(gateway), served(calls));
}

#[tokio::test]
async fn those_that_wait_for_an_introspection_are_served() {
    let devrev = crate::rig::simulator().await;
    // Long enough for all of them to come.
    let slow = Fault::Delay(TextDuration(Duration::from_secs(5)));
    devrev.set_plan(FaultPlan::none().with(once("auth-tokens.info", slow)));
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nurl = \"http://{}\"\n[auth]\nmode = \"validate\"\n",
        devrev.addr()
    );
    let gateway = crate::rig::start(&text, &[]);
    let address = gateway.address().expect("TCP");
    let callers = Caller::all(address, &token("ada", 1)).await;
    let calls = (0..3).flat_map(|_| callers.iter().map(|caller| caller.call("/works.list")));
    let calls: Vec<_> = calls.collect();
    let in_flight = || async {
        let admin = gateway.admin_address();
        let metrics = crate::rig::admin(admin, "GET", "/metrics", "").await;
        metrics.text().contains("revgate_in_flight 6")
    };
    let ends = tokio::time::Instant::now() + TIMEOUT;
    while !in_flight().await || devrev.received().is_empty() {
        assert!(tokio::time::Instant::now() < ends, "they do not come");
    }
    tokio::join!(drain(gateway), served(calls));
}

#[tokio::test]
async fn a_drain_ends_in_time_and_those_it_does_not_serve_are_told() {
    let upstream = "attempt_timeout = \"60s\"\nmax_connections = 1";
    let extra = "[drain]\ntimeout = \"2s\"\n";
    let rig = Rig::tables("", upstream, extra, Options::default()).await;
    assert_eq!(rig.call("GET", "/works.list", "").await.status, 200);
    rig.devrev
        .set_plan(FaultPlan::none().with(once("works.list", Fault::Hang)));
    let callers = Caller::all(rig.address, KEY).await;
    let mut hangs = Client::connect(rig.address).await;
    let call = request("GET", "/works.list", &[("Authorization", KEY)], "");
    hangs.send(call).await;
    while rig.devrev.received().len() < 2 {
        tokio::task::yield_now().await;
    }
    let calls = callers
        .iter()
        .map(|caller| caller.call("/works.list"))
        .collect();
    until(&rig, |quota| quota["in_flight"] == 3).await;
    let Rig {
        devrev: _devrev,
        gateway,
        ..
    } = rig;
    tokio::join!(drain(gateway), refused(calls));
    assert!(hangs.answer().await.is_none(), "its connection was closed");
}
