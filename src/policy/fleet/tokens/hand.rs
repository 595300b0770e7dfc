//! The tokens that a purse has at hand, and the purchases that it is done with.

use std::{collections::VecDeque, time::Duration};

use super::{Held, Sale, Settled};

/// Purchases of which tokens are at hand at one time. The oldest is spent first.
const MAX_OPEN: usize = 3;

/// Settled purchases that the pool has not confirmed. It confirms all with each answer, so there are more only while there is none; the
/// oldest then count as spent.
const MAX_SETTLED: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Hand {
    /// Bought ahead. The first ends first.
    lots: VecDeque<Lot>,
    /// Bought for requests that waited, and until when.
    soon: (u32, Duration),
    settled: VecDeque<Settled>,
}

/// Tokens of one purchase.
#[derive(Debug)]
struct Lot {
    purchase: u64,
    left: u32,
    until: Duration,
}

impl Hand {
    /// How many there are.
    pub(super) fn count(&self, now: Duration) -> u32 {
        let lots = self.lots.iter().filter(|lot| lot.until > now);
        let (soon, until) = self.soon;
        let soon = if until > now { soon } else { 0 };
        lots.fold(soon, |sum, lot| sum.saturating_add(lot.left))
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        self.expire(now);
        if self.soon.0 > 0 {
            self.soon.0 -= 1;
            return true;
        }
        let Some(lot) = self.lots.front_mut() else {
            return false;
        };
        lot.left -= 1;
        let (purchase, left) = (lot.purchase, lot.left);
        if left == 0 {
            self.lots.pop_front();
            self.settle(purchase, 0);
        }
        true
    }

    /// Tokens for requests that waited.
    pub(super) fn add_soon(&mut self, count: u32, until: Duration) {
        self.soon = (count, until);
    }

    /// Tokens that were sold ahead, less those that have been spent since.
    pub(super) fn add(&mut self, purchase: u64, left: u32, until: Duration, now: Duration) {
        if left == 0 || until <= now {
            self.settle(purchase, left);
            return;
        }
        self.lots.push_back(Lot {
            purchase,
            left,
            until,
        });
    }

    /// What was bought ahead ends then at the latest.
    pub(super) fn shorten(&mut self, until: Duration) {
        for lot in &mut self.lots {
            lot.until = lot.until.min(until);
        }
    }

    pub(super) fn expire(&mut self, now: Duration) {
        if self.soon.1 <= now {
            self.soon.0 = 0;
        }
        while let Some(lot) = self.lots.pop_front_if(|lot| lot.until <= now) {
            self.settle(lot.purchase, lot.left);
        }
    }

    /// Gives all back.
    pub(super) fn clear(&mut self) {
        self.soon.0 = 0;
        while let Some(lot) = self.lots.pop_front() {
            self.settle(lot.purchase, lot.left);
        }
    }

    /// No more of this purchase will be spent.
    pub(super) fn settle(&mut self, purchase: u64, unspent: u32) {
        if self.settled.len() >= MAX_SETTLED {
            self.settled.pop_front();
        }
        self.settled.push_back(Settled { purchase, unspent });
    }

    /// Forgets what the pool has heard.
    pub(super) fn confirm(&mut self, sale: &Sale) {
        let is_open = |purchase| sale.open.iter().any(|open| open.purchase == purchase);
        self.settled
            .retain(|settled| settled.purchase > sale.purchase || is_open(settled.purchase));
    }

    /// There is nobody to whom anything could go back.
    pub(super) fn forget_settled(&mut self) {
        self.settled.clear();
    }

    /// Whether anything goes back that the pool has not heard of.
    pub(super) fn returns(&self) -> bool {
        self.settled.iter().any(|settled| settled.unspent > 0)
    }

    /// When the first of what was bought ahead ends.
    pub(super) fn expiry(&self) -> Option<Duration> {
        self.lots.front().map(|lot| lot.until)
    }

    /// Whether nothing was bought ahead that is still there.
    pub(super) fn has_no_lot(&self) -> bool {
        self.lots.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.lots.len() < MAX_OPEN
    }

    pub(super) fn held(&self) -> Vec<Held> {
        let lots = self.lots.iter().map(|lot| Held {
            purchase: lot.purchase,
            left: lot.left,
        });
        lots.collect()
    }

    pub(super) fn settled(&self) -> Vec<Settled> {
        self.settled.iter().copied().collect()
    }

    #[cfg(test)]
    pub(super) fn lots(&self) -> usize {
        self.lots.len()
    }
}
