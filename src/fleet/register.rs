//! Where the replicas of a fleet keep what they share: one small value for each quota group.
//!
//! A register knows nothing of quotas. It replaces a value if nobody else has replaced it in between, tells its clock, and passes on
//! hints. Everything else is decided by `policy::fleet`, on the value.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::{label::label_enum, policy::fleet::MAX_SIZE, telemetry::labels::ExchangeResult};

/// The largest value that is written or read: whatever a pool may become must pass. That of a busy group has some 20 KB; a larger one than
/// this is none of ours, or a fault of ours.
pub const MAX_VALUE: usize = MAX_SIZE;

/// The name of a value, made of `shared.prefix` and the group.
pub type Key = Arc<str>;

/// Identifies one value that was written. Made at random for each, so that none comes again after the register has lost some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub u64);

/// What to write.
#[derive(Clone, Debug)]
pub struct Write {
    /// The value that it replaces; `None` if there is none.
    pub over: Option<Tag>,
    pub tag: Tag,
    pub value: Bytes,
    /// How long it is kept if nothing replaces it.
    pub keep: Duration,
    /// Told to all that listen, if it is written; nothing is told if it is empty.
    pub hint: Bytes,
}

/// What the register did.
#[derive(Clone, Debug)]
pub enum Exchanged {
    /// The value was written, at this time of the register's clock, since the epoch.
    Written { now: Duration },
    /// It was not: this is there. Also the answer to a mere read.
    Found(Found),
}

#[derive(Clone, Debug)]
pub struct Found {
    pub current: Option<(Tag, Bytes)>,
    /// By the register's clock, since the epoch.
    pub now: Duration,
}

label_enum! {
    /// Why there is no answer of use, or none at all. Whether the value was written is unknown, unless it says otherwise.
    pub enum Fault {
        /// There is no connection.
        Down = "down",
        /// It took longer than `shared.timeout`.
        TimedOut = "timeout",
        /// The connection broke, or what came is no answer of a register.
        Broken = "broken",
        /// Not written: until the timeout other replicas were always faster. The register is there.
        Overtaken = "overtaken",
        /// Not written: as many replicas share the group as may. The register is there.
        Full = "full",
        /// Not written: the register takes none, as a replica or before it has loaded its data.
        NotWritable = "not_writable",
        /// Not written: it has no memory left, or refused the command for another reason of its own.
        Refused = "refused",
        /// Not written: the user may not.
        Denied = "denied",
    }
}

impl From<Fault> for ExchangeResult {
    fn from(fault: Fault) -> ExchangeResult {
        match fault {
            Fault::Down => ExchangeResult::Down,
            Fault::TimedOut => ExchangeResult::TimedOut,
            Fault::Broken => ExchangeResult::Broken,
            Fault::Overtaken => ExchangeResult::Overtaken,
            Fault::Full => ExchangeResult::Full,
            Fault::NotWritable => ExchangeResult::NotWritable,
            Fault::Refused => ExchangeResult::Refused,
            Fault::Denied => ExchangeResult::Denied,
        }
    }
}

/// An exchange has failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub fault: Fault,
    /// For people; without secrets.
    pub reason: Arc<str>,
}

impl Failure {
    pub fn new(fault: Fault, reason: impl Into<Arc<str>>) -> Failure {
        Failure {
            fault,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)
    }
}

/// What others have told.
#[derive(Clone, Debug)]
pub enum Hint {
    /// With the value of this key came this hint. Whoever wrote it is told too. An empty one says that hints of this key alone may have
    /// been lost: those that came before it was listened to.
    Told(Key, Bytes),
    /// Hints may have been lost: the connection is new.
    Missed,
}

/// Whether the register can be reached.
#[derive(Clone, Debug)]
pub enum Link {
    /// Nothing has been tried yet.
    Unknown,
    Up,
    Down(Failure),
}

pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Exchanged, Failure>> + Send + 'a>>;

/// See the module. It keeps its own connection, and each call ends within `shared.timeout`. While there is no connection calls fail at once.
pub trait Register: Send + Sync {
    /// Replaces the value of this key, or reads it if there is nothing to write.
    fn exchange<'a>(&'a self, key: &'a Key, write: Option<Write>) -> Answer<'a>;

    /// Listens to the hints of this key too. Does not wait: an empty hint comes as soon as it is so.
    fn listen(&self, key: &Key);

    /// No longer listens to the hints of this key, as groups come and go.
    fn forget(&self, key: &Key);

    /// Whether it can be reached, as far as is known.
    fn link(&self) -> watch::Receiver<Link>;

    /// The hints of all keys that are listened to. Taken once; a hint that finds no room is summed up as [`Hint::Missed`].
    fn hints(&self) -> Option<mpsc::Receiver<Hint>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_called_in_metrics_as_it_is_here() {
        for fault in Fault::ALL {
            assert_eq!(ExchangeResult::from(*fault).label(), fault.label());
        }
    }
}
