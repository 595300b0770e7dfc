//! Which values a problem may quote. A secret may stand in any place by mistake, so a value is quoted only where no secret belongs, and
//! not even there if it looks like one.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
    sync::LazyLock,
};

use serde_json::Value;

use super::{Config, section::Notation};
use crate::policy::key_strength::looks_random;

/// The most characters of a value; more say nothing more.
const MOST: usize = 80;

/// A value as the file has it, if it may be shown.
pub(super) fn value(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => string(text),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What kind of value it is, in place of one that is not shown.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

/// A text in quotes, on one line.
pub(super) fn string(text: &str) -> Option<String> {
    let socket = Path::new(text.strip_prefix("unix:").unwrap_or(text));
    let is_random = looks_random(text) && !(socket.is_absolute() && begins_here(socket));
    if is_random || text.contains("-----BEGIN") {
        return None;
    }
    let text = without_credentials(text);
    let shown: String = text.chars().take(MOST).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    let escaped = shown.chars().flat_map(|c| match c {
        '"' | '\\' => c.escape_default().collect::<Vec<_>>(),
        // What would end the line, or change how it looks.
        c if c.is_control() || !is_visible(c) => c.escape_unicode().collect(),
        c => vec![c],
    });
    let escaped: String = escaped.collect();
    Some(format!("\"{escaped}{more}\""))
}

/// Marks of direction and their like have no width of their own, and turn around what follows.
fn is_visible(c: char) -> bool {
    !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A URL without its user, its password, its query and its fragment, which may be secrets.
fn without_credentials(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None if text.contains('@') => (String::new(), text),
        None => return text.to_owned(),
    };
    let (rest, end) = match rest.rfind('@') {
        Some(at) => (&rest[at..], "…"),
        None => (rest, ""),
    };
    match rest.find(['?', '#']) {
        Some(query) => format!("{scheme}{end}{}…", &rest[..=query]),
        None => format!("{scheme}{end}{rest}"),
    }
}

/// Whether values of keys of this name may be shown: of every such key in the file.
pub(super) fn is_quotable(name: &str) -> Option<bool> {
    static NAMES: LazyLock<BTreeMap<&str, bool>> = LazyLock::new(|| {
        let mut names = BTreeMap::new();
        let mut keys = Config::keys();
        while let Some(mut key) = keys.pop() {
            *names.entry(key.name).or_insert(true) &= key.quotable;
            keys.append(&mut key.keys);
        }
        names
    });
    NAMES.get(name).copied()
}

/// The name of a variable, unless it may be the secret itself. By convention, names are in capitals.
pub(super) fn variable(name: &str) -> Option<String> {
    let is_name = name
        .bytes()
        .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    let begins = name.starts_with(|c: char| !c.is_ascii_digit());
    (is_name && begins && !looks_random(name)).then(|| name.to_owned())
}

/// The path of a file that holds no secret, such as a certificate.
pub(super) fn public_path(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let is_line = !text.chars().any(char::is_control) && text.chars().count() <= 4 * MOST;
    let may_be_shown =
        is_line && !text.contains("-----BEGIN") && (!looks_random(text) || begins_here(path));
    may_be_shown.then(|| format!("\"{text}\""))
}

/// Whether its first folder is there. Some have names that a generator made, such as those of the kubelet.
fn begins_here(path: &Path) -> bool {
    let first: Vec<_> = path.components().take(2).collect();
    let folder = match first[..] {
        [Component::RootDir, Component::Normal(name)] => Path::new("/").join(name),
        [Component::Normal(name), _] => name.into(),
        _ => return false,
    };
    path != folder && folder.is_dir()
}

/// Endings of files that hold secrets.
const ENDINGS: [&str; 8] = ["pem", "key", "crt", "cer", "txt", "json", "token", "jwt"];

/// The path of a secret's file, unless it may be the secret itself.
pub(super) fn path(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let begins = ["/", "./", "../"]
        .iter()
        .any(|start| text.starts_with(start));
    let has_ending = path
        .extension()
        .is_some_and(|end| ENDINGS.iter().any(|known| end == *known));
    let is_known = (begins || has_ending) && !looks_random(text);
    public_path(path).filter(|_| is_known || begins_here(path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_one_line_without_secrets() {
        for (given, want) in [
            (json!("50/x"), Some("\"50/x\"")),
            (json!(""), Some("\"\"")),
            (json!(1.5), Some("1.5")),
            (json!(true), Some("true")),
            (json!(["a"]), None),
            (json!("a\n\"b\u{202e}"), Some("\"a\\u{a}\\\"b\\u{202e}\"")),
            (json!("https://u:p@h/x"), Some("\"https://…@h/x\"")),
            (json!("u:p@h"), Some("\"…@h\"")),
            (json!("https://h/x?key=1#f"), Some("\"https://h/x?…\"")),
            (json!("q3Zr8VtN1yLk0sXhB7mWfJ2pUe5GcD9a"), None),
            (json!("-----BEGIN PRIVATE KEY-----\nMII"), None),
        ] {
            assert_eq!(value(&given).as_deref(), want, "{given}");
        }
        let long = string(&"ab ".repeat(100)).unwrap();
        assert!(
            long.chars().count() == MOST + 3 && long.ends_with("…\""),
            "{long}"
        );
    }

    #[test]
    fn names_and_paths_are_shown_unless_they_may_be_the_secret() {
        for (name, is_shown) in [
            ("DEVREV_TOKEN", true),
            ("T", true),
            ("_X1", true),
            ("devrev-token", false),
            ("hunter2", false),
            ("MFRGGZDFMZTWQ2LKNNWG23TP", false),
            ("", false),
        ] {
            assert_eq!(
                variable(name).is_some(),
                is_shown && !name.is_empty(),
                "{name}"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("9f86d081884c7d659a2feaa0c55ad015/token");
        for (given, is_shown) in [
            ("/nonexistent/devrev-token", true),
            ("./token", true),
            ("../secrets/token", true),
            ("key.pem", true),
            (inside.to_str().unwrap(), true),
            ("src/nonexistent", true),
            ("hunter2", false),
            ("s3cr3t-value-007", false),
            ("/q3Zr8VtN1yLk0sXhB7mWfJ2pUe5GcD9a", false),
            ("pass/word", false),
            ("-----BEGIN PRIVATE KEY-----\nMII/x.pem", false),
            (
                "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.q3Zr8VtN1yLk0sXhB7mWfJ2p",
                false,
            ),
        ] {
            assert_eq!(path(Path::new(given)).is_some(), is_shown, "{given}");
        }
    }
}
