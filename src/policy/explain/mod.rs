//! What would happen to a request, and why, in the order of the stack: decided by what the layers ask, told in words.

mod token;
mod way;

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::{HeaderMap, Method, Uri};
use serde_json::Value;

use self::way::Way;
use super::{
    access::Access,
    circuit,
    fair::Share,
    headers, ledger,
    operation::Operation,
    rate, retry,
    rewrite::Rule,
    target::{FramingFault, TargetFault},
};

/// The request in question.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    /// `None` while nothing is known of it.
    pub body: Option<Vec<u8>>,
}

/// What holds for it.
pub struct Rules<'a> {
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub max_body: u64,
    /// `None` where nobody calls so: no credential, and no anonymous caller.
    pub caller: Option<Caller<'a>>,
    /// Of the defaults: tells whose a pattern is.
    pub defaults: &'a Access,
    /// Of rewriting, by the operation's name.
    pub rules: &'a HashMap<String, Arc<Rule>>,
    /// Operations whose rule is off.
    pub off: Vec<&'a str>,
    pub retry: retry::RetryRules,
    pub max_replay_body: usize,
    pub circuit: circuit::CircuitRules,
    /// Scheme and authority.
    pub upstream: &'a str,
    /// How things stand; `None` when only a file is asked.
    pub now: Option<Now>,
}

/// Who calls.
pub struct Caller<'a> {
    pub name: &'a str,
    /// What it proves itself with.
    pub credential: &'a str,
    pub access: &'a Access,
    pub enforce: bool,
    pub quota: rate::RateLimit,
    /// What its limiter would say.
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
    /// The caller brings it.
    Own,
    /// None is configured for the caller.
    Missing,
}

impl<'a> TokenSource<'a> {
    /// The name of the token that is put on.
    pub fn configured(self) -> Option<&'a str> {
        match self {
            TokenSource::Configured(name) => Some(name),
            TokenSource::Own | TokenSource::Missing => None,
        }
    }
}

/// How things stand at this moment.
pub struct Now {
    /// Places for requests in flight that are free.
    pub places: usize,
    pub circuit: circuit::View,
    /// Until the caller's token is tried again; `None` while DevRev takes it.
    pub token_refused: Option<Duration>,
    /// The caller's group, and how long a request that came now would wait in it; `None` while nobody has used it.
    pub group: Option<(ledger::View, Duration)>,
}

/// One room that the request passes, or not.
#[derive(Debug)]
pub struct Step {
    /// As `layer` names it.
    pub layer: &'static str,
    pub fate: Fate,
    /// For people.
    pub says: String,
    /// The same for programs: an object.
    pub facts: Value,
}

#[derive(Debug, PartialEq)]
pub enum Fate {
    Passes,
    /// It passes only because enforcement is off for this caller.
    WouldRefuse(Refusal),
    Refused(Refusal),
}

/// Why it goes no further.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    Overloaded,
    HeadersTooLarge,
    Target(TargetFault),
    Framing(FramingFault),
    Loop,
    BodyTooLarge(u64),
    Unauthenticated,
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

/// The steps up to the one that refuses, or to upstream.
pub fn explain<'a>(asked: &'a Asked, rules: &'a Rules<'a>) -> Vec<Step> {
    let patience = rules.caller.as_ref().map_or(Duration::ZERO, |caller| {
        let wait = headers::take_prefer_wait(&mut asked.headers.clone());
        wait.map_or(caller.max_wait, |wait| wait.min(caller.max_wait))
    });
    let way = Way {
        asked,
        rules,
        operation: Operation::from_path(asked.uri.path()),
        patience,
    };
    let mut steps = Vec::new();
    for room in Way::rooms() {
        let Some(step) = room(&way) else { continue };
        let ends = matches!(step.fate, Fate::Refused(_));
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
        self.fate = Fate::Refused(refusal);
        self.passes(says)
    }

    fn judged(mut self, enforce: bool, refusal: Refusal, says: impl Into<String>) -> Step {
        if enforce {
            return self.refused(refusal, says);
        }
        self.fate = Fate::WouldRefuse(refusal);
        self.passes(says)
    }
}
