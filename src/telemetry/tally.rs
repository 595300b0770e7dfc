//! Who called how often, and who still sends what is deprecated: for the admin listener's JSON.
//!
//! Bounded: callers by the file (or `other`), operations by the known table (or `other`), fields by the rules.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

#[derive(Default)]
pub struct Tally(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    callers: HashMap<Arc<str>, Calls>,
    /// How often, and when last.
    deprecated: BTreeMap<Use, (u64, u64)>,
}

/// Caller, operation and field; no field where the operation itself is deprecated.
type Use = (Arc<str>, &'static str, Option<Arc<str>>);

#[derive(Clone, Copy, Default)]
pub struct Calls {
    pub requests: u64,
    /// Answered by revgate itself.
    pub refused: u64,
    /// Let pass only because enforcement is off.
    pub would_refuse: u64,
    /// Unix epoch seconds.
    pub last: u64,
}

impl Tally {
    pub fn note(
        &self,
        caller: &Arc<str>,
        operation: &'static str,
        refused: bool,
        would_refuse: bool,
        fields: &[Arc<str>],
        deprecated_operation: bool,
    ) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = match seen.callers.get_mut(caller) {
            Some(calls) => calls,
            None => seen.callers.entry(caller.clone()).or_default(),
        };
        calls.requests += 1;
        calls.refused += u64::from(refused);
        calls.would_refuse += u64::from(would_refuse);
        calls.last = now;
        let whole = deprecated_operation.then_some(None);
        for field in fields.iter().cloned().map(Some).chain(whole) {
            let entry = seen
                .deprecated
                .entry((caller.clone(), operation, field))
                .or_default();
            *entry = (entry.0 + 1, now);
        }
    }

    pub fn callers(&self) -> HashMap<Arc<str>, Calls> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .callers
            .clone()
    }

    pub fn deprecations(&self) -> Value {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = seen.deprecated.iter().map(|((caller, operation, field), (count, last))| {
            json!({ "caller": **caller, "operation": operation, "field": field.as_deref(), "count": count, "last_seen": last })
        });
        rows.collect()
    }
}
