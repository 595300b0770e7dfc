//! One of upstream's windows: its remaining units, who spent the others, and how the rest is spread to its end.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Hold, HoldReason, LedgerRules, Standing, Status, forecast::when_in_later_windows};

/// Upstream reports a window's end in whole seconds and may have rounded it up. So the spread ends this much earlier, or by a
/// fifth of a short window.
pub(super) const RESOLUTION: Duration = Duration::from_secs(1);

/// For how long a window of this length is spread.
pub(super) fn spread_time(length: Duration) -> Duration {
    length - RESOLUTION.min(length / 5)
}

/// What is expected to be used outside revgate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outside {
    /// Units per second.
    pub rate: f64,
    /// The share of what is left that is kept for it at most.
    pub most: f64,
}

/// A token that lacks no more than a rounding error is whole.
const ROUNDING: f64 = 1e-9;

/// A hold always lasts at least this long, so that a task that sleeps for it does not spin.
const TICK: Duration = Duration::from_micros(1);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Window {
    /// The reset that upstream first reported, in epoch seconds. It identifies the window.
    pub reset: u64,
    /// The reset of the window before, for which late answers may still arrive.
    previous: Option<u64>,
    pub opened: Duration,
    /// The earliest reported end, by our clock.
    pub ends: Duration,
    pub limit: u64,
    /// The lowest value reported.
    pub remaining: u64,
    /// Units before revgate's first attempt, and whether that is known or assumed.
    initial: u64,
    /// Units when it was first reported, with that of the attempt whose answer did so: where the even line begins.
    at_opening: u64,
    seen_from_start: bool,
    /// revgate's attempts that may have been counted in this window, and those granted in it that are in flight.
    sent: u64,
    in_flight: u64,
    /// Units taken outside revgate.
    pub external: u64,
    bucket: Option<TokenBucket>,
    /// Units granted to batch callers.
    batch: u64,
    /// When an aged batch caller may take its next unit while some are first come, first served.
    next_aged: Duration,
    /// Whether this window made an attempt wait, other than one of batch for its part alone.
    pub contended: bool,
}

/// The spread: tokens that are available now; more accrue evenly until the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct TokenBucket {
    tokens: f64,
    updated: Duration,
}

/// What an answer reported about a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub limit: Option<u64>,
    pub remaining: u64,
    pub reset: u64,
    pub resets_in: Duration,
}

impl Window {
    /// `initial_if_known` is how many units there were before revgate's first attempt; unknown in a window that was joined
    /// midway. `sent` is the number of attempts that may have been counted already, including the one that was answered.
    pub(super) fn open(
        report: Report,
        previous: Option<u64>,
        initial_if_known: Option<u64>,
        sent: u64,
        now: Duration,
    ) -> Window {
        let initial = initial_if_known.unwrap_or(report.remaining.saturating_add(1));
        Window {
            reset: report.reset,
            previous: previous.filter(|previous| *previous != report.reset),
            opened: now,
            ends: now.saturating_add(report.resets_in),
            limit: report.limit.unwrap_or(initial).max(report.remaining),
            remaining: report.remaining,
            initial,
            at_opening: report.remaining.saturating_add(1),
            seen_from_start: initial_if_known.is_some(),
            sent,
            in_flight: 0,
            external: initial
                .saturating_sub(report.remaining)
                .saturating_sub(sent),
            bucket: None,
            batch: 0,
            next_aged: now,
            contended: false,
        }
    }

    /// Whether a report is about this window. Some servers compute the reset for each answer, so it varies by a second. A report
    /// is about a new window if its reset is later by more than that, or by a second while this window may be over and more units
    /// remain.
    pub(super) fn is_reported_by(&self, report: &Report, now: Duration) -> bool {
        let is_new = self.may_be_over(now) && report.remaining > self.remaining;
        let is_jitter = Some(report.reset) != self.previous;
        report.reset == self.reset
            || (report.reset.saturating_add(1) == self.reset && is_jitter)
            || (report.reset == self.reset.saturating_add(1) && !is_new)
    }

    /// Whether it may be over, given that its end is known in whole seconds only.
    pub(super) fn may_be_over(&self, now: Duration) -> bool {
        now.saturating_add(RESOLUTION) >= self.ends
    }

    /// Learns from a report on this window. Returns the units newly known to be spent, and how many of the external ones are
    /// new. `unsaid` is how many attempts others may have sent beyond those that are known.
    pub(super) fn learn(&mut self, report: &Report, unsaid: u64, now: Duration) -> (u64, u64) {
        let end = now.saturating_add(report.resets_in);
        // A computed end is late by the answer's latency and by what `Date` truncates, and never early: the earliest is best.
        if report.reset == self.reset && !report.resets_in.is_zero() {
            self.ends = self.ends.min(end);
        }
        if let Some(limit) = report.limit {
            self.limit = limit.max(self.remaining.min(report.remaining));
        }
        let spent = self.remaining.saturating_sub(report.remaining);
        self.remaining = self.remaining.min(report.remaining);
        let gone = self.initial.saturating_sub(report.remaining);
        let own = self.sent.saturating_add(unsaid);
        let new = gone.saturating_sub(own).saturating_sub(self.external);
        self.external = self.external.saturating_add(new);
        (spent, new)
    }

