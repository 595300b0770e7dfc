//! What holds other notations: what need not be there, tables by name, tables in a list.

use std::{collections::BTreeMap, marker::PhantomData};

use serde_json::{Map, Value, json};

use super::{
    super::section::{Notation, View},
    notation,
};

// A key that need not be there.
notation! {
    [N: Notation] Option<N> => Option<N::Out>,
    read |value, at| N::read(value, at).map(Some),
    show |out, view| out.as_ref().map_or(Value::Null, |out| N::show(out, view)),
    schema |shared| N::schema(shared),
    absent None,
    keys N::keys(),
}

// Tables by name.
notation! {
    [N: Notation] BTreeMap<String, N> => BTreeMap<String, N::Out>,
    read |value, at| {
        let Value::Object(tables) = value else {
            return at.refuse("must be a table; write its keys in a table of this name");
        };
        let read = |(name, value): (&String, &Value)| Some((name.clone(), N::read(value, &at.key(name))?));
        Some(tables.iter().filter_map(read).collect())
    },
    show |out, view| out.iter().map(|(name, out)| (name.clone(), N::show(out, view))).collect::<Map<_, _>>(),
    schema |shared| json!({ "type": "object", "additionalProperties": N::schema(shared) }),
    absent BTreeMap::new(),
    keys N::keys(),
}

// Tables in a list.
notation! {
    [N: Notation] Vec<N> => Vec<N::Out>,
    read |value, at| {
        let Value::Array(items) = value else {
            return at.refuse("is not valid; write rules as [[rewrite]] tables");
        };
        let items = items.iter().enumerate();
        Some(items.filter_map(|(number, item)| N::read(item, &at.item(number))).collect())
    },
    show |out, view| out.iter().map(|out| N::show(out, view)).collect::<Value>(),
    schema |shared| json!({ "type": "array", "items": N::schema(shared) }),
    absent Vec::new(),
    keys N::keys(),
}

/// A table that this version has no use for yet.
pub struct Unsupported<N>(PhantomData<N>);

notation! {
    [N: Notation] Unsupported<N> => (),
    read |_value, at| at.refuse("is not supported by this version; remove it"),
    show |_out| Value::Null,
    schema |shared| json!({ "not": {} }),
    absent (),
    keys N::keys(),
}
