//! One of upstream's windows: its remaining units, who spent the others, and how the rest is spread to its end.

mod spread;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Hold, HoldReason, LedgerRules, Standing, Status};

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

/// Units that attempts may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub all: u64,
    /// Those of them that are leased for interactive callers. They are spent over time, so they are not ahead of the even line.
    pub in_advance: u64,
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

    /// Counts nothing that was taken until now as taken outside, beside what is known to be.
    pub(super) fn forgive_outside(&mut self) {
        let known = self.sent.saturating_add(self.external);
        self.initial = self.initial.min(self.remaining.saturating_add(known));
    }

    /// Whether it may be over, given that its end is known in whole seconds only.
    pub(super) fn may_be_over(&self, now: Duration) -> bool {
        now.saturating_add(RESOLUTION) >= self.ends
    }

    /// Learns from a report on this window. So many units more than were sent may have been spent by replicas that have not said so yet.
    /// Returns the units newly known to be spent, and how many of the external ones are new.
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

    /// Whether an attempt must wait.
    pub(super) fn hold(
        &mut self,
        rules: &LedgerRules,
        outside: Outside,
        (taken, standing): (Taken, Standing),
        now: Duration,
    ) -> Option<Hold> {
        let available = self.remaining.saturating_sub(taken.all);
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
        let even = || self.even_at(rules, outside, spare + taken.in_advance as f64);
        let own = match standing {
            Standing::Interactive => None,
            Standing::Aged if !is_first_come => None,
            Standing::Aged => Some(self.next_aged.min(even())),
            Standing::Batch => Some(even()),
        };
        let own = own.filter(|at| *at > now);
        let until = spread.into_iter().chain(own).max()?;
        Some(Hold {
            reason: HoldReason::Spread,
            until: Some(until.max(now.saturating_add(TICK))),
        })
    }
}
