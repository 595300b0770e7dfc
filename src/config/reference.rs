//! The documents made from the declarations, so that none of them can say something else than the program does.

use serde_json::{Map, Value, json};

use super::{
    Config,
    section::{Key, Notation},
};

/// The JSON Schema of the file, with the built-in defaults.
pub fn schema() -> Value {
    let mut shared = Map::new();
    Config::schema(&mut shared);
    let mut schema = shared.remove("Config").unwrap_or_default();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["$defs"] = shared.into();
    schema
}

/// The schema as text, as `revgate schema` prints it.
pub fn schema_json() -> String {
    format!("{:#}\n", schema())
}

/// What is said of a section: what it is, and what a reload takes of it.
fn about(section: &Key) -> String {
    let (restart, reload): (Vec<_>, Vec<_>) = section.keys.iter().partition(|key| key.restart);
    let names: Vec<_> = restart.iter().map(|key| key.name).collect();
    let takes = match (&*names, &*reload) {
        ([], _) => "Changes on reload.".to_owned(),
        (_, []) => "Needs a restart.".to_owned(),
        ([name], _) => format!("{name} needs a restart; the rest changes on reload."),
        ([names @ .., last], _) => {
            let names = names.join(", ");
            format!("{names} and {last} need a restart; the rest changes on reload.")
        }
    };
    format!("{} {takes}", section.about())
}

/// The keys of a table, each followed by those of the table that it holds, under their paths.
fn paths(keys: &[Key], prefix: &str) -> Vec<(String, Key)> {
    let keys = keys.iter();
    keys.flat_map(|key| {
        let path = format!("{prefix}{}", key.name);
        let within = paths(&key.keys, &format!("{path}."));
        [vec![(path, key.clone())], within].concat()
    })
    .collect()
}

/// A value as TOML writes it on one line, a table's keys in the order of these and then whatever else there is.
fn inline(value: &Value, keys: &[Key]) -> String {
    let list = |values: Vec<String>| values.join(", ");
    match value {
        Value::Object(map) => {
            let known = keys.iter().filter_map(|key| map.get_key_value(key.name));
            let is_known = |name: &str| keys.iter().any(|key| key.name == name);
            let rest = map.iter().filter(|(name, _)| !is_known(name));
            let pairs = known.chain(rest);
            let pairs = pairs.map(|(name, value)| format!("{name} = {}", inline(value, &[])));
            format!("{{ {} }}", list(pairs.collect()))
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| inline(item, &[]));
            format!("[{}]", list(items.collect()))
        }
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

/// A file with every key, commented out with its default.
pub fn toml() -> String {
    let mut out = String::from(
        "# Every key of revgate's configuration. A key that is commented out shows its default, or an example where there is none;\n\
         # a section that is commented out is there only if you write it.\n",
    );
    for section in Config::keys() {
        let (head, absent) = head(section.name, true);
        let mark = if absent { "# " } else { "" };
        out += &format!("\n# {}\n{mark}{head}\n", about(&section));
        for key in &section.keys {
            let shown = key.default.as_ref().or(key.example.as_ref());
            let shown = shown.map_or_else(String::new, |value| inline(value, &key.keys));
            out += &format!(
                "# {}
# {} = {shown}
",
                key.about(),
                key.name
            );
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
    for section in Config::keys() {
        let (head, _) = head(section.name, false);
        out += &format!(
            "\n## `{head}`\n\n{}\n\n| key | default | meaning |\n|---|---|---|\n",
            about(&section)
        );
        for (path, key) in paths(&section.keys, "") {
            let default = match &key.default {
                _ if key.inherited => "that of `[defaults]`".to_owned(),
                Some(default) => format!("`{}`", inline(default, &key.keys)),
                None => "none".to_owned(),
            };
            out += &format!("| `{path}` | {default} | {} |\n", key.about());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

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
        for section in Config::keys() {
            assert!(!section.keys.is_empty(), "{}", section.name);
            for (path, key) in paths(&[section], "") {
                assert!(!key.about().is_empty(), "{path}");
                let shown = key.default.is_some() || key.example.is_some();
                assert!(shown || !path.contains('.'), "{path}");
            }
        }
    }

    #[test]
    fn the_template_names_every_key_and_changes_none() {
        let sections = Config::keys();
        let template = toml();
        for section in &sections {
            let (head, _) = head(section.name, true);
            let (_, rest) = template.split_once(&head).unwrap();
            let own = rest.split("\n\n").next().unwrap();
            for key in &section.keys {
                let line = own
                    .lines()
                    .find_map(|line| line.strip_prefix(&format!("# {} = ", key.name)));
                let value: toml::Table = toml::from_str(&format!("x = {}", line.unwrap())).unwrap();
                let shown = key.default.as_ref().or(key.example.as_ref()).unwrap();
                assert_eq!(&json!(value)["x"], shown, "{}", key.name);
            }
        }
        let config: toml::Table = toml::from_str(&template).unwrap();
        let is_empty = |value: &toml::Value| value.as_table().is_some_and(|table| table.is_empty());
        assert!(config.values().all(is_empty));
    }

    #[test]
    fn whether_a_reload_takes_it_is_said_of_every_section() {
        let mut section = Config::keys().remove(0);
        section.keys.truncate(3);
        for (restart, want) in [
            (0, "Changes on reload."),
            (1, "address needs a restart; the rest changes on reload."),
            (
                2,
                "address and mode need a restart; the rest changes on reload.",
            ),
            (3, "Needs a restart."),
        ] {
            for (number, key) in section.keys.iter_mut().enumerate() {
                key.restart = number < restart;
            }
            assert!(about(&section).ends_with(&format!(". {want}")), "{want}");
        }
        // Nothing is said of a flag elsewhere, and nothing would put such a key back.
        for section in Config::keys() {
            let within = |key: &Key| key.keys.iter().any(|key| key.restart);
            assert!(!section.keys.iter().any(within), "{}", section.name);
            let named = ["tokens", "callers", "defaults", "rewrite"].contains(&section.name);
            let restart = section.keys.iter().any(|key| key.restart);
            assert!(!named || !restart, "{}", section.name);
        }
    }
}
