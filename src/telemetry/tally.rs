//! Counts for the admin listener's JSON: requests of each caller, traffic over time, waits, and deprecated use.
//!
//! All of it is bounded: callers by the file (or `other`), operations by the known table (or `other`), fields by the rules, codes by
//! their enum, groups by the file, time by the rings.

mod deprecated;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use self::deprecated::DeprecatedCalls;
use super::history::Ring;
use crate::{
    error::Code,
    lock::Lock,
    policy::{alerts::LastMinute, chart, operation::OperationLabel, percentile::Times},
};

/// Seconds. Fine enough to show a burst, and few enough points for a plot on a phone.
const STEP: u64 = 5;
/// Three of DevRev's windows: 15 minutes.
const STEPS: usize = 180;
/// Seconds. Shares are sums over all steps, so coarse steps do.
const MINUTE: u64 = 60;
const MINUTES: usize = 15;
/// Minutes of which percentiles are read: enough calls for the slowest of twenty, and soon over after a bad time.
const TIMED: usize = 5;
/// Callers with a series of their own, those with most requests: as many as a reader tells apart. The others share one.
const MAX_SERIES: usize = 6;
/// Groups with a line of their own, those with least left.
const MAX_LINES: usize = 3;

#[derive(Default)]
pub struct Tally {
    counts: Lock<Counts>,
    /// DevRev's times to answer.
    answers: Lock<Ring<Times, TIMED>>,
    /// What was left of each group's window.
    levels: Lock<BTreeMap<Arc<str>, Levels>>,
}

#[derive(Default)]
struct Counts {
    callers: HashMap<Arc<str>, CallerCounts>,
    deprecated: BTreeMap<(Arc<str>, OperationLabel), DeprecatedCalls>,
    traffic: Ring<Traffic, STEPS>,
}

/// One request that has ended.
#[derive(Clone, Copy)]
pub struct FinishedRequest<'a> {
    pub caller: &'a Arc<str>,
    pub operation: OperationLabel,
    pub status: u16,
    /// If revgate made the answer.
    pub code: Option<Code>,
    /// It passed only because `enforce` is off.
    pub would_refuse: bool,
    /// How often it was sent to DevRev.
    pub attempts: u32,
    /// How long it waited for quota, a pause, a backoff or a connection.
    pub waited: Duration,
    pub fields: &'a [Arc<str>],
    pub deprecated_operation: bool,
}

/// The counts of one step. A request is never both failed and refused.
#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    requests: u32,
    failed: u32,
    refused: u32,
    /// Of the refused ones, those for which there was no quota or no room.
    crowded_out: u32,
    throttled: u32,
}

#[derive(Clone, Default)]
pub struct CallerCounts {
    pub requests: u64,
    /// Refused by revgate, by code.
    pub refused: BTreeMap<Code, u64>,
    /// Passed only because `enforce` is off.
    pub would_refuse: u64,
    /// Calls that used a deprecated field or operation and were not refused.
    pub deprecated: u64,
    /// Those that were.
    pub deprecated_refused: u64,
    /// Deprecated fields in both.
    pub deprecated_fields: u64,
    /// Unix epoch seconds.
    pub last: u64,
    attempts: Ring<u32, MINUTES>,
    requests_by_step: Ring<u32, STEPS>,
    waits: Ring<Times, TIMED>,
}

impl CallerCounts {
    /// Attempts of the last 15 minutes.
    pub fn attempts(&self, now: u64) -> u64 {
        let minutes = self.attempts.recent(now / MINUTE);
        minutes.map(|(_, attempts)| u64::from(attempts)).sum()
    }

    /// How long its requests that got as far as the quota waited, in the last minutes.
    pub fn waits(&self, now: u64) -> Value {
        percentiles(&self.waits, now)
    }
}

/// What was left of a window over time, and its limit.
#[derive(Default)]
struct Levels {
    limit: Option<u64>,
    remaining: Ring<Option<u64>, STEPS>,
}

impl FinishedRequest<'_> {
    /// Whether DevRev or the connection to it failed. A refusal is not a failure.
    fn failed(&self) -> bool {
        match self.code {
            None => self.status >= 500,
            Some(_) => matches!(self.status, 500 | 502 | 504),
        }
    }

    fn refused(&self) -> bool {
        self.code.is_some() && !self.failed()
    }

    fn crowded_out(&self) -> bool {
        matches!(
            self.code,
            Some(Code::QuotaExhausted | Code::WaitingRoomFull | Code::Overloaded)
        )
    }

    fn uses_deprecated(&self) -> bool {
        self.deprecated_operation || !self.fields.is_empty()
    }
}

