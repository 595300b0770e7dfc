//! One declaration a key: [`section!`] makes of it the typed value, its reader, what is shown of it, its part of the schema and
//! of the reference, its comparison, and whether a reload takes it. What a value looks like is a [`Notation`].

use serde_json::{Map, Value, json};

#[cfg(test)]
use super::reading::Context;
use super::reading::{At, join};

/// Who sees a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Whoever may ask the admin listener: not even whole hashes.
    Redacted,
    /// Whoever may read the file: what is shown loads again.
    Effective,
    /// The comparison of two configurations, and no person. It has a digest of each secret, under the empty name.
    Compared,
}

/// How the value of a key is written. Secrets keep out of all of it.
pub trait Notation {
    type Out: Clone;

    /// The keys stand in the table around it, not in one of its own.
    const FLAT: bool = false;

    /// What to write, for whoever wrote something else.
    fn want() -> String {
        String::new()
    }

    /// `None` for what is no such value.
    fn parse(_: &Value) -> Option<Self::Out> {
        None
    }

    /// What is wrong with a value that is written well.
    fn fault(_: &Self::Out) -> Option<String> {
        None
    }

    /// Reports to `at` what is wrong, and returns `None` for what cannot be used.
    fn read(value: &Value, at: &At) -> Option<Self::Out> {
        let out = Self::parse(value);
        let fault = match &out {
            Some(out) => Self::fault(out),
            None => Some(format!("is not valid; write {}", Self::want())),
        };
        fault.map_or(out, |fault| at.refuse(&fault))
    }

    /// As the file has it; null where the file would have nothing.
    fn show(out: &Self::Out, view: View) -> Value;

    /// What `read` takes, as far as one value alone can tell. What several keys share goes to `shared`.
    fn schema(shared: &mut Defs) -> Value;

    /// Puts back what only a restart takes, and names it.
    fn keep(_new: &mut Self::Out, _old: &Self::Out, _at: &str, _kept: &mut Vec<String>) {}

    /// What holds where the key is missing and has no default.
    fn absent() -> Option<Self::Out> {
        None
    }

    /// Of a table.
    fn keys() -> Vec<Key> {
        Vec::new()
    }

    /// Of a table: what holds where nobody writes one.
    fn defaults() -> Option<Value> {
        None
    }

    /// Of keys that stand in the table around: what that must fulfil because of them.
    fn constraint() -> Option<(&'static str, Value)> {
        None
    }
}

/// A key as it is declared.
#[derive(Clone)]
pub struct Key {
    pub name: &'static str,
    /// The doc comment: what it is and, in a paragraph of its own where callers inherit it, the reason of its default.
    pub about: &'static str,
    pub default: Option<Value>,
    /// What to write where there is no default.
    pub example: Option<Value>,
    /// Whether only a restart takes a change of it. Of keys of a section alone, not of those of a table in it.
    pub restart: bool,
    /// What to say where it is missing and must not be.
    pub needed: Option<&'static str>,
    /// Whether it is that of `defaults` where it is missing.
    pub inherited: bool,
    pub schema: fn(&mut Defs) -> Value,
    /// Of the table that it holds.
    pub keys: Vec<Key>,
    /// Whether it takes a value, for the test that compares it with the schema.
    #[cfg(test)]
    pub takes: fn(&Value, &Context) -> bool,
}

impl Key {
    pub fn of<N: Notation>(name: &'static str, about: &'static str) -> Key {
        Key {
            name,
            about,
            default: N::defaults(),
            example: None,
            restart: false,
            needed: None,
            inherited: false,
            schema: N::schema,
            keys: N::keys(),
            #[cfg(test)]
            takes: |value, context| {
                let read = N::read(value, &context.root());
                context.problems.take().is_empty() && read.is_some()
            },
        }
    }

    pub fn about(&self) -> String {
        let lines = match self.inherited {
            true => self.about.split("\n\n").next().unwrap_or_default(),
            false => self.about,
        };
        one_line(lines)
    }
}

