//! A map with a bound.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, time::Duration};

/// At most `max` entries. A new one takes the place of the one that was used least recently.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    entries: HashMap<K, Entry<V>>,
    max: usize,
}

#[derive(Debug)]
struct Entry<V> {
    used: Duration,
    value: V,
}

impl<K: Eq + Hash + Clone, V> Recent<K, V> {
    pub(super) fn new(max: usize) -> Self {
        Recent {
            entries: HashMap::new(),
            max,
        }
    }

    pub(super) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).map(|entry| &entry.value)
    }

    pub(super) fn get_mut<Q: Eq + Hash + ?Sized>(
        &mut self,
        key: &Q,
        now: Duration,
    ) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let entry = self.entries.get_mut(key)?;
        entry.used = now;
        Some(&mut entry.value)
    }

    pub(super) fn get_or_insert(
        &mut self,
        key: &K,
        now: Duration,
        new: impl FnOnce() -> V,
    ) -> &mut V {
        if !self.entries.contains_key(key) && self.entries.len() >= self.max {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.entries.remove(&oldest);
            }
        }
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry {
            used: now,
            value: new(),
        });
        entry.used = now;
        &mut entry.value
    }

    /// Every entry with the time of its last use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, Duration, &V)> {
        self.entries
            .iter()
            .map(|(key, entry)| (key, entry.used, &entry.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_makes_room() {
        let at = Duration::from_secs;
        let mut recent: Recent<&str, u32> = Recent::new(2);
        *recent.get_or_insert(&"a", at(1), || 1) += 1;
        recent.get_or_insert(&"b", at(2), || 5);
        assert_eq!(recent.get_mut("a", at(3)).copied(), Some(2));
        recent.get_or_insert(&"c", at(4), || 7);
        let mut left: Vec<_> = recent.iter().map(|(key, ..)| *key).collect();
        left.sort_unstable();
        assert_eq!(left, ["a", "c"]);
        assert_eq!(recent.get("b"), None);
    }
}
