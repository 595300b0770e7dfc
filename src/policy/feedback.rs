//! What DevRev's answer reports about its limits. Every value may be missing, wrong or hostile.
//!
//! ```
//! use std::time::{Duration, UNIX_EPOCH};
//! use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
//! use revgate::policy::feedback::read;
//!
//! let mut headers = HeaderMap::new();
//! headers.insert("x-ratelimit-remaining", "0".parse().unwrap());
//! headers.insert(RETRY_AFTER, "7".parse().unwrap());
//! let cap = Duration::from_secs(600);
//! let body = br#"{"retry_after": 9}"#;
//! let feedback = read(StatusCode::TOO_MANY_REQUESTS, &headers, Some(body), UNIX_EPOCH, cap);
//! assert_eq!(feedback.remaining, Some(0));
//! assert_eq!(feedback.retry_after, Some(Duration::from_secs(9)), "the longest time wins");
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{DATE, HeaderMap, RETRY_AFTER};
use http::{HeaderName, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// What one answer reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feedback {
    /// `X-Ratelimit-Limit`: requests per window.
    pub limit: Option<u64>,
    /// `X-Ratelimit-Remaining`: requests left in this window.
    pub remaining: Option<u64>,
    /// `X-Ratelimit-Reset`: the window's end in seconds since the Unix epoch, by upstream's clock.
    pub reset: Option<u64>,
    /// Time from this answer to the window's end, by upstream's clock; zero if it has passed.
    pub resets_in: Option<Duration>,
    /// How long upstream says to wait, in whole seconds and at most the cap.
    pub retry_after: Option<Duration>,
}

impl Feedback {
    /// Whether it reports the window.
    pub fn tells_window(&self) -> bool {
        self.remaining.is_some() && self.reset.is_some() && self.resets_in.is_some()
    }
}

/// Whether DevRev's limiter let an attempt in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admitted {
    /// What lies behind the limiter has answered. If it reports no window, there is none.
    Yes,
    /// 429.
    No,
    /// What lies in front of the limiter may have answered. It does not know whose the attempt was, or whether there is a limit.
    Unknown,
}

impl Admitted {
    /// What the status of an answer says.
    pub fn of(status: StatusCode) -> Admitted {
        match status {
            StatusCode::TOO_MANY_REQUESTS => Admitted::No,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Admitted::Unknown,
            status if status.is_server_error() => Admitted::Unknown,
            _ => Admitted::Yes,
        }
    }
}

