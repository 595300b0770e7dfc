//! Reads the merged tree key by key. A problem does not end the reading, so that all of them are reported at once.

use std::{cell::RefCell, collections::BTreeMap, fmt, path::PathBuf};

use serde_json::{Map, Value};

use super::{
    CallerRules,
    section::{Key, Notation},
};
use crate::types::Roots;

/// One problem of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, such as `callers.billing.rate`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and what to do about it. Never quotes a value, which may be a misplaced secret.
    pub message: String,
}

/// All problems of the configuration; never empty when returned as an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let line = if i == 0 { "" } else { "\n" };
            write!(f, "{line}{problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { path, message } = self;
        let colon = if path.is_empty() { "" } else { ": " };
        write!(f, "{path}{colon}{message}")
    }
}

impl std::error::Error for Problems {}

/// What reading a key needs from other keys, and what the reading collects.
#[derive(Default)]
pub struct Context<'a> {
    pub env: Option<&'a BTreeMap<String, String>>,
    /// The rules of `[defaults]`.
    pub defaults: Option<CallerRules>,
    /// The value of `upstream.roots`.
    pub upstream_roots: Option<Roots>,
    pub problems: RefCell<Vec<Problem>>,
    /// What keeps nothing from being used.
    pub warnings: RefCell<Vec<Problem>>,
    pub files: RefCell<Vec<PathBuf>>,
}

impl<'a> Context<'a> {
    pub fn root(&'a self) -> Location<'a> {
        Location {
            path: String::new(),
            context: self,
        }
    }
}

/// Reads a value whose problems are impossible, or reported elsewhere.
pub(super) fn read_quietly<N: Notation>(value: &Value) -> Option<N::Out> {
    N::read(value, &Context::default().root())
}

/// The path of a value, and the context in which it is read.
pub struct Location<'a> {
    path: String,
    pub context: &'a Context<'a>,
}

impl<'a> Location<'a> {
    pub fn key(&self, key: &str) -> Location<'a> {
        Location {
            path: join(&self.path, key),
            context: self.context,
        }
    }

    pub fn item(&self, number: usize) -> Location<'a> {
        Location {
            path: format!("{}[{number}]", self.path),
            context: self.context,
        }
    }

    /// Reports a problem of `key` in this table; of the value itself if `key` is empty.
    pub fn report(&self, key: &str, message: impl Into<String>) {
        let (path, message) = (join(&self.path, key), message.into());
        let mut problems = self.context.problems.borrow_mut();
        problems.push(Problem { path, message });
    }

    /// Warns about `key` in this table; about the value itself if `key` is empty.
    pub fn warn(&self, key: &str, message: impl Into<String>) {
        let (path, message) = (join(&self.path, key), message.into());
        let mut warnings = self.context.warnings.borrow_mut();
        warnings.push(Problem { path, message });
    }

    /// Reports why the value cannot be used.
    pub fn reject<T>(&self, message: &str) -> Option<T> {
        self.report("", message);
        None
    }

    /// Whether a problem was reported for `key`, or within it. Its value is then not that of the file.
    pub fn has_problem(&self, key: &str) -> bool {
        let path = join(&self.path, key);
        let is_within = |problem: &Problem| {
            let rest = problem.path.strip_prefix(&path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.context.problems.borrow().iter().any(is_within)
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    match (path, key) {
        ("", key) => key.to_owned(),
        (path, "") => path.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

/// A table being read. Keys that nothing has read at the end are unknown.
pub(crate) struct Table<'a> {
    pub at: Location<'a>,
    map: Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Table<'a> {
    pub(crate) fn open(value: &Value, at: &Location<'a>, hint: &str) -> Option<Table<'a>> {
        let Value::Object(map) = value else {
            return at.reject(&format!("must be a table; {hint}"));
        };
        Some(Table {
            at: at.key(""),
            map: map.clone(),
            known: Vec::new(),
        })
    }

    /// The value of a key. If it is missing or unusable: that of `base`, else the default, else `N::if_missing`.
    pub(crate) fn read<N: Notation>(&mut self, key: &Key, base: Option<&N::Out>) -> Option<N::Out> {
        let (out, found) = match N::FLATTEN {
            true => (self.read_flattened::<N>(&key.keys), true),
            false => {
                self.known.push(key.name);
                let value = self.map.remove(key.name).filter(|value| !value.is_null());
                let read = |value| N::read(value, &self.at.key(key.name));
                (value.as_ref().and_then(read), value.is_some())
            }
        };
        let default = || read_quietly::<N>(key.default.as_ref()?);
        let out = out.or_else(|| base.cloned());
        let out = out.or_else(default).or_else(N::if_missing);
        if let (None, false, Some(message)) = (&out, found, key.required) {
            self.at.report(key.name, message);
        }
        out
    }

    fn read_flattened<N: Notation>(&mut self, keys: &[Key]) -> Option<N::Out> {
        let mut part = Map::new();
        for key in keys {
            self.known.push(key.name);
            part.extend(self.map.remove_entry(key.name));
        }
        N::read(&Value::Object(part), &self.at)
    }

    /// Reports the unknown keys.
    pub(crate) fn finish(self) {
        for key in self.map.keys() {
            let ranked = self.known.iter();
            let ranked = ranked.map(|known| (strsim::damerau_levenshtein(known, key), known));
            let hint = match ranked.min() {
                Some((distance, known)) if distance <= 1 + key.len() / 3 => {
                    format!("did you mean `{known}`?")
                }
                _ => "remove it or see `revgate schema`".to_owned(),
            };
            self.at.report(key, format!("unknown key; {hint}"));
        }
    }
}
