//! What is known of one group that shares its quota.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{Cause, FleetStatus, lines};
use crate::{
    lock::Lock,
    telemetry::labels::{ExchangeResult, Lost, Sharing},
};

/// Where a group stands, as its last exchange told.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Plenty or scarce. That a replica is alone is told by [`GroupStatus::alone`].
    pub sharing: Sharing,
    /// Replicas that share the group, this one included.
    pub replicas: u64,
    /// Units of the window that no replica holds; `None` if no window is known.
    pub free: Option<u64>,
    /// Units that all replicas together hold in advance.
    pub leased: u64,
    /// Units of replicas that have died. Nobody spends them before DevRev has told what is left.
    pub limbo: u64,
    /// Requests that wait in the whole fleet, by the caller's name in this file; all others are `other`.
    pub waiting: Vec<(Arc<str>, u64)>,
}

/// A group, for operators.
#[derive(Clone, Debug)]
pub struct GroupView {
    /// `None` before the first exchange.
    pub sharing: Option<Sharing>,
    /// How long it has been alone, and why.
    pub alone: Option<(Duration, Cause)>,
    /// The last one, and how long ago it was told.
    pub standing: Option<(Standing, Duration)>,
    /// Units that this replica holds in advance now.
    pub held: u64,
}

/// A group notices that the register does not answer a moment before it is known of the register, so it has no line of its own before this.
const GRACE: Duration = Duration::from_secs(1);

/// Tells how many units a group holds in advance.
type Held = Box<dyn Fn() -> u64 + Send + Sync>;

pub(super) struct Known {
    held: Held,
    place: Lock<Place>,
}

#[derive(Default)]
struct Place {
    standing: Option<(Standing, Duration)>,
    alone: Option<Alone>,
}

struct Alone {
    since: Duration,
    cause: Cause,
    /// Its beginning has a line.
    is_told: bool,
}

/// The time in which at least one group was alone.
#[derive(Default)]
pub(super) struct AloneTime {
    groups: u64,
    since: Duration,
    before: Duration,
}

impl AloneTime {
    pub(super) fn total(&self, now: Duration) -> Duration {
        match self.groups {
            0 => self.before,
            _ => self.before + now.saturating_sub(self.since),
        }
    }

    fn begins(&mut self, now: Duration) {
        if self.groups == 0 {
            self.since = now;
        }
        self.groups += 1;
    }

    fn ends(&mut self, now: Duration) {
        if self.groups == 1 {
            self.before = self.total(now);
        }
        self.groups = self.groups.saturating_sub(1);
    }
}

impl Known {
    pub(super) fn view(&self, now: Duration) -> GroupView {
        let held = (self.held)();
        let place = self.place.lock();
        let told = place
            .standing
            .as_ref()
            .map(|(standing, _)| standing.sharing);
        let alone = place.alone.as_ref();
        GroupView {
            sharing: alone.map(|_| Sharing::Alone).or(told),
            alone: alone.map(|alone| (now.saturating_sub(alone.since), alone.cause.clone())),
            standing: place
                .standing
                .clone()
                .map(|(standing, at)| (standing, now.saturating_sub(at))),
            held,
        }
    }
}

/// A group that shares its quota; see [`FleetStatus::group`].
pub struct GroupStatus {
    fleet: Arc<FleetStatus>,
    name: Arc<str>,
    known: Arc<Known>,
}

impl GroupStatus {
    pub(super) fn new(fleet: Arc<FleetStatus>, name: Arc<str>, held: Held) -> GroupStatus {
        let place = Lock::default();
        let known = Arc::new(Known { held, place });
        GroupStatus { fleet, name, known }
    }

    pub(super) fn known(&self) -> Arc<Known> {
        self.known.clone()
    }

    /// An exchange told where the group stands.
    pub fn stands(&self, standing: Standing) {
        self.known.place.lock().standing = Some((standing, self.fleet.now()));
    }

    /// The register does not help: this replica goes by its lease and then by DevRev's answers. Told at each exchange that fails
    /// meanwhile.
    pub fn alone(&self, fault: ExchangeResult, reason: &str) {
        let (now, cause) = (self.fleet.now(), Cause::new(fault, reason));
        let (begins, lasts) = {
            let mut place = self.known.place.lock();
            let begins = place.alone.is_none();
            let alone = place.alone.get_or_insert_with(|| Alone {
                since: now,
                cause: cause.clone(),
                is_told: false,
            });
            alone.cause = cause.clone();
            let lasts = !alone.is_told && now.saturating_sub(alone.since) >= GRACE;
            (begins, lasts)
        };
        if begins {
            self.fleet.alone.lock().begins(now);
        }
        // While the register is down, a line says so for all groups.
        if lasts && self.fleet.is_up() && self.fleet.story.alone(&self.name, &cause) {
            let mut place = self.known.place.lock();
            place
                .alone
                .iter_mut()
                .for_each(|alone| alone.is_told = true);
        }
    }

    /// The group shares again, or for the first time: it has a lease, or has been dealt to.
    pub fn joined(&self) {
        let now = self.fleet.now();
        let Some(alone) = self.known.place.lock().alone.take() else {
            return;
        };
        self.fleet.alone.lock().ends(now);
        if alone.is_told {
            let lasted = now.saturating_sub(alone.since);
            lines::joined(&self.name, lasted);
        }
    }

    /// The register had not the value that this replica knew.
    pub fn lost(&self, lost: Lost) {
        self.fleet.story.lost(&self.name, lost);
    }

    /// The register has a value that cannot be read.
    pub fn unreadable(&self, reason: &str) {
        let cause = Cause::new(ExchangeResult::Broken, reason);
        self.fleet.story.unreadable(&self.name, &cause.reason);
    }

    /// The pool had no room for the limits of so many callers, so this replica's own limiters decide for a while. Told with each exchange in
    /// which it is so.
    pub fn no_room(&self, callers: u64) {
        self.fleet.no_room.fetch_add(callers, Ordering::Relaxed);
        self.fleet.story.no_room(&self.name, callers);
    }
}

impl Drop for GroupStatus {
    fn drop(&mut self) {
        {
            let mut groups = self.fleet.groups.lock();
            // Another one may have its name by now.
            if groups
                .get(&self.name)
                .is_some_and(|known| Arc::ptr_eq(known, &self.known))
            {
                groups.remove(&self.name);
            }
        }
        if self.known.place.lock().alone.take().is_some() {
            self.fleet.alone.lock().ends(self.fleet.now());
        }
    }
}
