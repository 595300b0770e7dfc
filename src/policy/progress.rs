//! How long a message may take: it must move, at a rate or faster, and may stand still for a while.
//!
//! Whoever sends has some patience of the other side. Waiting uses it up, and every byte earns some of it back, never
//! more than there was at the beginning. So a message that moves at the rate or faster takes as long as it needs, and one that
//! stands still ends when the patience does.
//!
//! ```
//! use std::time::Duration;
//! use revgate::policy::progress::{Patience, ProgressRules};
//!
//! let second = Duration::from_secs;
//! let rules = ProgressRules { stall: second(10), min_rate: 1000.try_into().ok() };
//! let mut patience = Patience::new(&rules);
//! assert_eq!(patience.left(), second(10));
//! patience.waited(&rules, second(8), 3000);
//! assert_eq!(patience.left(), second(5));
//! patience.waited(&rules, second(0), 1_000_000);
//! assert_eq!(patience.left(), second(10), "nothing is saved up");
//! ```

use std::{num::NonZeroU64, time::Duration};

/// What counts as progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressRules {
    /// The longest time without a byte.
    pub stall: Duration,
    /// Bytes a second, on average. `None` for a stream of events, of which any byte is progress.
    pub min_rate: Option<NonZeroU64>,
}

/// How long an answer may stand still, be it DevRev that does not send or the caller that does not read.
pub const ANSWER_STALL: Duration = Duration::from_secs(30);

/// How long a stream of events may be silent. Servers send a comment every half minute or so, to keep it open (WHATWG HTML section 9.2.7
/// advises 15 s).
const EVENTS_STALL: Duration = Duration::from_secs(300);

impl ProgressRules {
    /// These rules for an answer with this `Content-Type`: events come when they come.
    #[must_use]
    pub fn for_answer(self, content_type: Option<&[u8]>) -> ProgressRules {
        let events = b"text/event-stream";
        let start = content_type.and_then(|kind| kind.get(..events.len()));
        if !start.is_some_and(|start| start.eq_ignore_ascii_case(events)) {
            return self;
        }
        ProgressRules {
            stall: self.stall.max(EVENTS_STALL),
            min_rate: None,
        }
    }
}

/// How much longer one message may take if nothing more of it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience(Duration);

impl Patience {
    /// At the beginning of a message.
    pub fn new(rules: &ProgressRules) -> Patience {
        Patience(rules.stall)
    }

    /// The time left.
    pub fn left(&self) -> Duration {
        self.0
    }

    /// So many bytes came after a wait of this time. An empty frame earns nothing.
    pub fn waited(&mut self, rules: &ProgressRules, time: Duration, bytes: usize) {
        let earned = match rules.min_rate {
            _ if bytes == 0 => Duration::ZERO,
            None => rules.stall,
            Some(rate) => {
                let nanos = bytes as u128 * 1_000_000_000 / u128::from(rate.get());
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
        };
        let left = self.0.saturating_sub(time).saturating_add(earned);
        self.0 = left.min(rules.stall);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: ProgressRules = ProgressRules {
        stall: Duration::from_secs(10),
        min_rate: NonZeroU64::new(4096),
    };

    /// How long a message lasts of which a chunk comes at each interval, up to a limit.
    fn lasts(interval: Duration, chunk: usize, limit: Duration) -> Duration {
        let mut patience = Patience::new(&RULES);
        let mut time = Duration::ZERO;
        while time < limit {
            if patience.left() <= interval {
                return time + patience.left();
            }
            time += interval;
            patience.waited(&RULES, interval, chunk);
        }
        time
    }

    #[test]
    fn what_moves_may_take_its_time_and_what_does_not_ends() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        assert_eq!(
            lasts(second, 0, hour),
            RULES.stall,
            "empty frames are no progress"
        );
        assert!(lasts(second, 1, hour) <= second * 11, "a byte a second");
        assert!(lasts(second, 2048, hour) <= second * 21, "half the rate");
        assert_eq!(lasts(second, 4096, hour), hour, "the rate");
        assert_eq!(lasts(second * 9, 9 * 4096, hour), hour, "in bursts");
        assert_eq!(lasts(second * 11, 1 << 20, hour), RULES.stall, "a stall");
    }

    #[test]
    fn any_byte_of_a_stream_of_events_is_progress() {
        let rules = ProgressRules {
            min_rate: None,
            ..RULES
        };
        let mut patience = Patience::new(&rules);
        patience.waited(&rules, Duration::from_secs(9), 1);
        assert_eq!(patience.left(), RULES.stall);
        patience.waited(&rules, Duration::from_secs(9), 0);
        assert_eq!(patience.left(), Duration::from_secs(1));
    }

    #[test]
    fn a_stream_of_events_may_be_silent() {
        let events = RULES.for_answer(Some(b"Text/Event-Stream; charset=utf-8"));
        assert_eq!((events.stall, events.min_rate), (EVENTS_STALL, None));
        for other in [None, Some(&b"text/plain"[..]), Some(b"text/event")] {
            assert_eq!(RULES.for_answer(other), RULES);
        }
    }

    proptest! {
        /// Nothing lasts longer than the stall and what its bytes have earned.
        #[test]
        fn a_message_is_bounded_by_its_bytes(chunks in prop::collection::vec((0u64..20_000, 0usize..100_000), 0..50)) {
            let mut patience = Patience::new(&RULES);
            let (mut time, mut bytes) = (Duration::ZERO, 0u64);
            for (millis, chunk) in chunks {
                let interval = Duration::from_millis(millis);
                if interval > patience.left() {
                    time += patience.left();
                    break;
                }
                time += interval;
                bytes += chunk as u64;
                patience.waited(&RULES, interval, chunk);
                prop_assert!(patience.left() <= RULES.stall);
            }
            prop_assert!(time.as_secs_f64() <= RULES.stall.as_secs_f64() + bytes as f64 / 4096.0 + 0.001);
        }
    }
}
