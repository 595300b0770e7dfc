//! A replica's side: the tokens of one caller that it has bought, and what it buys next.

use std::time::Duration;

use super::{
    CallerKey, LIFE, LONG_LIFE, Rule, SOON, Sale, Want, bucket::KEPT, demand::Demand, hand::Hand,
    nanos,
};

/// A purchase that has no answer after this time is given up, with whatever it bought: those who waited for it have long gone.
const PATIENCE: Duration = Duration::from_secs(1);

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
    long: u32,
    charge: u32,
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
    hand: Hand,
    /// Requests that wait for an exchange.
    waiting: u32,
    refused_until: Duration,
    /// Whether the pool had less than was asked for last.
    is_short: bool,
    /// Nothing is bought ahead before this time.
    renew_at: Duration,
    free_until: Duration,
    /// Whether what is at hand is kept for long, and how much that may be, as the pool said last.
    keeps: bool,
    share: u32,
    demand: Demand,
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
            hand: Hand::default(),
            waiting: 0,
            refused_until: Duration::ZERO,
            is_short: false,
            renew_at: Duration::ZERO,
            free_until: Duration::ZERO,
            keeps: true,
            share: u32::MAX,
            demand: Demand::new(),
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
        self.hand.clear();
        (self.keeps, self.share) = (true, u32::MAX);
        self.owed = 0;
        self.refused_until = Duration::ZERO;
        self.is_short = false;
        self.full_at = Duration::ZERO;
    }

    /// Takes a token for a request, if there is one.
    pub fn take(&mut self, now: Duration) -> Take {
        if self.hand.take(now) {
            self.demand.count(now);
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
        self.demand.count(now);
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
        let returns = self.hand.returns();
        let asks = self.waiting > 0 && self.at_hand(now) == 0 && self.refused_until <= now;
        if self.pending.is_some() || returns || asks || self.owed > 0 {
            return Some(now);
        }
        let expiry = self.hand.expiry();
        let renewal = self.wants_more(now, false);
        let renewal = renewal.then(|| self.renew_at.max(now));
        expiry.into_iter().chain(renewal).min()
    }

    /// What to say in an exchange that begins now; `None` if there is nothing. `used` is what the replica's own limiter counts of the burst.
    pub fn want(&mut self, caller: CallerKey, used: u32, now: Duration) -> Option<Want> {
        self.hand.expire(now);
        let is_old = |pending: &Pending| now.saturating_sub(pending.stated) >= PATIENCE;
        if self.pending.as_ref().is_some_and(is_old) {
            self.give_up();
        }
        if self.pending.is_none() {
            self.pending = self.purchase(used, now);
        }
        let (held, settled) = (self.hand.held(), self.hand.settled());
        if self.pending.is_none() && held.is_empty() && settled.is_empty() {
            return None;
        }
        let pending = self.pending.as_ref();
        Some(Want {
            caller,
            rule: self.rule,
            purchase: self.last,
            needed: pending.map_or(0, |pending| pending.needed),
            ahead: pending.map_or(0, |pending| pending.ahead),
            long: pending.map_or(0, |pending| pending.long),
            charge: pending.map_or(0, |pending| pending.charge),
            held,
            settled,
        })
    }

    /// The purchase that is due.
    fn purchase(&mut self, used: u32, now: Duration) -> Option<Pending> {
        let at_hand = self.at_hand(now);
        let needed = match at_hand == 0 && self.refused_until <= now {
            true => self.waiting,
            false => 0,
        };
        // With others' exchanges it buys earlier than it would make one.
        let renews = needed > 0 || (self.renew_at <= now && self.wants_more(now, true));
        let (ahead, long) = match renews {
            true => (
                self.demand.short(self.rule, now),
                self.demand.long(self.share, needed > 0, now),
            ),
            false => (0, 0),
        };
        let (ahead, long) = (ahead.saturating_sub(at_hand), long.saturating_sub(at_hand));
        // What its own limiter no longer counts is refilled in the bucket as well.
        self.owed = self.owed.min(used);
        if needed == 0 && ahead == 0 && long == 0 && self.owed == 0 {
            return None;
        }
        let number = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        self.last = number.max(self.last.saturating_add(1));
        Some(Pending {
            purchase: self.last,
            stated: now,
            needed,
            ahead,
            long,
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
        self.hand.confirm(sale);
        // A pool that has lost what was bought has lost what was spent as well.
        let is_lost = |(purchase, at): &mut (u64, Duration)| {
            *purchase < sale.first && now.saturating_sub(*at) < KNOWN
        };
        let lost = self.decided.take_if(is_lost).is_some();
        if lost {
            self.owed = u32::MAX;
        }
        let decides = |pending: &mut Pending| pending.purchase == sale.purchase;
        let pending = self.pending.take_if(decides);
        if !sale.keeps {
            let since = pending.as_ref().map_or(now, |pending| pending.stated);
            self.hand.shorten(since + LIFE);
            self.keeps = false;
        }
        let Some(pending) = pending else {
            return;
        };
        (self.keeps, self.share) = (sale.keeps, sale.share);
        self.decided = Some((sale.purchase, now));
        self.full_at = now + sale.reset;
        self.renew_at = now + sale.pause;
        if !lost {
            self.owed = self.owed.saturating_sub(pending.charge);
        }
        let sold = sale.open.iter().find(|sold| sold.purchase == sale.purchase);
        let (mut needed, mut ahead) = sold.map_or((0, 0), |sold| (sold.needed, sold.ahead));
        let asked = pending.needed.saturating_add(pending.ahead);
        self.is_short = needed.saturating_add(ahead) < asked && sale.wait > Duration::ZERO;
        if self.is_short {
            self.refused_until = now + sale.wait;
        }
        if !lost {
            // Those who had waited for these, and went when it took too long, have spent theirs.
            for sold in [&mut needed, &mut ahead] {
                let paid = self.owed.min(*sold);
                self.owed -= paid;
                *sold -= paid;
            }
        }
        self.hand.add_soon(needed, pending.stated + SOON);
        if sold.is_some_and(|sold| sold.ahead > 0) {
            let life = if sale.keeps { LONG_LIFE } else { LIFE };
            self.hand
                .add(sale.purchase, ahead, pending.stated + life, now);
        }
    }

    /// Tokens at hand.
    pub fn at_hand(&self, now: Duration) -> u32 {
        self.hand.count(now)
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

    /// Whether a new one would behave the same.
    pub fn is_idle(&self, now: Duration) -> bool {
        let has_none = self.hand.has_no_lot() && self.at_hand(now) == 0;
        let is_quiet = self.pending.is_none() && has_none && self.waiting == 0;
        let returns = self.hand.returns();
        let ends = self.refused_until.max(self.free_until).max(self.full_at);
        is_quiet && !returns && self.owed == 0 && ends <= now
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> u32 {
        self.waiting
    }

    #[cfg(test)]
    pub(super) fn lots(&self) -> usize {
        self.hand.lots()
    }

    #[cfg(test)]
    pub(super) fn unconfirmed(&self) -> usize {
        self.hand.settled().len()
    }

    /// Whether it would buy ahead; with `company` in an exchange that is made anyway.
    fn wants_more(&self, now: Duration, company: bool) -> bool {
        let at_hand = self.at_hand(now);
        let is_low = match self.keeps {
            true => {
                let target = self.demand.long(self.share, false, now);
                target > 0 && at_hand <= target / if company { 2 } else { 4 }
            }
            // While it has none and others wait their turn, only a request asks: nothing is sold ahead then.
            false if at_hand == 0 && self.is_short => false,
            false => at_hand < self.demand.short(self.rule, now).div_ceil(2),
        };
        is_low && self.free_until <= now && self.hand.has_room()
    }

    fn give_up(&mut self) {
        if let Some(pending) = self.pending.take() {
            // Whatever it was.
            self.hand.settle(pending.purchase, u32::MAX);
        }
    }
}
