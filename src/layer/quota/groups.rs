//! What is known of every quota group.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{sync::watch, time::Instant};

use crate::policy::feedback;

/// What is known of every group. One for the whole process.
pub struct Groups {
    known: Mutex<HashMap<Arc<str>, Group>>,
    pub(super) waiting: AtomicUsize,
}

/// One upstream user's quota, as far as its answers told.
pub(super) struct Group {
    paused_until: watch::Sender<Option<Instant>>,
    pub(super) last: feedback::Feedback,
    pub(super) seen: Instant,
}

/// Groups come from the file; in mode "validate" from tokens, which are without number.
const MAX_GROUPS: usize = 10_000;

impl Default for Groups {
    fn default() -> Self {
        Groups {
            known: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl Groups {
    /// With the groups of the file, so that they can be seen and resumed before upstream has spoken of them.
    pub fn named(names: impl IntoIterator<Item = Arc<str>>) -> Self {
        let groups = Groups::default();
        names
            .into_iter()
            .for_each(|name| groups.with(&name, |_| ()));
        groups
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Group>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn with<T>(&self, name: &Arc<str>, act: impl FnOnce(&mut Group) -> T) -> T {
        let mut known = self.known();
        if known.len() >= MAX_GROUPS && !known.contains_key(name) {
            let now = Instant::now();
            known
                .retain(|_, group| (*group.paused_until.borrow()).is_some_and(|until| until > now));
            if known.len() >= MAX_GROUPS {
                // All paused: the one silent for longest gives way.
                if let Some(oldest) = known
                    .iter()
                    .min_by_key(|(_, group)| group.seen)
                    .map(|(name, _)| name.clone())
                {
                    known.remove(&oldest);
                }
            }
        }
        let group = known.entry(name.clone()).or_insert_with(|| Group {
            paused_until: watch::Sender::new(None),
            last: feedback::Feedback::default(),
            seen: Instant::now(),
        });
        act(group)
    }

    pub(super) fn pause_of(&self, name: &Arc<str>) -> Option<watch::Receiver<Option<Instant>>> {
        let known = self.known();
        let receiver = known.get(name)?.paused_until.subscribe();
        let paused = receiver
            .borrow()
            .is_some_and(|until| until > Instant::now());
        paused.then_some(receiver)
    }

    /// Stops a group until `until`, or for longer if it was stopped for longer already. True if that
    /// made the pause longer.
    pub(super) fn pause(&self, name: &Arc<str>, until: Instant) -> bool {
        self.with(name, |group| {
            group.paused_until.send_if_modified(|current| {
                let longer = current.is_none_or(|current| until > current);
                if longer {
                    *current = Some(until);
                }
                longer
            })
        })
    }

    /// Ends a pause by hand; false when there is no such group.
    pub fn resume(&self, name: &str) -> bool {
        match self.known().get(name) {
            None => false,
            Some(group) => {
                group.paused_until.send_replace(None);
                true
            }
        }
    }

    /// For the admin listener: per group what upstream last said, and the pause.
    pub fn view(&self) -> serde_json::Value {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let groups: serde_json::Map<_, _> = self
            .known()
            .iter()
            .map(|(name, group)| {
                let left = group
                    .paused_until
                    .borrow()
                    .map(|until| until.saturating_duration_since(now));
                let paused_until = left
                    .filter(|left| !left.is_zero())
                    .and_then(|left| (wall + left).duration_since(UNIX_EPOCH).ok())
                    .map(|epoch| epoch.as_secs_f64().ceil());
                let view = serde_json::json!({
                    "limit": group.last.limit,
                    "remaining": group.last.remaining,
                    "reset": group.last.reset,
                    "paused_until": paused_until,
                    "waiting": group.paused_until.receiver_count(),
                });
                (name.to_string(), view)
            })
            .collect();
        groups.into()
    }
}
