//! Secrets are only ever referred to; here a reference becomes a value. No message here holds a value.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use http::HeaderName;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::section::{Notation, View, definition, section, table};
use super::{
    notation::{any_case, notation, text},
    reading::At,
};

section! {
    /// Where a secret stands; never the secret itself.
    pub struct Reference: Debug, Clone {
        /// A file that holds only the secret; a new content is used at once. This or env.
        file: Option<PathBuf>, example("/run/secrets/devrev-token");
        /// The name of an environment variable. This or file.
        env: Option<String>, example("DEVREV_TOKEN");
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    Env(String),
    File(PathBuf),
}

impl TokenSource {
    fn read(value: &Value, at: &At) -> Option<TokenSource> {
        let reference = Reference::read(value, at)?;
        match (reference.file, reference.env) {
            (Some(file), None) => Some(TokenSource::File(file)),
            (None, Some(name)) => Some(TokenSource::Env(name)),
            _ => at.refuse(
                "needs exactly one of `file` and `env`; write { file = ... } or { env = ... }",
            ),
        }
    }

    /// The reference as the file has it; `digest` is that of the secret, for the comparison.
    fn show(&self, view: View, digest: impl FnOnce() -> [u8; 32]) -> Value {
        let mut shown = match self {
            TokenSource::Env(name) => json!({ "env": name }),
            TokenSource::File(path) => json!({ "file": path.display().to_string() }),
        };
        if view == View::Compared {
            shown[""] = json!(digest());
        }
        shown
    }
}

/// What a table with a reference must fulfil: it has exactly one of the two.
fn exactly_one() -> (&'static str, Value) {
    (
        "oneOf",
        json!([{ "required": ["file"] }, { "required": ["env"] }]),
    )
}

/// A secret and where it stands.
#[derive(Debug, Clone)]
pub struct Secret {
    pub source: TokenSource,
    /// The value when the file was loaded: trimmed, not empty, fit for a header.
    pub value: SecretString,
}

/// A secret by reference. `WORDS`: it may be several, as in the value of a header field, "Basic …". `INLINE`: its keys stand in the
/// table around it.
pub struct SecretReference<const WORDS: bool, const INLINE: bool>;

pub type PlainSecret = SecretReference<false, false>;
pub type HeaderSecret = SecretReference<true, false>;
pub type InlineSecret = SecretReference<false, true>;

notation! {
    [const WORDS: bool, const INLINE: bool] SecretReference<WORDS, INLINE> => Secret,
    flat INLINE,
    read |value, at| {
        // Nothing is said of what is in it: it may be the secret.
        if !value.is_object() {
            return at.refuse("must be a reference, not the secret itself; write { file = ... } or { env = ... }");
        }
        let source = TokenSource::read(value, at)?;
        let key = match source {
            _ if !INLINE => "",
            TokenSource::Env(_) => "env",
            TokenSource::File(_) => "file",
        };
        let value = follow(&source, at, key, if WORDS { FIELD } else { TOKEN })?;
        Some(Secret { source, value })
    },
    show |out, view| out.source.show(view, || out.digest()),
    schema |shared| definition(shared, "reference", |shared| {
        let mut table = table(&Reference::keys(), shared);
        let (rule, of) = exactly_one();
        table[rule] = of;
        table
    }),
    keys if INLINE { Reference::keys() } else { Vec::new() },
    constraint INLINE.then(exactly_one),
}

impl Secret {
    fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.value.expose_secret().as_bytes()).into()
    }
}

/// A caller's key of which no more is kept than its hash.
#[derive(Debug, Clone)]
pub struct HashedKey {
    pub source: TokenSource,
    pub hash: [u8; 32],
}

impl HashedKey {
    fn read(value: &Value, at: &At) -> Option<HashedKey> {
        let key = PlainSecret::read(value, at)?;
        let hash = key.digest();
        Some(HashedKey {
            source: key.source,
            hash,
        })
    }
}

/// One, or two while a key is rotated.
pub struct HashedKeys;

notation! {
    [] HashedKeys => Vec<HashedKey>,
    read |value, at| {
        let Value::Array(items) = value else {
            return Some(vec![HashedKey::read(value, at)?]);
        };
        if !(1..=2).contains(&items.len()) {
            return at.refuse("is not valid; write one reference, or a list of two while a key is rotated");
        }
        let read = |(number, item): (usize, &Value)| match item.is_object() {
            true => HashedKey::read(item, &at.item(number)),
            false => at.item(number).refuse("must be a table; write { file = ... } or { env = ... }, never the key itself"),
        };
        // Each of them, so that every problem is found.
        let keys: Vec<_> = items.iter().enumerate().map(read).collect();
        keys.into_iter().collect()
    },
    show |out, view| one_or_all(out.iter().map(|key| key.source.show(view, || key.hash))),
    schema |shared| one_or_two(PlainSecret::schema(shared)),
}

