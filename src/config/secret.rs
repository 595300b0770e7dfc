//! Resolves references to secrets. The file never holds a secret, and no problem quotes one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use http::HeaderName;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::section::{Notation, View, section, shared_schema, table_schema};
use super::{
    files::{read_bytes, report_file, warn_if_exposed},
    notation::{any_case, notation, text},
    quote,
    reading::Location,
};
use crate::{hash::sha256, policy::key_strength};

section! {
    /// A reference to a secret, never the secret itself.
    pub(super) struct Reference: Debug, Clone {
        /// A file that holds only the secret; revgate reloads when it changes. Either this or env.
        file: Option<PathBuf>, hidden, example("/run/secrets/devrev-token");
        /// Name of an environment variable. Either this or file.
        env: Option<String>, hidden, example("DEVREV_TOKEN");
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    Env(String),
    File(PathBuf),
}

impl SecretSource {
    fn read(value: &Value, at: &Location<'_>) -> Option<SecretSource> {
        let reference = Reference::read(value, at)?;
        match (reference.file, reference.env) {
            (Some(file), None) => Some(SecretSource::File(file)),
            (None, Some(name)) => Some(SecretSource::Env(name)),
            _ => at.reject(
                "needs exactly one of `file` and `env`; write { file = ... } or { env = ... }",
            ),
        }
    }

    /// The reference as written in the file; for a comparison, with the digest of the secret.
    fn show(&self, view: View, digest: impl FnOnce() -> [u8; 32]) -> Value {
        let mut shown = match self {
            SecretSource::Env(name) => json!({ "env": name }),
            SecretSource::File(path) => json!({ "file": path.display().to_string() }),
        };
        if view == View::Compared {
            shown[""] = json!(digest());
        }
        shown
    }
}

/// The keyword of a schema that demands exactly one of the two keys.
fn exactly_one() -> (&'static str, Value) {
    (
        "oneOf",
        json!([{ "required": ["file"] }, { "required": ["env"] }]),
    )
}

/// A secret and its source.
#[derive(Debug, Clone)]
pub struct Secret {
    pub source: SecretSource,
    /// The value when the configuration was loaded: trimmed, not empty, valid in a header.
    pub value: SecretString,
}

/// A reference to a secret. With `SPACES`, the secret may contain spaces, as in "Basic …". With `FLATTEN`, its keys stand in the
/// surrounding table.
pub struct SecretReference<const SPACES: bool, const FLATTEN: bool>;

pub(super) type PlainSecret = SecretReference<false, false>;
pub(super) type HeaderSecret = SecretReference<true, false>;
pub(super) type FlattenedSecret = SecretReference<false, true>;

notation! {
    [const SPACES: bool, const FLATTEN: bool] SecretReference<SPACES, FLATTEN> => Secret,
    flatten FLATTEN,
    quotable false,
    read |value, at| {
        // The problem does not quote the value, which may be the secret.
        if !value.is_object() {
            return at.malformed(value, "must be a reference, not the secret itself; write { file = ... } or { env = ... }");
        }
        let source = SecretSource::read(value, at)?;
        let key = match source {
            _ if !FLATTEN => "",
            SecretSource::Env(_) => "env",
            SecretSource::File(_) => "file",
        };
        let value = resolve(&source, at, key, if SPACES { FIELD_VALUE } else { TOKEN })?;
        Some(Secret { source, value })
    },
    show |out, view| out.source.show(view, || out.digest()),
    schema |defs| shared_schema(defs, "reference", |defs| {
        let mut table = table_schema(&Reference::keys(), defs);
        let (rule, of) = exactly_one();
        table[rule] = of;
        table
    }),
    keys if FLATTEN { Reference::keys() } else { Vec::new() },
    constraint FLATTEN.then(exactly_one),
}

impl Secret {
    fn digest(&self) -> [u8; 32] {
        sha256(self.value.expose_secret().as_bytes())
    }
}

/// What to do about a key that can be guessed.
pub const MAKE_A_KEY: &str = "make one of 256 random bits: openssl rand -hex 32";

/// A caller's key; only its hash is kept.
#[derive(Debug, Clone)]
pub struct HashedKey {
    pub source: SecretSource,
    pub hash: [u8; 32],
}

impl HashedKey {
    fn read(value: &Value, at: &Location<'_>) -> Option<HashedKey> {
        let key = PlainSecret::read(value, at)?;
        if let Some(weakness) = key_strength::weakness(key.value.expose_secret()) {
            at.warn(
                "",
                format!("the key can be guessed: {weakness}; {MAKE_A_KEY}"),
            );
        }
        let hash = key.digest();
        Some(HashedKey {
            source: key.source,
            hash,
        })
    }
}

/// One key, or two while the key is rotated.
pub struct HashedKeys;

notation! {
    [] HashedKeys => Vec<HashedKey>,
    quotable false,
    read |value, at| {
        let Value::Array(items) = value else {
            return Some(vec![HashedKey::read(value, at)?]);
        };
        if !(1..=2).contains(&items.len()) {
            return at.malformed(value, "is not valid; write one reference, or a list of two while the key is rotated");
        }
        let read = |(number, item)| HashedKey::read(item, &at.item(number));
        // Reads all before it stops, to report every problem.
        let keys: Vec<_> = items.iter().enumerate().map(read).collect();
        keys.into_iter().collect()
    },
    show |out, view| one_or_list(out.iter().map(|key| key.source.show(view, || key.hash))),
    schema |defs| one_or_two_schema(PlainSecret::schema(defs)),
}

/// A single value by itself, several as a list.
pub(super) fn one_or_list(all: impl Iterator<Item = Value>) -> Value {
    let mut all: Vec<Value> = all.collect();
    match all.len() {
        1 => all.remove(0),
        _ => all.into(),
    }
}

pub(super) fn one_or_two_schema(one: Value) -> Value {
    let two = json!({ "type": "array", "items": one, "minItems": 1, "maxItems": 2 });
    json!({ "anyOf": [one, two] })
}

/// Header fields that revgate sets itself.
const RESERVED: [&str; 5] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
];

