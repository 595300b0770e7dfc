//! What each layer would do with a request.

use std::{collections::HashMap, fmt::Write, time::Duration};

use http::{Method, StatusCode, Version};
use serde_json::{Value, json};

use super::{
    super::{
        access::Decision,
        circuit,
        duration_words::duration_words,
        headers,
        operation::Operation,
        rate,
        retry::{self, Attempt, AttemptEnd},
        rewrite::{self, Mode, RewriteFault, Rewritten, Skip, Unreadable},
        target,
    },
    ExplainContext, ExplainedRequest, Refusal, Step, Verdict,
};

/// The steps of one request: a method for each layer.
pub(super) struct Steps<'a> {
    pub request: &'a ExplainedRequest,
    pub context: &'a ExplainContext<'a>,
    pub operation: Operation,
    /// The longest that it would wait: the caller's `max_wait`, or less if `Prefer: wait` asks for less.
    pub max_wait: Duration,
}

/// `None` if the layer has nothing to say.
type StepOf<'a> = fn(&Steps<'a>) -> Option<Step>;

impl<'a> Steps<'a> {
    /// The layers in the order of `stack.rs`, without those that decide nothing.
    pub(super) fn in_order() -> [StepOf<'a>; 11] {
        [
            Steps::protocol,
            Steps::authenticate,
            Steps::admission,
            Steps::authorize,
            Steps::rate_limit,
            Steps::rewrite,
            Steps::retry,
            Steps::circuit,
            Steps::token_gate,
            Steps::quota,
            Steps::credential,
        ]
    }

    fn admission(&self) -> Option<Step> {
        let free = self.context.live.as_ref()?.free_slots;
        let step = step("admission", json!({ "free": free }));
        let full = "limits.max_in_flight is reached, or the caller has its share of it";
        Some(match free {
            0 => step.refused(Refusal::Overloaded, full),
            _ => step.passes(format!("{free} more requests may be in flight")),
        })
    }

    fn protocol(&self) -> Option<Step> {
        let (request, context, operation) = (self.request, self.context, &self.operation);
        let known = operation.is_known();
        let class = operation.class(&request.method);
        let step = step(
            "protocol",
            json!({
                "operation": operation.name(), "known": known, "label": operation.label(), "class": class,
                "beta": operation.is_beta(), "deprecated": operation.is_deprecated(), "ambiguous": operation.is_ambiguous(),
            }),
        );
        if !target::head_fits(
            &request.headers,
            context.max_headers,
            context.max_header_bytes,
        ) {
            let says = "more header fields or bytes than limits.max_headers and limits.max_header_bytes allow";
            return Some(step.refused(Refusal::HeadersTooLarge, says));
        }
        let checked = target::check(
            &request.method,
            &request.uri,
            Version::HTTP_11,
            &request.headers,
        );
        if let Some(fault) = checked.err().or(operation.fault()) {
            return Some(step.refused(Refusal::Target(fault), fault.to_string()));
        }
        if let Err(fault) = target::framing(&request.headers, &Version::HTTP_11) {
            return Some(step.refused(Refusal::Framing(fault), fault.to_string()));
        }
        if headers::is_loop(&request.headers) {
            let says = "it has been through revgate already, so it is in a loop";
            return Some(step.refused(Refusal::Loop, says));
        }
        let size = request.body.as_ref().map_or(0, |body| body.len() as u64);
        if size > context.max_body {
            let says = format!("{size} bytes of body, more than limits.max_body allows");
            return Some(step.refused(Refusal::BodyTooLarge(context.max_body), says));
        }
        let mut says = format!("the operation {}", operation.name());
        says += if known {
            ", which revgate knows"
        } else {
            ", which revgate does not know: forwarded all the same, `other` in metrics"
        };
        let _ = write!(says, "; it {}s", class.label());
        if operation.is_ambiguous() {
            says += "; servers may read this path in different ways, so what is strictest for any of them holds";
        }
        if operation.is_beta() {
            says += "; beta, so DevRev wants `X-Devrev-Scope: beta`";
        }
        if operation.is_deprecated() {
            says += "; deprecated as a whole, so the call is counted";
        }
        Some(step.passes(says))
    }

    fn authenticate(&self) -> Option<Step> {
        let Some(caller) = &self.context.caller else {
            let says = "no credential, and no caller is anonymous";
            return Some(step("authenticate", json!({})).refused(Refusal::Unauthenticated, says));
        };
        let facts = json!({
            "caller": caller.name, "credential": caller.credential, "enforce": caller.enforce,
            "max_wait_seconds": self.max_wait.as_secs_f64(),
        });
        let request = self.request;
        let rules = caller.browser;
        if let Err(fault) = rules.check(&request.uri, Version::HTTP_11, &request.headers) {
            let says = format!("it may come from a page of another site: {fault}");
            return Some(step("authenticate", facts).refused(Refusal::Browser(fault), says));
        }
        let mut says = format!("the caller {}, by {}", caller.name, caller.credential);
        if !caller.enforce {
            says += "; enforce = false: what its rate, allow or deny would refuse passes and is counted";
        }
        if self.max_wait < caller.max_wait {
            let _ = write!(
                says,
                "; it asks to wait {} at most",
                duration_words(self.max_wait)
            );
        }
        Some(step("authenticate", facts).passes(says))
    }

