//! One of upstream's windows: its remaining units, who spent the others, and how the rest is spread to its end.

use std::time::Duration;

use super::{Hold, HoldReason, LedgerRules, Status};

/// Upstream reports a window's end in whole seconds and may have rounded it up. So the spread ends this much earlier, or by a
/// fifth of a short window.
const RESOLUTION: Duration = Duration::from_secs(1);

/// A token that lacks no more than a rounding error is whole.
const ROUNDING: f64 = 1e-9;

/// A hold always lasts at least this long, so that a task that sleeps for it does not spin.
const TICK: Duration = Duration::from_micros(1);

#[derive(Debug)]
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
    seen_from_start: bool,
    /// revgate's attempts that may have been counted in this window, and those granted in it that are in flight.
    sent: u64,
    in_flight: u64,
    /// Units taken outside revgate.
    pub external: u64,
    bucket: Option<TokenBucket>,
    /// Whether this window made an attempt wait.
    pub contended: bool,
}

/// The spread: tokens that are available now; more accrue evenly until the end.
#[derive(Debug)]
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
            seen_from_start: initial_if_known.is_some(),
            sent,
            in_flight: 0,
            external: initial
                .saturating_sub(report.remaining)
                .saturating_sub(sent),
            bucket: None,
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
    /// new.
    pub(super) fn learn(&mut self, report: &Report, now: Duration) -> (u64, u64) {
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
        let new = gone.saturating_sub(self.sent).saturating_sub(self.external);
        self.external = self.external.saturating_add(new);
        (spent, new)
    }

    /// Records that an attempt is sent. True if it took a token of the spread.
    pub(super) fn record_sent(&mut self) -> bool {
        self.sent += 1;
        self.in_flight += 1;
        match &mut self.bucket {
            Some(bucket) if bucket.tokens >= 1.0 - ROUNDING => {
                bucket.tokens = (bucket.tokens - 1.0).max(0.0);
                true
            }
            _ => false,
        }
    }

    /// Records that an attempt granted in this window has ended.
    pub(super) fn record_end(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Records that an attempt granted in this window was never sent.
    pub(super) fn record_unsent(&mut self, spread: bool) {
        self.sent = self.sent.saturating_sub(1);
        if let Some(bucket) = self.bucket.as_mut().filter(|_| spread) {
            bucket.tokens += 1.0;
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
    /// ends, whichever is more. The expectation is capped at half, so that heavy external use leaves some units.
    /// `rate` is the external units per second of earlier windows.
    fn withheld(&self, rules: &LedgerRules, rate: f64, available: u64, now: Duration) -> f64 {
        let left = self.spread_end().saturating_sub(now).as_secs_f64();
        let rate = rate.max(self.external_rate().unwrap_or(0.0));
        let expected = (rate * left).min((available / 2) as f64);
        self.remaining_reserve(rules).max(expected)
    }

    fn remaining_reserve(&self, rules: &LedgerRules) -> f64 {
        (rules.reserved(self.limit) - self.external as f64).max(0.0)
    }

    /// Whether an attempt must wait. `claimed` is the number of units that attempts in flight or in doubt may take.
    pub(super) fn hold(
        &mut self,
        rules: &LedgerRules,
        rate: f64,
        claimed: u64,
        now: Duration,
    ) -> Option<Hold> {
        let available = self.remaining.saturating_sub(claimed);
        let withheld = self.withheld(rules, rate, available, now);
        let hold = if (available as f64) - withheld < 1.0 - ROUNDING {
            Some(Hold {
                reason: HoldReason::Spent,
                until: Some(self.ends.max(now.saturating_add(TICK))),
            })
        } else if self.first_come(rules, available) > 0.0 {
            None
        } else {
            self.accrue(available as f64 - withheld, now);
            self.next_token_at(available as f64 - withheld, now)
                .map(|until| Hold {
                    reason: HoldReason::Spread,
                    until: Some(until),
                })
        };
        self.contended |= hold.is_some();
        hold
    }

    /// Units left that are first come, first served.
    fn first_come(&self, rules: &LedgerRules, available: u64) -> f64 {
        let used = self.limit.saturating_sub(available) as f64;
        (rules.spread_above * self.limit as f64 - used).max(0.0)
    }

    /// Units left that are first come, first served, while attempts may take `claimed`.
    pub(super) fn first_come_left(&self, rules: &LedgerRules, claimed: u64) -> f64 {
        self.first_come(rules, self.remaining.saturating_sub(claimed))
    }

    /// When the spread ends.
    fn spread_end(&self) -> Duration {
        self.ends.saturating_sub(RESOLUTION.min(self.length() / 5))
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
        rate: f64,
        ahead: u64,
        now: Duration,
    ) -> Duration {
        let available = self.remaining.saturating_sub(self.in_flight);
        let spare = available as f64 - self.withheld(rules, rate, available, now);
        let wanted = ahead as f64 + 1.0;
        let end = self.spread_end();
        if spare < wanted {
            if wanted <= available as f64 - self.remaining_reserve(rules) {
                return end.max(now);
            }
            return when_in_later_windows(
                rules,
                (self.limit, self.length()),
                wanted - spare.max(0.0),
                self.ends,
            );
        }
        let available_now = self.first_come(rules, available) + self.tokens(spare, now);
        if wanted <= available_now || now >= end {
            return now;
        }
        let share = (wanted - available_now) / (spare - available_now).max(1.0);
        now.saturating_add((end - now).mul_f64(share.clamp(0.0, 1.0)))
    }
}

/// When the `wanted`th unit is available in a series of windows that starts at `at`, all with this limit and length.
pub(super) fn when_in_later_windows(
    rules: &LedgerRules,
    (limit, length): (u64, Duration),
    wanted: f64,
    at: Duration,
) -> Duration {
    let grantable = (limit as f64 - rules.reserved(limit)).max(1.0);
    let windows = ((wanted - 1.0) / grantable).floor().max(0.0);
    let within = wanted - windows * grantable;
    let free = rules.spread_above * limit as f64 + 1.0;
    let spread = ((within - free) / (grantable - free).max(1.0)).clamp(0.0, 1.0);
    let after = Duration::try_from_secs_f64(length.as_secs_f64() * (windows + spread));
    at.saturating_add(after.unwrap_or(Duration::MAX))
}