/// Header fields whose values are secrets.
pub struct Headers;

notation! {
    [] Headers => Vec<(HeaderName, Secret)>,
    quotable false,
    read |value, at| {
        let Value::Object(fields) = value else {
            return at.malformed(value, "must be a table; write name = { file = ... } or { env = ... } in it");
        };
        let read = |(name, value): (&String, &Value)| {
            let secret = HeaderSecret::read(value, &at.key(name));
            match HeaderName::from_bytes(name.as_bytes()) {
                Err(_) => at.key(name).reject("is not a valid name of a header field; correct it"),
                Ok(field) if RESERVED.contains(&field.as_str()) => at.key(name).reject("is a field that revgate sets itself; remove it"),
                Ok(field) => Some((field, secret?)),
            }
        };
        Some(fields.iter().filter_map(read).collect())
    },
    show |out, view| {
        let fields = out.iter().map(|(name, secret)| (name.to_string(), HeaderSecret::show(secret, view)));
        (!out.is_empty()).then(|| fields.collect::<Map<_, _>>())
    },
    schema |defs| {
        let secret = HeaderSecret::schema(defs);
        let mut name = text(&["[!#$%&'*+.^_`|~0-9A-Za-z-]+"]);
        name["not"] = text(&[&RESERVED.map(any_case).join("|")]);
        json!({ "type": "object", "propertyNames": name, "additionalProperties": secret })
    },
    if_missing Vec::new(),
}

/// The most KiB of a secret, so that a wrong file cannot fill the memory.
const LIMIT: u64 = 64;

type Allowed = fn(u8) -> bool;
const TOKEN: Allowed = |b| b.is_ascii_graphic();
const FIELD_VALUE: Allowed = |b| b.is_ascii_graphic() || b == b' ';

/// Reads and trims the secret at `source`. Problems are reported at `key`.
fn resolve(
    source: &SecretSource,
    at: &Location<'_>,
    key: &'static str,
    allowed: Allowed,
) -> Option<SecretString> {
    let value = match source {
        SecretSource::Env(name) => {
            let value = variable(name, at).and_then(|value| validate(value, allowed));
            value.map_err(|message| match quote::variable(name) {
                Some(name) => at.report_found(key, Some(name), message),
                None => at.report_found(
                    key,
                    None,
                    format!("the variable that it names {message}. Its name is not shown, because it may be the secret itself"),
                ),
            })
        }
        SecretSource::File(path) => {
            warn_if_exposed(path, at, key);
            let value = read_file(path, allowed);
            value.map_err(|message| report_file(at, key, quote::path(path), &message))
        }
    };
    let value = value.ok()?;
    if let Some(message) = decoration(value.expose_secret()) {
        at.warn(key, message);
    }
    Some(value)
}

/// The value of a variable.
fn variable<'a>(name: &str, at: &Location<'a>) -> Result<&'a str, String> {
    let context = at.context;
    if let Some(value) = context.env.and_then(|env| env.get(name)) {
        return Ok(value);
    }
    if context.unreadable.is_some_and(|names| names.contains(name)) {
        return Err("is not text; store the secret in it as it is".into());
    }
    let names = context.env.into_iter().flat_map(BTreeMap::keys);
    let near = quote::variable(name).and_then(|name| {
        let near = names
            .map(|known| (strsim::damerau_levenshtein(known, &name), known))
            .min()?;
        (near.0 <= 2 && name.len() > 5).then(|| format!("set it, or did you mean {}?", near.1))
    });
    let hint = near.unwrap_or_else(|| "set it, or use { file = ... }".to_owned());
    Err(format!("is not set in the environment; {hint}"))
}

