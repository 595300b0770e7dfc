//! The buckets of one caller, and who has bought from them what.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    AT_LARGE, ReplicaId, Rule, Settled, Sold, Want, nanos,
    turn::{self, Claim, GRACE, Other, Turn},
};

/// Limits of one caller that are kept: the old and the new one, while a change of the configuration reaches one replica after another.
const MAX_RULES: usize = 2;

/// Purchases of one replica that are kept. A purse has three at most, and one that is being decided.
const MAX_LOTS: usize = 4;

/// What is known of a replica that no longer says anything about a caller is kept for this long, so that what it gives back late counts
/// and a late statement buys nothing again. No token lives so long, so what is forgotten is not at large any more.
pub(super) const KEPT: Duration = Duration::from_secs(45);

/// GCRA: the time at which the bucket is full, by the register's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Bucket {
    rule: Rule,
    full_at: u64,
}

impl Bucket {
    /// The time that its tokens have still to come. No more than its span, whatever the clock has done. While more tokens are at large than the bound has room
    /// for, the others keep their room in it: it is refilled only beside them.
    fn backlog(&self, at_large: u32, now: u64) -> u64 {
        let room = self.rule.time_of(at_large);
        let room = room.saturating_sub(nanos(AT_LARGE));
        let backlog = self.full_at.saturating_sub(now).max(room);
        backlog.min(self.rule.span())
    }

    fn set(&mut self, backlog: u64, now: u64) {
        self.full_at = now.saturating_add(backlog.min(self.rule.span()));
    }
}

/// What one purchase sold, until it is settled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Lot {
    sold: Sold,
    rule: Rule,
}

/// A replica that has bought, or tried to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Holder {
    replica: ReplicaId,
    /// The first purchase that was made here.
    first: u64,
    /// The highest purchase that was decided.
    decided: u64,
    seen: u64,
    turn: Turn,
    lots: Vec<Lot>,
}

/// What is known of the purchases of one replica.
pub(super) struct Purchases {
    pub first: u64,
    pub decided: u64,
    pub open: Vec<Sold>,
}

/// How a statement was met.
pub(super) struct Met {
    /// Whether what is at hand may be kept for long.
    pub keeps: bool,
    /// What one replica may have at hand for long.
    pub share: u32,
    /// How long until it is worth to ask again for what was not sold.
    pub wait: u64,
    /// How long nothing more is sold ahead.
    pub pause: u64,
}

/// One caller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Shared {
    /// One for each limit that replicas state. A sale counts in all, and needs room in that of its own replica. The one that was stated last is
    /// the first.
    buckets: Vec<Bucket>,
    /// Those with claims in the order in which they were refused.
    holders: Vec<Holder>,
}

impl Shared {
    pub(super) fn holders(&self) -> usize {
        self.holders.len()
    }

    pub(super) fn knows(&self, replica: ReplicaId) -> bool {
        self.holders.iter().any(|holder| holder.replica == replica)
    }

    /// It leaves, or is dead. What it has at hand is at large all the same, until no token is so old: one that leaves ends its requests first.
    pub(super) fn forget(&mut self, replica: ReplicaId) {
        let has_any = |holder: &Holder| holder.lots.iter().any(|lot| lot.sold.ahead > 0);
        self.holders
            .retain(|holder| holder.replica != replica || has_any(holder));
        let mut holders = self.holders.iter_mut();
        if let Some(holder) = holders.find(|holder| holder.replica == replica) {
            holder.turn.claim = None;
        }
    }

    /// Forgets what no longer matters. Returns whether anything is left.
    pub(super) fn keep(&mut self, now: u64) -> bool {
        // By what is at large until now, and not by what will be.
        for at in 0..self.buckets.len() {
            let backlog = self.backlog(at, now);
            self.buckets[at].set(backlog, now);
        }
        for holder in &mut self.holders {
            // The clock may have been set back.
            let was_set_back = holder.seen > now;
            holder.seen = holder.seen.min(now);
            let claim = &mut holder.turn.claim;
            claim.take_if(|claim| was_set_back || claim.until <= now);
        }
        let since = now.saturating_sub(nanos(KEPT));
        self.holders.retain(|holder| holder.seen >= since);
        self.buckets.retain(|bucket| bucket.full_at > now);
        !self.holders.is_empty() || !self.buckets.is_empty()
    }