/// As the file may have it: one by itself, several in a list.
pub fn one_or_all(all: impl Iterator<Item = Value>) -> Value {
    let mut all: Vec<Value> = all.collect();
    match all.len() {
        1 => all.remove(0),
        _ => all.into(),
    }
}

pub fn one_or_two(one: Value) -> Value {
    let two = json!({ "type": "array", "items": one, "minItems": 1, "maxItems": 2 });
    json!({ "anyOf": [one, two] })
}

/// What belongs to the message itself.
const OURS: [&str; 5] = [
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
    read |value, at| {
        let Value::Object(fields) = value else {
            return at.refuse("must be a table; write name = { file = ... } or { env = ... } in it");
        };
        let read = |(name, value): (&String, &Value)| {
            let secret = HeaderSecret::read(value, &at.key(name));
            match HeaderName::from_bytes(name.as_bytes()) {
                Err(_) => at.key(name).refuse("is not the name of a header field; correct it"),
                Ok(field) if OURS.contains(&field.as_str()) => at.key(name).refuse("is set by revgate itself; remove it"),
                Ok(field) => Some((field, secret?)),
            }
        };
        Some(fields.iter().filter_map(read).collect())
    },
    show |out, view| {
        let fields = out.iter().map(|(name, secret)| (name.to_string(), HeaderSecret::show(secret, view)));
        (!out.is_empty()).then(|| fields.collect::<Map<_, _>>())
    },
    schema |shared| {
        let secret = HeaderSecret::schema(shared);
        let mut name = text(&["[!#$%&'*+.^_`|~0-9A-Za-z-]+"]);
        name["not"] = text(&[&OURS.map(any_case).join("|")]);
        json!({ "type": "object", "propertyNames": name, "additionalProperties": secret })
    },
    absent Vec::new(),
}

/// In KiB. No credential is larger; a reference to a device or a wrong file must not fill the memory.
const LIMIT: u64 = 64;

type Allowed = fn(u8) -> bool;
const TOKEN: Allowed = |b| b.is_ascii_graphic();
const FIELD: Allowed = |b| b.is_ascii_graphic() || b == b' ';

/// Reads and trims the secret that `source` refers to. `key` is where a problem is reported.
fn follow(source: &TokenSource, at: &At, key: &str, allowed: Allowed) -> Option<SecretString> {
    let value = match source {
        TokenSource::Env(name) => match at.context.env.and_then(|env| env.get(name)) {
            Some(value) => clean(value, allowed),
            None => Err(
                "the environment variable it names is not set; set it, or use { file = ... }"
                    .into(),
            ),
        },
        TokenSource::File(path) => open(path, allowed),
    };
    value.map_err(|message| at.problem(key, message)).ok()
}

fn open(path: &Path, allowed: Allowed) -> Result<SecretString, String> {
    let bytes = read_bytes(path, LIMIT, "the secret")?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => clean(text, allowed),
        Err(_) => Err("the file is not text; point it at a file that holds only the secret".into()),
    }
}

pub fn unreadable(error: std::io::Error) -> String {
    let why = error.kind();
    format!("the file cannot be read ({why}); create it or correct the path")
}

/// Reads a file that holds `what`, and no more than so many KiB.
pub fn read_bytes(path: &Path, limit: u64, what: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    // A pipe without a writer would hang the start for ever.
    if !metadata.is_file() {
        return Err(format!(
            "the path is not a regular file; point it at a file that holds only {what}"
        ));
    }
    // As large as it will be: what grows leaves copies behind that nobody wipes.
    let most = limit << 10;
    let size = metadata.len().min(most + 1) as usize;
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
    File::open(path)
        .map_err(unreadable)?
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > most {
        return Err(format!(
            "the file is larger than {limit} KiB; point it at a file that holds only {what}"
        ));
    }
    Ok(bytes)
}

fn clean(text: &str, allowed: Allowed) -> Result<SecretString, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("the secret is empty; store a value there".into());
    }
    // It goes into a header, where anything else would be refused or, worse, split it.
    if !text.bytes().all(allowed) {
        return Err(
            "the secret holds characters that a header cannot; store visible ASCII on one line"
                .into(),
        );
    }
    Ok(SecretString::from(text.to_owned()))
}
