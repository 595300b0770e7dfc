//! Bounded things that callers share, dealt out by `policy::allocator`: places in flight, connections, bytes in memory, introspections.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use http::Extensions;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::{
    body::Guard,
    error::Error,
    lock::Lock,
    policy::allocator::{Allocator, Claim, Ticket},
};

/// Bytes that large heads of requests may take, all together: incomplete ones, and those of requests that hold a place. What usual calls
/// need of it is nothing, so it is for the rare caller with heads of many KiB; unknown clients share half of it.
pub const HEADS: u64 = 8 * 1024 * 1024;

/// Bytes that heads of HTTP/2 may take from when they are read until their requests are first looked at. It is held for a moment, and waited
/// for in turn.
pub const DECODING: u64 = 8 * 1024 * 1024;

/// Bytes of a head that draw on nothing, because what every connection and every place may cost includes them.
pub const FREE_HEAD: usize = 8 * 1024;

/// A bounded thing. Its capacity comes with each call, since a reload may change it.
pub struct Pool {
    /// The zero of the allocator's time.
    start: Instant,
    state: Lock<PoolState>,
}

#[derive(Default)]
struct PoolState {
    allocator: Allocator,
    /// What the latest call said.
    capacity: u64,
    waiters: BTreeMap<Ticket, Waiter>,
}

struct Waiter {
    claim: Claim,
    units: u64,
    sender: oneshot::Sender<Allocation>,
}

impl Pool {
    /// Nothing of it is taken.
    pub fn new() -> Arc<Pool> {
        Arc::new(Pool {
            start: Instant::now(),
            state: Lock::default(),
        })
    }

    /// Units that are taken.
    pub fn used(&self) -> u64 {
        self.state.lock().allocator.used()
    }

    /// How many units this claim finds free; 0 if it may take none of them.
    pub fn free_for(&self, capacity: u64, claim: &Claim) -> u64 {
        self.state.lock().allocator.free_for(capacity, claim)
    }

    /// Takes units without waiting.
    pub fn try_take(
        self: &Arc<Self>,
        capacity: u64,
        claim: &Claim,
        units: u64,
    ) -> Option<Allocation> {
        let mut state = self.state.lock();
        state.capacity = capacity;
        let taken = state.allocator.try_take(capacity, claim, units);
        taken.then(|| self.allocation(claim.clone(), units))
    }

    /// Takes units in turn; `None` if none are free by then. Dropping the future leaves the queue. Whoever calls bounds how many wait.
    pub async fn take(
        self: &Arc<Self>,
        capacity: u64,
        claim: &Claim,
        units: u64,
        until: Instant,
    ) -> Option<Allocation> {
        let (sender, receiver) = oneshot::channel();
        let _waiting = {
            let mut state = self.state.lock();
            state.capacity = capacity;
            if state.allocator.try_take(capacity, claim, units) {
                return Some(self.allocation(claim.clone(), units));
            }
            let times = (
                self.start.elapsed(),
                until.saturating_duration_since(self.start),
            );
            let ticket = state.allocator.wait(claim, units, times);
            let waiter = Waiter {
                claim: claim.clone(),
                units,
                sender,
            };
            state.waiters.insert(ticket.clone(), waiter);
            Waiting { pool: self, ticket }
        };
        timeout_at(until, receiver).await.ok()?.ok()
    }

    /// There are so many units from now on. Those who wait get what is free.
    pub fn resize(self: &Arc<Self>, capacity: u64) {
        self.update(|state| state.capacity = capacity);
    }

    fn allocation(self: &Arc<Self>, claim: Claim, units: u64) -> Allocation {
        Allocation {
            pool: self.clone(),
            claim,
            units: AtomicU64::new(units),
            parked: AtomicBool::new(false),
        }
    }

