//! Operations on objects: `create`, `get`, `list`, `update`, `delete` and their kin, the same for all families.

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::answers::{self, Answer};
use super::asked::{Asked, Kind};
use super::families::Family;
use super::ids::{Id, Leaf, Reading};
use super::operations::Call;
use super::pages;
use super::store::{BYTES, By, Full, OBJECTS, Object, Store};
use super::{fields, view};

type Answered = Result<Answer, Box<Answer>>;

/// What `export` gives unless a request names another number, and the most that it may.
const EXPORT: u64 = 50;
const EXPORT_MAX: u64 = 10_000;

/// What an operation on objects answers.
///
/// # Errors
/// With the answer when DevRev would refuse it.
pub(super) fn answer(
    store: &mut Store,
    family: &'static Family,
    action: &str,
    call: &Call<'_>,
) -> Answered {
    match action {
        "create" => create(store, family, call),
        "update" => {
            let body = call.object()?;
            let id = id(family, body.get("id"))?;
            update(store, family, &id, &body, call)
        }
        "self.update" => {
            let body = call.object()?;
            fields::no_others(&body, |name| name != "id")?;
            update(store, family, &own(), &body, call)
        }
        "delete" => {
            let body = call.object()?;
            fields::no_others(&body, |name| name == "id")?;
            let id = id(family, body.get("id"))?;
            match store.remove(&id) {
                true => Ok(Answer::ok(&json!({}))),
                false => Err(missing(family)),
            }
        }
        "activate" | "deactivate" => {
            let body = call.object()?;
            fields::no_others(&body, |name| name == "id" || name == "groups")?;
            let id = id(family, body.get("id"))?;
            let (state, answer) = match action {
                "activate" => ("active", json!({"invite_sent": true})),
                _ => ("deactivated", json!({})),
            };
            let change = vec![("state", Some(Value::from(state)))];
            let found = store.update(&id, change, call.by()).map_err(full)?;
            found
                .map(|_| Answer::ok(&answer))
                .ok_or_else(|| missing(family))
        }
        "get" => get(store, family, &call.asked()?),
        "self" => {
            let found = store.get(&own()).ok_or_else(|| missing(family))?;
            Ok(one(store, family, found))
        }
        "count" => {
            let (all, _) = pages::all(store, family, &call.asked()?)?;
            Ok(Answer::ok(&json!({"count": all.len()})))
        }
        "export" => {
            let asked = call.asked()?;
            let first = pages::count("first", &asked, EXPORT)?.min(EXPORT_MAX);
            let (all, _) = pages::all(store, family, &asked)?;
            let first = usize::try_from(first).unwrap_or(usize::MAX);
            let all = &all[..first.min(all.len())];
            Ok(Answer::text(
                StatusCode::OK,
                view::many(store, family, all, &[]),
            ))
        }
        _ => list(store, family, &call.asked()?, action == "list"),
    }
}

fn own() -> Id {
    Id::new(Leaf::DevUser, 1)
}

fn one(store: &Store, family: &Family, object: &Object) -> Answer {
    Answer::text(StatusCode::OK, view::one(store, family, object))
}

fn missing(family: &Family) -> Box<Answer> {
    Box::new(answers::not_found(&format!("{} not found", family.one)))
}

fn full(_: Full) -> Box<Answer> {
    let message = format!(
        "the simulator is full: it holds {OBJECTS} objects and {BYTES} bytes of them; delete some, or start it again"
    );
    let status = StatusCode::BAD_REQUEST;
    Box::new(Answer::error(status, "bad_request", &message))
}

/// The id of an object of this family.
fn id(family: &Family, given: Option<&Value>) -> Result<Id, Box<Answer>> {
    let given = given.filter(|value| !value.is_null());
    let given = given.ok_or_else(|| fields::missing("id"))?;
    let don = fields::id("id", given, family.leaves)?;
    match Id::read(&don) {
        Reading::Id(id) => Ok(id),
        Reading::Other | Reading::Malformed => Err(missing(family)),
    }
}

fn create(store: &mut Store, family: &'static Family, call: &Call<'_>) -> Answered {
    let body = call.object()?;
    let leaf = match family.leaves {
        [only] if !family.typed => *only,
        leaves => {
            let kind = body.get("type").ok_or_else(|| fields::missing("type"))?;
            kind_of(leaves, fields::text("type", kind)?)?
        }
    };
    let mut fields = fields::created(family, leaf, &body)?;
    is_unique(
        store,
        family,
        None,
        fields.iter().map(|(name, value)| (name.as_str(), value)),
    )?;
    complete(leaf, &mut fields, call.by());
    let id = store
        .insert(family, leaf, fields, call.by())
        .map_err(full)?
        .id
        .clone();
    let found = store.get(&id).ok_or_else(|| missing(family))?;
    Ok(one(store, family, found))
}

fn kind_of(leaves: &[Leaf], name: &str) -> Result<Leaf, Box<Answer>> {
    let leaf = Leaf::named(name).filter(|leaf| leaves.contains(leaf));
    let allowed: Vec<_> = leaves.iter().map(|leaf| leaf.name()).collect();
    leaf.ok_or_else(|| fields::enum_value("type", name, &allowed))
}