/// Schemas that several keys share, by name.
pub type Defs = Map<String, Value>;

pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The paths at which two values differ. An empty name is that of the table which has it, in both.
pub fn differ(old: &Value, new: &Value, at: &str, paths: &mut Vec<String>) {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        if old != new {
            paths.push(at.to_owned());
        }
        return;
    };
    for (name, old) in before {
        match after.get(name) {
            Some(new) => differ(old, new, &join(at, name), paths),
            None if name.is_empty() => {}
            None => paths.push(join(at, name)),
        }
    }
    let added = after
        .keys()
        .filter(|name| !name.is_empty() && !before.contains_key(*name));
    paths.extend(added.map(|name| join(at, name)));
}

/// What the value of `key` adds to the table around it.
pub fn put<N: Notation>(map: &mut Map<String, Value>, key: &str, out: &N::Out, view: View) {
    match (N::FLAT, N::show(out, view)) {
        (true, Value::Object(shown)) => map.extend(shown),
        (_, Value::Null) => {}
        (_, shown) => drop(map.insert(key.to_owned(), shown)),
    }
}

/// Puts the value of a key back if only a restart takes it, or what only a restart takes within it.
pub fn keep<N: Notation>(
    restart: bool,
    new: &mut N::Out,
    old: &N::Out,
    at: &str,
    kept: &mut Vec<String>,
) {
    if !restart {
        return N::keep(new, old, at, kept);
    }
    let before = kept.len();
    let shown = |out| N::show(out, View::Compared);
    differ(&shown(old), &shown(new), at, kept);
    if kept.len() > before {
        *new = old.clone();
    }
}

/// The keys of a table, those that stand in it for another among them.
pub fn flatten(keys: impl IntoIterator<Item = (bool, Key)>) -> Vec<Key> {
    let keys = keys.into_iter();
    keys.flat_map(|(flat, key)| if flat { key.keys } else { vec![key] })
        .collect()
}

/// The schema of a table.
pub fn table(keys: &[Key], shared: &mut Defs) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .map(|key| {
            let mut property = (key.schema)(shared);
            let restart = if key.restart { " Needs a restart." } else { "" };
            property["description"] = format!("{}{restart}", key.about()).into();
            if let Some(default) = key.default.clone().filter(|_| !key.inherited) {
                property["default"] = default;
            }
            if let Some(example) = &key.example {
                property["examples"] = json!([example]);
            }
            (key.name.to_owned(), property)
        })
        .collect();
    let mut table =
        json!({ "type": "object", "additionalProperties": false, "properties": properties });
    let needed = keys.iter().filter(|key| key.needed.is_some());
    let needed: Vec<_> = needed.map(|key| key.name).collect();
    if !needed.is_empty() {
        table["required"] = json!(needed);
    }
    table
}

