//! DevRev: so many calls in a window, of all that come.

use std::time::Duration;

use crate::policy::feedback::{Admitted, Feedback};

pub(super) struct Upstream {
    limit: u64,
    window: Duration,
    left: u64,
    ends: Duration,
    pub counted: u64,
    /// 429s.
    pub refused: u64,
    /// Of each window that is over: units that nobody used.
    pub unused: Vec<u64>,
    /// While it pauses all.
    pub pause: Option<Duration>,
}

impl Upstream {
    pub(super) fn new(limit: u64, window: Duration) -> Upstream {
        Upstream {
            limit,
            window,
            left: limit,
            ends: window,
            counted: 0,
            refused: 0,
            unused: Vec::new(),
            pause: None,
        }
    }

    fn roll(&mut self, now: Duration) {
        while now >= self.ends {
            self.unused.push(self.left);
            self.left = self.limit;
            self.ends += self.window;
        }
    }

    /// The reset of the window, in seconds.
    pub(super) fn reset(&mut self, now: Duration) -> u64 {
        self.roll(now);
        self.ends.as_secs()
    }

    pub(super) fn left(&mut self, now: Duration) -> u64 {
        self.roll(now);
        self.left
    }

    /// Somebody outside takes units.
    pub(super) fn take(&mut self, units: u64, now: Duration) {
        self.roll(now);
        self.left = self.left.saturating_sub(units);
    }

    /// Counts a call, and answers.
    pub(super) fn count(&mut self, now: Duration) -> (Feedback, Admitted) {
        self.roll(now);
        let pause = self.pause.filter(|until| *until > now);
        let admitted = if self.left == 0 || pause.is_some() {
            self.refused += 1;
            Admitted::No
        } else {
            self.left -= 1;
            self.counted += 1;
            Admitted::Yes
        };
        let wait = pause.unwrap_or(self.ends) - now;
        let feedback = Feedback {
            limit: Some(self.limit),
            remaining: Some(self.left),
            reset: Some(self.ends.as_secs()),
            resets_in: Some(self.ends - now),
            retry_after: (admitted == Admitted::No).then_some(wait),
        };
        (feedback, admitted)
    }
}