impl Tally {
    /// `now` is in Unix epoch seconds.
    pub fn note(&self, finished: FinishedRequest<'_>, now: u64) {
        let mut seen = self.counts.lock();
        let traffic = seen.traffic.at(now / STEP);
        traffic.requests += 1;
        traffic.failed += u32::from(finished.failed());
        traffic.refused += u32::from(finished.refused());
        traffic.crowded_out += u32::from(finished.crowded_out());
        let calls = match seen.callers.get_mut(finished.caller) {
            Some(calls) => calls,
            None => seen.callers.entry(finished.caller.clone()).or_default(),
        };
        calls.requests += 1;
        *calls.requests_by_step.at(now / STEP) += 1;
        if let Some(code) = finished.code {
            *calls.refused.entry(code).or_default() += 1;
        }
        *calls.attempts.at(now / MINUTE) += finished.attempts;
        if finished.attempts > 0 || !finished.waited.is_zero() {
            let waits = calls.waits.at(now / MINUTE);
            waits.add(finished.waited.as_secs_f64());
        }
        calls.would_refuse += u64::from(finished.would_refuse);
        calls.last = now;
        if finished.uses_deprecated() {
            let refused = finished.refused();
            calls.deprecated += u64::from(!refused);
            calls.deprecated_refused += u64::from(refused);
            calls.deprecated_fields += finished.fields.len() as u64;
            let call = (finished.caller.clone(), finished.operation);
            let (whole, fields) = (finished.deprecated_operation, finished.fields);
            let entry = seen.deprecated.entry(call).or_default();
            entry.add(whole, fields, refused, now);
        }
    }

    /// DevRev has answered an attempt after this time.
    pub fn answered(&self, time: Duration, now: u64) {
        let mut answers = self.answers.lock();
        answers.at(now / MINUTE).add(time.as_secs_f64());
    }

    /// So much is left of the windows of these groups now, with their limits; `None` while no window is known. Other groups are
    /// forgotten.
    pub fn sample(&self, groups: Vec<(Arc<str>, Option<u64>, Option<u64>)>, now: u64) {
        let mut levels = self.levels.lock();
        levels.retain(|name, _| groups.iter().any(|(known, ..)| known == name));
        for (name, limit, remaining) in groups {
            let of_group = levels.entry(name).or_default();
            of_group.limit = limit;
            *of_group.remaining.at(now / STEP) = remaining;
        }
    }

    /// DevRev has just answered an attempt with 429.
    pub fn throttled(&self, now: u64) {
        self.counts.lock().traffic.at(now / STEP).throttled += 1;
    }

    pub fn callers(&self) -> HashMap<Arc<str>, CallerCounts> {
        self.counts.lock().callers.clone()
    }

    /// A row for each field, and one for an operation that is deprecated itself.
    pub fn deprecations(&self) -> Value {
        let seen = self.counts.lock();
        let rows = seen.deprecated.iter();
        let rows = rows.flat_map(|((caller, operation), calls)| calls.by_field(caller, *operation));
        rows.collect()
    }

    /// A row for each caller and operation.
    pub fn deprecated_calls(&self) -> Value {
        let seen = self.counts.lock();
        let rows = seen.deprecated.iter();
        let rows = rows.map(|((caller, operation), calls)| calls.as_call(caller, *operation));
        rows.collect()
    }

    /// Callers that have used something deprecated, in their order, with the time of the last use.
    pub fn deprecated_callers(&self) -> Vec<(String, u64)> {
        let seen = self.counts.lock();
        let mut last = BTreeMap::<&Arc<str>, u64>::new();
        for ((caller, _), calls) in &seen.deprecated {
            // What was refused got nowhere.
            if let Some(accepted) = calls.last_accepted() {
                let entry = last.entry(caller).or_default();
                *entry = accepted.max(*entry);
            }
        }
        let last = last.into_iter();
        last.map(|(caller, last)| (caller.to_string(), last))
            .collect()
    }

