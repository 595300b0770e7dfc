//! Where each key stands: the file and the position in it, or the variable that sets it. The merged tree knows neither.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    excerpt,
    problem::{Origin, Position, Problem, Problems},
    reading::join,
};

/// The places of a configuration's keys.
#[derive(Debug, Clone, Default)]
pub struct Places {
    file: Option<Arc<Path>>,
    keys: BTreeMap<String, Place>,
    /// Keys that variables set, and tables that come from variables alone, each with the variable.
    variables: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    key: Position,
    /// Of a table with a header, that of its name in the header.
    value: Position,
}

/// Which of the two is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Key,
    Value,
}

impl Places {
    /// Of the keys in this text.
    ///
    /// # Errors
    /// If the text is no TOML.
    pub(super) fn of(file: Option<&Path>, text: &str) -> Result<Places, Problems> {
        let file: Option<Arc<Path>> = file.map(Arc::from);
        let table = DeTable::parse(text).map_err(|error| {
            let span = excerpt::within(text, error.span());
            let position = span
                .as_ref()
                .map(|span| excerpt::position(text, span.start));
            Problems::from(Problem {
                message: format!("is not valid TOML: {}", reason(error.message())),
                origin: Origin::File {
                    file: file.clone(),
                    position,
                },
                excerpt: span.and_then(|span| excerpt::masked(text, &span)),
                ..Problem::default()
            })
        })?;
        let mut index = Index::new(text);
        index.table("", table.get_ref());
        Ok(Places {
            file,
            keys: index.keys,
            variables: Vec::new(),
        })
    }

    /// Adds a variable that sets this key, or all of this table.
    pub(super) fn add_variable(&mut self, path: &str, variable: &str) {
        self.variables.push((path.to_owned(), variable.to_owned()));
    }

    /// Where a value stands; where it is missing, where its table begins.
    pub(super) fn origin(&self, path: &str, part: Part) -> Origin {
        let set = self
            .variables
            .iter()
            .find(|(above, _)| is_within(path, above));
        if let Some((_, variable)) = set {
            return Origin::Variable(variable.clone());
        }
        let ends = path.rmatch_indices(['.', '[']).map(|(end, _)| end);
        let mut above = std::iter::once(path.len()).chain(ends);
        let position = above.find_map(|end| {
            let place = self.keys.get(&path[..end])?;
            let is_whole = end == path.len();
            Some(match part {
                Part::Key if is_whole => place.key,
                Part::Key | Part::Value => place.value,
            })
        });
        Origin::File {
            file: self.file.clone(),
            position,
        }
    }
}

/// The parser's reason, which quotes no value. It takes a word without quotes for a number that it cannot read.
fn reason(of_parser: &str) -> String {
    let unquoted = [
        "invalid float",
        "invalid integer",
        "invalid date",
        "leading zero",
        "must be quoted",
        "redundant numeric sign",
    ];
    let hint = match unquoted.iter().any(|known| of_parser.contains(known)) {
        true => "; write text in quotes",
        false => "",
    };
    format!("{of_parser}{hint}")
}

/// Whether the path is that of the key above, or of one in it.
pub(super) fn is_within(path: &str, above: &str) -> bool {
    let rest = path.strip_prefix(above);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

struct Index<'a> {
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    keys: BTreeMap<String, Place>,
}

impl<'a> Index<'a> {
    fn new(text: &'a str) -> Index<'a> {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Index {
            text,
            lines: std::iter::once(0).chain(ends).collect(),
            keys: BTreeMap::new(),
        }
    }

    fn position(&self, at: usize) -> Position {
        let line = self.lines.partition_point(|start| *start <= at);
        let start = self.lines[line - 1];
        let before = self.text.get(start..at).unwrap_or_default();
        Position {
            line,
            column: before.chars().count() + 1,
        }
    }

    fn table(&mut self, path: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let path = join(path, name.get_ref());
            let key = self.position(name.span().start);
            self.value(path, key, value);
        }
    }

