//! What an upstream answer says about its limits. Every value in it may be missing, wrong or hostile.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{DATE, HeaderMap, RETRY_AFTER};
use http::{HeaderName, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// What an answer told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feedback {
    /// `X-Ratelimit-Limit`: requests per window.
    pub limit: Option<u64>,
    /// `X-Ratelimit-Remaining`: requests left in this window.
    pub remaining: Option<u64>,
    /// `X-Ratelimit-Reset`: when the window ends, in seconds since the Unix epoch, by upstream's clock.
    pub reset: Option<u64>,
    /// How long upstream asks to stay away, in whole seconds and never longer than the cap.
    pub demand: Option<Duration>,
}

/// Reads an answer. `now` is the time of its arrival, `cap` the longest demand that is believed.
///
/// A demand is read from 429 and 503 only. It is the longest of `Retry-After` (RFC 9110 section 10.2.3: seconds or a
/// date), the body's `retry_after`, and, on a 429 with nothing remaining, the window's end. Dates are measured against the
/// answer's own `Date`, so that a clock that is off does not matter. A time of zero, or one that has passed, is no time: it would turn
/// a backoff into a busy loop.
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
    let mut demand = None;
    if throttled || status == StatusCode::SERVICE_UNAVAILABLE {
        let sent = text(headers, &DATE).and_then(|date| httpdate::parse_http_date(date).ok());
        let sent = sent.unwrap_or(now);
        let named = headers
            .get_all(RETRY_AFTER)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let named = named.filter_map(|value| retry_after(value, sent)).max();
        let told = body.and_then(body_retry_after);
        let ended = reset
            .filter(|_| throttled && remaining == Some(0))
            .map(|reset| {
                let sent = sent.duration_since(UNIX_EPOCH).unwrap_or_default();
                Duration::from_secs(reset).saturating_sub(sent)
            });
        let longest = named
            .max(told)
            .max(ended)
            .filter(|demand| !demand.is_zero());
        demand = longest.map(|demand| round_up(demand).min(cap));
    }
    Feedback {
        limit,
        remaining,
        reset,
        demand,
    }
}

/// A duration in whole seconds for `Retry-After`: rounded up, so that nobody comes back early, and at least 1.
pub fn whole_seconds(time: Duration) -> u64 {
    round_up(time).as_secs().max(1)
}

fn round_up(time: Duration) -> Duration {
    let more = u64::from(time.subsec_nanos() > 0);
    Duration::from_secs(time.as_secs().saturating_add(more))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// A whole number; a fraction is cut off, for a request is there whole or not at all.
fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let text = text(headers, name)?;
    match text.parse() {
        Ok(number) => Some(number),
        // Casts from float to integer saturate.
        Err(_) => decimal(text).map(|number| number as u64),
    }
}

/// A number of seconds, or a date.
fn retry_after(value: &str, sent: SystemTime) -> Option<Duration> {
    let value = value.trim();
    seconds(value).or_else(|| {
        httpdate::parse_http_date(value)
            .ok()?
            .duration_since(sent)
            .ok()
    })
}

/// A number that is not negative. Plain digits only: `f64` would read `inf` and `nan` as well.
fn decimal(text: &str) -> Option<f64> {
    let plain = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
    if !text.bytes().all(plain) {
        return None;
    }
    text.parse().ok().filter(|number: &f64| *number >= 0.0)
}

fn seconds(text: &str) -> Option<Duration> {
    // What does not fit is very long; the cap cuts it.
    decimal(text).map(|number| Duration::try_from_secs_f64(number).unwrap_or(Duration::MAX))
}

fn body_retry_after(body: &[u8]) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Told<'a> {
        #[serde(borrow)]
        retry_after: Option<&'a RawValue>,
    }
    // The bare value, not a `Value`: a hostile body must not be built up in memory.
    let told: Told<'_> = serde_json::from_slice(body).ok()?;
    let value = told.retry_after?.get();
    let value = value
        .strip_prefix('"')
        .and_then(|v| v.strip_suffix('"'))
        .unwrap_or(value);
    seconds(value.trim())
}
