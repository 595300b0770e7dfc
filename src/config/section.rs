//! One declaration per key. [`section!`] derives everything else from it: the field, the reader, the schema, the reference, the views,
//! the comparison, and whether a reload applies a change. A [`Notation`] defines how a value is written.

use serde_json::{Map, Value, json};

#[cfg(test)]
use super::reading::Context;
use super::reading::{Location, join};

/// What a configuration is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The admin listener: no secrets, and no complete hash of a key.
    Redacted,
    /// Someone who may read the file: the output loads again.
    Effective,
    /// The comparison of two configurations, never output. Each secret has a digest, under the empty key of its reference.
    Compared,
}

/// How a value is written in the file.
pub trait Notation {
    type Out: Clone;

    /// Whether the keys of this table stand in the surrounding one, like serde's `flatten`.
    const FLATTEN: bool = false;

    /// Whether problems may quote a value: never where a secret may stand.
    const QUOTABLE: bool = true;

    /// What to write instead of a malformed value.
    fn expected() -> String {
        String::new()
    }

    /// `None` if the value is malformed.
    fn parse(_: &Value) -> Option<Self::Out> {
        None
    }

    /// Why a well-formed value cannot be used.
    fn invalid(_: &Self::Out) -> Option<String> {
        None
    }

    /// Of a list, the item that is malformed, if it is one by itself.
    fn bad_item(_: &Value) -> Option<usize> {
        None
    }

    /// Reports every problem to `at`. Returns `None` if the value cannot be used.
    fn read(value: &Value, at: &Location<'_>) -> Option<Self::Out> {
        let Some(out) = Self::parse(value) else {
            let message = format!("is not valid; write {}", Self::expected());
            return match Self::bad_item(value) {
                Some(number) => at.item(number).malformed(&value[number], &message),
                None => at.malformed(value, &message),
            };
        };
        match Self::invalid(&out) {
            Some(problem) => at.reject(&problem),
            None => {
                Self::warn(&out, value, at);
                Some(out)
            }
        }
    }

    /// Warns of what keeps the value from doing what is meant.
    fn warn(_: &Self::Out, _value: &Value, _at: &Location<'_>) {}

    /// The value as written in the file; null if the key is left out.
    fn show(out: &Self::Out, view: View) -> Value;

    /// A schema that accepts what `read` accepts, as far as one value can tell. Parts that several keys share go to `defs`.
    fn schema(defs: &mut Defs) -> Value;

    /// Restores what needs a restart from `old`, and adds its keys to `kept`.
    fn restore(_new: &mut Self::Out, _old: &Self::Out, _path: &str, _kept: &mut Vec<String>) {}

    /// The value of a missing key that has no default.
    fn if_missing() -> Option<Self::Out> {
        None
    }

    /// The keys of a table.
    fn keys() -> Vec<Key> {
        Vec::new()
    }

    /// The default of a table as a whole.
    fn defaults() -> Option<Value> {
        None
    }

    /// What flattened keys demand of the surrounding table: a keyword of its schema.
    fn constraint() -> Option<(&'static str, Value)> {
        None
    }
}

/// The declaration of a key.
#[derive(Clone)]
pub struct Key {
    pub name: &'static str,
    /// The doc comment: the meaning, the unit and the reason for the default. Where callers inherit the key, the reason is a paragraph of its own.
    pub doc: &'static str,
    pub default: Option<Value>,
    /// For a key without a default: what the template shows.
    pub example: Option<Value>,
    /// Whether a change needs a restart. Only keys directly in a section have this flag.
    pub restart: bool,
    /// The key must be present; the problem reported otherwise.
    pub required: Option<&'static str>,
    /// Whether a missing key takes its value from `[defaults]`.
    pub inherited: bool,
    /// Whether problems may quote its value.
    pub quotable: bool,
    pub schema: fn(&mut Defs) -> Value,
    /// The keys within, if the value is a table.
    pub keys: Vec<Key>,
    /// Whether the reader accepts a value; a test compares this with the schema.
    #[cfg(test)]
    pub accepts: fn(&Value, &Context<'_>) -> bool,
}

impl Key {
    pub fn new<N: Notation>(name: &'static str, doc: &'static str) -> Key {
        Key {
            name,
            doc,
            default: N::defaults(),
            example: None,
            restart: false,
            required: None,
            inherited: false,
            quotable: N::QUOTABLE,
            schema: N::schema,
            keys: N::keys(),
            #[cfg(test)]
            accepts: |value, context| {
                let read = N::read(value, &context.root());
                context.problems.take().is_empty() && read.is_some()
            },
        }
    }

