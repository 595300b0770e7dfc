//! The tokens that this replica has bought for its callers' requests, by group.
//!
//! A request passes the caller's own limiter and takes a token. So each replica keeps the burst, and all together keep the rate. Where there
//! is no token and none was refused, the request waits for one exchange with the register, which a [`Teller`] makes. If that takes too
//! long, or the register cannot be reached, the limiter decides alone.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::Limiter;
use crate::{
    hash::NameHash,
    lock::Lock,
    policy::{
        fleet::tokens::{CallerKey, Purse, Rule, Sale, Take, Want},
        rate::{DEFAULT_CAPACITY, Verdict},
    },
    state::Clock,
};

/// The time between two sweeps of all purses that free nothing, as for limiters.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Makes the exchanges of a group: takes a [`Purses::statement`], and brings back what the pool says ([`Purses::apply`]).
pub trait Teller: Send + Sync {
    /// The group has something to say at another time than it last said itself; see [`Purses::due`]. Called without any lock, from any worker. It must not
    /// wait.
    fn wants_changed(&self, group: &Arc<str>);
}

/// See the module. At capacity new callers go by their own limiters.
pub struct Purses {
    clock: Clock,
    /// The longest that a request waits.
    timeout: Duration,
    teller: Arc<dyn Teller>,
    /// By which the pool names callers.
    hashes: NameHash,
    groups: Lock<Groups>,
}

#[derive(Default)]
struct Groups {
    by_name: HashMap<Arc<str>, Group>,
    /// Purses in all of them.
    count: usize,
    /// When the last sweep that freed nothing was.
    swept: Option<Duration>,
}

#[derive(Default)]
struct Group {
    is_alone: bool,
    callers: HashMap<CallerKey, Entry>,
}

struct Entry {
    purse: Purse,
    limiter: Arc<Limiter>,
    /// Tells those who wait that they should look again.
    looks: watch::Sender<()>,
    /// When it has something to say, as the teller knows.
    told: Option<Duration>,
}

/// How a request stands with its limit.
pub enum Check {
    Decided(Verdict),
    /// The register has to be asked first.
    Asks(Waiting),
}

impl Purses {
    /// No request waits for longer than `timeout`.
    pub fn new(
        clock: Clock,
        timeout: Duration,
        teller: Arc<dyn Teller>,
        hashes: NameHash,
    ) -> Arc<Purses> {
        Arc::new(Purses {
            clock,
            timeout,
            teller,
            hashes,
            groups: Lock::default(),
        })
    }

    pub(super) fn hashes(&self) -> &NameHash {
        &self.hashes
    }

    /// Takes a request from the limit, if it is within it.
    pub(super) fn check(
        self: &Arc<Self>,
        group: &Arc<str>,
        key: CallerKey,
        limiter: &Arc<Limiter>,
    ) -> Check {
        let now = self.clock.now();
        let mut groups = self.groups.lock();
        let Some((is_alone, entry)) = groups.entry(group, key, limiter, now) else {
            return Check::Decided(limiter.check());
        };
        let check = match entry.check(is_alone, now) {
            Some(verdict) => Check::Decided(verdict),
            None => {
                entry.purse.wait();
                Check::Asks(Waiting {
                    looks: entry.looks.subscribe(),
                    limiter: limiter.clone(),
                    until: self.clock.instant(now + self.timeout),
                    place: Place {
                        purses: self.clone(),
                        group: group.clone(),
                        key,
                    },
                })
            }
        };
        let tells = entry.tells(is_alone, now);
        drop(groups);
        if tells {
            self.teller.wants_changed(group);
        }
        check
    }

    /// What a check would say, as far as is known without asking.
    pub(super) fn peek(&self, group: &str, key: CallerKey, limiter: &Limiter) -> Verdict {
        let now = self.clock.now();
        let local = limiter.peek();
        let groups = self.groups.lock();
        let Some(group) = groups.by_name.get(group).filter(|group| !group.is_alone) else {
            return local;
        };
        match group.callers.get(&key) {
            Some(entry) => entry.of_fleet(local, now),
            None => local,
        }
    }

