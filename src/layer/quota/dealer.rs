//! The task that deals out what time releases. It begins with the first who waits and ends with the last.

use std::sync::Arc;

use super::group::Group;

pub(super) struct Dealer {
    group: Arc<Group>,
    done: bool,
}

impl Dealer {
    pub fn start(group: Arc<Group>) {
        let mut dealer = Dealer { group, done: false };
        tokio::spawn(async move {
            while let Some(next) = dealer.group.deal_on() {
                dealer.group.sleep(next).await;
            }
            dealer.done = true;
        });
    }
}

impl Drop for Dealer {
    fn drop(&mut self) {
        // Its runtime has ended before its work: the next to wait starts another.
        if !self.done {
            self.group.not_dealt();
        }
    }
}
