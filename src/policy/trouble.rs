//! A state that an operator must know of, from its first sign to its end: DevRev cannot be reached, a group is throttled, a token is refused.
//! Its beginning is a line of the log and its end another, with how long it lasted. Between them a line now and then says that it goes on.
//!
//! ```
//! use std::time::Duration;
//! use revgate::policy::trouble::{Sign, Trouble};
//!
//! let second = Duration::from_secs;
//! let mut trouble = Trouble::default();
//! assert_eq!(trouble.sign(second(5)), Some(Sign::Begins));
//! assert_eq!(trouble.sign(second(5)), None);
//! assert_eq!(trouble.sign(second(6)), Some(Sign::GoesOn { lasted: second(1), signs: 3 }));
//! let over = trouble.end(second(65)).expect("it had begun");
//! assert_eq!((over.lasted, over.signs), (second(60), 3));
//! assert_eq!(trouble.end(second(66)), None);
//! ```

use std::time::Duration;

use super::line_limit::again_after;

/// See the module. It is over at first. Every `now` is the time since the same fixed instant.
#[derive(Debug, Default)]
pub struct Trouble(Option<Begun>);

#[derive(Debug)]
struct Begun {
    at: Duration,
    signs: u64,
    /// When its last line was written.
    told: Duration,
}

/// The line that a sign is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It is the first.
    Begins,
    /// There were so many in this time, and some of them had no line.
    GoesOn {
        /// Since the first.
        lasted: Duration,
        /// With the first and this one.
        signs: u64,
    },
}

/// A trouble that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// From its first sign.
    pub lasted: Duration,
    /// How many signs it gave.
    pub signs: u64,
}

impl Trouble {
    /// Notes a sign of it. `None` if the sign needs no line.
    pub fn sign(&mut self, now: Duration) -> Option<Sign> {
        let Some(begun) = &mut self.0 else {
            self.0 = Some(Begun {
                at: now,
                signs: 1,
                told: now,
            });
            return Some(Sign::Begins);
        };
        begun.signs += 1;
        let due = begun.told + again_after(begun.told.saturating_sub(begun.at));
        (now >= due).then(|| {
            begun.told = now;
            Sign::GoesOn {
                lasted: now.saturating_sub(begun.at),
                signs: begun.signs,
            }
        })
    }

    /// Whether it has begun and is not over.
    pub fn has_begun(&self) -> bool {
        self.0.is_some()
    }

    /// It is over. `None` if it had not begun.
    pub fn end(&mut self, now: Duration) -> Option<Over> {
        let Begun { at, signs, .. } = self.0.take()?;
        Some(Over {
            lasted: now.saturating_sub(at),
            signs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_signs_is_told_in_a_few_lines() {
        let (mut trouble, mut lines) = (Trouble::default(), Vec::new());
        for ms in (0..3_600_000).step_by(50) {
            lines.extend(trouble.sign(Duration::from_millis(ms)));
        }
        assert_eq!(lines[0], Sign::Begins);
        assert!((15..25).contains(&lines.len()), "{}", lines.len());
        let over = trouble.end(Duration::from_secs(3600)).unwrap();
        assert_eq!(
            (over.lasted, over.signs),
            (Duration::from_secs(3600), 72_000)
        );
        assert!(!trouble.has_begun());
        assert_eq!(trouble.sign(Duration::from_secs(3601)), Some(Sign::Begins));
    }
}
