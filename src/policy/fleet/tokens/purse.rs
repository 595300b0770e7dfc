//! A replica's side: the tokens of one caller that it has bought, and what it buys next.

use std::{collections::VecDeque, time::Duration};

use super::{CallerKey, LIFE, Rule, Sale, Settled, Want, bucket::KEPT, nanos};

/// A purchase that has no answer after this time is given up, with whatever it bought: those who waited for it have long gone.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tokens are bought ahead for as long a time as this, by what was spent in the last one. It leaves time to spend them.
const AHEAD: Duration = Duration::from_secs(2);

/// Purchases of which tokens are at hand at one time. The oldest is spent first.
const MAX_OPEN: usize = 3;

/// Settled purchases that the pool has not confirmed. It confirms all with each answer, so there are more only while there is none; the
/// oldest then count as spent.
const MAX_SETTLED: usize = 8;

/// A pool that knows nothing of a purchase which was decided within this time has lost it. It is a little less than the pool keeps it.
const KNOWN: Duration = Duration::from_secs(KEPT.as_secs() - 5);

/// For how long a caller goes by the replica's own limiter when the pool has no room for it.
const NO_ROOM: Duration = Duration::from_secs(5);

/// How a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// It has a token.
    Token,
    /// It needs none: the pool does not count this caller.
    Free,
    /// There is none until then.
    Refused(Duration),
    /// It is not known: the pool has to be asked.
    Ask,
}

/// A purchase that is to be decided.
#[derive(Debug)]
struct Pending {
    purchase: u64,
    stated: Duration,
    needed: u32,
    ahead: u32,
    charge: u32,
}

#[derive(Debug)]
struct Lot {
    purchase: u64,
    left: u32,
    until: Duration,
}

/// What was spent in this and in the last interval of [`AHEAD`].
#[derive(Debug, Default)]
struct Spent {
    interval: u64,
    this: u32,
    last: u32,
}

impl Spent {
    fn at(&mut self, now: Duration) -> &mut Self {
        let interval = nanos(now) / nanos(AHEAD);
        if interval != self.interval {
            let follows = interval == self.interval + 1;
            self.last = if follows { self.this } else { 0 };
            self.this = 0;
            self.interval = interval;
        }
        self
    }
}

/// See the module. All times are by the replica's own clock.
#[derive(Debug)]
pub struct Purse {
    rule: Rule,
    /// The last number that was used. Numbers grow with the clock, so that a new purse does not begin with those of one that was dropped.
    last: u64,
    pending: Option<Pending>,
    /// The purchase that was decided last, and when.
    decided: Option<(u64, Duration)>,
    lots: VecDeque<Lot>,
    settled: VecDeque<Settled>,
    /// Requests that wait for an exchange.
    waiting: u32,
    refused_until: Duration,
    /// Nothing is bought ahead before this time.
    renew_at: Duration,
    free_until: Duration,
    spent: Spent,
    /// Requests that were let through without a token.
    owed: u32,
    /// When the burst is full again, as the pool said last.
    full_at: Duration,
}

impl Purse {
    pub fn new(rule: Rule) -> Purse {
        Purse {
            rule,
            last: 0,
            pending: None,
            decided: None,
            lots: VecDeque::new(),
            settled: VecDeque::new(),
            waiting: 0,
            refused_until: Duration::ZERO,
            renew_at: Duration::ZERO,
            free_until: Duration::ZERO,
            spent: Spent::default(),
            owed: 0,
            full_at: Duration::ZERO,
        }
    }

    /// The limit has changed. Tokens of the old one go back.
    pub fn follow(&mut self, rule: Rule) {
        if self.rule == rule {
            return;
        }
        self.rule = rule;
        self.give_up();
        while let Some(lot) = self.lots.pop_front() {
            self.settle(lot.purchase, lot.left);
        }
        self.owed = 0;
        self.refused_until = Duration::ZERO;
        self.full_at = Duration::ZERO;
    }

    /// Takes a token for a request, if there is one.
    pub fn take(&mut self, now: Duration) -> Take {
        self.expire(now);
        if let Some(lot) = self.lots.front_mut() {
            lot.left -= 1;
            let (purchase, left) = (lot.purchase, lot.left);
            if left == 0 {
                self.lots.pop_front();
                self.settle(purchase, 0);
            }
            self.count(now);
            return Take::Token;
        }
        if now < self.free_until {
            return Take::Free;
        }
        if now < self.refused_until {
            return Take::Refused(self.refused_until - now);
        }
        Take::Ask
    }

