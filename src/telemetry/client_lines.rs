//! Lines of the log that may come in great numbers: those that a client causes before it is known who it is, those of a caller's refused
//! requests, and those of states that come and go. The first of each kind are written; the rest are summed up, so that nobody fills the log
//! and an outage is told in a few lines.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    labels::{ConnectionEnd, HandshakeFailure},
    log,
};
use crate::{
    error::{AuthFailure, Code},
    event::Event,
    lock::Lock,
    policy::{
        circuit::Scope,
        line_limit::{LineLimit, LineRates, Summary},
    },
};

/// Enough to see what is wrong with a client that has just been set up, and little enough for a flood.
const RATES: LineRates = LineRates {
    at_once: 16,
    another_after: Duration::from_secs(60),
    in_all: 64,
};

/// Of a caller's requests that ended in the same way: enough to look at some of them one by one. What happens once a minute has a line
/// each time.
const RATES_OF_CALLERS: LineRates = LineRates {
    at_once: 20,
    another_after: Duration::from_secs(60),
    // One caller's lines leave out none of another's.
    in_all: u32::MAX,
};

/// Of states that come and go, such as a circuit.
const RATES_OF_STATES: LineRates = LineRates {
    at_once: 10,
    another_after: Duration::from_secs(60),
    in_all: 64,
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

/// How a caller's request ended that has a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    Refused(Code),
    /// It passed because `enforce` is off.
    WouldBeRefused(Code),
    /// Its client left.
    Left,
    /// DevRev failed.
    Failed,
}

/// A state that comes and goes. Its beginning has a line if this passes, and then its end has one too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StateLine {
    /// A pause of this group, or of an operation in it.
    Pause(Arc<str>),
    Circuit(Scope),
    /// A 401 to an operation that did not mean this token.
    Doubt(Arc<str>),
    /// This group shares nothing although the register can be reached.
    Alone(Arc<str>),
    /// What the register kept of this group was lost.
    Lost(Arc<str>),
    /// What the register keeps of this group cannot be read.
    Unreadable(Arc<str>),
    /// The pool of this group had no room for limits of callers.
    NoRoom(Arc<str>),
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

    pub(super) fn take_summaries(&self, which: Due) -> Vec<Summary<K>> {
        let now = self.start.elapsed();
        let mut limit = self.limit.lock();
        match which {
            Due::Now => limit.take_summaries(now),
            Due::AtTheEnd => limit.take_all(now),
        }
    }
}

/// Which summaries are logged.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Due {
    Now,
    /// Those of everything that was left out.
    AtTheEnd,
}

/// Decides which of these lines are written. Shared by all workers.
#[derive(Debug)]
pub struct ClientLines {
    unknown: SharedLimit<Topic>,
    /// By caller. The file bounds the callers, except in mode "validate", where the limit does.
    callers: SharedLimit<(Arc<str>, Ending)>,
    states: SharedLimit<StateLine>,
}

impl Default for ClientLines {
    fn default() -> Self {
        ClientLines {
            unknown: SharedLimit::default(),
            callers: SharedLimit::new(RATES_OF_CALLERS),
            states: SharedLimit::new(RATES_OF_STATES),
        }
    }
}

impl ClientLines {
    /// Whether this line is written. If not, a summary counts it.
    pub(crate) fn try_pass(&self, topic: Topic, peer: Option<IpAddr>) -> bool {
        self.unknown.try_pass(topic, peer)
    }

    /// Whether the line of this caller's request is written. If not, a summary counts it.
    pub(crate) fn try_pass_caller(&self, caller: &Arc<str>, ending: Ending) -> bool {
        self.callers.try_pass((caller.clone(), ending), None)
    }

    /// Whether the lines of this state are written. If not, a summary counts it.
    pub(crate) fn try_pass_state(&self, state: StateLine) -> bool {
        self.states.try_pass(state, None)
    }

    /// Logs a summary for each kind with lines that were left out.
    pub(crate) fn log_summaries(&self, which: Due) {
        self.unknown
            .take_summaries(which)
            .iter()
            .for_each(log_summary);
        self.callers
            .take_summaries(which)
            .iter()
            .for_each(log_callers);
        self.states
            .take_summaries(which)
            .iter()
            .for_each(log_states);
        log::log_library_summaries(which);
    }

    /// Logs summaries as they are due, for ever.
    pub(crate) async fn keep_logging_summaries(self: Arc<Self>) {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.log_summaries(Due::Now);
        }
    }
}

/// Writes the line of a summary: what it counts, how many they are, since when, and the fields that tell the kind.
macro_rules! sum_up {
    ($level:ident, $summary:expr, $of:expr, [$(@ $target:expr;)? $($field:ident = $value:expr),*], $what:literal) => {
        tracing::$level!(
            $(target: $target,)?
            event = $crate::event::Event::MoreLines.label(),
            of = $of.label(),
            $($field = $value,)*
            lines = $summary.lines,
            since_seconds = $summary.since.as_secs(),
            "{}: {}, the first {} ago",
            $what,
            $summary.lines,
            $crate::policy::duration_words::duration_words($summary.since)
        )
    };
}
pub(super) use sum_up;

