//! The documents made from the types, so that none of them can say something else than the program does.

use serde_json::{Map, Value};

use super::{parse::DEFAULTS, raw};

const EXAMPLES: &str = r#"
# An upstream credential; several may stand here.
# [tokens.main]
# file = "/run/secrets/devrev-token"

# Who may call; make the hash with `revgate hash-key`.
# [callers.billing]
# key_sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
# rate = "50/s"

# Built in; rules of your own are written the same way.
# [[rewrite]]
# operations = ["rev-users.link", "rev-users.unlink"]
# rename = { rev_org_don = "rev_org", user_don = "id" }
# mode = "rewrite"
"#;

fn defaults() -> Value {
    // The text is part of the program and tested; without it there is simply no default to show.
    toml::from_str(DEFAULTS).unwrap_or_default()
}

/// The JSON Schema of the file, with the built-in defaults.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(raw::File).to_value();
    let file = schema["properties"].clone();
    if let Value::Object(sections) = defaults() {
        for (section, keys) in sections {
            let name = target(&file[&section]).to_owned();
            for (key, value) in keys.as_object().into_iter().flatten() {
                if let Some(at) = schema.pointer_mut(&format!("/$defs/{name}/properties/{key}")) {
                    at["default"] = value.clone();
                }
            }
        }
    }
    schema
}

/// The schema as text, as `revgate schema` prints it.
pub fn schema_json() -> String {
    format!("{:#}\n", schema())
}

/// The definition that a property refers to, directly, as an optional one, or as the items of a list or table.
fn target(property: &Value) -> &str {
    let direct = [
        property,
        &property["additionalProperties"],
        &property["items"],
    ]
    .into_iter();
    let optional = property["anyOf"].as_array().into_iter().flatten();
    direct
        .chain(optional)
        .find_map(|v| v["$ref"].as_str())
        .map_or("", |r| r.trim_start_matches("#/$defs/"))
}

fn sections(schema: &Value) -> Vec<(String, String, Map<String, Value>)> {
    let mut all = Vec::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let definition = &schema["$defs"][target(property)];
        let keys = definition["properties"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        all.push((name.clone(), describe(property), keys));
    }
    all
}

fn describe(property: &Value) -> String {
    property["description"]
        .as_str()
        .unwrap_or_default()
        .replace('\n', " ")
}

fn inline(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let pairs: Vec<_> = map
                .iter()
                .map(|(k, v)| format!("{k} = {}", inline(v)))
                .collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(inline).collect::<Vec<_>>().join(", ")
        ),
        other => other.to_string(),
    }
}

/// A file with every key, commented out with its default.
pub fn toml() -> String {
    let mut out = String::from(
        "# Every key of revgate's configuration. What is commented out is the default.\n",
    );
    for (name, about, keys) in sections(&schema()) {
        if matches!(name.as_str(), "tokens" | "callers" | "rewrite" | "shared") {
            continue;
        }
        out += &format!("\n# {about}\n[{name}]\n");
        for (key, property) in keys {
            let value = property.get("default").map_or("...".to_owned(), inline);
            out += &format!("# {}\n# {key} = {value}\n", describe(&property));
        }
    }
    out + EXAMPLES
}

/// The same as a page.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\nTOML; every key may be set as `REVGATE__SECTION__KEY` in the environment too.\n",
    );
    for (name, about, keys) in sections(&schema()) {
        let title = match name.as_str() {
            "tokens" | "callers" => format!("[{name}.NAME]"),
            "rewrite" => "[[rewrite]]".to_owned(),
            _ => format!("[{name}]"),
        };
        out +=
            &format!("\n## `{title}`\n\n{about}\n\n| key | default | meaning |\n|---|---|---|\n");
        for (key, property) in keys {
            let value = property
                .get("default")
                .map_or(String::new(), |v| format!("`{}`", inline(v)));
            out += &format!("| `{key}` | {value} | {} |\n", describe(&property));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use super::*;

    #[test]
    fn committed_documents_are_current() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        for (name, text) in [
            ("revgate.toml", toml()),
            ("reference.md", markdown()),
            ("schema.json", schema_json()),
        ] {
            let path = folder.join(name);
            if std::env::var_os("REVGATE_BLESS").is_some() {
                fs::write(&path, &text).unwrap();
            }
            assert!(
                fs::read_to_string(&path).unwrap() == text,
                "{name} is stale; run the tests with REVGATE_BLESS=1"
            );
        }
    }

    #[test]
    fn every_default_is_described() {
        let schema = schema();
        for (section, keys) in defaults().as_object().unwrap() {
            let name = target(&schema["properties"][section]);
            for key in keys.as_object().unwrap().keys() {
                let property = &schema["$defs"][name]["properties"][key];
                assert!(
                    !describe(property).is_empty() && !property["default"].is_null(),
                    "{section}.{key}"
                );
            }
        }
        toml::from_str::<raw::File>(DEFAULTS).unwrap();
    }

    #[test]
    fn examples_load() {
        let env: BTreeMap<_, _> = ["DEVREV_TOKEN", "BILLING_KEY", "SYNC_KEY"]
            .map(|n| (n.to_owned(), format!("value-of-{n}")))
            .into();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
        let mut count = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            super::super::from_toml(&text, &env).unwrap();
            toml::from_str::<raw::File>(&text).unwrap();
            count += 1;
        }
        assert!(count >= 3);
    }
}
