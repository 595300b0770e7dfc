//! One window of upstream's: what remains of it, who spent it, and how the rest is spread to its end.

use std::time::Duration;

use super::{Hold, Rules, Status, Why};

/// Upstream tells a window's end in whole seconds, and may have rounded up: what is spread is dealt out by so much
/// before, but in a short window by a fifth of it.
const RESOLUTION: Duration = Duration::from_secs(1);

/// A unit that is short of whole by a rounding error is whole.
const ROUNDING: f64 = 1e-9;

/// A hold is never for no time at all, or whoever sleeps for it would not.
const TICK: Duration = Duration::from_micros(1);

#[derive(Debug)]
pub(super) struct Window {
    /// As upstream first told it, in epoch seconds: the window's name.
    pub reset: u64,
    /// The name of the window before, of which late answers may still come.
    previous: Option<u64>,
    pub opened: Duration,
    /// The earliest end that an answer told, on our clock.
    pub ends: Duration,
    pub limit: u64,
    /// The lowest that an answer told.
    pub remaining: u64,
    /// What remained before any attempt of ours, and whether that is known to be all of it.
    before: u64,
    whole: bool,
    /// Attempts of ours that may have been counted in this window, and those granted in it that are under way.
    sent: u64,
    under_way: u64,
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
    pub fn open(
        report: Report,
        previous: Option<u64>,
        whole: Option<u64>,
        sent: u64,
        now: Duration,
    ) -> Window {
        let before = whole.unwrap_or(report.remaining.saturating_add(1));
        Window {
            reset: report.reset,
            previous: previous.filter(|previous| *previous != report.reset),
            opened: now,
            ends: now.saturating_add(report.resets_in),
            limit: report.limit.unwrap_or(before).max(report.remaining),
            remaining: report.remaining,
            before,
            whole: whole.is_some(),
            sent,
            under_way: 0,
            external: before.saturating_sub(report.remaining).saturating_sub(sent),
            pace: None,
            crowded: false,
        }
    }

