//! How the rest of a window is spread to its end, and what is first come, first served before.

use std::time::Duration;

use super::{
    super::{LedgerRules, Standing, forecast::when_in_later_windows},
    Outside, ROUNDING, TICK, Taken, TokenBucket, Window, spread_time,
};

impl Window {
    /// How many attempts with this standing may be sent at once because they are first come, first served, or due by the even line;
    /// `None` if each must wait its turn.
    pub(in super::super) fn due_at_once(
        &self,
        rules: &LedgerRules,
        outside: Outside,
        (taken, standing): (Taken, Standing),
        now: Duration,
    ) -> Option<u64> {
        let available = self.remaining.saturating_sub(taken.all);
        let spare = available as f64 - self.withheld(rules, outside, available, now);
        let first_come = self.first_come(rules, available);
        if first_come <= 0.0 {
            return None;
        }
        let units = match standing {
            Standing::Interactive => first_come.min(spare),
            Standing::Aged | Standing::Batch => {
                let unspent = spare + taken.in_advance as f64;
                let due = unspent - self.even_at_time(rules, outside, now);
                first_come.min(spare).min(due)
            }
        };
        Some(units.max(0.0) as u64)
    }

    /// Units left that are first come, first served: of those that are not batch's, the share `spread_above`.
    pub(super) fn first_come(&self, rules: &LedgerRules, available: u64) -> f64 {
        let used = self.limit.saturating_sub(available) as f64;
        let batch = self.batch.min(self.limit) as f64;
        let others = self.limit as f64 - batch;
        (rules.spread_above * others - (used - batch).max(0.0)).max(0.0)
    }

    /// When the even line of the whole window is down to `spare` units. It falls from all units that might be granted when the window
    /// was first reported to none when the spread ends. Batch may go while no more are used than it says.
    pub(super) fn even_at(&self, rules: &LedgerRules, outside: Outside, spare: f64) -> Duration {
        let end = self.spread_end();
        let (whole, all) = self.even_line(rules, outside);
        // No line can be drawn.
        if whole <= 0.0 || all < 1.0 {
            return self.opened;
        }
        let left = Duration::try_from_secs_f64(whole * (spare.max(0.0) / all).min(1.0));
        end.saturating_sub(left.unwrap_or(Duration::MAX))
            .max(self.opened)
    }

    /// What the even line of the whole window says at this time.
    pub(super) fn even_at_time(&self, rules: &LedgerRules, outside: Outside, now: Duration) -> f64 {
        let (whole, all) = self.even_line(rules, outside);
        if whole <= 0.0 || all < 1.0 {
            return 0.0;
        }
        let left = self.spread_end().saturating_sub(now).as_secs_f64();
        all * (left / whole).min(1.0)
    }

    /// For how many seconds the even line falls, and from how many units.
    pub(super) fn even_line(&self, rules: &LedgerRules, outside: Outside) -> (f64, f64) {
        let whole = self.spread_end().saturating_sub(self.opened).as_secs_f64();
        let initial = self.at_opening as f64;
        let expected = (outside.rate * whole).min(initial * outside.most);
        (whole, initial - rules.reserved(self.limit).max(expected))
    }

    /// The time between two units if these are dealt out evenly until the spread ends.
    pub(super) fn even_gap(&self, spare: f64, now: Duration) -> Duration {
        let left = self.spread_end().saturating_sub(now);
        left.div_f64(spare.max(1.0))
    }

    /// Units left that are first come, first served, while attempts may take `claimed`.
    pub(in super::super) fn first_come_left(&self, rules: &LedgerRules, claimed: u64) -> f64 {
        self.first_come(rules, self.remaining.saturating_sub(claimed))
    }

    /// When the spread ends.
    pub(super) fn spread_end(&self) -> Duration {
        self.opened.saturating_add(spread_time(self.length()))
    }

    /// Adds the tokens that have accrued. `spare` is the number of units that may still be granted.
    pub(super) fn accrue(&mut self, spare: f64, now: Duration) {
        let tokens = self.tokens(spare, now);
        let updated = self
            .bucket
            .as_ref()
            .map_or(now, |bucket| bucket.updated.max(now));
        self.bucket = Some(TokenBucket { tokens, updated });
    }

    /// Tokens of the spread that are available now.
    pub(super) fn tokens(&self, spare: f64, now: Duration) -> f64 {
        // The first token is available at once; otherwise the last one would be due at the end.
        let Some(TokenBucket { tokens, updated }) = self.bucket else {
            return 1.0;
        };
        let left = self.spread_end().saturating_sub(updated).as_secs_f64();
        let passed = now.saturating_sub(updated).as_secs_f64();
        if left <= 0.0 {
            return tokens;
        }
        tokens + (spare - tokens).max(0.0) * (passed / left).min(1.0)
    }

    /// When the next token of the spread is due; `None` if one is available. Call `accrue` first.
    pub(super) fn next_token_at(&self, spare: f64, now: Duration) -> Option<Duration> {
        let end = self.spread_end();
        let tokens = self.bucket.as_ref().map_or(1.0, |bucket| bucket.tokens);
        if now >= end || tokens >= 1.0 - ROUNDING {
            return None;
        }
        let left = (end - now).as_secs_f64();
        // At least one unit is spare, so this is at most 1.
        let share = (1.0 - tokens) / (spare - tokens);
        let wait = Duration::try_from_secs_f64(left * share.min(1.0)).unwrap_or(Duration::MAX);
        Some(now.saturating_add(wait.max(TICK)).min(end))
    }

    /// When the unit after `ahead` others is expected to be available. Only attempts in flight in this window count as spent: an
    /// answer will soon resolve those in doubt.
    pub(in super::super) fn when_available(
        &self,
        rules: &LedgerRules,
        outside: Outside,
        (standing, ahead): (Standing, u64),
        now: Duration,
    ) -> Duration {
        let available = self.remaining.saturating_sub(self.in_flight);
        let spare = available as f64 - self.withheld(rules, outside, available, now);
        let wanted = ahead as f64 + 1.0;
        let end = self.spread_end();
        if spare < wanted {
            if wanted <= available as f64 - self.remaining_reserve(rules) {
                return end.max(now);
            }
            return when_in_later_windows(
                rules,
                (self.limit, self.length()),
                (standing, wanted - spare.max(0.0)),
                self.ends,
            );
        }
        let first_come = self.first_come(rules, available);
        let before_spread = match standing {
            Standing::Interactive => first_come,
            // Of each unit of batch, only this share was first come.
            Standing::Aged | Standing::Batch if first_come > 0.0 => first_come / rules.spread_above,
            Standing::Aged | Standing::Batch => 0.0,
        };
        let available_now = before_spread + self.tokens(spare, now);
        let spread = if wanted <= available_now || now >= end {
            now
        } else {
            let share = (wanted - available_now) / (spare - available_now).max(1.0);
            now.saturating_add((end - now).mul_f64(share.clamp(0.0, 1.0)))
        };
        let even = || self.even_at(rules, outside, spare - ahead as f64);
        match standing {
            Standing::Interactive => spread,
            Standing::Aged if first_come <= 0.0 => spread,
            Standing::Aged => {
                let gaps = self.even_gap(spare, now).mul_f64(ahead as f64);
                let at = self.next_aged.max(now).saturating_add(gaps);
                spread.max(at.min(even()))
            }
            Standing::Batch => spread.max(even()),
        }
    }
}
