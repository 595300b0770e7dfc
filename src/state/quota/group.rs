//! One group: its ledger and its queue.
//!
//! While quota is plentiful, an attempt takes the lock once and is sent. Only when attempts must wait is there a queue and a
//! dispatcher, the task that grants units as time releases them. It ends with the last request that waits.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    super::{
        Clock,
        draining::{DRAIN_RETRY_AFTER, Draining},
    },
    dispatcher::Dispatcher,
    permit::Permit,
    wait_rules::WaitRules,
    waiting_room::{Slot, WaitingRoom},
};
use crate::{
    error::Error,
    lock::Lock,
    plan::QuotaPlan,
    policy::{
        fair::{Priority, Queue, Share, Ticket},
        feedback::Feedback,
        ledger::{Grant, HoldReason, Ledger, Settlement, View},
    },
    types::{Caller, QuotaRules},
};

pub(crate) struct Group {
    pub(super) name: Arc<str>,
    clock: Clock,
    waiting_room: Arc<WaitingRoom>,
    /// The latest plan.
    planned: Arc<ArcSwap<QuotaPlan>>,
    state: Lock<GroupState>,
    /// Wakes the dispatcher early.
    changed: Notify,
}

struct GroupState {
    ledger: Ledger,
    queue: Queue<Waiter>,
    /// Whether a dispatcher runs.
    dispatching: bool,
    /// Lower bound of the deadlines in the queue.
    earliest_deadline: Duration,
    last_used: Duration,
}

struct Waiter {
    /// From the plan that its request sees.
    rules: QuotaRules,
    deadline: Duration,
    sender: oneshot::Sender<WaitResult>,
    #[allow(dead_code, reason = "held, not read")]
    slot: Slot,
}

/// How a wait ends.
type WaitResult = Result<Permit, Error>;

/// Results to send after the lock is released: a permit whose receiver has gone is dropped, and dropping it takes the lock.
type Deliveries = Vec<(oneshot::Sender<WaitResult>, WaitResult)>;

/// A request that waits for quota.
pub(crate) struct WaitRequest {
    pub rules: QuotaRules,
    pub caller: Arc<Caller>,
    pub arrived: Instant,
    pub deadline: Instant,
}

/// If it is unknown when the next unit is due, only an update wakes the dispatcher. This bounds its sleep all the same.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

impl Group {
    pub(super) fn new(
        name: Arc<str>,
        clock: Clock,
        waiting_room: Arc<WaitingRoom>,
        planned: Arc<ArcSwap<QuotaPlan>>,
    ) -> Arc<Group> {
        Arc::new(Group {
            name,
            clock,
            waiting_room,
            planned,
            state: Lock::new(GroupState {
                ledger: Ledger::default(),
                queue: Queue::default(),
                dispatching: false,
                earliest_deadline: Duration::ZERO,
                last_used: clock.now(),
            }),
            changed: Notify::new(),
        })
    }

    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn wait_rules(&self, own: &QuotaRules) -> WaitRules {
        WaitRules::new(own.ledger, self.planned.load().rules.ledger)
    }

    /// A permit for one attempt, if nothing is queued and the ledger grants it.
    ///
    /// # Errors
    /// Why the attempt must wait.
    pub(crate) fn try_permit(self: &Arc<Self>, rules: &QuotaRules) -> Result<Permit, HoldReason> {
        let now = self.now();
        let mut state = self.state.lock();
        state.last_used = now;
        if state.queue.is_empty() {
            let grant = state.ledger.grant(&rules.ledger, now);
            return Ok(self.permit(grant.map_err(|hold| hold.reason)?, *rules));
        }
        Err(state
            .ledger
            .paused_until(now)
            .map_or(HoldReason::Spread, |_| HoldReason::Paused))
    }

