//! The register: one value that is compared and replaced, with a clock that may be wrong.

use std::time::Duration;

use super::super::Pool;

#[derive(Default)]
pub(super) struct Register {
    pub value: Option<(u64, Pool)>,
    /// What it was a while ago, for a failover to a replica that was behind.
    older: Option<(Duration, Option<(u64, Pool)>)>,
    pub stopped: bool,
    /// What its clock is ahead, and behind.
    pub ahead: Duration,
    pub behind: Duration,
}

impl Register {
    pub(super) fn now(&self, now: Duration) -> Duration {
        (now + Duration::from_secs(1_000_000) + self.ahead).saturating_sub(self.behind)
    }

    pub(super) fn replace(&mut self, over: Option<u64>, value: (u64, Pool), now: Duration) -> bool {
        if self.value.as_ref().map(|(tag, _)| *tag) != over {
            return false;
        }
        if self
            .older
            .as_ref()
            .is_none_or(|(at, _)| *at + Duration::from_millis(500) <= now)
        {
            self.older = Some((now, self.value.clone()));
        }
        self.value = Some(value);
        true
    }

    pub(super) fn flush(&mut self) {
        self.value = None;
    }

    /// Loses the last writes.
    pub(super) fn roll_back(&mut self) {
        if let Some((_, value)) = self.older.take() {
            self.value = value;
        }
    }
}
