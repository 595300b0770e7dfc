//! Which key of a caller is still in use: for whoever rotates one. Bounded by the file.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::types::key_id;

/// A key is known by the SHA-256 of it.
pub type Hash = [u8; 32];

/// How one key was used. Counting takes no lock.
#[derive(Debug, Default)]
pub struct Used {
    requests: AtomicU64,
    /// Unix epoch seconds.
    last: AtomicU64,
}

impl Used {
    pub fn note(&self, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.last.fetch_max(now, Ordering::Relaxed);
    }
}

/// All keys of the file; counts outlive a reload that keeps the key.
#[derive(Default)]
pub struct KeyUsage(Mutex<HashMap<Hash, Arc<Used>>>);

impl KeyUsage {
    /// Counts these, and forgets the others.
    pub fn reconcile(&self, keys: impl Iterator<Item = Hash>) {
        let mut all = self.all();
        let mut old = std::mem::take(&mut *all);
        all.extend(keys.map(|hash| (hash, old.remove(&hash).unwrap_or_default())));
    }

    /// Where the uses of this key are counted; nowhere that is shown, unless it is one of the file.
    pub fn of(&self, hash: &Hash) -> Arc<Used> {
        self.all().get(hash).cloned().unwrap_or_default()
    }

    /// How many keys are counted.
    #[cfg(test)]
    pub fn tracked(&self) -> usize {
        self.all().len()
    }

    /// One row for each of these, in their order.
    pub fn view(&self, hashes: &[Hash]) -> Value {
        let all = self.all();
        let rows = hashes.iter().map(|hash| {
            let used = all.get(hash);
            let read = |of: fn(&Used) -> &AtomicU64| {
                used.map_or(0, |used| of(used).load(Ordering::Relaxed))
            };
            let requests = read(|used| &used.requests);
            let last = (requests > 0).then(|| read(|used| &used.last));
            json!({ "id": key_id(hash), "requests": requests, "last_seen": last })
        });
        rows.collect()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Hash, Arc<Used>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn counts_by_key_and_keeps_what_stays() {
        let keys = KeyUsage::default();
        let at = UNIX_EPOCH + Duration::from_secs(1000);
        keys.reconcile([[1; 32], [2; 32], [3; 32]].into_iter());
        keys.of(&[1; 32]).note(at);
        keys.of(&[1; 32]).note(at - Duration::from_secs(1));
        keys.of(&[2; 32]).note(at);
        keys.reconcile([[1; 32]].into_iter());
        // A request that began under the old plan counts where nobody looks.
        keys.of(&[3; 32]).note(at);
        let want = json!([
            { "id": "01010101", "requests": 2, "last_seen": 1000 },
            { "id": "02020202", "requests": 0, "last_seen": null },
        ]);
        assert_eq!(keys.view(&[[1; 32], [2; 32]]), want);
    }
}
