//! Turns over the whole fleet: it does not matter where a request waits.

use futures_util::future::{join, join_all};
use revgate::simulator::{FaultPlan, Received, Rule};

use super::{ALPHA, BATCH, BETA, Caller, Fleet, HEAVY, all_served, count, window};
use crate::rig::status;

/// So many requests of this caller wait on each replica.
type Waiting<'a> = (&'a Caller, &'a [usize]);

/// All of these wait, and know of each other, before the first of them is served. Returns what DevRev received then, in its order.
async fn served(fleet: &Fleet, waiting: &[Waiting<'_>]) -> Vec<Received> {
    let replicas = fleet.gateways.len();
    // A replica hears of a pause once it is one of the fleet.
    for replica in 0..replicas {
        assert_eq!(fleet.call(replica, ALPHA, 5).await.status, 200);
    }
    let pause = Rule::new("works.list", status(429, Some(60))).times(1);
    fleet.devrev.set_plan(FaultPlan::none().with(pause));
    // Whoever meets the pause waits for its end too.
    let first = fleet.call(0, ALPHA, 100);
    let rest = async {
        for replica in 0..replicas {
            fleet
                .until(replica, |quota| quota["state"] == "paused")
                .await;
        }
        let calls = waiting.iter().flat_map(|(caller, counts)| {
            let each = counts.iter().enumerate();
            each.flat_map(move |(replica, count)| {
                (0..*count).map(move |_| fleet.call(replica, caller, 100))
            })
        });
        let all: usize = 1 + waiting
            .iter()
            .flat_map(|(_, counts)| *counts)
            .sum::<usize>();
        let resumed = async {
            // One on which nobody waits has nothing to ask.
            let waits = |replica: &usize| waiting.iter().any(|(_, counts)| counts[*replica] > 0);
            for replica in (0..replicas).filter(waits) {
                fleet
                    .until(replica, |quota| quota["fleet"]["waiting"] == all)
                    .await;
            }
            assert_eq!(fleet.resume(replicas - 1).await.status, 200);
        };
        join(join_all(calls), resumed).await.0
    };
    let (first, answers) = join(first, rest).await;
    assert_eq!(first.status, 200, "{first:?}");
    all_served(&answers);
    fleet.assert_well().await;
    let received = fleet.devrev.received();
    let beyond = received.iter().filter(|r| r.status == Some(429)).count();
    assert_eq!(beyond, 1, "the one of the plan");
    let served = received.into_iter().filter(|r| r.status == Some(200));
    served.skip(replicas).collect()
}

/// Everything is dealt.
const SPREAD: &str = "[quota]\nspread_above = 0.0\n";

#[tokio::test]
async fn callers_get_equal_shares_wherever_they_wait() {
    let fleet = Fleet::new(3, SPREAD, window(100, 4)).await;
    // One to nine over two replicas, and the other way about.
    let waiting: [Waiting<'_>; 2] = [(ALPHA, &[6, 54, 0]), (BETA, &[54, 6, 0])];
    let received = served(&fleet, &waiting).await;
    for seen in [20, 50, 90] {
        let shares = [ALPHA, BETA].map(|caller| count(&received[..seen], caller));
        assert!(shares[0].abs_diff(shares[1]) <= 6, "{seen}: {shares:?}");
    }
}

#[tokio::test]
async fn a_caller_does_not_get_more_by_waiting_everywhere() {
    let fleet = Fleet::new(3, SPREAD, window(100, 4)).await;
    let waiting: [Waiting<'_>; 2] = [(ALPHA, &[30, 30, 30]), (BETA, &[0, 40, 0])];
    let received = served(&fleet, &waiting).await;
    for seen in [20, 50, 70] {
        let shares = [ALPHA, BETA].map(|caller| count(&received[..seen], caller));
        assert!(shares[0].abs_diff(shares[1]) <= 6, "{seen}: {shares:?}");
    }
}

#[tokio::test]
async fn weights_hold_over_replicas() {
    let fleet = Fleet::new(2, SPREAD, window(100, 4)).await;
    let waiting: [Waiting<'_>; 2] = [(HEAVY, &[60, 0]), (BETA, &[0, 40])];
    let received = served(&fleet, &waiting).await;
    for seen in [20, 40, 70] {
        let shares = [HEAVY, BETA].map(|caller| count(&received[..seen], caller));
        assert!(shares[0].abs_diff(3 * shares[1]) <= 9, "{seen}: {shares:?}");
    }
}

#[tokio::test]
async fn an_interactive_request_is_not_behind_a_flood_of_batch_elsewhere() {
    let fleet = Fleet::new(2, SPREAD, window(100, 4)).await;
    let waiting: [Waiting<'_>; 2] = [(BATCH, &[60, 0]), (BETA, &[0, 10])];
    let received = served(&fleet, &waiting).await;
    let last = received
        .iter()
        .rposition(|r| count(std::slice::from_ref(r), BETA) == 1);
    // The request that met the pause is among them, and batch has its turn once it has aged.
    assert!(last < Some(14), "{last:?}");
}
