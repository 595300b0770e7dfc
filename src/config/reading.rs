//! Reading the merged tree key by key, so that every problem is found and none ends the search.

use std::{cell::RefCell, collections::BTreeMap, fmt, path::PathBuf};

use serde_json::{Map, Value};

use super::{
    CallerRules,
    section::{Key, Notation},
};
use crate::types::Roots;

/// One thing wrong in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, like `callers.billing.rate`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and what to do next; never a value, which might be a secret in the wrong place.
    pub message: String,
}

/// Everything wrong in the configuration, never empty as an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Problem { path, message }) in self.0.iter().enumerate() {
            let line = if i == 0 { "" } else { "\n" };
            let colon = if path.is_empty() { "" } else { ": " };
            write!(f, "{line}{path}{colon}{message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// What the reading of one key may need from elsewhere, and what the reading has found.
#[derive(Default)]
pub struct Context<'a> {
    pub env: Option<&'a BTreeMap<String, String>>,
    /// What holds for callers that do not say otherwise.
    pub rules: Option<CallerRules>,
    /// Of the upstream.
    pub roots: Option<Roots>,
    pub problems: RefCell<Vec<Problem>>,
    pub files: RefCell<Vec<PathBuf>>,
}

impl<'a> Context<'a> {
    pub fn root(&'a self) -> At<'a> {
        At {
            path: String::new(),
            context: self,
        }
    }
}

/// Reads what is known to be good, or what is reported elsewhere.
pub fn read_quietly<N: Notation>(value: &Value) -> Option<N::Out> {
    N::read(value, &Context::default().root())
}

/// Where a value stands.
pub struct At<'a> {
    path: String,
    pub context: &'a Context<'a>,
}

impl<'a> At<'a> {
    pub fn key(&self, key: &str) -> At<'a> {
        At {
            path: join(&self.path, key),
            context: self.context,
        }
    }

    pub fn item(&self, number: usize) -> At<'a> {
        At {
            path: format!("{}[{number}]", self.path),
            context: self.context,
        }
    }

    /// Reports what is wrong with `key` of this table, or, where it is empty, with the value here.
    pub fn problem(&self, key: &str, message: impl Into<String>) {
        let (path, message) = (join(&self.path, key), message.into());
        self.context
            .problems
            .borrow_mut()
            .push(Problem { path, message });
    }

    /// Reports what is wrong with the value here, which cannot be used.
    pub fn refuse<T>(&self, message: &str) -> Option<T> {
        self.problem("", message);
        None
    }

    /// Whether a problem of `key` was reported: then its value is not the one in the file.
    pub fn is_faulty(&self, key: &str) -> bool {
        let path = join(&self.path, key);
        let within = |found: &str| {
            found
                .strip_prefix(&path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let problems = self.context.problems.borrow();
        problems.iter().any(|problem| within(&problem.path))
    }
}

pub fn join(path: &str, key: &str) -> String {
    match (path, key) {
        ("", key) => key.to_owned(),
        (path, "") => path.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

/// A table being read. The keys that are left at the end are unknown.
pub struct Table<'a> {
    pub at: At<'a>,
    map: Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Table<'a> {
    pub fn open(value: &Value, at: &At<'a>, hint: &str) -> Option<Table<'a>> {
        let Value::Object(map) = value else {
            at.problem("", format!("must be a table; {hint}"));
            return None;
        };
        Some(Table {
            at: at.key(""),
            map: map.clone(),
            known: Vec::new(),
        })
    }

    /// The value of a key; else that of `base`, its default, or what holds without one.
    pub fn take<N: Notation>(&mut self, key: &Key, base: Option<&N::Out>) -> Option<N::Out> {
        let (out, found) = match N::FLAT {
            true => (self.flat::<N>(&key.keys), true),
            false => {
                self.known.push(key.name);
                let value = self.map.remove(key.name).filter(|value| !value.is_null());
                let out = value
                    .as_ref()
                    .map(|value| N::read(value, &self.at.key(key.name)));
                (out.flatten(), value.is_some())
            }
        };
        let default = || read_quietly::<N>(key.default.as_ref()?);
        let out = out.or_else(|| base.cloned()).or_else(default);
        let out = out.or_else(N::absent);
        if let (None, false, Some(message)) = (&out, found, key.needed) {
            self.at.problem(key.name, message);
        }
        out
    }

    fn flat<N: Notation>(&mut self, keys: &[Key]) -> Option<N::Out> {
        let mut part = Map::new();
        for key in keys {
            self.known.push(key.name);
            part.extend(self.map.remove_entry(key.name));
        }
        N::read(&Value::Object(part), &self.at)
    }

    pub fn finish(self) {
        for key in self.map.keys() {
            let distance = |known: &&'static str| strsim::damerau_levenshtein(known, key);
            let best = self
                .known
                .iter()
                .min_by_key(|known| (distance(known), **known));
            let hint = match best {
                Some(name) if distance(name) <= 1 + key.len() / 3 => {
                    format!("did you mean `{name}`?")
                }
                _ => "remove it or see `revgate schema`".to_owned(),
            };
            self.at.problem(key, format!("unknown key; {hint}"));
        }
    }
}
