//! The documents made from the types, so that none of them can say something else than the program does.

use serde_json::Value;

use super::{parse::DEFAULTS, raw};

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

/// A table of the file, its keys in the order in which they are written.
struct Table {
    name: String,
    about: String,
    keys: Vec<Key>,
}

struct Key {
    /// `circuit`, or `circuit.open` for a key of a table within.
    name: String,
    about: String,
    default: Option<String>,
    /// What to write where there is no default.
    example: String,
}

fn tables() -> Vec<Table> {
    let schema = schema();
    let table = |name: &&str| {
        let property = &schema["properties"][*name];
        Table {
            name: (*name).to_owned(),
            about: describe(property),
            keys: keys(&schema, target(property), "", None),
        }
    };
    order("File").iter().map(table).collect()
}

/// The keys of a table of `raw`, each followed by those of the table that it holds; `values` are that table's defaults.
fn keys(schema: &Value, table: &str, prefix: &str, values: Option<&Value>) -> Vec<Key> {
    let mut all = Vec::new();
    for key in order(table) {
        let property = &schema["$defs"][table]["properties"][*key];
        let inner = target(property);
        let default = values.map_or(&property["default"], |values| &values[*key]);
        let example = match default {
            Value::Null => &property["examples"][0],
            default => default,
        };
        all.push(Key {
            name: format!("{prefix}{key}"),
            about: describe(property),
            default: (!default.is_null()).then(|| inline(default, order(inner))),
            example: inline(example, order(inner)),
        });
        if !order(inner).is_empty() {
            all.extend(keys(
                schema,
                inner,
                &format!("{prefix}{key}."),
                Some(default),
            ));
        }
    }
    all
}

/// The keys of a table of `raw` as they are written there; none of what is no table.
fn order(table: &str) -> &'static [&'static str] {
    let found = raw::ORDER.iter().find(|(name, _)| *name == table);
    found.map_or(&[], |(_, keys)| keys)
}

fn describe(property: &Value) -> String {
    property["description"]
        .as_str()
        .unwrap_or_default()
        .replace('\n', " ")
}

/// A value as TOML writes it on one line, a table's keys in this order and then whatever else there is.
fn inline(value: &Value, order: &[&str]) -> String {
    match value {
        Value::Object(map) => {
            let known = order.iter().filter_map(|key| map.get_key_value(*key));
            let rest = map.iter().filter(|(key, _)| !order.contains(&key.as_str()));
            let pairs: Vec<_> = known
                .chain(rest)
                .map(|(k, v)| format!("{k} = {}", inline(v, &[])))
                .collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Array(items) => format!(
            "[{}]",
            items
                .iter()
                .map(|item| inline(item, &[]))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        other => other.to_string(),
    }
}

/// How a table is headed, and whether it is there only if somebody writes it.
fn head(name: &str, example: bool) -> (String, bool) {
    match (name, example) {
        ("tokens", true) => ("[tokens.main]".into(), true),
        ("callers", true) => ("[callers.billing]".into(), true),
        ("tokens" | "callers", false) => (format!("[{name}.NAME]"), true),
        ("rewrite", _) => ("[[rewrite]]".into(), true),
        ("shared", _) => ("[shared]".into(), true),
        _ => (format!("[{name}]"), false),
    }
}

/// Of the defaults: what holds for a caller that does not say otherwise.
fn inherited(all: &[Table], name: &str) -> Option<String> {
    let defaults = all.iter().find(|table| table.name == "defaults")?;
    let key = defaults.keys.iter().find(|key| key.name == name)?;
    key.default.clone()
}

/// A file with every key, commented out with its default.
pub fn toml() -> String {
    let mut out = String::from(
        "# Every key of revgate's configuration. A key that is commented out shows its default, or an example where there is none;\n\
         # a section that is commented out is there only if you write it.\n",
    );
    let all = tables();
    for table in &all {
        let (head, absent) = head(&table.name, true);
        let mark = if absent { "# " } else { "" };
        out += &format!("\n# {}\n{mark}{head}\n", table.about);
        for key in table.keys.iter().filter(|key| !key.name.contains('.')) {
            let value = match table.name.as_str() {
                "callers" => inherited(&all, &key.name).unwrap_or_else(|| key.example.clone()),
                _ => key.example.clone(),
            };
            out += &format!("# {}\n# {} = {value}\n", key.about, key.name);
        }
    }
    out
}

/// The same as a page.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\nTOML; every key may be set as `REVGATE__SECTION__KEY` in the environment too. Durations are written `\"30s\"`, \
         `\"250ms\"` or `\"5m\"`, sizes `\"64KiB\"` or `\"16MiB\"`, rates `\"50/s\"`, `\"600/min\"` or `\"1000/h\"`; a number without a unit is a count, \
         or a share where it may be a fraction. A secret is only ever a reference: `{ env = \"NAME\" }` or `{ file = \"/path\" }`.\n\n\
         Each section says whether a change of it is taken on while revgate runs, or needs a restart.\n",
    );
    let all = tables();
    for table in &all {
        let (head, _) = head(&table.name, false);
        out += &format!(
            "\n## `{head}`\n\n{}\n\n| key | default | meaning |\n|---|---|---|\n",
            table.about
        );
        for key in &table.keys {
            let value = match (&key.default, inherited(&all, &key.name)) {
                (Some(value), _) => format!("`{value}`"),
                (None, Some(_)) if table.name == "callers" => "that of `[defaults]`".to_owned(),
                _ => "none".to_owned(),
            };
            out += &format!("| `{}` | {value} | {} |\n", key.name, key.about);
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
    fn every_key_is_described_and_has_something_to_show() {
        for table in tables() {
            assert!(!table.about.is_empty(), "{}", table.name);
            let says = ["on reload", "a restart"].map(|word| table.about.contains(word));
            assert!(says.contains(&true), "{} says neither", table.name);
            assert!(!table.keys.is_empty(), "{}", table.name);
            let shown = |key: &&Key| !key.about.is_empty() && key.example != "null";
            let inherits =
                |key: &Key| table.name == "callers" && order("Rules").contains(&&*key.name);
            for key in &table.keys {
                assert!(shown(&key) || inherits(key), "{}.{}", table.name, key.name);
            }
        }
    }

    #[test]
    fn the_template_is_a_file_with_every_key() {
        // With the comments off, what is a default and what is an example reads as the types do.
        let text: Vec<_> = toml()
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.starts_with('[') || rest.contains(" = ") => {
                    let key = rest.split(" = ").next().unwrap_or_default();
                    match rest.starts_with('[') || !key.contains(' ') {
                        true => rest.to_owned(),
                        false => line.to_owned(),
                    }
                }
                _ => line.to_owned(),
            })
            .collect();
        let file: toml::Table = toml::from_str(&text.join("\n")).unwrap();
        toml::from_str::<raw::File>(&text.join("\n")).unwrap();
        let sections: Vec<&str> = order("File").to_vec();
        assert_eq!(file.len(), sections.len());
        // As it stands, it says nothing but the defaults.
        let config: toml::Table = toml::from_str(&toml()).unwrap();
        assert!(
            config
                .values()
                .all(|v| v.as_table().is_some_and(|t| t.is_empty()))
        );
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
