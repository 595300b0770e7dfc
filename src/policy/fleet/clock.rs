//! The fleet's time: the register's clock, without its steps.
//!
//! A register's clock may be set, and after a failover another machine's counts. Leases and pauses must not end early because of it, and
//! not last for ever. So the pool keeps what its time is ahead of the register's, and goes by a replica's own clock when the two
//! disagree: each replica says how long ago it was last here.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A register's clock is set by less than this. A replica that says more was told something false, and it would say it for ever.
const SET_BY: Duration = Duration::from_secs(30 * 24 * 3600);

/// Clocks of two machines may drift apart by this much between two statements, with the time that a message takes.
pub(super) const SLACK: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct FleetClock {
    /// The time of the last statement.
    at: Duration,
    /// What is added to the register's time, in nanoseconds.
    offset: i128,
}

impl FleetClock {
    /// The time now, that the register's clock says `register`. A replica knows that the
    /// fleet's time was so much, and how long ago.
    pub(super) fn now(
        &mut self,
        register: Duration,
        seen: Option<(Duration, Duration)>,
    ) -> Duration {
        let now = self.by_register(register);
        let expected = seen.map(|(seen, age)| seen.saturating_add(age));
        let expected = expected.filter(|expected| now.abs_diff(*expected) < SET_BY);
        let is_set = expected.is_some_and(|expected| now.abs_diff(expected) > SLACK);
        // It never runs backwards, whatever the register says; and it goes on from there.
        if is_set || now.saturating_add(SLACK) < self.at {
            let nanos = |time: Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
            let to = expected.unwrap_or(self.at).max(self.at);
            self.offset = nanos(to).saturating_sub(nanos(register));
            self.at = to;
        } else {
            self.at = now.max(self.at);
        }
        self.at
    }

    fn by_register(&self, register: Duration) -> Duration {
        let nanos = i128::try_from(register.as_nanos()).unwrap_or(i128::MAX);
        let nanos = nanos.saturating_add(self.offset).max(0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn steps_of_the_registers_clock_are_left_out() {
        let mut clock = FleetClock::default();
        let start = clock.now(SECOND * 1000, None);
        // An hour forwards, then two backwards, in two seconds each.
        let forwards = clock.now(SECOND * 4602, Some((start, SECOND * 2)));
        assert_eq!(forwards, start + SECOND * 2);
        let backwards = clock.now(SECOND * 100, Some((forwards, SECOND * 2)));
        assert_eq!(backwards, start + SECOND * 4);
        // From then on it runs as the register's does.
        assert_eq!(clock.now(SECOND * 103, None), start + SECOND * 7);
    }

    #[test]
    fn it_never_runs_backwards() {
        let mut clock = FleetClock::default();
        let start = clock.now(SECOND * 1000, None);
        // A newcomer cannot tell that the clock was set.
        assert_eq!(clock.now(SECOND * 10, None), start);
        assert_eq!(clock.now(SECOND * 15, None), start + SECOND * 5);
        let mut clock = FleetClock::default();
        let start = clock.now(SECOND * 1000, None);
        // A replica that slept while its clock stood still.
        let now = clock.now(SECOND * 1100, None);
        assert!(clock.now(SECOND * 1101, Some((start, SECOND))) >= now);
    }
}
