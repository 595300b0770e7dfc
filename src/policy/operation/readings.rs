//! What a path may name to a server: every way in which one may read it.
//!
//! RFC 3986 gives a path one meaning: `?` and `#` end it (section 3.3), the segments are split before escapes are decoded, and
//! nothing is decoded twice (section 2.4). Servers deviate. They decode before they split, or once for each hop; they take an encoded `?`,
//! `#` or `/` for a plain one, `\` for `/`; they drop what begins with `;`; they use the last segment alone, or look for one that they
//! know. So a path is judged by all of its readings, and the strictest verdict holds. What would open ever more readings and names
//! no operation is refused: control characters, dot segments, escapes within escapes within escapes.
//!
//! Two kinds of readings suffice for every verdict:
//!
//! - [`segments`](Readings::segments): what lies between any two characters that no operation's name has. Whatever a server takes for the
//!   operation, it is one of them or a run of them. They answer "does any reading name it?"
//! - [`wholes`](Readings::wholes): the shortest and the longest path that a server may see after each decoding. They answer "does every
//!   reading name it?"

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::super::target::TargetFault;

/// How often a path may be decoded. Deeper nesting is refused: no server decodes that often, and each round reads the whole path.
const DECODINGS: usize = 3;

/// Whether a name of an operation, or a pattern for one, can have this character.
fn is_of_names(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

/// Whether some server may end a path here, as at `?`, `#` and `;`, or at a space when it writes the path into another request.
fn may_end(c: char) -> bool {
    !is_of_names(c) && !SLASHES.contains(&c)
}

const SLASH: &[char] = &['/'];
const SLASHES: &[char] = &['/', '\\'];

/// All readings of one path, in lower case.
#[derive(Debug)]
pub struct Readings<'a> {
    /// Decoded once, or as it is if there is nothing to decode.
    first: Cow<'a, str>,
    /// Decoded further, or folded, if that makes a difference. The last one is both.
    further: Vec<String>,
}

impl<'a> Readings<'a> {
    /// # Errors
    /// The path has a reading that names no operation and that servers disagree about.
    pub fn of(path: &'a str) -> Result<Readings<'a>, TargetFault> {
        if is_plain(path.as_bytes()) {
            let upper = path.bytes().any(|b| b.is_ascii_uppercase());
            return Ok(Readings {
                first: if upper {
                    path.to_ascii_lowercase().into()
                } else {
                    path.into()
                },
                further: Vec::new(),
            });
        }
        let mut texts = spellings(path);
        let mut text = fold(path);
        let mut decodings = 0;
        while let Some(next) = decode(&text)? {
            if decodings == DECODINGS {
                return Err(TargetFault::NestedEscapes);
            }
            if decodings == 0 {
                texts.clear();
            }
            decodings += 1;
            text = fold(&next);
            texts.extend(spellings(&next));
        }
        // What has no escape stays in all further decodings, so the last one shows all there is.
        if text.chars().any(char::is_control) {
            return Err(TargetFault::ControlCharacter);
        }
        let dots = |segment: &str| segment == "." || segment == "..";
        if text.split(|c| !is_of_names(c)).any(dots) {
            return Err(TargetFault::DotSegment);
        }
        let mut texts = texts.into_iter();
        Ok(Readings {
            first: texts.next().unwrap_or(text).into(),
            further: texts.collect(),
        })
    }

    /// Of a name that has one reading.
    pub(super) fn of_name(name: &'a str) -> Readings<'a> {
        Readings {
            first: name.into(),
            further: Vec::new(),
        }
    }

    fn last(&self) -> &str {
        self.further.last().map_or(&*self.first, String::as_str)
    }

    /// Every segment that some reading has, in their order; without dots at its end, as some file systems have it.
    pub fn segments(&self) -> impl Iterator<Item = &str> + Clone {
        let segments = self.last().split(|c| !is_of_names(c));
        segments
            .map(|segment| segment.trim_end_matches('.'))
            .filter(|segment| !segment.is_empty())
    }

    /// Whole paths: after each decoding the longest, and the one that ends at the first character that may end it; each with `\` as
    /// a slash, and as any other character. Every other reading is between two of these.
    pub fn wholes(&self) -> impl Iterator<Item = Whole<'_>> {
        let texts = std::iter::once(&*self.first).chain(self.further.iter().map(String::as_str));
        let cut = texts.flat_map(|text| [Some(text), text.find(may_end).map(|end| &text[..end])]);
        cut.flatten().flat_map(|text| {
            let of = |slashes| Whole { text, slashes };
            let both = text.contains('\\').then(|| of(SLASHES));
            std::iter::once(of(SLASH)).chain(both)
        })
    }

    /// The one reading by which the operation is named: decoded, cut at `?` and `#`, each segment cut at its `;`, trimmed, without
    /// empty segments.
    pub(super) fn name(&self) -> String {
        let path = self.last().split(['?', '#']).next().unwrap_or_default();
        let mut name = String::with_capacity(path.len());
        for segment in path.split(['/', '\\']) {
            let segment = segment.split(';').next().unwrap_or_default().trim();
            if segment.is_empty() {
                continue;
            }
            if !name.is_empty() {
                name.push('/');
            }
            name.push_str(segment);
        }
        name
    }
}

/// One reading of a whole path.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    text: &'a str,
    slashes: &'static [char],
}

