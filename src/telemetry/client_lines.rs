//! Log lines that a client can cause before it is known who it is, and those of a caller's refused requests. The first of each topic in a
//! second are written; the rest are summed up, so that nobody can fill the log.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    labels::{ConnectionEnd, HandshakeFailure},
    log,
};
use crate::{
    error::{AuthFailure, Code},
    lock::Lock,
    policy::line_limit::{LineLimit, LineRates, Summary},
};

/// Enough to see what is wrong with a client that has just been set up, and little enough for a flood: with summaries, some 50 kB a
/// second at most.
const RATES: LineRates = LineRates {
    of_kind: 16,
    in_all: 64,
};

/// Of a caller's requests with one code: enough for whatever is looked at one by one.
const RATES_OF_CALLERS: LineRates = LineRates {
    of_kind: 200,
    // One caller's lines leave out none of another's.
    in_all: u32::MAX,
};

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// A request whose caller is not known. `None` if its client left before there was an answer.
    Request(Option<Code>),
    /// A signed token or a client certificate that was refused.
    Credential(AuthFailure),
    Handshake(HandshakeFailure),
    /// A connection that could not be accepted.
    Accept,
    /// A connection that revgate ended.
    Ended(ConnectionEnd),
}

/// A limit that threads share, by the clock.
#[derive(Debug)]
pub(super) struct SharedLimit<K> {
    limit: Lock<LineLimit<K>>,
    start: Instant,
}

impl<K: Clone + Ord> Default for SharedLimit<K> {
    fn default() -> Self {
        SharedLimit::new(RATES)
    }
}

impl<K: Clone + Ord> SharedLimit<K> {
    fn new(rates: LineRates) -> Self {
        SharedLimit {
            limit: Lock::new(LineLimit::new(rates)),
            start: Instant::now(),
        }
    }

    pub(super) fn try_pass(&self, kind: K, peer: Option<IpAddr>) -> bool {
        self.limit.lock().try_pass(kind, peer, self.start.elapsed())
    }

    pub(super) fn take_summaries(&self) -> Vec<Summary<K>> {
        self.limit.lock().take_summaries()
    }
}

/// Decides which of these lines are written. Shared by all workers.
#[derive(Debug)]
pub struct ClientLines {
    unknown: SharedLimit<Topic>,
    /// By caller and code. The file bounds the callers.
    callers: SharedLimit<(Arc<str>, Option<Code>)>,
}

impl Default for ClientLines {
    fn default() -> Self {
        ClientLines {
            unknown: SharedLimit::default(),
            callers: SharedLimit::new(RATES_OF_CALLERS),
        }
    }
}

impl ClientLines {
    /// Whether this line is written. If not, the next summary counts it.
    pub(crate) fn try_pass(&self, topic: Topic, peer: Option<IpAddr>) -> bool {
        self.unknown.try_pass(topic, peer)
    }

    /// Whether the line of this caller's request is written. If not, the next summary counts it.
    pub(crate) fn try_pass_caller(&self, caller: &Arc<str>, code: Option<Code>) -> bool {
        self.callers.try_pass((caller.clone(), code), None)
    }

    /// Logs a summary for each topic with lines that were left out.
    pub(crate) fn log_summaries(&self) {
        self.unknown.take_summaries().iter().for_each(log_summary);
        for Summary { kind, lines, .. } in self.callers.take_summaries() {
            let (caller, code) = (&*kind.0, kind.1.map_or("", Code::label));
            tracing::info!(
                target: log::ACCESS,
                caller,
                code,
                lines,
                "more requests of a caller"
            );
        }
        log::log_library_summaries();
    }

    /// Logs summaries each second, for ever.
    pub(crate) async fn keep_logging_summaries(self: Arc<Self>) {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.log_summaries();
        }
    }
}

