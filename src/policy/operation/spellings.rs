//! For tests: paths that are written to be misread, and servers that misread them. It shares nothing with `readings`.

use percent_encoding::percent_decode_str;
use proptest::prelude::*;

/// How one server reads a path.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// How often it decodes before it splits.
    pub(crate) before: usize,
    /// And after.
    pub(crate) after: usize,
    /// What ends its paths.
    ends: Vec<char>,
    /// It drops what begins with `;` in each segment.
    drops_parameters: bool,
    backslash_is_slash: bool,
    trims: bool,
    /// The one segment that it looks at, counted from the end.
    pub(crate) segment: Option<usize>,
}

pub(crate) fn server() -> impl Strategy<Value = Server> {
    let ends = prop::sample::subsequence(vec!['?', '#', ';', ' ', ':', '&'], 0..=6);
    let of = (0usize..4, 0usize..3, ends, any::<[bool; 3]>());
    (of, prop::option::of(0usize..4)).prop_map(|((before, after, ends, flags), segment)| Server {
        before,
        after,
        ends,
        drops_parameters: flags[0],
        backslash_is_slash: flags[1],
        trims: flags[2],
        segment,
    })
}

fn decoded(text: &str, times: usize) -> String {
    (0..times).fold(text.to_owned(), |text, _| {
        percent_decode_str(&text).decode_utf8_lossy().into_owned()
    })
}

impl Server {
    /// What it takes for the operation.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        let text = decoded(path, self.before);
        let end = text.find(&*self.ends).unwrap_or(text.len());
        let slashes: &[char] = if self.backslash_is_slash {
            &['/', '\\']
        } else {
            &['/']
        };
        let mut segments: Vec<String> = Vec::new();
        for segment in text[..end].split(slashes) {
            let cut = segment.find(';').filter(|_| self.drops_parameters);
            let segment = &segment[..cut.unwrap_or(segment.len())];
            let segment = if self.trims { segment.trim() } else { segment };
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                _ => segments.push(decoded(segment, self.after).to_lowercase()),
            }
        }
        match self.segment {
            None => (!segments.is_empty()).then(|| segments.join("/")),
            Some(from_end) => segments.iter().rev().nth(from_end).cloned(),
        }
    }
}

/// This character, percent-encoded so many times over.
fn encoded(c: char, times: usize) -> String {
    match times {
        0 => c.to_string(),
        _ => format!("%{}{:02x}", "25".repeat(times - 1), u32::from(c)),
    }
}

fn piece() -> impl Strategy<Value = String> {
    let separator = prop::sample::select(vec![
        '/', '/', '\\', '?', '#', ';', '.', ' ', '%', '\n', '\0', '\t', '=', ':', '&',
    ]);
    let encoded = (separator, 0usize..4).prop_map(|(c, times)| encoded(c, times));
    let word = prop::sample::select(vec![
        "internal",
        "works.list",
        "works.x",
        "accounts.delete",
        "keyrings.authorize",
        "..",
        "a=b",
        "%u002f",
        "%c0%af",
        "%ef%bc%8f",
        "%25ef%25bc%258e",
    ]);
    prop_oneof![3 => encoded, 1 => word.prop_map(str::to_owned)]
}

/// Paths around this operation, with characters before, behind and in it that some server gives a meaning. Without a raw `?`, `#` or
/// space, because hyper ends the path there.
pub(crate) fn path(operation: &'static str) -> impl Strategy<Value = String> {
    let letters = prop::collection::vec((0usize..40, any::<bool>()), operation.len());
    let spelled = letters.prop_map(|how| {
        let letters = operation.chars().zip(how);
        let spell = |(c, (times, upper)): (char, (usize, bool))| {
            let c = if upper { c.to_ascii_uppercase() } else { c };
            encoded(c, if times > 3 { 0 } else { times })
        };
        letters.map(spell).collect::<String>()
    });
    let pieces = || prop::collection::vec(piece(), 0..5).prop_map(|pieces| pieces.concat());
    (pieces(), spelled, pieces()).prop_map(|(before, operation, after)| {
        format!("/{before}{operation}{after}").replace(['?', '#', ' ', '\n', '\t', '\0'], "")
    })
}