    /// When this group next has something to say; `None` if it has not. To be asked after each exchange, and when wants have changed.
    pub fn due(&self, group: &str) -> Option<Duration> {
        let now = self.clock.now();
        let mut groups = self.groups.lock();
        let groups = &mut *groups;
        let of_group = groups.by_name.get_mut(group)?;
        let before = of_group.callers.len();
        of_group
            .callers
            .retain(|_, entry| !entry.purse.is_idle(now));
        groups.count -= before - of_group.callers.len();
        let due = of_group.callers.values_mut().filter_map(|entry| {
            entry.told = entry.purse.due(now);
            entry.told
        });
        let due = due.min();
        if of_group.callers.is_empty() && !of_group.is_alone {
            groups.by_name.remove(group);
        }
        due
    }

    /// What this group says in an exchange that begins now. The same is said again if the exchange has to be repeated.
    pub fn statement(&self, group: &str) -> Vec<Want> {
        let now = self.clock.now();
        let mut groups = self.groups.lock();
        let Some(group) = groups.by_name.get_mut(group) else {
            return Vec::new();
        };
        let wants = group.callers.iter_mut().filter_map(|(key, entry)| {
            let used = entry.limiter.used();
            entry.purse.want(*key, used, now)
        });
        wants.collect()
    }

    /// What the pool of this group says.
    pub fn apply(&self, group: &str, sales: &[Sale]) {
        let now = self.clock.now();
        let mut groups = self.groups.lock();
        let Some(group) = groups.by_name.get_mut(group) else {
            return;
        };
        for sale in sales {
            if let Some(entry) = group.callers.get_mut(&sale.caller) {
                entry.purse.apply(sale, now);
                entry.looks.send_replace(());
            }
        }
    }

    /// Whether the register cannot be used, so that limiters decide alone. Nobody waits then.
    pub fn set_alone(&self, group: &Arc<str>, is_alone: bool) {
        let mut groups = self.groups.lock();
        let of_group = groups.by_name.entry(group.clone()).or_default();
        of_group.is_alone = is_alone;
        for entry in of_group.callers.values() {
            entry.looks.send_replace(());
        }
        if !is_alone && of_group.callers.is_empty() {
            groups.by_name.remove(group);
        }
    }

    /// For one that has waited; `None` if it has to go on waiting. `is_late`: it cannot.
    fn check_again(&self, place: &Place, limiter: &Limiter, is_late: bool) -> Option<Verdict> {
        let now = self.clock.now();
        let mut groups = self.groups.lock();
        let group = groups.by_name.get_mut(&place.group);
        let entry = group.and_then(|group| {
            let is_alone = group.is_alone;
            let entry = group.callers.get_mut(&place.key)?;
            Some((is_alone, entry))
        });
        match entry {
            Some((is_alone, entry)) => entry.check(is_alone || is_late, now),
            None => Some(limiter.check()),
        }
    }
}

impl Groups {
    /// The purse of this caller, and whether its group is alone; `None` if there is no room for it.
    fn entry(
        &mut self,
        group: &Arc<str>,
        key: CallerKey,
        limiter: &Arc<Limiter>,
        now: Duration,
    ) -> Option<(bool, &mut Entry)> {
        let known = self.by_name.get(group);
        if !known.is_some_and(|known| known.callers.contains_key(&key)) {
            if !self.has_room(now) {
                return None;
            }
            let of_group = self.by_name.entry(group.clone()).or_default();
            let entry = Entry {
                purse: Purse::new(Rule::of(limiter.limit())),
                limiter: limiter.clone(),
                looks: watch::Sender::new(()),
                told: None,
            };
            of_group.callers.insert(key, entry);
            self.count += 1;
        }
        let of_group = self.by_name.get_mut(group)?;
        let entry = of_group.callers.get_mut(&key)?;
        if !Arc::ptr_eq(&entry.limiter, limiter) {
            entry.purse.follow(Rule::of(limiter.limit()));
            entry.limiter = limiter.clone();
        }
        Some((of_group.is_alone, entry))
    }

