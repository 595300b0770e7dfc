//! What would happen to a request: asks `policy::explain` with what `stack` makes of the configuration, and with how things
//! stand where a gateway runs.

use std::{
    fmt,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{AUTHORIZATION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::{
    config::{CallerCredential, Config},
    error::Error,
    layer::{admission, authenticate, rate_limit::TokioClock},
    policy::{
        access::Access,
        explain::{self, Asked, Caller, Fate, Now, OWN, Refusal, Rules, Step},
        feedback::whole_seconds,
        rate::Limiter,
        rewrite::Mode,
        token_health::FIRST_PAUSE,
    },
    stack::{self, Shared},
    telemetry::keys::Keys,
    types,
};

/// What is asked, as it was typed.
#[derive(Debug, Default)]
pub struct Question {
    /// "POST /rev-users.link".
    pub request: String,
    /// A name of the file; without one, whoever shows no credential.
    pub caller: Option<String>,
    /// "Name: value".
    pub headers: Vec<String>,
    pub body: Option<Vec<u8>>,
}

/// What would happen, step by step.
#[derive(Debug)]
pub struct Explanation {
    request: String,
    caller: Option<String>,
    steps: Vec<Step>,
}

/// Explains what would happen under `config`: now, where `live` is what a gateway shares. Takes nothing of any limit.
///
/// # Errors
/// What is wrong with the question, in words.
pub fn explain(
    config: &Config,
    question: Question,
    live: Option<&Shared>,
) -> Result<Explanation, String> {
    let asked = question.read(config)?;
    let caller = identify(config, question.caller.as_deref())?;
    let caller = caller
        .as_deref()
        .map(|caller| described(config, caller, live));
    let off = config.rewrite.iter().filter(|rule| rule.mode == Mode::Off);
    let upstream = config.upstream.url.to_string();
    let rules = Rules {
        max_header_bytes: config.limits.max_header_bytes,
        max_headers: config.limits.max_headers,
        max_body: config.limits.max_body,
        now: live.map(|shared| now(config, shared, caller.as_ref())),
        caller,
        defaults: &Access::new(&config.defaults.allow, &config.defaults.deny),
        rules: &stack::rules(config),
        off: off
            .flat_map(|rule| rule.operations.iter().map(String::as_str))
            .collect(),
        retry: stack::retry_of(config),
        max_replay_body: config.retry.max_replay_body,
        circuit: stack::circuit_of(config),
        upstream: upstream.trim_end_matches('/'),
    };
    let steps = explain::explain(&asked, &rules);
    Ok(Explanation {
        request: question.request,
        caller: question.caller,
        steps,
    })
}

/// The caller of this name as the gateway knows it. `None` where no name is given and nobody may come without a credential.
fn identify(config: &Config, name: Option<&str>) -> Result<Option<Arc<types::Caller>>, String> {
    match (
        stack::identities(config, None, None, &Keys::default()),
        name,
    ) {
        (authenticate::Parameters::Inject(methods), None) => Ok(methods.anonymous),
        (authenticate::Parameters::Inject(methods), Some(name)) => {
            let peers = methods.peers;
            let peers = peers.sans.into_values().chain(peers.uids.into_values());
            let signed = methods.signed.iter();
            let signed = signed.flat_map(|signed| signed.subjects.values().cloned());
            let keys = methods.keys.0.into_values().map(|known| known.caller);
            let mut all = keys.chain(signed).chain(peers).chain(methods.anonymous);
            let found = all.find(|caller| *caller.name == *name);
            found.map(Some).ok_or_else(|| unknown(config, name))
        }
        (authenticate::Parameters::Validate { rules, .. }, name) => {
            if let Some(name) = name.filter(|name| **name != *rules.share.caller) {
                return Err(format!(
                    "no caller {name:?}: in mode \"validate\" callers have no names; leave it out"
                ));
            }
            Ok(Some(Arc::new(types::Caller {
                name: rules.share.caller.clone(),
                token: None,
                group: OWN.into(),
                share: rules.share,
                access: rules.access,
                max_wait: rules.max_wait,
                enforce: rules.enforce,
            })))
        }
    }
}

fn unknown(config: &Config, name: &str) -> String {
    let near = |known: &&String| strsim::damerau_levenshtein(known, name);
    let hint = match config.callers.keys().min_by_key(near) {
        Some(best) if near(&best) <= 1 + name.len() / 3 => format!("did you mean {best:?}?"),
        _ => {
            let names: Vec<_> = config.callers.keys().map(String::as_str).collect();
            format!("the file has {}", names.join(", "))
        }
    };
    format!("no caller {name:?}; {hint}")
}

fn described<'a>(config: &Config, caller: &'a types::Caller, live: Option<&Shared>) -> Caller<'a> {
    let configured = config.callers.get(&*caller.name);
    let quota = stack::quota_of(configured.map_or(&config.defaults, |caller| &caller.rules));
    let limiter = live.and_then(|shared| shared.limiters.load().of_caller(&caller.name));
    Caller {
        name: &caller.name,
        credential: match configured.map(|caller| &caller.credential) {
            Some(CallerCredential::Keys(_)) => "its key",
            Some(CallerCredential::JwtSubject(_)) => "its signed token",
            Some(CallerCredential::San(_)) => "its client certificate",
            Some(CallerCredential::Uid(_)) => "its uid on the unix socket",
            Some(CallerCredential::Anonymous) => "showing no credential",
            None => "a DevRev token of its own",
        },
        access: &caller.access,
        enforce: caller.enforce,
        quota,
        rate: match limiter {
            Some(limiter) => limiter.peek(),
            None => Limiter::new(quota, TokioClock::start()).peek(),
        },
        group: &caller.group,
        share: &caller.share,
        max_wait: caller.max_wait,
        token: caller.token.as_deref(),
    }
}

