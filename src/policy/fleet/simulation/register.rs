//! The register: one value that is compared and replaced, with a clock that may be wrong.

use std::{rc::Rc, time::Duration};

use super::super::Pool;

/// A value and its tag.
pub(super) type Tagged = (u64, Rc<Pool>);

/// How far a failover goes back at most.
const BEHIND: Duration = Duration::from_millis(500);

#[derive(Clone, Default)]
pub(super) struct Register {
    pub value: Option<Tagged>,
    /// What it was a while ago.
    older: Option<(Duration, Option<Tagged>)>,
    /// It takes no messages.
    pub stopped: bool,
    /// What its clock is ahead, and behind.
    pub ahead: Duration,
    pub behind: Duration,
}

impl Register {
    /// The time by its clock.
    pub(super) fn now(&self, now: Duration) -> Duration {
        (now + Duration::from_secs(1_000_000) + self.ahead).saturating_sub(self.behind)
    }

    /// Replaces the value with this tag. False if another is there.
    pub(super) fn replace(&mut self, over: Option<u64>, value: Tagged, now: Duration) -> bool {
        if self.value.as_ref().map(|(tag, _)| *tag) != over {
            return false;
        }
        if self
            .older
            .as_ref()
            .is_none_or(|(at, _)| *at + BEHIND <= now)
        {
            self.older = Some((now, self.value.clone()));
        }
        self.value = Some(value);
        true
    }

    /// Loses all.
    pub(super) fn flush(&mut self) {
        (self.value, self.older) = (None, None);
    }

    /// Loses the last writes.
    pub(super) fn roll_back(&mut self) {
        if let Some((_, value)) = self.older.take() {
            self.value = value;
        }
    }
}
