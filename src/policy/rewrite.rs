//! Renames deprecated keys of a JSON object and changes no other byte.
//!
//! ```
//! use revgate::policy::rewrite::{Mode, Rewritten, Rule, rewrite};
//!
//! let rule = Rule {
//!     rename: vec![("user_don".into(), "id".into())],
//!     mode: Mode::Rewrite,
//!     link: None,
//! };
//! let Ok(Rewritten::Changed { body, fields }) = rewrite(br#"{"user_don": 1.50, "x":2}"#, &rule) else {
//!     panic!("it has a deprecated key");
//! };
//! assert_eq!(body, br#"{"id": 1.50, "x":2}"#);
//! assert_eq!(fields, ["user_don"]);
//! ```

mod equality;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::value::RawValue;
use thiserror::Error;

use self::equality::{Document, Meter, same};
use crate::label::label_enum;

label_enum! {
    /// What to do about deprecated keys.
    pub enum Mode {
        /// Nothing; the body need not be read.
        Off = "off",
        /// Report them and leave them.
        Report = "report",
        /// Rename them.
        Rewrite = "rewrite",
        /// Refuse the request.
        Refuse = "refuse",
    }
}

/// Which keys are deprecated, and their new names. All renames apply at once: `a` to `b` and `b` to `c` do not chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Old name, new name.
    pub rename: Vec<(String, String)>,
    pub mode: Mode,
    /// The value of `Link` to their documentation (RFC 9745 section 3).
    pub link: Option<HeaderValue>,
}

/// Why a rule does not apply to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The method has no body.
    Method,
    /// The body cannot be read.
    Unreadable(Unreadable),
}

label_enum! {
    /// Why a body cannot be read.
    pub enum Unreadable {
        /// It is compressed.
        Coding = "content_encoding",
        /// It is not JSON.
        MediaType = "content_type",
    }
}

/// Why rules do not apply to such a request; `None` if they do.
pub fn skip(method: &Method, headers: &HeaderMap) -> Option<Skip> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Some(Skip::Method);
    }
    let coding = headers.get(header::CONTENT_ENCODING);
    if coding.is_some_and(|coding| coding != "identity") {
        return Some(Skip::Unreadable(Unreadable::Coding));
    }
    // DevRev accepts JSON only, so that is the default.
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().unwrap_or("");
    let essence = kind.split(';').next().unwrap_or("").trim();
    let essence = essence.to_ascii_lowercase();
    (essence != "application/json" && !essence.ends_with("+json"))
        .then_some(Skip::Unreadable(Unreadable::MediaType))
}

/// A body after a rule was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewritten {
    /// It has no deprecated key.
    Unchanged,
    /// It has deprecated keys, which stay.
    Seen {
        /// Their names, in the body's order.
        fields: Vec<String>,
    },
    /// Its deprecated keys were renamed.
    Changed {
        /// The new body.
        body: Vec<u8>,
        /// The old names, in the body's order.
        fields: Vec<String>,
    },
}

/// Why a body is not forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RewriteFault {
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// Not one JSON text (RFC 8259): a byte order mark, trailing bytes and invalid UTF-8 included.
    #[error("the body is not valid JSON")]
    Malformed,
    /// Servers use different values of a repeated key (RFC 8259 section 4).
    #[error("the key {0:?} appears twice")]
    RepeatedKey(String),
    #[error("{old:?} and its replacement {new:?} have different values")]
    Conflict { old: String, new: String },
    /// A deprecated key, in mode "refuse".
    #[error("the field {field:?} is deprecated")]
    Deprecated { field: String },
}

/// Applies a rule to a body.
///
/// Each byte of the body is read, hashed, compared and copied a fixed number of times at most, whatever its shape, and nothing
/// recurses. Each name is also compared with each old name of the rule.
///
/// # Errors
///
/// See [`RewriteFault`]. The whole body is always parsed, because how DevRev reads a malformed one is unknown.
pub fn rewrite(body: &[u8], rule: &Rule) -> Result<Rewritten, RewriteFault> {
    rewrite_metered(body, rule, &mut ())
}

fn rewrite_metered(
    body: &[u8],
    rule: &Rule,
    meter: &mut impl Meter,
) -> Result<Rewritten, RewriteFault> {
    let members = parse(body, rule, meter)?;
    let fields: Vec<String> = members
        .iter()
        .filter(|member| member.replacement.is_some())
        .map(|member| member.name.to_string())
        .collect();
    let Some(first) = fields.first() else {
        return Ok(Rewritten::Unchanged);
    };
    match rule.mode {
        Mode::Off => Ok(Rewritten::Unchanged),
        Mode::Report => Ok(Rewritten::Seen { fields }),
        Mode::Refuse => Err(RewriteFault::Deprecated {
            field: first.clone(),
        }),
        Mode::Rewrite => {
            let actions = actions(&members, meter)?;
            let body = apply(body, &members, &actions);
            meter.work(body.len());
            Ok(Rewritten::Changed { body, fields })
        }
    }
}