    /// Applies a change that may free units, and gives them to those who wait.
    fn update(self: &Arc<Self>, change: impl FnOnce(&mut PoolState)) {
        let mut turns = Vec::new();
        {
            let mut state = self.state.lock();
            change(&mut state);
            let capacity = state.capacity;
            while !state.waiters.is_empty()
                && let Some(ticket) = state.allocator.next(capacity, self.start.elapsed())
            {
                turns.extend(state.waiters.remove(&ticket));
            }
        }
        // Not under the lock: if the receiver has gone, dropping the allocation takes it again.
        for waiter in turns {
            let allocation = self.allocation(waiter.claim, waiter.units);
            let _ = waiter.sender.send(allocation);
        }
    }
}

/// Removes a waiter when its wait ends, in whatever way.
struct Waiting<'a> {
    pool: &'a Arc<Pool>,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Both under one lock: otherwise a turn could come to it in between, and nobody would give its units back. When it leaves, the next
        // one of its party may have a turn.
        self.pool.update(|state| {
            if state.waiters.remove(&self.ticket).is_some() {
                state.allocator.leave(&self.ticket);
            }
        });
    }
}

/// Units that are taken. Dropping it gives them back.
pub struct Allocation {
    pool: Arc<Pool>,
    claim: Claim,
    units: AtomicU64,
    /// The units are given back for a while.
    parked: AtomicBool,
}

impl Allocation {
    /// Who took them.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// How many it holds.
    pub fn units(&self) -> u64 {
        self.units.load(Ordering::Acquire)
    }

    /// Takes more units, or none.
    pub fn try_grow(&mut self, capacity: u64, units: u64) -> bool {
        let grown = {
            let mut state = self.pool.state.lock();
            state.capacity = capacity;
            state.allocator.try_take(capacity, &self.claim, units)
        };
        if grown {
            *self.units.get_mut() += units;
        }
        grown
    }

    /// Gives the units back until the guard is dropped. They are taken again then even if there are none. Only one guard at a time has an effect.
    pub fn park(&self) -> Parked<'_> {
        let parks = !self.parked.swap(true, Ordering::AcqRel);
        if parks {
            self.give_back();
        }
        Parked(parks.then_some(self))
    }

    fn give_back(&self) {
        let units = self.units.load(Ordering::Acquire);
        self.pool
            .update(|state| state.allocator.give_back(&self.claim.party, units));
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if !*self.parked.get_mut() {
            self.give_back();
        }
    }
}

impl Guard for Allocation {}

impl Guard for Place {}

/// A pool as one plan bounds it.
#[derive(Clone)]
pub struct PlanPool {
    pub pool: Arc<Pool>,
    pub capacity: u64,
}

impl PlanPool {
    /// Takes units without waiting.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if this claim may not take so many.
    pub fn take(&self, claim: &Claim, units: u64) -> Result<Allocation, Error> {
        let taken = self.pool.try_take(self.capacity, claim, units);
        taken.ok_or(Error::OVERLOADED)
    }
}

/// An extension: the place in flight of the request. Whatever else is taken for the request, is taken with the same claim.
#[derive(Clone)]
pub struct Place {
    pub in_flight: Arc<Allocation>,
    /// For a large head.
    pub head: Option<Arc<Allocation>>,
}

impl Place {
    /// Whose the request is. Calls that revgate makes by itself have no place.
    pub fn claim(extensions: &Extensions) -> Claim {
        let place = extensions.get::<Place>();
        place.map_or_else(Claim::own, |place| place.in_flight.claim.clone())
    }
}

/// See [`Allocation::park`].
pub struct Parked<'a>(Option<&'a Allocation>);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        if let Some(allocation) = self.0 {
            let units = allocation.units.load(Ordering::Acquire);
            let mut state = allocation.pool.state.lock();
            state.allocator.take_anyway(&allocation.claim, units);
            allocation.parked.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::fair::{Priority, Share};

    fn claim(caller: &str) -> Claim {
        let share = Share {
            caller: caller.into(),
            weight: 1,
            priority: Priority::Interactive,
        };
        Claim::caller("main".into(), &share)
    }

