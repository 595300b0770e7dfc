//! A log of the requests received, for `/_requests` and for tests.

use std::collections::VecDeque;

use tokio::time::Instant;

use http::request::Parts;
use serde::Serialize;

const REQUESTS: usize = 10_000;
const BODY: usize = 64 * 1024;
const BODIES: usize = 1024 * 1024;

#[derive(Debug, Clone, Serialize)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub version: String,
    pub headers: Vec<(String, String)>,
    /// The first 64 KiB. Old bodies are emptied when all of them exceed 1 MiB together.
    pub body: String,
    /// Milliseconds since the simulator started.
    pub at_ms: u64,
    /// `None` while it is being served, and if the connection was broken instead of an answer.
    pub status: Option<u16>,
}

#[derive(Debug)]
pub(super) struct RequestLog {
    started: Instant,
    entries: VecDeque<Received>,
    /// The number of the oldest entry. Numbers are never reused.
    first: u64,
    /// Entries below this number have been emptied.
    emptied: u64,
    bytes: usize,
}

impl RequestLog {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            entries: VecDeque::new(),
            first: 0,
            emptied: 0,
            bytes: 0,
        }
    }

    /// Logs a request's head and returns the request's number.
    pub(super) fn arrived(&mut self, head: &Parts) -> u64 {
        if self.entries.len() == REQUESTS
            && let Some(gone) = self.entries.pop_front()
        {
            self.bytes -= gone.body.len();
            self.first += 1;
        }
        // HTTP/2 carries the authority in the URI; it is not part of the target.
        let target = match head.uri.path_and_query() {
            Some(path) if head.version == http::Version::HTTP_2 => path.to_string(),
            _ => head.uri.to_string(),
        };
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into();
        self.entries.push_back(Received {
            method: head.method.to_string(),
            target,
            version: format!("{:?}", head.version),
            headers: head
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            body: String::new(),
            at_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            status: None,
        });
        self.first + self.entries.len() as u64 - 1
    }

    pub(super) fn body(&mut self, number: u64, body: &[u8]) {
        let text = String::from_utf8_lossy(&body[..body.len().min(BODY)]).into_owned();
        if number < self.emptied {
            return;
        }
        let Some(entry) = self.entry(number) else {
            return;
        };
        let added = text.len();
        entry.body = text;
        self.bytes += added;
        self.emptied = self.emptied.max(self.first);
        while self.bytes > BODIES {
            let oldest = self.emptied;
            let Some(entry) = self.entry(oldest) else {
                break;
            };
            let freed = std::mem::take(&mut entry.body).len();
            self.bytes -= freed;
            self.emptied += 1;
        }
    }

    pub(super) fn answered(&mut self, number: u64, status: u16) {
        if let Some(entry) = self.entry(number) {
            entry.status = Some(status);
        }
    }

    pub(super) fn all(&self) -> Vec<Received> {
        self.entries.iter().cloned().collect()
    }

    pub(super) fn clear(&mut self) {
        self.first += self.entries.len() as u64;
        self.entries.clear();
        self.bytes = 0;
    }

    fn entry(&mut self, number: u64) -> Option<&mut Received> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(index)
    }
}