struct Member<'a> {
    name: Cow<'a, str>,
    /// The new name, for a deprecated key.
    replacement: Option<&'a str>,
    key: Range<usize>,
    value: &'a RawValue,
    /// Where the value ends.
    end: usize,
}

#[derive(Clone, Copy)]
enum Action<'r> {
    Keep,
    Rename(&'r str),
    Drop,
}

fn replacement<'r>(rule: &'r Rule, name: &str) -> Option<&'r str> {
    let (old, new) = rule.rename.iter().find(|(old, _)| old == name)?;
    (old != new).then_some(new)
}

fn parse<'a>(
    body: &'a [u8],
    rule: &'a Rule,
    meter: &mut impl Meter,
) -> Result<Vec<Member<'a>>, RewriteFault> {
    meter.work(body.len());
    let text = std::str::from_utf8(body).map_err(|_| RewriteFault::Malformed)?;
    let object = text
        .trim_start_matches([' ', '\t', '\r', '\n'])
        .starts_with('{');
    if !object {
        return match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => Err(RewriteFault::NotAnObject),
            Err(_) => Err(RewriteFault::Malformed),
        };
    }
    let Pairs(pairs) = serde_json::from_str(text).map_err(|_| RewriteFault::Malformed)?;
    // `part` is a slice of `text`, so the difference of the addresses is its position.
    let position = |part: &str| part.as_ptr() as usize - text.as_ptr() as usize;
    let mut seen = HashSet::with_capacity(pairs.len());
    let mut members = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let name = unescape(key.get())?;
        meter.work(key.get().len());
        if !seen.insert(name.clone()) {
            return Err(RewriteFault::RepeatedKey(name.into_owned()));
        }
        let start = position(key.get());
        members.push(Member {
            replacement: replacement(rule, &name),
            name,
            key: start..start + key.get().len(),
            value,
            end: position(value.get()) + value.get().len(),
        });
    }
    Ok(members)
}

fn unescape(key: &str) -> Result<Cow<'_, str>, RewriteFault> {
    match key.strip_prefix('"').and_then(|key| key.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Ok(Cow::Borrowed(plain)),
        _ => serde_json::from_str(key)
            .map(Cow::Owned)
            .map_err(|_| RewriteFault::Malformed),
    }
}

/// Decides what to do with each member.
fn actions<'a>(
    members: &[Member<'a>],
    meter: &mut impl Meter,
) -> Result<Vec<Action<'a>>, RewriteFault> {
    // All members that end up with the same name: those renamed to it, and the one that has it already, unless it is renamed itself.
    let mut rivals = BTreeMap::<&str, Vec<usize>>::new();
    for (at, member) in members.iter().enumerate() {
        if let Some(new) = member.replacement {
            rivals.entry(new).or_default().push(at);
        }
    }
    for (at, member) in members.iter().enumerate() {
        meter.work(1);
        if member.replacement.is_none()
            && let Some(rivals) = rivals.get_mut(&*member.name)
        {
            rivals.push(at);
        }
    }
    let mut actions = vec![Action::Keep; members.len()];
    for (new, rivals) in rivals {
        let winner = winner(members, &rivals, new);
        let kept = &members[winner];
        if kept.name != new {
            actions[winner] = Action::Rename(new);
        }
        // Read once, however many rivals there are.
        let mut document = None;
        for at in rivals.into_iter().filter(|&at| at != winner) {
            let rival = &members[at];
            if !is_null(rival.value) && !same_values(rival, kept, &mut document, meter) {
                return Err(RewriteFault::Conflict {
                    old: rival.name.to_string(),
                    new: new.to_owned(),
                });
            }
            actions[at] = Action::Drop;
        }
    }
    Ok(actions)
}

fn same_values<'a>(
    rival: &Member<'a>,
    kept: &Member<'a>,
    document: &mut Option<Document<'a>>,
    meter: &mut impl Meter,
) -> bool {
    let (rival, kept) = (rival.value.get(), kept.value.get());
    if rival.len() == kept.len() {
        meter.work(kept.len());
    }
    if rival == kept {
        return true;
    }
    let kept = document.get_or_insert_with(|| Document::read(kept, meter));
    same(&Document::read(rival, meter), kept, meter)
}

