//! Grants units to the requests that wait, in the order of turns, and has those reviewed that stay.
//!
//! Updates of the group do so, and the dispatcher does as time releases units. This task starts with the first request that waits
//! and ends with the last.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::time::sleep_until;

use super::group::{Deliveries, Group, GroupState, Waiter};
use crate::policy::{
    dealing::{Waits, deal},
    ledger::{AttemptKind, Ledger},
};

/// If it is unknown when the next unit is due, only an update wakes the dispatcher. This bounds its sleep all the same.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

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
        // The runtime has ended before the queue was empty. Those that wait on other runtimes start another dispatcher.
        if let Some(group) = &self.0 {
            group.dispatcher_stopped();
        }
    }
}

impl Group {
    /// Starts a dispatcher unless one runs or nothing is queued.
    pub(super) fn ensure_dispatcher(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if !state.queue.is_empty() && !std::mem::replace(&mut state.dispatching, true) {
            // Not under the lock: a runtime that shuts down drops the task at once, and its drop takes the lock.
            drop(state);
            Dispatcher::start(self.clone());
        }
    }

    /// Sees to it that there is a dispatcher while a request waits: one ends with the runtime on which it was started.
    pub(super) async fn keep_dispatched(self: &Arc<Self>) -> Infallible {
        loop {
            let gone = self.dispatcher_gone.notified();
            self.ensure_dispatcher();
            gone.await;
        }
    }

    /// Dispatches, and returns when to do so next; `None` if the queue is empty, so the dispatcher ends.
    pub(super) fn dispatch_due(self: &Arc<Self>) -> Option<Duration> {
        let now = self.now();
        let mut state = self.state.lock();
        let (deliveries, next) = self.dispatch(&mut state, now);
        let waits = !state.queue.is_empty();
        state.dispatching = waits;
        drop(state);
        deliver(deliveries);
        let longest = now.saturating_add(LONGEST_SLEEP);
        waits.then(|| next.map_or(longest, |next| next.min(longest)))
    }

    /// Sleeps until then or until the next update.
    pub(super) async fn sleep(&self, until: Duration) {
        tokio::select! {
            biased;
            () = self.changed.notified() => {}
            () = sleep_until(self.clock.instant(until)) => {}
        }
    }

    /// The dispatcher was dropped while requests still wait.
    pub(super) fn dispatcher_stopped(&self) {
        self.state.lock().dispatching = false;
        self.dispatcher_gone.notify_waiters();
    }

    /// Grants available units in the order of turns. Also returns when the next unit is due, if that is known.
    pub(super) fn dispatch(
        self: &Arc<Self>,
        state: &mut GroupState,
        now: Duration,
    ) -> (Deliveries, Option<Duration>) {
        let mut deliveries = Deliveries::new();
        self.hand_out_dealt(state, now, &mut deliveries);
        let GroupState { ledger, queue, .. } = &mut *state;
        let give = |waiter: Waiter, kind, grant| {
            let permit = self.permit(grant, kind, waiter.rules);
            deliveries.push((waiter.sender, Ok(permit)));
        };
        let grant = |ledger: &mut Ledger, waiter: &Waiter, kind| {
            let rules = self.wait_rules(&waiter.rules);
            rules.grant(ledger, kind, now)
        };
        let rest = deal(ledger, queue, (now, usize::MAX), grant, give);
        // After it, because who can go now is not refused.
        let review = self.review(state, rest.held_by_window, now, &mut deliveries);
        (deliveries, rest.next.into_iter().chain(review).min())
    }
}

impl Waits for Waiter {
    fn kind(&self) -> AttemptKind {
        self.kind
    }
}

pub(super) fn deliver(deliveries: Deliveries) {
    for (sender, result) in deliveries {
        // The receiver may have gone just now. Dropping the permit then returns it.
        let _ = sender.send(result);
    }
}
