//! What an operator should look at: one list, from which the status page, `GET /status` and the warnings of `GET /readyz` are made.
//!
//! Each alert is a condition that holds now. Nothing here is counted up: an alert ends when its cause does.

mod conditions;
mod facts;
mod memory;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::{
    conditions::of,
    facts::{DroppedLines, Facts, FleetFacts, GroupFacts, LastMinute, ReloadFacts, TokenFacts},
    memory::Memory,
};
use crate::{
    label::label_enum,
    policy::duration_words::{DurationWords, duration_words},
};

label_enum! {
    /// How urgent an alert is, most urgent first.
    pub enum Severity {
        /// Calls fail because of it, or a restart would.
        Serious = "serious",
        /// Calls wait because of it, or will fail soon.
        Warning = "warning",
        /// Somebody has to do something about it some day.
        Notice = "notice",
    }
}

label_enum! {
    /// What an alert is about. Those of the same severity are shown in this order.
    pub enum Name {
        CircuitOpen = "circuit_open",
        TokenRefused = "token_refused",
        TokenExpired = "token_expired",
        ReloadRefused = "reload_refused",
        Paused = "paused",
        QuotaSpent = "quota_spent",
        CallsFail = "calls_fail",
        CallsRefused = "calls_refused",
        OperationPaused = "operation_paused",
        CircuitPartlyOpen = "circuit_partly_open",
        SharedDenied = "shared_denied",
        SharedDown = "shared_down",
        SharedAlone = "shared_alone",
        TokenExpires = "token_expires",
        LogLinesDropped = "log_lines_dropped",
        RestartNeeded = "restart_needed",
        DeprecatedUse = "deprecated_use",
    }
}

label_enum! {
    /// The section of the status page that has more about it.
    pub enum Section {
        Traffic = "traffic",
        Quota = "quota",
        Fleet = "fleet",
        Upstream = "upstream",
        Tokens = "tokens",
        Reload = "reload",
        Deprecations = "deprecations",
    }
}

label_enum! {
    /// What happens at the time that an alert names.
    pub enum Next {
        Probe = "next probe",
        Sent = "sent again",
        Full = "full again",
        Expires = "expires",
    }
}

label_enum! {
    /// The gateway as a whole.
    pub enum Health {
        Ready = "ready",
        /// It takes traffic, and an alert is serious.
        Troubled = "troubled",
        Unready = "unready",
    }
}

impl Health {
    pub fn of(is_ready: bool, alerts: &[Alert]) -> Health {
        let serious = |alert: &Alert| alert.severity == Severity::Serious;
        match is_ready {
            false => Health::Unready,
            true if alerts.iter().any(serious) => Health::Troubled,
            true => Health::Ready,
        }
    }
}

/// One thing to look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    pub name: Name,
    pub severity: Severity,
    /// The token or the group that it is about; `None` if there is only one such thing, or too many.
    pub subject: Option<String>,
    /// A sentence without its time.
    pub text: String,
    pub section: Section,
    /// Since when it holds, in epoch seconds. `None` until [`Memory`] has seen it, where the state does not say.
    pub since: Option<f64>,
    /// What happens next, and when, in epoch seconds. The time may have passed: then it happens with the next call.
    pub next: Option<(Next, f64)>,
}

impl Alert {
    fn new(name: Name, severity: Severity, section: Section, text: String) -> Alert {
        Alert {
            name,
            severity,
            subject: None,
            text,
            section,
            since: None,
            next: None,
        }
    }

    fn about(mut self, subject: &str) -> Alert {
        self.subject = Some(subject.to_owned());
        self
    }

    fn since(mut self, since: Option<f64>) -> Alert {
        self.since = since;
        self
    }

    fn then(mut self, next: Next, at: f64) -> Alert {
        self.next = Some((next, at));
        self
    }

    /// Whether what matters is how long it has been so.
    fn tells_its_time(&self) -> bool {
        matches!(
            self.name,
            Name::SharedDenied | Name::SharedDown | Name::SharedAlone
        )
    }

    /// The sentence with what happens next and when, for those who read it once.
    pub fn line(&self, now: f64) -> String {
        match self.next {
            Some((Next::Expires, at)) if at > now => {
                format!("{}, in {}", self.text, announced(at - now))
            }
            Some((next, at)) if at > now => {
                let time = announced(at - now);
                format!("{}, {} in {time}", self.text, next.label())
            }
            Some((Next::Probe, _)) => format!("{}, the next call is the probe", self.text),
            None if self.tells_its_time() => {
                let lasted = now - self.since.unwrap_or(now);
                let lasted = Duration::try_from_secs_f64(lasted.floor()).unwrap_or_default();
                format!("{}, for {}", self.text, duration_words(lasted))
            }
            _ => self.text.clone(),
        }
    }
}

/// The seconds until something happens, as a whole number: what is announced does not happen before.
fn announced(seconds: f64) -> DurationWords {
    duration_words(Duration::try_from_secs_f64(seconds.ceil()).unwrap_or(Duration::MAX))
}
