//! Grants units to the requests that wait, in the order of turns, and refuses those that can no longer be served.
//!
//! Updates of the group do so, and the dispatcher does as time releases units. This task starts with the first request that waits
//! and ends with the last.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::time::sleep_until;

use super::{
    group::{Deliveries, Group, GroupState, Waiter},
    wait_rules::WaitRules,
};
use crate::{
    error::Error,
    policy::{
        fair::Standing,
        ledger::{AttemptKind, HoldReason, Settlement},
        operation::OperationId,
    },
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
        self.refuse_paused(state, now, &mut deliveries);
        // The window holds requests of this standing and after it, until then.
        let (mut held, mut until) = (None, None);
        loop {
            let gate = state.ledger.gate(now);
            let may_go = |waiter: &Waiter, standing: Standing| {
                held.is_none_or(|held| standing < held) && gate.hold(&waiter.kind).is_none()
            };
            let Some((waiter, standing)) = state.queue.peek_where(now, may_go) else {
                return (deliveries, gate.next().into_iter().chain(until).min());
            };
            let rules = waiter.rules;
            let kind = AttemptKind {
                standing,
                ..waiter.kind
            };
            let wait_rules = self.wait_rules(&rules);
            match wait_rules.grant(&mut state.ledger, kind, now) {
                Ok(grant) => match state.queue.take_where(now, may_go) {
                    Some(waiter) => {
                        let permit = self.permit(grant, kind, rules);
                        deliveries.push((waiter.sender, Ok(permit)));
                    }
                    // Not as a permit: dropped under the lock, that would deadlock.
                    None => {
                        let unsent = Settlement::Unsent;
                        state.ledger.settle(grant, unsent, &rules.ledger, now);
                    }
                },
                Err(hold) => {
                    if matches!(hold.reason, HoldReason::Spent | HoldReason::Spread) {
                        state.refuse_unservable(wait_rules, now, &mut deliveries);
                    }
                    held = Some(standing);
                    // Batch is held for less when it has aged.
                    let ages = (standing == Standing::Batch).then(|| state.queue.next_aged(now));
                    until = [until, hold.until, ages.flatten()]
                        .into_iter()
                        .flatten()
                        .min();
                }
            }
        }
    }

    /// Refuses requests whose deadline comes before the end of the pause that holds them.
    fn refuse_paused(&self, state: &mut GroupState, now: Duration, deliveries: &mut Deliveries) {
        let gate = state.ledger.gate(now);
        if gate.group_is_paused()
            && let Some(rules) = state.queue.peek(now).map(|waiter| waiter.rules)
        {
            state.refuse_unservable(self.wait_rules(&rules), now, deliveries);
        }
        if let Some((operation, until)) = gate.paused_operation() {
            self.refuse_operation(state, operation, until, now, deliveries);
        }
    }

    /// As `refuse_unservable`, for one operation that is paused until then. Looks through the queue once for each pause.
    fn refuse_operation(
        &self,
        state: &mut GroupState,
        operation: OperationId,
        until: Duration,
        now: Duration,
        deliveries: &mut Deliveries,
    ) {
        if state.earliest_of_operation == Some((operation, until)) {
            return;
        }
        state.earliest_of_operation = Some((operation, until));
        let servable =
            |waiter: &Waiter| waiter.kind.operation != operation || waiter.deadline >= until;
        for waiter in state.queue.retain(servable) {
            // The group may be held for longer.
            let rules = self.wait_rules(&waiter.rules);
            let behind = (waiter.kind.standing, 0);
            let retry_after = rules.predict_wait(&state.ledger, Some(operation), behind, now);
            deliveries.push((waiter.sender, Err(Error::QuotaExhausted { retry_after })));
        }
    }
}

pub(super) fn deliver(deliveries: Deliveries) {
    for (sender, result) in deliveries {
        // The receiver may have gone just now. Dropping the permit then returns it.
        let _ = sender.send(result);
    }
}

impl GroupState {
    /// Refuses requests whose deadline comes before the next unit, now and not at the deadline.
    fn refuse_unservable(&mut self, rules: WaitRules, now: Duration, deliveries: &mut Deliveries) {
        // For nobody it is less.
        let wait_behind = |standing, ahead| {
            let behind = (standing, ahead);
            rules.predict_wait(&self.ledger, None, behind, now)
        };
        let earliest = now.saturating_add(wait_behind(Standing::Interactive, 0));
        if earliest <= self.earliest_deadline {
            return;
        }
        self.earliest_deadline = earliest;
        let refused = self.queue.retain(|waiter| waiter.deadline >= earliest);
        // Each when its turn would be, if all of them come back.
        for (ahead, waiter) in (0..).zip(refused) {
            let retry_after = wait_behind(waiter.kind.standing, ahead);
            deliveries.push((waiter.sender, Err(Error::QuotaExhausted { retry_after })));
        }
    }
}
