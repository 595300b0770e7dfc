//! How the replicas of a fleet share one quota.
//!
//! What they share is a [`Pool`]: a small value in a register. A replica says where it stands in a [`Statement`], absolutely and never as a
//! difference, and [`Pool::sync`] answers what it may do until when. So lost, repeated and late messages do no harm. The pool's
//! rules are those of one process: it holds a [`Ledger`](super::ledger::Ledger), whose attempts are made by replicas, and the turns of
//! [`fair`](super::fair).
//!
//! While nobody waits, a replica gets a lease: units that it may spend until its end without asking. Once somebody waits, leases are
//! called back, and units are dealt one by one. [`Lease`] is the replica's side.

mod clock;
mod doubt;
#[cfg(fuzzing)]
pub mod fuzzing;
mod lease;
mod member;
mod plausible;
mod pool;
mod replica;
mod rhythm;
#[cfg(test)]
mod simulation;
mod statement;
pub mod tokens;
mod value;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::{
    doubt::Low,
    lease::{Lease, Timing},
    pool::{Hinted, MAX_REPLICAS, Pool, Reply},
    replica::{orders, use_dealt},
    statement::{Ending, Known, Order, Pauses, Statement, Told},
    value::{FORM, MAX_SIZE, ValueFault},
};

/// Identifies a replica for as long as its process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId(pub u64);

/// A lease ends this long after the exchange that gave it. Short, because nobody else gets the units of a replica that died before.
pub const TERM: Duration = Duration::from_secs(30);

/// A replica that holds anything, or whose attempts are in flight, states itself at least this often: twice in a term.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// A replica of which nothing was heard for so long is dead: its last lease has ended, whatever its clock does.
pub const DEAD: Duration = Duration::from_secs(40);

/// DevRev has counted an attempt so long after it was sent, at the latest.
pub const ON_WIRE: Duration = Duration::from_secs(5);

/// A replica that holds nothing is forgotten after this time.
pub const FORGOTTEN: Duration = Duration::from_secs(90);

/// Who waits says so at least this often.
pub const SAYS_AGAIN: Duration = Duration::from_secs(1);

/// Whoever has not said so for this time waits no more. Longer than the longest interval of a replica whose register is far.
pub const WAITS_NO_MORE: Duration = Duration::from_secs(3);

/// A dealt unit that its replica has not used after this time is returned: less than the pool believes in those that wait.
pub const DEALT_TERM: Duration = Duration::from_secs(2);

/// A replica that had no request for so long returns its lease.
pub const IDLE: Duration = Duration::from_secs(10);

/// No leases for so long after the register has lost something: time in which all replicas state what they hold.
pub const QUARANTINE: Duration = Duration::from_secs(1);
