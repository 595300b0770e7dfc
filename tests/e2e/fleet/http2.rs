//! The same over HTTP/2 at both ends, in replicas of two workers each: many streams of one connection wait at once.

use bytes::Bytes;
use futures_util::future::join_all;
use h2::client::SendRequest;
use http::Request;
use revgate::simulator::{self, FaultPlan, Rule};

use super::{ALPHA, BETA, Caller, Fleet, PATIENCE, file, replica, window};
use crate::{redis::Server, rig::status};

/// So many replicas, and a connection to each.
async fn fleet(count: usize, options: simulator::Options) -> (Fleet, Vec<SendRequest<Bytes>>) {
    let redis = Server::start().await;
    let devrev = simulator::start(options).await.expect("starts");
    let text = file(&devrev.addr().to_string(), "", "")
        .replace("[admin]", "workers = 2\n[admin]")
        .replace("attempt_timeout", "http2 = \"always\"\nattempt_timeout");
    let url = format!("redis://{}", redis.address());
    let fleet = Fleet {
        devrev,
        gateways: (0..count).map(|_| replica(&text, &url)).collect(),
        redis: Some(redis),
    };
    let connections = (0..count).map(|replica| connect(&fleet, replica));
    let connections = join_all(connections).await;
    (fleet, connections)
}

async fn connect(fleet: &Fleet, replica: usize) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(fleet.address(replica)).await;
    let handshake = h2::client::handshake(stream.expect("connects")).await;
    let (sender, connection) = handshake.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

async fn call(connection: &SendRequest<Bytes>, caller: &Caller, wait: u32) -> u16 {
    let request = Request::get("http://gateway/works.list")
        .header("authorization", caller.key)
        .header("prefer", format!("wait={wait}"))
        .header("x-of", caller.name)
        .body(())
        .expect("a request");
    let answered = async {
        let mut connection = connection.clone().ready().await.expect("a connection");
        let (answer, _) = connection.send_request(request, true).expect("is sent");
        let mut answer = answer.await.expect("an answer");
        while let Some(part) = answer.body_mut().data().await {
            let part = part.expect("a part");
            let given_back = answer.body_mut().flow_control();
            given_back.release_capacity(part.len()).expect("capacity");
        }
        answer.status().as_u16()
    };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .expect("in time")
}

/// So many at once, which wait for so many seconds at most.
async fn all_served(
    connections: &[SendRequest<Bytes>],
    caller: &Caller,
    (count, wait): (usize, u32),
) {
    let calls = (0..count).map(|n| call(&connections[n % connections.len()], caller, wait));
    let answers = join_all(calls).await;
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
}

#[tokio::test]
async fn streams_of_one_connection_wait_for_units_of_the_fleet() {
    let (fleet, connections) = fleet(3, window(40, 4)).await;
    assert_eq!(call(&connections[0], ALPHA, 5).await, 200);
    let alpha = all_served(&connections, ALPHA, (60, 30));
    let beta = all_served(&connections[1..], BETA, (59, 30));
    tokio::join!(alpha, beta);
    fleet.assert_sent_once(120);
    let received = fleet.devrev.received();
    let other = received.iter().find(|one| one.version != "HTTP/2.0");
    assert!(other.is_none(), "{other:?}");
    fleet.assert_well().await;
}

#[tokio::test]
async fn in_plenty_few_streams_ask() {
    let (fleet, connections) = fleet(3, window(4000, 300)).await;
    for _ in 0..30 {
        all_served(&connections, ALPHA, (10, 5)).await;
        all_served(&connections, BETA, (10, 5)).await;
    }
    fleet.assert_sent_once(600);
    let exchanges = fleet.exchanges().await;
    assert!(exchanges < 200, "{exchanges} for 600 requests");
    fleet.assert_well().await;
}

#[tokio::test]
async fn a_pause_holds_streams_of_all_replicas_and_a_stream_that_is_reset_costs_nothing() {
    let (fleet, connections) = fleet(2, window(900, 300)).await;
    for connection in &connections {
        assert_eq!(call(connection, ALPHA, 5).await, 200);
    }
    let pause = Rule::new("works.list", status(429, Some(60))).times(1);
    fleet.devrev.set_plan(FaultPlan::none().with(pause));
    let first = call(&connections[0], ALPHA, 100);
    let others = async {
        let paused = |quota: &serde_json::Value| quota["state"] == "paused";
        for replica in [0, 1] {
            fleet.until(replica, paused).await;
        }
        // These clients go away while they wait.
        for _ in 0..10 {
            let leaves = tokio::spawn({
                let connection = connections[1].clone();
                async move { call(&connection, BETA, 100).await }
            });
            let waits = |quota: &serde_json::Value| quota["waiting"] == 1;
            fleet.until(1, waits).await;
            leaves.abort();
            fleet.until(1, |quota| quota["waiting"] == 0).await;
        }
        let waiting = all_served(&connections, BETA, (100, 100));
        let resumed = async {
            let all = |quota: &serde_json::Value| quota["fleet"]["waiting"] == 101;
            fleet.until(1, all).await;
            assert_eq!(fleet.resume(1).await.status, 200);
        };
        tokio::join!(waiting, resumed);
    };
    let (status, ()) = tokio::join!(first, others);
    assert_eq!(status, 200);
    assert_eq!(fleet.counted(), (103, 1), "the one of the plan");
    fleet.assert_well().await;
}