    fn has_room(&mut self, now: Duration) -> bool {
        if self.count < DEFAULT_CAPACITY {
            return true;
        }
        let recent = |swept: Duration| now.saturating_sub(swept) < SWEEP_INTERVAL;
        if self.swept.is_some_and(recent) {
            return false;
        }
        self.count = 0;
        self.by_name.retain(|_, group| {
            group.callers.retain(|_, entry| !entry.purse.is_idle(now));
            self.count += group.callers.len();
            group.is_alone || !group.callers.is_empty()
        });
        let room = self.count < DEFAULT_CAPACITY;
        self.swept = (!room).then_some(now);
        room
    }
}

impl Entry {
    /// Takes a request from both limits; `None` if the pool has to be asked. `decides`: its own limiter does, whether there is a token or not.
    fn check(&mut self, decides: bool, now: Duration) -> Option<Verdict> {
        let local = self.limiter.peek();
        if !local.allowed {
            return Some(self.of_fleet(local, now));
        }
        match self.purse.take(now) {
            Take::Token | Take::Free => {}
            _ if decides => self.purse.let_through(now),
            Take::Refused(_) => return Some(self.of_fleet(local, now)),
            Take::Ask => return None,
        }
        let local = self.limiter.check();
        if decides {
            return Some(local);
        }
        let (left, reset) = self.purse.outlook(now);
        Some(Verdict {
            remaining: local.remaining.min(left),
            reset: local.reset.max(reset),
            ..local
        })
    }

    /// What the limiter says, and what is known of the fleet. It must not allow more than either.
    fn of_fleet(&self, local: Verdict, now: Duration) -> Verdict {
        let (left, reset) = self.purse.outlook(now);
        let refusal = self.purse.refusal(now);
        Verdict {
            allowed: local.allowed && refusal.is_none(),
            remaining: match refusal {
                Some(_) => 0,
                None => local.remaining.min(left),
            },
            retry_after: local.retry_after.max(refusal.unwrap_or_default()),
            reset: local.reset.max(reset),
        }
    }

    /// Whether the teller has to know that there is something to say earlier than it was told.
    fn tells(&mut self, is_alone: bool, now: Duration) -> bool {
        if is_alone {
            return false;
        }
        let Some(due) = self.purse.due(now) else {
            return false;
        };
        let is_news = self.told.is_none_or(|told| due < told);
        if is_news {
            self.told = Some(due);
        }
        is_news
    }
}

/// A request that waits for an exchange.
pub struct Waiting {
    looks: watch::Receiver<()>,
    limiter: Arc<Limiter>,
    until: Instant,
    place: Place,
}

impl Waiting {
    /// Waits, and takes the request from the limit if it is within it.
    pub async fn verdict(mut self) -> Verdict {
        loop {
            let looks = timeout_at(self.until, self.looks.changed()).await;
            let is_late = !matches!(looks, Ok(Ok(())));
            let purses = &self.place.purses;
            // There is none if it came while an exchange for others was under way. A late one always has one.
            if let Some(verdict) = purses.check_again(&self.place, &self.limiter, is_late) {
                return verdict;
            }
        }
    }
}

/// Among those that wait; until it is dropped.
struct Place {
    purses: Arc<Purses>,
    group: Arc<str>,
    key: CallerKey,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut groups = self.purses.groups.lock();
        let group = groups.by_name.get_mut(&self.group);
        if let Some(entry) = group.and_then(|group| group.callers.get_mut(&self.key)) {
            entry.purse.leave();
        }
    }
}

#[cfg(test)]
mod tests;
