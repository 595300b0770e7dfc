//! Whether two JSON values mean the same, at a cost that grows with their length alone.
//!
//! [`Document::read`] passes over a text once and lists its values, so that no part of it is read again for each level around it.
//! [`same`] then visits each pair of values once. Both keep their own stack, so depth costs memory and never recursion.

use std::collections::HashMap;

use memchr::memchr2;

use super::unescape;

/// Counts the work, so that a test can hold it to its bound.
pub(super) trait Meter {
    /// So many bytes are read, hashed, compared or copied. A step that touches none counts as one.
    fn work(&mut self, bytes: usize);
}

impl Meter for () {
    fn work(&mut self, _bytes: usize) {}
}

/// A valid JSON text, as a list of its values and of the names in its objects, in the text's order.
pub(super) struct Document<'a> {
    text: &'a str,
    nodes: Vec<Node>,
}

/// A value, or a name in an object.
struct Node {
    start: usize,
    end: usize,
    /// The first node behind it and all that it contains.
    next: usize,
}

impl<'a> Document<'a> {
    /// Reads a text that was found valid before.
    pub(super) fn read(text: &'a str, meter: &mut impl Meter) -> Self {
        let bytes = text.as_bytes();
        let mut nodes: Vec<Node> = Vec::new();
        let mut open = Vec::new();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let start = at;
            at += 1;
            let next = nodes.len() + 1;
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b',' | b':' => {}
                b']' | b'}' => {
                    if let Some(node) = open.pop().and_then(|open: usize| nodes.get_mut(open)) {
                        (node.end, node.next) = (at, next - 1);
                    }
                }
                _ => {
                    match byte {
                        b'[' | b'{' => open.push(nodes.len()),
                        b'"' => at = end_of_string(bytes, at),
                        _ => at = end_of_word(bytes, at),
                    }
                    nodes.push(Node {
                        start,
                        end: at,
                        next,
                    });
                }
            }
            meter.work(at - start);
        }
        Document { text, nodes }
    }

    fn text_of(&self, node: usize) -> &'a str {
        let node = &self.nodes[node];
        &self.text[node.start..node.end]
    }

    /// The nodes directly in a list or object. In an object, names and values take turns.
    fn children(&self, of: usize) -> impl Iterator<Item = usize> {
        let end = self.nodes[of].next;
        let within = move |child| (child < end).then_some(child);
        std::iter::successors(within(of + 1), move |&child| within(self.nodes[child].next))
    }
}

/// A node of the one document and a node of the other.
type Pair = (usize, usize);

/// Whether two texts mean the same.
///
/// A value may be compared with several others at a cost that grows with their length: the first that differs ends the rewriting, and
/// equal ones differ in length by spaces, which are read once, and by escapes, which take at most six bytes for one.
///
/// Members may stand in any order and strings may be escaped differently. Numbers are compared as text,
/// since no type holds all of them.
pub(super) fn same(a: &Document<'_>, b: &Document<'_>, meter: &mut impl Meter) -> bool {
    // What still has to be the same.
    let mut pairs = vec![(0, 0)];
    while let Some(pair) = pairs.pop() {
        let (left, right) = (a.text_of(pair.0), b.text_of(pair.1));
        meter.work(1);
        let kind = |text: &str| text.as_bytes().first().copied();
        let same = match (kind(left), kind(right)) {
            (Some(b'['), Some(b'[')) => pair_items(a, b, pair, &mut pairs, meter),
            (Some(b'{'), Some(b'{')) => pair_members(a, b, pair, &mut pairs, meter),
            (Some(b'"'), Some(b'"')) => same_strings(left, right, meter),
            _ => same_bytes(left, right, meter),
        };
        if !same {
            return false;
        }
    }
    true
}

