//! While there is enough for all: leases, and nothing of Redis on the way of a request.

use futures_util::future::join_all;
use revgate::simulator::{Fault, FaultPlan, Options, Rule, TextDuration};
use std::time::Duration;

use super::{ALPHA, BETA, Fleet, all_served, window};
use crate::{
    http::{Client, get},
    redis::{Mode, Proxy, Server},
    rig::TOKEN,
};

/// A call that no replica knows of.
async fn outside(fleet: &Fleet, calls: usize) {
    let mut client = Client::connect(fleet.devrev.addr()).await;
    let bearer = format!("Bearer {TOKEN}");
    for _ in 0..calls {
        client.send(get("/works.list", &bearer)).await;
        assert_eq!(client.answer().await.expect("an answer").status, 200);
    }
}

#[tokio::test]
async fn each_replica_knows_what_devrev_counts_and_asks_seldom() {
    for count in 1..=3 {
        let fleet = Fleet::new(count, "", window(4000, 300)).await;
        let requests = 200 * count;
        for _ in 0..requests / 20 {
            fleet.serves(ALPHA, 10, 5).await;
            fleet.serves(BETA, 10, 5).await;
        }
        fleet.assert_sent_once(requests);
        // Most of them while leases are still small. The quota bench measures the steady state.
        let exchanges = fleet.exchanges().await;
        assert!(
            exchanges * 3 < requests as u64,
            "{exchanges} for {requests} requests"
        );
        for replica in 0..count {
            assert_eq!(fleet.call(replica, ALPHA, 0).await.status, 200);
            let left = 4000 - fleet.counted().0;
            let quota = fleet
                .until(replica, |quota| quota["remaining"] == left)
                .await;
            assert_eq!(
                (&quota["limit"], &quota["external"], &quota["throttled"]),
                (&4000.into(), &0.into(), &0.into()),
                "{quota}"
            );
            assert_eq!(quota["fleet"]["sharing"], "plenty", "{quota}");
            assert_eq!(quota["fleet"]["replicas"], count, "{quota}");
            assert_eq!(quota["fleet"]["waiting"], 0, "{quota}");
        }
        fleet.assert_well().await;
    }
}

#[tokio::test]
async fn one_attempt_of_the_whole_fleet_finds_out_what_is_left() {
    let slow = Fault::Delay(TextDuration(Duration::from_millis(600)));
    let plan = FaultPlan::none().with(Rule::new("works.list", slow).times(1));
    let options = Options {
        plan,
        ..window(1000, 300)
    };
    let fleet = Fleet::new(3, "", options).await;
    fleet.serves(ALPHA, 30, 10).await;
    fleet.assert_sent_once(30);
    let at: Vec<u64> = fleet.devrev.received().iter().map(|r| r.at_ms).collect();
    // A second one goes beside the first when that takes longer than a second.
    assert!(at[1] - at[0] >= 590, "more than one at first: {at:?}");
    fleet.assert_well().await;
}

#[tokio::test]
async fn nobody_gets_a_429_though_the_fleet_starts_with_little_left() {
    let fleet = Fleet::new(3, "", window(200, 5)).await;
    outside(&fleet, 101).await;
    // More than there are, on replicas that know nothing.
    fleet.serves(ALPHA, 150, 30).await;
    fleet.assert_sent_once(101 + 150);
    fleet.assert_well().await;
}

#[tokio::test]
async fn a_request_that_finds_a_lease_asks_nobody() {
    let redis = Server::start().await;
    let proxy = Proxy::to(redis.address()).await;
    let url = format!("redis://{}", proxy.address());
    let fleet = Fleet::at(&url, "", 2, "", window(4000, 300)).await;
    for _ in 0..8 {
        fleet.serves(ALPHA, 20, 5).await;
    }
    // Redis says nothing any more. A request that asked it would be served after a failed exchange only.
    let mut nobody_asked = false;
    for _ in 0..5 {
        proxy.set(Mode::Pass);
        // So that there are leases, and tokens of the caller's limit, which are bought for seconds.
        let served = async || fleet.serves(ALPHA, 20, 5).await;
        served().await;
        served().await;
        proxy.set(Mode::Swallow);
        fleet.serves(ALPHA, 4, 5).await;
        let mut failed = 0.0;
        for replica in [0, 1] {
            failed += fleet
                .metric(replica, "revgate_shared_alone_seconds_total")
                .await;
        }
        // Otherwise it took too long to tell: what happens beside the requests has failed too.
        nobody_asked |= failed == 0.0;
        if nobody_asked {
            break;
        }
    }
    assert!(nobody_asked, "an exchange is on the way of requests");
    proxy.set(Mode::Pass);
}

#[tokio::test]
async fn the_first_request_of_an_idle_replica_asks_once() {
    let fleet = Fleet::new(2, "", window(4000, 300)).await;
    fleet.serves(ALPHA, 2, 5).await;
    for _ in 0..8 {
        all_served(&join_all((0..5).map(|_| fleet.call(0, ALPHA, 5))).await);
    }
    let asked = fleet.metric(1, "revgate_shared_exchanges_total").await;
    let began = tokio::time::Instant::now();
    assert_eq!(fleet.call(1, ALPHA, 0).await.status, 200);
    crate::redis::report("first of an idle replica", began.elapsed());
    // Its value was old, so that another one came back first.
    let asked = fleet.metric(1, "revgate_shared_exchanges_total").await - asked;
    assert!((1.0..=4.0).contains(&asked), "{asked}");
    fleet.assert_well().await;
}
