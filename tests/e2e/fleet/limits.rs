//! A caller's own limit over the fleet: any time T lets through at most burst + rate × (T + 5 s).

use futures_util::future::join_all;
use tokio::time::{Duration, Instant};

use super::{Fleet, LIMITED, window};
use crate::http::Answer;

#[tokio::test]
async fn a_caller_keeps_its_rate_over_all_replicas() {
    let fleet = Fleet::new(3, "", window(4000, 300)).await;
    let began = Instant::now();
    let mut answers: Vec<Answer> = Vec::new();
    // Far more than it may, at all replicas.
    while began.elapsed() < Duration::from_secs(4) {
        answers.extend(join_all((0..9).map(|n| fleet.call(n % 3, LIMITED, 0))).await);
    }
    let took = began.elapsed().as_secs_f64();
    let (passed, refused): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.status == 200);
    // A burst of 4 and 2/s.
    let most = 4.0 + 2.0 * (took + 5.0);
    assert!(
        (passed.len() as f64) <= most,
        "{} in {took} s",
        passed.len()
    );
    assert!(
        passed.len() as f64 >= 4.0 + 2.0 * (took - 2.0),
        "{} in {took} s",
        passed.len()
    );
    for answer in &refused {
        assert_eq!(answer.code(), "caller_rate_limited", "{answer:?}");
        let after: u64 = answer
            .header("retry-after")
            .expect("a time")
            .parse()
            .unwrap();
        assert!((1..=10).contains(&after), "{answer:?}");
        let limit = answer.header("ratelimit").expect("RateLimit");
        assert!(limit.contains(";r=0"), "{limit}");
    }
    crate::redis::report(
        &format!("{} passed of {}", passed.len(), answers.len()),
        began.elapsed(),
    );
    fleet.assert_well().await;

    // Whoever waits as long as it is told is served, and by another replica.
    let Some(last) = refused.last() else {
        panic!("nothing was refused");
    };
    let after: u64 = last.header("retry-after").expect("a time").parse().unwrap();
    tokio::time::sleep(Duration::from_secs(after)).await;
    assert_eq!(fleet.call(1, LIMITED, 0).await.status, 200);
}