    fn authorize(&self) -> Option<Step> {
        let caller = self.context.caller.as_ref()?;
        let decision = caller.access.decide(&self.operation);
        let shared = self.context.defaults.shares(decision);
        let (list, pattern) = match decision {
            Decision::Allowed(pattern) => ("allow", Some(pattern.to_string())),
            Decision::Denied(pattern) => ("deny", Some(pattern.to_string())),
            Decision::NotAllowed => ("allow", None),
        };
        let of = if shared { "defaults" } else { "caller" };
        let facts = json!({ "list": list, "pattern": pattern, "of": of });
        let says = match (&pattern, shared) {
            (Some(pattern), true) => format!("{list} has \"{pattern}\", as the defaults do"),
            (Some(pattern), false) => format!("{list} has \"{pattern}\", this caller's own"),
            (None, _) if self.operation.is_ambiguous() => {
                "no pattern of allow matches every reading of the path".to_owned()
            }
            (None, _) => "no pattern of allow matches".to_owned(),
        };
        let step = step("authorize", facts);
        Some(match decision {
            Decision::Allowed(_) => step.passes(says),
            _ => step.refused_if_enforced(caller.enforce, Refusal::Forbidden, says),
        })
    }

    fn rate_limit(&self) -> Option<Step> {
        let caller = self.context.caller.as_ref()?;
        let rate::RateLimit { count, per, burst } = caller.quota;
        let mut says = format!("{count} per {}, {burst} at once", duration_words(per));
        let mut facts = json!({ "count": count, "per_seconds": per.as_secs_f64(), "burst": burst });
        if self.context.live.is_some() {
            let _ = write!(says, "; {} left now", caller.rate.remaining);
            facts["remaining"] = caller.rate.remaining.into();
        }
        let step = step("rate_limit", facts);
        Some(if caller.rate.allowed {
            step.passes(says)
        } else {
            let retry_after = caller.rate.retry_after;
            let _ = write!(says, ", the next in {}", duration_words(retry_after));
            step.refused_if_enforced(caller.enforce, Refusal::Rate(retry_after), says)
        })
    }

    fn rewrite(&self) -> Option<Step> {
        let name = self.operation.name();
        let Some(rule) = self.context.rules.get(name) else {
            let says = match self.context.off.contains(&name) {
                true => "its rule is off: the body is forwarded unchanged",
                false => "no rule: the body is forwarded unchanged",
            };
            return Some(step("rewrite", json!({ "mode": null })).passes(says));
        };
        let mode = rule.mode.label();
        let does = match rule.mode {
            Mode::Off => "left unchanged",
            Mode::Report => "counted and left unchanged",
            Mode::Rewrite => "renamed",
            Mode::Refuse => "refused",
        };
        let renames: Vec<_> = rule
            .rename
            .iter()
            .map(|(a, b)| format!("{a} to {b}"))
            .collect();
        let mut facts = json!({ "mode": mode, "rename": rule.rename.iter().cloned().collect::<HashMap<_, _>>() });
        let rule_says = format!("mode \"{mode}\", {}", renames.join(", "));
        if let Some(skip) = rewrite::skip(&self.request.method, &self.request.headers) {
            let why = match skip {
                Skip::Method => "a request with this method has no body to rewrite",
                Skip::Unreadable(Unreadable::Coding) => {
                    "a compressed body is forwarded unchanged, and counted"
                }
                Skip::Unreadable(Unreadable::MediaType) => {
                    "a body that is not JSON is forwarded unchanged, and counted"
                }
            };
            return Some(step("rewrite", facts).passes(format!("{rule_says}; {why}")));
        }
        let Some(body) = &self.request.body else {
            let says =
                format!("{rule_says}; old fields are {does}, and the answer carries Deprecation");
            return Some(step("rewrite", facts).passes(says));
        };
        let (size, max_bytes) = (body.len() as u64, self.context.max_rewrite_body);
        if size > max_bytes {
            let says = format!("{size} bytes of body, more than limits.max_rewrite_body allows");
            return Some(step("rewrite", facts).refused(Refusal::BodyTooLarge(max_bytes), says));
        }
        let (fields, refusal) = match rewrite::rewrite(body, rule) {
            Ok(Rewritten::Unchanged) => (Vec::new(), None),
            Ok(Rewritten::Seen { fields } | Rewritten::Changed { fields, .. }) => (fields, None),
            Err(fault) => {
                let says = format!("{rule_says}; {fault}");
                let refusal = match fault {
                    RewriteFault::Conflict { old, .. } => Refusal::Conflict(old),
                    RewriteFault::Deprecated { field } => Refusal::Deprecated(field),
                    _ => Refusal::Parse,
                };
                (Vec::new(), Some((refusal, says)))
            }
        };
        facts["found"] = json!(fields);
        let step = step("rewrite", facts);
        Some(match refusal {
            Some((refusal, says)) => step.refused(refusal, says),
            None if fields.is_empty() => {
                step.passes(format!("{rule_says}; no old field in the body"))
            }
            None => {
                let found = fields.join(", ");
                step.passes(format!(
                    "{rule_says}; {found} {does}, and the answer carries Deprecation"
                ))
            }
        })
    }

