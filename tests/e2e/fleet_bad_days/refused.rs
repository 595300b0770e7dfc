//! Redis answers, and refuses.

use super::{Bounds, Day, OF_AN_OUTAGE, TIGHT, url};
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

/// Restarts with data that it takes seconds to load.
async fn loading() {
    const KEYS: &str = "40";
    let options = Options::new()
        .line("key-load-delay 100000")
        .line("loading-process-events-interval-bytes 1024");
    let mut server = Server::with(options).await;
    let day = Day::of_three("LOADING", TIGHT, &url(&server)).await;
    server
        .call(&["DEBUG", "POPULATE", KEYS, "other", "4096"])
        .await;
    server.call(&["SAVE"]).await;
    server.restart(Data::Kept).await;
    let is_loading = server.info("loading").await;
    day.alone().await;
    let told = server
        .try_call(&["GET", "other:1"])
        .await
        .map(|told| told.text());
    assert_eq!(is_loading.as_deref(), Some("1"), "{told:?}");
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

#[tokio::test]
async fn redis_refuses_under_load() {
    tokio::join!(out_of_memory(), read_only(), loading(), rights_taken_away());
}