    /// The meaning on one line; without the reason for a default that another section has.
    pub fn summary(&self) -> String {
        let meaning = self.doc.split("\n\n").next().filter(|_| self.inherited);
        one_line(meaning.unwrap_or(self.doc))
    }

    /// What the template shows.
    pub fn sample(&self) -> Option<&Value> {
        self.default.as_ref().or(self.example.as_ref())
    }
}

/// Schemas that several keys share, by name.
pub(super) type Defs = Map<String, Value>;

pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Adds the paths at which two values differ. Under an empty key stands a digest of what a table refers to: a difference there is one of
/// the table, and counts only if both have one.
pub(super) fn diff(old: &Value, new: &Value, path: &str, paths: &mut Vec<String>) {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        if old != new {
            paths.push(path.to_owned());
        }
        return;
    };
    for (name, old) in before {
        match after.get(name) {
            Some(new) => diff(old, new, &join(path, name), paths),
            None if name.is_empty() => {}
            None => paths.push(join(path, name)),
        }
    }
    let is_added = |name: &&String| !name.is_empty() && !before.contains_key(*name);
    paths.extend(after.keys().filter(is_added).map(|name| join(path, name)));
}

/// Shows the value of `key` in its table.
pub(super) fn show_in<N: Notation>(
    table: &mut Map<String, Value>,
    key: &str,
    out: &N::Out,
    view: View,
) {
    match (N::FLATTEN, N::show(out, view)) {
        (true, Value::Object(shown)) => table.extend(shown),
        (_, Value::Null) => {}
        (_, shown) => drop(table.insert(key.to_owned(), shown)),
    }
}

/// Restores the value of a key if it needs a restart, else the keys within it that do.
pub(super) fn restore<N: Notation>(
    key: &Key,
    new: &mut N::Out,
    old: &N::Out,
    path: &str,
    kept: &mut Vec<String>,
) {
    let path = &join(path, key.name);
    if !key.restart {
        return N::restore(new, old, path, kept);
    }
    let before = kept.len();
    let shown = |out| N::show(out, View::Compared);
    diff(&shown(old), &shown(new), path, kept);
    if kept.len() > before {
        *new = old.clone();
    }
}

/// Replaces each flattened key by the keys that it stands for.
pub(super) fn flatten(keys: impl IntoIterator<Item = (bool, Key)>) -> Vec<Key> {
    let keys = keys.into_iter();
    keys.flat_map(|(flat, key)| if flat { key.keys } else { vec![key] })
        .collect()
}

pub(super) fn table_schema(keys: &[Key], defs: &mut Defs) -> Value {
    let mut property = |key: &Key| {
        let mut property = (key.schema)(defs);
        let restart = if key.restart { " Needs a restart." } else { "" };
        property["description"] = format!("{}{restart}", key.summary()).into();
        if let Some(default) = key.default.clone().filter(|_| !key.inherited) {
            property["default"] = default;
        }
        if let Some(example) = &key.example {
            property["examples"] = json!([example]);
        }
        (key.name.to_owned(), property)
    };
    let properties: Map<_, _> = keys.iter().map(&mut property).collect();
    let mut table =
        json!({ "type": "object", "additionalProperties": false, "properties": properties });
    let required = keys.iter().filter(|key| key.required.is_some());
    let required: Vec<_> = required.map(|key| key.name).collect();
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

/// Refers to the schema `name` in `defs`, which the first use makes.
pub(super) fn shared_schema(
    defs: &mut Defs,
    name: &str,
    make: impl FnOnce(&mut Defs) -> Value,
) -> Value {
    if !defs.contains_key(name) {
        let schema = make(defs);
        defs.insert(name.to_owned(), schema);
    }
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// A table of the keys' defaults; `None` if no key has one.
pub(super) fn defaults(keys: &[Key]) -> Option<Value> {
    let default = |key: &Key| Some((key.name.to_owned(), key.default.clone()?));
    let all: Map<_, _> = keys.iter().filter_map(default).collect();
    (!all.is_empty()).then(|| all.into())
}

/// Declares a table and its keys: `/// meaning`, `key: Notation = default, flags;`. The flags are `restart` (a change needs a restart),
/// `hidden` (no problem quotes the value, because a secret may stand there by mistake), `example(…)` (what the template shows if there is no default) and `required("the problem if the key is missing")`.
///
/// `then rule(keys) -> { fields }` calls `rule` with the values of these keys, after all keys were read, and adds the fields that it
/// returns. A required key that is missing or cannot be used is `None`.
macro_rules! section {
    ($(#[doc = $doc:literal])+
    $vis:vis struct $section:ident: $($derive:ident),+ $(; hint $hint:literal)? {
        $($(#[doc = $key_doc:literal])+ $key:ident: $notation:ty $(= $default:tt)? $(, $flag:ident $(($($value:tt)*))?)*;)+
    }
    $(then $rule:ident($($argument:ident),*) $(-> { $($(#[$meta:meta])* $field:ident: $type:ty,)+ })?)?) => {
        $(#[doc = $doc])+
        #[derive($($derive),+)]
        $vis struct $section {
            $($(#[doc = $key_doc])+ pub $key: <$notation as Notation>::Out,)+
            $($($($(#[$meta])* pub $field: $type,)+)?)?
        }

        const _: () = {
            use $crate::config::{reading as r, section as s};

            const KEYS: usize = [$(stringify!($key)),+].len();

            impl $section {
                fn declared() -> [s::Key; KEYS] {
                    [$({
                        #[allow(unused_mut, reason = "not every declaration changes it")]
                        let mut key = s::Key::new::<$notation>(stringify!($key), concat!($($key_doc, "\n"),+));
                        $(key.default = Some(serde_json::json!($default));)?
                        $(section!(@flag key $flag $($($value)*)?);)*
                        key
                    }),+]
                }

                /// Reads the keys. A key that is missing has its value in `base`, if there is one.
                #[allow(unused_mut, reason = "not every declaration changes it")]
                pub(super) fn read_from(table: &mut r::Table<'_>, base: Option<&Self>) -> Option<Self> {
                    let [$($key),+] = Self::declared();
                    $(let mut $key = table.read::<$notation>(&$key, base.map(|base| &base.$key));)+
                    $(let ($($($field,)+)?) = $rule(&table.at, $(&mut $argument),*)?;)?
                    Some($section { $($key: $key?,)+ $($($($field,)+)?)? })
                }
            }

            impl Notation for $section {
                type Out = Self;

                const QUOTABLE: bool = false;

                fn read(value: &serde_json::Value, at: &r::Location<'_>) -> Option<Self> {
                    let hint = [$($hint,)? "write its keys in a table of this name"][0];
                    let mut table = r::Table::open(value, at, hint)?;
                    let out = Self::read_from(&mut table, None);
                    table.finish();
                    out
                }

                fn show(out: &Self, view: s::View) -> serde_json::Value {
                    let mut table = serde_json::Map::new();
                    $(s::show_in::<$notation>(&mut table, stringify!($key), &out.$key, view);)+
                    table.into()
                }

                fn schema(defs: &mut s::Defs) -> serde_json::Value {
                    s::shared_schema(defs, stringify!($section), |defs| {
                        let mut table = s::table_schema(&Self::keys(), defs);
                        table["description"] = s::one_line(concat!($($doc, "\n"),+)).into();
                        $(if let Some((keyword, constraint)) = <$notation as Notation>::constraint() {
                            table[keyword] = constraint;
                        })+
                        table
                    })
                }

                fn restore(new: &mut Self, old: &Self, path: &str, kept: &mut Vec<String>) {
                    let [$($key),+] = Self::declared();
                    $(s::restore::<$notation>(&$key, &mut new.$key, &old.$key, path, kept);)+
                }

                fn keys() -> Vec<s::Key> {
                    let is_flat = [$(<$notation as Notation>::FLATTEN),+];
                    s::flatten(is_flat.into_iter().zip(Self::declared()))
                }

                fn defaults() -> Option<serde_json::Value> {
                    s::defaults(&Self::keys())
                }
            }
        };
    };
    (@flag $key:ident restart) => { $key.restart = true };
    (@flag $key:ident hidden) => { $key.quotable = false };
    (@flag $key:ident example $($value:tt)+) => { $key.example = Some(serde_json::json!($($value)+)) };
    (@flag $key:ident required $message:literal) => { $key.required = Some($message) };
}
pub(super) use section;
