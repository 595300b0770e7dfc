//! Who has used the units of a group's window, for operators.

use std::{collections::BTreeMap, sync::Arc};

/// Units of one window by caller. Callers are bounded by the file.
#[derive(Debug, Default)]
pub(super) struct UsedUnits {
    window: u64,
    by_caller: BTreeMap<Arc<str>, u64>,
}

impl UsedUnits {
    /// An attempt of this caller was answered in this window.
    pub(super) fn add(&mut self, caller: &Arc<str>, window: u64) {
        if self.window != window {
            self.window = window;
            self.by_caller.clear();
        }
        match self.by_caller.get_mut(caller) {
            Some(units) => *units += 1,
            None => drop(self.by_caller.insert(caller.clone(), 1)),
        }
    }

    /// The units of each caller in this window. An answer at the turn of two windows may belong to the other one, so they are cut in
    /// proportion to `own`, what DevRev says that revgate has used.
    pub(super) fn of(&self, window: u64, own: u64) -> Vec<(Arc<str>, u64)> {
        if self.window != window {
            return Vec::new();
        }
        let all: u64 = self.by_caller.values().sum();
        let share = |units: u64| match all > own {
            true => (u128::from(units) * u128::from(own) / u128::from(all)) as u64,
            false => units,
        };
        let rows = self.by_caller.iter();
        rows.map(|(caller, units)| (caller.clone(), share(*units)))
            .filter(|(_, units)| *units > 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_of_one_window_and_no_more_than_were_used() {
        let mut used = UsedUnits::default();
        let (a, b): (Arc<str>, Arc<str>) = (Arc::from("a"), Arc::from("b"));
        assert!(used.of(0, 10).is_empty());
        (0..6).for_each(|_| used.add(&a, 1));
        (0..3).for_each(|_| used.add(&b, 1));
        assert_eq!(used.of(1, 20), [(a.clone(), 6), (b.clone(), 3)]);
        assert_eq!(used.of(1, 6), [(a, 4), (b.clone(), 2)]);
        assert!(used.of(1, 0).is_empty());
        assert!(used.of(2, 20).is_empty());
        used.add(&b, 2);
        assert_eq!(used.of(2, 20), [(b, 1)]);
    }
}
