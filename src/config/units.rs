//! The small notations of the file: durations, sizes, rates and patterns, read and written.

use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::Rate;

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

/// Reads "30s", "250ms", "5m" or "1h".
pub fn duration(text: &str) -> Option<Duration> {
    let (n, unit) = split(text)?;
    let seconds = |factor: u64| n.checked_mul(factor).map(Duration::from_secs);
    let value = match unit {
        "ms" => Some(Duration::from_millis(n)),
        "s" => seconds(1),
        "m" | "min" => seconds(60),
        "h" => seconds(3600),
        _ => None,
    }?;
    // Beyond a year a deadline computed from it could overflow the clock.
    (value <= Duration::from_secs(366 * 86400)).then_some(value)
}

pub(super) fn size(text: &str) -> Option<u64> {
    let (n, unit) = split(text)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    n.checked_mul(factor)
}

pub(super) fn rate(text: &str) -> Option<Rate> {
    let (count, per) = text.split_once('/')?;
    let count: u32 = count.trim().parse().ok().filter(|n| *n > 0)?;
    let per = match per.trim() {
        "s" => 1,
        "min" | "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    Some(Rate {
        count,
        per: Duration::from_secs(per),
    })
}

/// Lower-cased, because operations are compared so.
pub(super) fn pattern(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    if text == "*" {
        return Some(text);
    }
    let stem = text.strip_suffix(".*").unwrap_or(&text);
    operation(stem).then_some(text)
}

pub(super) fn operation(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('/')
        && !text.ends_with(['/', '.'])
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
}

/// A level, or directives such as "info,revgate=debug".
///
/// # Errors
/// Says what is wrong and what may stand there.
pub fn log_directives(text: &str) -> Result<EnvFilter, String> {
    let text = text.trim();
    // EnvFilter takes a word without a level for a target to be shown in full, which turns a misspelt level into silence.
    let mut words = text.split(',').map(str::trim);
    let bad = words.find(|word| {
        let level = word.parse::<tracing::level_filters::LevelFilter>();
        !word.contains(['=', '[']) && (word.is_empty() || level.is_err())
    });
    if let Some(word) = bad {
        return Err(format!(
            "{word:?} is not a log level; use error, warn, info, debug, trace or off, or directives such as \"info,revgate=debug\""
        ));
    }
    EnvFilter::try_new(text).map_err(|e| format!("cannot read the log directives: {e}"))
}

pub(super) fn show_duration(value: Duration) -> String {
    let ms = value.as_millis();
    if ms.is_multiple_of(1000) {
        format!("{}s", ms / 1000)
    } else {
        format!("{ms}ms")
    }
}

pub(super) fn show_size(value: u64) -> String {
    for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if value >= factor && value.is_multiple_of(factor) {
            return format!("{}{unit}", value / factor);
        }
    }
    format!("{value}B")
}

pub(super) fn show_rate(value: Rate) -> String {
    match value.per.as_secs() {
        60 => format!("{}/min", value.count),
        3600 => format!("{}/h", value.count),
        _ => format!("{}/s", value.count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations() {
        for (text, ms) in [
            ("30s", 30_000),
            ("250ms", 250),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "1 day",
            "99999999999999999999s",
            "9999999h",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
        for (text, n) in [
            ("1MiB", 1 << 20),
            ("64KiB", 65536),
            ("10MB", 10_000_000),
            ("7", 7),
        ] {
            assert_eq!(size(text), Some(n), "{text}");
        }
        for text in ["", "x", "1XB", "99999999999GiB"] {
            assert_eq!(size(text), None, "{text}");
        }
        for text in ["50/s", "600/min", "1000/h"] {
            assert_eq!(rate(text).map(show_rate).as_deref(), Some(text));
        }
        for text in ["50", "0/s", "5/day", "/s", "-1/s"] {
            assert_eq!(rate(text), None, "{text}");
        }
        assert_eq!(pattern("Works.*").as_deref(), Some("works.*"));
        for text in [
            "", "wo*rks", "*.get", "works*", "/works", "works.", ".*", "a b",
        ] {
            assert_eq!(pattern(text), None, "{text}");
        }
    }
}