fn log_summary(summary: &Summary<Topic>) {
    let peers = summary.peers;
    match summary.kind {
        Some(Topic::Request(code)) => {
            let code = code.map_or("", Code::label);
            sum_up!(info, summary, Event::RequestRefused, [@ log::ACCESS; code = code, peers = peers], "more requests of unknown clients");
        }
        Some(Topic::Credential(failure)) => {
            sum_up!(
                info,
                summary,
                Event::CredentialRefused,
                [reason = failure.label()],
                "more signed tokens or client certificates refused"
            );
        }
        Some(Topic::Handshake(reason)) => {
            sum_up!(
                info,
                summary,
                Event::HandshakeFailed,
                [reason = reason.label(), peers = peers],
                "more TLS handshakes failed"
            );
        }
        Some(Topic::Ended(reason)) => {
            sum_up!(
                info,
                summary,
                Event::ConnectionEnded,
                [reason = reason.label(), peers = peers],
                "more connections ended"
            );
        }
        Some(Topic::Accept) => {
            sum_up!(
                warn,
                summary,
                Event::AcceptFailed,
                [],
                "more connections could not be accepted"
            );
        }
        None => sum_up!(
            info,
            summary,
            Event::MoreLines,
            [peers = peers],
            "more lines of various kinds"
        ),
    }
}

fn log_callers(summary: &Summary<(Arc<str>, Ending)>) {
    let of = Event::RequestRefused;
    let Some((caller, ending)) = &summary.kind else {
        return sum_up!(info, summary, of, [@ log::ACCESS;], "more requests of various callers");
    };
    let caller = &**caller;
    match ending {
        Ending::Refused(code) => {
            sum_up!(info, summary, of, [@ log::ACCESS; caller = caller, code = code.label()], "more refused requests of a caller");
        }
        Ending::WouldBeRefused(code) => {
            sum_up!(info, summary, of, [@ log::ACCESS; caller = caller, would_refuse = code.label()], "more requests of a caller that would be refused");
        }
        Ending::Left => {
            sum_up!(info, summary, of, [@ log::ACCESS; caller = caller], "more requests that a caller left");
        }
        Ending::Failed => {
            sum_up!(info, summary, of, [@ log::ACCESS; caller = caller], "more requests of a caller that DevRev failed");
        }
    }
}

fn log_states(summary: &Summary<StateLine>) {
    match &summary.kind {
        Some(StateLine::Pause(group)) => {
            sum_up!(
                warn,
                summary,
                Event::QuotaPaused,
                [group = &**group],
                "more pauses of a quota group"
            );
        }
        Some(StateLine::Circuit(scope)) => {
            sum_up!(
                warn,
                summary,
                Event::CircuitOpened,
                [scope = scope.label()],
                "more circuits opened"
            );
        }
        Some(StateLine::Doubt(token)) => {
            sum_up!(
                info,
                summary,
                Event::TokenDoubted,
                [token = &**token],
                "more answers 401 that did not mean the token"
            );
        }
        Some(StateLine::Alone(group)) => {
            sum_up!(
                warn,
                summary,
                Event::SharedDown,
                [group = &**group],
                "more times that a quota group shared nothing"
            );
        }
        Some(StateLine::Lost(group)) => {
            sum_up!(
                warn,
                summary,
                Event::SharedLostState,
                [group = &**group],
                "more times that Redis had lost what it kept of a quota group"
            );
        }
        Some(StateLine::Unreadable(group)) => {
            sum_up!(
                warn,
                summary,
                Event::SharedUnreadable,
                [group = &**group],
                "more values of a quota group that cannot be read"
            );
        }
        Some(StateLine::NoRoom(group)) => {
            sum_up!(
                warn,
                summary,
                Event::SharedNoRoom,
                [group = &**group],
                "more times that a quota group had no room for callers' limits"
            );
        }
        None => sum_up!(
            warn,
            summary,
            Event::MoreLines,
            [],
            "more lines of various kinds"
        ),
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
        let refused = Ending::Refused(Code::CallerRateLimited);
        let passed = |caller: &Arc<str>, ending| {
            let passes = (0..1000).map(|_| lines.try_pass_caller(caller, ending));
            passes.filter(|passes| *passes).count()
        };
        assert_eq!(passed(&a, refused), 20);
        assert_eq!(passed(&a, Ending::Refused(Code::Forbidden)), 20);
        assert_eq!(passed(&a, Ending::Failed), 20);
        assert_eq!(passed(&b, refused), 20);
        let summaries = lines.callers.take_summaries(Due::AtTheEnd);
        let left_out: u64 = summaries.iter().map(|summary| summary.lines).sum();
        assert_eq!((summaries.len(), left_out), (4, 4 * 980));
    }

    #[tokio::test(start_paused = true)]
    async fn each_topic_is_limited_by_itself_and_has_a_summary() {
        let captured = Captured::default();
        let _logging = tracing::subscriber::set_default(captured.subscriber());
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
        assert_eq!(passed, 7 * RATES.at_once);
        // By itself, once a second.
        let keeps = lines.clone().keep_logging_summaries();
        let _ = tokio::time::timeout(Duration::from_secs(3), keeps).await;
        let text = captured.text();
        let told = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["lines"], 84, "{line}");
            let of = line.get("code").or(line.get("reason"));
            let of = of.and_then(Value::as_str).unwrap_or("-").to_owned();
            assert_eq!(line["event"], "more_lines");
            assert!(line["of"].is_string() && line["since_seconds"].is_u64());
            let message = line["message"].as_str().unwrap_or_default();
            let (message, since) = message.split_once(": 84, the first ").unwrap();
            assert!(since.ends_with(" s ago"), "{since}");
            (message.to_owned(), of, line["peers"].as_u64())
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