fn now(config: &Config, shared: &Shared, caller: Option<&Caller<'_>>) -> Now {
    let circuit = shared
        .circuit
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    Now {
        places: config
            .limits
            .max_in_flight
            .saturating_sub(shared.in_flight.load(Ordering::Acquire)),
        circuit: circuit.view(shared.epoch.elapsed()),
        token_refused: caller.and_then(|caller| shared.token_refused_for(caller.token?)),
        group: caller.and_then(|caller| {
            shared
                .groups
                .forecast(caller.group, caller.share, caller.max_wait)
        }),
    }
}

impl Question {
    /// Reads "request=POST%20/works.list&caller=billing"; `header` may come several times, `body` once.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn from_query(query: &str) -> Result<Question, String> {
        let mut question = Question::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value)
                .decode_utf8()
                .map_err(|_| format!("{name} is not UTF-8"))?
                .into_owned();
            match name {
                "request" => question.request = value,
                "caller" => question.caller = Some(value),
                "header" => question.headers.push(value),
                "body" => question.body = Some(value.into_bytes()),
                _ => return Err("ask with request=, caller=, header= and body=".into()),
            }
        }
        Ok(question)
    }

    fn read(&self, config: &Config) -> Result<Asked, String> {
        let mut words = self.request.split_ascii_whitespace();
        let (Some(method), Some(target), None) = (words.next(), words.next(), words.next()) else {
            return Err(
                "write the request as a method and a target, such as \"POST /works.list\"".into(),
            );
        };
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| "that is no method")?;
        let uri: Uri = target
            .parse()
            .map_err(|_| "that is no target of a request")?;
        let mut headers = HeaderMap::new();
        for header in &self.headers {
            let field = header.split_once(':').and_then(|(name, value)| {
                let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
                Some((name, HeaderValue::from_str(value.trim()).ok()?))
            });
            let (name, value) = field.ok_or("write a header as \"Name: value\"")?;
            if name == AUTHORIZATION {
                // Where it was typed, others can read it.
                return Err("name the caller instead of showing its key".into());
            }
            headers.append(name, value);
        }
        // What every client sends.
        let host = config
            .upstream
            .url
            .authority()
            .map_or("localhost", |a| a.as_str());
        if let (false, Ok(host)) = (headers.contains_key(HOST), HeaderValue::from_str(host)) {
            headers.insert(HOST, host);
        }
        let framed = [CONTENT_LENGTH, TRANSFER_ENCODING]
            .iter()
            .any(|name| headers.contains_key(name));
        if let (Some(body), false) = (&self.body, framed) {
            headers.insert(CONTENT_LENGTH, body.len().into());
        }
        let body = self.body.clone();
        Ok(Asked {
            method,
            uri,
            headers,
            body,
        })
    }
}

