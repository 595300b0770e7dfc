//! A caller's rate over a whole fleet: tokens of one bucket, which each replica buys before it spends them.
//!
//! The pool of the caller's group has the bucket ([`Limits`]), and each replica a [`Purse`]. A token is bought before it is spent: for a request that
//! waits, to be spent at once ([`SOON`]), or ahead. While the bucket is at least half full, a replica buys ahead what its requests of twenty seconds take and
//! keeps it for [`LONG_LIFE`], so that hardly any request asks and an exchange serves many; else what those of two seconds take, for [`LIFE`]. What is
//! left then goes back. A refusal is remembered until its time, so a flood costs one exchange and not one for each request.
//!
//! While there is less than is asked for, the tokens that come go to the replicas in turn: next is the one that got least of late, of equal ones the one that was
//! refused first. Each is told when its turn is. A token is kept for one that does not come for 0.4 s and then sold to whoever asks.
//!
//! A purchase has a number that only grows, and a purse says by number what it buys, what it still has and what it gives back. The pool decides about a number once
//! and answers it in the same way from then on. So statements and replies may be lost, repeated and late.
//!
//! In any time T a fleet lets through at most burst + rate × (T + 5 s), and in the long run exactly the rate. What was sold ahead, and is not known to be spent or given back,
//! is **at large**. The bucket holds [`CREDIT`] more than the burst. With what is at large it holds at most [`AT_LARGE`] more than that: beyond, it is
//! not refilled. So it does not matter for how long a token is kept. What was sold to requests that wait passes at most [`SOON`] later. No token
//! is made by giving back. What a dead replica held counts as spent.
//!
//! Where the register cannot be reached, each replica goes by its own limiter alone, at the full rate. So a caller that is within its rate is
//! not refused because Redis is down. The bound then holds for each replica and not for the fleet. Once the register is back, each replica has what it let
//! through meanwhile charged to the bucket, at most what its own limiter still counts.

mod bucket;
mod demand;
mod hand;
mod limits;
mod purse;
#[cfg(test)]
mod tests;
mod turn;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::{
    limits::{Limits, MAX_CALLERS, MAX_HOLDERS},
    purse::{Purse, Take},
};
use super::ReplicaId;
use crate::policy::rate::RateLimit;

/// How long a token that was sold ahead can be spent, from when its purchase was first stated, while the bucket is less than half full.
pub const LIFE: Duration = Duration::from_millis(3500);

/// The same, while there is plenty.
pub const LONG_LIFE: Duration = Duration::from_secs(30);

/// How long a token that was sold to a request that waits can be spent, from when its purchase was first stated. No request waits for longer.
pub const SOON: Duration = Duration::from_secs(1);

/// What may be at large beside a full bucket, as a time of the rate. Together with [`CREDIT`] and [`SOON`] it is less than five seconds; the rest is
/// for a pool whose time is a little behind.
pub const AT_LARGE: Duration = Duration::from_millis(2500);

/// What the bucket holds above the burst, as a time of the rate. Without it, a bucket with a small burst would be full, and waste what comes,
/// before a replica that was refused may ask again; and a caller within its rate would be refused when two exchanges take a different time.
pub const CREDIT: Duration = Duration::from_secs(1);

/// A caller in the pool of its group: a part of a hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CallerKey(pub [u8; 16]);

impl CallerKey {
    /// In mode "validate": a group is one user's, and has no other caller. So nothing of the token has to be told.
    pub const ONLY: CallerKey = CallerKey([0; 16]);

    /// A caller of the file, by the hash of its name.
    pub fn of_name(hash: &[u8; 32]) -> CallerKey {
        let mut key = [0; 16];
        key.copy_from_slice(&hash[..16]);
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

    /// What the bucket holds with its credit.
    fn size(self) -> u32 {
        let size = self.span() / self.interval.max(1);
        size.try_into().unwrap_or(u32::MAX)
    }

    /// Tokens that may be at large: what the bound has room for, and a quarter of the burst, which keeps its room in the bucket. None of a
    /// rate that is so slow that they would be missed for long when a replica dies.
    fn most(self) -> u32 {
        let room = nanos(AT_LARGE) / self.interval.max(1);
        match u32::try_from(room) {
            Ok(0) => 0,
            Ok(room) => room.saturating_add(self.burst / 4),
            Err(_) => u32::MAX,
        }
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
    /// Tokens for requests of the next seconds; at most half of what the bucket has beyond.
    pub ahead: u32,
    /// The same for a longer time, if there is plenty.
    pub long: u32,
    /// Requests that were let through without a token. They are charged even if the bucket is empty then.
    pub charge: u32,
    /// What is left of each purchase that is not done with.
    pub held: Vec<Held>,
    /// Purchases that are done with.
    pub settled: Vec<Settled>,
}

impl Want {
    /// Whether it tells of a purchase that is not known to be decided.
    fn buys(&self) -> bool {
        (self.needed, self.ahead, self.long, self.charge) != (0, 0, 0, 0)
    }
}

/// What a replica still has of what was sold ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub purchase: u64,
    pub left: u32,
}

/// What one purchase sold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sold {
    pub purchase: u64,
    /// To requests that wait.
    pub needed: u32,
    /// What of the others is not known to be spent.
    pub ahead: u32,
}

/// A purchase of which no token will be spent any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    pub purchase: u64,
    /// What is given back. More than was sold ahead means all of that.
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
    /// Each purchase of this replica that is not settled.
    pub open: Vec<Sold>,
    /// Whether what is at hand may be kept for long. If not, it goes back soon.
    pub keeps: bool,
    /// What this replica may have at hand for long.
    pub share: u32,
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
