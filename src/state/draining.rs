//! Signals the drain to requests that wait.

use std::time::Duration;

use tokio::sync::watch;

/// The `Retry-After` of a request refused by the drain. If another replica takes over, it does so within this time.
pub const DRAIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whether the gateway drains.
#[derive(Clone)]
pub struct Draining(watch::Receiver<bool>);

impl Draining {
    /// The drain begins when `true` is sent.
    pub fn new() -> (watch::Sender<bool>, Draining) {
        let (sender, receiver) = watch::channel(false);
        (sender, Draining(receiver))
    }

    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Completes when the drain begins. If the sender is dropped, it never does.
    pub async fn begun(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|on| *on).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
