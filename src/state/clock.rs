//! The time since the process started, by tokio's clock, so that tests can pause it.

use std::time::Duration;

use tokio::time::Instant;

/// The clock of all state. Policy takes its time as an argument.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// The time since its start.
    pub fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// The time of this instant; zero if it is before the start.
    pub fn time_of(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.0)
    }

    /// The instant of this time.
    pub fn instant(&self, time: Duration) -> Instant {
        self.0 + time
    }
}

impl governor::clock::Clock for Clock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
