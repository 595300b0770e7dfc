//! What would happen to a request, and why, in the order of the stack. It asks the same policies as the layers do, and puts their
//! decisions into words.

mod quota;
mod steps;
mod token;

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::{HeaderMap, Method, Uri};
use serde_json::Value;

use self::steps::Steps;
use super::{
    access::Access,
    browser::{BrowserFault, BrowserRules},
    circuit,
    fair::Share,
    headers, ledger,
    operation::Operation,
    rate, retry,
    rewrite::Rule,
    target::{FramingFault, TargetFault},
};

/// The request to explain.
#[derive(Clone, Debug)]
pub struct ExplainedRequest {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    /// `None` if the body is not known.
    pub body: Option<Vec<u8>>,
}

/// What decides about the request: the rules of the plan, its caller and the live state.
pub struct ExplainContext<'a> {
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub max_body: u64,
    pub max_rewrite_body: u64,
    /// `None` if there is no credential and no anonymous caller.
    pub caller: Option<Caller<'a>>,
    /// The `allow` and `deny` of the defaults. A pattern that is in them did not come from the caller's own lists.
    pub defaults: &'a Access,
    /// The rewrite rules, by the operation's name.
    pub rules: &'a HashMap<String, Arc<Rule>>,
    /// Operations whose rewrite rule is off.
    pub off: Vec<&'a str>,
    pub retry: retry::RetryRules,
    pub max_replay_body: usize,
    pub circuit: circuit::CircuitRules,
    /// Scheme and authority.
    pub upstream: &'a str,
    /// The URL of the proxy through which it is reached.
    pub proxy: Option<&'a str>,
    /// `None` without a running gateway.
    pub live: Option<LiveState>,
}

/// The caller of the request.
pub struct Caller<'a> {
    pub name: &'a str,
    /// How the caller authenticates.
    pub credential: &'a str,
    /// What a request of it obeys so that no page can send it.
    pub browser: BrowserRules<'a>,
    pub access: &'a Access,
    pub enforce: bool,
    pub quota: rate::RateLimit,
    /// What the caller's limiter would answer now.
    pub rate: rate::Verdict,
    pub group: &'a str,
    pub share: &'a Share,
    pub max_wait: Duration,
    pub token: TokenSource<'a>,
}

/// The DevRev token that goes with a caller's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSource<'a> {
    /// One of the configuration, by its name.
    Configured(&'a str),
    /// The caller sends its own.
    FromCaller,
    /// None is configured for the caller.
    Missing,
}

impl<'a> TokenSource<'a> {
    /// The name of the configured token, if there is one.
    pub fn configured(self) -> Option<&'a str> {
        match self {
            TokenSource::Configured(name) => Some(name),
            TokenSource::FromCaller | TokenSource::Missing => None,
        }
    }
}

/// The state of a running gateway.
pub struct LiveState {
    /// How many more requests may be in flight.
    pub free_slots: u64,
    /// The one that matters most to the request.
    pub circuit: circuit::View,
    /// The time until a refused token of the caller's is probed; `None` if it is not refused.
    pub token_refused: Option<Duration>,
    /// The caller's group, and how long a request would wait in it now; `None` if the group has not been used yet.
    pub group: Option<(ledger::View, Duration)>,
}

/// What one layer does with the request.
#[derive(Debug)]
pub struct Step {
    /// The layer's module.
    pub layer: &'static str,
    pub verdict: Verdict,
    /// One line for people.
    pub says: String,
    /// The same as a JSON object, for programs.
    pub facts: Value,
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    Passes,
    /// Passes only because `enforce` is off for this caller.
    WouldRefuse(Refusal),
    Refused(Refusal),
}

/// Why a layer refuses the request.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    Overloaded,
    HeadersTooLarge,
    Target(TargetFault),
    Framing(FramingFault),
    Loop,
    BodyTooLarge(u64),
    Unauthenticated,
    Browser(BrowserFault),
    Forbidden,
    Rate(Duration),
    Parse,
    Conflict(String),
    Deprecated(String),
    Circuit(Duration),
    Quota(Duration),
    Token(Duration),
    NoToken,
}

/// The steps up to the one that refuses the request, or up to the upstream.
pub fn explain<'a>(request: &'a ExplainedRequest, context: &'a ExplainContext<'a>) -> Vec<Step> {
    let max_wait = context.caller.as_ref().map_or(Duration::ZERO, |caller| {
        let wait = headers::take_prefer_wait(&mut request.headers.clone());
        wait.map_or(caller.max_wait, |wait| wait.min(caller.max_wait))
    });
    let explained = Steps {
        request,
        context,
        operation: Operation::from_path(request.uri.path()),
        max_wait,
    };
    let mut steps = Vec::new();
    for step_of in Steps::in_order() {
        let Some(step) = step_of(&explained) else {
            continue;
        };
        let ends = matches!(step.verdict, Verdict::Refused(_));
        steps.push(step);
        if ends {
            break;
        }
    }
    steps
}

impl Step {
    fn passes(mut self, says: impl Into<String>) -> Step {
        self.says = says.into();
        self
    }

    fn refused(mut self, refusal: Refusal, says: impl Into<String>) -> Step {
        self.verdict = Verdict::Refused(refusal);
        self.passes(says)
    }

    fn refused_if_enforced(
        mut self,
        enforce: bool,
        refusal: Refusal,
        says: impl Into<String>,
    ) -> Step {
        if enforce {
            return self.refused(refusal, says);
        }
        self.verdict = Verdict::WouldRefuse(refusal);
        self.passes(says)
    }
}