    fn pool() -> Arc<Pool> {
        Pool::new()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn is_unused(pool: &Arc<Pool>) -> bool {
        let state = pool.state.lock();
        state.allocator.used() == 0 && state.allocator.waiting() == 0 && state.waiters.is_empty()
    }

    #[tokio::test(start_paused = true)]
    async fn a_unit_that_is_given_back_goes_to_the_one_whose_turn_it_is() {
        let pool = pool();
        let (a, b) = (claim("a"), claim("b"));
        let held: Vec<_> = (0..2).map(|_| pool.try_take(2, &a, 1)).collect();
        let wait = |claim: Claim| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.take(2, &claim, 1, soon()).await })
        };
        let own = wait(a.clone());
        tokio::task::yield_now().await;
        let other = wait(b);
        tokio::task::yield_now().await;
        drop(held);
        let other = other.await.expect("no panic").expect("its turn");
        let own = own.await.expect("no panic").expect("its turn");
        drop((own, other));
        assert!(is_unused(&pool));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_in_time_and_leaves_nothing_behind() {
        let pool = pool();
        let held = pool.try_take(1, &claim("a"), 1).expect("free");
        assert!(pool.take(1, &claim("b"), 1, soon()).await.is_none());
        let late = tokio::spawn({
            let pool = pool.clone();
            async move { pool.take(1, &claim("b"), 1, soon()).await.is_some() }
        });
        tokio::task::yield_now().await;
        late.abort();
        let _ = late.await;
        drop(held);
        assert!(is_unused(&pool));
    }

    /// The turn comes in the moment in which the one that waits has gone.
    #[tokio::test(start_paused = true)]
    async fn a_turn_of_one_that_has_gone_goes_to_the_next() {
        let pool = pool();
        let held = pool.try_take(1, &claim("a"), 1).expect("free");
        let wait = |name: &'static str| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.take(1, &claim(name), 1, soon()).await })
        };
        let gone = wait("b");
        tokio::task::yield_now().await;
        let next = wait("c");
        tokio::task::yield_now().await;
        drop(held);
        gone.abort();
        let _ = gone.await;
        assert!(next.await.expect("no panic").is_some());
        assert!(is_unused(&pool));
    }

    /// Whoever leaves in the moment in which another thread gives it its turn leaves no unit behind.
    #[test]
    fn no_unit_is_lost_between_threads() {
        let pool = pool();
        let (send, receive) = std::sync::mpsc::channel::<Allocation>();
        let drops = std::thread::spawn(move || receive.into_iter().for_each(drop));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            for _ in 0..3000 {
                let held = pool.take(1, &claim("a"), 1, soon()).await;
                let waits: Vec<_> = (0..20)
                    .map(|_| {
                        let pool = pool.clone();
                        tokio::spawn(async move { pool.take(1, &claim("b"), 1, soon()).await })
                    })
                    .collect();
                tokio::task::yield_now().await;
                send.send(held.expect("none is lost")).expect("a thread");
                for wait in waits {
                    wait.abort();
                    drop(wait.await);
                }
            }
        });
        drop(send);
        drops.join().expect("no panic");
        assert!(is_unused(&pool));
    }

    #[test]
    fn parked_units_are_free_for_others_until_they_are_taken_again() {
        let pool = pool();
        let held = pool.try_take(1, &claim("a"), 1).expect("free");
        let parked = held.park();
        let other = pool.try_take(1, &claim("b"), 1).expect("free for now");
        drop(parked);
        assert_eq!(pool.used(), 2);
        drop(other);
        drop(held);
        assert!(is_unused(&pool));
    }

    #[test]
    fn it_grows_as_a_whole_or_not_at_all() {
        let pool = pool();
        let mut held = pool.try_take(10, &claim("a"), 4).expect("free");
        assert!(!held.try_grow(10, 7));
        assert!(held.try_grow(10, 4));
        assert_eq!(pool.used(), 8);
        drop(held);
        assert!(is_unused(&pool));
    }
}
