//! All known groups, shared by the whole process.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use super::{super::Clock, fleet::Fleet, group::Group, waiting_room::WaitingRoom};
use crate::{
    plan::QuotaPlan,
    policy::{
        fair::Share,
        feedback::Feedback,
        ledger::{AttemptKind, View},
    },
    telemetry::{client_lines::ClientLines, quota::Sample},
    types::{QuotaRules, other},
    wall_clock,
};

pub struct Groups {
    clock: Clock,
    waiting_room: Arc<WaitingRoom>,
    known: RwLock<HashMap<Arc<str>, Arc<Group>>>,
    /// From the latest plan: the configured groups, and the rules that views apply. Requests use the rules of their own plan, and
    /// while they wait, these too.
    planned: Arc<ArcSwap<QuotaPlan>>,
    lines: Arc<ClientLines>,
    fleet: Option<Fleet>,
}

/// Groups are configured, except in mode "validate", where each token has one and their number is unbounded.
const MAX_GROUPS: usize = 10_000;

/// Drops idle groups, or, if too many remain, the least recently used one. Requests that use a dropped group keep it alive.
fn evict(planned: &QuotaPlan, known: &mut HashMap<Arc<str>, Arc<Group>>) {
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
    pub fn new(planned: Arc<QuotaPlan>, clock: Clock) -> Self {
        Groups::with_lines(planned, clock, Arc::default())
    }

    /// `lines` decides which lines of the log are written.
    pub(crate) fn with_lines(
        planned: Arc<QuotaPlan>,
        clock: Clock,
        lines: Arc<ClientLines>,
    ) -> Self {
        Groups::in_fleet(planned, clock, lines, None)
    }

    /// As [`Groups::with_lines`], of a replica of this fleet.
    pub(crate) fn in_fleet(
        planned: Arc<QuotaPlan>,
        clock: Clock,
        lines: Arc<ClientLines>,
        fleet: Option<Fleet>,
    ) -> Self {
        let groups = Groups {
            clock,
            waiting_room: Arc::default(),
            known: RwLock::default(),
            planned: Arc::new(ArcSwap::new(planned)),
            lines,
            fleet,
        };
        groups.create_planned();
        groups
    }

    /// Adds the groups of this plan, and lets waiting requests go that its rules allow. What is known of existing groups stays.
    pub(crate) fn reconcile(&self, planned: Arc<QuotaPlan>) {
        self.planned.store(planned);
        self.create_planned();
        self.all().values().for_each(Group::replanned);
    }

    /// Creates the configured groups, so that views show them before their first request.
    fn create_planned(&self) {
        let planned = self.planned.load();
        planned.groups.keys().for_each(|name| drop(self.get(name)));
    }

    pub(crate) fn get(&self, name: &Arc<str>) -> Arc<Group> {
        if let Some(group) = self.find(name) {
            return group;
        }
        let planned = self.planned.load();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_GROUPS && !known.contains_key(name) {
            evict(&planned, &mut known);
        }
        let new = || {
            let (waiting_room, planned) = (self.waiting_room.clone(), self.planned.clone());
            let lines = self.lines.clone();
            let fleet = self.fleet.as_ref();
            Group::new(
                name.clone(),
                self.clock,
                waiting_room,
                planned,
                lines,
                fleet,
            )
        };
        if let Some(group) = known.get(name) {
            return group.clone();
        }
        let group = new();
        known.insert(name.clone(), group.clone());
        drop(known);
        if let Some(fleet) = &self.fleet {
            group.join(fleet);
        }
        group
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

    /// Attributes the answer to an attempt in the group `provisional` to the group `owner`, now that its token is known to belong
    /// there. The provisional group is dropped, except one that has counted 429s, which the metrics still need.
    pub(crate) fn attribute(
        &self,
        provisional: &str,
        owner: &Arc<str>,
        feedback: &Feedback,
        rules: &QuotaRules,
    ) {
        self.get(owner).attribute(feedback, rules);
        let planned = self.planned.load();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let counts = |group: &Arc<Group>| group.view(rules).0.throttled > 0;
        if !planned.groups.contains_key(provisional) && !known.get(provisional).is_some_and(counts)
        {
            known.remove(provisional);
        }
    }

    /// Whether the latest plan has this group.
    pub(crate) fn is_configured(&self, name: &str) -> bool {
        self.planned.load().groups.contains_key(name)
    }

    /// Drops groups that are no longer configured and are idle. Does nothing where no group is configured.
    fn drop_unplanned(&self) {
        let planned = self.planned.load();
        if planned.groups.is_empty() {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, group| planned.groups.contains_key(name) || !group.idle().1);
    }

    /// Requests that wait, of all groups together.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting_room.taken()
    }

    /// Whether nothing waits in any group.
    #[cfg(test)]
    pub(crate) fn waiting_room_is_empty(&self) -> bool {
        self.waiting_room.is_empty()
    }

    /// Ends a group's pause on an operator's command; false if there is no such group.
    pub(crate) fn resume(&self, name: &str) -> bool {
        let group = self.find(name);
        group.as_ref().is_some_and(|group| {
            group.resume();
            true
        })
    }

    /// A snapshot of a group, and the expected wait of a request of this kind and with this share that arrives now.
    pub(crate) fn forecast(
        &self,
        name: &str,
        share: &Share,
        max_wait: Duration,
        kind: AttemptKind,
        rules: &QuotaRules,
    ) -> Option<(View, Duration)> {
        Some(self.find(name)?.forecast(share, max_wait, kind, rules))
    }

    /// All groups for the admin listener; times are in epoch seconds. A group that is no longer configured is shown until it is
    /// idle.
    pub(crate) fn view(&self) -> Value {
        self.drop_unplanned();
        let planned = self.planned.load();
        let views = self.all().into_iter().map(|(name, group)| {
            let (view, waiting) = group.view(&planned.rules);
            // What is gone is not known between two windows.
            let opened = view.opened_for;
            let gone = view.limit.zip(view.remaining);
            let gone = gone.map_or(0, |(limit, remaining)| limit.saturating_sub(remaining));
            let used = opened.map_or(Vec::new(), |_| {
                group.used(gone.saturating_sub(view.external.1))
            });
            let json = json!({
                "state": view.state,
                "limit": view.limit,
                "remaining": view.remaining,
                "reset": view.reset,
                "resets_in_seconds": view.resets_in.map(|left| left.as_secs_f64().ceil()),
                "window_started_at": opened.map(epoch_before),
                "used_by_caller": counts(&used),
                "paused_until": view.paused_for.map(epoch_in),
                "paused_operation": view.paused_operation.map(|(operation, left)| json!({
                    "operation": operation.label(),
                    "paused_until": epoch_in(left),
                })),
                "runs_out_at": view.runs_out_in.map(epoch_in),
                "spreads_at": view.spreads_in.map(epoch_in),
                "reserve": view.reserve,
                "in_flight": view.in_flight,
                "external": view.external.1,
                "throttled": view.throttled,
                "waiting": waiting.iter().map(|(_, count)| count).sum::<usize>(),
                "waiting_by_caller": counts(&waiting),
            });
            (name.to_string(), json)
        });
        Value::Object(views.collect())
    }

    /// Each group with its state, for the alerts. One that is no longer configured is left out, unless
    /// none is.
    pub(crate) fn states(&self) -> Vec<(Arc<str>, View)> {
        let planned = self.planned.load();
        let is_shown =
            |name: &Arc<str>| planned.groups.is_empty() || planned.groups.contains_key(name);
        // There may be thousands, and requests with new tokens wait for this lock: nothing is looked at or sorted under it.
        let shown: Vec<_> = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let shown = known.iter().filter(|(name, _)| is_shown(name));
            shown
                .map(|(name, group)| (name.clone(), group.clone()))
                .collect()
        };
        let states = shown.into_iter();
        let view = |group: Arc<Group>| group.view(&planned.rules).0;
        states.map(|(name, group)| (name, view(group))).collect()
    }

    /// The limit of each configured group, and what is left of its window; `None` while no window is known.
    pub(crate) fn levels(&self) -> Vec<(Arc<str>, Option<u64>, Option<u64>)> {
        let planned = self.planned.load();
        let configured = planned.groups.keys();
        let levels = configured.filter_map(|name| {
            let view = self.find(name)?.view(&planned.rules).0;
            let left = view.remaining.filter(|_| view.resets_in.is_some());
            Some((name.clone(), view.limit, left))
        });
        levels.collect()
    }

    /// All groups for the metrics. The groups of callers' own tokens are unbounded in number, so they are summed up as `other`,
    /// without a window.
    pub(crate) fn samples(&self) -> Vec<Sample> {
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

fn counts<N: serde::Serialize>(by_caller: &[(Arc<str>, N)]) -> Value {
    let rows = by_caller.iter();
    let rows = rows.map(|(caller, count)| (caller.to_string(), json!(count)));
    Value::Object(rows.collect())
}

/// The time that is this long ago, in epoch seconds.
fn epoch_before(time: Duration) -> f64 {
    wall_clock::since_epoch()
        .saturating_sub(time)
        .as_secs_f64()
        .floor()
}

/// The time that is this far in the future, in epoch seconds.
fn epoch_in(time: Duration) -> f64 {
    (wall_clock::since_epoch() + time).as_secs_f64().ceil()
}