impl<'a> Whole<'a> {
    /// Its segments. Empty ones name nothing.
    pub fn segments(self) -> impl Iterator<Item = &'a str> + Clone {
        let segments = self.text.split(self.slashes);
        segments.filter(|segment| !segment.is_empty())
    }
}

/// Whether there is one reading, up to the case and empty segments: there are names and slashes alone, and no segment of dots. Reads the
/// path once.
fn is_plain(path: &[u8]) -> bool {
    let mut dots = 0;
    let mut others = false;
    for &b in path {
        match b {
            b'/' if dots > 0 && !others => return false,
            b'/' => (dots, others) = (0, false),
            b'.' => dots += 1,
            _ if is_of_names(b.into()) => others = true,
            _ => return false,
        }
    }
    dots == 0 || others
}

/// One round of percent-decoding (RFC 3986 section 2.1); `None` if it changes nothing.
fn decode(text: &str) -> Result<Option<String>, TargetFault> {
    if !text.contains('%') {
        return Ok(None);
    }
    // `%u002e` was never a standard, and decodes to a character for some servers only.
    let mut after = text.split("%u").skip(1);
    if after
        .any(|rest| rest.len() >= 4 && rest.bytes().take(4).all(|digit| digit.is_ascii_hexdigit()))
    {
        return Err(TargetFault::ForeignEscape);
    }
    // What is not UTF-8 may be the overlong form of a slash or a dot.
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| TargetFault::NotUtf8)?;
    Ok((decoded != text).then(|| decoded.into_owned()))
}

/// A text as servers read it, the last one folded. To most, what is not ASCII is no other spelling of what is: a full-width slash is none.
fn spellings(text: &str) -> Vec<String> {
    let (plain, folded) = (text.to_ascii_lowercase(), fold(text));
    match plain == folded {
        true => vec![folded],
        false => vec![plain, folded],
    }
}

