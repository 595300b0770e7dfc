//! Adds up what may take memory by default, and compares the sum with the limits of this folder.

use std::collections::BTreeSet;

use revgate::{
    config,
    policy::descriptors::{Connections, needed},
    serve::memory::{Bound, bounds},
};
use serde_json::Value;

use crate::read;

fn default_config() -> config::Config {
    let text = "[tokens.main]\nenv = \"T\"\n[callers.app]\nanonymous = true\n";
    let env = [("T".to_owned(), "t".to_owned())].into();
    config::from_toml(text, &env).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Bytes of "256m", "512Mi" or "512M", which all mean MiB here: systemd and Docker count in powers of two.
fn bytes(text: &str) -> usize {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = &text[digits.len()..];
    assert!(["m", "Mi", "M"].contains(&unit), "{text}");
    digits.parse::<usize>().expect("a number") * 1024 * 1024
}

/// What stands behind `start` after `after`, up to a blank or a brace.
fn after<'a>(text: &'a str, section: &str, start: &str) -> &'a str {
    let (_, text) = text.split_once(section).expect(section);
    let (_, text) = text.split_once(start).expect(start);
    let end = text.find([' ', '\n', '}']).unwrap_or(text.len());
    &text[..end]
}

#[test]
fn what_may_take_memory_by_default_fits_into_every_limit() {
    let rows = bounds(&default_config());
    let sum: usize = rows.iter().map(Bound::bytes).sum();
    let table = rows.iter().map(|row| {
        let mib = row.bytes() as f64 / 1024.0 / 1024.0;
        format!(
            "{mib:7.1} MiB  {} x {}: {}\n",
            row.count, row.each, row.what
        )
    });
    let table: String = table.collect();
    let kubernetes = "- name: revgate\n";
    for (file, section, start) in [
        ("deploy/compose.yaml", "x-hardened", "mem_limit: "),
        (
            "deploy/kubernetes/sidecar/deployment.yaml",
            kubernetes,
            "limits: { memory: ",
        ),
        (
            "deploy/kubernetes/fleet/deployment.yaml",
            kubernetes,
            "limits: { memory: ",
        ),
        (
            "deploy/kubernetes/standalone/deployment.yaml",
            kubernetes,
            "limits: { memory: ",
        ),
        ("deploy/systemd/revgate.service", "[Service]", "MemoryMax="),
    ] {
        let limit = bytes(after(&read(file), section, start));
        assert!(
            sum < limit,
            "{file} allows {limit}, this is {sum}:\n{table}"
        );
    }
    // The files beside them raise none of the bounds.
    for file in [
        "deploy/compose/config/revgate.toml",
        "deploy/kubernetes/sidecar/revgate.toml",
        "deploy/kubernetes/standalone/revgate.toml",
        "deploy/systemd/revgate.toml",
    ] {
        for line in read(file).lines() {
            let is_bound = line.starts_with("max_") && !line.starts_with("max_wait");
            assert!(!is_bound, "{file}: {line}");
        }
    }
}

#[test]
fn the_unit_allows_as_many_files_as_the_default_needs() {
    let config = default_config();
    let wished = Connections {
        clients: config.listen.max_connections,
        upstream: config.upstream.max_connections,
        admin: 64,
    };
    let needed = needed(wished, config.listen.workers);
    let unit = read("deploy/systemd/revgate.service");
    let limit: usize = after(&unit, "[Service]", "LimitNOFILE=")
        .parse()
        .expect("a number");
    assert!(needed <= limit, "{needed} of {limit}");
    let guide = read("deploy/README.md");
    assert!(guide.contains(&format!("{needed} by default")), "{needed}");
}

/// Keys that begin as a bound does, and bound no memory.
const NO_MEMORY: [&str; 5] = [
    "max_wait",
    "upstream.max_age",
    "limits.min_rate",
    "retry.max_attempts",
    "retry.max_retry_after",
];

/// Every `max_…` of the configuration, and every size.
fn bounding(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    let Value::Object(table) = value else {
        return;
    };
    for (key, value) in table {
        let path = match path {
            "" => key.clone(),
            _ => format!("{path}.{key}"),
        };
        let is_size = value.as_str().is_some_and(|text| text.ends_with("iB"));
        if is_size || key.starts_with("max_") {
            found.insert(path.clone());
        }
        bounding(value, &path, found);
    }
}

#[test]
fn every_bound_of_the_configuration_is_in_a_row() {
    let config = default_config();
    let rows = bounds(&config);
    let named: BTreeSet<_> = rows.iter().flat_map(|row| row.keys).copied().collect();
    let mut found = BTreeSet::new();
    bounding(&config.effective(), "", &mut found);
    for key in &named {
        assert!(found.contains(*key), "no key {key}");
    }
    let missing = found.iter().filter(|key| !named.contains(key.as_str()));
    let missing: Vec<_> = missing
        .filter(|key| !NO_MEMORY.iter().any(|other| key.ends_with(other)))
        .collect();
    assert!(
        missing.is_empty(),
        "in no row of serve/memory.rs: {missing:?}"
    );
    assert!(found.len() >= 10, "{found:?}");
}
