//! A caller's rate over a whole fleet: tokens of one bucket, which each replica buys before it spends them.
//!
//! The pool of the caller's group has the bucket ([`Limits`]), and each replica a [`Purse`]. A token is bought at most [`LIFE`] before it
//! is spent; what is left then goes back. A refusal is remembered until its time, so a flood costs one exchange and not one for each
//! request.
//!
//! A purchase has a number that only grows, and a purse says by number what it buys and what it gives back. The pool decides about a number once
//! and answers it in the same way from then on. So statements and replies may be lost, repeated and late.
//!
//! In any time T a fleet lets through at most burst + rate × (T + 5 s), and in the long run exactly the rate: the bucket holds
//! [`CREDIT`] more than the burst, and what is bought is spent within [`LIFE`]. What is given back counts as never bought, and no more:
//! the bucket would have been full, and wasted a part, if it had stayed there. What a dead replica held counts as spent.
//!
//! Where the register cannot be reached, each replica goes by its own limiter alone, at the full rate. So a caller that is within its rate is
//! not refused because Redis is down. The bound then holds for each replica and not for the fleet. Once the register is back, each replica has what it let
//! through meanwhile charged to the bucket, at most what its own limiter still counts.

mod bucket;
mod limits;
mod purse;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::{
    limits::{Limits, MAX_CALLERS, MAX_HOLDERS},
    purse::{Purse, Take},
};
use super::ReplicaId;
use crate::{hash::sha256, policy::rate::RateLimit};

/// How long a token can be spent, from when its purchase was first stated. Together with [`CREDIT`] it is less than five seconds; the rest is
/// for a pool whose time is a little behind.
pub const LIFE: Duration = Duration::from_millis(3500);

/// What the bucket holds above the burst, as a time of the rate. Without it, a bucket with a small burst would be full, and waste what comes,
/// before a replica that was refused may ask again; and a caller within its rate would be refused when two exchanges take a different time.
pub const CREDIT: Duration = Duration::from_secs(1);

/// A caller in the pool of its group: a part of a hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CallerKey(pub [u8; 16]);

impl CallerKey {
    /// In mode "validate": a group is one user's, and has no other caller. So nothing of the token has to be told.
    pub const ONLY: CallerKey = CallerKey([0; 16]);

    /// A caller of the file.
    pub fn named(name: &str) -> CallerKey {
        let mut key = [0; 16];
        key.copy_from_slice(&sha256(name.as_bytes())[..16]);
        CallerKey(key)
    }
}

/// A rate limit as the bucket has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// The time in which a token is refilled, in nanoseconds; at least 1.
    interval: u64,
    burst: u32,
}

impl Rule {
    pub fn of(limit: &RateLimit) -> Rule {
        Rule {
            interval: nanos(limit.interval()).max(1),
            burst: limit.burst().get(),
        }
    }

    /// The time in which this many tokens are refilled.
    fn time_of(self, tokens: u32) -> u64 {
        self.interval.max(1).saturating_mul(tokens.into())
    }

    /// The time in which the bucket is refilled, with its credit.
    fn span(self) -> u64 {
        self.time_of(self.burst).saturating_add(nanos(CREDIT))
    }
}

/// What one replica says about one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    pub caller: CallerKey,
    /// The limit that this replica has in its configuration.
    pub rule: Rule,
    /// The number of the latest purchase.
    pub purchase: u64,
    /// Tokens for requests that wait.
    pub needed: u32,
    /// Tokens for requests still to come; at most half of what the bucket has beyond.
    pub ahead: u32,
    /// Requests that were let through without a token. They are charged even if the bucket is empty then.
    pub charge: u32,
    /// Purchases that are done with.
    pub settled: Vec<Settled>,
}

/// A purchase of which no token will be spent any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    pub purchase: u64,
    /// What is given back. More than was sold means all of it.
    pub unspent: u32,
}

/// What the pool says about one caller to one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sale {
    pub caller: CallerKey,
    /// The purchase that was decided last.
    pub purchase: u64,
    /// The first one that the pool knows of this replica.
    pub first: u64,
    /// Each purchase of this replica that is not settled, with what was sold.
    pub open: Vec<(u64, u32)>,
    /// How long until it is worth to ask again, if less was sold than was asked for.
    pub wait: Duration,
    /// How long nothing more is sold ahead.
    pub pause: Duration,
    /// How long until the burst is full again.
    pub reset: Duration,
    /// Whether the pool had room for this caller. If not, the replica goes by its own limiter.
    pub has_room: bool,
}

/// In nanoseconds; half a millennium at most.
fn nanos(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}