/// The member to keep: a value before null, and then the one with the new name.
fn winner(members: &[Member<'_>], rivals: &[usize], new: &str) -> usize {
    let rank = |&&at: &&usize| (is_null(members[at].value), members[at].name != new);
    rivals.iter().min_by_key(rank).copied().unwrap_or_default()
}

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// Copies the body, with keys renamed and members dropped.
fn apply(body: &[u8], members: &[Member<'_>], actions: &[Action<'_>]) -> Vec<u8> {
    let kept = |action: &Action<'_>| !matches!(action, Action::Drop);
    // A dropped member takes along the comma behind it. Those at the end have none, and take the comma before.
    let last = actions.iter().rposition(kept).unwrap_or_default();
    let mut out = Vec::with_capacity(body.len() + 16);
    let mut from = 0;
    for (at, (member, action)) in members.iter().zip(actions).enumerate() {
        match action {
            Action::Keep => {}
            Action::Rename(new) => {
                out.extend_from_slice(&body[from..member.key.start]);
                out.extend_from_slice(serde_json::Value::from(*new).to_string().as_bytes());
                from = member.key.end;
            }
            Action::Drop if at < last => {
                out.extend_from_slice(&body[from..member.key.start]);
                from = members[at + 1].key.start;
            }
            Action::Drop => {
                // The first of the dropped members at the end copies up to the last member kept, the others copy nothing.
                let end = members[last].end.max(from);
                out.extend_from_slice(&body[from..end]);
                from = member.end;
            }
        }
    }
    out.extend_from_slice(&body[from..]);
    out
}

/// An object's members in order, as slices of the text.
struct Pairs<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;
    use crate::label::assert_labels;

    fn rule(rename: &[(&str, &str)], mode: Mode) -> Rule {
        let rename = rename
            .iter()
            .map(|(old, new)| ((*old).into(), (*new).into()));
        Rule {
            rename: rename.collect(),
            mode,
            link: None,
        }
    }

    const RENAME: [(&str, &str); 2] = [("rev_org_don", "rev_org"), ("user_don", "id")];

    fn rewritten(body: impl AsRef<[u8]>, mode: Mode) -> Result<Rewritten, RewriteFault> {
        rewrite(body.as_ref(), &rule(&RENAME, mode))
    }

    fn changed(body: &str) -> String {
        match rewritten(body, Mode::Rewrite) {
            Ok(Rewritten::Changed { body, .. }) => String::from_utf8(body).unwrap(),
            other => panic!("{body}: {other:?}"),
        }
    }

    fn fault(body: impl AsRef<[u8]>) -> RewriteFault {
        rewritten(body, Mode::Rewrite).unwrap_err()
    }

    #[test]
    fn labels_are_as_documented() {
        assert_labels!(Unreadable: "content_encoding" "content_type");
    }

    #[test]
    fn a_key_is_renamed_in_place() {
        assert_eq!(
            changed(" { \"x\" : 1.10e400 ,\n\"user_don\":\t\"U\", \"y\":[ ] } "),
            " { \"x\" : 1.10e400 ,\n\"id\":\t\"U\", \"y\":[ ] } "
        );
        assert_eq!(changed(r#"{"rev\u005forg_don":"R"}"#), r#"{"rev_org":"R"}"#);
    }

    #[test]
    fn nothing_to_rename_is_nothing_changed() {
        for body in ["{}", r#"{"id":"user_don"}"#, r#"{"x":{"user_don":1}}"#] {
            assert_eq!(rewritten(body, Mode::Rewrite), Ok(Rewritten::Unchanged));
        }
    }

    #[test]
    fn equal_values_drop_the_old_key_with_its_comma() {
        for (body, want) in [
            (r#"{"user_don":"U", "id":"U"}"#, r#"{"id":"U"}"#),
            (r#"{"id":"U", "user_don":"\u0055"}"#, r#"{"id":"U"}"#),
            (r#"{"id":1,"user_don":1 ,"x":2}"#, r#"{"id":1,"x":2}"#),
            (
                r#"{"id":1,"rev_org":2,"user_don":1,"rev_org_don":2 }"#,
                r#"{"id":1,"rev_org":2 }"#,
            ),
        ] {
            assert_eq!(changed(body), want);
        }
    }

    #[test]
    fn null_gives_way() {
        assert_eq!(changed(r#"{"user_don":"U","id":null}"#), r#"{"id":"U"}"#);
        assert_eq!(changed(r#"{"user_don":null,"id":"U"}"#), r#"{"id":"U"}"#);
        assert_eq!(changed(r#"{"user_don":null,"id":null}"#), r#"{"id":null}"#);
    }

    #[test]
    fn different_values_conflict() {
        let conflict = RewriteFault::Conflict {
            old: "user_don".to_owned(),
            new: "id".to_owned(),
        };
        assert_eq!(fault(r#"{"user_don":"U","id":"V"}"#), conflict);
        // Equal as floats, and not the same number.
        let large = r#"{"id":9007199254740993,"user_don":9007199254740992}"#;
        assert_eq!(fault(large), conflict);
    }

    #[test]
    fn two_old_names_of_one_new_are_treated_alike() {
        let rule = rule(&[("a", "c"), ("b", "c")], Mode::Rewrite);
        let Ok(Rewritten::Changed { body, fields }) = rewrite(br#"{"a":1,"b":1}"#, &rule) else {
            panic!("not changed");
        };
        assert_eq!((body.as_slice(), fields.len()), (&br#"{"c":1}"#[..], 2));
        assert!(rewrite(br#"{"a":1,"b":2}"#, &rule).is_err());
    }

    #[test]
    fn modes_other_than_rewrite_change_nothing() {
        let (body, field) = (r#"{"user_don":"U"}"#, "user_don".to_owned());
        let fields = vec![field.clone()];
        assert_eq!(
            rewritten(body, Mode::Report),
            Ok(Rewritten::Seen { fields })
        );
        let refused = RewriteFault::Deprecated { field };
        assert_eq!(rewritten(body, Mode::Refuse), Err(refused));
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        #[rustfmt::skip]
        let malformed = ["", "{", "\u{feff}{}", "{} {}", "{}x", "{\"a\":01}", "{a:1}", "{1:1}"];
        for body in malformed {
            assert_eq!(fault(body), RewriteFault::Malformed, "{body}");
        }
        assert_eq!(fault(b"{\"a\":\"\xff\"}"), RewriteFault::Malformed);
        for body in ["[]", "1", "null", " \"{}\""] {
            assert_eq!(fault(body), RewriteFault::NotAnObject, "{body}");
        }
        let repeated = RewriteFault::RepeatedKey("a".to_owned());
        assert_eq!(fault(r#"{"a":1,"\u0061":1}"#), repeated);
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(rewritten(deep, Mode::Rewrite), Ok(Rewritten::Unchanged));
    }

    fn member() -> impl Strategy<Value = (String, String)> {
        let key = prop_oneof![
            Just("user_don".to_owned()),
            Just("rev_org_don".to_owned()),
            Just("id".to_owned()),
            ".{0,6}",
        ];
        let value = prop_oneof![
            "-?[1-9][0-9]{0,40}(\\.[0-9]{1,30})?",
            Just("null".to_owned()),
            ".{0,8}".prop_map(|text| Value::from(text).to_string()),
            Just("[ {} ,1]".to_owned())
        ];
        (key, value)
    }

    proptest! {
        #[test]
        fn only_keys_change(members in prop::collection::vec(member(), 0..8), space in "[ \n\t]{0,3}") {
            let texts: Vec<String> = members.iter()
                .map(|(key, value)| format!("{}{space}:{space}{value}{space}", Value::from(key.as_str())))
                .collect();
            let body = format!("{{{space}{}}}", texts.join(&format!(",{space}")));
            let mut keys: Vec<&String> = members.iter().map(|(key, _)| key).collect();
            keys.sort();
            let repeated = keys.windows(2).any(|pair| pair[0] == pair[1]);
            let old = |key: &str| match key { "user_don" => Some("id"), "rev_org_don" => Some("rev_org"), _ => None };
            match rewritten(&body, Mode::Rewrite) {
                Err(RewriteFault::RepeatedKey(_)) => prop_assert!(repeated),
                Err(RewriteFault::Conflict { .. }) => prop_assert!(keys.iter().any(|key| old(key).is_some())),
                Err(other) => prop_assert!(false, "{other:?}"),
                Ok(Rewritten::Seen { .. }) => prop_assert!(false),
                Ok(Rewritten::Unchanged) => prop_assert!(keys.iter().all(|key| old(key).is_none())),
                Ok(Rewritten::Changed { body: new, .. }) => {
                    let new = String::from_utf8(new).unwrap();
                    let mut expected = Map::new();
                    for (key, value) in &members {
                        let name = old(key).unwrap_or(key);
                        let value: Value = serde_json::from_str(value).unwrap();
                        if !value.is_null() || !expected.contains_key(name) {
                            expected.insert(name.to_owned(), value);
                        }
                    }
                    prop_assert_eq!(serde_json::from_str::<Map<String, Value>>(&new).unwrap(), expected);
                    if !keys.iter().any(|key| *key == "id" || *key == "rev_org") {
                        let plain = body.replace("\"user_don\"", "\"id\"").replace("\"rev_org_don\"", "\"rev_org\"");
                        prop_assert_eq!(new, plain);
                    }
                }
            }
        }

        #[test]
        fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = rewritten(&body, Mode::Rewrite);
        }
    }
}
