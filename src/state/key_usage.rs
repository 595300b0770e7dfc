//! How often and when each of a caller's keys was last used, for operators who rotate one. Bounded by the file.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::{lock::Lock, types::key_id};

/// The SHA-256 of a key.
pub(crate) type Hash = [u8; 32];

/// The use of one key. Counting takes no lock.
#[derive(Debug, Default)]
pub struct KeyUse {
    requests: AtomicU64,
    /// Unix epoch seconds.
    last: AtomicU64,
}

impl KeyUse {
    pub fn count(&self, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.last.fetch_max(now, Ordering::Relaxed);
    }
}

/// The use of all keys of the file. A reload keeps the counts of the keys that it keeps.
#[derive(Default)]
pub struct KeyUsage(Lock<HashMap<Hash, Arc<KeyUse>>>);

impl KeyUsage {
    /// Counts these keys and forgets the others.
    pub fn reconcile(&self, keys: impl Iterator<Item = Hash>) {
        let mut all = self.0.lock();
        let mut old = std::mem::take(&mut *all);
        all.extend(keys.map(|hash| (hash, old.remove(&hash).unwrap_or_default())));
    }

    /// The counters of this key. For a key that is not of the file they are shown nowhere.
    pub fn of(&self, hash: &Hash) -> Arc<KeyUse> {
        self.0.lock().get(hash).cloned().unwrap_or_default()
    }

    /// How many keys are counted.
    #[cfg(test)]
    pub fn tracked(&self) -> usize {
        self.0.lock().len()
    }

    /// One row for each of these keys, in their order.
    pub fn view(&self, hashes: &[Hash]) -> Value {
        let all = self.0.lock();
        let rows = hashes.iter().map(|hash| {
            let usage = all.get(hash);
            let read = |of: fn(&KeyUse) -> &AtomicU64| {
                usage.map_or(0, |usage| of(usage).load(Ordering::Relaxed))
            };
            let requests = read(|usage| &usage.requests);
            let last = (requests > 0).then(|| read(|usage| &usage.last));
            json!({ "id": key_id(hash), "requests": requests, "last_seen": last })
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_reload_keeps_the_counts_of_keys_that_stay() {
        let keys = KeyUsage::default();
        let at = UNIX_EPOCH + Duration::from_secs(1000);
        keys.reconcile([[1; 32], [2; 32], [3; 32]].into_iter());
        keys.of(&[1; 32]).count(at);
        keys.of(&[1; 32]).count(at - Duration::from_secs(1));
        keys.of(&[2; 32]).count(at);
        keys.reconcile([[1; 32]].into_iter());
        // A request that began under the old plan: its count is shown nowhere.
        keys.of(&[3; 32]).count(at);
        let want = json!([
            { "id": "01010101", "requests": 2, "last_seen": 1000 },
            { "id": "02020202", "requests": 0, "last_seen": null },
        ]);
        assert_eq!(keys.view(&[[1; 32], [2; 32]]), want);
    }
}