    /// Records that an attempt is sent. True if it took a token of the spread.
    pub(super) fn record_sent(&mut self, standing: Standing) -> bool {
        self.sent += 1;
        self.in_flight += 1;
        self.batch += u64::from(standing != Standing::Interactive);
        match &mut self.bucket {
            Some(bucket) if bucket.tokens >= 1.0 - ROUNDING => {
                bucket.tokens = (bucket.tokens - 1.0).max(0.0);
                true
            }
            _ => false,
        }
    }

    /// Records that an aged batch caller takes a unit: the next such unit is due when the even spread of what is left has one more.
    pub(super) fn record_aged(
        &mut self,
        rules: &LedgerRules,
        outside: Outside,
        claimed: u64,
        now: Duration,
    ) {
        let available = self.remaining.saturating_sub(claimed);
        let spare = available as f64 - self.withheld(rules, outside, available, now);
        self.next_aged = now.saturating_add(self.even_gap(spare, now));
    }

    /// Records that an attempt granted in this window has ended.
    pub(super) fn record_end(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Records that an attempt granted in this window was never sent.
    pub(super) fn record_unsent(&mut self, spread: bool, standing: Standing) {
        self.sent = self.sent.saturating_sub(1);
        if standing != Standing::Interactive {
            self.batch = self.batch.saturating_sub(1);
        }
        if let Some(bucket) = self.bucket.as_mut().filter(|_| spread) {
            bucket.tokens += 1.0;
        }
    }

    /// Says how many attempts are in flight.
    pub(super) fn set_in_flight(&mut self, in_flight: u64) {
        self.in_flight = in_flight;
    }

    /// Records attempts that were sent elsewhere, for interactive callers and for batch.
    pub(super) fn count_sent(&mut self, interactive: u64, batch: u64) {
        self.sent = self.sent.saturating_add(interactive).saturating_add(batch);
        self.batch = self.batch.saturating_add(batch);
    }

    /// How many attempts with this standing may be sent at once because they are first come, first served, or due by the even line;
    /// `None` if each must wait its turn.
    pub(super) fn due_at_once(
        &self,
        rules: &LedgerRules,
        outside: Outside,
        (claimed, standing): (u64, Standing),
        now: Duration,
    ) -> Option<u64> {
        let available = self.remaining.saturating_sub(claimed);
        let spare = available as f64 - self.withheld(rules, outside, available, now);
        let first_come = self.first_come(rules, available);
        if first_come <= 0.0 {
            return None;
        }
        let units = match standing {
            Standing::Interactive => first_come.min(spare),
            Standing::Aged | Standing::Batch => {
                first_come.min(spare - self.even_at_time(rules, outside, now))
            }
        };
        Some(units.max(0.0) as u64)
    }

    /// The same window by another clock.
    pub(super) fn shift(&mut self, to: impl Fn(Duration) -> Duration) {
        self.opened = to(self.opened);
        self.ends = to(self.ends);
        self.next_aged = to(self.next_aged);
        if let Some(bucket) = &mut self.bucket {
            bucket.updated = to(bucket.updated);
        }
    }

    /// Whether a report is about a window before the one with this `reset`. Its end is then close to `opened`, because an
    /// answer is late by no more than its latency. If it is not, upstream's clock has been corrected.
    pub(super) fn is_before(report: &Report, reset: u64, opened: Duration, now: Duration) -> bool {
        let end = now.saturating_add(report.resets_in);
        report.reset < reset && end <= opened.saturating_add(RESOLUTION * 2)
    }

    /// Open, spread or spent.
    pub(super) fn state(&self, rules: &LedgerRules, claimed: u64) -> Status {
        let available = self.remaining.saturating_sub(claimed);
        if available == 0 {
            Status::Spent
        } else if self.first_come(rules, available) > 0.0 {
            Status::Open
        } else {
            Status::Spread
        }
    }

    /// Units per second taken outside revgate, averaged over the window. `None` for a window that was joined midway, because
    /// a part of a window does not represent the whole.
    pub(super) fn external_rate(&self) -> Option<f64> {
        let length = self.length().as_secs_f64();
        self.seen_from_start
            .then(|| self.external as f64 / length.max(1.0))
    }

    pub(super) fn length(&self) -> Duration {
        self.ends.saturating_sub(self.opened)
    }

    /// Available units that must not be granted now: what is left of the reserve, or the external use expected until the spread
    /// ends, whichever is more. The expectation is capped, by default at half, so that heavy external use leaves some units.
    /// `outside` is what is known of earlier windows.
    fn withheld(
        &self,
        rules: &LedgerRules,
        outside: Outside,
        available: u64,
        now: Duration,
    ) -> f64 {
        let left = self.spread_end().saturating_sub(now).as_secs_f64();
        let rate = outside.rate.max(self.external_rate().unwrap_or(0.0));
        let expected = (rate * left).min((available as f64 * outside.most).floor());
        self.remaining_reserve(rules).max(expected)
    }

    fn remaining_reserve(&self, rules: &LedgerRules) -> f64 {
        (rules.reserved(self.limit) - self.external as f64).max(0.0)
    }

    /// Whether an attempt must wait. `claimed` is the number of units that attempts in flight or in doubt may take.
    pub(super) fn hold(
        &mut self,
        rules: &LedgerRules,
        outside: Outside,
        (claimed, standing): (u64, Standing),
        now: Duration,
    ) -> Option<Hold> {
        let available = self.remaining.saturating_sub(claimed);
        let withheld = self.withheld(rules, outside, available, now);
        let spare = available as f64 - withheld;
        if spare < 1.0 - ROUNDING {
            self.contended = true;
            return Some(Hold {
                reason: HoldReason::Spent,
                until: Some(self.ends.max(now.saturating_add(TICK))),
            });
        }
        let is_first_come = self.first_come(rules, available) > 0.0;
        let spread = if is_first_come {
            None
        } else {
            self.accrue(spare, now);
            self.next_token_at(spare, now)
        };
        self.contended |= spread.is_some();
        // Beside that, batch leaves to interactive callers what is first come, first served.
        let own = match standing {
            Standing::Interactive => None,
            Standing::Aged if !is_first_come => None,
            Standing::Aged => Some(self.next_aged.min(self.even_at(rules, outside, spare))),
            Standing::Batch => Some(self.even_at(rules, outside, spare)),
        };
        let own = own.filter(|at| *at > now);
        let until = spread.into_iter().chain(own).max()?;
        Some(Hold {
            reason: HoldReason::Spread,
            until: Some(until.max(now.saturating_add(TICK))),
        })
    }

    /// Units left that are first come, first served: of those that are not batch's, the share `spread_above`.
    fn first_come(&self, rules: &LedgerRules, available: u64) -> f64 {
        let used = self.limit.saturating_sub(available) as f64;
        let batch = self.batch.min(self.limit) as f64;
        let others = self.limit as f64 - batch;
        (rules.spread_above * others - (used - batch).max(0.0)).max(0.0)
    }

    /// When the even line of the whole window is down to `spare` units. It falls from all units that might be granted when the window
    /// was first reported to none when the spread ends. Batch may go while no more are used than it says.
    fn even_at(&self, rules: &LedgerRules, outside: Outside, spare: f64) -> Duration {
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
    fn even_at_time(&self, rules: &LedgerRules, outside: Outside, now: Duration) -> f64 {
        let (whole, all) = self.even_line(rules, outside);
        if whole <= 0.0 || all < 1.0 {
            return 0.0;
        }
        let left = self.spread_end().saturating_sub(now).as_secs_f64();
        all * (left / whole).min(1.0)
    }

    /// For how many seconds the even line falls, and from how many units.
    fn even_line(&self, rules: &LedgerRules, outside: Outside) -> (f64, f64) {
        let whole = self.spread_end().saturating_sub(self.opened).as_secs_f64();
        let initial = self.at_opening as f64;
        let expected = (outside.rate * whole).min(initial * outside.most);
        (whole, initial - rules.reserved(self.limit).max(expected))
    }

    /// The time between two units if these are dealt out evenly until the spread ends.
    fn even_gap(&self, spare: f64, now: Duration) -> Duration {
        let left = self.spread_end().saturating_sub(now);
        left.div_f64(spare.max(1.0))
    }

    /// Units left that are first come, first served, while attempts may take `claimed`.
    pub(super) fn first_come_left(&self, rules: &LedgerRules, claimed: u64) -> f64 {
        self.first_come(rules, self.remaining.saturating_sub(claimed))
    }

    /// When the spread ends.
    fn spread_end(&self) -> Duration {
        self.opened.saturating_add(spread_time(self.length()))
    }

    /// Adds the tokens that have accrued. `spare` is the number of units that may still be granted.
    fn accrue(&mut self, spare: f64, now: Duration) {
        let tokens = self.tokens(spare, now);
        let updated = self
            .bucket
            .as_ref()
            .map_or(now, |bucket| bucket.updated.max(now));
        self.bucket = Some(TokenBucket { tokens, updated });
    }

    /// Tokens of the spread that are available now.
    fn tokens(&self, spare: f64, now: Duration) -> f64 {
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
    fn next_token_at(&self, spare: f64, now: Duration) -> Option<Duration> {
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
    pub(super) fn when_available(
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
