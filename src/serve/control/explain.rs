//! What would happen to a request: gives `policy::explain` the plan, and the live state if a gateway runs.

use std::{fmt, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{AUTHORIZATION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::{
    config::{AuthMode, CallerCredential, Config},
    error::{Code, Error},
    plan::{Identities, Plan},
    policy::{
        access::Access,
        allocator::Claim,
        circuit::Origin,
        explain::{
            self, Caller, ExplainContext, ExplainedRequest, LiveState, Refusal, Step, TokenSource,
            Verdict,
        },
        feedback::whole_seconds,
        ledger::{AttemptKind, Payload},
        operation::Operation,
        rate::Limiter,
        rewrite::Mode,
        token_health::FIRST_PAUSE,
    },
    state::{Clock, State},
    types,
};

/// Stands for the group of a caller that sends its own token.
const GROUP_OF_CALLERS_TOKEN: &str = "of the caller's own token";

/// The request to explain, as an operator typed it.
#[derive(Debug, Default)]
pub(crate) struct ExplainQuery {
    /// "POST /rev-users.link".
    pub request: String,
    /// A caller's name in the file; `None` for a request without a credential.
    pub caller: Option<String>,
    /// "Name: value".
    pub headers: Vec<String>,
    pub body: Option<Vec<u8>>,
}

/// What would happen, step by step.
#[derive(Debug)]
pub(crate) struct Explanation {
    request: String,
    caller: Option<String>,
    steps: Vec<Step>,
}

/// Explains what would happen under `plan`, and in the state `live` if it is given. Counts against no limit.
///
/// # Errors
/// What is wrong with the query, for the operator.
pub(crate) fn explain(
    config: &Config,
    plan: &Plan,
    query: ExplainQuery,
    live: Option<&State>,
) -> Result<Explanation, String> {
    let request = query.read(config)?;
    let caller = identify(config, plan, query.caller.as_deref())?;
    let caller = caller
        .as_deref()
        .map(|caller| describe(config, plan, caller, live));
    let off = config.rewrite.iter().filter(|rule| rule.mode == Mode::Off);
    let upstream = config.upstream.url.to_string();
    let proxy = config.upstream.proxy.as_ref().map(ToString::to_string);
    let context = ExplainContext {
        max_header_bytes: plan.request.max_header_bytes,
        max_headers: plan.request.max_headers,
        max_body: plan.request.max_body,
        max_rewrite_body: plan.max_rewrite_body,
        live: live.map(|state| live_state(plan, state, caller.as_ref(), &request)),
        caller,
        defaults: &Access::new(&config.defaults.allow, &config.defaults.deny),
        rules: &plan.rewrite,
        off: off
            .flat_map(|rule| rule.operations.iter().map(String::as_str))
            .collect(),
        retry: plan.retry.rules,
        max_replay_body: plan.retry.max_replay_body,
        circuit: plan.circuit,
        upstream: upstream.trim_end_matches('/'),
        proxy: proxy.as_deref().map(|proxy| proxy.trim_end_matches('/')),
    };
    let steps = explain::explain(&request, &context);
    Ok(Explanation {
        request: query.request,
        caller: query.caller,
        steps,
    })
}

/// The caller of this name. `None` if no name is given and there is no anonymous caller.
fn identify(
    config: &Config,
    plan: &Plan,
    name: Option<&str>,
) -> Result<Option<Arc<types::Caller>>, String> {
    match (&plan.identities, name) {
        (Identities::Inject(methods), None) => Ok(methods.anonymous.clone()),
        (Identities::Inject(_), Some(name)) => {
            let found = plan.identities.find(name).cloned();
            found.map(Some).ok_or_else(|| unknown(config, name))
        }
        (Identities::Validate(everyone), name) => {
            if let Some(name) = name.filter(|name| **name != *everyone.name) {
                return Err(format!(
                    "no caller {name:?}: in mode \"validate\" callers have no names; leave it out"
                ));
            }
            Ok(Some(Arc::new(types::Caller {
                name: everyone.name.clone(),
                token: None,
                group: GROUP_OF_CALLERS_TOKEN.into(),
                share: everyone.share.clone(),
                access: everyone.access.clone(),
                max_wait: everyone.max_wait,
                enforce: everyone.enforce,
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

fn describe<'a>(
    config: &Config,
    plan: &'a Plan,
    caller: &'a types::Caller,
    live: Option<&State>,
) -> Caller<'a> {
    let configured = config.callers.get(&*caller.name);
    let rate = plan.rates.callers.get(&caller.name);
    let quota = rate.copied().unwrap_or(plan.rates.default);
    let limiters = live.map(|state| state.limiters.of_plan());
    let left = limiters
        .as_ref()
        .and_then(|limiters| limiters.peek_caller(&caller.name, Some(&caller.group)));
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
        browser: plan.identities.browser_rules(config, &caller.name),
        access: &caller.access,
        enforce: caller.enforce,
        quota,
        rate: left.unwrap_or_else(|| Limiter::new(quota, Clock::start()).peek()),
        group: &caller.group,
        share: &caller.share,
        max_wait: caller.max_wait,
        token: match (caller.token.as_deref(), config.auth.mode) {
            (Some(name), _) => TokenSource::Configured(name),
            (None, AuthMode::Validate) => TokenSource::FromCaller,
            (None, AuthMode::Inject) => TokenSource::Missing,
        },
    }
}

fn live_state(
    plan: &Plan,
    state: &State,
    caller: Option<&Caller<'_>>,
    request: &ExplainedRequest,
) -> LiveState {
    let name = caller.map_or("", |caller| caller.name);
    let operation = Operation::from_path(request.uri.path());
    let origin = Origin::new(name.into(), Some(&operation));
    LiveState {
        free_slots: caller.map_or(plan.max_in_flight as u64, |caller| {
            let claim = Claim::caller(caller.group.into(), caller.share);
            state.in_flight.free_for(plan.max_in_flight as u64, &claim)
        }),
        circuit: state.circuit.view_for(&origin, &plan.circuit),
        token_refused: caller
            .and_then(|caller| state.tokens.refused_for(caller.token.configured()?)),
        group: caller.and_then(|caller| {
            let rules = &plan.quota.rules;
            let groups = &state.groups;
            let kind = AttemptKind {
                operation: Operation::from_path(request.uri.path()).id(),
                payload: Payload::Whole,
                standing: caller.share.priority.into(),
            };
            groups.forecast(caller.group, caller.share, caller.max_wait, kind, rules)
        }),
    }
}

impl ExplainQuery {
    /// Reads "request=POST%20/works.list&caller=billing"; `header` may come several times, `body` once.
    ///
    /// # Errors
    /// What is malformed.
    pub(crate) fn from_query(query: &str) -> Result<ExplainQuery, String> {
        let mut parsed = ExplainQuery::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value)
                .decode_utf8()
                .map_err(|_| format!("{name} is not UTF-8"))?
                .into_owned();
            match name {
                "request" => parsed.request = value,
                "caller" => parsed.caller = Some(value),
                "header" => parsed.headers.push(value),
                "body" => parsed.body = Some(value.into_bytes()),
                _ => return Err("ask with request=, caller=, header= and body=".into()),
            }
        }
        Ok(parsed)
    }

    fn read(&self, config: &Config) -> Result<ExplainedRequest, String> {
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
        let host = config.upstream.url.authority();
        let host = host.map_or("localhost", |host| host.as_str());
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
        Ok(ExplainedRequest {
            method,
            uri,
            headers,
            body,
        })
    }
}

impl Explanation {
    /// Whether DevRev would get it.
    pub(crate) fn forwarded(&self) -> bool {
        self.refusal().is_none()
    }

    fn refusal(&self) -> Option<(&Step, Error)> {
        let step = self.steps.last()?;
        match &step.verdict {
            Verdict::Refused(refusal) => Some((step, error(refusal))),
            _ => None,
        }
    }

    /// The codes that enforcement would refuse it with.
    fn would_refuse(&self) -> Vec<Code> {
        let codes = self.steps.iter().filter_map(|step| match &step.verdict {
            Verdict::WouldRefuse(refusal) => Some(error(refusal).code()),
            _ => None,
        });
        codes.collect()
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let refusal = self.refusal();
        let refusal = refusal.as_ref().map(|(_, error)| error);
        let steps = self.steps.iter().map(|step| {
            let (verdict, refusal) = match &step.verdict {
                Verdict::Passes => ("passes", None),
                Verdict::WouldRefuse(refusal) => ("would_refuse", Some(refusal)),
                Verdict::Refused(refusal) => ("refused", Some(refusal)),
            };
            let code = refusal.map(|refusal| error(refusal).code());
            json!({ "layer": step.layer, "fate": verdict, "code": code, "says": step.says, "facts": step.facts })
        });
        json!({
            "request": self.request,
            "caller": self.caller,
            "forwarded": refusal.is_none(),
            "status": refusal.map(|error| error.status().as_u16()),
            "code": refusal.map(Error::code),
            "retry_after": refusal.and_then(Error::retry_after).map(whole_seconds),
            "would_refuse": self.would_refuse(),
            "steps": steps.collect::<Vec<_>>(),
        })
    }
}

/// For people.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let mark = match step.verdict {
                Verdict::Passes => " ",
                Verdict::WouldRefuse(_) => "?",
                Verdict::Refused(_) => "x",
            };
            writeln!(f, "{mark} {:<13} {}", step.layer, step.says)?;
        }
        if let Some((step, error)) = self.refusal() {
            let (status, code) = (error.status().as_u16(), error.code().label());
            return write!(f, "\nrefused by {}: {status} {code}", step.layer);
        }
        match self.would_refuse().as_slice() {
            [] => f.write_str("\nforwarded"),
            codes => {
                let codes: Vec<_> = codes.iter().map(|code| code.label()).collect();
                let codes = codes.join(", ");
                write!(f, "\nforwarded, as enforce is off; else refused: {codes}")
            }
        }
    }
}

/// The answer that the caller would get.
fn error(refusal: &Refusal) -> Error {
    match refusal {
        Refusal::Overloaded => Error::OVERLOADED,
        Refusal::HeadersTooLarge => Error::HeadersTooLarge,
        Refusal::Target(fault) => Error::Target(*fault),
        Refusal::Framing(fault) => Error::Framing(*fault),
        Refusal::BodyTooLarge(bytes) => Error::BodyTooLarge { max_bytes: *bytes },
        Refusal::Unauthenticated => Error::NoCredential,
        Refusal::Browser(fault) => Error::Browser(*fault),
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
