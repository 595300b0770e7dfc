//! What has happened to one request so far. Layers write it, telemetry and rescue read it: an answer is not
//! there for a caller that left, and an error carries no headers, so neither could hold this.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::HeaderValue;

/// A handle on one request's record; travels in the request's extensions.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Facts>>);

#[derive(Default)]
pub struct Facts {
    pub caller: Option<Arc<str>>,
    pub operation: Option<&'static str>,
    /// Upstream attempts made.
    pub attempts: u32,
    /// How many of them DevRev answered with 429.
    pub throttled: u32,
    /// Time spent waiting for quota, a pause or a backoff.
    pub waited: Duration,
    /// `RateLimit-Policy` and `RateLimit` of the caller's own limit.
    pub rate: Option<(HeaderValue, HeaderValue)>,
    /// The code of the refusal, where revgate made the answer.
    pub code: Option<&'static str>,
    /// Deprecated fields in use: the answer says so.
    pub deprecated: Vec<Arc<str>>,
    /// The operation as a whole is deprecated.
    pub deprecated_operation: bool,
}

impl Record {
    /// Held for a few lines, never across an await.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
