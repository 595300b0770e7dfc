//! The wall clock. Nothing else reads it, so that policy gets the time as an argument and its uses can be found.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[expect(clippy::disallowed_methods, reason = "the one place")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// The time since the Unix epoch; zero for a clock that is set before it.
pub(crate) fn since_epoch() -> Duration {
    now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Unix epoch seconds.
pub(crate) fn epoch_seconds() -> u64 {
    since_epoch().as_secs()
}