impl Explanation {
    /// Whether DevRev would get it.
    pub fn forwarded(&self) -> bool {
        self.refusal().is_none()
    }

    fn refusal(&self) -> Option<(&Step, Error)> {
        let step = self.steps.last()?;
        match &step.fate {
            Fate::Refused(refusal) => Some((step, error(refusal))),
            _ => None,
        }
    }

    /// The codes that enforcement would refuse it with.
    fn would_refuse(&self) -> Vec<&'static str> {
        let codes = self.steps.iter().filter_map(|step| match &step.fate {
            Fate::WouldRefuse(refusal) => Some(error(refusal).code()),
            _ => None,
        });
        codes.collect()
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let refusal = self.refusal();
        let steps = self.steps.iter().map(|step| {
            let (fate, code) = match &step.fate {
                Fate::Passes => ("passes", None),
                Fate::WouldRefuse(refusal) => ("would_refuse", Some(error(refusal).code())),
                Fate::Refused(refusal) => ("refused", Some(error(refusal).code())),
            };
            json!({ "layer": step.layer, "fate": fate, "code": code, "says": step.says, "facts": step.facts })
        });
        json!({
            "request": self.request,
            "caller": self.caller,
            "forwarded": refusal.is_none(),
            "status": refusal.as_ref().map(|(_, error)| error.status().as_u16()),
            "code": refusal.as_ref().map(|(_, error)| error.code()),
            "retry_after": refusal.as_ref().and_then(|(_, error)| error.retry_after()).map(whole_seconds),
            "would_refuse": self.would_refuse(),
            "steps": steps.collect::<Vec<_>>(),
        })
    }
}

/// For people.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let mark = match step.fate {
                Fate::Passes => " ",
                Fate::WouldRefuse(_) => "?",
                Fate::Refused(_) => "x",
            };
            writeln!(f, "{mark} {:<13} {}", step.layer, step.says)?;
        }
        if let Some((step, error)) = self.refusal() {
            let (status, code) = (error.status().as_u16(), error.code());
            return write!(f, "\nrefused by {}: {status} {code}", step.layer);
        }
        match self.would_refuse().as_slice() {
            [] => f.write_str("\nforwarded"),
            codes => write!(
                f,
                "\nforwarded, as enforce is off; else refused: {}",
                codes.join(", ")
            ),
        }
    }
}

/// The answer that the caller would get.
fn error(refusal: &Refusal) -> Error {
    match refusal {
        Refusal::Overloaded => Error::Overloaded {
            retry_after: admission::RETRY_AFTER,
        },
        Refusal::HeadersTooLarge => Error::HeadersTooLarge,
        Refusal::Target(fault) => Error::Target(*fault),
        Refusal::Framing(fault) => Error::Framing(*fault),
        Refusal::BodyTooLarge(max_bytes) => Error::BodyTooLarge {
            max_bytes: *max_bytes,
        },
        Refusal::Unauthenticated => Error::NoCredential,
        Refusal::Forbidden => Error::Forbidden,
        Refusal::Rate(time) => Error::CallerRateLimited { retry_after: *time },
        Refusal::Parse => Error::Parse,
        Refusal::Conflict(field) => Error::FieldConflict {
            field: field.as_str().into(),
        },
        Refusal::Deprecated(field) => Error::DeprecatedField {
            field: field.as_str().into(),
        },
        Refusal::Circuit(time) => Error::CircuitOpen { retry_after: *time },
        Refusal::Quota(time) => Error::QuotaExhausted { retry_after: *time },
        Refusal::Loop => Error::Loop,
        Refusal::Token(time) => Error::TokenUnavailable { retry_after: *time },
        Refusal::NoToken => Error::TokenUnavailable {
            retry_after: FIRST_PAUSE,
        },
    }
}