/// What DevRev adds to an object when it is created.
pub(super) fn complete(leaf: Leaf, fields: &mut Map<String, Value>, by: By<'_>) {
    let mut add = |name: &str, value: Value| {
        fields.entry(name).or_insert(value);
    };
    match leaf {
        Leaf::Issue => add("stage", json!({"name": "triage"})),
        Leaf::Ticket | Leaf::Task | Leaf::Opportunity => add("stage", json!({"name": "queued"})),
        Leaf::Conversation => {
            add("stage", json!({"name": "new"}));
            add("members", json!([by.user]));
        }
        Leaf::Account => add("owned_by", json!([])),
        Leaf::RevUser => {
            add("state", "active".into());
            add("is_verified", false.into());
        }
        Leaf::Comment => {
            add("body_type", "text".into());
            add("visibility", "internal".into());
        }
        Leaf::Article => {
            add("status", "draft".into());
            add("article_type", "article".into());
            add("authored_by", json!([by.user]));
            add("num_upvotes", 0.into());
            add("num_downvotes", 0.into());
        }
        _ => {}
    }
    if let Some(state) = state(leaf, fields.get("stage")) {
        fields.insert("state".to_owned(), state);
    }
}

/// The state that a stage means, for what has stages.
fn state(leaf: Leaf, stage: Option<&Value>) -> Option<Value> {
    const CLOSED: &[&str] = &[
        "accepted",
        "canceled",
        "closed",
        "completed",
        "duplicate",
        "resolved",
        "wont_fix",
    ];
    const BEGUN: &[&str] = &[
        "awaiting_customer_response",
        "in_development",
        "in_progress",
        "work_in_progress",
    ];
    let works = [
        Leaf::Issue,
        Leaf::Ticket,
        Leaf::Task,
        Leaf::Opportunity,
        Leaf::Conversation,
    ];
    let name = stage?.get("name")?.as_str()?;
    works.contains(&leaf).then(|| match name {
        name if CLOSED.contains(&name) => "closed".into(),
        name if BEGUN.contains(&name) => "in_progress".into(),
        _ => "open".into(),
    })
}

/// # Errors
/// A conflict when another object has one of the values that no two may have.
fn is_unique<'a>(
    store: &Store,
    family: &Family,
    own: Option<&Id>,
    mut fields: impl Iterator<Item = (&'a str, &'a Value)>,
) -> Result<(), Box<Answer>> {
    let Some(unique) = family.unique else {
        return Ok(());
    };
    let Some((_, new)) = fields.find(|(name, _)| *name == unique) else {
        return Ok(());
    };
    let list = |value: &Value| match value {
        Value::Array(all) => all.clone(),
        one => vec![one.clone()],
    };
    let new = list(new);
    let has = |object: &Object| {
        let values = object.fields.get(unique).map(list).unwrap_or_default();
        Some(&object.id) != own && values.iter().any(|value| new.contains(value))
    };
    match store.all(family).find(|object| has(object)) {
        Some(other) => {
            let message = format!("{} has this value of {unique} already", other.id.display());
            Err(Box::new(Answer::error(
                StatusCode::CONFLICT,
                "conflict",
                &message,
            )))
        }
        None => Ok(()),
    }
}

fn update(
    store: &mut Store,
    family: &'static Family,
    id: &Id,
    body: &Map<String, Value>,
    call: &Call<'_>,
) -> Answered {
    if store.get(id).is_none() {
        return Err(missing(family));
    }
    if let Some(kind) = body
        .get("type")
        .filter(|kind| family.typed && !kind.is_null())
    {
        let leaf = kind_of(family.leaves, fields::text("type", kind)?)?;
        if leaf != id.leaf {
            let message = format!("{} is of type {}", id.display(), id.leaf.name());
            return Err(Box::new(answers::field("invalid_field", "type", &message)));
        }
    }
    let mut changes = fields::updated(family, id.leaf, body)?;
    let new = changes
        .iter()
        .filter_map(|(name, value)| Some((*name, value.as_ref()?)));
    is_unique(store, family, Some(id), new)?;
    let stage = changes.iter().find(|(name, _)| *name == "stage");
    if let Some(state) = stage.and_then(|(_, stage)| state(id.leaf, stage.as_ref())) {
        changes.push(("state", Some(state)));
    }
    let found = store.update(id, changes, call.by()).map_err(full)?;
    let id = found.ok_or_else(|| missing(family))?.id.clone();
    let found = store.get(&id).ok_or_else(|| missing(family))?;
    Ok(one(store, family, found))
}

fn get(store: &Store, family: &'static Family, asked: &Asked<'_>) -> Answered {
    let given = asked.get("id", Kind::Text);
    let account = asked
        .get("account", Kind::Text)
        .filter(|_| family.name == "rev-orgs");
    let found = match (given, account) {
        // The rev org that an account began with.
        (None, Some(account)) => {
            let account = Value::from(fields::id("account", &account, &[Leaf::Account])?);
            let mut all = store.all(family);
            all.find(|org| org.fields.get("account") == Some(&account))
        }
        (given, _) => store.get(&id(family, given.as_ref())?),
    };
    let found = found.ok_or_else(|| missing(family))?;
    Ok(one(store, family, found))
}

/// `scan` is a list that goes only forward.
fn list(store: &Store, family: &'static Family, asked: &Asked<'_>, back: bool) -> Answered {
    let page = pages::page(store, family, asked)?;
    let mut more = Vec::new();
    if let Some(next) = page.next {
        more.push(("next_cursor", next.into()));
    }
    if let Some(prev) = page.prev.filter(|_| back) {
        more.push(("prev_cursor", prev.into()));
    }
    if family.name == "articles" {
        more.push(("total", page.total.into()));
    }
    let text = view::many(store, family, &page.objects, &more);
    Ok(Answer::text(StatusCode::OK, text))
}
