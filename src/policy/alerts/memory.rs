//! Since when alerts hold.

use std::collections::BTreeMap;

use super::{Alert, Name};

/// The alerts that were seen last. They are looked at every second, so that times are right to a second.
#[derive(Debug, Default)]
pub struct Memory(BTreeMap<(Name, Option<String>), f64>);

impl Memory {
    /// Fills in since when these hold, at the time `now`. What is missing has ended, and is new when it comes again.
    pub fn fill_in(&mut self, alerts: &mut [Alert], now: f64) {
        let mut seen = BTreeMap::new();
        for alert in alerts {
            let key = (alert.name, alert.subject.clone());
            let before = self.0.get(&key).copied();
            let since = alert.since.or(before).unwrap_or(now);
            alert.since = Some(since);
            seen.insert(key, since);
        }
        self.0 = seen;
    }
}
