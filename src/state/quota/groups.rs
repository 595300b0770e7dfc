//! Every group that is known. One for the whole process.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use super::{super::Clock, group::Group, room::Room};
use crate::{
    plan::Quota,
    policy::{fair::Share, feedback::Feedback, ledger::View},
    telemetry::quota::Sample,
    types::{QuotaRules, other},
};

pub struct Groups {
    clock: Clock,
    room: Arc<Room>,
    known: RwLock<HashMap<Arc<str>, Arc<Group>>>,
    /// Of the plan that was reconciled last: which groups the file names, and the rules to show them by. Requests bring the
    /// rules of their own plan.
    planned: ArcSwap<Quota>,
}

/// Groups come from the file; in mode "validate" from tokens, which are without number.
const MAX_GROUPS: usize = 10_000;

/// Makes room: first of groups that hold nobody, else of the one that was silent for longest. Whoever uses it goes on.
fn forget(planned: &Quota, known: &mut HashMap<Arc<str>, Arc<Group>>) {
    known.retain(|name, group| planned.groups.contains_key(name) || !group.idle().1);
    if known.len() < MAX_GROUPS {
        return;
    }
    let oldest = known
        .iter()
        .filter(|(name, _)| !planned.groups.contains_key(*name))
        .min_by_key(|(_, group)| group.idle().0)
        .map(|(name, _)| name.clone());
    if let Some(oldest) = oldest {
        known.remove(&oldest);
    }
}

impl Groups {
    pub fn new(planned: Arc<Quota>, clock: Clock) -> Self {
        let groups = Groups {
            clock,
            room: Arc::default(),
            known: RwLock::default(),
            planned: ArcSwap::new(planned),
        };
        groups.make_named();
        groups
    }

    /// The groups of this plan can be seen from now on; what is known of any group stays.
    pub fn reconcile(&self, planned: Arc<Quota>) {
        self.planned.store(planned);
        self.make_named();
    }

    /// They can be seen and resumed before upstream has spoken of them.
    fn make_named(&self) {
        let planned = self.planned.load();
        planned.groups.keys().for_each(|name| drop(self.get(name)));
    }

    pub fn get(&self, name: &Arc<str>) -> Arc<Group> {
        if let Some(group) = self.find(name) {
            return group;
        }
        let planned = self.planned.load();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_GROUPS && !known.contains_key(name) {
            forget(&planned, &mut known);
        }
        let new = || Group::new(name.clone(), self.clock, self.room.clone());
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

    /// An attempt of the group `stranger` turns out to be `owner`'s: that one learns what its answer told. The stranger is
    /// forgotten; whoever uses it goes on, and one that has counted refusals stays for its count.
    pub fn attribute(
        &self,
        stranger: &str,
        owner: &Arc<str>,
        feedback: &Feedback,
        rules: &QuotaRules,
    ) {
        self.get(owner).attribute(feedback, rules);
        let planned = self.planned.load();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let counts = |group: &Arc<Group>| group.view(rules).0.throttled > 0;
        if !planned.groups.contains_key(stranger) && !known.get(stranger).is_some_and(counts) {
            known.remove(stranger);
        }
    }

    /// Where the file names groups, one that it names no more goes when forgetting it loses nothing.
    fn forget_unnamed(&self) {
        let planned = self.planned.load();
        if planned.groups.is_empty() {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, group| planned.groups.contains_key(name) || !group.idle().1);
    }

    /// Whether every place in the waiting room is free.
    #[cfg(test)]
    pub(crate) fn room_left(&self) -> bool {
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
        rules: &QuotaRules,
    ) -> Option<(View, Duration)> {
        Some(self.find(name)?.forecast(share, patience, rules))
    }

    /// For the admin listener. Times are in epoch seconds. A group that the file named once is shown until it holds nobody.
    pub fn view(&self) -> Value {
        self.forget_unnamed();
        let planned = self.planned.load();
        let views = self.all().into_iter().map(|(name, group)| {
            let (view, waiting) = group.view(&planned.rules);
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
        let planned = self.planned.load();
        let mut samples = Vec::new();
        let mut rest = Sample::default();
        for (name, group) in self.all() {
            let (view, waiting) = group.view(&planned.rules);
            let Some(callers) = planned.groups.get(&name) else {
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
        if planned.groups.is_empty() {
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