fn log_summary(summary: &Summary<Topic>) {
    let Summary { kind, lines, peers } = *summary;
    match kind {
        Topic::Request(code) => tracing::info!(
            target: log::ACCESS,
            code = code.map_or("", Code::label),
            lines,
            peers,
            "more requests of unknown clients"
        ),
        Topic::Credential(failure) => tracing::info!(
            reason = failure.label(),
            lines,
            "more signed tokens or client certificates refused"
        ),
        Topic::Handshake(reason) => tracing::info!(
            reason = reason.label(),
            lines,
            peers,
            "more TLS handshakes failed"
        ),
        Topic::Ended(reason) => tracing::info!(
            reason = reason.label(),
            lines,
            peers,
            "more connections ended"
        ),
        Topic::Accept => tracing::warn!(lines, "more connections could not be accepted"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{error::CredentialFault, policy::jwt::Fault, telemetry::captured::Captured};

    #[tokio::test(start_paused = true)]
    async fn one_callers_lines_leave_out_none_of_another() {
        let lines = ClientLines::default();
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        let refused = Some(Code::CallerRateLimited);
        let passed = |caller: &Arc<str>, code| {
            let passes = (0..1000).map(|_| lines.try_pass_caller(caller, code));
            passes.filter(|passes| *passes).count()
        };
        assert_eq!(passed(&a, refused), 200);
        assert_eq!(passed(&a, Some(Code::Forbidden)), 200);
        assert_eq!(passed(&b, refused), 200);
        let summaries = lines.callers.take_summaries();
        let left_out: u64 = summaries.iter().map(|summary| summary.lines).sum();
        assert_eq!((summaries.len(), left_out), (3, 3 * 800));
    }

    #[tokio::test(start_paused = true)]
    async fn each_topic_is_limited_by_itself_and_has_a_summary() {
        let captured = Captured::default();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(captured.clone())
            .finish();
        let _logging = tracing::subscriber::set_default(subscriber);
        let certificate = AuthFailure::Credential(CredentialFault::UnknownCertificate);
        let topics = [
            Topic::Request(Some(Code::Unauthenticated)),
            Topic::Request(None),
            Topic::Credential(AuthFailure::Token(Fault::Expired)),
            Topic::Credential(certificate),
            Topic::Handshake(HandshakeFailure::UnknownAuthority),
            Topic::Accept,
            Topic::Ended(ConnectionEnd::HeadsFull),
        ];
        let lines = Arc::new(ClientLines::default());
        let mut passed = 0;
        for topic in topics {
            for last in 0..100 {
                let peer = IpAddr::from([192, 0, 2, last % 5]);
                passed += u32::from(lines.try_pass(topic, Some(peer)));
            }
            // Another second, so that the bound for all topics matters to none of these.
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(passed, 7 * RATES.of_kind);
        // By itself, once a second.
        let keeps = lines.clone().keep_logging_summaries();
        let _ = tokio::time::timeout(Duration::from_secs(3), keeps).await;
        let text = captured.text();
        let told = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["lines"], 84, "{line}");
            let of = line.get("code").or(line.get("reason"));
            let of = of.and_then(Value::as_str).unwrap_or("-").to_owned();
            let message = line["message"].as_str().unwrap_or_default().to_owned();
            (message, of, line["peers"].as_u64())
        });
        let told: Vec<_> = told.collect();
        let expected = [
            ("more requests of unknown clients", "", Some(5)),
            (
                "more requests of unknown clients",
                "unauthenticated",
                Some(5),
            ),
            (
                "more signed tokens or client certificates refused",
                "unknown_certificate",
                None,
            ),
            (
                "more signed tokens or client certificates refused",
                "jwt_expired",
                None,
            ),
            ("more TLS handshakes failed", "unknown_authority", Some(5)),
            ("more connections could not be accepted", "-", None),
            ("more connections ended", "heads_full", Some(5)),
        ];
        let expected = expected.map(|(message, of, peers)| (message.into(), of.into(), peers));
        assert_eq!(told, expected);
    }
}
