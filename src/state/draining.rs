//! Tells requests that wait that the gateway drains, and until when they may wait.

use std::{future::Future, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::error::Error;

/// The `Retry-After` of a request refused by the drain. If another replica takes over, it does so within this time.
const DRAIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Waits end this long before the drain does, or a quarter of a short one, so that whoever is served or refused at the last moment
/// gets the answer: a call takes a fraction of a second.
const ANSWER_TIME: Duration = Duration::from_secs(1);

const REFUSAL: Error = Error::Draining {
    retry_after: DRAIN_RETRY_AFTER,
};

/// Begins the drain.
pub struct Drain(watch::Sender<Option<Instant>>);

/// Whether the gateway drains, and when waits end.
#[derive(Clone)]
pub struct Draining(watch::Receiver<Option<Instant>>);

impl Drain {
    /// The drain ends after this time. Only the first call has an effect.
    pub fn begin(&self, timeout: Duration) {
        let time = timeout.saturating_sub(ANSWER_TIME.min(timeout / 4));
        self.0.send_if_modified(|end| {
            let begins = end.is_none();
            end.get_or_insert_with(|| Instant::now() + time);
            begins
        });
    }
}

impl Draining {
    pub fn new() -> (Drain, Draining) {
        let (sender, receiver) = watch::channel(None);
        (Drain(sender), Draining(receiver))
    }

    pub fn has_begun(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Completes when the drain begins. If [`Drain`] is dropped before, it never does.
    pub async fn begun(&self) {
        self.waits_end().await;
    }

    /// Completes when the drain begins, with the time at which waits end.
    async fn waits_end(&self) -> Instant {
        let mut receiver = self.0.clone();
        let end = receiver.wait_for(Option::is_some).await.map(|end| *end);
        match end {
            Ok(Some(end)) => end,
            _ => std::future::pending().await,
        }
    }

    /// Runs a wait. It goes on in a drain, until waits end.
    ///
    /// # Errors
    /// When that comes first.
    pub async fn bound<T>(&self, wait: impl Future<Output = T>) -> Result<T, Error> {
        self.bound_by(wait, |_| true).await
    }

    /// As [`Draining::bound`]. When the drain begins, `servable` says whether the wait will probably be over by the time at which waits
    /// end. If not, it ends at once.
    ///
    /// # Errors
    /// When it ends because of the drain.
    pub async fn bound_by<T>(
        &self,
        wait: impl Future<Output = T>,
        servable: impl FnOnce(Instant) -> bool,
    ) -> Result<T, Error> {
        let over = async {
            let end = self.waits_end().await;
            if servable(end) {
                sleep_until(end).await;
            }
        };
        tokio::select! {
            biased;
            result = wait => Ok(result),
            () = over => Err(REFUSAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn is_refused<T>(result: &Result<T, Error>) -> bool {
        matches!(result, Err(Error::Draining { .. }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_goes_on_in_a_drain_until_there_is_just_time_to_answer() {
        for (timeout, ends) in [(SECOND * 25, SECOND * 24), (SECOND, SECOND * 3 / 4)] {
            let (drain, draining) = Draining::new();
            let start = Instant::now();
            drain.begin(timeout);
            drain.begin(Duration::ZERO);
            assert!(draining.bound(sleep(ends)).await.is_ok());
            assert!(is_refused(&draining.bound(pending::<()>()).await));
            assert_eq!(start.elapsed(), ends);
            // What needs no wait is served later too.
            assert!(draining.bound(ready(())).await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_will_not_be_over_ends_when_the_drain_begins() {
        let (drain, draining) = Draining::new();
        let start = Instant::now();
        let late = start + SECOND * 30;
        let wait = draining.bound_by(pending::<()>(), |end| late <= end);
        let (refused, ()) = tokio::join!(wait, async {
            sleep(SECOND).await;
            drain.begin(SECOND * 10);
        });
        assert!(is_refused(&refused));
        assert_eq!(start.elapsed(), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_drain_a_wait_ends_by_itself() {
        let (drain, draining) = Draining::new();
        drop(drain);
        assert!(draining.bound(sleep(SECOND * 1000)).await.is_ok());
    }
}