    /// Waits for a permit for one attempt. Dropping the future leaves the queue and returns the slot and any grant.
    ///
    /// # Errors
    /// If the wait would exceed the deadline, the waiting room is full, or the gateway drains.
    pub(crate) async fn wait(
        self: &Arc<Self>,
        request: WaitRequest,
        draining: &Draining,
    ) -> Result<Permit, Error> {
        let (share, rules) = (&request.caller.share, request.rules);
        let deadline = self.clock.time_of(request.deadline);
        let arrived = self.clock.time_of(request.arrived);
        let wait = self.predict(share, (arrived, deadline), &rules);
        if self.now().saturating_add(wait) > deadline {
            return Err(Error::QuotaExhausted { retry_after: wait });
        }
        let Some(slot) = self.waiting_room.enter(self, share, rules.max_waiting) else {
            return Err(Error::WaitingRoomFull { retry_after: wait });
        };
        let (sender, receiver) = oneshot::channel();
        let waiter = Waiter {
            rules,
            deadline,
            sender,
            slot,
        };
        let ticket = self.update(|state, now| {
            let times = (arrived, deadline);
            state.earliest_deadline = state.earliest_deadline.min(deadline);
            state.queue.push(share, times, now, waiter)
        });
        let _guard = QueueGuard {
            group: self,
            ticket,
        };
        self.ensure_dispatcher();
        tokio::select! {
            biased;
            // The sender is dropped only after it has sent.
            result = receiver => result.unwrap_or(Err(Error::Internal)),
            () = sleep_until(request.deadline) => Err(Error::QuotaExhausted {
                retry_after: self.predict(share, (arrived, deadline), &rules),
            }),
            () = draining.begun() => Err(Error::Draining { retry_after: DRAIN_RETRY_AFTER }),
        }
    }

    /// A snapshot, and the expected wait of a request with this share that arrives now and waits `max_wait` at most.
    pub(crate) fn forecast(
        &self,
        share: &Share,
        max_wait: Duration,
        rules: &QuotaRules,
    ) -> (View, Duration) {
        let now = self.now();
        let times = (now, now.saturating_add(max_wait));
        (self.view(rules).0, self.predict(share, times, rules))
    }

    /// The expected wait of a request with these times of arrival and deadline.
    fn predict(&self, share: &Share, times: (Duration, Duration), rules: &QuotaRules) -> Duration {
        let now = self.now();
        let rules = self.wait_rules(rules);
        let state = self.state.lock();
        let wait = rules.predict_wait(&state.ledger, state.queue.ahead(share, times.0), now);
        if share.priority == Priority::Interactive {
            return wait;
        }
        // A batch request is passed over until it has aged, and then takes turns with interactive ones.
        let ageing_wait = state.queue.ageing_wait(share, times, now);
        let aged = Share {
            priority: Priority::Interactive,
            weight: 1,
            ..share.clone()
        };
        let ahead = state.queue.ahead(&aged, times.0) + state.queue.batch_callers();
        wait.min(ageing_wait.saturating_add(rules.predict_wait(&state.ledger, ahead, now)))
    }

    /// Applies a change that may release units, and grants those to the queue.
    fn update<T>(self: &Arc<Self>, change: impl FnOnce(&mut GroupState, Duration) -> T) -> T {
        let now = self.now();
        let mut state = self.state.lock();
        let result = change(&mut state, now);
        if state.queue.is_empty() {
            return result;
        }
        let (deliveries, _) = self.dispatch(&mut state, now);
        drop(state);
        self.changed.notify_one();
        deliver(deliveries);
        result
    }

    /// Grants available units in the order of turns. Also returns when the next unit is due, if that is known.
    fn dispatch(
        self: &Arc<Self>,
        state: &mut GroupState,
        now: Duration,
    ) -> (Deliveries, Option<Duration>) {
        let mut deliveries = Deliveries::new();
        while let Some(rules) = state.queue.peek(now).map(|waiter| waiter.rules) {
            let wait_rules = self.wait_rules(&rules);
            match wait_rules.grant(&mut state.ledger, now) {
                Ok(grant) => match state.queue.take(now) {
                    Some(waiter) => deliveries.push((waiter.sender, Ok(self.permit(grant, rules)))),
                    // Not as a permit: dropped under the lock, that would deadlock.
                    None => state
                        .ledger
                        .settle(grant, Settlement::Unsent, &rules.ledger, now),
                },
                Err(hold) => {
                    if matches!(hold.reason, HoldReason::Paused | HoldReason::Spent) {
                        state.refuse_unservable(wait_rules, now, &mut deliveries);
                    }
                    return (deliveries, hold.until);
                }
            }
        }
        (deliveries, None)
    }

