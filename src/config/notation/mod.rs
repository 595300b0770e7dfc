//! How values are written: each type with its reader, what is shown of it and its schema, which takes what the reader takes.
//! Where no pattern can tell, as with an IPv6 address or a file that must exist, the schema is the more lenient one.
//!
//! The environment gives text alone: so a number, a truth value and a list may be one.

mod names;
mod tables;

use std::{marker::PhantomData, path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Value, json};

pub use self::{names::*, tables::*};
use super::{
    Rate,
    section::{Notation, View, definition},
};
use crate::label::Label;

/// The notation of a value: what to write, how it is read, what may be wrong with it all the same, what is shown of it, its schema, what
/// holds without it, and the keys of the tables in it.
macro_rules! notation {
    ([$($generics:tt)*] $notation:ty => $out:ty, $(flat $flat:expr,)? $(want $want:expr, parse |$value:ident| $parse:expr,)?
    $(fault |$sound:ident| $fault:expr,)? $(read |$read:ident, $at:ident| $reader:expr,)?
    show |$shown:ident $(, $view:ident)?| $show:expr, schema |$shared:ident| $schema:expr,
    $(absent $absent:expr,)? $(keys $keys:expr,)? $(constraint $constraint:expr,)?) => {
        impl<$($generics)*> Notation for $notation {
            type Out = $out;

            $(const FLAT: bool = $flat;)?

            $(fn want() -> String {
                String::from($want)
            }

            fn parse($value: &Value) -> Option<$out> {
                $parse
            })?

            $(fn fault($sound: &$out) -> Option<String> {
                $fault
            })?

            $(fn read($read: &Value, $at: &$crate::config::reading::At) -> Option<$out> {
                $reader
            })?

            fn show($shown: &$out, _view: View) -> Value {
                $(let $view = _view;)?
                Value::from($show)
            }

            #[allow(unused_variables)]
            fn schema($shared: &mut $crate::config::section::Defs) -> Value {
                $schema
            }

            $(fn absent() -> Option<$out> {
                Some($absent)
            })?

            $(fn keys() -> Vec<$crate::config::section::Key> {
                $keys
            })?

            $(fn constraint() -> Option<(&'static str, Value)> {
                $constraint
            })?
        }
    };
}
pub(super) use notation;

/// A schema of texts that match one of these patterns whole.
pub fn text(patterns: &[&str]) -> Value {
    json!({ "type": "string", "pattern": format!("^(?:{})$", patterns.join("|")) })
}

/// What is written as text by itself, with space around it or not.
fn padded(pattern: &str) -> Value {
    text(&[&format!(r"\s*(?:{pattern})\s*")])
}

/// A pattern for whole numbers from `min`, which is 0 or 1, to `max`, with any number of zeros before them.
fn integer_pattern(min: u64, max: u64) -> String {
    let digits = max.to_string();
    let any = |count: usize| match count {
        0 => String::new(),
        1 => "[0-9]".into(),
        count => format!("[0-9]{{{count}}}"),
    };
    // The number itself, those with fewer digits, those that are smaller from some digit on.
    let mut ways = vec![digits.clone()];
    if let Some(count) = digits.len().checked_sub(2) {
        ways.push(format!("[1-9][0-9]{{0,{count}}}"));
    }
    for (at, digit) in digits.bytes().enumerate() {
        let low = if at == 0 { b'1' } else { b'0' };
        if low < digit {
            let (low, high) = (char::from(low), char::from(digit - 1));
            let rest = any(digits.len() - at - 1);
            ways.push(format!("{}[{low}-{high}]{rest}", &digits[..at]));
        }
    }
    if min == 0 {
        ways.push("0".into());
    }
    format!("0*(?:{})", ways.join("|"))
}

/// A number that JSON has as one, or as text. TOML's 1.0 is a whole number to a schema too.
fn number(value: &Value) -> Option<u64> {
    let float = || {
        value
            .as_f64()
            .filter(|n| n.fract() == 0.0 && (0.0..9e15).contains(n))
    };
    let text = || value.as_str()?.trim().parse().ok();
    value
        .as_u64()
        .or_else(|| Some(float()? as u64))
        .or_else(text)
}

/// A number at the front, and the unit after it.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

// Any text that is not empty.
notation! {
    [] String => String,
    want "a string that is not empty",
    parse |value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned),
    show |out| out.as_str(),
    schema |shared| json!({ "type": "string", "minLength": 1 }),
}