    fn retry(&self) -> Option<Step> {
        let rules = &self.context.retry;
        let size = self
            .request
            .body
            .as_ref()
            .map(|body| self.forwarded_len(body));
        let replayable = size.is_none_or(|size| size <= self.context.max_replay_body);
        let reads = self.operation.is_read(&self.request.method);
        let again = |end| {
            let attempt = Attempt {
                number: 1,
                reads,
                replayable,
                in_group: self.operation.takes_credential(),
                end,
                wait_left: self.max_wait,
            };
            matches!(
                retry::decide(rules, &attempt, 0.0),
                retry::Decision::Retry { .. }
            )
        };
        let status = |status| AttemptEnd::Status {
            status,
            retry_after: None,
        };
        let outcomes = [
            ("429", status(StatusCode::TOO_MANY_REQUESTS)),
            ("503", status(StatusCode::SERVICE_UNAVAILABLE)),
            ("no connection", AttemptEnd::NotWritten),
            ("a stream that was refused", AttemptEnd::NotProcessed),
            ("500", status(StatusCode::INTERNAL_SERVER_ERROR)),
            ("502", status(StatusCode::BAD_GATEWAY)),
            ("504", status(StatusCode::GATEWAY_TIMEOUT)),
            ("a lost connection", AttemptEnd::Lost),
            ("a timeout", AttemptEnd::TimedOut),
        ];
        let (yes, no): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|(_, end)| again(*end));
        let names = |list: Vec<(&'static str, AttemptEnd)>| {
            list.into_iter().map(|(name, _)| name).collect()
        };
        let (yes, no): (Vec<&str>, Vec<&str>) = (names(yes), names(no));
        let facts = json!({
            "max_attempts": rules.max_attempts, "after": yes, "not_after": no, "replayable": replayable,
        });
        let mut says = if yes.is_empty() {
            "sent once".to_owned()
        } else {
            format!(
                "up to {} attempts, after {}",
                rules.max_attempts,
                yes.join(", ")
            )
        };
        if !replayable {
            says += ": the body is larger than retry.max_replay_body";
        } else if !yes.is_empty() && !no.is_empty() {
            let _ = write!(
                says,
                "; not after {}: DevRev may have done the work",
                no.join(", ")
            );
        }
        if size.is_none() && self.request.method != Method::GET {
            let _ = write!(
                says,
                "; a body above {} bytes is never sent twice",
                self.context.max_replay_body
            );
        }
        Some(step("retry", facts).passes(says))
    }

    /// The length of the body after the rewrite.
    fn forwarded_len(&self, body: &[u8]) -> usize {
        let rule = self.context.rules.get(self.operation.name());
        let rule =
            rule.filter(|_| rewrite::skip(&self.request.method, &self.request.headers).is_none());
        match rule.map(|rule| rewrite::rewrite(body, rule)) {
            Some(Ok(Rewritten::Changed { body, .. })) => body.len(),
            _ => body.len(),
        }
    }

    fn circuit(&self) -> Option<Step> {
        let circuit::CircuitRules {
            failures,
            within,
            open,
        } = self.context.circuit;
        let mut says = format!(
            "opens for {} after {failures} failures in a row within {}",
            duration_words(open),
            duration_words(within)
        );
        let mut facts = json!({ "failures": failures, "within_seconds": within.as_secs_f64(), "open_seconds": open.as_secs_f64() });
        let Some(live) = &self.context.live else {
            return Some(step("circuit", facts).passes(says));
        };
        let circuit::View { scope, state, .. } = live.circuit;
        facts["scope"] = json!(scope);
        facts["state"] = json!(state);
        let state = state.label().replace('_', "-");
        let _ = write!(says, "; {}{state} now", scope.whose());
        let step = step("circuit", facts);
        Some(
            match live.circuit.next_probe.filter(|left| !left.is_zero()) {
                Some(left) => {
                    let _ = write!(says, ", the next probe in {}", duration_words(left));
                    step.refused(Refusal::Circuit(left), says)
                }
                None => step.passes(says),
            },
        )
    }
}

pub(super) fn step(layer: &'static str, facts: Value) -> Step {
    Step {
        layer,
        verdict: Verdict::Passes,
        says: String::new(),
        facts,
    }
}
