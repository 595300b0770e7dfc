//! Reading the merged tree key by key, so that every problem is found and none ends the search.

use std::{cell::RefCell, fmt, time::Duration};

use serde_json::{Map, Value};

use super::{TokenSource, units};

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

pub(super) type Sink = RefCell<Vec<Problem>>;

/// A table being read. What was not asked for by the end is unknown.
pub(super) struct Section<'a> {
    pub path: String,
    map: Map<String, Value>,
    known: Vec<&'static str>,
    sink: &'a Sink,
}

impl<'a> Section<'a> {
    pub fn new(path: String, value: Option<Value>, hint: &str, sink: &'a Sink) -> Self {
        let map = match value {
            None => Map::new(),
            Some(Value::Object(map)) => map,
            Some(_) => {
                sink.borrow_mut().push(Problem {
                    path: path.clone(),
                    message: format!("must be a table; {hint}"),
                });
                Map::new()
            }
        };
        Section {
            path,
            map,
            known: Vec::new(),
            sink,
        }
    }

    pub fn at(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub fn problem(&self, key: &str, message: impl Into<String>) {
        let path = if key.is_empty() {
            self.path.clone()
        } else {
            self.at(key)
        };
        self.sink.borrow_mut().push(Problem {
            path,
            message: message.into(),
        });
    }

    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.map.remove(key).filter(|v| !v.is_null())
    }

    pub fn section(&mut self, key: &'static str) -> Section<'a> {
        let value = self.take(key);
        Section::new(
            self.at(key),
            value,
            "write its keys in a table of this name",
            self.sink,
        )
    }

    /// The named tables below `key`, such as callers.
    pub fn named(&mut self, key: &'static str, hint: &str) -> Vec<(String, Section<'a>)> {
        let table = self.section(key);
        let path = table.path.clone();
        let open = |(name, value)| {
            let at = format!("{path}.{name}");
            (name, Section::new(at, Some(value), hint, self.sink))
        };
        table.map.into_iter().map(open).collect()
    }

    pub fn parse<T>(
        &mut self,
        key: &'static str,
        want: &str,
        f: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(key)?;
        let parsed = f(&value);
        if parsed.is_none() {
            self.problem(key, format!("is not valid; write {want}"));
        }
        parsed
    }

    pub fn string(&mut self, key: &'static str) -> Option<String> {
        self.parse(key, "a string that is not empty", |v| {
            v.as_str().filter(|s| !s.is_empty()).map(str::to_owned)
        })
    }

    pub fn duration(&mut self, key: &'static str) -> Option<Duration> {
        self.parse(
            key,
            "a duration such as \"30s\", \"250ms\" or \"5m\"",
            |v| units::duration(v.as_str()?),
        )
    }

    /// A duration where nothing would work with zero.
    pub fn timeout(&mut self, key: &'static str) -> Duration {
        let value = self.duration(key);
        if value == Some(Duration::ZERO) {
            self.problem(
                key,
                "is zero, so nothing would ever succeed; write a duration above zero",
            );
        }
        value.unwrap_or_default()
    }

    pub fn size(&mut self, key: &'static str) -> u64 {
        let want = "a size such as \"64KiB\", \"1MiB\" or \"10MB\", or a number of bytes";
        self.parse(key, want, |v| {
            v.as_u64().or_else(|| units::size(v.as_str()?))
        })
        .unwrap_or_default()
    }

    /// A whole number; the environment can only give it as text.
    pub fn number(&mut self, key: &'static str, min: u64, max: u64) -> Option<u64> {
        let want = format!("a whole number from {min} to {max}");
        let read = |v: &Value| v.as_u64().or_else(|| v.as_str()?.trim().parse().ok());
        self.parse(key, &want, |v| read(v).filter(|n| (min..=max).contains(n)))
    }

    pub fn count(&mut self, key: &'static str) -> usize {
        self.number(key, 1, 1 << 30).unwrap_or(1) as usize
    }

    pub fn share(&mut self, key: &'static str, max: f64) -> f64 {
        let want = format!("a number from 0 to {max}");
        let read = |v: &Value| v.as_f64().or_else(|| v.as_str()?.trim().parse().ok());
        self.parse(key, &want, |v| read(v).filter(|n| (0.0..=max).contains(n)))
            .unwrap_or_default()
    }

    pub fn bool(&mut self, key: &'static str) -> Option<bool> {
        self.parse(key, "true or false", |v| {
            v.as_bool().or_else(|| v.as_str()?.trim().parse().ok())
        })
    }

    /// A list of strings; the environment gives it with commas.
    pub fn list(
        &mut self,
        key: &'static str,
        want: &str,
        f: impl Fn(&str) -> Option<String>,
    ) -> Option<Vec<String>> {
        self.parse(key, want, |v| match v {
            Value::Array(items) => items.iter().map(|v| f(v.as_str()?)).collect(),
            Value::String(text) => text
                .split(',')
                .filter(|s| !s.is_empty())
                .map(|s| f(s.trim()))
                .collect(),
            _ => None,
        })
    }

    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<_> = choices.iter().map(|(n, _)| format!("\"{n}\"")).collect();
        let find = |v: &Value| {
            choices
                .iter()
                .find(|(n, _)| v.as_str() == Some(n))
                .map(|(_, t)| *t)
        };
        self.parse(key, &format!("one of {}", names.join(", ")), find)
    }

