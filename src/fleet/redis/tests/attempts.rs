//! Attempts to connect, with the clock stopped: no server is involved.

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::*;
use crate::{fleet::redis::supervisor::Route, lock::Lock};

/// Leads nowhere, and notes when it was asked.
#[derive(Default)]
struct Nowhere {
    asked: Lock<Vec<Instant>>,
    hangs: bool,
}

impl Route for Arc<Nowhere> {
    fn next(&self) -> BoxFuture<'_, Result<Target, Failure>> {
        self.asked.lock().push(Instant::now());
        Box::pin(async {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            Err(Failure::new(Fault::Down, "it leads nowhere"))
        })
    }
}

fn start(route: &Arc<Nowhere>) -> Redis {
    Redis::start(Box::new(route.clone()), Names::new(PREFIX, None), SHORT)
}

#[tokio::test(start_paused = true)]
async fn pauses_double_and_end_growing() {
    let route = Arc::new(Nowhere::default());
    let redis = start(&route);
    assert!(matches!(&*redis.link().borrow(), Link::Unknown));
    let failure = read(&redis, &key("main")).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Down);
    assert_eq!(&*until_down(&redis).await.reason, "it leads nowhere");

    sleep(Duration::from_secs(60)).await;
    let asked = route.asked.lock().clone();
    let pauses = asked.windows(2).map(|two| two[1] - two[0]);
    let mut most = Duration::from_millis(250);
    for (number, pause) in pauses.enumerate() {
        // The timer counts whole milliseconds.
        let range = most / 2..=most + Duration::from_millis(1);
        assert!(range.contains(&pause), "{number}: {pause:?}");
        most = (most * 2).min(Duration::from_secs(5));
    }
    assert!((14..30).contains(&asked.len()), "{}", asked.len());
    let begun = Instant::now();
    let failure = read(&redis, &key("main")).await.unwrap_err();
    assert_eq!(&*failure.reason, "it leads nowhere");
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_is_ended() {
    let route = Arc::new(Nowhere {
        hangs: true,
        ..Nowhere::default()
    });
    let begun = Instant::now();
    let redis = start(&route);
    let failure = until_down(&redis).await;
    assert_eq!(failure.fault, Fault::TimedOut);
    assert_eq!(begun.elapsed().as_secs(), 2);
    sleep(Duration::from_secs(10)).await;
    assert!(route.asked.lock().len() > 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_attempts_nothing_more() {
    let route = Arc::new(Nowhere::default());
    let redis = start(&route);
    until_down(&redis).await;
    drop(redis);
    // Its task ends with its next turn.
    sleep(Duration::from_millis(1)).await;
    assert_eq!(Arc::strong_count(&route), 1);
}
