//! Compares the rows with the configuration: whatever bounds a thing that callers share has a row.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::ROWS;

/// Keys that bound something, but nothing that one caller can take from another.
const NOT_SHARED: &[(&str, &str)] = &[
    (
        "auth.introspect_ttl",
        "how long what is known of one token is valid",
    ),
    ("callers.NAME.burst", "of one caller"),
    ("callers.NAME.max_wait", "of one caller"),
    ("callers.NAME.rate", "of one caller"),
    ("callers.NAME.unix_uid", "a name"),
    (
        "callers.NAME.weight",
        "a share, which the rows about places and connections deal out by",
    ),
    ("defaults.burst", "of one caller"),
    ("defaults.max_wait", "of one caller"),
    ("defaults.rate", "of one caller"),
    ("defaults.weight", "as callers.NAME.weight"),
    (
        "drain.delay",
        "the end of the process, which is the same for all",
    ),
    (
        "drain.timeout",
        "the end of the process, which is the same for all",
    ),
    (
        "quota.reserve",
        "the quota is dealt out by weight, which tests/bench/fairness.rs shows",
    ),
    (
        "quota.spread_above",
        "the quota is dealt out by weight, which tests/bench/fairness.rs shows",
    ),
    ("upstream.idle_timeout", "of connections that nobody uses"),
    (
        "upstream.max_age",
        "a connection that is too old takes nothing from a call: another is opened",
    ),
];

/// The kinds of values that are numbers, sizes, shares or times.
fn is_bound(schema: &Value) -> bool {
    let kind = schema["$ref"]
        .as_str()
        .unwrap_or("")
        .trim_start_matches("#/$defs/");
    let kinds = ["duration", "integer-", "rate", "share-", "size", "timeout"];
    let alternatives = schema["anyOf"].as_array().into_iter().flatten();
    kinds.iter().any(|known| kind.starts_with(known)) || alternatives.into_iter().any(is_bound)
}

/// The paths of all keys that bound something.
fn bounds(schema: &Value, defs: &Value, path: &str, found: &mut BTreeSet<String>) {
    if is_bound(schema) {
        found.insert(path.to_owned());
    }
    let of_name = schema["$ref"].as_str();
    let table = of_name.map_or(schema, |name| &defs[name.trim_start_matches("#/$defs/")]);
    let join = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    for (name, key) in table["properties"].as_object().into_iter().flatten() {
        bounds(key, defs, &join(name), found);
    }
    if table["additionalProperties"].is_object() {
        bounds(&table["additionalProperties"], defs, &join("NAME"), found);
    }
}

#[test]
fn whatever_bounds_a_shared_thing_has_a_row() {
    // Another test compares it with the program.
    let schema: Value =
        serde_json::from_str(include_str!("../../config/schema.json")).expect("JSON");
    let mut known = BTreeSet::new();
    bounds(&schema, &schema["$defs"], "", &mut known);
    assert!(known.len() > 30, "the keys were not found: {known:?}");
    let of_rows: BTreeSet<String> = ROWS
        .iter()
        .flat_map(|(_, row)| row.bounds)
        .map(ToString::to_string)
        .collect();
    let not_shared: BTreeSet<String> = NOT_SHARED
        .iter()
        .map(|(key, _)| (*key).to_owned())
        .collect();
    let both: Vec<_> = of_rows.intersection(&not_shared).collect();
    assert!(
        both.is_empty(),
        "they have a row, so they are shared: {both:?}"
    );
    let named: BTreeSet<String> = of_rows.union(&not_shared).cloned().collect();
    let missing: Vec<_> = known.difference(&named).collect();
    assert!(
        missing.is_empty(),
        "no row of tests/isolation misuses what these keys bound; add one, or say in NOT_SHARED why nobody can: {missing:?}"
    );
    let gone: Vec<_> = named.difference(&known).collect();
    assert!(gone.is_empty(), "no such keys: {gone:?}");
}
