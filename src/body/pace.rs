//! Ends a body whose sender makes no progress. Only the time counts in which somebody waits for the sender.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::policy::progress::{Patience, ProgressRules};

/// The pace of one body.
pub(super) struct Pace {
    rules: ProgressRules,
    patience: Patience,
    /// Since when somebody waits.
    waiting: Option<Instant>,
    /// Made by the first wait, as most bodies come without one.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(super) fn new(rules: ProgressRules) -> Pace {
        Pace {
            rules,
            patience: Patience::new(&rules),
            waiting: None,
            timer: None,
        }
    }

    /// So many bytes have come.
    pub(super) fn came(&mut self, bytes: usize) {
        let waited = self.waiting.take();
        let waited = waited.map_or(Duration::ZERO, |since| since.elapsed());
        self.patience.waited(&self.rules, waited, bytes);
    }

    /// Nothing has come yet. Ready when the sender has taken too long.
    pub(super) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting.is_none() {
            let now = Instant::now();
            let until = now + self.patience.left();
            self.waiting = Some(now);
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(until),
                None => self.timer = Some(Box::pin(sleep_until(until))),
            }
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
