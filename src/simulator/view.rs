//! Objects as answers show them.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::families::{Family, Shape};
use super::ids::{Id, Leaf, Reading};
use super::store::{Object, Store};

/// Requests have them, and answers do not.
const HIDDEN: &[&str] = &[
    "custom_schema_spec",
    "messages",
    "notify",
    "private_to",
    "reorder",
    "stage_validation_options",
    "type",
];

/// What a summary of an object has, if the object has it.
const SUMMARY: &[&str] = &["name", "title", "display_name", "full_name", "email"];

/// `{"work": …}`
pub(super) fn one(store: &Store, family: &Family, object: &Object) -> String {
    format!("{{\"{}\":{}}}", family.one, text(store, family, object))
}

/// `{"works": […], …}` with `more` beside the list.
pub(super) fn many(
    store: &Store,
    family: &Family,
    objects: &[&Object],
    more: &[(&str, Value)],
) -> String {
    let mut all = format!("{{\"{}\":[", family.many);
    for (position, object) in objects.iter().enumerate() {
        if position > 0 {
            all.push(',');
        }
        all.push_str(&text(store, family, object));
    }
    all.push(']');
    for (name, value) in more {
        all.push_str(&format!(",\"{name}\":{value}"));
    }
    all.push('}');
    all
}

fn text(store: &Store, family: &Family, object: &Object) -> Arc<str> {
    store.shown(object, || shown(store, family, object).to_string())
}

fn shown(store: &Store, family: &Family, object: &Object) -> Value {
    let mut all = json!({
        "type": object.id.leaf.name(),
        "id": don(object),
        "created_by": user(store, &object.created_by),
        "created_date": date(object.created),
        "modified_by": user(store, &object.modified_by),
        "modified_date": date(object.modified),
    });
    if object.id.leaf != Leaf::Comment {
        all["display_id"] = object.id.display().into();
    }
    // What the simulator adds by itself, such as the state of a work.
    for (name, value) in &object.fields {
        if !family.fields.iter().any(|field| field.name == name) {
            all[name] = value.clone();
        }
    }
    for field in family
        .fields
        .iter()
        .filter(|field| !HIDDEN.contains(&field.name))
    {
        let Some(value) = object.fields.get(field.name) else {
            continue;
        };
        all[field.name] = match field.shape {
            Shape::Id(_) => summary(store, value),
            Shape::Ids(_) => each(value, |id| summary(store, id)),
            Shape::Tags => each(value, |tag| tagged(store, tag)),
            Shape::Choice => json!({"id": value, "label": value.to_string(), "ordinal": value}),
            Shape::Object => {
                let object = summary(store, value);
                all["object_display_id"] = object["display_id"].clone();
                all["object_type"] = object["type"].clone();
                value.clone()
            }
            _ => value.clone(),
        };
    }
    all
}

/// The id of a timeline entry has that of its object before it.
fn don(object: &Object) -> String {
    let of = object.fields.get("object").and_then(Value::as_str);
    match of.filter(|_| object.id.leaf == Leaf::Comment) {
        Some(of) => format!("{of}:comment/{}", object.id.local),
        None => object.id.don(),
    }
}

fn each(list: &Value, show: impl Fn(&Value) -> Value) -> Value {
    list.as_array().into_iter().flatten().map(show).collect()
}

fn user(store: &Store, don: &str) -> Value {
    summary(store, &don.into())
}

fn tagged(store: &Store, tag: &Value) -> Value {
    let mut summary = summary(store, &tag["id"]);
    // DevRev's clients need one, also for a tag that has gone.
    if summary["name"].is_null() {
        summary["name"] = summary["display_id"].clone();
    }
    match tag.get("value") {
        Some(value) => json!({"tag": summary, "value": value}),
        None => json!({"tag": summary}),
    }
}

/// What is known of the object that the id names, which need not exist.
fn summary(store: &Store, don: &Value) -> Value {
    let Reading::Id(id) = Id::read(don.as_str().unwrap_or_default()) else {
        return json!({"id": don});
    };
    let mut all = Map::new();
    all.insert("type".into(), id.leaf.name().into());
    all.insert("id".into(), don.clone());
    all.insert("display_id".into(), id.display().into());
    if let Some(object) = store.get(&id) {
        for name in SUMMARY {
            if let Some(value) = object.fields.get(*name) {
                all.insert((*name).to_owned(), value.clone());
            }
        }
    }
    Value::Object(all)
}

/// Milliseconds since the epoch as DevRev writes them.
pub(super) fn date(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        ms % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_in_rfc_3339() {
        assert_eq!(date(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(date(1_740_821_400_007), "2025-03-01T09:30:00.007Z");
    }
}