/// A schema under a name of its own, as several keys have it.
pub fn definition(shared: &mut Defs, name: &str, make: impl FnOnce(&mut Defs) -> Value) -> Value {
    if !shared.contains_key(name) {
        let schema = make(shared);
        shared.insert(name.to_owned(), schema);
    }
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// What holds where nobody writes a table with these keys.
pub fn defaults(keys: &[Key]) -> Option<Value> {
    let keys = keys.iter();
    let all: Map<_, _> = keys
        .filter_map(|key| Some((key.name.to_owned(), key.default.clone()?)))
        .collect();
    (!all.is_empty()).then(|| all.into())
}

/// Declares a table and its keys: `/// what it is`, `key: Notation = default, flags;`. Flags are `restart` (a reload does not take it),
/// `example(…)` (for the template, where there is no default) and `needed("what is wrong without it")`.
///
/// `then f(keys) -> { fields }` names the rule across keys, which is asked once all are read, and makes further fields. It sees
/// `None` for a key that is needed and cannot be used.
macro_rules! section {
    ($(#[doc = $about:literal])+
    pub struct $section:ident: $($derive:ident),+ $(; hint $hint:literal)? {
        $($(#[doc = $key_about:literal])+ $key:ident: $notation:ty $(= $default:tt)? $(, $flag:ident $(($($value:tt)*))?)*;)+
    }
    $(then $rule:ident($($argument:ident),*) $(-> { $($(#[$meta:meta])* $field:ident: $type:ty,)+ })?)?) => {
        $(#[doc = $about])+
        #[derive($($derive),+)]
        pub struct $section {
            $($(#[doc = $key_about])+ pub $key: <$notation as Notation>::Out,)+
            $($($($(#[$meta])* pub $field: $type,)+)?)?
        }

        impl $section {
            /// Reads the keys; those of `base` hold where there are none.
            #[allow(unused_mut)]
            pub(super) fn take(table: &mut $crate::config::reading::Table, base: Option<&Self>) -> Option<Self> {
                $(let mut $key = table.take::<$notation>(
                    &section!(@key $key, $notation, [$($key_about),+], [$($default)?], [$($flag $(($($value)*))?),*]),
                    base.map(|base| &base.$key),
                );)+
                $(let ($($($field,)+)?) = $rule(&table.at, $(&mut $argument),*)?;)?
                Some($section { $($key: $key?,)+ $($($($field,)+)?)? })
            }
        }

        impl Notation for $section {
            type Out = Self;

            fn read(value: &serde_json::Value, at: &$crate::config::reading::At) -> Option<Self> {
                let hint = [$($hint,)? "write its keys in a table of this name"][0];
                let mut table = $crate::config::reading::Table::open(value, at, hint)?;
                let out = Self::take(&mut table, None);
                table.finish();
                out
            }

            fn show(out: &Self, view: $crate::config::section::View) -> serde_json::Value {
                let mut map = serde_json::Map::new();
                $($crate::config::section::put::<$notation>(&mut map, stringify!($key), &out.$key, view);)+
                map.into()
            }

            fn schema(shared: &mut $crate::config::section::Defs) -> serde_json::Value {
                $crate::config::section::definition(shared, stringify!($section), |shared| {
                    let mut table = $crate::config::section::table(&Self::keys(), shared);
                    table["description"] = $crate::config::section::one_line(concat!($($about, "\n"),+)).into();
                    $(if let Some((name, constraint)) = <$notation as Notation>::constraint() {
                        table[name] = constraint;
                    })+
                    table
                })
            }

            fn keep(new: &mut Self, old: &Self, at: &str, kept: &mut Vec<String>) {
                $($crate::config::section::keep::<$notation>(
                    section!(@key $key, $notation, [$($key_about),+], [], [$($flag $(($($value)*))?),*]).restart,
                    &mut new.$key,
                    &old.$key,
                    &$crate::config::reading::join(at, stringify!($key)),
                    kept,
                );)+
            }

            fn keys() -> Vec<$crate::config::section::Key> {
                $crate::config::section::flatten([$((
                    <$notation as Notation>::FLAT,
                    section!(@key $key, $notation, [$($key_about),+], [$($default)?], [$($flag $(($($value)*))?),*]),
                )),+])
            }

            fn defaults() -> Option<serde_json::Value> {
                $crate::config::section::defaults(&Self::keys())
            }
        }
    };
    (@key $key:ident, $notation:ty, [$($about:literal),+], [$($default:tt)?], [$($flag:ident $(($($value:tt)*))?),*]) => {{
        #[allow(unused_mut)]
        let mut key = $crate::config::section::Key::of::<$notation>(stringify!($key), concat!($($about, "\n"),+));
        $(key.default = Some(serde_json::json!($default));)?
        $(section!(@flag key $flag $($($value)*)?);)*
        key
    }};
    (@flag $key:ident restart) => { $key.restart = true };
    (@flag $key:ident example $($value:tt)+) => { $key.example = Some(serde_json::json!($($value)+)) };
    (@flag $key:ident needed $message:literal) => { $key.needed = Some($message) };
}
pub(super) use section;