/// Pairs the items of two lists. False if one has more.
fn pair_items(
    a: &Document<'_>,
    b: &Document<'_>,
    (left, right): Pair,
    pairs: &mut Vec<Pair>,
    meter: &mut impl Meter,
) -> bool {
    let (mut left, mut right) = (a.children(left), b.children(right));
    loop {
        meter.work(1);
        match (left.next(), right.next()) {
            (Some(left), Some(right)) => pairs.push((left, right)),
            (left, right) => return left == right,
        }
    }
}

/// Pairs the members of two objects. False if their names are not the same.
fn pair_members(
    a: &Document<'_>,
    b: &Document<'_>,
    (left, right): Pair,
    pairs: &mut Vec<Pair>,
    meter: &mut impl Meter,
) -> bool {
    let (mut left_names, mut right_names) =
        (a.children(left).step_by(2), b.children(right).step_by(2));
    let first = pairs.len();
    let (mut in_order, mut names_size) = (true, 0);
    loop {
        meter.work(1);
        let (name, other) = match (left_names.next(), right_names.next()) {
            (Some(left), Some(right)) => (left, right),
            (None, None) => break,
            _ => return false,
        };
        let (name_text, other_text) = (a.text_of(name), b.text_of(other));
        names_size += name_text.len() + other_text.len();
        in_order = in_order && same_strings(name_text, other_text, meter);
        pairs.push((name + 1, other + 1));
    }
    if in_order {
        return true;
    }
    meter.work(names_size);
    // The hash has a random key, so nobody can choose names that collide.
    let mut values = HashMap::with_capacity(pairs.len() - first);
    for name in b.children(right).step_by(2) {
        // Servers read an object with a repeated name, or one that is no text, differently.
        let unique =
            unescape(b.text_of(name)).is_ok_and(|text| values.insert(text, name + 1).is_none());
        if !unique {
            return false;
        }
    }
    for (pair, name) in pairs[first..].iter_mut().zip(a.children(left).step_by(2)) {
        // Taken out, so that a name that repeats on this side is not found again.
        let Some(value) = unescape(a.text_of(name))
            .ok()
            .and_then(|text| values.remove(&text))
        else {
            return false;
        };
        pair.1 = value;
    }
    true
}

fn same_strings(left: &str, right: &str, meter: &mut impl Meter) -> bool {
    if same_bytes(left, right, meter) {
        return true;
    }
    meter.work(left.len() + right.len());
    matches!((unescape(left), unescape(right)), (Ok(left), Ok(right)) if left == right)
}

fn same_bytes(left: &str, right: &str, meter: &mut impl Meter) -> bool {
    if left.len() == right.len() {
        meter.work(left.len());
    }
    left == right
}

/// Where a string ends whose content begins at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if bytes[at - 1] == b'"' {
            return at;
        }
        // The escaped byte.
        at += 1;
    }
    bytes.len()
}

