//! The drain, as those who wait learn of it.

use std::time::Duration;

use tokio::sync::watch;

/// What a caller is told to wait when the gateway drains: another replica is up in this time, or none is.
pub const DRAIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Tells whoever waits that the gateway is about to stop.
#[derive(Clone)]
pub struct Draining(watch::Receiver<bool>);

impl Draining {
    /// The drain begins when the sender says `true`.
    pub fn new() -> (watch::Sender<bool>, Draining) {
        let (sender, receiver) = watch::channel(false);
        (sender, Draining(receiver))
    }

    /// Completes when the drain begins; never, when nobody is left to begin it.
    pub async fn begun(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|on| *on).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
