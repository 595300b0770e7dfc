//! The task that grants units as time releases them. It starts with the first request that waits and ends with the last.

use std::sync::Arc;

use super::group::Group;

/// Holds its group while there is work to do.
pub(super) struct Dispatcher(Option<Arc<Group>>);

impl Dispatcher {
    pub(super) fn start(group: Arc<Group>) {
        tokio::spawn(Dispatcher(Some(group)).run());
    }

    async fn run(mut self) {
        while let Some(group) = &self.0 {
            match group.dispatch_due() {
                Some(next) => group.sleep(next).await,
                None => self.0 = None,
            }
        }
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        // The runtime has ended before the queue was empty. The next request that waits starts another dispatcher.
        if let Some(group) = &self.0 {
            group.dispatcher_stopped();
        }
    }
}