    /// Whether a report is of this window. Some servers compute the reset anew for each answer, so that it wavers by a
    /// second; a new window is one that ends later than that, or that ends later and has more left when this one is over.
    pub fn is_told_by(&self, report: &Report, now: Duration) -> bool {
        let anew = self.is_over(now) && report.remaining > self.remaining;
        let wavers = Some(report.reset) != self.previous;
        report.reset == self.reset
            || (report.reset.saturating_add(1) == self.reset && wavers)
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
        }
        if let Some(limit) = report.limit {
            self.limit = limit.max(self.remaining.min(report.remaining));
        }
        let spent = self.remaining.saturating_sub(report.remaining);
        self.remaining = self.remaining.min(report.remaining);
        let gone = self.before.saturating_sub(report.remaining);
        let new = gone.saturating_sub(self.sent).saturating_sub(self.external);
        self.external = self.external.saturating_add(new);
        (spent, new)
    }

    /// An attempt goes. True if it took a unit of the spread.
    pub fn sent(&mut self) -> bool {
        self.sent += 1;
        self.under_way += 1;
        match &mut self.pace {
            Some(pace) if pace.tokens >= 1.0 - ROUNDING => {
                pace.tokens = (pace.tokens - 1.0).max(0.0);
                true
            }
            _ => false,
        }
    }

    /// An attempt that was granted in this window has ended.
    pub fn ended(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// It was never sent.
    pub fn unsent(&mut self, spread: bool) {
        self.sent = self.sent.saturating_sub(1);
        if let Some(pace) = self.pace.as_mut().filter(|_| spread) {
            pace.tokens += 1.0;
        }
    }

    /// A report with a lower name that is of a window before this one, and not of a clock that was put right: it
    /// would end about when this one began, for an answer is late by no more than its way.
    pub fn is_before(report: &Report, reset: u64, opened: Duration, now: Duration) -> bool {
        let end = now.saturating_add(report.resets_in);
        report.reset < reset && end <= opened.saturating_add(RESOLUTION * 2)
    }

    /// Open, spread or spent.
    pub fn state(&self, rules: &Rules, claimed: u64) -> Status {
        let there = self.remaining.saturating_sub(claimed);
        if there == 0 {
            Status::Spent
        } else if self.first_come(rules, there) > 0.0 {
            Status::Open
        } else {
            Status::Spread
        }
    }

    /// Units a second that go without us, over the whole window; nothing of one that was not seen whole, for a few seconds
    /// tell nothing of the rest.
    pub fn external_rate(&self) -> Option<f64> {
        let length = self.length().as_secs_f64();
        self.whole.then(|| self.external as f64 / length.max(1.0))
    }

    pub fn length(&self) -> Duration {
        self.ends.saturating_sub(self.opened)
    }

    /// Units of those that are there which are not ours to deal out now: the reserve, less what others had of it, or what
    /// others are expected to take while the rest is dealt out, but no more than half, or a busy neighbour would leave
    /// nothing. `rate` is what they took in the windows before, in units a second.
    fn kept(&self, rules: &Rules, rate: f64, there: u64, now: Duration) -> f64 {
        let left = self.finish().saturating_sub(now).as_secs_f64();
        let rate = rate.max(self.external_rate().unwrap_or(0.0));
        let expected = (rate * left).min((there / 2) as f64);
        self.reserved(rules).max(expected)
    }

    fn reserved(&self, rules: &Rules) -> f64 {
        (rules.reserved(self.limit) - self.external as f64).max(0.0)
    }

    /// Whether an attempt must be held. `claimed` are the units that attempts under way may take.
    pub fn hold(&mut self, rules: &Rules, rate: f64, claimed: u64, now: Duration) -> Option<Hold> {
        let there = self.remaining.saturating_sub(claimed);
        let kept = self.kept(rules, rate, there, now);
        let hold = if (there as f64) - kept < 1.0 - ROUNDING {
            Some(Hold {
                why: Why::Spent,
                until: Some(self.ends.max(now.saturating_add(TICK))),
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

    /// When what is spread has all been dealt out.
    fn finish(&self) -> Duration {
        self.ends.saturating_sub(RESOLUTION.min(self.length() / 5))
    }

    /// Moves the spread on to now. `spare` are the units that may still be dealt out.
    fn accrue(&mut self, spare: f64, now: Duration) {
        let tokens = self.tokens(spare, now);
        let at = self.pace.as_ref().map_or(now, |pace| pace.at.max(now));
        self.pace = Some(Pace { tokens, at });
    }

    /// Units of the spread that may go now.
    fn tokens(&self, spare: f64, now: Duration) -> f64 {
        // The first of them goes at once, or the last one would come with the end.
        let Some(Pace { tokens, at }) = self.pace else {
            return 1.0;
        };
        let left = self.finish().saturating_sub(at).as_secs_f64();
        let passed = now.saturating_sub(at).as_secs_f64();
        if left <= 0.0 {
            return tokens;
        }
        tokens + (spare - tokens).max(0.0) * (passed / left).min(1.0)
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

    /// When the unit will be there that comes after `ahead` others, as far as can be told now. Only what is under way in
    /// this window is taken to be gone: what else may be, an answer will tell before long.
    pub fn when(&self, rules: &Rules, rate: f64, ahead: u64, now: Duration) -> Duration {
        let there = self.remaining.saturating_sub(self.under_way);
        let spare = there as f64 - self.kept(rules, rate, there, now);
        let wanted = ahead as f64 + 1.0;
        let finish = self.finish();
        if spare < wanted {
            if wanted <= there as f64 - self.reserved(rules) {
                return finish.max(now);
            }
            return fresh(
                rules,
                (self.limit, self.length()),
                wanted - spare.max(0.0),
                self.ends,
            );
        }
        let at_once = self.first_come(rules, there) + self.tokens(spare, now);
        if wanted <= at_once || now >= finish {
            return now;
        }
        let share = (wanted - at_once) / (spare - at_once).max(1.0);
        now.saturating_add((finish - now).mul_f64(share.clamp(0.0, 1.0)))
    }
}

/// When the unit will be there that is the `wanted`th of the windows that begin at `at`, all of this limit and length.
pub(super) fn fresh(
    rules: &Rules,
    (limit, length): (u64, Duration),
    wanted: f64,
    at: Duration,
) -> Duration {
    let ours = (limit as f64 - rules.reserved(limit)).max(1.0);
    let windows = ((wanted - 1.0) / ours).floor().max(0.0);
    let within = wanted - windows * ours;
    let free = rules.spread_above * limit as f64 + 1.0;
    let spread = ((within - free) / (ours - free).max(1.0)).clamp(0.0, 1.0);
    let after = Duration::try_from_secs_f64(length.as_secs_f64() * (windows + spread));
    at.saturating_add(after.unwrap_or(Duration::MAX))
}
