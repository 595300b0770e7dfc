//! When files that have changed are read again.
//!
//! A file may be written in place, and must not be read before it is whole. So a change counts once two polls in a row see the same
//! version. Each file is judged by itself: one that changes all the time holds up no other, and is read itself at last.

use std::{collections::BTreeMap, time::Duration};

/// How long a file may keep changing before it is read all the same.
pub const LONGEST: Duration = Duration::from_secs(3);

/// The files that differ from what was read last. `V` tells their versions apart.
#[derive(Debug)]
pub struct Changes<K, V> {
    files: BTreeMap<K, Changed<V>>,
    /// What was read last was not whole.
    again: bool,
}

#[derive(Debug)]
struct Changed<V> {
    version: V,
    since: Duration,
}

/// What to do after a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Wait,
    /// Read all files. With `restless`, some are still changing.
    Read {
        restless: bool,
    },
}

impl<K, V> Default for Changes<K, V> {
    fn default() -> Self {
        Changes {
            files: BTreeMap::new(),
            again: false,
        }
    }
}

impl<K: Ord, V: PartialEq> Changes<K, V> {
    /// A poll has found these files, and no others, to differ from what was read last. Whoever is told to read them reads all.
    pub fn poll(&mut self, now: Duration, differing: impl IntoIterator<Item = (K, V)>) -> Verdict {
        let mut before = std::mem::take(&mut self.files);
        let (mut settled, mut restless, mut overdue) = (false, false, false);
        for (file, version) in differing {
            let known = before.remove(&file);
            match known.as_ref().is_some_and(|known| known.version == version) {
                true => settled = true,
                false => restless = true,
            }
            let since = known.map_or(now, |known| known.since);
            overdue |= now.saturating_sub(since) >= LONGEST;
            self.files.insert(file, Changed { version, since });
        }
        let again = self.again && !self.files.is_empty();
        if !(settled || overdue || again) {
            return Verdict::Wait;
        }
        self.files.clear();
        self.again = false;
        Verdict::Read { restless }
    }

    /// What was read while files were changing could not be used, perhaps because one was not whole. The next change is read at once.
    pub fn was_not_whole(&mut self) {
        self.again = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const READ: Verdict = Verdict::Read { restless: false };
    const RESTLESS: Verdict = Verdict::Read { restless: true };

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_change_counts_once_two_polls_see_the_same() {
        let mut changes = Changes::default();
        assert_eq!(changes.poll(seconds(0), []), Verdict::Wait);
        assert_eq!(changes.poll(seconds(1), [("a", 1)]), Verdict::Wait);
        assert_eq!(changes.poll(seconds(2), [("a", 2)]), Verdict::Wait);
        assert_eq!(changes.poll(seconds(3), [("a", 2)]), READ);
        assert_eq!(changes.poll(seconds(4), [("a", 3)]), Verdict::Wait);
        // It is as it was.
        assert_eq!(changes.poll(seconds(5), []), Verdict::Wait);
        assert_eq!(changes.poll(seconds(6), [("a", 3)]), Verdict::Wait);
    }

    #[test]
    fn a_restless_file_holds_up_no_other_and_is_read_at_last() {
        let mut changes = Changes::default();
        assert_eq!(changes.poll(seconds(0), [("a", 1)]), Verdict::Wait);
        assert_eq!(
            changes.poll(seconds(1), [("a", 2), ("b", 1)]),
            Verdict::Wait
        );
        assert_eq!(changes.poll(seconds(2), [("a", 3), ("b", 1)]), RESTLESS);
        for (second, verdict) in [
            (3, Verdict::Wait),
            (4, Verdict::Wait),
            (5, Verdict::Wait),
            (6, RESTLESS),
            (7, Verdict::Wait),
        ] {
            let poll = changes.poll(seconds(second), [("a", second)]);
            assert_eq!(poll, verdict, "{second}");
        }
    }

    #[test]
    fn what_was_not_whole_is_read_again_soon_but_only_if_it_changed() {
        let mut changes = Changes::default();
        changes.was_not_whole();
        assert_eq!(changes.poll(seconds(0), []), Verdict::Wait);
        assert_eq!(changes.poll(seconds(1), [("a", 1)]), RESTLESS);
        assert_eq!(changes.poll(seconds(2), [("a", 2)]), Verdict::Wait);
    }

    proptest! {
        /// Whatever the others do: a file that has changed is read by the second poll after its last change, and within `LONGEST` and a
        /// poll after its first.
        #[test]
        fn no_change_waits_for_ever(polls in prop::collection::vec(prop::collection::vec(any::<bool>(), 4), 1..60)) {
            let mut changes = Changes::default();
            let (mut version, mut read) = ([0u64; 4], [0u64; 4]);
            // When each file differed first, and when it changed last.
            let (mut first, mut last) = ([None; 4], [0u64; 4]);
            for (now, changed) in (0u64..).zip(polls) {
                for (file, _) in changed.iter().enumerate().filter(|(_, changed)| **changed) {
                    version[file] += 1;
                    last[file] = now;
                    first[file].get_or_insert(now);
                }
                let differing: Vec<_> = (0..4).filter(|file| version[*file] != read[*file]).collect();
                let poll = differing.iter().map(|file| (*file, version[*file]));
                if changes.poll(seconds(now), poll) == Verdict::Wait {
                    for file in differing {
                        prop_assert_eq!(now, last[file], "{} has settled", file);
                        let since = first[file].expect("it differs");
                        prop_assert!(seconds(now - since) < LONGEST);
                    }
                } else {
                    prop_assert!(!differing.is_empty());
                    (read, first) = (version, [None; 4]);
                }
            }
        }
    }
}
