//! One group: its ledger, and those who wait for it.
//!
//! With quota in plenty an attempt takes a lock, a number and goes. Only when it must wait is there a queue, and a task that
//! deals out what time releases; the task ends with the last who waits.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    super::{
        Clock,
        draining::{DRAIN_RETRY_AFTER, Draining},
    },
    dealer::Dealer,
    permit::Permit,
    room::{Place, Room},
};
use crate::{
    error::Error,
    policy::{
        fair::{Priority, Queue, Share, Ticket},
        feedback::Feedback,
        ledger::{Grant, HoldReason, Ledger, Settlement, View},
    },
    types::{Caller, QuotaRules},
};

pub struct Group {
    pub(super) name: Arc<str>,
    clock: Clock,
    room: Arc<Room>,
    state: Mutex<State>,
    /// Something has changed that the dealer sleeps through.
    changed: Notify,
}

struct State {
    ledger: Ledger,
    queue: Queue<Waiter>,
    /// A task deals out what time releases.
    dealt: bool,
    /// Nobody waits whose deadline is before this.
    told: Duration,
    seen: Duration,
}

struct Waiter {
    /// Of the plan that its request sees.
    rules: QuotaRules,
    deadline: Duration,
    tell: oneshot::Sender<Told>,
    #[allow(dead_code, reason = "held, not read")]
    place: Place,
}

/// What becomes of a wait.
type Told = Result<Permit, Error>;

/// To be sent when the lock is off: a permit that nobody takes any more goes back through it.
type Deals = Vec<(oneshot::Sender<Told>, Told)>;

/// Who asks, under which rules, since when, and until when it waits.
pub struct Asking {
    pub rules: QuotaRules,
    pub caller: Arc<Caller>,
    pub arrived: Instant,
    pub deadline: Instant,
}

/// With nothing known to come, only a change wakes the dealer; this bounds what a mistake in that would cost.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

