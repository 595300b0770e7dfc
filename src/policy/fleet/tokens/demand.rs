//! How many tokens a replica would have at hand for one caller.

use std::time::Duration;

use super::{Rule, nanos};

/// Tokens are bought ahead for as long a time as this, by what was spent in the last one. It leaves time to spend them.
const AHEAD: Duration = Duration::from_secs(2);

/// The same, while there is plenty.
const LONG_AHEAD: Duration = Duration::from_secs(20);

/// In plenty a caller that calls now and then has this many, so that its next request asks no more than that of a busy one.
const FEW: u32 = 3;

/// One that has just begun is expected to spend so many times what it has spent.
const MOST_GROWTH: u32 = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Demand {
    short: Spent,
    long: Spent,
}

impl Demand {
    pub(super) fn new() -> Demand {
        Demand {
            short: Spent::new(AHEAD),
            long: Spent::new(LONG_AHEAD),
        }
    }

    /// A request has passed.
    pub(super) fn count(&mut self, now: Duration) {
        self.short.count(now);
        self.long.count(now);
    }

    /// What was spent of late, but no more than comes in that time or an eighth of the burst. If none comes in that time they are
    /// bought one by one.
    pub(super) fn short(&self, rule: Rule, now: Duration) -> u32 {
        let spent = self.short.of_late(now);
        match u32::try_from(nanos(AHEAD) / rule.interval.max(1)) {
            Ok(0) => 0,
            Ok(refilled) => spent.min(refilled.max(rule.burst / 8)),
            Err(_) => spent,
        }
    }

    /// While there is plenty, of which the pool lets it have its share. `asks`: there is a request, which is not counted yet.
    pub(super) fn long(&self, share: u32, asks: bool, now: Duration) -> u32 {
        match self.long.expected(now) {
            0 if !asks => 0,
            spent => spent.max(FEW).min(share),
        }
    }
}

/// What was spent in this and in the last interval of a length.
#[derive(Debug)]
struct Spent {
    length: Duration,
    interval: u64,
    /// The first in this interval.
    since: Duration,
    this: u32,
    last: u32,
}

impl Spent {
    fn new(length: Duration) -> Spent {
        Spent {
            length,
            interval: 0,
            since: Duration::ZERO,
            this: 0,
            last: 0,
        }
    }

    fn count(&mut self, now: Duration) {
        let interval = nanos(now) / nanos(self.length);
        if interval != self.interval {
            let follows = interval == self.interval + 1;
            self.last = if follows { self.this } else { 0 };
            self.this = 0;
            self.interval = interval;
        }
        if self.this == 0 {
            self.since = now;
        }
        self.this = self.this.saturating_add(1);
    }

    /// What will be spent in such a time: as much as of late. Of one that has just begun not much is known, but that it goes on.
    fn expected(&self, now: Duration) -> u32 {
        let of_late = self.of_late(now);
        if self.last > 0 {
            return of_late;
        }
        let time = now
            .saturating_sub(self.since)
            .max(self.length / MOST_GROWTH);
        let growth = self.length.as_secs_f64() / time.as_secs_f64();
        (f64::from(of_late) * growth.max(1.0)) as u32
    }

    /// What was spent of late in such a time.
    fn of_late(&self, now: Duration) -> u32 {
        let interval = nanos(now) / nanos(self.length);
        match interval.saturating_sub(self.interval) {
            0 => self.this.max(self.last),
            1 => self.this,
            _ => 0,
        }
    }
}