/// Where a number or a literal ends.
fn end_of_word(bytes: &[u8], at: usize) -> usize {
    let ends = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b']' | b'}');
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter()
        .position(ends)
        .map_or(bytes.len(), |end| at + end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::{Mode, RewriteFault, Rewritten, Rule, rewrite_metered};
    use super::*;

    impl Meter for usize {
        fn work(&mut self, bytes: usize) {
            *self += bytes;
        }
    }

    fn equal(a: &str, b: &str) -> bool {
        let meter = &mut ();
        let (a, b) = (Document::read(a, meter), Document::read(b, meter));
        let forth = same(&a, &b, meter);
        assert_eq!(same(&b, &a, meter), forth, "not symmetric");
        forth
    }

    #[test]
    fn values_are_compared_by_meaning() {
        for (a, b) in [
            ("[ ]", "[]"),
            ("{ }", "{\n}"),
            (r#"{"a":1,"b":[2]}"#, r#"{ "b" : [2 ], "\u0061": 1 }"#),
            (r#"["\ud83d\ude00\/"]"#, "[\"😀/\"]"),
            (r#"{"":{"":""}}"#, r#"{"" :{"":""}}"#),
            (r#""\\\"]""#, r#""\u005c\u0022\u005d""#),
        ] {
            assert!(equal(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("1", "1.0"),
            ("[]", "{}"),
            ("[1]", "[1,1]"),
            ("[[],[1]]", "[[1],[]]"),
            ("[\"1\"]", "[1]"),
            (r#"{"a":1}"#, r#"{"b":1}"#),
            (r#"{"a":1}"#, r#"{"a":1,"b":1}"#),
            (r#"{"a":{"b":1}}"#, r#"{"a":{},"b":1}"#),
            (r#"["aaaaaaaaaaaaaaaaaaaaaaaa"]"#, r#"["\u0061"]"#),
        ] {
            assert!(!equal(a, b), "{a} {b}");
        }
    }

    #[test]
    fn members_that_cannot_be_told_apart_must_stand_in_the_same_order() {
        for (object, other) in [
            (r#"{"a":1,"b":2,"a":3}"#, r#"{"b":2,"a":1,"a":3}"#),
            (r#"{"a":1,"a":1}"#, r#"{"a":1,"b":1}"#),
            (r#"{"\ud800":1,"b":2}"#, r#"{"b":2,"\ud800":1}"#),
            (r#"["\ud800"]"#, r#"["\uD800"]"#),
        ] {
            assert!(equal(object, &object.replace(',', " , ")), "{object}");
            assert!(!equal(object, other), "{object}");
        }
    }

    #[test]
    fn depth_has_no_bound() {
        let nested = |depth: usize, inner: &str| {
            format!("{}{inner}{}", r#"[{"a":"#.repeat(depth), "}]".repeat(depth))
        };
        assert!(equal(&nested(50_000, "[]"), &nested(50_000, " [ ]")));
        assert!(!equal(&nested(50_000, "1"), &nested(50_000, "2")));
    }

    /// A source of choices that a test case can repeat.
    struct Choices(u64);

    impl Choices {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % bound
        }

        fn space(&mut self) -> &'static str {
            ["", "", " ", "\n\t"][self.below(4)]
        }

        fn string(&mut self, text: &str) -> String {
            let mut out = String::from("\"");
            for c in text.chars() {
                if self.below(2) == 0 {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        out += &format!("\\u{unit:04x}");
                    }
                } else {
                    let plain = Value::from(c.to_string()).to_string();
                    out += &plain[1..plain.len() - 1];
                }
            }
            out + "\""
        }

        /// The value in one of its many spellings.
        fn spell(&mut self, value: &Value) -> String {
            let (open, mut parts, close) = match value {
                Value::String(text) => return self.string(text),
                Value::Array(items) => (
                    "[",
                    items.iter().map(|item| self.spell(item)).collect(),
                    "]",
                ),
                Value::Object(members) => {
                    let mut parts: Vec<String> = Vec::new();
                    for (name, value) in members {
                        let part = self.string(name)
                            + self.space()
                            + ":"
                            + self.space()
                            + &self.spell(value);
                        let at = self.below(parts.len() + 1);
                        parts.insert(at, part);
                    }
                    ("{", parts, "}")
                }
                scalar => return scalar.to_string(),
            };
            for part in &mut parts {
                *part = self.space().to_owned() + part + self.space();
            }
            open.to_owned() + self.space() + &parts.join(",") + close
        }
    }

    fn leaf() -> impl Strategy<Value = Value> {
        let leaves = [
            json!(null),
            json!(true),
            json!(0),
            json!(10),
            json!(""),
            json!("a"),
            json!("é\n\"😀"),
        ];
        prop::sample::select(leaves.to_vec())
    }

    fn value() -> impl Strategy<Value = Value> {
        leaf().prop_recursive(5, 40, 4, |inner| {
            let name =
                prop::sample::select(vec!["", "a", "b", "\\", "é😀"]).prop_map(str::to_owned);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(name, inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Replaces the leaf at this number, counted down as they are met.
    fn replace(value: &mut Value, number: &mut usize, with: &Value) {
        match value {
            Value::Array(items) => items
                .iter_mut()
                .for_each(|item| replace(item, number, with)),
            Value::Object(members) => members
                .values_mut()
                .for_each(|member| replace(member, number, with)),
            leaf => {
                if *number == 0 {
                    *leaf = with.clone();
                }
                *number = number.wrapping_sub(1);
            }
        }
    }

    proptest! {
        #[test]
        fn serde_json_finds_the_same_values_equal(
            (a, other) in (value(), value()), (with, mut at) in (leaf(), 0_usize..6), seed in any::<u64>(),
        ) {
            let mut choices = Choices(seed);
            let text = choices.spell(&a);
            prop_assert_eq!(&serde_json::from_str::<Value>(&text).unwrap(), &a);
            prop_assert!(equal(&text, &choices.spell(&a)));
            prop_assert_eq!(equal(&text, &choices.spell(&other)), a == other);
            let mut changed = a.clone();
            replace(&mut changed, &mut at, &with);
            prop_assert_eq!(equal(&text, &choices.spell(&changed)), a == changed);
        }
    }

    const SHAPES: usize = 18;

    /// A value of about `size` bytes that repeats one thing, around `core` or beside it.
    fn grow(shape: usize, core: &str, size: usize) -> String {
        let around = |open: &str, close: &str| {
            let times = size / (open.len() + close.len());
            format!("{}{core}{}", open.repeat(times), close.repeat(times))
        };
        let beside = |head: &str, part: &dyn Fn(usize) -> String, tail: &str| {
            let mut out = String::from(head);
            for number in 0..size {
                if out.len() >= size {
                    break;
                }
                out += &part(number);
            }
            out + tail
        };
        let same = |head: &str, part: &str, tail: &str| beside(head, &|_| part.to_owned(), tail);
        let item = format!(",{core}]");
        let member = format!("\"-\":{core}}}");
        match shape {
            0 => around("[", "]"),
            1 => around("[1,[1],", ",1]"),
            2 => around(r#"{"a":"#, "}"),
            3 => around(r#"{"b":1,"a":"#, "}"),
            4 => around(r#"{"a":"#, r#","b":1}"#),
            5 => around(r#"{"a":1,"a":"#, "}"),
            6 => around(r#"{"":{"a":1,"a":1},"b":"#, "}"),
            7 => same("[1", ",1", &item),
            8 => same("[1", ",{}", &item),
            9 => same("[1", r#",{"":""}"#, &item),
            10 => same("[", " ", &item[1..]),
            11 => same("[\"", "a", &format!("\"{item}")),
            12 => same("[\"", r"\u0061", &format!("\"{item}")),
            13 => same("[1", "9", &item),
            14 => beside("{", &|number| format!("\"{number:x}\":1,"), &member),
            15 => beside(
                "{",
                &|number| format!("\"{:x}\":1,", size - number),
                &member,
            ),
            16 => beside(
                "{",
                &|number| format!(r#""\u0061\u{:04x}":1,"#, number % 0xd800),
                &member,
            ),
            _ => {
                let prefix = "p".repeat(200);
                beside("{", &|number| format!("\"{prefix}{number:x}\":1,"), &member)
            }
        }
    }

    /// Rewrites a body and gives its work and its allocated bytes, each per byte of the body.
    fn cost(body: &str, rule: &Rule) -> (f64, f64) {
        let mut work = 0;
        let allocated = allocation_counter::measure(|| {
            // An equal value, another one and an ambiguous one cost alike; which it is does not matter here.
            let result = rewrite_metered(body.as_bytes(), rule, &mut work);
            assert_ne!(result, Err(RewriteFault::Malformed), "{body:.200}");
        });
        let size = body.len() as f64;
        (work as f64 / size, allocated.bytes_total as f64 / size)
    }

    fn rule(olds: usize) -> Rule {
        let rename = (0..olds).map(|number| (format!("old{number}"), "new".to_owned()));
        Rule {
            rename: rename.collect(),
            mode: Mode::Rewrite,
            link: None,
        }
    }

    /// Above what any shape needs per byte of a body, and far below what one more pass per level, per member or per value would need.
    const MAX_WORK: f64 = 12.0;
    const MAX_ALLOCATED: f64 = 100.0;

    fn assert_bounded(body: &str, rule: &Rule) -> Result<(), TestCaseError> {
        let (work, allocated) = cost(body, rule);
        prop_assert!(work <= MAX_WORK, "{work} per byte: {body:.200}");
        prop_assert!(
            allocated <= MAX_ALLOCATED,
            "{allocated} bytes per byte: {body:.200}"
        );
        Ok(())
    }

    #[test]
    fn no_pair_of_shapes_costs_more_than_its_bytes() {
        for (a, b) in (0..SHAPES * SHAPES).map(|pair| (pair / SHAPES, pair % SHAPES)) {
            for core in [" 1", "2"] {
                let (a, b) = (grow(a, "1", 2_000), grow(b, core, 2_000));
                let body = format!(r#"{{"old0":{a},"new":{b}}}"#);
                assert_bounded(&body, &rule(1)).unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }

    #[test]
    fn many_old_values_for_one_new_cost_no_more() {
        let names = |name: &dyn Fn(u32) -> String, order: &mut dyn Iterator<Item = u32>| {
            let members: Vec<String> = order
                .map(|number| format!("\"{}\":1", name(number)))
                .collect();
            format!("{{{}}}", members.join(","))
        };
        let plain = |number: u32| format!("a{}", char::from(b'a' + number as u8));
        let escaped = |number: u32| format!("\\u0061\\u{:04x}", u32::from(b'a') + number);
        for (new, old) in [
            (
                format!("\"{}\"", r"\u0061".repeat(300)),
                format!("\"{}\"", "a".repeat(300)),
            ),
            (
                format!("\"{}\"", "a".repeat(300)),
                format!("\"{}\"", r"\u0061".repeat(300)),
            ),
            (
                names(&escaped, &mut (0..26)),
                names(&plain, &mut (0..26).rev()),
            ),
            (format!("[{}]", " ".repeat(3_000)), "[]".to_owned()),
        ] {
            let olds: Vec<String> = (0..31)
                .map(|number| format!("\"old{number}\":{old}"))
                .collect();
            let body = format!("{{\"new\":{new},{}}}", olds.join(","));
            let rewritten = rewrite_metered(body.as_bytes(), &rule(31), &mut ());
            let kept = format!("{{\"new\":{new}}}").into_bytes();
            assert!(
                matches!(rewritten, Ok(Rewritten::Changed { body, .. }) if body == kept),
                "{body:.200}"
            );
            assert_bounded(&body, &rule(31)).unwrap_or_else(|error| panic!("{error}"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_body_costs_more_than_its_bytes(
            shapes in prop::collection::vec((0..SHAPES, 1_usize..10_000), 1..4),
            others in prop::option::of(prop::collection::vec((0..SHAPES, 1_usize..10_000), 1..4)),
            core in prop::sample::select(vec![" 1", "2"]),
            small in prop::collection::vec(prop::sample::select(vec!["null", "[]", "{}", r#"{"":1}"#, r#"[""]"#, "1"]), 0..30),
            members in 0_usize..2_000,
        ) {
            let nest = |core: &str, shapes: &[(usize, usize)]| {
                shapes.iter().fold(core.to_owned(), |core, &(shape, size)| grow(shape, &core, size))
            };
            let others = others.unwrap_or_else(|| shapes.clone());
            let mut body = format!(r#"{{"new":{},"old0":{}"#, nest("1", &shapes), nest(core, &others));
            for (number, value) in small.iter().enumerate() {
                body += &format!(",\"old{}\":{value}", number + 1);
            }
            for number in 0..members {
                body += &format!(",\"{number:x}\":{number}");
            }
            body += "}";
            assert_bounded(&body, &rule(31))?;
        }
    }
}