impl Group {
    pub(super) fn new(name: Arc<str>, clock: Clock, room: Arc<Room>) -> Arc<Group> {
        Arc::new(Group {
            name,
            clock,
            room,
            state: Mutex::new(State {
                ledger: Ledger::default(),
                queue: Queue::default(),
                dealt: false,
                told: Duration::ZERO,
                seen: clock.now(),
            }),
            changed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Leave to send one attempt, if nobody waits and nothing stands against it.
    ///
    /// # Errors
    /// Why not.
    pub fn try_permit(self: &Arc<Self>, rules: &QuotaRules) -> Result<Permit, HoldReason> {
        let now = self.now();
        let mut state = self.state();
        state.seen = now;
        if state.queue.is_empty() {
            let grant = state.ledger.grant(&rules.ledger, now);
            return Ok(self.permit(grant.map_err(|hold| hold.reason)?, *rules));
        }
        Err(state
            .ledger
            .paused_until(now)
            .map_or(HoldReason::Spread, |_| HoldReason::Paused))
    }

    /// Waits for leave to send one attempt. Dropping it gives the place back, and what was granted.
    ///
    /// # Errors
    /// When the wait would be too long, or the room is full, or the gateway drains.
    pub async fn wait(
        self: &Arc<Self>,
        asking: Asking,
        draining: &Draining,
    ) -> Result<Permit, Error> {
        let (share, rules) = (&asking.caller.share, asking.rules);
        let deadline = self.clock.time_of(asking.deadline);
        let arrived = self.clock.time_of(asking.arrived);
        let wait = self.predict(share, (arrived, deadline), &rules);
        if self.now().saturating_add(wait) > deadline {
            return Err(Error::QuotaExhausted { retry_after: wait });
        }
        let Some(place) = self.room.enter(self, share, rules.max_waiting) else {
            return Err(Error::WaitingRoomFull { retry_after: wait });
        };
        let (tell, told) = oneshot::channel();
        let waiter = Waiter {
            rules,
            deadline,
            tell,
            place,
        };
        let ticket = self.act(|state, now| {
            let times = (arrived, deadline);
            state.told = state.told.min(deadline);
            state.queue.push(share, times, now, waiter)
        });
        let _leave = Leave {
            group: self,
            ticket,
        };
        self.have_dealt();
        tokio::select! {
            biased;
            // The sender goes only after it has sent.
            told = told => told.unwrap_or(Err(Error::Internal)),
            () = sleep_until(asking.deadline) => Err(Error::QuotaExhausted {
                retry_after: self.predict(share, (arrived, deadline), &rules),
            }),
            () = draining.begun() => Err(Error::Draining { retry_after: DRAIN_RETRY_AFTER }),
        }
    }

    /// How it stands, and how long a request of this share would wait that came now and waits so long at most.
    pub fn forecast(
        &self,
        share: &Share,
        patience: Duration,
        rules: &QuotaRules,
    ) -> (View, Duration) {
        let now = self.now();
        let times = (now, now.saturating_add(patience));
        (self.view(rules).0, self.predict(share, times, rules))
    }

    /// How long a request would wait that came at the first of these times and waits until the second at most.
    fn predict(&self, share: &Share, times: (Duration, Duration), rules: &QuotaRules) -> Duration {
        let now = self.now();
        let state = self.state();
        let wait = state
            .ledger
            .predict_wait(state.queue.ahead(share, times.0), &rules.ledger, now);
        if share.priority == Priority::Interactive {
            return wait;
        }
        // Passed over until it has aged, and then in the turns of those who are not.
        let ageing = state.queue.ageing(share, times, now);
        let aged = Share {
            priority: Priority::Interactive,
            weight: 1,
            ..share.clone()
        };
        let ahead = state.queue.ahead(&aged, times.0) + state.queue.batch_callers();
        wait.min(ageing.saturating_add(state.ledger.predict_wait(ahead, &rules.ledger, now)))
    }

    /// Does something that may let others go on, and deals out what it released.
    fn act<T>(self: &Arc<Self>, act: impl FnOnce(&mut State, Duration) -> T) -> T {
        let now = self.now();
        let mut state = self.state();
        let result = act(&mut state, now);
        if state.queue.is_empty() {
            return result;
        }
        let (deals, _) = self.deal(&mut state, now);
        drop(state);
        self.changed.notify_one();
        tell(deals);
        result
    }

    /// Gives those whose turn it is what may go, and says when more may.
    fn deal(self: &Arc<Self>, state: &mut State, now: Duration) -> (Deals, Option<Duration>) {
        let mut deals = Deals::new();
        while let Some(rules) = state.queue.peek(now).map(|waiter| waiter.rules) {
            match state.ledger.grant(&rules.ledger, now) {
                Ok(grant) => match state.queue.take(now) {
                    Some(waiter) => deals.push((waiter.tell, Ok(self.permit(grant, rules)))),
                    // Not as a permit: dropped under the lock, it would wait for the lock.
                    None => state
                        .ledger
                        .settle(grant, Settlement::Unsent, &rules.ledger, now),
                },
                Err(hold) => {
                    if matches!(hold.reason, HoldReason::Paused | HoldReason::Spent) {
                        state.refuse_the_hopeless(&rules, now, &mut deals);
                    }
                    return (deals, hold.until);
                }
            }
        }
        (deals, None)
    }

    fn permit(self: &Arc<Self>, grant: Grant, rules: QuotaRules) -> Permit {
        Permit::new(self.clone(), rules, grant)
    }

    /// Sees to it that somebody deals out what time releases.
    fn have_dealt(self: &Arc<Self>) {
        let mut state = self.state();
        if !state.queue.is_empty() && !std::mem::replace(&mut state.dealt, true) {
            // Not under the lock: a runtime that is ending drops the task on the spot, and the dealer's drop takes the lock.
            drop(state);
            Dealer::start(self.clone());
        }
    }

    /// Deals, and says when to deal next; `None` when nobody waits any more, and with it the dealer's work ends.
    pub fn deal_on(self: &Arc<Self>) -> Option<Duration> {
        let now = self.now();
        let mut state = self.state();
        let (deals, next) = self.deal(&mut state, now);
        let waits = !state.queue.is_empty();
        state.dealt = waits;
        drop(state);
        tell(deals);
        let longest = now.saturating_add(LONGEST_SLEEP);
        waits.then(|| next.map_or(longest, |next| next.min(longest)))
    }

    /// Until then, or until something changes.
    pub async fn sleep(&self, until: Duration) {
        tokio::select! {
            biased;
            () = self.changed.notified() => {}
            () = sleep_until(self.clock.instant(until)) => {}
        }
    }

    /// The dealer has gone before its work was done.
    pub fn not_dealt(&self) {
        self.state().dealt = false;
    }

    /// Makes the newest request of this caller give up its place.
    pub fn evict_newest(self: &Arc<Self>, caller: &Arc<str>) {
        let mut state = self.state();
        let Some(waiter) = state.queue.remove_newest(caller) else {
            return;
        };
        let ahead = state.queue.len() as u64;
        let retry_after = state
            .ledger
            .predict_wait(ahead, &waiter.rules.ledger, self.now());
        drop(state);
        let Waiter { tell, .. } = waiter;
        let _ = tell.send(Err(Error::WaitingRoomFull { retry_after }));
    }

    /// An attempt has ended.
    pub(super) fn settle(
        self: &Arc<Self>,
        grant: Grant,
        settlement: Settlement,
        rules: &QuotaRules,
    ) {
        self.act(|state, now| state.ledger.settle(grant, settlement, &rules.ledger, now));
    }

    /// Upstream asks for silence for so long.
    pub fn pause(self: &Arc<Self>, time: Duration) {
        self.act(|state, now| state.ledger.pause(now.saturating_add(time)));
    }

    /// See [`Ledger::attribute`].
    pub fn attribute(self: &Arc<Self>, feedback: &Feedback, rules: &QuotaRules) {
        self.act(|state, now| state.ledger.attribute(feedback, &rules.ledger, now));
    }

    pub fn resume(self: &Arc<Self>) {
        self.act(|state, _| state.ledger.resume());
    }

    pub fn view(&self, rules: &QuotaRules) -> (View, Vec<(Arc<str>, usize)>) {
        let state = self.state();
        let waiting = state.queue.waiting();
        let waiting = waiting.map(|(caller, count)| (caller.clone(), count));
        (
            state.ledger.view(&rules.ledger, self.now()),
            waiting.collect(),
        )
    }

    /// When it was asked last, and whether forgetting it would lose anything.
    pub fn idle(&self) -> (Duration, bool) {
        let state = self.state();
        let idle = state.queue.is_empty() && state.ledger.is_idle(self.now());
        (state.seen, idle)
    }
}

fn tell(deals: Deals) {
    for (tell, told) in deals {
        // Whoever left in this moment does not take it: a permit goes back as it is dropped.
        let _ = tell.send(told);
    }
}

impl State {
    /// Whoever cannot wait as long as upstream's time is told so at once, not when its patience ends.
    fn refuse_the_hopeless(&mut self, rules: &QuotaRules, now: Duration, deals: &mut Deals) {
        let retry_after = self.ledger.predict_wait(0, &rules.ledger, now);
        let earliest = now.saturating_add(retry_after);
        if earliest <= self.told {
            return;
        }
        self.told = earliest;
        for waiter in self.queue.retain(|waiter| waiter.deadline >= earliest) {
            deals.push((waiter.tell, Err(Error::QuotaExhausted { retry_after })));
        }
    }
}

/// Takes whoever waited out of the queue, however the wait ended.
struct Leave<'a> {
    group: &'a Arc<Group>,
    ticket: Ticket,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut state = self.group.state();
        let waiter = state.queue.remove(&self.ticket);
        let last = state.queue.is_empty();
        drop(state);
        drop(waiter);
        if last {
            // The dealer has nothing left to do.
            self.group.changed.notify_one();
        }
    }
}