    /// A request was let through without a token, because the pool could not be asked.
    pub fn let_through(&mut self, now: Duration) {
        self.owed = self.owed.saturating_add(1);
        self.count(now);
    }

    /// A request waits for the next exchange, until [`leave`](Self::leave).
    pub fn wait(&mut self) {
        self.waiting = self.waiting.saturating_add(1);
    }

    pub fn leave(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// When it next has something to say; `None` if it has not.
    pub fn due(&self, now: Duration) -> Option<Duration> {
        let returns = self.settled.iter().any(|settled| settled.unspent > 0);
        let asks = self.waiting > 0 && self.lots.is_empty() && self.refused_until <= now;
        if self.pending.is_some() || returns || asks || self.owed > 0 {
            return Some(now);
        }
        let expiry = self.lots.front().map(|lot| lot.until);
        let renewal = self.wants_more(now).then(|| self.renew_at.max(now));
        expiry.into_iter().chain(renewal).min()
    }

    /// What to say in an exchange that begins now; `None` if there is nothing. `used` is what the replica's own limiter counts of the burst.
    pub fn want(&mut self, caller: CallerKey, used: u32, now: Duration) -> Option<Want> {
        self.expire(now);
        let is_old = |pending: &Pending| now.saturating_sub(pending.stated) >= PATIENCE;
        if self.pending.as_ref().is_some_and(is_old) {
            self.give_up();
        }
        if self.pending.is_none() {
            self.pending = self.purchase(used, now);
        }
        if self.pending.is_none() && self.settled.is_empty() {
            return None;
        }
        let pending = self.pending.as_ref();
        Some(Want {
            caller,
            rule: self.rule,
            purchase: self.last,
            needed: pending.map_or(0, |pending| pending.needed),
            ahead: pending.map_or(0, |pending| pending.ahead),
            charge: pending.map_or(0, |pending| pending.charge),
            settled: self.settled.iter().copied().collect(),
        })
    }

    /// The purchase that is due.
    fn purchase(&mut self, used: u32, now: Duration) -> Option<Pending> {
        let needed = match self.lots.is_empty() && self.refused_until <= now {
            true => self.waiting,
            false => 0,
        };
        let ahead = match needed > 0 || (self.renew_at <= now && self.wants_more(now)) {
            true => self.target(now).saturating_sub(self.at_hand(now)),
            false => 0,
        };
        // What its own limiter no longer counts is refilled in the bucket as well.
        self.owed = self.owed.min(used);
        if needed == 0 && ahead == 0 && self.owed == 0 {
            return None;
        }
        let number = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        self.last = number.max(self.last.saturating_add(1));
        Some(Pending {
            purchase: self.last,
            stated: now,
            needed,
            ahead,
            charge: self.owed,
        })
    }

    /// What the pool says, which may be an old answer, or one that came before. Those who wait should look again.
    pub fn apply(&mut self, sale: &Sale, now: Duration) {
        if !sale.has_room {
            self.free_until = now + NO_ROOM;
            self.pending = None;
            return;
        }
        let is_open = |purchase| sale.open.iter().any(|(open, _)| *open == purchase);
        self.settled
            .retain(|settled| settled.purchase > sale.purchase || is_open(settled.purchase));
        let decides = |pending: &mut Pending| pending.purchase == sale.purchase;
        let Some(pending) = self.pending.take_if(decides) else {
            return;
        };
        self.full_at = now + sale.reset;
        self.renew_at = now + sale.pause;
        self.owed = self.owed.saturating_sub(pending.charge);
        // A pool that has lost what was bought has lost what was spent as well.
        let before = self.decided.replace((sale.purchase, now));
        let lost = before
            .is_some_and(|(purchase, at)| purchase < sale.first && now.saturating_sub(at) < KNOWN);
        if lost {
            self.owed = u32::MAX;
        }
        let sold = sale.open.iter().find(|(open, _)| *open == sale.purchase);
        let sold = sold.map_or(0, |(_, count)| *count);
        if sold < pending.needed.saturating_add(pending.ahead) {
            self.refused_until = now + sale.wait;
        }
        if sold == 0 {
            return;
        }
        // Those who had waited for these, and went when it took too long, have spent theirs.
        let paid = if lost { 0 } else { self.owed.min(sold) };
        self.owed -= paid;
        let lot = Lot {
            purchase: sale.purchase,
            left: sold - paid,
            until: pending.stated + LIFE,
        };
        if lot.left == 0 || lot.until <= now {
            self.settle(lot.purchase, lot.left);
        } else {
            self.lots.push_back(lot);
        }
    }

    /// Tokens at hand.
    pub fn at_hand(&self, now: Duration) -> u32 {
        let lots = self.lots.iter().filter(|lot| lot.until > now);
        lots.fold(0, |sum, lot| sum.saturating_add(lot.left))
    }

    /// How long it refuses requests; `None` if it does not.
    pub fn refusal(&self, now: Duration) -> Option<Duration> {
        let refuses = now < self.refused_until && now >= self.free_until && self.at_hand(now) == 0;
        refuses.then(|| self.refused_until - now)
    }

    /// Requests of the burst that are left over the fleet, as far as is known, and how long until it is full.
    pub fn outlook(&self, now: Duration) -> (u32, Duration) {
        let reset = self.full_at.saturating_sub(now);
        if now < self.refused_until {
            return (self.at_hand(now), reset);
        }
        let free = self
            .rule
            .time_of(self.rule.burst)
            .saturating_sub(nanos(reset));
        let left = u32::try_from(free / self.rule.interval.max(1)).unwrap_or(u32::MAX);
        let left = left.saturating_add(self.at_hand(now));
        (left.min(self.rule.burst), reset)
    }

    /// Whether a new one would behave the same: also what was spent of late is more than it would know.
    pub fn is_idle(&self, now: Duration) -> bool {
        let is_quiet = self.pending.is_none()
            && self.lots.is_empty()
            && self.waiting == 0
            && self.spent_of_late(now) == 0;
        let returns = self.settled.iter().any(|settled| settled.unspent > 0);
        let ends = self.refused_until.max(self.free_until).max(self.full_at);
        is_quiet && !returns && self.owed == 0 && ends <= now
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> u32 {
        self.waiting
    }

    #[cfg(test)]
    pub(super) fn lots(&self) -> usize {
        self.lots.len()
    }

    #[cfg(test)]
    pub(super) fn unconfirmed(&self) -> usize {
        self.settled.len()
    }

    fn count(&mut self, now: Duration) {
        let spent = self.spent.at(now);
        spent.this = spent.this.saturating_add(1);
    }

    /// How many tokens it would have at hand: what was spent of late, but no more than comes in that time or an eighth of the burst. If none
    /// comes in that time they are bought one by one.
    fn target(&self, now: Duration) -> u32 {
        let spent = self.spent_of_late(now);
        match u32::try_from(nanos(AHEAD) / self.rule.interval.max(1)) {
            Ok(0) => 0,
            Ok(refilled) => spent.min(refilled.max(self.rule.burst / 8)),
            Err(_) => spent,
        }
    }

    fn spent_of_late(&self, now: Duration) -> u32 {
        let interval = nanos(now) / nanos(AHEAD);
        match interval.saturating_sub(self.spent.interval) {
            0 => self.spent.this.max(self.spent.last),
            1 => self.spent.this,
            _ => 0,
        }
    }

    fn wants_more(&self, now: Duration) -> bool {
        self.free_until <= now
            && self.lots.len() < MAX_OPEN
            && self.at_hand(now) < self.target(now).div_ceil(2)
    }

    fn expire(&mut self, now: Duration) {
        while let Some(lot) = self.lots.pop_front_if(|lot| lot.until <= now) {
            self.settle(lot.purchase, lot.left);
        }
    }

    fn give_up(&mut self) {
        if let Some(pending) = self.pending.take() {
            // Whatever it was.
            self.settle(pending.purchase, u32::MAX);
        }
    }

    fn settle(&mut self, purchase: u64, unspent: u32) {
        if self.settled.len() >= MAX_SETTLED {
            self.settled.pop_front();
        }
        self.settled.push_back(Settled { purchase, unspent });
    }
}
