//! The wall clock. Nothing else reads it, so that policy gets the time as an argument and its uses can be found.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

#[expect(clippy::disallowed_methods, reason = "the one place")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// The time since the Unix epoch; zero for a clock that is set before it.
pub(crate) fn since_epoch() -> Duration {
    now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The time after this duration as people write it, in UTC and to the second: 2026-07-01T12:00:00Z.
pub(crate) fn text_in(after: Duration) -> String {
    let epoch = since_epoch().saturating_add(after).as_secs();
    let time = i64::try_from(epoch).ok();
    let time = time.and_then(|epoch| OffsetDateTime::from_unix_timestamp(epoch).ok());
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// Unix epoch seconds.
pub(crate) fn epoch_seconds() -> u64 {
    since_epoch().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_come_is_written_as_people_write_it() {
        let text = text_in(Duration::from_secs(90));
        let read = OffsetDateTime::parse(&text, &Rfc3339).unwrap();
        let epoch = u64::try_from(read.unix_timestamp()).unwrap();
        assert!((88..=90).contains(&(epoch - epoch_seconds())), "{text}");
        assert_eq!(text.len(), "2026-07-01T12:00:00Z".len(), "{text}");
    }
}