    /// What has ended in the last minute.
    pub fn last_minute(&self, now: u64) -> LastMinute {
        let seen = self.counts.lock();
        let mut sum = LastMinute::default();
        let steps = seen.traffic.recent(now / STEP);
        // And the step that is not over yet.
        for (_, step) in steps.skip(STEPS - 1 - (MINUTE / STEP) as usize) {
            sum.requests += u64::from(step.requests);
            sum.failed += u64::from(step.failed);
            sum.crowded_out += u64::from(step.crowded_out);
        }
        sum
    }

    /// DevRev's times to answer in the last minutes.
    pub fn answers(&self, now: u64) -> Value {
        percentiles(&self.answers.lock(), now)
    }

    /// The last 15 minutes, or the time since the start if that is shorter, oldest first. The last step is not over yet.
    pub fn traffic(&self, started_at: u64, now: u64) -> Value {
        let (first, last) = (started_at / STEP, now / STEP);
        let since_start = move |step: u64| step >= first;
        let seen = self.counts.lock();
        let steps = seen.traffic.recent(last);
        let steps: Vec<_> = steps.filter(|(step, _)| since_start(*step)).collect();
        let mut series: Vec<(&Arc<str>, Vec<u32>)> = Vec::new();
        for (caller, calls) in &seen.callers {
            let counts = calls.requests_by_step.recent(last);
            let counts = counts.filter(|(step, _)| since_start(*step));
            let counts: Vec<u32> = counts.map(|(_, count)| count).collect();
            if counts.iter().any(|count| *count > 0) {
                series.push((caller, counts));
            }
        }
        let points = steps.iter().map(|(step, traffic)| {
            json!({
                "at": step * STEP,
                "requests": traffic.requests,
                "failed": traffic.failed,
                "refused": traffic.refused,
                "throttled": traffic.throttled,
            })
        });
        json!({
            "step_seconds": STEP,
            "points": points.collect::<Vec<_>>(),
            "top_per_step": chart::top(steps.iter().map(|(_, step)| u64::from(step.requests))),
            "callers": by_caller(series, steps.len()),
            "quota": self.levels(last, since_start),
        })
    }

    /// What was left of the groups with least left.
    fn levels(&self, last: u64, is_shown: impl Fn(u64) -> bool) -> Value {
        let levels = self.levels.lock();
        let mut lines: Vec<_> = levels
            .iter()
            .filter_map(|(group, of_group)| {
                let limit = of_group.limit?;
                let left = of_group
                    .remaining
                    .recent(last)
                    .filter(|(step, _)| is_shown(*step));
                let left: Vec<_> = left.map(|(_, left)| left).collect();
                let newest = left.iter().rev().find_map(|left| *left)?;
                Some((
                    newest as f64 / limit.max(1) as f64,
                    json!({ "group": **group, "limit": limit, "remaining": left }),
                ))
            })
            .collect();
        lines.sort_by(|one, other| one.0.total_cmp(&other.0));
        lines.truncate(MAX_LINES);
        lines.into_iter().map(|(_, line)| line).collect()
    }
}

/// The requests of the busiest callers over time, busiest first, and those of all others as one without a name.
fn by_caller(mut series: Vec<(&Arc<str>, Vec<u32>)>, steps: usize) -> Value {
    let total = |counts: &[u32]| counts.iter().map(|count| u64::from(*count)).sum::<u64>();
    series.sort_by(|(one, a), (other, b)| total(b).cmp(&total(a)).then(one.cmp(other)));
    let others = series.split_off(series.len().min(MAX_SERIES));
    let mut rows: Vec<_> = series
        .iter()
        .map(|(caller, counts)| json!({ "caller": ***caller, "requests": counts }))
        .collect();
    if !others.is_empty() {
        let mut sum = vec![0; steps];
        for (_, counts) in others {
            sum.iter_mut()
                .zip(counts)
                .for_each(|(sum, count)| *sum += count);
        }
        rows.push(json!({ "caller": null, "requests": sum }));
    }
    Value::Array(rows)
}

