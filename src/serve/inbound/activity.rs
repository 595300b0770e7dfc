//! What a connection is doing, for the times that bound it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::delivery::Unread;

use crate::body::Guard;

/// What a connection is doing. Its stream and its service write it, and the timer that bounds the connection reads it.
#[derive(Clone)]
pub(super) struct Activity(Arc<Mutex<ActivityState>>);

struct ActivityState {
    /// Requests in flight.
    busy: usize,
    /// Since when none is in flight.
    since: Instant,
    /// When the first byte of an incomplete head was read; with HTTP/1.1, when the requests before it were over, if that was later.
    head: Option<Instant>,
    /// What was read last of HTTP/1.1 ends within a head, maybe behind requests that are in flight.
    partial: bool,
    /// Heads of HTTP/1.1 that have been read.
    heads: u64,
    /// Requests that have begun.
    begun: u64,
    /// Of HTTP/2, which may give up one answer and go on with the others.
    http2: bool,
    /// Answers on their way; some may be over.
    answers: Vec<Unread>,
}

/// How many of a connection's answers its client does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreads {
    None,
    /// Others go on.
    Some,
    All,
}

impl Activity {
    pub(super) fn new() -> Self {
        Activity(Arc::new(Mutex::new(ActivityState {
            busy: 0,
            since: Instant::now(),
            head: None,
            partial: false,
            heads: 0,
            begun: 0,
            http2: false,
            answers: Vec::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, ActivityState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.state().busy == 0
    }

    pub(super) fn is_http2(&self) -> bool {
        self.state().http2
    }

    /// Whether another request of HTTP/1.1 has come behind those that have begun, or its first bytes.
    pub(super) fn has_another(&self) -> bool {
        let state = self.state();
        state.partial || state.heads > state.begun
    }

    /// Bytes were read. `incomplete` means that they end within a head; so many heads of HTTP/1.1 have ended.
    ///
    /// The first head of a connection is timed from its first byte on, whatever HTTP/2 sends before it.
    pub(super) fn has_read(&self, incomplete: bool, http2: bool, heads: u64) {
        let mut state = self.state();
        (state.http2, state.heads) = (http2, heads);
        state.partial = !http2 && incomplete;
        if !http2 && state.busy > 0 {
            // Timed when they are over.
        } else if incomplete || state.begun == 0 {
            state.head.get_or_insert_with(Instant::now);
        } else {
            state.head = None;
        }
    }

    /// A request has arrived.
    pub(super) fn begin(&self) -> Busy {
        let mut state = self.state();
        state.busy += 1;
        state.head = None;
        state.begun += 1;
        drop(state);
        Busy(self.clone())
    }

    /// An answer is on its way.
    pub(super) fn answers(&self, unread: Unread, http2: bool) {
        let mut state = self.state();
        state.http2 = http2;
        // Now and then, so that it takes little time and no more memory than twice the requests in flight.
        if state.answers.len() > 2 * state.busy {
            state.answers.retain(|answer| !answer.is_over());
        }
        state.answers.push(unread);
    }

    /// Gives up answers that the client does not read. They hold what hyper has of them until the connection ends, so it takes no more
    /// requests then.
    pub(super) fn cut_unread(&self, now: Instant) -> Unreads {
        let mut state = self.state();
        state.answers.retain(|answer| !answer.is_over());
        let cut = state.answers.iter();
        let cut = cut.filter(|answer| answer.cut_if_overdue(now)).count();
        match cut {
            0 => Unreads::None,
            _ if !state.http2 || cut >= state.busy => Unreads::All,
            _ => Unreads::Some,
        }
    }

    /// When the first of its answers will have waited too long for the client.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        self.state()
            .answers
            .iter()
            .filter_map(Unread::overdue)
            .min()
    }

    /// When to end the connection if nothing more happens on it.
    pub(super) fn deadline(&self, header_timeout: Duration, idle_timeout: Duration) -> Instant {
        let state = self.state();
        let idle = match state.busy {
            0 => state.since + idle_timeout,
            _ => Instant::now() + idle_timeout,
        };
        // With HTTP/2 a head may also be incomplete while other requests are in flight.
        state.head.map_or(idle, |begun| begun + header_timeout)
    }
}

/// Held while a request is in flight, until the end of its answer's body.
pub(super) struct Busy(Activity);

impl Guard for Busy {}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.busy -= 1;
        state.since = Instant::now();
        if state.busy == 0 && state.partial {
            state.head = Some(state.since);
        }
    }
}
