//! Operations, and other lists of text.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    super::{
        quote,
        reading::Location,
        section::{Notation, View, shared_schema},
    },
    notation, padded, text,
};
use crate::policy::operation::unknown;

/// A regular expression for the whole name of an operation.
const OPERATION: &str = "(?:[A-Za-z0-9._-][A-Za-z0-9._/-]*)?[A-Za-z0-9_-]";

fn is_operation(text: &str) -> bool {
    let fits = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    fits && !text.is_empty() && !text.starts_with('/') && !text.ends_with(['/', '.'])
}

/// In lower case, because operations are compared in lower case.
fn pattern(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let stem = text.strip_suffix(".*").unwrap_or(&text);
    (text == "*" || is_operation(stem)).then_some(text)
}

/// The whole name of an operation.
fn whole(text: &str) -> Option<String> {
    is_operation(text).then(|| text.to_ascii_lowercase())
}

/// Warns of operations that DevRev does not have: a `deny` that matches nothing protects nothing.
fn warn_of_unknown(operations: &[String], value: &Value, at: &Location<'_>) {
    for (number, name) in operations.iter().enumerate() {
        let Some(suggestion) = unknown(name) else {
            continue;
        };
        let hint = match suggestion {
            Some(near) => format!("did you mean `{near}`?"),
            None => "correct it, unless it is newer than this revgate".to_owned(),
        };
        let message = format!("matches no known operation of DevRev, so it may do nothing; {hint}");
        // Text with commas has no items of its own.
        let at = match value.is_array() {
            true => &at.item(number),
            false => at,
        };
        at.warn_found("", quote::string(name), message);
    }
}

/// A list of text, or one text with commas.
pub(super) fn texts(value: &Value, read: impl Fn(&str) -> Option<String>) -> Option<Vec<String>> {
    match value {
        Value::Array(items) => items.iter().map(|item| read(item.as_str()?)).collect(),
        Value::String(text) => {
            let parts = text.split(',').filter(|part| !part.is_empty());
            parts.map(|part| read(part.trim())).collect()
        }
        _ => None,
    }
}

/// The first item of a list that cannot be read.
pub(super) fn bad_text(value: &Value, read: impl Fn(&str) -> Option<String>) -> Option<usize> {
    let items = value.as_array()?;
    items
        .iter()
        .position(|item| item.as_str().and_then(&read).is_none())
}

pub(super) fn texts_schema(item: Value, pattern: &str) -> Value {
    let one = format!(r"\s*(?:{pattern})\s*");
    json!({ "anyOf": [{ "type": "array", "items": item }, text(&[&format!("(?:{one})?(?:,(?:{one})?)*")])] })
}

/// Operations: whole names, "works.*" for a group or "*" for all.
pub struct Patterns;

notation! {
    [] Patterns => Vec<String>,
    expected "a list of \"*\", \"works.*\" or whole operations such as \"works.get\"",
    parse |value| texts(value, pattern),
    bad_item |value| bad_text(value, pattern),
    warn |out, value, at| warn_of_unknown(out, value, at),
    show |out| out.as_slice(),
    schema |defs| {
        let pattern = format!(r"\*|{OPERATION}(?:\.\*)?");
        shared_schema(defs, "patterns", |_| texts_schema(padded(&pattern), &pattern))
    },
}

/// Whole names of operations, at least one.
pub struct Operations;

/// The problem of a rule without operations.
pub(crate) const NO_OPERATION: &str =
    "is empty, so the rule would do nothing; name at least one operation";

notation! {
    [] Operations => Vec<String>,
    expected "a list of whole operations such as \"rev-users.link\"",
    parse |value| texts(value, whole),
    bad_item |value| bad_text(value, whole),
    invalid |out| out.is_empty().then(|| NO_OPERATION.into()),
    warn |out, value, at| warn_of_unknown(out, value, at),
    show |out| out.as_slice(),
    schema |defs| {
        let mut schema = texts_schema(text(&[OPERATION]), OPERATION);
        schema["anyOf"][0]["minItems"] = 1.into();
        schema["anyOf"][1]["not"] = text(&[",*"]);
        schema
    },
}

/// Old names to new ones.
pub struct Renames;

notation! {
    [] Renames => BTreeMap<String, String>,
    expected "a table of old = \"new\" names: at least one, each with a different new name",
    parse |value| {
        let pairs = value.as_object().filter(|pairs| !pairs.is_empty())?;
        let pair = |(old, new): (&String, &Value)| {
            let new = String::parse(new).filter(|new| new != old)?;
            (!old.is_empty()).then(|| (old.clone(), new))
        };
        pairs.iter().map(pair).collect()
    },
    show |out| json!(out),
    schema |defs| {
        let name = json!({ "minLength": 1 });
        json!({ "type": "object", "minProperties": 1, "propertyNames": name, "additionalProperties": String::schema(defs) })
    },
}
