//! What DevRev's answers report: header fields and a body, any of them wrong.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use arbitrary::Arbitrary;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use libfuzzer_sys::fuzz_target;
use revgate::policy::feedback::read;

#[derive(Arbitrary, Debug)]
struct Answer<'a> {
    status: u8,
    fields: Vec<(u8, &'a [u8])>,
    body: Option<&'a [u8]>,
    now: u32,
    cap: u32,
}

const NAMES: [HeaderName; 5] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
    header::RETRY_AFTER,
    header::DATE,
];

const STATUSES: [StatusCode; 4] = [
    StatusCode::OK,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::UNAUTHORIZED,
];

fuzz_target!(|answer: Answer<'_>| {
    let status = STATUSES[usize::from(answer.status) % STATUSES.len()];
    let mut headers = HeaderMap::new();
    for (name, value) in &answer.fields {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(NAMES[usize::from(*name) % NAMES.len()].clone(), value);
        }
    }
    let now = UNIX_EPOCH + Duration::from_secs(answer.now.into());
    let cap = Duration::from_secs(answer.cap.into());
    let feedback = read(status, &headers, answer.body, now, cap);
    let refused = matches!(status.as_u16(), 429 | 503);
    if let Some(wait) = feedback.retry_after {
        assert!(refused);
        assert!(wait <= cap);
        assert_eq!(wait.subsec_nanos(), 0);
    }
    assert_eq!(feedback.resets_in.is_some(), feedback.reset.is_some());
    // A plain number of seconds is never shortened by anything but the cap.
    let plain = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    if let Some(seconds) = plain.and_then(|text| text.parse::<u32>().ok())
        && refused
        && seconds > 0
    {
        let wanted = Duration::from_secs(seconds.into()).min(cap);
        assert!(feedback.retry_after.is_some_and(|wait| wait >= wanted));
    }
    for (name, number) in NAMES
        .iter()
        .zip([feedback.limit, feedback.remaining, feedback.reset])
    {
        let text = headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(wanted) = text.and_then(|text| text.parse::<u64>().ok()) {
            assert_eq!(number, Some(wanted));
        }
    }
});
