//! When a replica exchanges, so that those of a fleet are seldom in each other's way.
//!
//! A value can be replaced once in a round trip. Whoever comes at the same moment as another loses, and tries again. So replicas on which
//! somebody waits leave each other time, and what concerns all of them at one moment they do one after another.

use std::time::Duration;

use super::{ReplicaId, SAYS_AGAIN};

/// So much of the register's time one replica takes, if the register is near.
const STEP: Duration = Duration::from_millis(5);

/// What an exchange takes at least that nobody overtakes.
const QUICKEST: Duration = Duration::from_millis(1);

/// If it is far, so many round trips: one, and as much that is idle.
const ROUND_TRIPS: u32 = 2;

/// However few replicas there are.
const SHORTEST: Duration = Duration::from_millis(50);

/// However far the register is: who waits is believed for longer.
const LONGEST: Duration = Duration::from_secs(2);

/// Of one replica.
#[derive(Clone, Debug)]
pub(super) struct Rhythm {
    /// Where it stands among all, from 0 to 1.
    place: f64,
    /// Replicas that take part.
    active: u32,
    /// The usual one.
    round_trip: Duration,
}

impl Rhythm {
    pub(super) fn of(replica: ReplicaId) -> Rhythm {
        // The golden ratio spreads ids that follow one another.
        let place = replica.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        Rhythm {
            place: place as f64 / f64::from(u32::MAX),
            active: 1,
            round_trip: Duration::ZERO,
        }
    }

    /// The last exchange told how many take part; each of its messages took so long.
    pub(super) fn heard(&mut self, active: u64, round_trip: Duration) {
        self.active = u32::try_from(active).unwrap_or(u32::MAX).max(1);
        self.round_trip = match self.round_trip {
            Duration::ZERO => round_trip.min(SHORTEST),
            // One that took very long says that this process stood still, and not how far the register is.
            usual => (usual * 7 + round_trip.min(usual * 2 + QUICKEST)) / 8,
        };
    }

    /// Replicas that take part, as far as is known.
    pub(super) fn active(&self) -> u64 {
        self.active.into()
    }

    /// The least time between two exchanges while somebody waits.
    pub(super) fn interval(&self) -> Duration {
        let near = STEP.saturating_mul(self.active);
        let far = (self.round_trip * ROUND_TRIPS).saturating_mul(self.active);
        near.clamp(SHORTEST, SAYS_AGAIN).max(far.min(LONGEST))
    }

    /// How long after a moment that concerns all replicas this one exchanges.
    pub(super) fn turn(&self) -> Duration {
        let step = STEP.max(self.round_trip * ROUND_TRIPS);
        let all = step.saturating_mul(self.active).min(SAYS_AGAIN);
        all.mul_f64(self.place)
    }

    /// How long after a moment that concerns some replicas this one exchanges, if so many come before it.
    pub(super) fn after(&self, others: usize) -> Duration {
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        let each = self.round_trip.max(QUICKEST);
        each.saturating_mul(others).min(SAYS_AGAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn rhythm(id: u64, active: u64, round_trip: Duration) -> Rhythm {
        let mut rhythm = Rhythm::of(ReplicaId(id));
        rhythm.heard(active, round_trip);
        rhythm
    }

    #[test]
    fn a_register_that_is_near_serves_many() {
        let interval = |active| rhythm(1, active, MILLISECOND / 2).interval();
        assert_eq!(interval(0), SHORTEST);
        assert_eq!(interval(3), SHORTEST);
        assert_eq!(interval(40), MILLISECOND * 200);
        assert_eq!(interval(300), SAYS_AGAIN);
        assert_eq!(interval(u64::MAX), LONGEST);
    }

    #[test]
    fn all_find_a_round_trip_in_an_interval_although_the_register_is_far() {
        let interval = |active| rhythm(1, active, MILLISECOND * 40).interval();
        assert_eq!(interval(3), MILLISECOND * 240);
        assert_eq!(interval(20), MILLISECOND * 1600);
        assert_eq!(interval(300), LONGEST);
        // One message that is late changes little.
        let mut rhythm = rhythm(1, 10, MILLISECOND);
        rhythm.heard(10, Duration::from_secs(3600));
        assert_eq!(rhythm.interval(), SHORTEST);
        // But many that are.
        for _ in 0..60 {
            rhythm.heard(10, MILLISECOND * 40);
        }
        assert!(rhythm.interval() > MILLISECOND * 700, "{rhythm:?}");
    }

    #[test]
    fn some_come_one_after_another() {
        let far = rhythm(1, 10, MILLISECOND * 20);
        assert_eq!(far.after(0), Duration::ZERO);
        assert_eq!(far.after(3), MILLISECOND * 60);
        assert_eq!(rhythm(1, 10, MILLISECOND / 3).after(63), MILLISECOND * 63);
        assert_eq!(far.after(usize::MAX), SAYS_AGAIN);
    }

    #[test]
    fn turns_are_spread_over_the_time_of_all() {
        for active in [3, 30, 1000] {
            let all = (STEP * active).min(SAYS_AGAIN);
            let turn = |id: u32| rhythm(id.into(), active.into(), MILLISECOND).turn();
            let mut turns: Vec<_> = (1..=active).map(turn).collect();
            turns.sort_unstable();
            assert!(*turns.last().unwrap() <= all);
            let gaps = turns.windows(2).map(|two| two[1] - two[0]);
            assert!(gaps.max().unwrap() <= all * 3 / active, "{turns:?}");
        }
    }
}
