//! What is known of a caller's body while it is read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// The caller's fault in a request's body, if any, and how much of the body was read. Layers need it to tell the caller's faults from
/// DevRev's: hyper reports both as an error of the upstream call.
#[derive(Clone, Debug, Default)]
pub struct InboundFault(Arc<Inbound>);

#[derive(Debug)]
struct Inbound {
    mark: AtomicU8,
    bytes: AtomicU64,
    begun: Instant,
    /// When the latest bytes came, in milliseconds since the beginning.
    latest: AtomicU64,
    /// Somebody waits for more of the body.
    awaited: AtomicBool,
    /// It was read to its end.
    ended: AtomicBool,
}

impl Default for Inbound {
    fn default() -> Self {
        Inbound {
            mark: AtomicU8::default(),
            bytes: AtomicU64::default(),
            begun: Instant::now(),
            latest: AtomicU64::default(),
            awaited: AtomicBool::default(),
            ended: AtomicBool::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The body was malformed or incomplete.
    Broken,
    /// The body exceeds the limit.
    TooLarge,
    /// The body made no progress.
    TooSlow,
}

impl InboundFault {
    pub fn get(&self) -> Option<Fault> {
        match self.0.mark.load(Ordering::Acquire) {
            1 => Some(Fault::Broken),
            2 => Some(Fault::TooLarge),
            3 => Some(Fault::TooSlow),
            _ => None,
        }
    }

    pub(super) fn set(&self, fault: Fault) {
        let mark = match fault {
            Fault::Broken => 1,
            Fault::TooLarge => 2,
            Fault::TooSlow => 3,
        };
        self.0.mark.store(mark, Ordering::Release);
    }

    /// Bytes of the body that were read so far.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// When the latest bytes of it came; the request's arrival if none have.
    pub fn latest(&self) -> Instant {
        self.0.begun + Duration::from_millis(self.0.latest.load(Ordering::Relaxed))
    }

    /// Whether somebody waits for the caller to send more of it.
    pub fn is_awaited(&self) -> bool {
        self.0.awaited.load(Ordering::Relaxed)
    }

    /// Whether the body was read to its end, without a fault.
    pub fn ended(&self) -> bool {
        self.0.ended.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        self.0.ended.store(true, Ordering::Release);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        let latest = u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.latest.store(latest, Ordering::Relaxed);
    }

    pub(super) fn set_awaited(&self, awaited: bool) {
        self.0.awaited.store(awaited, Ordering::Relaxed);
    }
}
