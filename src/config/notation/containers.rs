//! Notations that contain others: optional values, tables by name, lists of tables.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    super::section::{Notation, View},
    notation,
};

// An optional value.
notation! {
    [N: Notation] Option<N> => Option<N::Out>,
    quotable N::QUOTABLE,
    read |value, at| N::read(value, at).map(Some),
    show |out, view| out.as_ref().map_or(Value::Null, |out| N::show(out, view)),
    schema |defs| N::schema(defs),
    if_missing None,
    keys N::keys(),
}

// Tables by name.
notation! {
    [N: Notation] BTreeMap<String, N> => BTreeMap<String, N::Out>,
    quotable false,
    read |value, at| {
        let Value::Object(tables) = value else {
            return at.malformed(value, "must be a table; write its keys in a table of this name");
        };
        let read = |(name, value): (&String, &Value)| Some((name.clone(), N::read(value, &at.key(name))?));
        Some(tables.iter().filter_map(read).collect())
    },
    show |out, view| out.iter().map(|(name, out)| (name.clone(), N::show(out, view))).collect::<Map<_, _>>(),
    schema |defs| json!({ "type": "object", "additionalProperties": N::schema(defs) }),
    if_missing BTreeMap::new(),
    keys N::keys(),
}

// A list of tables.
notation! {
    [N: Notation] Vec<N> => Vec<N::Out>,
    quotable false,
    read |value, at| {
        let Value::Array(items) = value else {
            return at.malformed(value, "is not valid; write each rule as a [[rewrite]] table");
        };
        let items = items.iter().enumerate();
        Some(items.filter_map(|(number, item)| N::read(item, &at.item(number))).collect())
    },
    show |out, view| out.iter().map(|out| N::show(out, view)).collect::<Value>(),
    schema |defs| json!({ "type": "array", "items": N::schema(defs) }),
    if_missing Vec::new(),
    keys N::keys(),
}
