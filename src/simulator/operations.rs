//! Which operation a request calls, and the operations that need no objects. Faults are elsewhere.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::answers::{self, Answer, Content};
use super::asked::Asked;
use super::families::family;
#[cfg(test)]
use super::families::{FAMILIES, Family};
use super::store::{By, Store};
use super::{BODY_KEPT, objects};

use crate::policy::operation::Operation;

/// One request whose token is good.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub method: &'a Method,
    /// The path without its slash.
    pub operation: &'a str,
    pub query: &'a str,
    pub body: &'a [u8],
    /// The body was larger than what is kept of it.
    pub cut: bool,
    /// The user of the token, if it names one.
    pub user: Option<&'a str>,
    /// Milliseconds since the epoch.
    pub now: u64,
}

/// What an operation may be called with.
fn methods(reads: bool) -> &'static str {
    if reads { "GET, POST" } else { "POST" }
}

impl Call<'_> {
    fn post(&self) -> bool {
        self.method == Method::POST
    }

    fn is_allowed(&self, reads: bool) -> bool {
        self.post() || (reads && self.method == Method::GET)
    }

    pub(super) fn object(&self) -> Result<Map<String, Value>, Box<Answer>> {
        if self.cut {
            return Err(Box::new(answers::too_large(BODY_KEPT)));
        }
        answers::object(self.body)
    }

    /// A POST without a body asks by its query too.
    pub(super) fn asked(&self) -> Result<Asked<'_>, Box<Answer>> {
        match self.post() && !self.body.is_empty() {
            true => self.object().map(Asked::Body),
            false => Ok(Asked::Query(self.query)),
        }
    }

    pub(super) fn by(&self) -> By<'_> {
        By {
            user: self.user.unwrap_or(SELF),
            now: self.now,
        }
    }
}

/// The user of every token that names none. It is always there, and the first of its kind.
pub(super) const SELF: &str = "don:identity:dvrv-us-1:devo/0:devu/1";

pub(super) fn answer(store: &mut Store, call: &Call<'_>) -> Answer {
    let reads = |reads, answer: &dyn Fn() -> Answer| match call.is_allowed(reads) {
        true => answer(),
        false => answers::method_not_allowed(methods(reads)),
    };
    match call.operation {
        "rev-users.link" | "rev-users.unlink" => reads(false, &|| link(call.body)),
        "auth-tokens.info" => reads(true, &|| token(call.user)),
        "recommendations.chat.completions" => reads(false, &chat),
        "_blob" if call.method == Method::GET => blob(call.query),
        "mcp/v1" => Answer::ok(&json!({})),
        operation if operation.starts_with("internal/") => Answer::ok(&json!({})),
        operation => {
            let (name, action) = operation.split_once('.').unwrap_or((operation, ""));
            let found = family(name).filter(|family| {
                ["get", "list"].contains(&action) || family.actions.contains(&action)
            });
            let Some(family) = found else {
                return unknown(operation);
            };
            let reads = ["get", "list", "count", "export", "scan", "self"].contains(&action);
            if !call.is_allowed(reads) {
                return answers::method_not_allowed(methods(reads));
            }
            objects::answer(store, family, action, call).unwrap_or_else(|refused| *refused)
        }
    }
}

fn unknown(operation: &str) -> Answer {
    match Operation::from_path(&format!("/{operation}")).is_known() {
        true => answers::not_found(
            "the simulator does not have this operation of DevRev's; --plan can give it an answer",
        ),
        false => answers::no_route(),
    }
}

/// The names of all operations on objects.
#[cfg(test)]
pub(super) fn names() -> Vec<String> {
    let of = |family: &Family| {
        let actions = ["get", "list"].iter().chain(family.actions);
        actions
            .map(|action| format!("{}.{action}", family.name))
            .collect::<Vec<_>>()
    };
    FAMILIES.iter().flat_map(of).collect()
}

fn token(user: Option<&str>) -> Answer {
    let user = user.unwrap_or(SELF);
    Answer::ok(&json!({
        "token_id": "don:identity:dvrv-us-1:devo/0:token/1",
        "dev_org_id": "don:identity:dvrv-us-1:devo/0",
        "user_id": user,
        "subject": user,
        "issued_at": "2026-01-01T00:00:00.000Z",
        "expires_at": "2099-01-01T00:00:00.000Z",
    }))
}

fn chat() -> Answer {
    let mut events: Vec<Bytes> = ["Linking", " a", " user", " is", " easy."]
        .iter()
        .map(|text| format!("data: {}\n\n", json!({"text_response": text})).into())
        .collect();
    events.push(Bytes::from_static(b"data: [DONE]\n\n"));
    Answer::new(StatusCode::OK, "text/event-stream", Content::Events(events))
}

fn blob(query: &str) -> Answer {
    match answers::param(query, "bytes").map(|text| text.parse()) {
        Some(Ok(bytes)) => Answer::new(
            StatusCode::OK,
            "application/octet-stream",
            Content::Blob(bytes),
        ),
        _ => answers::field("invalid_field", "bytes", "bytes must be a whole number"),
    }
}

fn link(body: &[u8]) -> Answer {
    let map = match answers::object(body) {
        Ok(map) => map,
        Err(refused) => return *refused,
    };
    for (name, value) in &map {
        if !["id", "user_don", "rev_org", "rev_org_don"].contains(&name.as_str()) {
            return answers::field("bad_request", name, "unexpected field");
        }
        if !value.is_string() && !value.is_null() {
            return answers::field("invalid_field", name, "must be a string");
        }
    }
    let given = |new: &str, old: &str| {
        let value = map.get(new).or_else(|| map.get(old));
        value.and_then(Value::as_str).map(str::to_owned)
    };
    let (user, org) = (given("id", "user_don"), given("rev_org", "rev_org_don"));
    // DevRev's specification makes both optional, but without either there is nothing to link.
    if user.is_none() && org.is_none() {
        return answers::field("missing_required_field", "id", "id is required");
    }
    let org = org.unwrap_or_else(|| "don:identity:dvrv-us-1:devo/0:revo/7".to_owned());
    Answer::ok(&json!({"rev_user": {
        "type": "rev_user",
        "id": user.unwrap_or_else(|| "don:identity:dvrv-us-1:devo/0:revu/131".to_owned()),
        "display_id": "REVU-131",
        "display_name": "Ada Lovelace",
        "full_name": "Ada Lovelace",
        "email": "ada@example.com",
        "external_ref": "ada@example.com",
        "rev_org": {
            "type": "rev_org", "id": org, "display_id": "REV-7", "display_name": "Analytical Engines",
        },
        "created_date": "2025-03-01T09:30:00.000Z",
        "modified_date": "2025-03-27T12:00:00.000Z",
        "is_verified": true,
        "state": "active",
    }}))
}