    fn value(&mut self, path: String, key: Position, value: &Spanned<DeValue<'_>>) {
        let start = value.span().start;
        let begins = self.text.as_bytes().get(start).copied();
        let has_header = match value.get_ref() {
            DeValue::Table(_) => begins != Some(b'{'),
            // A list of tables begins with the first header.
            DeValue::Array(all) => all
                .iter()
                .any(|item| self.text.as_bytes().get(item.span().start) == Some(&b'[')),
            _ => false,
        };
        let place = match has_header {
            true => key,
            false => self.position(start),
        };
        match value.get_ref() {
            DeValue::Table(table) => self.table(&path, table),
            DeValue::Array(items) => {
                for (number, item) in items.iter().enumerate() {
                    let at = self.position(item.span().start);
                    self.value(format!("{path}[{number}]"), at, item);
                }
            }
            _ => {}
        }
        self.keys.insert(path, Place { key, value: place });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_place_and_a_missing_one_that_of_its_table() {
        let text = "[callers.billing]\nrate = \"5/s\"\n  allow = [\n    \"a.b\", \"ü.c\",\n  ]\nkey = { env = \"K\" }\n\
                    [callers.\"Shop.EU\"]\ntoken.x = 1\n[[rewrite]]\nmode = 'off'\n[[rewrite]]\nmode = 'on'\n[callers.billing.more]\nx = 1\n";
        let file = Path::new("/etc/revgate.toml");
        let mut places = Places::of(Some(file), text).unwrap();
        for (path, part, want) in [
            ("callers.billing.rate", Part::Value, Some((2, 8))),
            ("callers.billing.rate", Part::Key, Some((2, 1))),
            ("callers.billing.allow", Part::Value, Some((3, 11))),
            ("callers.billing.allow[0]", Part::Value, Some((4, 5))),
            ("callers.billing.allow[1]", Part::Value, Some((4, 12))),
            ("callers.billing.allow[7]", Part::Value, Some((3, 11))),
            ("callers.billing.key.env", Part::Value, Some((6, 15))),
            ("callers.billing.key.file", Part::Value, Some((6, 7))),
            ("callers.billing.burst", Part::Value, Some((1, 10))),
            ("callers.billing.burst", Part::Key, Some((1, 10))),
            ("callers.billing", Part::Value, Some((1, 10))),
            ("callers.Shop.EU.rate", Part::Value, Some((7, 10))),
            ("callers.Shop.EU.token.x", Part::Value, Some((8, 11))),
            ("rewrite[1].mode", Part::Value, Some((12, 8))),
            ("rewrite[1].rename", Part::Value, Some((11, 1))),
            ("callers.other", Part::Value, Some((1, 2))),
            ("listen.address", Part::Value, None),
            ("", Part::Value, None),
        ] {
            let want = Origin::File {
                file: Some(file.into()),
                position: want.map(|(line, column)| Position { line, column }),
            };
            assert_eq!(places.origin(path, part), want, "{path} {part:?}");
        }
        places.add_variable("callers.billing.rate", "REVGATE__CALLERS__BILLING__RATE");
        let Origin::Variable(name) = places.origin("callers.billing.rate", Part::Value) else {
            panic!("a variable sets it")
        };
        assert_eq!(name, "REVGATE__CALLERS__BILLING__RATE");
        assert!(matches!(
            places.origin("callers.billing", Part::Value),
            Origin::File { .. }
        ));
    }

    #[test]
    fn an_error_of_the_syntax_has_its_place_its_reason_and_its_line() {
        for (text, line, column, reason, excerpt) in [
            (
                "[listen]\naddress = 127.0.0.1:8080\n",
                2,
                16,
                "invalid float, expected nothing; write text in quotes",
                true,
            ),
            (
                "[callers.a]\nrate = 50/s\n",
                2,
                8,
                "; write text in quotes",
                true,
            ),
            (
                "[listen]\naddress = localhost\n",
                2,
                11,
                "string values must be quoted, expected literal string; write text in quotes",
                true,
            ),
            (
                "[listen]\naddress = \"127.0.0.1:8080\n",
                2,
                26,
                "invalid basic string",
                true,
            ),
            ("[listen\naddress = \"x\"\n", 1, 8, "unclosed table", true),
            (
                "[listen]\nmode = \"1\"\nmode = \"2\"\n",
                3,
                1,
                "duplicate key",
                true,
            ),
            ("[listen]\n[admin]\n[listen]\n", 3, 2, "duplicate key", true),
            ("a = [1\n", 1, 7, "unclosed array", true),
            ("a =\n", 1, 4, "value", true),
            ("= 1\n", 1, 1, "", true),
        ] {
            let problem = Places::of(None, text).unwrap_err().0.remove(0);
            let want = Origin::File {
                file: None,
                position: Some(Position { line, column }),
            };
            assert_eq!(problem.origin, want, "{problem}");
            assert!(
                problem.message.starts_with("is not valid TOML: "),
                "{problem}"
            );
            assert!(problem.message.contains(reason), "{problem}");
            assert_eq!(problem.excerpt.is_some(), excerpt, "{problem}");
        }
    }
}
