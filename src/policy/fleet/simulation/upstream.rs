//! DevRev: so many calls in a window, of all that come.

use std::time::Duration;

use crate::policy::feedback::{Admitted, Feedback};

/// A window that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Over {
    /// Units that nobody used.
    pub unused: u64,
    pub refused: u64,
    /// Of these, those that nobody can have foreseen: they were on their way when DevRev counted the last unit.
    pub on_wire: u64,
}

pub(super) struct Upstream {
    limit: u64,
    window: Duration,
    left: u64,
    ends: Duration,
    /// 429s, in all and in this window.
    pub refused: u64,
    refused_now: u64,
    /// Requests that were on their way to DevRev when it counted the window's last unit.
    on_wire: u64,
    pub over: Vec<Over>,
    /// While it refuses all.
    pub pause: Option<Duration>,
}

impl Upstream {
    pub(super) fn new(limit: u64, window: Duration) -> Upstream {
        Upstream {
            limit,
            window,
            left: limit,
            ends: window,
            refused: 0,
            refused_now: 0,
            on_wire: 0,
            over: Vec::new(),
            pause: None,
        }
    }

    fn roll(&mut self, now: Duration) {
        while now >= self.ends {
            self.over.push(Over {
                unused: self.left,
                refused: self.refused_now,
                on_wire: self.on_wire.min(self.refused_now),
            });
            (self.refused_now, self.on_wire) = (0, 0);
            self.left = self.limit;
            self.ends += self.window;
        }
    }

    /// The reset of the window in seconds, and what is left of it.
    pub(super) fn window(&mut self, now: Duration) -> (u64, u64) {
        self.roll(now);
        (self.ends.as_secs(), self.left)
    }

    /// Somebody outside takes units.
    pub(super) fn take(&mut self, units: u64, on_wire: u64, now: Duration) {
        self.roll(now);
        let left = self.left.saturating_sub(units);
        let before = std::mem::replace(&mut self.left, left);
        if before > 0 && left == 0 {
            self.on_wire = on_wire;
        }
    }

    /// Counts a call, and answers. As `Date` has whole seconds, the window's end looks up to one later than it is.
    pub(super) fn count(&mut self, on_wire: u64, now: Duration) -> (Feedback, Admitted) {
        self.roll(now);
        let pause = self.pause.filter(|until| *until > now);
        let admitted = if self.left == 0 || pause.is_some() {
            self.refused += 1;
            self.refused_now += 1;
            Admitted::No
        } else {
            self.left -= 1;
            if self.left == 0 {
                self.on_wire = on_wire;
            }
            Admitted::Yes
        };
        let date = Duration::from_secs(now.as_secs());
        let wait = pause.unwrap_or(self.ends) - date;
        let feedback = Feedback {
            limit: Some(self.limit),
            remaining: Some(self.left),
            reset: Some(self.ends.as_secs()),
            resets_in: Some(self.ends - date),
            retry_after: (admitted == Admitted::No).then_some(wait),
        };
        (feedback, admitted)
    }

    /// Units that nobody used in the windows that are over, without the first ones.
    pub(super) fn unused_after(&self, windows: usize) -> Vec<u64> {
        self.over
            .iter()
            .skip(windows)
            .map(|over| over.unused)
            .collect()
    }

    /// The most 429s in a window, beside those that nobody can have foreseen.
    pub(super) fn most_overspent(&self) -> u64 {
        let over = self.over.iter();
        over.map(|over| over.refused - over.on_wire)
            .max()
            .unwrap_or(0)
    }
}