    /// Takes back what this replica has settled, and decides about its purchase if that is a new one. To be called after [`keep`](Self::keep), at
    /// the same time.
    pub(super) fn sync(&mut self, replica: ReplicaId, want: &Want, now: u64) -> Met {
        let bucket = self.bucket(want.rule);
        self.buckets[..=bucket].rotate_right(1);
        self.buckets.truncate(MAX_RULES);
        let at = self.holder(replica, want, now);
        for settled in &want.settled {
            self.settle(at, settled, now);
        }
        self.holders[at].follow(want);
        let is_new = want.purchase > self.holders[at].decided;
        if is_new {
            self.holders[at].decided = want.purchase;
            self.take(want.charge, now);
        }
        let (left, size) = (self.left(0, now), want.rule.size());
        let plenty = left >= size / 2;
        let dealing = u32::try_from(self.holders.len()).unwrap_or(u32::MAX);
        let share = want.rule.most() / dealing.saturating_mul(2);
        let pause = turn::pause(dealing);
        let wait = match is_new {
            true => {
                let sold = self.offer(at, want, (left, plenty, share), now);
                self.sell(at, want, sold, now);
                self.queue(at, want, sold, (plenty, pause), now)
            }
            false => self.wait(at, (plenty, pause), now),
        };
        Met {
            // What it needs at once is more than it may keep.
            keeps: plenty && share >= want.ahead,
            share,
            wait,
            pause,
        }
    }

    /// What it gets in its turn.
    fn offer(
        &self,
        at: usize,
        want: &Want,
        (left, plenty, share): (u32, bool, u32),
        now: u64,
    ) -> Sold {
        let (most, at_large) = (want.rule.most(), self.at_large(want.rule));
        let lead = self.holders[at].turn.lead;
        let old = self.left(nanos(GRACE), now);
        let others = self.others(at, |claim| (0, claim.needed));
        let needed = turn::share(left, lead, want.needed, &others).max(want.needed.min(old));
        // Half is left to others, so that what one replica buys ahead keeps no other waiting.
        let half = (left - needed).saturating_sub(turn::total(&others)) / 2;
        let others = self.others(at, |claim| (claim.needed, claim.ahead));
        let lead = lead.saturating_add(needed);
        let old = old.saturating_sub(needed) / 2;
        let ahead = want.ahead.min(most.saturating_sub(at_large));
        let ahead = turn::share(half, lead, ahead, &others).max(ahead.min(old));
        let mine = self.holders[at].at_large(want.rule);
        // A quarter is left to those that need more at once.
        let room = (most - most / 4).saturating_sub(at_large);
        let long = want.long.min(half).min(share.saturating_sub(mine));
        let long = if plenty { long.min(room) } else { 0 };
        Sold {
            purchase: want.purchase,
            needed,
            ahead: ahead.max(long),
        }
    }

    fn sell(&mut self, at: usize, want: &Want, sold: Sold, now: u64) {
        if (sold.needed, sold.ahead) == (0, 0) {
            return;
        }
        self.take(sold.needed.saturating_add(sold.ahead), now);
        let lots = &mut self.holders[at].lots;
        if lots.len() >= MAX_LOTS {
            lots.remove(0);
        }
        lots.push(Lot {
            sold,
            rule: want.rule,
        });
    }

    /// What it did not get is its claim. Returns how long until it is worth to ask again.
    fn queue(
        &mut self,
        mut at: usize,
        want: &Want,
        sold: Sold,
        (plenty, pause): (bool, u64),
        now: u64,
    ) -> u64 {
        let turn = &mut self.holders[at].turn;
        let had_claim = turn.claim.is_some();
        let is_renewed = turn.count(want, sold, plenty, now);
        let is_served = (sold.needed, sold.ahead) != (0, 0);
        if turn.claim.is_some() && (is_served || !had_claim) {
            self.holders[at..].rotate_left(1);
            at = self.holders.len() - 1;
        }
        let least = turn::least(self.holders.iter().map(|holder| &holder.turn));
        for holder in &mut self.holders {
            holder.turn.advance(least, want.rule);
        }
        let wait = self.wait(at, (plenty, pause), now);
        let claim = self.holders[at].turn.claim.as_mut();
        if let Some(claim) = claim.filter(|_| is_renewed) {
            claim.until = now.saturating_add(wait).saturating_add(nanos(GRACE));
        }
        wait
    }

    /// How long until it is worth to ask again under the limit that was stated last: until its turn, or until a token is there that was left.
    fn wait(&self, at: usize, (plenty, pause): (bool, u64), now: u64) -> u64 {
        let rule = self.buckets[0].rule;
        let others = self.others(at, |claim| (0, claim.needed));
        let before = turn::before(self.holders[at].turn.lead, &others);
        let until = |tokens, grace| {
            let time = self.backlog(0, now).saturating_add(rule.time_of(tokens));
            time.saturating_add(grace).saturating_sub(rule.span())
        };
        let turn = until(before.saturating_add(1), 0);
        let wait = turn.min(until(1, nanos(GRACE)));
        // Tokens that come slowly are asked for one by one, so they need no pause. Nor does a bucket that has enough, whoever holds what was sold ahead.
        match rule.interval < pause {
            true if plenty && wait == 0 => 0,
            true => wait.max(pause),
            false => wait,
        }
    }

