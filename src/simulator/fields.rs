//! Whether the fields of a request are as DevRev wants them, and what is kept of them: every id as a DON.

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::answers::{self, Answer};
use super::families::{Create, Family, Field, Shape, Update};
use super::ids::{Id, Leaf, Reading};

type Checked<T> = Result<T, Box<Answer>>;

/// The fields of an object that is created.
pub(super) fn created(
    family: &Family,
    leaf: Leaf,
    body: &Map<String, Value>,
) -> Checked<Map<String, Value>> {
    let mut fields = Map::new();
    let has = |field: &&Field| field.create != Create::Never && field.is_of(leaf);
    for field in family.fields.iter().filter(has) {
        match body.get(field.name) {
            None | Some(Value::Null) if field.create == Create::Required => {
                return Err(missing(field.name));
            }
            None | Some(Value::Null) => {}
            Some(value) => {
                let kept = checked(field.shape, field.name, value)?;
                fields.insert(field.name.to_owned(), kept);
            }
        }
    }
    let known = |name: &str| {
        let is = |field: &Field| field.name == name && has(&field);
        family.fields.iter().any(is) || (family.typed && name == "type")
    };
    no_others(body, known)?;
    Ok(fields)
}

/// The fields of an object that change. `None` removes one.
pub(super) fn updated(
    family: &Family,
    leaf: Leaf,
    body: &Map<String, Value>,
) -> Checked<Vec<(&'static str, Option<Value>)>> {
    let mut changes = Vec::new();
    let has = |field: &&Field| field.update != Update::Never && field.is_of(leaf);
    for field in family.fields.iter().filter(has) {
        let Some(value) = body.get(field.name) else {
            continue;
        };
        let value = match (field.update, value) {
            (Update::Set, Value::Object(map)) => {
                if let Some(name) = map.keys().find(|name| *name != "set") {
                    return Err(unexpected(&format!("{}.{name}", field.name)));
                }
                map.get("set").unwrap_or(&Value::Null)
            }
            (Update::Set, Value::Null) => continue,
            (Update::Set, other) => return Err(json_type(field.name, "object", other)),
            (_, value) => value,
        };
        match value {
            Value::Null if field.update == Update::Set || field.create == Create::Required => {}
            Value::Null => changes.push((field.name, None)),
            value => changes.push((field.name, Some(checked(field.shape, field.name, value)?))),
        }
    }
    let known = |name: &str| {
        let is = |field: &Field| field.name == name && has(&field);
        name == "id" || family.fields.iter().any(is) || (family.typed && name == "type")
    };
    no_others(body, known)?;
    Ok(changes)
}

impl Field {
    fn is_of(&self, leaf: Leaf) -> bool {
        self.only.is_empty() || self.only.contains(&leaf)
    }
}

/// # Errors
/// For the first field that is not `known`.
pub(super) fn no_others(body: &Map<String, Value>, known: impl Fn(&str) -> bool) -> Checked<()> {
    match body.keys().find(|name| !known(name)) {
        Some(name) => Err(unexpected(name)),
        None => Ok(()),
    }
}

fn unexpected(name: &str) -> Box<Answer> {
    Box::new(answers::field("bad_request", name, "unexpected field"))
}

pub(super) fn missing(name: &str) -> Box<Answer> {
    let message = format!("{name} is required");
    Box::new(answers::field("missing_required_field", name, &message))
}

fn invalid(name: &str, message: &str) -> Box<Answer> {
    Box::new(answers::field("invalid_field", name, message))
}

