//! Redis is lost for a while, or loses what it knew.

use super::{Bounds, Day, OF_AN_OUTAGE, PLENTY, Quota, TIGHT, url};
use crate::redis::{Data, Server};

/// A second without new leases, in which units are dealt one by one, and the lease that nobody may state again.
const OF_A_LOSS: u64 = TIGHT.limit / TIGHT.window + TIGHT.limit / 6;

/// What a row does to Redis, once the fleet shares it under load.
#[derive(Clone, Copy)]
enum Loss {
    /// It ends, and starts with nothing, or with an old snapshot.
    Ends(Data),
    Freezes,
    Pauses,
    Sleeps,
}

async fn lost(row: &'static str, quota: Quota, loss: Loss) {
    let mut server = Server::start().await;
    let day = Day::of_three(row, quota, &url(&server)).await;
    match loss {
        Loss::Ends(data) => {
            server.call(&["SAVE"]).await;
            day.goes_on().await;
            server.kill();
            day.alone().await;
            day.goes_on().await;
            server.restart(data).await;
        }
        Loss::Freezes => {
            server.freeze();
            day.alone().await;
            day.goes_on().await;
            server.thaw();
        }
        Loss::Pauses => {
            // Of all that may write, which is each script. The harness can end it.
            server.call(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
            day.alone().await;
            day.goes_on().await;
            server.call(&["CLIENT", "UNPAUSE"]).await;
        }
        Loss::Sleeps => {
            // Nobody can wake it.
            let sleeping = server.call(&["DEBUG", "SLEEP", "10"]);
            tokio::join!(sleeping, day.alone());
        }
    }
    day.shares().await;
    day.goes_on().await;
    let bounds = match quota.limit == PLENTY.limit {
        true => Bounds::plenty(),
        false => Bounds::tight(day.in_flight_and_one_each(), OF_AN_OUTAGE),
    };
    let evening = day.ends(bounds).await;
    match loss {
        Loss::Ends(_) => {
            evening.is_told_in_order(&["broken", "down"]);
            assert!(evening.losses() > 0, "{row}");
        }
        _ => {
            evening.is_told_in_order(&["timeout"]);
        }
    }
}

async fn flushed() {
    let server = Server::start().await;
    let day = Day::of_three("FLUSHALL", TIGHT, &url(&server)).await;
    server.call(&["FLUSHALL"]).await;
    day.goes_on().await;
    day.shares().await;
    let bounds = Bounds::tight(0, OF_A_LOSS).if_alone(day.in_flight_and_one_each());
    let evening = day.ends(bounds).await;
    assert!(evening.is_told_as_nothing().losses() > 0);
}

async fn scripts_flushed() {
    let server = Server::start().await;
    let day = Day::of_three("SCRIPT FLUSH", TIGHT, &url(&server)).await;
    server.call(&["SCRIPT", "FLUSH"]).await;
    day.goes_on().await;
    day.shares().await;
    let bounds = Bounds::tight(0, OF_A_LOSS).if_alone(day.in_flight_and_one_each());
    let evening = day.ends(bounds).await;
    assert_eq!(evening.is_told_as_nothing().losses(), 0);
}

/// The replicas start, are ready, and go by the headers; once Redis is there they join without a jump.
async fn down_at_the_start(row: &'static str, quota: Quota) {
    let mut server = Server::start().await;
    server.kill();
    let at = url(&server);
    let day = Day::begin(row, quota, &[&*at; 3]).await;
    day.alone().await;
    day.goes_on().await;
    server.restart(Data::Lost).await;
    day.shares().await;
    day.goes_on().await;
    let bounds = match quota.limit == PLENTY.limit {
        true => Bounds::plenty(),
        false => Bounds::tight(day.in_flight_and_one_each(), OF_AN_OUTAGE),
    };
    let evening = day.ends(bounds).await;
    evening.is_told_in_order(&["down"]);
}

/// A server that takes connections and answers nothing, from the first request on.
async fn hangs_at_the_start() {
    let server = Server::start().await;
    server.freeze();
    let at = url(&server);
    let day = Day::begin("hangs at the start", PLENTY, &[&*at; 3]).await;
    day.goes_on().await;
    day.alone().await;
    server.thaw();
    day.shares().await;
    day.goes_on().await;
    let evening = day.ends(Bounds::plenty()).await;
    evening.is_told_in_order(&["timeout", "down"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_ends_under_load_and_starts_again() {
    let (empty, old) = (Loss::Ends(Data::Lost), Loss::Ends(Data::Kept));
    tokio::join!(
        lost("kill -9, restart empty", TIGHT, empty),
        lost("kill -9, restart empty, in plenty", PLENTY, empty),
        lost("kill -9, restart with an old snapshot", TIGHT, old),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_hangs_under_load() {
    tokio::join!(
        lost("SIGSTOP, SIGCONT", TIGHT, Loss::Freezes),
        lost("SIGSTOP, SIGCONT, in plenty", PLENTY, Loss::Freezes),
        lost("CLIENT PAUSE", TIGHT, Loss::Pauses),
        lost("DEBUG SLEEP", TIGHT, Loss::Sleeps),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_forgets_or_is_not_there_at_the_start() {
    tokio::join!(
        flushed(),
        scripts_flushed(),
        down_at_the_start("down at the start", TIGHT),
        down_at_the_start("down at the start, in plenty", PLENTY),
        hangs_at_the_start(),
    );
}
