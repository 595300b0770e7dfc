//! The line of a file in which an error of the syntax is, with a mark below it.
//!
//! A line of the configuration may hold a secret, and its syntax is wrong, so no parser says which part of it. Of such a line stands in the
//! excerpt: marks of punctuation, known keys, names of sections, and the value that directly follows a key whose values may be quoted.

use std::ops::Range;

use super::{Config, environment::is_by_name, problem::Position, quote, section::Notation};
use crate::policy::key_strength::looks_random;

/// The most characters of a line; a longer one is no line that a person wrote.
const MOST: usize = 160;

/// Where in the text this octet is.
pub(crate) fn position(text: &str, at: usize) -> Position {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    Position { line, column }
}

/// What an error of the syntax is about. At the end of the text it is about what stands last.
pub(crate) fn within(text: &str, span: Option<Range<usize>>) -> Option<Range<usize>> {
    let span = span?;
    let end = text.trim_end().len();
    Some(span.start.min(end)..span.end.max(span.start).min(text.len()))
}

/// The line of a text without secrets, with a mark below the span.
pub(crate) fn plain(text: &str, span: &Range<usize>) -> Option<String> {
    let (line, marked) = line_of(text, span)?;
    let line = line.chars().map(printable).collect();
    render(position(text, span.start).line, line, marked)
}

/// The same of the configuration, without what may be a secret.
pub(super) fn masked(text: &str, span: &Range<usize>) -> Option<String> {
    let (line, marked) = line_of(text, span)?;
    let from = text[..span.start].rfind('\n').unwrap_or(0);
    let mut mask = Mask::of(section(&text[..from]));
    mask.read(line);
    let start = mask.column_of(marked.start);
    let end = mask.column_of(marked.end).max(start + 1);
    render(position(text, span.start).line, mask.out, start..end)
}

/// The line in which the span begins, and the part of it, in characters.
fn line_of<'a>(text: &'a str, span: &Range<usize>) -> Option<(&'a str, Range<usize>)> {
    let before = text.get(..span.start)?;
    let from = before.rfind('\n').map_or(0, |at| at + 1);
    let line = text[from..].lines().next().unwrap_or_default();
    let column = text[from..span.start].chars().count();
    let all = line.chars().count();
    let length = text
        .get(span.clone())
        .map_or(0, |part| part.chars().count());
    let end = (column + length.max(1)).min(all.max(column + 1));
    (!line.trim().is_empty() && all <= MOST).then_some((line, column..end))
}

fn render(number: usize, line: String, marked: Range<usize>) -> Option<String> {
    let line = line.trim_end();
    let number = number.to_string();
    let gutter = " ".repeat(number.len());
    let (before, mark) = (" ".repeat(marked.start), "^".repeat(marked.len()));
    (!line.is_empty()).then(|| format!("{gutter} |\n{number} | {line}\n{gutter} | {before}{mark}"))
}

/// One column wide, so that the mark is below what it means.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// The section in which a line stands that follows this text. That of an unknown one has no keys.
fn section(above: &str) -> Vec<String> {
    let last = above
        .lines()
        .rev()
        .find(|line| line.trim_start().starts_with('['));
    last.map_or_else(Vec::new, |line| {
        header(line).unwrap_or_else(|| vec![String::new()])
    })
}

/// The path in the header of a section that there is.
fn header(line: &str) -> Option<Vec<String>> {
    let names = line.trim_start().strip_prefix('[')?;
    let names = names.strip_prefix('[').unwrap_or(names);
    let end = names.find([']', '#', '=', ',']).unwrap_or(names.len());
    let (mut path, mut quote) = (vec![String::new()], None);
    for c in names[..end].chars() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(begun)) if c == begun => quote = None,
            ('.', None) => path.push(String::new()),
            (c, None) if c.is_whitespace() => {}
            (c, _) => path.last_mut()?.push(c),
        }
    }
    let section = Config::keys().into_iter().find(|key| key.name == path[0]);
    section.map(|_| path)
}

/// Whether the key at this path is declared, and its values may be quoted. A name that the operator chose may be that of a key too.
fn is_quotable(path: &[String]) -> bool {
    let mut keys = Config::keys();
    let mut names = path.iter();
    while let Some(name) = names.next() {
        let Some(key) = keys.into_iter().find(|key| key.name == name) else {
            return false;
        };
        if is_by_name(Some(&key)) {
            names.next();
        }
        if names.len() == 0 {
            return key.quotable && key.keys.is_empty();
        }
        keys = key.keys;
    }
    false
}

/// A line as it is read for an excerpt.
#[derive(Default)]
struct Mask {
    out: String,
    /// For each character of the line, its column in `out`.
    columns: Vec<usize>,
    /// Whether the next value may be shown.
    shows: bool,
    /// How many lists are open.
    lists: usize,
    /// Whether the next word may be a key.
    at_key: bool,
    /// The paths of the tables that are open: the section, and those in braces.
    tables: Vec<Vec<String>>,
    /// The path of the last key.
    last: Vec<String>,
}

