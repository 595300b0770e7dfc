//! DevRev: so many calls in a window, of all that come.

use std::time::Duration;

use crate::policy::feedback::{Admitted, Feedback};

pub(super) struct Upstream {
    limit: u64,
    window: Duration,
    left: u64,
    ends: Duration,
    /// 429s, in all and in this window.
    pub refused: u64,
    refused_now: u64,
    /// Of each window that is over: units that nobody used, and 429s.
    pub over: Vec<(u64, u64)>,
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
            over: Vec::new(),
            pause: None,
        }
    }

    fn roll(&mut self, now: Duration) {
        while now >= self.ends {
            self.over.push((self.left, self.refused_now));
            self.refused_now = 0;
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
    pub(super) fn take(&mut self, units: u64, now: Duration) {
        self.roll(now);
        self.left = self.left.saturating_sub(units);
    }

    /// Counts a call, and answers. As `Date` has whole seconds, the window's end looks up to one later than it is.
    pub(super) fn count(&mut self, now: Duration) -> (Feedback, Admitted) {
        self.roll(now);
        let pause = self.pause.filter(|until| *until > now);
        let admitted = if self.left == 0 || pause.is_some() {
            self.refused += 1;
            self.refused_now += 1;
            Admitted::No
        } else {
            self.left -= 1;
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
            .map(|(unused, _)| *unused)
            .collect()
    }
}
