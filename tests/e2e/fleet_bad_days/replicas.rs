//! A replica dies, or stands still for a while, with units that it holds.

use super::{Bounds, Day, PLENTY, Quota, TIGHT, load::CALLERS, url};
use crate::redis::Server;

/// The lease of one of three replicas, and the units that were dealt to its callers.
const HELD: u64 = TIGHT.limit / 6 + CALLERS;

fn bounds(day: &Day, quota: Quota) -> Bounds {
    match quota.limit == PLENTY.limit {
        true => Bounds::plenty(),
        // Its attempts on the wire; its lease.
        false => Bounds::tight(CALLERS, HELD).if_alone(day.in_flight_and_one_each()),
    }
}

async fn dies(row: &'static str, quota: Quota) {
    let server = Server::start().await;
    let mut day = Day::of_three(row, quota, &url(&server)).await;
    day.kill(0);
    day.goes_on().await;
    day.goes_on().await;
    day.shares().await;
    let bounds = bounds(&day, quota);
    let evening = day.ends(bounds).await;
    evening.is_told_as_nothing();
}

async fn freezes(row: &'static str, quota: Quota) {
    let server = Server::start().await;
    let day = Day::of_three(row, quota, &url(&server)).await;
    day.freeze(0);
    day.goes_on_at(&[1, 2]).await;
    if quota.window == TIGHT.window {
        day.until_windows_are_over().await;
    }
    day.thaw(0);
    day.goes_on().await;
    day.shares().await;
    let mut bounds = bounds(&day, quota);
    // Those at the frozen one wait for it.
    bounds.delay = None;
    let evening = day.ends(bounds).await;
    for story in &evening.stories[1..] {
        evening.is_calm(story);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_killed_or_frozen() {
    tokio::join!(
        dies("kill -9 of a replica", TIGHT),
        dies("kill -9 of a replica, in plenty", PLENTY),
        freezes("SIGSTOP, SIGCONT of a replica", TIGHT),
        freezes("SIGSTOP, SIGCONT of a replica, in plenty", PLENTY),
    );
}
