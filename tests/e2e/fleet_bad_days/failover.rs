//! Another server takes over: by Sentinel, in a cluster, or slot by slot.

use revgate::fleet::names::Names;

use super::{Bounds, Day, OF_AN_OUTAGE, TIGHT, until};
use crate::redis::{Cluster, Data, MASTER, Server, Value, Watched};

fn key() -> String {
    Names::new("revgate", None).of_group("main").to_string()
}

fn bounds(day: &Day) -> Bounds {
    Bounds::tight(day.in_flight_and_one_each(), OF_AN_OUTAGE)
}

/// The fleet's value is changed on this server.
async fn is_used(server: &Server) {
    let value = || async {
        let value = server.try_call(&["GET", &key()]).await;
        value.unwrap_or(Value::Nil)
    };
    let before = value().await;
    until("exchanges on the new server", || async {
        let now = value().await;
        let changed = now != before && matches!(now, Value::Bytes(_));
        changed.then_some(()).ok_or("it is as it was".to_owned())
    })
    .await;
}

/// The primary is replaced as an operator orders it, then another time because it was killed; it returns as a replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_fails_over() {
    // One Sentinel. On a busy machine one of several may not have heard of a failover, and undo it.
    let mut watched = Watched::start(1).await;
    let url = format!("redis+sentinel://{}/{MASTER}", watched.addresses());
    let day = Day::of_three("SENTINEL FAILOVER", TIGHT, &url).await;
    watched.fail_over_to(1).await;
    is_used(&watched.servers[1]).await;
    day.shares().await;
    day.goes_on().await;
    let bound = bounds(&day);
    day.ends(bound).await;
    watched.servers[0].until_it_follows().await;

    let day = Day::of_three("kill -9 of the primary, with Sentinel", TIGHT, &url).await;
    watched.servers[1].kill();
    day.alone().await;
    day.goes_on().await;
    watched.until_primary(0).await;
    day.shares().await;
    is_used(&watched.servers[0]).await;
    watched.servers[1].restart(Data::Kept).await;
    watched.servers[1].until_it_follows().await;
    day.goes_on().await;
    let bound = bounds(&day);
    let evening = day.ends(bound).await;
    evening.is_told_in_order(&["broken", "down"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_a_primary() {
    let mut cluster = Cluster::with_replicas().await;
    let url = format!("redis+cluster://{}", cluster.addresses());
    let day = Day::of_three("kill -9 of a primary in a cluster", TIGHT, &url).await;
    let owner = cluster.owner(&key()).await;
    cluster.nodes[owner].kill();
    day.alone().await;
    day.goes_on().await;
    cluster.until_primary(owner + 3).await;
    day.shares().await;
    is_used(&cluster.nodes[owner + 3]).await;
    cluster.restart(owner, Data::Kept).await;
    cluster.nodes[owner].until_it_follows().await;
    day.goes_on().await;
    let bound = bounds(&day);
    let evening = day.ends(bound).await;
    evening.is_told_in_order(&["broken", "down", "not_writable"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_moves_a_slot_and_is_down() {
    let mut cluster = Cluster::start().await;
    let url = format!("redis+cluster://{}", cluster.addresses());
    let day = Day::of_three("a slot moves under load", TIGHT, &url).await;
    let (slot, from) = (cluster.slot(&key()).await, cluster.owner(&key()).await);
    let to = (from + 1) % 3;
    cluster.begin_move(slot, from, to).await;
    day.goes_on().await;
    cluster.move_keys(slot, from, to).await;
    day.goes_on().await;
    cluster.end_move(slot, from, to).await;
    is_used(&cluster.nodes[to]).await;
    day.goes_on().await;
    day.shares().await;
    let bound = bounds(&day);
    day.ends(bound).await.is_told_as_nothing();

    let day = Day::of_three("CLUSTERDOWN", TIGHT, &url).await;
    // Not the one that has the key.
    cluster.nodes[from].kill();
    day.alone().await;
    day.goes_on().await;
    cluster.restart(from, Data::Lost).await;
    cluster.until_ok().await;
    day.shares().await;
    day.goes_on().await;
    let bound = bounds(&day);
    let evening = day.ends(bound).await;
    evening.is_told_in_order(&["not_writable", "down", "broken"]);
}
