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
pub struct Keys(Mutex<HashMap<Hash, Arc<Used>>>);

impl Keys {
    pub fn of(&self, hash: &Hash) -> Arc<Used> {
        self.all().entry(*hash).or_default().clone()
    }

    /// Forgets the others.
    pub fn retain(&self, keep: impl Fn(&Hash) -> bool) {
        self.all().retain(|hash, _| keep(hash));
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
        let keys = Keys::default();
        let at = UNIX_EPOCH + Duration::from_secs(1000);
        keys.of(&[1; 32]).note(at);
        keys.of(&[1; 32]).note(at - Duration::from_secs(1));
        keys.of(&[2; 32]).note(at);
        keys.retain(|hash| hash[0] == 1);
        let want = json!([
            { "id": "01010101", "requests": 2, "last_seen": 1000 },
            { "id": "02020202", "requests": 0, "last_seen": null },
        ]);
        assert_eq!(keys.view(&[[1; 32], [2; 32]]), want);
    }
}