notation! {
    [] PathBuf => PathBuf,
    want String::want(),
    parse |value| String::parse(value).map(PathBuf::from),
    show |out| out.display().to_string(),
    schema |shared| String::schema(shared),
}

// A text that is shared by all who hold it; empty, until it is said otherwise, where there is none.
notation! {
    [] Arc<str> => Arc<str>,
    want String::want(),
    parse |value| String::parse(value).map(Arc::from),
    show |out| &**out,
    schema |shared| String::schema(shared),
    absent "".into(),
}

notation! {
    [] bool => bool,
    want "true or false",
    parse |value| value.as_bool().or_else(|| value.as_str()?.trim().parse().ok()),
    show |out| *out,
    schema |shared| definition(shared, "boolean", |_| json!({ "anyOf": [{ "type": "boolean" }, padded("true|false")] })),
}

/// A truth value that is left out where it is false.
pub struct Flag;

notation! {
    [] Flag => bool,
    want bool::want(),
    parse |value| bool::parse(value),
    show |out| out.then_some(true),
    schema |shared| bool::schema(shared),
    absent false,
}

/// A whole number. `MIN` is 0 or 1.
pub struct Integer<T, const MIN: u64, const MAX: u64>(PhantomData<T>);

/// A number of things of which there is at least one.
pub type Count<T> = Integer<T, 1, { 1 << 30 }>;

notation! {
    [T: Copy + TryFrom<u64> + Into<Value>, const MIN: u64, const MAX: u64] Integer<T, MIN, MAX> => T,
    want format!("a whole number from {MIN} to {MAX}"),
    parse |value| T::try_from(number(value).filter(|n| (MIN..=MAX).contains(n))?).ok(),
    show |out| (*out).into(),
    schema |shared| definition(shared, &format!("integer-{MIN}-{MAX}"), |_| {
        let number = json!({ "type": "integer", "minimum": MIN, "maximum": MAX });
        json!({ "anyOf": [number, padded(&format!(r"\+?{}", integer_pattern(MIN, MAX)))] })
    }),
}

/// "auto", which is the number of cores, or a whole number.
pub struct Workers;

type Threads = Integer<usize, 1, 1024>;

notation! {
    [] Workers => usize,
    want format!("\"auto\" or {}", Threads::want()),
    parse |value| match value.as_str() {
        Some("auto") => Some(std::thread::available_parallelism().map_or(1, usize::from)),
        _ => Threads::parse(value),
    },
    show |out| *out,
    schema |shared| json!({ "anyOf": [{ "const": "auto" }, Threads::schema(shared)] }),
}

/// A number that may be a fraction.
pub struct Share<const MAX: u64>;

notation! {
    [const MAX: u64] Share<MAX> => f64,
    want format!("a number from 0 to {MAX}"),
    parse |value| {
        let is_plain = |text: &&str| text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let text = || value.as_str().map(str::trim).filter(is_plain)?.parse().ok();
        value.as_f64().or_else(text).filter(|number| (0.0..=MAX as f64).contains(number))
    },
    show |out| *out,
    schema |shared| definition(shared, &format!("share-0-{MAX}"), |_| {
        let text = padded(&format!(r"{}(?:\.[0-9]*)?|\.[0-9]+|0*{MAX}(?:\.0*)?", integer_pattern(0, MAX - 1)));
        json!({ "anyOf": [{ "type": "number", "minimum": 0, "maximum": MAX }, text] })
    }),
}

/// Names of units, how many milliseconds each has, and how many make 366 days: beyond, a deadline could overflow the clock.
const TIMES: [(&str, u64, u64); 4] = [
    ("ms", 1, 31_622_400_000),
    ("s", 1_000, 31_622_400),
    ("m|min", 60_000, 527_040),
    ("h", 3_600_000, 8_784),
];

fn times(min: u64) -> Value {
    let ways = TIMES.map(|(names, _, max)| format!(r"{}\s*(?:{names})", integer_pattern(min, max)));
    padded(&ways.join("|"))
}

/// Reads "30s", "250ms", "5m" or "1h".
pub fn duration(text: &str) -> Option<Duration> {
    let (n, unit) = split(text)?;
    let is_of = |(names, ..): &&(&str, u64, u64)| names.split('|').any(|name| name == unit);
    let (_, factor, max) = TIMES.iter().find(is_of)?;
    (n <= *max).then(|| Duration::from_millis(n * factor))
}

