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
    super::{Clock, draining::Draining},
    dispatcher::deliver,
    fleet::{self, CallerKeys, Fleet, Membership},
    judge::Reviewed,
    permit::Permit,
    story::{self, Story},
    used::UsedUnits,
    wait_rules::WaitRules,
    waiting_room::{Slot, WaitingRoom},
};
use crate::{
    error::Error,
    lock::Lock,
    plan::QuotaPlan,
    policy::{
        fair::{Queue, Ticket, newcomer},
        fleet::Lease,
        ledger::{AttemptKind, Grant, HoldReason, Ledger, LedgerRules, View},
    },
    telemetry::client_lines::ClientLines,
    types::{Caller, QuotaRules},
};

/// An answer takes less, unless DevRev is slow; then more attempts go beside the first after a second, and one of these may tell.
const LEARNING_TIME: Duration = Duration::from_millis(1500);

pub(crate) struct Group {
    pub(super) name: Arc<str>,
    pub(super) clock: Clock,
    waiting_room: Arc<WaitingRoom>,
    /// The latest plan.
    planned: Arc<ArcSwap<QuotaPlan>>,
    pub(super) state: Lock<GroupState>,
    /// Wakes the dispatcher early.
    pub(super) changed: Notify,
    /// Wakes those that wait when their dispatcher has ended before the last of them.
    pub(super) dispatcher_gone: Notify,
    /// Decides which lines of the log are written.
    pub(super) lines: Arc<ClientLines>,
    /// In a fleet.
    pub(super) membership: Option<Membership>,
}

pub(super) struct GroupState {
    pub(super) ledger: Ledger,
    pub(super) queue: Queue<Waiter>,
    /// Whether a dispatcher runs.
    pub(super) dispatching: bool,
    pub(super) reviewed: Reviewed,
    last_used: Duration,
    pub(super) story: Story,
    used: UsedUnits,
    pub(super) keys: CallerKeys,
}

pub(super) struct Waiter {
    pub(super) kind: AttemptKind,
    /// From the plan that its request sees.
    pub(super) rules: QuotaRules,
    pub(super) deadline: Duration,
    pub(super) sender: oneshot::Sender<WaitResult>,
    #[allow(dead_code, reason = "held, not read")]
    slot: Slot,
}

/// How a wait ends.
pub(super) type WaitResult = Result<Permit, Error>;

/// Results to send after the lock is released: a permit whose receiver has gone is dropped, and dropping it takes the lock.
pub(super) type Deliveries = Vec<(oneshot::Sender<WaitResult>, WaitResult)>;

/// A request that waits for quota.
pub(crate) struct WaitRequest {
    pub kind: AttemptKind,
    pub rules: QuotaRules,
    pub caller: Arc<Caller>,
    pub arrived: Instant,
    pub deadline: Instant,
}

