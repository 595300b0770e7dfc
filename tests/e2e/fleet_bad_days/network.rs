//! The network between the replicas and Redis.

use std::time::Duration;

use super::{
    Bounds, Day, OF_AN_OUTAGE, PLENTY, Quota, TIGHT, TIMEOUT, load::CALLERS, switch::Switch, until,
    url,
};
use crate::redis::{Mode, Proxy, Server};

fn bounds(day: &Day, quota: Quota) -> Bounds {
    match quota.limit == PLENTY.limit {
        true => Bounds::plenty(),
        false => Bounds::tight(day.in_flight_and_one_each(), OF_AN_OUTAGE),
    }
}

/// All replicas are behind one proxy, which does this to what passes it; later all is well again.
async fn behind(row: &'static str, quota: Quota, mode: Mode, faults: &[&str]) {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address()).await;
    let day = Day::of_three(row, quota, &format!("redis://{}", proxy.address())).await;
    proxy.set(mode.clone());
    if mode == Mode::Refuse {
        proxy.cut();
    }
    day.alone().await;
    day.goes_on().await;
    proxy.set(Mode::Pass);
    day.shares().await;
    day.goes_on().await;
    let bounds = bounds(&day, quota);
    let evening = day.ends(bounds).await;
    evening.is_told_in_order(faults);
}

/// A replica that holds nothing asks before its first request, and then no longer than it may.
async fn asks_first() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address()).await;
    let day = Day::idle(
        "the first request, swallowed",
        &format!("redis://{}", proxy.address()),
    )
    .await;
    proxy.set(Mode::Swallow);
    let calls = [day.asks().await, day.asks().await];
    // Not ended before the answers, which so did not wait for its end.
    proxy.set(Mode::Pass);
    assert!(calls[0].took >= TIMEOUT / 2, "it did not ask: {calls:?}");
    day.ends(Bounds::plenty()).await;
}

/// Below the timeout nobody goes alone, and nobody spends what is not there.
async fn delayed(row: &'static str, quota: Quota) {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address()).await;
    let day = Day::of_three(row, quota, &format!("redis://{}", proxy.address())).await;
    proxy.set(Mode::Delay(Duration::from_millis(5)));
    day.goes_on().await;
    day.goes_on().await;
    day.shares().await;
    let bounds = match quota.limit == PLENTY.limit {
        true => Bounds::plenty(),
        false => Bounds::tight(0, OF_AN_OUTAGE).if_alone(day.in_flight_and_one_each()),
    };
    day.ends(bounds).await.is_told_as_nothing();
}

/// One replica is cut off. The others go on with each other.
async fn partition() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address()).await;
    let (far, near) = (format!("redis://{}", proxy.address()), url(&server));
    let day = Day::begin("one replica is cut off", TIGHT, &[&*far, &*near, &*near]).await;
    day.shares().await;
    day.goes_on().await;
    proxy.set(Mode::Swallow);
    day.alone_at(0).await;
    day.goes_on().await;
    for number in [1, 2] {
        day.shares_at(number).await;
    }
    proxy.set(Mode::Pass);
    day.shares().await;
    day.goes_on().await;
    // Its lease, what it has in flight, and one that it sends without knowing better.
    let over = TIGHT.limit / 6 + CALLERS + 1;
    let evening = day.ends(Bounds::tight(over, OF_AN_OUTAGE)).await;
    evening.is_one_outage(&evening.stories[0], &["timeout"]);
    for number in [1, 2] {
        evening.is_calm(&evening.stories[number]);
        assert!(evening.alone[0] > evening.alone[number]);
    }
}

/// The network splits: a replica of Redis has become a primary of its own. Nobody is alone, but there are two fleets; then there is one again.
async fn split() {
    let (one, two) = tokio::join!(Server::start(), Server::start());
    two.follow(&one).await;
    let switch = Switch::to(one.address()).await;
    let (near, far) = (url(&one), format!("redis://{}", switch.address()));
    let day = Day::begin("split in two", TIGHT, &[&*near, &*far, &*far]).await;
    day.shares().await;
    day.goes_on().await;
    two.call(&["REPLICAOF", "NO", "ONE"]).await;
    switch.turn(two.address());
    let other = format!("connections to the other side of {}", day.row);
    until(&other, || async {
        let clients = two.call(&["CLIENT", "LIST"]).await.text();
        let ours = clients.matches("name=revgate").count();
        (ours == 2).then_some(()).ok_or(clients)
    })
    .await;
    day.shares().await;
    day.goes_on().await;
    day.until_windows_are_over().await;
    two.follow(&one).await;
    switch.turn(one.address());
    day.shares().await;
    day.goes_on().await;
    // What both sides hand out until the headers tell: half of what is free at most, and what is in flight.
    let over = TIGHT.limit / 2 + day.in_flight_and_one_each();
    let evening = day.ends(Bounds::tight(over, OF_AN_OUTAGE)).await;
    evening.is_calm(&evening.stories[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_swallows() {
    let late = &["timeout"];
    tokio::join!(
        behind("swallowed", TIGHT, Mode::Swallow, late),
        behind("swallowed, in plenty", PLENTY, Mode::Swallow, late),
        behind("answers are lost", TIGHT, Mode::LoseAnswers, late),
        asks_first(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_is_slow() {
    let (slow, late) = (Mode::Delay(Duration::from_secs(2)), &["timeout"]);
    tokio::join!(
        behind("delayed above the timeout", TIGHT, slow.clone(), late),
        behind("delayed above the timeout, in plenty", PLENTY, slow, late),
        delayed("delayed below the timeout", TIGHT),
        delayed("delayed below the timeout, in plenty", PLENTY),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_cuts() {
    let broken = &["broken", "down", "timeout"];
    let half = Mode::HalfThenSilence;
    tokio::join!(
        behind("cut", TIGHT, Mode::Refuse, broken),
        behind("half an answer, then cut", TIGHT, Mode::HalfThenCut, broken),
        behind("half an answer, then nothing", TIGHT, half, broken),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_splits() {
    tokio::join!(partition(), split());
}
