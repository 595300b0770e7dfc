//! What has happened to one request so far. Layers write it, telemetry and rescue read it: an answer is not
//! there for a caller that left, and an error carries no headers, so neither could hold this.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::HeaderValue;
use tokio::time::Instant;

use crate::{
    error::Code,
    policy::operation::OperationLabel,
    telemetry::{
        labels::{Decision, WaitReason},
        trace::{Trace, What},
    },
};

/// A handle on one request's record; travels in the request's extensions.
#[derive(Clone, Default)]
pub struct Record(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Here and not in an extension of its own, which would be one more allocation a request.
    trace: Option<Trace>,
    facts: Mutex<Facts>,
}

#[derive(Default)]
pub struct Facts {
    pub caller: Option<Arc<str>>,
    pub operation: Option<OperationLabel>,
    /// Upstream attempts made.
    pub attempts: u32,
    /// How many of them DevRev answered with 429.
    pub throttled: u32,
    /// Time spent waiting for quota, a pause or a backoff.
    pub waited: Duration,
    /// Time spent in attempts, each until the head of its answer.
    pub upstream: Duration,
    /// `RateLimit-Policy` and `RateLimit` of the caller's own limit.
    pub rate: Option<(HeaderValue, HeaderValue)>,
    /// The code of the refusal, where revgate made the answer.
    pub code: Option<Code>,
    /// The code of the first refusal that did not happen because enforcement is off for this caller.
    pub would_refuse: Option<Code>,
    /// Deprecated fields in use: the answer says so.
    pub deprecated: Vec<Arc<str>>,
    /// A `Link` to what is said about them.
    pub deprecation_link: Option<HeaderValue>,
    /// The operation as a whole is deprecated.
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
            facts: Mutex::default(),
        }))
    }

    /// `None` only where a test calls a layer by itself.
    pub fn trace(&self) -> Option<&Trace> {
        self.0.trace.as_ref()
    }

    /// Held for a few lines, never across an await.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A wait begins; it ends when this is dropped, also because the caller left.
    pub fn waiting(&self, reason: WaitReason) -> Waiting<'_> {
        Waiting {
            record: self,
            reason,
            start: Instant::now(),
        }
    }
}

/// See `Record::waiting`.
pub struct Waiting<'a> {
    record: &'a Record,
    reason: WaitReason,
    start: Instant,
}

impl Waiting<'_> {
    /// How long it was.
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
            trace.child(self.start, || What::Wait {
                reason: self.reason,
            });
        }
    }
}
