//! Every group that is known. One for the whole process.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{super::other, group::Group, room::Room};
use crate::{
    policy::{
        fair::Share,
        ledger::{Rules, View},
    },
    telemetry::quota::Sample,
};

pub struct Groups {
    epoch: Instant,
    room: Arc<Room>,
    known: RwLock<HashMap<Arc<str>, Arc<Group>>>,
    wanted: RwLock<Wanted>,
}

/// What the operator wants of the groups.
pub struct Wanted {
    pub rules: Rules,
    pub max_waiting: usize,
    /// The groups of the file with the names of their callers: they can be seen and resumed before upstream has spoken of
    /// them.
    pub named: BTreeMap<Arc<str>, Vec<Arc<str>>>,
}

/// Groups come from the file; in mode "validate" from tokens, which are without number.
const MAX_GROUPS: usize = 10_000;

impl Wanted {
    /// Makes room: first of groups that hold nobody, else of the one that was silent for longest. Whoever uses it goes on.
    fn forget(&self, known: &mut HashMap<Arc<str>, Arc<Group>>) {
        known.retain(|name, group| self.named.contains_key(name) || !group.idle().1);
        if known.len() < MAX_GROUPS {
            return;
        }
        let oldest = known
            .iter()
            .filter(|(name, _)| !self.named.contains_key(*name))
            .min_by_key(|(_, group)| group.idle().0)
            .map(|(name, _)| name.clone());
        if let Some(oldest) = oldest {
            known.remove(&oldest);
        }
    }
}

impl Groups {
    pub fn new(wanted: Wanted) -> Self {
        let groups = Groups {
            epoch: Instant::now(),
            room: Room::new(wanted.max_waiting),
            known: RwLock::default(),
            wanted: RwLock::new(wanted),
        };
        groups.make_named();
        groups
    }

    /// What holds from now on; what is known of the groups stays.
    pub fn set(&self, wanted: Wanted) {
        self.room.set_max(wanted.max_waiting);
        let rules = wanted.rules;
        *self.wanted.write().unwrap_or_else(PoisonError::into_inner) = wanted;
        self.all().values().for_each(|group| group.set_rules(rules));
        self.make_named();
    }

    fn make_named(&self) {
        let named: Vec<_> = self.wanted().named.keys().cloned().collect();
        named.iter().for_each(|name| drop(self.get(name)));
    }

    fn wanted(&self) -> RwLockReadGuard<'_, Wanted> {
        self.wanted.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, name: &Arc<str>) -> Arc<Group> {
        if let Some(group) = self.find(name) {
            return group;
        }
        let wanted = self.wanted();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_GROUPS && !known.contains_key(name) {
            wanted.forget(&mut known);
        }
        let new = || Group::new(name.clone(), wanted.rules, self.epoch, self.room.clone());
        known.entry(name.clone()).or_insert_with(new).clone()
    }

    fn find(&self, name: &str) -> Option<Arc<Group>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(name).cloned()
    }

    fn all(&self) -> BTreeMap<Arc<str>, Arc<Group>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .map(|(name, group)| (name.clone(), group.clone()))
            .collect()
    }

    /// Whether every place in the waiting room is free.
    #[cfg(test)]
    pub(super) fn room_left(&self) -> bool {
        self.room.is_empty()
    }

    /// Ends a pause by hand; false when there is no such group.
    pub fn resume(&self, name: &str) -> bool {
        let group = self.find(name);
        group.as_ref().is_some_and(|group| {
            group.resume();
            true
        })
    }

    /// How a group stands, and how long a request of this share that came now would wait in it.
    pub fn forecast(
        &self,
        name: &str,
        share: &Share,
        patience: Duration,
    ) -> Option<(View, Duration)> {
        Some(self.find(name)?.forecast(share, patience))
    }

    /// For the admin listener. Times are in epoch seconds.
    pub fn view(&self) -> Value {
        let views = self.all().into_iter().map(|(name, group)| {
            let (view, waiting) = group.view();
            let by_caller: serde_json::Map<_, _> = waiting
                .iter()
                .map(|(caller, count)| (caller.to_string(), json!(count)))
                .collect();
            let json = json!({
                "state": view.state,
                "limit": view.limit,
                "remaining": view.remaining,
                "reset": view.reset,
                "resets_in_seconds": view.resets_in.map(|left| left.as_secs_f64().ceil()),
                "paused_until": view.paused_for.map(epoch_in),
                "runs_out_at": view.runs_out_in.map(epoch_in),
                "reserve": view.reserve,
                "in_flight": view.in_flight,
                "external": view.external.1,
                "throttled": view.throttled,
                "waiting": waiting.iter().map(|(_, count)| count).sum::<usize>(),
                "waiting_by_caller": by_caller,
            });
            (name.to_string(), json)
        });
        Value::Object(views.collect())
    }

    /// For the metrics. Groups that are named by a caller's own token are without number: they are one, `other`, and tell no
    /// window.
    pub fn samples(&self) -> Vec<Sample> {
        let wanted = self.wanted();
        let mut samples = Vec::new();
        let mut rest = Sample::default();
        for (name, group) in self.all() {
            let (view, waiting) = group.view();
            let Some(callers) = wanted.named.get(&name) else {
                rest.throttled += view.throttled;
                rest.external += view.external.0;
                rest.waiting.extend(
                    waiting
                        .into_iter()
                        .map(|(_, count)| (other(), count as u64)),
                );
                continue;
            };
            let of = |caller: &Arc<str>| waiting.iter().find(|(name, _)| name == caller);
            samples.push(Sample {
                group: name,
                limit: view.limit,
                remaining: view.remaining,
                reset: view.reset,
                paused_until: Some(view.paused_for.map_or(0.0, epoch_in)),
                throttled: view.throttled,
                external: view.external.0,
                waiting: callers
                    .iter()
                    .map(|caller| (caller.clone(), of(caller).map_or(0, |(_, n)| *n as u64)))
                    .collect(),
            });
        }
        if wanted.named.is_empty() {
            let waiting = rest.waiting.iter().map(|(_, count)| count).sum();
            rest.group = other();
            rest.waiting = vec![(other(), waiting)];
            samples.push(rest);
        }
        samples
    }
}

/// What stands in so long, in epoch seconds.
fn epoch_in(time: Duration) -> f64 {
    let at = SystemTime::now() + time;
    at.duration_since(UNIX_EPOCH)
        .map_or(0.0, |epoch| epoch.as_secs_f64().ceil())
}