pub(super) fn json_type(name: &str, expected: &str, actual: &Value) -> Box<Answer> {
    let actual = match actual {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    Box::new(answers::bad_request(json!({
        "type": "unexpected_json_type",
        "message": format!("{name} must be of JSON type {expected}, not {actual}"),
        "field_name": name, "expected": expected, "actual": actual,
    })))
}

pub(super) fn enum_value(name: &str, value: &str, allowed: &[&str]) -> Box<Answer> {
    Box::new(answers::bad_request(json!({
        "type": "invalid_enum_value",
        "message": format!("{name} must be one of: {}", allowed.join(", ")),
        "field_name": name, "value": value, "allowed_values": allowed,
    })))
}

/// An id as a DON.
pub(super) fn id(name: &str, value: &Value, leaves: &[Leaf]) -> Checked<String> {
    let text = text(name, value)?;
    match Id::read(text) {
        Reading::Id(id) if leaves.is_empty() || leaves.contains(&id.leaf) => Ok(id.don()),
        Reading::Other if leaves.is_empty() => Ok(text.to_owned()),
        Reading::Id(_) | Reading::Other => Err(unexpected_id(name, text)),
        Reading::Malformed => {
            let message = format!("{name} is not an id such as TKT-1 or don:core:…");
            Err(Box::new(answers::field("invalid_id", name, &message)))
        }
    }
}

fn unexpected_id(name: &str, text: &str) -> Box<Answer> {
    let message = format!("{name} must be the id of another kind of object than {text}");
    Box::new(answers::field("unexpected_id_type", name, &message))
}

pub(super) fn text<'a>(name: &str, value: &'a Value) -> Checked<&'a str> {
    value
        .as_str()
        .ok_or_else(|| json_type(name, "string", value))
}

pub(super) fn list<'a>(name: &str, value: &'a Value) -> Checked<&'a Vec<Value>> {
    value
        .as_array()
        .ok_or_else(|| json_type(name, "array", value))
}

pub(super) fn date(name: &str, value: &Value) -> Checked<OffsetDateTime> {
    OffsetDateTime::parse(text(name, value)?, &Rfc3339)
        .map_err(|_| invalid(name, "must be a date such as 2025-01-31T12:00:00Z"))
}

fn checked(shape: Shape, name: &str, value: &Value) -> Checked<Value> {
    match shape {
        Shape::Text(least, most) => {
            let length = text(name, value)?.chars().count();
            if !(least..=most).contains(&length) {
                let message = format!("must have {least} to {most} characters, and has {length}");
                return Err(invalid(name, &message));
            }
        }
        Shape::OneOf(allowed) => {
            let text = text(name, value)?;
            if !allowed.contains(&text) {
                return Err(enum_value(name, text, allowed));
            }
        }
        Shape::Date => {
            date(name, value)?;
        }
        Shape::Flag if !value.is_boolean() => return Err(json_type(name, "bool", value)),
        Shape::Number | Shape::Choice if !value.is_number() => {
            return Err(json_type(name, "number", value));
        }
        Shape::Map if !value.is_object() => return Err(json_type(name, "object", value)),
        Shape::List => {
            list(name, value)?;
        }
        Shape::Texts => {
            for value in list(name, value)? {
                text(name, value)?;
            }
        }
        Shape::Id(leaves) => return id(name, value, leaves).map(Value::from),
        Shape::Object => return id(name, value, &[]).map(Value::from),
        Shape::Ids(leaves) => {
            let ids = list(name, value)?.iter();
            return ids
                .map(|value| id(name, value, leaves).map(Value::from))
                .collect();
        }
        Shape::Tags => {
            return list(name, value)?
                .iter()
                .map(|tag| self::tag(name, tag))
                .collect();
        }
        Shape::Stage => {
            let Value::Object(stage) = value else {
                return Err(json_type(name, "object", value));
            };
            if let Some(value) = stage.get("name") {
                text("stage.name", value)?;
            }
        }
        Shape::Flag | Shape::Number | Shape::Choice | Shape::Map => {}
    }
    Ok(value.clone())
}

/// `{"id": …, "value"?: …}`. A bare id is taken too, which DevRev's Python SDK sends for parts.
fn tag(name: &str, value: &Value) -> Checked<Value> {
    let Value::Object(map) = value else {
        return Ok(json!({"id": id(name, value, &[Leaf::Tag])?}));
    };
    let given = map
        .get("id")
        .ok_or_else(|| missing(&format!("{name}.id")))?;
    let mut tag = json!({"id": id(&format!("{name}.id"), given, &[Leaf::Tag])?});
    if let Some(value) = map.get("value").filter(|value| !value.is_null()) {
        tag["value"] = text(&format!("{name}.value"), value)?.into();
    }
    Ok(tag)
}