/// The median, and what nineteen of twenty do not exceed, in seconds; null if there was nothing.
fn percentiles(minutes: &Ring<Times, TIMED>, now: u64) -> Value {
    let mut all = Times::default();
    for (_, minute) in minutes.recent(now / MINUTE) {
        all.merge(&minute);
    }
    json!({ "p50_seconds": all.percentile(0.5), "p95_seconds": all.percentile(0.95) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::operation::Operation;

    const NOW: u64 = 1_800_000_000;

    fn finished<'a>(caller: &'a Arc<str>, status: u16, code: Option<Code>) -> FinishedRequest<'a> {
        FinishedRequest {
            would_refuse: false,
            caller,
            operation: Operation::from_path("works.list").label(),
            status,
            code,
            attempts: u32::from(code.is_none()),
            waited: Duration::ZERO,
            fields: &[],
            deprecated_operation: false,
        }
    }

    #[test]
    fn each_request_is_one_of_answered_failed_and_refused() {
        let (tally, caller) = (Tally::default(), Arc::from("billing"));
        for (status, code) in [
            (200, None),
            (404, None),
            (429, None),
            (499, None),
            (503, None),
            (502, Some(Code::UpstreamUnreachable)),
            (429, Some(Code::QuotaExhausted)),
            (503, Some(Code::CircuitOpen)),
        ] {
            tally.note(finished(&caller, status, code), NOW);
        }
        tally.throttled(NOW);
        let traffic = tally.traffic(0, NOW + STEP);
        let points = traffic["points"].as_array().unwrap();
        assert_eq!(points.len(), STEPS);
        let want = json!({ "at": NOW, "requests": 8, "failed": 2, "refused": 2, "throttled": 1 });
        assert_eq!(points[STEPS - 2], want);
        assert_eq!(points[STEPS - 1]["requests"], 0);
        assert_eq!(traffic["top_per_step"], 8);
        let want = LastMinute {
            requests: 8,
            failed: 2,
            crowded_out: 1,
        };
        assert_eq!(tally.last_minute(NOW + MINUTE), want);
        assert_eq!(
            tally.last_minute(NOW + MINUTE + STEP),
            LastMinute::default()
        );
        let calls = &tally.callers()[&caller];
        assert_eq!((calls.requests, calls.refused[&Code::CircuitOpen]), (8, 1));
        assert_eq!(
            (calls.attempts(NOW), calls.attempts(NOW + 15 * MINUTE)),
            (5, 0)
        );
    }

    #[test]
    fn deprecated_use_counts_calls_with_fields_beside_and_refused_ones_apart() {
        let (tally, caller) = (Tally::default(), Arc::from("billing"));
        let fields = ["user_don", "rev_org_don"].map(Arc::from);
        let call = |code: Option<Code>, fields, at| {
            let used = FinishedRequest {
                fields,
                deprecated_operation: true,
                operation: Operation::from_path("rev-users.link").label(),
                ..finished(&caller, code.map_or(200, |_| 400), code)
            };
            tally.note(used, at);
        };
        call(None, &fields[..], NOW);
        call(None, &fields[..1], NOW + 1);
        call(None, &[], NOW + 2);
        call(Some(Code::DeprecatedField), &fields[..1], NOW + 3);
        let calls = &tally.callers()[&caller];
        let counts = (
            calls.deprecated,
            calls.deprecated_refused,
            calls.deprecated_fields,
        );
        assert_eq!(counts, (3, 1, 4));
        let row = |field: Option<&str>, count: u64, refused: u64, last: u64| json!({ "caller": "billing", "operation": "rev-users.link", "field": field, "count": count, "refused": refused, "last_seen": last });
        assert_eq!(
            tally.deprecations(),
            json!([
                row(None, 4, 1, NOW + 3),
                row(Some("rev_org_don"), 1, 0, NOW),
                row(Some("user_don"), 3, 1, NOW + 3),
            ])
        );
        assert_eq!(
            tally.deprecated_calls(),
            json!([{
                "caller": "billing",
                "operation": "rev-users.link",
                "operation_deprecated": true,
                "calls": 3,
                "refused": 1,
                "fields": { "rev_org_don": 1, "user_don": 3 },
                "last_seen": NOW + 3,
            }])
        );
        assert_eq!(
            tally.deprecated_callers(),
            [("billing".to_owned(), NOW + 2)]
        );
    }

    #[test]
    fn what_is_only_refused_is_nobodys_deprecated_use() {
        let (tally, other) = (Tally::default(), Arc::from("other"));
        let used = FinishedRequest {
            deprecated_operation: true,
            ..finished(&other, 401, Some(Code::Unauthenticated))
        };
        tally.note(used, NOW);
        assert!(tally.deprecated_callers().is_empty());
        assert_eq!(tally.callers()[&other].deprecated, 0);
    }

    #[test]
    fn history_begins_where_the_process_did() {
        let (tally, caller) = (Tally::default(), Arc::from("billing"));
        tally.note(finished(&caller, 200, None), NOW);
        let traffic = tally.traffic(NOW - 7, NOW + STEP);
        let at = |point: usize| traffic["points"][point]["at"].as_u64();
        assert_eq!(traffic["points"].as_array().map(Vec::len), Some(4));
        assert_eq!((at(0), at(3)), (Some(NOW - 10), Some(NOW + STEP)));
        assert_eq!(
            traffic["callers"],
            json!([{ "caller": "billing", "requests": [0, 0, 1, 0] }])
        );
        let later = tally.traffic(NOW - 7, NOW + 2 * STEP * STEPS as u64);
        assert_eq!(later["points"].as_array().map(Vec::len), Some(STEPS));
        assert_eq!(later["callers"], json!([]));
    }

    #[test]
    fn the_busiest_callers_have_a_series_and_the_others_share_one() {
        let tally = Tally::default();
        for n in 0..9 {
            let caller = Arc::from(format!("c{n}"));
            for _ in 0..=n {
                tally.note(finished(&caller, 200, None), NOW);
            }
        }
        let traffic = tally.traffic(NOW, NOW);
        let series = traffic["callers"].as_array().unwrap();
        let shown: Vec<_> = series
            .iter()
            .map(|one| (one["caller"].as_str(), one["requests"][0].as_u64().unwrap()))
            .collect();
        let busiest = ["c8", "c7", "c6", "c5", "c4", "c3"].map(Some);
        assert_eq!(
            shown[..6],
            std::array::from_fn::<_, 6, _>(|n| (busiest[n], 9 - n as u64))
        );
        assert_eq!(shown[6..], [(None, 6)]);
    }

    #[test]
    fn what_is_left_of_each_window_is_kept_over_time() {
        let tally = Tally::default();
        let (a, b): (Arc<str>, Arc<str>) = (Arc::from("a"), Arc::from("b"));
        let sample = |groups: &[(&Arc<str>, Option<u64>)], now| {
            let groups = groups.iter();
            let groups = groups.map(|(name, left)| ((*name).clone(), Some(100), *left));
            tally.sample(groups.collect(), now);
        };
        sample(&[(&a, Some(90)), (&b, None)], NOW);
        sample(&[(&a, Some(80)), (&b, Some(10))], NOW + STEP);
        sample(&[(&a, None), (&b, Some(9))], NOW + 2 * STEP);
        let quota = |now| tally.traffic(NOW, now)["quota"].take();
        let want = json!([
            { "group": "b", "limit": 100, "remaining": [null, 10, 9] },
            { "group": "a", "limit": 100, "remaining": [90, 80, null] },
        ]);
        assert_eq!(quota(NOW + 2 * STEP), want);
        sample(&[(&b, Some(9))], NOW + 2 * STEP);
        assert_eq!(quota(NOW + 2 * STEP).as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn waits_and_answers_are_those_of_the_last_minutes() {
        let (tally, caller) = (Tally::default(), Arc::from("billing"));
        let ended = |waited: u64, attempts: u32| {
            let finished = FinishedRequest {
                waited: Duration::from_secs(waited),
                attempts,
                ..finished(&caller, 200, None)
            };
            tally.note(finished, NOW);
        };
        // Refused before it could wait: it says nothing about waits.
        (0..50).for_each(|_| ended(0, 0));
        (0..8).for_each(|_| ended(0, 1));
        (0..2).for_each(|_| ended(20, 1));
        tally.answered(Duration::from_millis(80), NOW);
        let seconds = |value: &Value, key: &str| value[key].as_f64();
        let waits = tally.callers()[&caller].waits(NOW);
        assert_eq!(seconds(&waits, "p50_seconds"), Some(0.0));
        let p95 = seconds(&waits, "p95_seconds").unwrap();
        assert!((15.0..29.0).contains(&p95), "{p95}");
        let p50 = seconds(&tally.answers(NOW), "p50_seconds").unwrap();
        assert!((0.05..0.12).contains(&p50), "{p50}");
        let later = NOW + MINUTE * TIMED as u64;
        let none = json!({ "p50_seconds": null, "p95_seconds": null });
        assert_eq!(tally.answers(later), none);
        assert_eq!(tally.callers()[&caller].waits(later), none);
    }
}
