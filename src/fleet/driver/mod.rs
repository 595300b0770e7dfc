//! Makes the exchanges of all groups. Each group has a task (`group`), so its exchanges follow one another; `exchange` is one of them.
//! All run on the runtime of the register's connection.

mod exchange;
mod group;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc, watch},
};
use tokio_util::task::TaskTracker;

use super::{
    names::Names,
    register::{Hint, Key, Link, Register},
};
use crate::{
    lock::Lock,
    plan::Plan,
    policy::fleet::{Hinted, ReplicaId},
    random,
    state::{
        Clock, Joining, State,
        draining::Draining,
        introspection::NoRandomness,
        limiters::purses::{Purses, Teller},
        quota::{Drive, Fleet, Group},
    },
    telemetry::{
        client_lines::ClientLines,
        labels::{ExchangeResult, RegisterKind},
        shared::FleetStatus,
    },
};

/// What a driver is made of.
pub struct Parts {
    pub register: Arc<dyn Register>,
    pub names: Names,
    pub clock: Clock,
    /// For one exchange.
    pub timeout: Duration,
    pub status: Arc<FleetStatus>,
    /// On which the register's connection runs too.
    pub runtime: Handle,
}

/// The state of a replica that has no thread for its exchanges: they are made on the runtime of this thread. For simulations, in which many
/// replicas live in one process.
///
/// # Errors
/// If the system provides no random numbers.
pub fn state_of(
    plan: &Plan,
    draining: Draining,
    (register, names): (Arc<dyn Register>, Names),
    timeout: Duration,
) -> Result<State, NoRandomness> {
    let runtime = Handle::current();
    let mut join = |clock: Clock, lines: Arc<ClientLines>| {
        let status = FleetStatus::new(RegisterKind::Memory, timeout, lines);
        let driver = Driver::start(Parts {
            register: register.clone(),
            names: names.clone(),
            clock,
            timeout,
            status: status.clone(),
            runtime: runtime.clone(),
        });
        Joining {
            status,
            fleet: driver.fleet(),
            purses: driver.purses(),
        }
    };
    State::of_replica(plan, draining, runtime.clone(), Some(&mut join))
}

/// See the module.
pub struct Driver {
    parts: Parts,
    purses: OnceLock<Arc<Purses>>,
    /// The groups that have exchanged, by key.
    listening: Lock<HashMap<Key, Weak<Group>>>,
    /// Wakes the task of a group, by the group's name.
    wakes: Lock<HashMap<Arc<str>, Weak<Notify>>>,
    leaving: watch::Sender<bool>,
    tasks: TaskTracker,
}

impl Driver {
    /// Begins to follow the register.
    pub fn start(parts: Parts) -> Arc<Driver> {
        let driver = Arc::new(Driver {
            parts,
            purses: OnceLock::new(),
            listening: Lock::default(),
            wakes: Lock::default(),
            leaving: watch::Sender::new(false),
            tasks: TaskTracker::new(),
        });
        let (runtime, register) = (&driver.parts.runtime, &driver.parts.register);
        if let Some(hints) = register.hints() {
            runtime.spawn(pass_on(Arc::downgrade(&driver), hints));
        }
        let status = driver.parts.status.clone();
        runtime.spawn(report(register.link(), status));
        driver
    }

    /// What groups need to be the fleet's.
    pub(crate) fn fleet(self: &Arc<Self>) -> Fleet {
        Fleet {
            driver: self.clone(),
            hashes: self.parts.names.hashes().clone(),
        }
    }

    /// The tokens of callers' limits that this replica buys.
    pub(crate) fn purses(self: &Arc<Self>) -> Arc<Purses> {
        let teller: Arc<dyn Teller> = self.clone();
        let (clock, timeout) = (self.parts.clock, self.parts.timeout);
        let purses = self
            .purses
            .get_or_init(|| Purses::new(clock, timeout, teller, self.parts.names.hashes().clone()));
        purses.clone()
    }

    /// Returns what this replica holds, and tells the others that it ends. Takes no longer than two exchanges.
    pub async fn leave(&self) {
        self.leaving.send_replace(true);
        self.tasks.close();
        let _ = tokio::time::timeout(self.parts.timeout * 2, self.tasks.wait()).await;
    }
}

impl Drive for Driver {
    fn timeout(&self) -> Duration {
        self.parts.timeout
    }

    fn new_id(&self) -> ReplicaId {
        ReplicaId(random::id64())
    }

    fn take_on(self: Arc<Self>, group: Weak<Group>, name: &Arc<str>, wake: &Arc<Notify>) {
        let mut wakes = self.wakes.lock();
        // Groups come and go.
        if wakes.len() == wakes.capacity() {
            wakes.retain(|_, wake| wake.strong_count() > 0);
        }
        wakes.insert(name.clone(), Arc::downgrade(wake));
        drop(wakes);
        let task = group::run(self.clone(), group, name.clone(), wake.clone());
        let runtime = &self.parts.runtime;
        runtime.spawn(self.tasks.track_future(task));
    }
}

impl Teller for Driver {
    fn wants_changed(&self, group: &Arc<str>) {
        let wake = self.wakes.lock().get(group).and_then(Weak::upgrade);
        if let Some(wake) = wake {
            wake.notify_one();
        }
    }
}

/// Passes on what others tell.
async fn pass_on(driver: Weak<Driver>, mut hints: mpsc::Receiver<Hint>) {
    while let Some(hint) = hints.recv().await {
        let Some(driver) = driver.upgrade() else {
            return;
        };
        let listening = driver.listening.lock();
        let (groups, hint): (Vec<Weak<Group>>, Hinted) = match hint {
            Hint::Missed => (listening.values().cloned().collect(), Hinted::All),
            Hint::Told(key, hint) => (
                listening.get(&key).cloned().into_iter().collect(),
                Hinted::from_bytes(&hint),
            ),
        };
        drop(listening);
        for group in groups.iter().filter_map(Weak::upgrade) {
            group.hinted(&hint);
        }
    }
}

/// Tells operators whether the register can be used.
async fn report(mut link: watch::Receiver<Link>, status: Arc<FleetStatus>) {
    loop {
        match &*link.borrow_and_update() {
            Link::Unknown => {}
            Link::Up => status.register_up(),
            Link::Down(failure) => {
                let result = ExchangeResult::from(failure.fault);
                status.register_down(result, &failure.reason);
            }
        }
        if link.changed().await.is_err() {
            return;
        }
    }
}
