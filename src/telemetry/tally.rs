//! Counts for the admin listener's JSON: requests of each caller, traffic over time, and deprecated uses.
//!
//! All of it is bounded: callers by the file (or `other`), operations by the known table (or `other`), fields by the rules, codes by
//! their enum, time by the rings.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};

use super::history::Ring;
use crate::{error::Code, policy::operation::OperationLabel};

/// Seconds. Fine enough to show a burst, and few enough points for a plot on a phone.
const STEP: u64 = 5;
/// Three of DevRev's windows: 15 minutes.
const STEPS: usize = 180;
/// Seconds. Shares are sums over all steps, so coarse steps do, and keep the ring of each caller small.
const MINUTE: u64 = 60;
const MINUTES: usize = 15;

#[derive(Default)]
pub struct Tally(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    callers: HashMap<Arc<str>, CallerCounts>,
    /// The number of uses, and the time of the last.
    deprecated: BTreeMap<DeprecatedUse, (u64, u64)>,
    traffic: Ring<Traffic, STEPS>,
}

/// Caller, operation and field; no field where the operation itself is deprecated.
type DeprecatedUse = (Arc<str>, OperationLabel, Option<Arc<str>>);

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
    pub fields: &'a [Arc<str>],
    pub deprecated_operation: bool,
}

/// The counts of one step. A request is never both failed and refused.
#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    requests: u32,
    failed: u32,
    refused: u32,
    throttled: u32,
}

#[derive(Clone, Default)]
pub struct CallerCounts {
    pub requests: u64,
    /// Refused by revgate, by code.
    pub refused: BTreeMap<Code, u64>,
    /// Passed only because `enforce` is off.
    pub would_refuse: u64,
    /// Uses of deprecated fields and operations.
    pub deprecated: u64,
    /// Unix epoch seconds.
    pub last: u64,
    attempts: Ring<u32, MINUTES>,
}

impl CallerCounts {
    /// Attempts of the last 15 minutes.
    pub fn attempts(&self, now: u64) -> u64 {
        let minutes = self.attempts.recent(now / MINUTE);
        minutes.map(|(_, attempts)| u64::from(attempts)).sum()
    }
}

impl FinishedRequest<'_> {
    /// Whether DevRev or the connection to it failed. A refusal is not a failure.
    fn failed(&self) -> bool {
        match self.code {
            None => self.status >= 500,
            Some(_) => matches!(self.status, 500 | 502 | 504),
        }
    }
}

impl Tally {
    /// `now` is in Unix epoch seconds.
    pub fn note(&self, finished: FinishedRequest<'_>, now: u64) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let traffic = seen.traffic.at(now / STEP);
        traffic.requests += 1;
        traffic.failed += u32::from(finished.failed());
        traffic.refused += u32::from(finished.code.is_some() && !finished.failed());
        let calls = match seen.callers.get_mut(finished.caller) {
            Some(calls) => calls,
            None => seen.callers.entry(finished.caller.clone()).or_default(),
        };
        calls.requests += 1;
        if let Some(code) = finished.code {
            *calls.refused.entry(code).or_default() += 1;
        }
        *calls.attempts.at(now / MINUTE) += finished.attempts;
        calls.would_refuse += u64::from(finished.would_refuse);
        calls.last = now;
        calls.deprecated += finished.fields.len() as u64 + u64::from(finished.deprecated_operation);
        let whole = finished.deprecated_operation.then_some(None);
        for field in finished.fields.iter().cloned().map(Some).chain(whole) {
            let entry = seen
                .deprecated
                .entry((finished.caller.clone(), finished.operation, field))
                .or_default();
            *entry = (entry.0 + 1, now);
        }
    }

    /// DevRev has just answered an attempt with 429.
    pub fn throttled(&self, now: u64) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.traffic.at(now / STEP).throttled += 1;
    }

    pub fn callers(&self) -> HashMap<Arc<str>, CallerCounts> {
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

    /// The last 15 minutes, oldest first. The last step is not over yet.
    pub fn traffic(&self, now: u64) -> Value {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let points = seen.traffic.recent(now / STEP).map(|(step, traffic)| {
            json!({
                "at": step * STEP,
                "requests": traffic.requests,
                "failed": traffic.failed,
                "refused": traffic.refused,
                "throttled": traffic.throttled,
            })
        });
        json!({ "step_seconds": STEP, "points": points.collect::<Vec<_>>() })
    }
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
        let traffic = tally.traffic(NOW + STEP);
        let points = traffic["points"].as_array().unwrap();
        assert_eq!(points.len(), STEPS);
        let want = json!({ "at": NOW, "requests": 8, "failed": 2, "refused": 2, "throttled": 1 });
        assert_eq!(points[STEPS - 2], want);
        assert_eq!(points[STEPS - 1]["requests"], 0);
        let calls = &tally.callers()[&caller];
        assert_eq!((calls.requests, calls.refused[&Code::CircuitOpen]), (8, 1));
        assert_eq!(
            (calls.attempts(NOW), calls.attempts(NOW + 15 * MINUTE)),
            (5, 0)
        );
    }

    #[test]
    fn a_deprecated_use_counts_for_its_caller() {
        let (tally, caller) = (Tally::default(), Arc::from("billing"));
        let fields = ["user_don", "rev_org_don"].map(Arc::from);
        let used = FinishedRequest {
            fields: &fields,
            deprecated_operation: true,
            ..finished(&caller, 200, None)
        };
        tally.note(used, NOW);
        assert_eq!(tally.callers()[&caller].deprecated, 3);
        assert_eq!(tally.deprecations().as_array().unwrap().len(), 3);
    }
}