notation! {
    [] Duration => Duration,
    want "a duration such as \"30s\", \"250ms\" or \"5m\"",
    parse |value| duration(value.as_str()?),
    show |out| {
    let ms = out.as_millis();
    match ms.is_multiple_of(1000) {
        true => format!("{}s", ms / 1000),
        false => format!("{ms}ms"),
    }
    },
    schema |shared| definition(shared, "duration", |_| times(0)),
}

/// A duration where nothing would work with zero.
pub struct Timeout;

notation! {
    [] Timeout => Duration,
    want Duration::want(),
    parse |value| Duration::parse(value),
    fault |out| out.is_zero().then(|| "is zero, so nothing would ever succeed; write a duration above zero".into()),
    show |out| Duration::show(out, View::Effective),
    schema |shared| definition(shared, "timeout", |_| times(1)),
}

/// Names of units, what each is worth, and how many digits may stand before it: 64 bits hold it, and it is far more than there is.
const SIZES: [(&str, u64, u32); 7] = [
    ("|B", 1, 18),
    ("KiB", 1 << 10, 15),
    ("MiB", 1 << 20, 12),
    ("GiB", 1 << 30, 9),
    ("kB|KB", 1_000, 15),
    ("MB", 1_000_000, 12),
    ("GB", 1_000_000_000, 9),
];

/// A number of bytes, by itself or with a unit.
pub struct Size<T>(PhantomData<T>);

notation! {
    [T: Copy + TryFrom<u64> + TryInto<u64>] Size<T> => T,
    want "a size such as \"64KiB\", \"1MiB\" or \"10MB\", or a number of bytes",
    parse |value| {
        let (n, unit) = match value.as_str() {
            Some(text) => split(text)?,
            None => (number(value)?, ""),
        };
        let (_, factor, digits) = SIZES.iter().find(|(names, ..)| names.split('|').any(|name| name == unit))?;
        T::try_from((n < 10_u64.pow(*digits)).then(|| n * factor)?).ok()
    },
    show |out| {
        let size = (*out).try_into().unwrap_or(u64::MAX);
        let is_whole = |(_, factor, _): &&(&str, u64, u32)| size >= *factor && size.is_multiple_of(*factor);
        match SIZES[1..4].iter().rev().find(is_whole) {
            Some((unit, factor, _)) => format!("{}{unit}", size / factor),
            None => format!("{size}B"),
        }
    },
    schema |shared| definition(shared, "size", |_| {
        let ways = SIZES.map(|(names, _, digits)| format!(r"0*[0-9]{{1,{digits}}}\s*(?:{names})"));
        let number = json!({ "type": "integer", "minimum": 0, "maximum": 10_u64.pow(18) - 1 });
        json!({ "anyOf": [number, padded(&ways.join("|"))] })
    }),
}

/// Names of units, and how many seconds each has.
const PERIODS: [(&str, u64); 4] = [("s", 1), ("min", 60), ("m", 60), ("h", 3600)];

notation! {
    [] Rate => Rate,
    want "a rate such as \"50/s\", \"600/min\" or \"1000/h\", above zero",
    parse |value| {
        let (count, per) = value.as_str()?.split_once('/')?;
        let count = count.trim().parse().ok().filter(|n| *n > 0)?;
        let (_, seconds) = PERIODS.iter().find(|(unit, _)| *unit == per.trim())?;
        let per = Duration::from_secs(*seconds);
        Some(Rate { count, per })
    },
    show |out| out.to_string(),
    schema |shared| definition(shared, "rate", |_| {
        let units = PERIODS.map(|(unit, _)| unit).join("|");
        padded(&format!(r"\+?{}\s*/\s*(?:{units})", integer_pattern(1, u32::MAX.into())))
    }),
}

/// As the file says it, such as "50/s".
impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = PERIODS
            .iter()
            .find(|(_, seconds)| *seconds == self.per.as_secs());
        write!(f, "{}/{}", self.count, unit.map_or("s", |(unit, _)| unit))
    }
}

// One of a few words.
notation! {
    [T: Label] T => T,
    want {
        let names: Vec<_> = T::ALL.iter().map(|choice| format!("{:?}", choice.label())).collect();
        format!("one of {}", names.join(", "))
    },
    parse |value| {
        let text = value.as_str()?;
        T::ALL.iter().find(|choice| choice.label() == text).copied()
    },
    show |out| out.label(),
    schema |shared| json!({ "enum": T::ALL.iter().map(|choice| choice.label()).collect::<Vec<_>>() }),
}
