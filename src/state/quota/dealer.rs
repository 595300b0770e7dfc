//! The task that deals out what time releases. It begins with the first who waits and ends with the last.

use std::sync::Arc;

use super::group::Group;

/// Holds its group until its work is done.
pub(super) struct Dealer(Option<Arc<Group>>);

impl Dealer {
    pub fn start(group: Arc<Group>) {
        tokio::spawn(Dealer(Some(group)).run());
    }

    async fn run(mut self) {
        while let Some(group) = &self.0 {
            match group.deal_on() {
                Some(next) => group.sleep(next).await,
                None => self.0 = None,
            }
        }
    }
}

impl Drop for Dealer {
    fn drop(&mut self) {
        // Its runtime has ended before its work: the next to wait starts another.
        if let Some(group) = &self.0 {
            group.not_dealt();
        }
    }
}
