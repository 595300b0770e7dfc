//! Renders the documents from the declarations, so that they cannot disagree with the program.

use serde_json::{Map, Value, json};

use super::{
    Config,
    section::{Key, Notation},
};

/// The JSON Schema of the file, with the built-in defaults.
pub fn schema() -> Value {
    let mut defs = Map::new();
    Config::schema(&mut defs);
    let mut schema = defs.remove("Config").unwrap_or_default();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["$defs"] = defs.into();
    schema
}

/// The schema as text, as `revgate schema` prints it.
pub fn schema_json() -> String {
    format!("{:#}\n", schema())
}

/// The meaning of a section, and which of its changes need a restart.
fn introduction(section: &Key) -> String {
    let (restart, reload): (Vec<_>, Vec<_>) = section.keys.iter().partition(|key| key.restart);
    let names: Vec<_> = restart.iter().map(|key| key.name).collect();
    let changes = match (&*names, &*reload) {
        ([], _) => "Changes apply on reload.".to_owned(),
        (_, []) => "Changes need a restart.".to_owned(),
        ([name], _) => format!("{name} needs a restart; other changes apply on reload."),
        ([names @ .., last], _) => {
            let names = names.join(", ");
            format!("{names} and {last} need a restart; other changes apply on reload.")
        }
    };
    format!("{} {changes}", section.summary())
}

/// The keys of a table with their paths, each followed by the keys within it.
pub(super) fn paths(keys: &[Key], prefix: &str) -> Vec<(String, Key)> {
    let keys = keys.iter();
    keys.flat_map(|key| {
        let path = format!("{prefix}{}", key.name);
        let within = paths(&key.keys, &format!("{path}."));
        [vec![(path, key.clone())], within].concat()
    })
    .collect()
}

/// A value in TOML on one line. A table begins with `keys`, in their order.
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

/// The header of a section, and whether the section is optional.
fn header(name: &str, example: bool) -> (String, bool) {
    match (name, example) {
        ("tokens", true) => ("[tokens.main]".into(), true),
        ("callers", true) => ("[callers.billing]".into(), true),
        ("tokens" | "callers", false) => (format!("[{name}.NAME]"), true),
        ("rewrite", _) => ("[[rewrite]]".into(), true),
        ("shared", _) => ("[shared]".into(), true),
        _ => (format!("[{name}]"), false),
    }
}

/// Text as comment lines of at most 100 characters.
fn comment(text: &str) -> String {
    let mut out = String::from("#");
    let mut width = 1;
    for word in text.split(' ') {
        width += 1 + word.chars().count();
        if width > 100 {
            out += "\n#";
            width = 2 + word.chars().count();
        }
        out += &format!(" {word}");
    }
    out
}

/// A file with every key, commented out with its default.
pub fn toml() -> String {
    let mut out = String::from(
        "# Every key of revgate's configuration. Each line shows the default of its key, or an example if there is none.\n\
         # Sections that are commented out are optional.\n",
    );
    for section in Config::keys() {
        let (header, is_optional) = header(section.name, true);
        let mark = if is_optional { "# " } else { "" };
        let introduction = comment(&introduction(&section));
        out += &format!("\n\n{introduction}\n{mark}{header}\n");
        for key in &section.keys {
            let sample = key.sample().map(|value| inline(value, &key.keys));
            let (meaning, sample) = (comment(&key.summary()), sample.unwrap_or_default());
            out += &format!("\n{meaning}\n# {} = {sample}\n", key.name);
        }
    }
    out
}

/// The reference, as Markdown.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\nThe file is TOML. An environment variable `REVGATE__SECTION__KEY` overrides a key.\n\n\
         | value | examples |\n|---|---|\n\
         | duration | `\"250ms\"`, `\"30s\"`, `\"5m\"`, `\"1h\"` |\n\
         | size | `\"64KiB\"`, `\"16MiB\"`, or a number of bytes |\n\
         | rate | `\"50/s\"`, `\"600/min\"`, `\"1000/h\"` |\n\
         | count, share | `4`, `0.5`; only a share may be a fraction |\n\
         | secret | `{ env = \"NAME\" }` or `{ file = \"/path\" }`: always a reference |\n\n\
         Each section says which changes apply when revgate reloads the file, and which need a restart.\n",
    );
    for section in Config::keys() {
        let (header, _) = header(section.name, false);
        out += &format!(
            "\n## `{header}`\n\n{}\n\n| key | default | meaning |\n|---|---|---|\n",
            introduction(&section)
        );
        for (path, key) in paths(&section.keys, "") {
            let default = match &key.default {
                _ if key.inherited => "from `[defaults]`".to_owned(),
                Some(default) => format!("`{}`", inline(default, &key.keys)),
                None => "none".to_owned(),
            };
            out += &format!("| `{path}` | {default} | {} |\n", key.summary());
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
                "{name} is out of date; run the tests with REVGATE_BLESS=1"
            );
        }
    }

    #[test]
    fn every_key_is_described_and_has_something_to_show() {
        for section in Config::keys() {
            assert!(!section.keys.is_empty(), "{}", section.name);
            for (path, key) in paths(&[section], "") {
                assert!(!key.summary().is_empty(), "{path}");
                assert!(key.sample().is_some() || !path.contains('.'), "{path}");
            }
        }
    }

    #[test]
    fn the_template_names_every_key_and_changes_none() {
        let sections = Config::keys();
        let template = toml();
        for section in &sections {
            let (header, _) = header(section.name, true);
            let (_, rest) = template.split_once(&header).unwrap();
            let own = rest.split("\n\n\n").next().unwrap();
            for key in &section.keys {
                let line = own
                    .lines()
                    .find_map(|line| line.strip_prefix(&format!("# {} = ", key.name)));
                let value: toml::Table = toml::from_str(&format!("x = {}", line.unwrap())).unwrap();
                let shown = key.sample().unwrap();
                assert_eq!(&json!(value)["x"], shown, "{}", key.name);
            }
        }
        let config: toml::Table = toml::from_str(&template).unwrap();
        let is_empty = |value: &toml::Value| value.as_table().is_some_and(toml::Table::is_empty);
        assert!(config.values().all(is_empty));
    }

    #[test]
    fn every_section_says_what_needs_a_restart() {
        let mut section = Config::keys().remove(0);
        section.keys.truncate(3);
        for (restart, want) in [
            (0, "Changes apply on reload."),
            (1, "address needs a restart; other changes apply on reload."),
            (
                2,
                "address and mode need a restart; other changes apply on reload.",
            ),
            (3, "Changes need a restart."),
        ] {
            for (number, key) in section.keys.iter_mut().enumerate() {
                key.restart = number < restart;
            }
            assert!(
                introduction(&section).ends_with(&format!(". {want}")),
                "{want}"
            );
        }
        // The documents and `restore` handle the flag only for keys directly in a section.
        for section in Config::keys() {
            let within = |key: &Key| key.keys.iter().any(|key| key.restart);
            assert!(!section.keys.iter().any(within), "{}", section.name);
            let named = ["tokens", "callers", "defaults", "rewrite"].contains(&section.name);
            let restart = section.keys.iter().any(|key| key.restart);
            assert!(!named || !restart, "{}", section.name);
        }
    }
}