/// Reads an answer. `now` is the time of its arrival, `cap` the upper bound of the retry-after.
///
/// Times are relative to the answer's own `Date`, so that differing clocks do not matter. `Date` is truncated to whole seconds,
/// so a computed time is up to a second late and never early.
///
/// A retry-after is read from 429 and 503 only. It is the longest of `Retry-After` (RFC 9110 section 10.2.3: seconds or a
/// date), the body's `retry_after`, and, on a 429 with nothing remaining, the window's end. Zero and times in the past are
/// ignored: they would turn a backoff into a busy loop.
pub fn read(
    status: StatusCode,
    headers: &HeaderMap,
    body: Option<&[u8]>,
    now: SystemTime,
    cap: Duration,
) -> Feedback {
    let limit = number(headers, &LIMIT);
    let remaining = number(headers, &REMAINING);
    let reset = number(headers, &RESET);
    let throttled = status == StatusCode::TOO_MANY_REQUESTS;
    let refused = throttled || status == StatusCode::SERVICE_UNAVAILABLE;
    if !refused && reset.is_none() {
        return Feedback {
            limit,
            remaining,
            ..Feedback::default()
        };
    }
    let sent = text(headers, &DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    let sent = sent.unwrap_or(now);
    let resets_in = reset.map(|reset| {
        let sent = sent.duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_secs(reset).saturating_sub(sent)
    });
    let retry_after = refused.then(|| {
        let values = headers
            .get_all(RETRY_AFTER)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let in_header = values
            .filter_map(|value| parse_retry_after(value, sent))
            .max();
        let in_body = body.and_then(body_retry_after);
        let until_reset = resets_in.filter(|_| throttled && remaining == Some(0));
        in_header
            .max(in_body)
            .max(until_reset)
            .filter(|retry_after| !retry_after.is_zero())
            .map(|retry_after| Duration::from_secs(seconds_rounded_up(retry_after)).min(cap))
    });
    Feedback {
        limit,
        remaining,
        reset,
        resets_in,
        retry_after: retry_after.flatten(),
    }
}

/// A duration in whole seconds for `Retry-After`: rounded up, so that clients do not return early, and at least 1.
pub fn whole_seconds(time: Duration) -> u64 {
    seconds_rounded_up(time).max(1)
}

pub(super) fn seconds_rounded_up(time: Duration) -> u64 {
    let more = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(more)
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// A whole number; a fraction is truncated.
fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let text = text(headers, name)?;
    match text.parse() {
        Ok(number) => Some(number),
        // Casts from float to integer saturate.
        Err(_) => decimal(text).map(|number| number as u64),
    }
}

/// A number of seconds, or a date.
fn parse_retry_after(value: &str, sent: SystemTime) -> Option<Duration> {
    let value = value.trim();
    seconds(value).or_else(|| {
        httpdate::parse_http_date(value)
            .ok()?
            .duration_since(sent)
            .ok()
    })
}

/// A number that is not negative. Checked first, because `f64` would also parse `inf` and `nan`.
fn decimal(text: &str) -> Option<f64> {
    let plain = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
    if !text.bytes().all(plain) {
        return None;
    }
    text.parse().ok().filter(|number: &f64| *number >= 0.0)
}

fn seconds(text: &str) -> Option<Duration> {
    // A number that does not fit is too long anyway; the cap applies.
    decimal(text).map(|number| Duration::try_from_secs_f64(number).unwrap_or(Duration::MAX))
}

fn body_retry_after(body: &[u8]) -> Option<Duration> {
    #[derive(Deserialize)]
    struct RefusalBody<'a> {
        #[serde(borrow)]
        retry_after: Option<&'a RawValue>,
    }
    // A `RawValue`, so that a hostile value is not built up in memory.
    let body: RefusalBody<'_> = serde_json::from_slice(body).ok()?;
    let value = body.retry_after?.get();
    let value = value
        .strip_prefix('"')
        .and_then(|v| v.strip_suffix('"'))
        .unwrap_or(value);
    seconds(value.trim())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const CAP: Duration = Duration::from_secs(600);
    /// Sun, 06 Nov 1994 08:49:37 GMT
    const NOW: u64 = 784_111_777;

    /// How long an answer says to wait, in seconds.
    fn wait(status: u16, fields: &[(&'static str, &str)], body: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        let status = StatusCode::from_u16(status).unwrap();
        let feedback = read(status, &headers, Some(body.as_bytes()), now, CAP);
        feedback.retry_after.map(|time| time.as_secs())
    }

    #[test]
    fn seconds_are_rounded_up_and_capped() {
        for (value, seconds) in [
            ("7", Some(7)),
            ("1.2", Some(2)),
            ("99999999999999999999999", Some(600)),
            ("1e999", Some(600)),
            ("0", None),
            ("-3", None),
            ("nan", None),
            ("inf", None),
            ("soon", None),
            ("", None),
        ] {
            let field = ("retry-after", value);
            let waits = [429, 503, 500].map(|status| wait(status, &[field], ""));
            assert_eq!(waits, [seconds, seconds, None], "{value}");
        }
    }

    #[test]
    fn a_date_is_measured_against_the_answers_own() {
        let at = ("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT");
        assert_eq!(wait(429, &[at], ""), Some(60));
        for (date, want) in [
            ("Sun, 06 Nov 1994 08:50:27 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:51:27 GMT", None),
            ("nonsense", Some(60)),
        ] {
            assert_eq!(wait(429, &[at, ("date", date)], ""), want, "{date}");
        }
    }

    #[test]
    fn the_longest_retry_after_wins() {
        for (header, body, want) in [
            ("3", r#"{"retry_after":9}"#, 9),
            ("9", r#"{"retry_after":"3"}"#, 9),
            ("", r#"{"retry_after":"2.5"}"#, 3),
        ] {
            let fields = [("retry-after", header)];
            assert_eq!(wait(429, &fields, body), Some(want), "{body}");
        }
        for body in [
            r#"{"retry_after":-1}"#,
            r#"{"x":{"retry_after":5}}"#,
            r#"{"retry_after":null}"#,
            "5",
            "",
        ] {
            assert_eq!(wait(429, &[], body), None, "{body}");
        }
    }

    #[test]
    fn the_reset_is_a_time_when_nothing_remains() {
        let reset = (NOW + 30).to_string();
        let reset = ("x-ratelimit-reset", reset.as_str());
        let spent = ("x-ratelimit-remaining", "0");
        assert_eq!(wait(429, &[reset, spent], ""), Some(30));
        assert_eq!(
            wait(429, &[reset, ("x-ratelimit-remaining", "1")], ""),
            None
        );
        assert_eq!(wait(503, &[reset, spent], ""), None);
        // A duration read as an epoch lies in the past.
        assert_eq!(wait(429, &[("x-ratelimit-reset", "30"), spent], ""), None);
    }

    #[test]
    fn the_windows_end_is_measured_against_the_answers_own_date() {
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        let mut headers = HeaderMap::new();
        let mut resets_in = |name: &'static str, value: &str| {
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            let feedback = read(StatusCode::OK, &headers, None, now, CAP);
            feedback.resets_in.map(|time| time.as_secs())
        };
        assert_eq!(resets_in("x-ratelimit-remaining", "5"), None);
        let reset = (NOW + 90).to_string();
        assert_eq!(resets_in("x-ratelimit-reset", &reset), Some(90));
        // Upstream's clock is a minute ahead of ours, so the window has 30 s left.
        let mut by_date = |date| resets_in("date", date);
        assert_eq!(by_date("Sun, 06 Nov 1994 08:50:37 GMT"), Some(30));
        assert_eq!(by_date("Sun, 06 Nov 1994 08:59:37 GMT"), Some(0));
    }

    #[test]
    fn whole_seconds_are_at_least_one() {
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::from_millis(1001)), 2);
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn nothing_panics_and_nothing_passes_the_cap(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..24), 5),
            body in prop_oneof![".{0,40}", "[0-9eE.+-]{0,30}".prop_map(|n| format!("{{\"retry_after\":{n}}}"))],
            status in prop_oneof![Just(429u16), Just(503), 200u16..599],
            now in 0u64..1 << 40,
        ) {
            let names = ["retry-after", "date", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
            let mut headers = HeaderMap::new();
            for (name, value) in names.into_iter().zip(values) {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    headers.append(name, value);
                }
            }
            let now = UNIX_EPOCH + Duration::from_secs(now);
            let feedback = read(StatusCode::from_u16(status).unwrap(), &headers, Some(body.as_bytes()), now, CAP);
            prop_assert!(feedback.retry_after.is_none_or(|retry_after| retry_after <= CAP && !retry_after.is_zero()));
        }

        #[test]
        fn numeric_fields_never_panic(text in "[0-9eE.+:A-Za-z, -]{0,32}") {
            for name in ["retry-after", "date", "x-ratelimit-reset"] {
                wait(429, &[(name, &text), ("x-ratelimit-remaining", "0")], &text);
            }
        }
    }
}
