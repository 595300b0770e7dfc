//! What is known of the fleet: whether the register can be used, how exchanges with it go, and where each group stands. The fleet's driver
//! tells it; metrics, log, admin listener and alerts show it. Without `[shared]` there is none.

mod collector;
mod group;
mod lines;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;

pub(super) use self::collector::FleetCollector;
pub use self::group::{GroupStatus, GroupView, Standing};
use self::{
    group::{AloneTime, Known},
    lines::Story,
};
use super::{
    client_lines::ClientLines,
    history::Ring,
    labels::{ExchangeResult, RegisterKind, RegisterState},
    metrics::exchanges,
};
use crate::{lock::Lock, policy::percentile::Times};

/// Minutes of exchanges whose times are kept, as of DevRev's times to answer.
const TIMED: usize = 5;
const MINUTE: u64 = 60;

/// `Times` begins at a thousandth of its unit. An exchange takes less than a millisecond, so its unit is a millisecond here.
const UNITS: f64 = 1000.0;

/// Characters of a reason that are kept. A server may answer at length, and each group keeps one.
const MAX_REASON: usize = 200;

/// Why the register cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub fault: ExchangeResult,
    /// For people; without secrets.
    pub reason: Arc<str>,
}

impl Cause {
    fn new(fault: ExchangeResult, reason: &str) -> Cause {
        let end = reason.char_indices().nth(MAX_REASON);
        let reason = end.map_or(reason, |(end, _)| &reason[..end]).into();
        Cause { fault, reason }
    }
}

/// The register, for operators.
#[derive(Clone, Debug)]
pub struct RegisterView {
    pub state: RegisterState,
    /// How long it has been so.
    pub lasted: Duration,
    /// Of the present failure.
    pub cause: Option<Cause>,
}

/// See the module. The log's lines about the fleet are written here as well.
pub struct FleetStatus {
    start: Instant,
    kind: RegisterKind,
    /// `shared.timeout`.
    timeout: Duration,
    /// By result, in their order.
    exchanges: Vec<AtomicU64>,
    durations: Histogram,
    /// In milliseconds.
    recent: Lock<Ring<Times, TIMED>>,
    register: Lock<Register>,
    groups: Lock<BTreeMap<Arc<str>, Arc<Known>>>,
    alone: Lock<AloneTime>,
    /// How often a caller's limit found no room.
    no_room: AtomicU64,
    story: Story,
}

struct Register {
    state: RegisterState,
    /// Since when.
    since: Duration,
    cause: Option<Cause>,
}

impl fmt::Debug for FleetStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetStatus")
    }
}

impl FleetStatus {
    /// Of a fleet with such a register, whose exchanges take `timeout` at most. `lines` decides which lines about groups are written.
    pub fn new(kind: RegisterKind, timeout: Duration, lines: Arc<ClientLines>) -> Arc<FleetStatus> {
        let zero = |_: &ExchangeResult| AtomicU64::new(0);
        Arc::new(FleetStatus {
            start: Instant::now(),
            kind,
            timeout,
            exchanges: ExchangeResult::ALL.iter().map(zero).collect(),
            durations: exchanges(),
            recent: Lock::default(),
            register: Lock::new(Register {
                state: RegisterState::Unknown,
                since: Duration::ZERO,
                cause: None,
            }),
            groups: Lock::default(),
            alone: Lock::default(),
            no_room: AtomicU64::new(0),
            story: Story::new(kind, lines),
        })
    }

    /// An exchange has ended, after this time.
    pub fn exchanged(&self, result: ExchangeResult, took: Duration) {
        if let Some(count) = self.exchanges.get(result as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        // What was never sent would only make the times look better than they are, and a conflict is a part of another exchange.
        if matches!(result, ExchangeResult::Down | ExchangeResult::Conflict) {
            return;
        }
        self.durations.observe(took.as_secs_f64());
        let minute = self.minute();
        let mut recent = self.recent.lock();
        recent.at(minute).add(took.as_secs_f64() * UNITS);
    }

    /// The register can be used. May be told again and again.
    pub fn register_up(&self) {
        let now = self.now();
        let before = {
            let mut register = self.register.lock();
            let before = register.state;
            if before != RegisterState::Up {
                register.since = now;
            }
            (register.state, register.cause) = (RegisterState::Up, None);
            before
        };
        if before != RegisterState::Up {
            self.story.up(before, now);
        }
    }

    /// The register cannot be used. Told at each attempt that fails, it writes a line now and then.
    pub fn register_down(&self, fault: ExchangeResult, reason: &str) {
        let (now, cause) = (self.now(), Cause::new(fault, reason));
        {
            let mut register = self.register.lock();
            if register.state != RegisterState::Down {
                (register.state, register.since) = (RegisterState::Down, now);
            }
            register.cause = Some(cause.clone());
        }
        self.story.down(&cause, now);
    }

    /// From now on this group shares its quota, until what is returned is dropped. `held` tells how many units it holds in advance; it is
    /// called while no lock of this module is held.
    pub fn group(
        self: &Arc<Self>,
        name: &Arc<str>,
        held: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> GroupStatus {
        let group = GroupStatus::new(self.clone(), name.clone(), Box::new(held));
        let known = group.known();
        self.groups.lock().insert(name.clone(), known);
        group
    }

    /// The register now.
    pub fn register(&self) -> RegisterView {
        let now = self.now();
        let register = self.register.lock();
        RegisterView {
            state: register.state,
            lasted: now.saturating_sub(register.since),
            cause: register.cause.clone(),
        }
    }

    /// The groups that share, by name.
    pub fn groups(&self) -> Vec<(Arc<str>, GroupView)> {
        let now = self.now();
        let groups = self.groups.lock().clone().into_iter();
        groups
            .map(|(name, known)| (name, known.view(now)))
            .collect()
    }

    /// How often exchanges have ended in each way.
    pub fn exchanges(&self) -> impl Iterator<Item = (ExchangeResult, u64)> + '_ {
        let counts = self.exchanges.iter();
        let counts = counts.map(|count| count.load(Ordering::Relaxed));
        ExchangeResult::ALL.iter().copied().zip(counts)
    }

    /// The seconds that this share of the exchanges of the last minutes did not exceed; `None` if there were none.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let minute = self.minute();
        let mut all = Times::default();
        for (_, times) in self.recent.lock().recent(minute) {
            all.merge(&times);
        }
        Some(all.percentile(share)? / UNITS)
    }

    /// For how long in all at least one group has been alone.
    pub fn alone(&self) -> Duration {
        self.alone.lock().total(self.now())
    }

    /// How often a caller's limit found no room in the pool.
    pub fn without_room(&self) -> u64 {
        self.no_room.load(Ordering::Relaxed)
    }

    /// What the register is.
    pub fn kind(&self) -> RegisterKind {
        self.kind
    }

    /// `shared.timeout`.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The number of this minute. It begins above zero: the ring has as many minutes before the first.
    fn minute(&self) -> u64 {
        self.now().as_secs() / MINUTE + TIMED as u64
    }

    fn is_up(&self) -> bool {
        self.register.lock().state == RegisterState::Up
    }
}
