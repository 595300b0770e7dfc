//! Reads the merged tree key by key. A problem does not end the reading, so that all of them are reported at once.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{
    CallerRules,
    places::{Part, Places, is_within},
    problem::Problem,
    quote,
    section::{Key, Notation},
};
use crate::types::Roots;

/// What reading a key needs from other keys, and what the reading collects.
#[derive(Default)]
pub struct Context<'a> {
    pub env: Option<&'a BTreeMap<String, String>>,
    /// Variables whose values are not UTF-8.
    pub unreadable: Option<&'a BTreeSet<String>>,
    /// The whole of what is read, to quote from it.
    pub tree: Option<&'a Value>,
    pub places: Arc<Places>,
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
            quotable: false,
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
    /// Whether problems may quote the value.
    quotable: bool,
    pub context: &'a Context<'a>,
}

impl<'a> Location<'a> {
    /// A name in this table, whose value may be anything.
    pub fn key(&self, key: &str) -> Location<'a> {
        Location {
            path: join(&self.path, key),
            quotable: false,
            context: self.context,
        }
    }

    /// A key that is declared.
    fn declared(&self, key: &Key) -> Location<'a> {
        Location {
            quotable: key.quotable,
            ..self.key(key.name)
        }
    }

    pub fn item(&self, number: usize) -> Location<'a> {
        Location {
            path: format!("{}[{number}]", self.path),
            quotable: self.quotable,
            context: self.context,
        }
    }

    /// Reports a problem of `key` in this table; of the value itself if `key` is empty. If the value may be quoted, it is the subject of the
    /// message.
    pub fn report(&self, key: &'static str, message: impl Into<String>) {
        let problem = self.problem(key, self.found(key), message.into());
        self.context.problems.borrow_mut().push(problem);
    }

    /// Reports a problem with what was found: a text that may be shown.
    pub fn report_found(
        &self,
        key: &'static str,
        found: Option<String>,
        message: impl Into<String>,
    ) {
        let problem = self.problem(key, found, message.into());
        self.context.problems.borrow_mut().push(problem);
    }

    /// Warns about `key` in this table; about the value itself if `key` is empty.
    pub fn warn(&self, key: &'static str, message: impl Into<String>) {
        self.warn_found(key, self.found(key), message);
    }

    pub fn warn_found(&self, key: &'static str, found: Option<String>, message: impl Into<String>) {
        let warning = self.problem(key, found, message.into());
        self.context.warnings.borrow_mut().push(warning);
    }

    fn problem(&self, key: &str, found: Option<String>, message: String) -> Problem {
        let path = join(&self.path, key);
        let origin = self.context.places.origin(&path, Part::Value);
        Problem {
            found,
            message,
            origin,
            ..Problem::new(path, "")
        }
    }

    /// The value of `key`, if it may be quoted.
    fn found(&self, key: &'static str) -> Option<String> {
        let quotable = match key.rsplit('.').next() {
            None | Some("") => self.quotable,
            // The name is one of ours, because it stands in the program.
            Some(name) => quote::is_quotable(name).unwrap_or(false),
        };
        let tree = self.context.tree.filter(|_| quotable)?;
        quote::value(find(tree, &join(&self.path, key))?)
    }

    /// Reports why the value cannot be used.
    pub fn reject<T>(&self, message: &str) -> Option<T> {
        self.report("", message);
        None
    }

    /// Rejects a value that is not written as it must be.
    pub fn malformed<T>(&self, value: &Value, message: &str) -> Option<T> {
        let found = quote::value(value).filter(|_| self.quotable);
        let found = found.unwrap_or_else(|| quote::kind(value).to_owned());
        self.report_found("", Some(found), message);
        None
    }

    /// Whether a problem was reported for `key`, or within it. Its value is then not that of the file.
    pub fn has_problem(&self, key: &str) -> bool {
        let path = join(&self.path, key);
        let problems = self.context.problems.borrow();
        problems
            .iter()
            .any(|problem| is_within(&problem.path, &path))
    }
}

/// The value at a path. Names may have dots in them.
pub(super) fn find<'a>(tree: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() {
        return Some(tree);
    }
    match tree {
        Value::Object(map) => map.iter().find_map(|(name, value)| {
            let rest = path.strip_prefix(name.as_str())?;
            let rest = match rest.strip_prefix('.') {
                Some(rest) => rest,
                None if rest.is_empty() || rest.starts_with('[') => rest,
                None => return None,
            };
            find(value, rest)
        }),
        Value::Array(items) => {
            let (number, rest) = path.strip_prefix('[')?.split_once(']')?;
            let rest = rest.strip_prefix('.').unwrap_or(rest);
            find(items.get(number.parse::<usize>().ok()?)?, rest)
        }
        _ => None,
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
            return at.malformed(value, &format!("must be a table; {hint}"));
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
                let read = |value| N::read(value, &self.at.declared(key));
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
            let hint = match nearest(key, self.known.iter().copied()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => "remove it or see `revgate schema`".to_owned(),
            };
            let path = join(&self.at.path, key);
            let context = self.at.context;
            context.problems.borrow_mut().push(Problem {
                origin: context.places.origin(&path, Part::Key),
                ..Problem::new(path, format!("unknown key; {hint}"))
            });
        }
    }
}

/// The name that was probably meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let ranked = known.map(|known| (strsim::damerau_levenshtein(known, name), known));
    let (distance, known) = ranked.min()?;
    (distance <= 1 + name.len() / 3).then_some(known)
}