    fn permit(self: &Arc<Self>, grant: Grant, rules: QuotaRules) -> Permit {
        Permit::new(self.clone(), rules, grant)
    }

    /// Starts a dispatcher unless one runs or nothing is queued.
    fn ensure_dispatcher(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if !state.queue.is_empty() && !std::mem::replace(&mut state.dispatching, true) {
            // Not under the lock: a runtime that shuts down drops the task at once, and its drop takes the lock.
            drop(state);
            Dispatcher::start(self.clone());
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
    }

    /// Ends the wait of this caller's newest request, to free its slot.
    pub(super) fn evict_newest(self: &Arc<Self>, caller: &Arc<str>) {
        let mut state = self.state.lock();
        let Some(waiter) = state.queue.remove_newest(caller) else {
            return;
        };
        let ahead = state.queue.len() as u64;
        let rules = self.wait_rules(&waiter.rules);
        let retry_after = rules.predict_wait(&state.ledger, ahead, self.now());
        drop(state);
        let Waiter { sender, .. } = waiter;
        let _ = sender.send(Err(Error::WaitingRoomFull { retry_after }));
    }

    /// See [`Ledger::settle`].
    pub(super) fn settle(
        self: &Arc<Self>,
        grant: Grant,
        settlement: Settlement,
        rules: &QuotaRules,
    ) {
        self.update(|state, now| state.ledger.settle(grant, settlement, &rules.ledger, now));
    }

    /// Pauses the group for this long; see [`Ledger::pause`].
    pub(crate) fn pause(self: &Arc<Self>, time: Duration) {
        self.update(|state, now| state.ledger.pause(now.saturating_add(time)));
    }

    /// See [`Ledger::attribute`].
    pub(crate) fn attribute(self: &Arc<Self>, feedback: &Feedback, rules: &QuotaRules) {
        self.update(|state, now| state.ledger.attribute(feedback, &rules.ledger, now));
    }

    /// The latest plan has changed.
    pub(super) fn replanned(self: &Arc<Self>) {
        self.update(|_, _| ());
    }

    /// See [`Ledger::resume`].
    pub(crate) fn resume(self: &Arc<Self>) {
        self.update(|state, _| state.ledger.resume());
    }

    /// A snapshot of the ledger, and how many requests wait by caller.
    pub(crate) fn view(&self, rules: &QuotaRules) -> (View, Vec<(Arc<str>, usize)>) {
        let state = self.state.lock();
        let waiting = state.queue.waiting();
        let waiting = waiting.map(|(caller, count)| (caller.clone(), count));
        (
            state.ledger.view(&rules.ledger, self.now()),
            waiting.collect(),
        )
    }

    /// When the group was last used, and whether it can be dropped without losing anything that holds attempts.
    pub(super) fn idle(&self) -> (Duration, bool) {
        let state = self.state.lock();
        let idle = state.queue.is_empty() && state.ledger.is_idle(self.now());
        (state.last_used, idle)
    }
}

fn deliver(deliveries: Deliveries) {
    for (sender, result) in deliveries {
        // The receiver may have gone just now. Dropping the permit then returns it.
        let _ = sender.send(result);
    }
}

impl GroupState {
    /// Refuses requests whose deadline comes before the next unit, now and not at the deadline.
    fn refuse_unservable(&mut self, rules: WaitRules, now: Duration, deliveries: &mut Deliveries) {
        let retry_after = rules.predict_wait(&self.ledger, 0, now);
        let earliest = now.saturating_add(retry_after);
        if earliest <= self.earliest_deadline {
            return;
        }
        self.earliest_deadline = earliest;
        for waiter in self.queue.retain(|waiter| waiter.deadline >= earliest) {
            deliveries.push((waiter.sender, Err(Error::QuotaExhausted { retry_after })));
        }
    }
}

/// Removes a waiter from the queue when its wait ends, in whatever way.
struct QueueGuard<'a> {
    group: &'a Arc<Group>,
    ticket: Ticket,
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.group.state.lock();
        let waiter = state.queue.remove(&self.ticket);
        let last = state.queue.is_empty();
        drop(state);
        drop(waiter);
        if last {
            // So that the dispatcher ends.
            self.group.changed.notify_one();
        }
    }
}