/// What stands around a secret that was stored as it is written in a file of variables.
fn decoration(secret: &str) -> Option<&'static str> {
    const QUOTES: [char; 3] = ['"', '\'', '`'];
    if secret.starts_with(QUOTES) || secret.ends_with(QUOTES) {
        return Some(
            "the secret stands in quotes, which are a part of it and are sent with it; remove them",
        );
    }
    let (name, value) = secret.split_once('=')?;
    let is_name = name
        .bytes()
        .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    let has_value = value.starts_with(|c: char| c != '=');
    (is_name && name.len() > 1 && has_value)
        .then_some("the secret begins with the name of a variable and `=`, which are sent with it; store the value alone")
}

fn read_file(path: &Path, allowed: Allowed) -> Result<SecretString, String> {
    let bytes = read_bytes(path, LIMIT, "the secret")?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => validate(text, allowed),
        Err(_) => Err("is not text; point it at a file that holds only the secret".into()),
    }
}

fn validate(text: &str, allowed: Allowed) -> Result<SecretString, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("is empty; store the secret there".into());
    }
    if text.len() > 7
        && text.is_char_boundary(7)
        && text[..7].eq_ignore_ascii_case("Bearer ")
        && !allowed(b' ')
    {
        return Err(
            "begins with the word Bearer, which revgate adds itself; store the secret alone".into(),
        );
    }
    // The secret goes into a header, where other characters are invalid or could split it.
    if !text.bytes().all(allowed) {
        return Err(
            "holds characters that a header cannot have; store visible ASCII on one line".into(),
        );
    }
    Ok(SecretString::from(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::from_toml;

    /// What `check` says of a file whose token comes from this variable.
    fn said_of(token: &str, name: &str) -> String {
        let text = format!("[tokens.main]\nenv = \"{name}\"\n[callers.a]\nanonymous = true\n");
        let env = [("DEVREV_TOKEN".to_owned(), token.to_owned())].into();
        match from_toml(&text, &env) {
            Ok(config) => config.warnings.iter().map(ToString::to_string).collect(),
            Err(problems) => problems.to_string(),
        }
    }

    #[test]
    fn what_stands_around_a_secret_is_a_warning() {
        let quotes = "tokens.main.env: the secret stands in quotes, which are a part of it and are sent with it; remove them";
        let name = "tokens.main.env: the secret begins with the name of a variable and `=`, which are sent with it; store the value alone";
        for (token, want) in [
            ("\"abc-007\"", quotes),
            ("'abc-007'", quotes),
            ("`abc-007`", quotes),
            ("\"abc-007", quotes),
            ("abc-007'", quotes),
            ("DEVREV_TOKEN=abc-007", name),
            ("abc-007", ""),
            ("e30.e30.YWJj", ""),
            ("YWJjZA==", ""),
            ("MFRGGZDF====", ""),
            (
                "Bearer abc-007",
                "tokens.main.env: DEVREV_TOKEN begins with the word Bearer, which revgate adds itself; store the secret alone",
            ),
        ] {
            let said = said_of(token, "DEVREV_TOKEN");
            assert_eq!(said, want, "{token}");
            assert!(!said.contains("007"), "{said}");
        }
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        for (name, want) in [
            (
                "DEVREV_TOKN",
                "tokens.main.env: DEVREV_TOKN is not set in the environment; set it, or did you mean DEVREV_TOKEN?",
            ),
            (
                "OTHER_TOKEN",
                "tokens.main.env: OTHER_TOKEN is not set in the environment; set it, or use { file = ... }",
            ),
            (
                "s3cr3t-007",
                "tokens.main.env: the variable that it names is not set in the environment; set it, or use { file = ... }. \
                 Its name is not shown, because it may be the secret itself",
            ),
        ] {
            assert_eq!(said_of("abc", name), want);
        }
    }

    #[test]
    fn a_key_that_can_be_guessed_is_a_warning() {
        let text = "[tokens.main]\nenv = \"T\"\n[callers.a]\nkey = [{ env = \"GOOD\" }, { env = \"BAD\" }]\n";
        let env = [
            ("T", "t"),
            ("GOOD", "7d8f1c0b9e34a256f7013c8ae92b645d"),
            ("BAD", "billing-key-for-the-billing-service"),
        ];
        let env = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let warnings = from_toml(text, &env).unwrap().warnings;
        assert_eq!(warnings.len(), 1);
        assert_eq!(warnings[0].path, "callers.a.key[1]");
        let message = &warnings[0].message;
        assert!(
            message.starts_with("the key can be guessed") && !message.contains("billing"),
            "{message}"
        );
    }
}