/// Letters as servers compare them that do not care about case. Some that are not ASCII fold into it: the Kelvin sign is a `k`, and
/// full-width forms are the characters that they show.
fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0'..='\x7f' => folded.push(c.to_ascii_lowercase()),
            '\u{ff01}'..='\u{ff5e}' => {
                let plain = char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c);
                folded.push(plain.to_ascii_lowercase());
            }
            _ => folded.extend(c.to_uppercase().flat_map(char::to_lowercase)),
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(path: &str) -> Option<TargetFault> {
        Readings::of(path).err()
    }

    #[test]
    fn dot_segments_in_any_encoding() {
        #[rustfmt::skip]
        let bad = [
            "/..", "/.", "/a/../b", "/%2e%2E/b", "/.%2e/b", "/a%2f..", "/a%5C..%5cb", "/a/..%3bx/b", "/a/..;x/b",
            "/%252e%252e/b", "/%25252e", "/a/..%3fx/b", "/a/..%23", "/a/..%20/b", "/%ef%bc%8e./a",
        ];
        for path in bad {
            assert_eq!(fault(path), Some(TargetFault::DotSegment), "{path}");
        }
        #[rustfmt::skip]
        let good = ["/works.list", "/...", "/.well-known", "/a%20b", "/100%", "/a..b/c", "/a%25", "/caf%C3%A9", "/%zz", "/a%25b", "/"];
        for path in good {
            assert_eq!(fault(path), None, "{path}");
        }
    }

    #[test]
    fn what_servers_disagree_about_is_refused() {
        use TargetFault::{ControlCharacter, ForeignEscape, NestedEscapes, NotUtf8};
        #[rustfmt::skip]
        let table = [
            ("/works.list%00", ControlCharacter), ("/works.list%0a/x", ControlCharacter), ("/works.list%0D%0Ax", ControlCharacter),
            ("/works.list%2509", ControlCharacter), ("/%25257f", ControlCharacter), ("/%c2%85", ControlCharacter),
            ("/a%c0%afb", NotUtf8), ("/a%ffb", NotUtf8), ("/a%25c0%25afb", NotUtf8),
            ("/auth-tokens%u002ecreate", ForeignEscape), ("/%U0041", ForeignEscape), ("/%25u0041", ForeignEscape),
            ("/%252525252e", NestedEscapes), ("/%25252541", NestedEscapes),
        ];
        for (path, want) in table {
            assert_eq!(fault(path), Some(want), "{path}");
        }
        let deep = format!("/%{}2e", "25".repeat(20));
        assert_eq!(fault(&deep), Some(NestedEscapes));
    }

    #[test]
    fn the_readings_of_a_path() {
        // Its segments, and its whole readings.
        type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);
        let table: [Row<'_>; 12] = [
            ("/works.list", &["works.list"], &["works.list"]),
            ("//Works.LIST/", &["works.list"], &["works.list"]),
            (
                "/internal/works.list",
                &["internal", "works.list"],
                &["internal/works.list"],
            ),
            ("/works%2elist", &["works.list"], &["works.list"]),
            ("/a%3f/b", &["a", "b"], &["a?/b", "a"]),
            ("/a;x/b", &["a", "x", "b"], &["a;x/b", "a"]),
            ("/a%5cb", &["a", "b"], &["a\\b", "a/b"]),
            ("/a%2523b", &["a", "b"], &["a%23b", "a", "a#b", "a"]),
            ("/%20a.%20/b", &["a", "b"], &[" a. /b", ""]),
            ("/a:b,c", &["a", "b", "c"], &["a:b,c", "a"]),
            ("/%ef%bc%8fa", &["a"], &["\u{ff0f}a", "", "a"]),
            ("/", &[], &[""]),
        ];
        for (path, segments, wholes) in table {
            let readings = Readings::of(path).expect(path);
            assert_eq!(readings.segments().collect::<Vec<_>>(), segments, "{path}");
            let found: Vec<_> = readings
                .wholes()
                .map(|whole| whole.segments().collect::<Vec<_>>().join("/"))
                .collect();
            assert_eq!(found, wholes, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_dot_segment_passes(path in "(/|%2[fF]|%5[cC]|\\.|%2[eE]|%25|%3[bBfF]|2e|a|;){0,12}") {
            if fault(&path).is_none() {
                let mut text = path.clone();
                for _ in 0..16 {
                    let ends = |part: &str| part.split([';', '?', '#']).next().map(str::to_owned);
                    let mut parts = text.split(['/', '\\']).filter_map(ends);
                    prop_assert!(!parts.any(|part| part == "." || part == ".."), "{}", path);
                    text = percent_decode_str(&text).decode_utf8_lossy().into_owned();
                }
            }
        }

        #[test]
        fn one_scan_and_all_readings_agree(path in "[a-cA-C./%;?#2eF]{0,10}") {
            if is_plain(path.as_bytes()) {
                let readings = Readings::of(&path);
                prop_assert_eq!(readings.expect("plain").wholes().count(), 1);
                prop_assert!(decode(&path).expect("plain").is_none());
                let dots = |segment: &str| segment == "." || segment == "..";
                prop_assert!(!path.split('/').any(dots));
            }
        }
    }
}
