//! One window of upstream's: what remains of it, who spent it, and how the rest is spread to its end.

use std::time::Duration;

use super::{Hold, Rules, Why};

/// Upstream tells a window's end in whole seconds, and may have rounded up: what is spread is dealt out by so much
/// before, but in a short window by a fifth of it.
const RESOLUTION: Duration = Duration::from_secs(1);

/// A unit that is short of whole by a rounding error is whole.
const ROUNDING: f64 = 1e-9;

/// A hold is never for no time at all, or whoever sleeps for it would not.
const TICK: Duration = Duration::from_micros(1);

#[derive(Debug)]
pub(super) struct Window {
    /// As upstream tells it, in epoch seconds: the window's name.
    pub reset: u64,
    opened: Duration,
    /// The earliest end that an answer told, on our clock.
    pub ends: Duration,
    pub limit: u64,
    /// The lowest that an answer told.
    pub remaining: u64,
    /// What remained before any attempt of ours.
    before: u64,
    /// Attempts of ours that may have been counted in this window.
    sent: u64,
    /// Units that went without us.
    pub external: u64,
    pace: Option<Pace>,
    /// Somebody was held for the window's sake.
    pub crowded: bool,
}

/// The spread: units that may go by now, and those that still come, evenly until the end.
#[derive(Debug)]
struct Pace {
    tokens: f64,
    at: Duration,
}

/// What an answer told of a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub limit: Option<u64>,
    pub remaining: u64,
    pub reset: u64,
    pub resets_in: Duration,
}

impl Window {
    /// `whole` is how much there was before any attempt of ours; unknown where we come into the middle of it. `sent` are the
    /// attempts that may have been counted already, the one that was answered included.
    pub fn open(report: Report, whole: Option<u64>, sent: u64, now: Duration) -> Window {
        let before = whole.unwrap_or(report.remaining.saturating_add(1));
        Window {
            reset: report.reset,
            opened: now,
            ends: now.saturating_add(report.resets_in),
            limit: report.limit.unwrap_or(before).max(report.remaining),
            remaining: report.remaining,
            before,
            sent,
            external: before.saturating_sub(report.remaining).saturating_sub(sent),
            pace: None,
            crowded: false,
        }
    }

    /// Whether a report is of this window. Some servers compute the reset anew for each answer, so that it wavers by a
    /// second; a new window is one that ends later than that, or that ends later and has more left when this one is over.
    pub fn is_told_by(&self, report: &Report, now: Duration) -> bool {
        let anew = self.is_over(now) && report.remaining > self.remaining;
        report.reset == self.reset
            || report.reset.saturating_add(1) == self.reset
            || (report.reset == self.reset.saturating_add(1) && !anew)
    }

    /// Whether it may be over, as far as whole seconds tell.
    pub fn is_over(&self, now: Duration) -> bool {
        now.saturating_add(RESOLUTION) >= self.ends
    }

    /// An answer told of this window. Returns the units that went, and those of them that went without us and were not
    /// known of.
    pub fn learn(&mut self, report: &Report, now: Duration) -> (u64, u64) {
        let end = now.saturating_add(report.resets_in);
        // Late by as much as the answer took and `Date` cut off, never early: the earliest is the best known.
        if report.reset == self.reset && !report.resets_in.is_zero() {
            self.ends = self.ends.min(end);
        } else if report.reset > self.reset {
            self.reset = report.reset;
            self.ends = end;
        }
        if let Some(limit) = report.limit {
            self.limit = limit.max(self.remaining.min(report.remaining));
        }
        let spent = self.remaining.saturating_sub(report.remaining);
        self.remaining = self.remaining.min(report.remaining);
        let gone = self.before.saturating_sub(report.remaining);
        let new = gone.saturating_sub(self.sent).saturating_sub(self.external);
        self.external += new;
        (spent, new)
    }

    pub fn sent(&mut self) {
        self.sent += 1;
        if let Some(pace) = &mut self.pace {
            pace.tokens = (pace.tokens - 1.0).max(0.0);
        }
    }

    /// What was counted as sent was not.
    pub fn unsent(&mut self) {
        self.sent = self.sent.saturating_sub(1);
        if let Some(pace) = &mut self.pace {
            pace.tokens += 1.0;
        }
    }