impl Mask {
    /// Of a line in this section.
    fn of(section: Vec<String>) -> Mask {
        Mask {
            tables: vec![section],
            ..Mask::default()
        }
    }

    fn column_of(&self, column: usize) -> usize {
        let end = self.out.chars().count();
        self.columns.get(column).copied().unwrap_or(end)
    }

    /// Takes a part of the line as it is.
    fn copy(&mut self, part: &str) {
        let column = self.out.chars().count();
        self.out.extend(part.chars().map(printable));
        self.columns.extend(column..self.out.chars().count());
    }

    /// Takes a part without showing it.
    fn hide(&mut self, part: &str) {
        if !part.is_empty() {
            let column = self.out.chars().count();
            self.columns.extend(part.chars().map(|_| column));
            self.out.push('…');
        }
    }

    fn read(&mut self, line: &str) {
        self.at_key = true;
        let indent = line.len() - line.trim_start().len();
        self.copy(&line[..indent]);
        let mut rest = self.header(&line[indent..]);
        while let Some(c) = rest.chars().next() {
            let length = match c {
                '#' => {
                    self.copy("#");
                    self.hide(&rest[1..]);
                    return;
                }
                '"' | '\'' => self.text(rest, c),
                c if c.is_whitespace() => self.mark(c),
                '=' | '[' | ']' | '{' | '}' | ',' => {
                    self.punctuation(c);
                    self.mark(c)
                }
                _ => self.word(rest),
            };
            rest = &rest[length..];
        }
    }

    fn mark(&mut self, c: char) -> usize {
        self.copy(c.encode_utf8(&mut [0; 4]));
        c.len_utf8()
    }