impl Group {
    pub(super) fn new(
        name: Arc<str>,
        clock: Clock,
        waiting_room: Arc<WaitingRoom>,
        planned: Arc<ArcSwap<QuotaPlan>>,
        lines: Arc<ClientLines>,
        fleet: Option<&Fleet>,
    ) -> Arc<Group> {
        Arc::new(Group {
            name,
            clock,
            waiting_room,
            planned,
            state: Lock::new(GroupState {
                ledger: fleet::ledger(fleet),
                queue: Queue::default(),
                dispatching: false,
                reviewed: Reviewed::default(),
                last_used: clock.now(),
                story: Story::default(),
                used: UsedUnits::default(),
                keys: CallerKeys::of(fleet),
            }),
            changed: Notify::new(),
            dispatcher_gone: Notify::new(),
            lines,
            membership: fleet.map(Membership::new),
        })
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    pub(super) fn wait_rules(&self, own: &QuotaRules) -> WaitRules {
        WaitRules::new(own.ledger, self.planned_rules())
    }

    /// The latest plan.
    pub(super) fn planned(&self) -> Arc<QuotaPlan> {
        self.planned.load_full()
    }

    /// Of the latest plan.
    pub(super) fn planned_rules(&self) -> LedgerRules {
        self.planned.load().rules.ledger
    }

    /// A permit for one attempt, if the ledger grants it and nothing is queued that may go before it.
    ///
    /// # Errors
    /// Why the attempt must wait.
    pub(crate) fn try_permit(
        self: &Arc<Self>,
        kind: AttemptKind,
        rules: &QuotaRules,
    ) -> Result<Permit, HoldReason> {
        let now = self.now();
        let mut state = self.state.lock();
        state.last_used = now;
        if !state.queue.is_empty() {
            let gate = state.ledger.gate(now);
            if let Some(hold) = gate.hold(&kind) {
                return Err(hold.reason);
            }
            let may_go = |waiter: &Waiter| gate.hold(&waiter.kind).is_none();
            if state
                .queue
                .any_before(kind.standing.priority(), now, may_go)
            {
                return Err(HoldReason::Spread);
            }
        }
        let grant = state.ledger.grant(kind, &rules.ledger, now);
        self.call_driver(&state);
        Ok(self.permit(grant.map_err(|hold| hold.reason)?, kind, *rules))
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
        let (share, kind, rules) = (&request.caller.share, request.kind, request.rules);
        let until = self.until(request.deadline);
        let deadline = self.clock.time_of(until);
        let arrived = self.clock.time_of(request.arrived);
        let times = (newcomer(arrived), deadline);
        let wait = self.predict(share, times, kind, &rules);
        let judged = self.knows_enough();
        if judged && self.now().saturating_add(wait) > deadline {
            return Err(Error::QuotaExhausted { retry_after: wait });
        }
        let Some(slot) = self.waiting_room.enter(self, share, rules.max_waiting) else {
            return Err(Error::WaitingRoomFull { retry_after: wait });
        };
        let (sender, receiver) = oneshot::channel();
        let waiter = Waiter {
            kind,
            rules,
            deadline,
            sender,
            slot,
        };
        let ticket =
            self.update(|state, now| state.queue.push(share, (arrived, deadline), now, waiter));
        self.begins_to_wait();
        let times = (ticket.position(), deadline);
        let _guard = QueueGuard {
            group: self,
            ticket,
        };
        let forecast = || self.predict(share, times, kind, &rules);
        let wait = async {
            tokio::select! {
                biased;
                // The sender is dropped only after it has sent.
                result = receiver => result.unwrap_or(Err(Error::Internal)),
                () = sleep_until(until) => Err(Error::QuotaExhausted {
                    retry_after: forecast(),
                }),
                never = self.keep_dispatched() => match never {},
            }
        };
        let servable = |end| self.clock.instant(self.now().saturating_add(forecast())) <= end;
        draining.bound_by(wait, servable).await?
    }

    /// Whether what is known here tells how long a newcomer waits. What a replica of a fleet heard a while ago does not; it asks first.
    fn knows_enough(&self) -> bool {
        let state = self.state.lock();
        let lease = state.ledger.supply();
        lease.is_none_or(|lease| lease.is_informed(self.now()))
    }

    /// Until when a request with this deadline waits. While an answer is awaited that tells the window, or the fleet is asked, one that
    /// does not wait for quota waits a moment all the same: it is not known that there is none.
    fn until(&self, deadline: Instant) -> Instant {
        let state = self.state.lock();
        let learning = state.ledger.is_learning().then_some(LEARNING_TIME);
        let asking = state.ledger.supply().and_then(Lease::asks_after);
        drop(state);
        let exchange = self.membership.as_ref().map(Membership::timeout);
        let asking = asking.zip(exchange).map(|(after, takes)| after + takes);
        let moment = learning.max(asking).map(|time| Instant::now() + time);
        moment.map_or(deadline, |moment| deadline.max(moment))
    }

    /// Applies a change that may release units, and grants those to the queue.
    pub(super) fn update<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut GroupState, Duration) -> T,
    ) -> T {
        let now = self.now();
        let mut state = self.state.lock();
        let result = change(&mut state, now);
        self.call_driver(&state);
        if state.queue.is_empty() {
            return result;
        }
        let (deliveries, _) = self.dispatch(&mut state, now);
        self.call_driver(&state);
        drop(state);
        self.changed.notify_one();
        deliver(deliveries);
        result
    }

    pub(super) fn permit(
        self: &Arc<Self>,
        grant: Grant,
        kind: AttemptKind,
        rules: QuotaRules,
    ) -> Permit {
        Permit::new(self.clone(), kind, rules, grant)
    }

    /// The latest plan has changed.
    pub(super) fn replanned(self: &Arc<Self>) {
        self.update(|state, _| state.ledger.rules_changed());
    }

    /// See [`Ledger::resume`].
    pub(crate) fn resume(self: &Arc<Self>) {
        self.update(|state, _| state.ledger.resume());
        story::log_resumed_by_hand(&self.name);
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

    /// A unit of the current window is this caller's.
    pub(super) fn count_use(&self, caller: &Arc<str>) {
        let mut state = self.state.lock();
        let window = state.ledger.window_id();
        state.used.add(caller, window);
    }

    /// The units of the current window by caller, `own` of them in all.
    pub(super) fn used(&self, own: u64) -> Vec<(Arc<str>, u64)> {
        let state = self.state.lock();
        state.used.of(state.ledger.window_id(), own)
    }

    /// When the group was last used, and whether it can be dropped without losing anything that holds attempts.
    pub(super) fn idle(&self) -> (Duration, bool) {
        let state = self.state.lock();
        let idle = state.queue.is_empty() && state.ledger.is_idle(self.now());
        (state.last_used, idle)
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
