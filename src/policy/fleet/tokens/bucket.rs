//! The buckets of one caller, and who has bought from them what.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ReplicaId, Rule, Settled, Want, nanos};

/// Limits of one caller that are kept: the old and the new one, while a change of the configuration reaches one replica after another.
const MAX_RULES: usize = 2;

/// Purchases of one replica that are kept. A purse has three at most, and one that is being decided.
const MAX_LOTS: usize = 4;

/// What is known of a replica that no longer says anything about a caller is kept for this long, so that what it gives back late counts
/// and a late statement buys nothing again.
pub(super) const KEPT: Duration = Duration::from_secs(30);

/// GCRA: the time at which the bucket is full, by the register's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Bucket {
    rule: Rule,
    full_at: u64,
}

impl Bucket {
    /// The time that its tokens have still to come. No more than its span, whatever the clock has done.
    fn backlog(&self, now: u64) -> u64 {
        self.full_at.saturating_sub(now).min(self.rule.span())
    }

    fn left(&self, now: u64) -> u32 {
        let left = (self.rule.span() - self.backlog(now)) / self.rule.interval.max(1);
        left.try_into().unwrap_or(u32::MAX)
    }

    fn set(&mut self, backlog: u64, now: u64) {
        self.full_at = now.saturating_add(backlog.min(self.rule.span()));
    }
}

/// What one purchase sold, until it is settled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Lot {
    purchase: u64,
    count: u32,
    rule: Rule,
    /// The least backlog of its bucket since. A bucket with less would have been full without this purchase, so giving back
    /// more than this would make tokens.
    least: u64,
}

/// A replica that has bought, or tried to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Holder {
    replica: ReplicaId,
    /// The first purchase that was stated.
    first: u64,
    /// The highest purchase that was decided.
    decided: u64,
    seen: u64,
    lots: Vec<Lot>,
}

/// What is known of the purchases of one replica.
pub(super) struct Purchases {
    pub first: u64,
    pub decided: u64,
    pub open: Vec<(u64, u32)>,
}

/// One caller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Shared {
    /// One for each limit that replicas state. A sale counts in all, and needs room in that of its own replica. The one that was stated last is
    /// the first.
    buckets: Vec<Bucket>,
    holders: Vec<Holder>,
}

impl Shared {
    pub(super) fn holders(&self) -> usize {
        self.holders.len()
    }

    pub(super) fn knows(&self, replica: ReplicaId) -> bool {
        self.holders.iter().any(|holder| holder.replica == replica)
    }

    pub(super) fn forget(&mut self, replica: ReplicaId) {
        self.holders.retain(|holder| holder.replica != replica);
    }

    /// Forgets what no longer matters. Returns whether anything is left.
    pub(super) fn keep(&mut self, now: u64) -> bool {
        for holder in &mut self.holders {
            // The clock may have been set back.
            holder.seen = holder.seen.min(now);
        }
        let since = now.saturating_sub(nanos(KEPT));
        self.holders.retain(|holder| holder.seen >= since);
        for bucket in &mut self.buckets {
            bucket.set(bucket.backlog(now), now);
        }
        self.buckets.retain(|bucket| bucket.backlog(now) > 0);
        !self.holders.is_empty() || !self.buckets.is_empty()
    }

    /// Takes back what this replica has settled, and decides about its purchase if that is a new one.
    pub(super) fn sync(&mut self, replica: ReplicaId, want: &Want, now: u64) {
        let bucket = self.bucket(want.rule);
        self.buckets[..=bucket].rotate_right(1);
        self.buckets.truncate(MAX_RULES);
        let at = self.holder(replica, want.purchase, now);
        for settled in &want.settled {
            self.settle(at, settled, now);
        }
        if want.purchase <= self.holders[at].decided {
            return;
        }
        self.holders[at].decided = want.purchase;
        self.take(want.charge, now);
        let left = self.buckets[0].left(now);
        let needed = want.needed.min(left);
        // Half is left to others, so that what one replica buys ahead keeps no other waiting.
        let count = needed + want.ahead.min((left - needed) / 2);
        if count == 0 {
            return;
        }
        self.take(count, now);
        let lots = &mut self.holders[at].lots;
        if lots.len() >= MAX_LOTS {
            lots.remove(0);
        }
        lots.push(Lot {
            purchase: want.purchase,
            count,
            rule: want.rule,
            least: u64::MAX,
        });
    }

    /// The purchases of this replica.
    pub(super) fn purchases(&self, replica: ReplicaId) -> Purchases {
        let mut holders = self.holders.iter();
        let holder = holders.find(|holder| holder.replica == replica);
        let lots = holder.map(|holder| &*holder.lots).unwrap_or_default();
        Purchases {
            first: holder.map_or(0, |holder| holder.first),
            decided: holder.map_or(0, |holder| holder.decided),
            open: lots.iter().map(|lot| (lot.purchase, lot.count)).collect(),
        }
    }

    /// How long until a token can be bought under the limit that was stated last, and until its burst is full.
    pub(super) fn times(&self, now: u64) -> (u64, u64) {
        let Some(bucket) = self.buckets.first() else {
            return (0, 0);
        };
        let backlog = bucket.backlog(now);
        let one = backlog.saturating_add(bucket.rule.interval);
        (one.saturating_sub(bucket.rule.span()), backlog)
    }

    fn bucket(&mut self, rule: Rule) -> usize {
        let found = self.buckets.iter().position(|bucket| bucket.rule == rule);
        found.unwrap_or_else(|| {
            self.buckets.push(Bucket { rule, full_at: 0 });
            self.buckets.len() - 1
        })
    }

    fn holder(&mut self, replica: ReplicaId, purchase: u64, now: u64) -> usize {
        let found = self
            .holders
            .iter()
            .position(|holder| holder.replica == replica);
        let at = found.unwrap_or_else(|| {
            self.holders.push(Holder {
                replica,
                first: purchase,
                decided: 0,
                seen: now,
                lots: Vec::new(),
            });
            self.holders.len() - 1
        });
        self.holders[at].seen = now;
        at
    }

    /// Takes tokens out of all buckets, down to nothing.
    fn take(&mut self, tokens: u32, now: u64) {
        if tokens == 0 {
            return;
        }
        for bucket in &mut self.buckets {
            let backlog = bucket.backlog(now);
            for lot in lots_of(&mut self.holders, bucket.rule) {
                lot.least = lot.least.min(backlog);
            }
            let more = bucket.rule.time_of(tokens);
            bucket.set(backlog.saturating_add(more), now);
        }
    }

    fn settle(&mut self, holder: usize, settled: &Settled, now: u64) {
        let lots = &mut self.holders[holder].lots;
        let Some(at) = lots.iter().position(|lot| lot.purchase == settled.purchase) else {
            return;
        };
        let lot = lots.remove(at);
        let Some(bucket) = self
            .buckets
            .iter_mut()
            .find(|bucket| bucket.rule == lot.rule)
        else {
            return;
        };
        let backlog = bucket.backlog(now);
        let gain = lot.rule.time_of(settled.unspent.min(lot.count));
        let gain = gain.min(lot.least).min(backlog);
        bucket.set(backlog - gain, now);
        // The others are judged as if this one had never been there.
        for other in lots_of(&mut self.holders, lot.rule) {
            other.least = other.least.min(backlog).saturating_sub(gain);
        }
    }
}

fn lots_of(holders: &mut [Holder], rule: Rule) -> impl Iterator<Item = &mut Lot> {
    let lots = holders.iter_mut().flat_map(|holder| &mut holder.lots);
    lots.filter(move |lot| lot.rule == rule)
}
