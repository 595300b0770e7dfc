//! What has happened to one request so far. Layers write it; `telemetry` and `rescue` read it. It travels with the request because a
//! request whose client has left has no answer, and an error has no extensions.

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use http::HeaderValue;
use tokio::time::Instant;

use crate::{
    error::Code,
    lock::Lock,
    policy::operation::OperationLabel,
    telemetry::{
        labels::{Decision, WaitReason},
        trace::Trace,
    },
};

/// A handle to one request's record, in the request's extensions.
#[derive(Clone, Default)]
pub struct Record(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// An extension of its own would cost each request one more allocation.
    trace: Option<Trace>,
    facts: Lock<Facts>,
}

#[derive(Default)]
pub struct Facts {
    pub caller: Option<Arc<str>>,
    pub operation: Option<OperationLabel>,
    /// How often it was sent to DevRev.
    pub attempts: u32,
    /// Time spent waiting for quota, a pause or a backoff.
    pub waited: Duration,
    /// Time spent in attempts, each up to the head of its answer.
    pub upstream: Duration,
    /// `RateLimit-Policy` and `RateLimit` of the caller's own limit.
    pub rate: Option<(HeaderValue, HeaderValue)>,
    /// The code, if revgate made the answer.
    pub code: Option<Code>,
    /// The code of the first refusal that `enforce = false` prevented.
    pub would_refuse: Option<Code>,
    /// Deprecated fields in the request, for `Deprecation` on the answer.
    pub deprecated: Vec<Arc<str>>,
    /// The `Link` to their documentation.
    pub deprecation_link: Option<HeaderValue>,
    /// The operation itself is deprecated.
    pub deprecated_operation: bool,
}

impl Facts {
    /// What the gateway did with the request.
    pub fn decision(&self, answered: bool) -> Decision {
        match self {
            _ if !answered => Decision::Left,
            Facts { code: Some(_), .. } => Decision::Refused,
            Facts { attempts: 2.., .. } => Decision::Retried,
            Facts { waited, .. } if !waited.is_zero() => Decision::Waited,
            _ => Decision::Forwarded,
        }
    }
}

impl Record {
    pub fn new(trace: Trace) -> Self {
        Record(Arc::new(Inner {
            trace: Some(trace),
            facts: Lock::default(),
        }))
    }

    /// `None` only in unit tests of a layer.
    pub fn trace(&self) -> Option<&Trace> {
        self.0.trace.as_ref()
    }

    /// A lock. Never hold it across an await.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.facts.lock()
    }

    /// Begins a wait. It ends when this is dropped, also if the client leaves.
    pub fn waiting(&self, reason: WaitReason) -> Waiting<'_> {
        Waiting {
            record: self,
            reason,
            start: Instant::now(),
        }
    }
}

/// A wait in progress, from [`Record::waiting`].
pub struct Waiting<'a> {
    record: &'a Record,
    reason: WaitReason,
    start: Instant,
}

impl Waiting<'_> {
    /// Ends the wait and returns its length.
    pub fn end(self) -> Duration {
        self.start.elapsed()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = self.start.elapsed();
        if waited.is_zero() {
            return;
        }
        self.record.facts().waited += waited;
        if let Some(trace) = self.record.trace() {
            trace.record_wait(self.start, self.reason);
        }
    }
}