    /// "open", "spread" or "spent".
    pub fn state(&self, rules: &Rules, claimed: u64) -> &'static str {
        let there = self.remaining.saturating_sub(claimed);
        if there == 0 {
            "spent"
        } else if self.first_come(rules, there) > 0.0 {
            "open"
        } else {
            "spread"
        }
    }

    /// Units a second that go without us, over the whole window.
    pub fn external_rate(&self) -> f64 {
        let length = self.ends.saturating_sub(self.opened).as_secs_f64();
        self.external as f64 / length.max(1.0)
    }

    pub fn length(&self) -> Duration {
        self.ends.saturating_sub(self.opened)
    }

    /// Units that are not ours to deal out now: the reserve, less what others had of it, or what others are expected
    /// to take until the end. `rate` is what they took in the windows before, in units a second.
    fn kept(&self, rules: &Rules, rate: f64, now: Duration) -> f64 {
        let left = self.finish().saturating_sub(now).as_secs_f64();
        let reserve = self.reserve(rules) - self.external as f64;
        reserve.max(rate.max(self.external_rate()) * left)
    }

    pub fn reserve(&self, rules: &Rules) -> f64 {
        (rules.reserve * self.limit as f64).ceil()
    }

    /// Whether an attempt must be held. `claimed` are the units that attempts under way may take.
    pub fn hold(&mut self, rules: &Rules, rate: f64, claimed: u64, now: Duration) -> Option<Hold> {
        let there = self.remaining.saturating_sub(claimed);
        let kept = self.kept(rules, rate, now);
        let hold = if (there as f64) - kept < 1.0 - ROUNDING {
            let until = self.until_released(rules, rate, there);
            Some(Hold {
                why: Why::Spent,
                until: Some(until.max(now.saturating_add(TICK))),
            })
        } else if self.first_come(rules, there) > 0.0 {
            None
        } else {
            self.accrue(there as f64 - kept, now);
            self.until_token(there as f64 - kept, now)
                .map(|until| Hold {
                    why: Why::Spread,
                    until: Some(until),
                })
        };
        self.crowded |= hold.is_some();
        hold
    }

    /// How many units are left that go first come, first served.
    fn first_come(&self, rules: &Rules, there: u64) -> f64 {
        let used = self.limit.saturating_sub(there) as f64;
        (rules.spread_above * self.limit as f64 - used).max(0.0)
    }

    /// When what is kept for others has shrunk so far that one of `there` units may go.
    fn until_released(&self, rules: &Rules, rate: f64, there: u64) -> Duration {
        let rate = rate.max(self.external_rate());
        let over = there as f64 - 1.0;
        let reserved = self.reserve(rules) - self.external as f64;
        if over < reserved.max(0.0) || rate <= 0.0 {
            return self.ends;
        }
        let left = Duration::try_from_secs_f64(over / rate).unwrap_or(Duration::MAX);
        self.finish().saturating_sub(left)
    }

    /// When what is spread has all been dealt out.
    fn finish(&self) -> Duration {
        self.ends.saturating_sub(RESOLUTION.min(self.length() / 5))
    }

    /// Moves the spread on to now. `spare` are the units that may still be dealt out.
    fn accrue(&mut self, spare: f64, now: Duration) {
        let finish = self.finish();
        // The first of them goes at once, or the last one would come with the end.
        let pace = self.pace.get_or_insert(Pace {
            tokens: 1.0,
            at: now,
        });
        let left = finish.saturating_sub(pace.at).as_secs_f64();
        let passed = now.saturating_sub(pace.at).as_secs_f64();
        let to_come = (spare - pace.tokens).max(0.0);
        if left > 0.0 {
            pace.tokens += to_come * (passed / left).min(1.0);
        }
        pace.at = pace.at.max(now);
    }

    /// When the next unit of the spread may go; `None` when it may now. For a spread that was moved on to now.
    fn until_token(&self, spare: f64, now: Duration) -> Option<Duration> {
        let finish = self.finish();
        let tokens = self.pace.as_ref().map_or(1.0, |pace| pace.tokens);
        if now >= finish || tokens >= 1.0 - ROUNDING {
            return None;
        }
        let left = (finish - now).as_secs_f64();
        // At least one is there, so this is no more than the whole.
        let share = (1.0 - tokens) / (spare - tokens);
        let wait = Duration::try_from_secs_f64(left * share.min(1.0)).unwrap_or(Duration::MAX);
        Some(now.saturating_add(wait.max(TICK)).min(finish))
    }

    /// When the unit will be there that comes after `ahead` others, as far as can be told now.
    pub fn when(
        &self,
        rules: &Rules,
        rate: f64,
        claimed: u64,
        ahead: u64,
        now: Duration,
    ) -> Duration {
        let there = self.remaining.saturating_sub(claimed);
        let spare = (there as f64 - self.kept(rules, rate, now)).max(0.0);
        let wanted = ahead as f64 + 1.0;
        if spare < wanted {
            return self.when_next(rules, wanted - spare);
        }
        let tokens = self.pace.as_ref().map_or(1.0, |pace| pace.tokens);
        let at_once = self.first_come(rules, there) + tokens;
        let finish = self.finish();
        if wanted <= at_once || now >= finish {
            return now;
        }
        let share = (wanted - at_once) / (spare - at_once).max(1.0);
        now.saturating_add((finish - now).mul_f64(share.clamp(0.0, 1.0)))
    }

    /// The same for a unit of the windows after this one, taken to be like it.
    fn when_next(&self, rules: &Rules, wanted: f64) -> Duration {
        let limit = (self.limit as f64 - self.reserve(rules)).max(1.0);
        let windows = ((wanted - 1.0) / limit).floor();
        let within = wanted - windows * limit;
        let free = rules.spread_above * self.limit as f64 + 1.0;
        let spread = ((within - free) / (limit - free).max(1.0)).clamp(0.0, 1.0);
        let length = self.length().as_secs_f64();
        let after = Duration::try_from_secs_f64(length * (windows + spread));
        self.ends.saturating_add(after.unwrap_or(Duration::MAX))
    }
}