    fn others(&self, at: usize, part: impl Fn(&Claim) -> (u32, u32)) -> Vec<Other> {
        let turns = self.holders.iter().map(|holder| &holder.turn);
        turn::others(turns, at, part)
    }

    /// The purchases of this replica.
    pub(super) fn purchases(&self, replica: ReplicaId) -> Purchases {
        let mut holders = self.holders.iter();
        let holder = holders.find(|holder| holder.replica == replica);
        let lots = holder.map(|holder| &*holder.lots).unwrap_or_default();
        Purchases {
            first: holder.map_or(0, |holder| holder.first),
            decided: holder.map_or(0, |holder| holder.decided),
            open: lots.iter().map(|lot| lot.sold).collect(),
        }
    }

    /// How long until the burst is full, under the limit that was stated last.
    pub(super) fn reset(&self, now: u64) -> u64 {
        match self.buckets.is_empty() {
            true => 0,
            false => self.backlog(0, now),
        }
    }

    /// Tokens under this limit that were sold ahead, and are not known to be spent.
    fn at_large(&self, rule: Rule) -> u32 {
        let holders = self.holders.iter();
        holders.fold(0, |sum, holder| sum.saturating_add(holder.at_large(rule)))
    }

    fn backlog(&self, bucket: usize, now: u64) -> u64 {
        let bucket = &self.buckets[bucket];
        bucket.backlog(self.at_large(bucket.rule), now)
    }

    /// Tokens in the first bucket that have been there for such a time.
    fn left(&self, age: u64, now: u64) -> u32 {
        let rule = self.buckets[0].rule;
        let backlog = self.backlog(0, now).saturating_add(age);
        let left = rule.span().saturating_sub(backlog) / rule.interval.max(1);
        left.try_into().unwrap_or(u32::MAX)
    }

    fn bucket(&mut self, rule: Rule) -> usize {
        let found = self.buckets.iter().position(|bucket| bucket.rule == rule);
        found.unwrap_or_else(|| {
            self.buckets.push(Bucket { rule, full_at: 0 });
            self.buckets.len() - 1
        })
    }

    fn holder(&mut self, replica: ReplicaId, want: &Want, now: u64) -> usize {
        let found = self
            .holders
            .iter()
            .position(|holder| holder.replica == replica);
        let at = found.unwrap_or_else(|| {
            self.holders.push(Holder {
                replica,
                // One that buys nothing tells of a purchase that was made before.
                first: want.purchase.saturating_add(u64::from(!want.buys())),
                decided: 0,
                seen: now,
                turn: Turn::default(),
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
        for at in 0..self.buckets.len() {
            let backlog = self.backlog(at, now);
            let more = self.buckets[at].rule.time_of(tokens);
            self.buckets[at].set(backlog.saturating_add(more), now);
        }
    }

    /// What was sold for requests that waited is spent, and does not come back.
    fn settle(&mut self, holder: usize, settled: &Settled, now: u64) {
        let lots = &self.holders[holder].lots;
        let is_it = |lot: &Lot| lot.sold.purchase == settled.purchase;
        let Some(at) = lots.iter().position(is_it) else {
            return;
        };
        let rule = lots[at].rule;
        let bucket = self.buckets.iter().position(|bucket| bucket.rule == rule);
        let before = bucket.map(|bucket| (bucket, self.backlog(bucket, now)));
        let lot = self.holders[holder].lots.remove(at);
        if let Some((bucket, backlog)) = before {
            let gain = rule.time_of(settled.unspent.min(lot.sold.ahead));
            self.buckets[bucket].set(backlog.saturating_sub(gain), now);
        }
    }
}

impl Holder {
    fn at_large(&self, rule: Rule) -> u32 {
        let lots = self.lots.iter().filter(|lot| lot.rule == rule);
        lots.fold(0, |sum, lot| sum.saturating_add(lot.sold.ahead))
    }

    /// What its replica still has. A purchase before the last that it does not speak of is spent: its tokens are never at hand again.
    fn follow(&mut self, want: &Want) {
        self.lots.retain_mut(|lot| {
            let mut held = want.held.iter();
            let held = held.find(|held| held.purchase == lot.sold.purchase);
            if let Some(held) = held {
                lot.sold.ahead = lot.sold.ahead.min(held.left);
            }
            held.is_some() || lot.sold.purchase >= want.purchase
        });
    }
}