    /// Takes the header of a section that there is. Returns what follows it.
    fn header<'a>(&mut self, line: &'a str) -> &'a str {
        let Some(path) = header(line).filter(|path| !path.iter().any(|name| looks_random(name)))
        else {
            return line;
        };
        self.tables = vec![path];
        let names = line.trim_start_matches('[');
        let end = names.find([']', '"', '\'', '#', '=', ',']);
        let (header, rest) = line.split_at(line.len() - names.len() + end.unwrap_or(names.len()));
        self.copy(header);
        self.at_key = false;
        rest
    }

    fn punctuation(&mut self, c: char) {
        match c {
            '[' => self.lists += 1,
            ']' => {
                self.lists = self.lists.saturating_sub(1);
                self.shows &= self.lists > 0;
            }
            '{' => {
                self.shows = false;
                self.tables.push(std::mem::take(&mut self.last));
            }
            '}' => {
                self.shows = false;
                self.tables.pop();
            }
            _ => {}
        }
        self.at_key = c == '{' || (c == ',' && self.lists == 0);
        self.shows &= c != ',' || self.lists > 0;
    }

    /// After a value there is none that belongs to the same key, except in a list.
    fn value(&mut self, part: &str) {
        let is_plain = !looks_random(part) && !part.contains(['@', '?']);
        match self.shows && is_plain {
            true => self.copy(part),
            false => self.hide(part),
        }
        self.shows &= self.lists > 0;
        self.at_key = false;
    }

    /// What stands in quotes.
    fn text(&mut self, rest: &str, quote: char) -> usize {
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = *c == '\\' && quote == '"' && !escaped;
            ends
        });
        let end = end.map_or(rest.len(), |(at, _)| at);
        self.mark(quote);
        self.value(&rest[1..end]);
        if end < rest.len() {
            self.mark(quote);
        }
        (end + 1).min(rest.len())
    }

    /// What stands without quotes: a key, or a value.
    fn word(&mut self, rest: &str) -> usize {
        let ends = |c: char| c.is_whitespace() || "=[]{},\"'#".contains(c);
        let length = rest.find(ends).unwrap_or(rest.len());
        let word = &rest[..length];
        let is_key = self.at_key && rest[length..].trim_start().starts_with('=');
        if !is_key {
            self.value(word);
            return length;
        }
        self.at_key = false;
        self.last = self.tables.last().cloned().unwrap_or_default();
        for (number, name) in word.split('.').enumerate() {
            if number > 0 {
                self.copy(".");
            }
            match quote::is_quotable(name) {
                Some(_) => self.copy(name),
                None => self.hide(name),
            }
            self.last.push(name.to_owned());
        }
        self.shows = is_quotable(&self.last);
        length
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked_line(line: &str) -> String {
        let (section, line) = line.rsplit_once('\n').unwrap_or(("[callers.a]", line));
        let mut mask = Mask::of(super::section(section));
        mask.read(line);
        assert_eq!(mask.columns.len(), line.chars().count(), "{line}");
        mask.out
    }

    #[test]
    fn a_line_shows_what_is_no_secret() {
        for (line, want) in [
            ("rate = 50/s", "rate = 50/s"),
            ("rate = \"50/s", "rate = \"50/s"),
            ("  rate = '50/s' x", "  rate = '50/s' …"),
            ("rate = \"50/s\" token = \"t\"", "rate = \"50/s\" … = \"…\""),
            ("allow = [\"a.b\" \"c.d\"]", "allow = [\"a.b\" \"c.d\"]"),
            ("token = dr_pat_1", "token = …"),
            ("token = \"dr_pat_1\" # the old one", "token = \"…\" #…"),
            (
                "key = { env = \"A\" file = \"b\" }",
                "key = { env = \"…\" … = \"…\" }",
            ),
            (
                "[upstream]\ncircuit = { failures = 3, open 5s }",
                "circuit = { failures = 3, … … }",
            ),
            ("key_sha256 = [\"a\", 'b']", "key_sha256 = [\"…\", '…']"),
            ("[callers.billing", "[callers.billing"),
            ("[[rewrite] # x", "[[rewrite] #…"),
            ("[callers.\"a b\"", "[callers.\"…\""),
            ("[s3cr3t]", "[…]"),
            ("s3cr3t", "…"),
            ("s3cr3t==", "…=="),
            ("tokens.main = \"x\"", "tokens.… = \"…\""),
            // Names that the operator chose.
            ("[tokens]\nrate = s3cr3t", "rate = …"),
            ("[callers]\nrate = s3cr3t", "rate = …"),
            ("[log]\n[x]\nlevel = s3cr3t", "level = …"),
            ("\ncallers.rate = s3cr3t", "callers.rate = …"),
            ("\ncallers.rate.rate = 5/s", "callers.rate.rate = 5/s"),
            (
                "[callers]\nb = { rate = 5 weight = { x = 1, rate = 2",
                "… = { rate = 5 … = { … = …, rate = …",
            ),
            ("[tokens.\"a.rate\"]\nrate = s3cr3t", "rate = …"),
            ("[upstream]\nurl = \"http://u:p@h", "url = \"…"),
            ("[upstream]\nurl = \"http://h", "url = \"http://h"),
            (
                "[log]\nlevel = q3Zr8VtN1yLk0sXhB7mWfJ2pUe5GcD9a",
                "level = …",
            ),
            ("rate\t= \"a\\\"b\" c", "rate = \"a\\\"b\" …"),
        ] {
            assert_eq!(masked_line(line), want, "{line}");
        }
    }

    #[test]
    fn the_mark_is_below_what_it_means() {
        let text = "[callers.a]\ntoken = \"abc\" rate = 50/s\n";
        let at = text.find("rate").unwrap();
        assert_eq!(
            position(text, at),
            Position {
                line: 2,
                column: 15
            }
        );
        let want = "  |\n2 | token = \"…\" … = …\n  |             ^";
        assert_eq!(masked(text, &(at..at + 4)).unwrap(), want);
        let want = "  |\n2 | token = \"abc\" rate = 50/s\n  |               ^^^^";
        assert_eq!(plain(text, &(at..at + 4)).unwrap(), want);
        // At the end of the text.
        let span = within(text, Some(text.len()..text.len())).unwrap();
        assert_eq!(
            position(text, span.start),
            Position {
                line: 2,
                column: 26
            }
        );
        let want = "  |\n2 | token = \"…\" … = …\n  |                  ^";
        assert_eq!(masked(text, &span).unwrap(), want);
        assert_eq!(masked("", &(0..0)), None);
        assert_eq!(masked(&"x".repeat(200), &(0..1)), None);
    }

    proptest! {
        /// Wherever a secret stands, except as a part of a name.
        #[test]
        fn no_line_shows_a_secret(
            before in "[a-z =\\[\\]{}\",'#]{0,12}",
            key in prop::sample::select(vec!["token = ", "key = { env = ", "key_sha256 = [", "file = ", "headers = { x = ", "# ", "\"", ""]),
            quote in prop::sample::select(vec!["\"", "'", "", "\"\"\""]),
            after in "[a-z =\\[\\]{}\",'#]{0,12}",
        ) {
            const SECRET: &str = "s3cr3t-007";
            let line = format!("{before}\n{key}{quote}{SECRET}{quote}{after}");
            let at = line.find(SECRET).unwrap();
            let excerpt = masked(&line, &(at..at + 1));
            prop_assert!(!excerpt.clone().unwrap_or_default().contains("s3cr3t"), "{line}\n{excerpt:?}");
        }

        #[test]
        fn any_line_is_read(line in "\\PC{0,40}", start in 0..40_usize, length in 0..40_usize) {
            let mut mask = Mask::of(Vec::new());
            mask.read(&line);
            prop_assert_eq!(mask.columns.len(), line.chars().count());
            if line.is_char_boundary(start) {
                masked(&line, &(start..start + length));
                plain(&line, &(start..start + length));
            }
        }
    }
}
