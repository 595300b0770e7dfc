//! How values are written: each type with its parser, its output and its schema. The schema accepts exactly what the parser accepts; it is
//! more lenient only where no pattern can tell, as with an IPv6 address or a file that must exist.
//!
//! Environment variables are text, so numbers, booleans and lists may be written as text too.

mod containers;
mod names;
mod operations;

use std::{marker::PhantomData, path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Value, json};

pub(crate) use self::names::log_directives;
pub(super) use self::{names::*, operations::*};
use super::{
    Rate,
    section::{Notation, View, shared_schema},
};
use crate::label::Label;

/// Implements [`Notation`] for a type. The parts have the names and the order of the trait's methods.
macro_rules! notation {
    ([$($generics:tt)*] $notation:ty => $out:ty, $(flatten $flatten:expr,)? $(quotable $quotable:expr,)?
    $(expected $expected:expr, parse |$value:ident| $parse:expr,)? $(bad_item |$list:ident| $bad_item:expr,)?
    $(invalid |$sound:ident| $invalid:expr,)? $(warn |$good:ident, $written:ident, $place:ident| $warn:expr,)? $(read |$read:ident, $at:ident| $reader:expr,)?
    show |$shown:ident $(, $view:ident)?| $show:expr, schema |$defs:ident| $schema:expr,
    $(if_missing $if_missing:expr,)? $(keys $keys:expr,)? $(constraint $constraint:expr,)?) => {
        impl<$($generics)*> Notation for $notation {
            type Out = $out;

            $(const FLATTEN: bool = $flatten;)?

            $(const QUOTABLE: bool = $quotable;)?

            $(fn expected() -> String {
                String::from($expected)
            }

            fn parse($value: &Value) -> Option<$out> {
                $parse
            })?

            $(fn bad_item($list: &Value) -> Option<usize> {
                $bad_item
            })?

            $(fn invalid($sound: &$out) -> Option<String> {
                $invalid
            })?

            $(fn warn($good: &$out, $written: &Value, $place: &$crate::config::reading::Location<'_>) {
                $warn
            })?

            $(fn read($read: &Value, $at: &$crate::config::reading::Location<'_>) -> Option<$out> {
                $reader
            })?

            fn show($shown: &$out, _view: View) -> Value {
                $(let $view = _view;)?
                Value::from($show)
            }

            #[allow(unused_variables, reason = "a notation may need neither")]
            fn schema($defs: &mut $crate::config::section::Defs) -> Value {
                $schema
            }

            $(fn if_missing() -> Option<$out> {
                Some($if_missing)
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

/// A schema for text that matches one of these patterns as a whole.
pub(super) fn text(patterns: &[&str]) -> Value {
    json!({ "type": "string", "pattern": format!("^(?:{})$", patterns.join("|")) })
}

/// A schema for text that matches the pattern, with or without space around it.
fn padded(pattern: &str) -> Value {
    text(&[&format!(r"\s*(?:{pattern})\s*")])
}

/// A pattern for whole numbers from `min`, which is 0 or 1, to `max`, with any number of leading zeros.
fn integer_pattern(min: u64, max: u64) -> String {
    let digits = max.to_string();
    let any = |count: usize| match count {
        0 => String::new(),
        1 => "[0-9]".into(),
        count => format!("[0-9]{{{count}}}"),
    };
    // The maximum itself, numbers with fewer digits, and numbers that are smaller from some digit on.
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

/// A whole number, also as text or as 1.0: to a JSON Schema, 1.0 is an integer.
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

/// Splits a number and the unit that follows it.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

// Text that is not empty.
notation! {
    [] String => String,
    expected "a string that is not empty",
    parse |value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned),
    show |out| out.as_str(),
    schema |defs| json!({ "type": "string", "minLength": 1 }),
}

notation! {
    [] PathBuf => PathBuf,
    expected String::expected(),
    parse |value| String::parse(value).map(PathBuf::from),
    show |out| out.display().to_string(),
    schema |defs| String::schema(defs),
}

// Text with shared ownership. A missing one is empty until a rule fills it in.
notation! {
    [] Arc<str> => Arc<str>,
    expected String::expected(),
    parse |value| String::parse(value).map(Arc::from),
    show |out| &**out,
    schema |defs| String::schema(defs),
    if_missing "".into(),
}

notation! {
    [] bool => bool,
    expected "true or false",
    parse |value| value.as_bool().or_else(|| value.as_str()?.trim().parse().ok()),
    show |out| *out,
    schema |defs| shared_schema(defs, "boolean", |_| json!({ "anyOf": [{ "type": "boolean" }, padded("true|false")] })),
}

/// A boolean that is false if missing, and not shown then.
pub struct Flag;

notation! {
    [] Flag => bool,
    expected bool::expected(),
    parse |value| bool::parse(value),
    show |out| out.then_some(true),
    schema |defs| bool::schema(defs),
    if_missing false,
}

/// A whole number. `MIN` is 0 or 1.
pub struct Integer<T, const MIN: u64, const MAX: u64>(PhantomData<T>);

/// A number of at least one.
pub(super) type Count<T> = Integer<T, 1, { 1 << 30 }>;

notation! {
    [T: Copy + TryFrom<u64> + Into<Value>, const MIN: u64, const MAX: u64] Integer<T, MIN, MAX> => T,
    expected format!("a whole number from {MIN} to {MAX}"),
    parse |value| T::try_from(number(value).filter(|n| (MIN..=MAX).contains(n))?).ok(),
    show |out| (*out).into(),
    schema |defs| shared_schema(defs, &format!("integer-{MIN}-{MAX}"), |_| {
        let number = json!({ "type": "integer", "minimum": MIN, "maximum": MAX });
        json!({ "anyOf": [number, padded(&format!(r"\+?{}", integer_pattern(MIN, MAX)))] })
    }),
}

/// A number of threads, or "auto" for the number of cores.
pub struct Workers;

type Threads = Integer<usize, 1, 1024>;

notation! {
    [] Workers => usize,
    expected format!("\"auto\" or {}", Threads::expected()),
    parse |value| match value.as_str() {
        Some("auto") => Some(std::thread::available_parallelism().map_or(1, usize::from)),
        _ => Threads::parse(value),
    },
    show |out| *out,
    schema |defs| json!({ "anyOf": [{ "const": "auto" }, Threads::schema(defs)] }),
}

/// A number from 0 to `MAX` that may be a fraction.
pub struct Share<const MAX: u64>;

notation! {
    [const MAX: u64] Share<MAX> => f64,
    expected format!("a number from 0 to {MAX}"),
    parse |value| {
        let is_plain = |text: &&str| text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let text = || value.as_str().map(str::trim).filter(is_plain)?.parse().ok();
        value.as_f64().or_else(text).filter(|number| (0.0..=MAX as f64).contains(number))
    },
    show |out| *out,
    schema |defs| shared_schema(defs, &format!("share-0-{MAX}"), |_| {
        let text = padded(&format!(r"{}(?:\.[0-9]*)?|\.[0-9]+|0*{MAX}(?:\.0*)?", integer_pattern(0, MAX - 1)));
        json!({ "anyOf": [{ "type": "number", "minimum": 0, "maximum": MAX }, text] })
    }),
}

/// Names of units, their milliseconds, and how many make 366 days. With longer durations, a deadline could overflow the clock.
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

/// A schema for durations from `min` to `max` milliseconds.
pub(super) fn duration_within(min: u64, max: u64) -> Value {
    let ways = TIMES.iter().filter_map(|(names, factor, _)| {
        let (min, max) = (min.div_ceil(*factor), max / factor);
        (min <= max).then(|| format!(r"{}\s*(?:{names})", integer_pattern(min, max)))
    });
    padded(&ways.collect::<Vec<_>>().join("|"))
}

/// Reads "30s", "250ms", "5m" or "1h".
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (n, unit) = split(text)?;
    let is_of = |(names, ..): &&(&str, u64, u64)| names.split('|').any(|name| name == unit);
    let (_, factor, max) = TIMES.iter().find(is_of)?;
    (n <= *max).then(|| Duration::from_millis(n * factor))
}

notation! {
    [] Duration => Duration,
    expected "a duration such as \"30s\", \"250ms\" or \"5m\"",
    parse |value| duration(value.as_str()?),
    show |out| match out.as_millis() {
        ms if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    },
    schema |defs| shared_schema(defs, "duration", |_| times(0)),
}

/// A duration above zero.
pub struct Timeout;

notation! {
    [] Timeout => Duration,
    expected Duration::expected(),
    parse |value| Duration::parse(value),
    invalid |out| out.is_zero().then(|| "is zero, so it would always expire; write a duration above zero".into()),
    show |out| Duration::show(out, View::Effective),
    schema |defs| shared_schema(defs, "timeout", |_| times(1)),
}

/// Names of units, their bytes, and the most digits of a number before each, so that the result fits into 64 bits.
const SIZES: [(&str, u64, u32); 7] = [
    ("|B", 1, 18),
    ("KiB", 1 << 10, 15),
    ("MiB", 1 << 20, 12),
    ("GiB", 1 << 30, 9),
    ("kB|KB", 1_000, 15),
    ("MB", 1_000_000, 12),
    ("GB", 1_000_000_000, 9),
];

/// A number of bytes, with or without a unit.
pub struct Size<T>(PhantomData<T>);

notation! {
    [T: Copy + TryFrom<u64> + TryInto<u64>] Size<T> => T,
    expected "a size such as \"64KiB\", \"1MiB\" or \"10MB\", or a number of bytes",
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
    schema |defs| shared_schema(defs, "size", |_| {
        let ways = SIZES.map(|(names, _, digits)| format!(r"0*[0-9]{{1,{digits}}}\s*(?:{names})"));
        let number = json!({ "type": "integer", "minimum": 0, "maximum": 10_u64.pow(18) - 1 });
        json!({ "anyOf": [number, padded(&ways.join("|"))] })
    }),
}

/// Names of units, and their seconds.
const PERIODS: [(&str, u64); 4] = [("s", 1), ("min", 60), ("m", 60), ("h", 3600)];

notation! {
    [] Rate => Rate,
    expected "a rate such as \"50/s\", \"600/min\" or \"1000/h\", above zero",
    parse |value| {
        let (count, per) = value.as_str()?.split_once('/')?;
        let count = count.trim().parse().ok().filter(|n| *n > 0)?;
        let (_, seconds) = PERIODS.iter().find(|(unit, _)| *unit == per.trim())?;
        let per = Duration::from_secs(*seconds);
        Some(Rate { count, per })
    },
    show |out| out.to_string(),
    schema |defs| shared_schema(defs, "rate", |_| {
        let units = PERIODS.map(|(unit, _)| unit).join("|");
        padded(&format!(r"\+?{}\s*/\s*(?:{units})", integer_pattern(1, u32::MAX.into())))
    }),
}

/// As in the file, such as "50/s".
impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = PERIODS
            .iter()
            .find(|(_, seconds)| *seconds == self.per.as_secs());
        write!(f, "{}/{}", self.count, unit.map_or("s", |(unit, _)| unit))
    }
}

// One of the names of an enum.
notation! {
    [T: Label] T => T,
    expected {
        let names: Vec<_> = T::ALL.iter().map(|choice| format!("{:?}", choice.label())).collect();
        format!("one of {}", names.join(", "))
    },
    parse |value| {
        let text = value.as_str()?;
        T::ALL.iter().find(|choice| choice.label() == text).copied()
    },
    show |out| out.label(),
    schema |defs| json!({ "enum": T::ALL.iter().map(|choice| choice.label()).collect::<Vec<_>>() }),
}
