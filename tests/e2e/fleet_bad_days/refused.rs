//! Redis answers, and refuses.

use super::{Bounds, Day, OF_AN_OUTAGE, TIGHT, until, url};
use crate::redis::{Data, Options, Server};

async fn out_of_memory() {
    let server = Server::start().await;
    let day = Day::of_three("maxmemory 1 (OOM)", TIGHT, &url(&server)).await;
    server.call(&["CONFIG", "SET", "maxmemory", "1"]).await;
    day.alone().await;
    day.goes_on().await;
    server.call(&["CONFIG", "SET", "maxmemory", "0"]).await;
    day.shares().await;
    day.goes_on().await;
    let bounds = Bounds::tight(day.in_flight_and_one_each(), OF_AN_OUTAGE);
    day.ends(bounds).await.is_told_in_order(&["refused"]);
}

async fn read_only() {
    let (server, primary) = tokio::join!(Server::start(), Server::start());
    let day = Day::of_three("REPLICAOF (READONLY)", TIGHT, &url(&server)).await;
    server.follow(&primary).await;
    day.alone().await;
    day.goes_on().await;
    server.call(&["REPLICAOF", "NO", "ONE"]).await;
    day.shares().await;
    day.goes_on().await;
    let bounds = Bounds::tight(day.in_flight_and_one_each(), OF_AN_OUTAGE);
    let evening = day.ends(bounds).await;
    // A server that becomes a replica cuts its connections.
    evening.is_told_in_order(&["not_writable", "broken"]);
}

/// A replica that may not serve old data, and whose primary is not there.
async fn without_its_primary() {
    let options = Options::new().line("replica-serve-stale-data no");
    let server = Server::with(options).await;
    let day = Day::of_three("MASTERDOWN", TIGHT, &url(&server)).await;
    // Nothing listens there.
    server.call(&["REPLICAOF", "127.0.0.1", "1"]).await;
    day.alone().await;
    day.goes_on().await;
    server.call(&["REPLICAOF", "NO", "ONE"]).await;
    day.shares().await;
    day.goes_on().await;
    let bounds = Bounds::tight(day.in_flight_and_one_each(), OF_AN_OUTAGE);
    let evening = day.ends(bounds).await;
    evening.is_told_in_order(&["not_writable", "broken"]);
}

/// Restarts with data that it takes a minute to load, unless it is told to hurry.
async fn loading() {
    const DELAY: &str = "key-load-delay";
    let options = Options::new()
        .line(format!("{DELAY} 20000"))
        .line("loading-process-events-interval-bytes 1024");
    let mut server = Server::with(options).await;
    let day = Day::of_three("LOADING", TIGHT, &url(&server)).await;
    let fill = ["DEBUG", "POPULATE", "3000", "other", "4096"];
    server.call(&fill).await;
    server.call(&["SAVE"]).await;
    server.restart(Data::Kept).await;
    let gateway = &day.replicas[0].gateway;
    until("a replica that found Redis loading", || async {
        let (_, status) = gateway.get("/status").await;
        let is_told = status.contains("it is still loading its data");
        is_told.then_some(()).ok_or(status)
    })
    .await;
    day.alone().await;
    day.goes_on().await;
    server.call(&["CONFIG", "SET", DELAY, "0"]).await;
    day.shares().await;
    day.goes_on().await;
    let bounds = Bounds::tight(day.in_flight_and_one_each(), OF_AN_OUTAGE);
    let evening = day.ends(bounds).await;
    evening.is_told_in_order(&["broken", "down", "not_writable", "timeout"]);
}

/// The user may no longer run the script, and later may again.
async fn rights_taken_away() {
    const USER: &str = "user gate on >gate-password ~revgate:* &revgate:* +@all";
    let server = Server::with(Options::new().line(USER)).await;
    let at = format!("redis://gate:gate-password@{}", server.address());
    let day = Day::of_three("ACL SETUSER takes a right away", TIGHT, &at).await;
    server
        .call(&["ACL", "SETUSER", "gate", "-evalsha", "-eval"])
        .await;
    day.alone().await;
    day.goes_on().await;
    server
        .call(&["ACL", "SETUSER", "gate", "+evalsha", "+eval"])
        .await;
    day.shares().await;
    day.goes_on().await;
    let bounds = Bounds::tight(day.in_flight_and_one_each(), OF_AN_OUTAGE);
    day.ends(bounds).await.is_told_in_order(&["denied"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_refuses_under_load() {
    tokio::join!(
        out_of_memory(),
        read_only(),
        without_its_primary(),
        loading(),
        rights_taken_away(),
    );
}