    pub fn unsupported(&mut self, key: &'static str) {
        if self.take(key).is_some() {
            self.problem(key, "is not supported by this version; remove it");
        }
    }

    /// A reference to a secret; a plain string is refused unseen.
    pub fn secret(&mut self, key: &'static str) -> Option<TokenSource> {
        let value = self.take(key)?;
        if !value.is_object() {
            self.problem(
                key,
                "must be a reference, not the secret itself; write { file = ... } or { env = ... }",
            );
            return None;
        }
        let mut inner = Section::new(self.at(key), Some(value), "", self.sink);
        let source = inner.source();
        inner.finish();
        source
    }

    /// One reference, or a list of two, each with its key.
    pub fn secrets(&mut self, key: &'static str) -> Vec<(String, TokenSource)> {
        let Some(Value::Array(items)) = self.map.get(key) else {
            let source = self.secret(key);
            return source
                .map(|source| (key.to_owned(), source))
                .into_iter()
                .collect();
        };
        let items = items.clone();
        self.take(key);
        if !(1..=2).contains(&items.len()) {
            self.problem(
                key,
                "is not valid; write one reference, or a list of two while a key is rotated",
            );
            return Vec::new();
        }
        let read = |(number, value): (usize, Value)| {
            let at = format!("{key}[{number}]");
            let hint = "write { file = ... } or { env = ... }, never the key itself";
            let mut inner = Section::new(self.at(&at), Some(value), hint, self.sink);
            let source = inner.source();
            inner.finish();
            Some((at, source?))
        };
        items.into_iter().enumerate().filter_map(read).collect()
    }

    pub fn source(&mut self) -> Option<TokenSource> {
        match (self.string("file"), self.string("env")) {
            (Some(file), None) => Some(TokenSource::File(file.into())),
            (None, Some(name)) => Some(TokenSource::Env(name)),
            _ => {
                self.problem(
                    "",
                    "needs exactly one of `file` and `env`; write { file = ... } or { env = ... }",
                );
                None
            }
        }
    }

    pub fn finish(self) {
        for key in self.map.keys() {
            let best = self
                .known
                .iter()
                .map(|k| (strsim::damerau_levenshtein(k, key), k))
                .min();
            let hint = match best {
                Some((distance, name)) if distance <= 1 + key.len() / 3 => {
                    format!("did you mean `{name}`?")
                }
                _ => "remove it or see `revgate schema`".to_owned(),
            };
            self.problem(key, format!("unknown key; {hint}"));
        }
    }
}
