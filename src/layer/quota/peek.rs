//! Reads the start of a refusal's body for its `retry_after`, within bounds, and puts it back.

use std::{io::Read, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Response, header};
use tokio::time::timeout;

use crate::body::{Body, Start};

/// DevRev's refusals are far smaller.
const MAX_PEEK: usize = 64 * 1024;
/// If the body takes longer, only the headers count.
const PEEK_TIME: Duration = Duration::from_secs(1);

pub(super) async fn peek(response: Response<Body>) -> (Response<Body>, Option<Bytes>) {
    let (head, mut body) = response.into_parts();
    let mut start = Start::default();
    let _ = timeout(PEEK_TIME, start.take_in(&mut body, MAX_PEEK)).await;
    let text = decode(&head.headers, &start.bytes());
    let body = start.put_back(body);
    (Response::from_parts(head, body), text)
}

/// An answer may be compressed, because the caller's `Accept-Encoding` is forwarded. If it cannot be decoded, only the headers
/// count.
fn decode(headers: &HeaderMap, bytes: &Bytes) -> Option<Bytes> {
    let mut out = Vec::new();
    let coding = headers
        .get(header::CONTENT_ENCODING)
        .map(|value| value.as_bytes().to_ascii_lowercase());
    match coding.as_deref() {
        None | Some(b"identity") => return Some(bytes.clone()),
        Some(b"gzip") => flate2::read::GzDecoder::new(&bytes[..])
            .take(MAX_PEEK as u64)
            .read_to_end(&mut out)
            .ok()?,
        Some(b"deflate") => flate2::read::ZlibDecoder::new(&bytes[..])
            .take(MAX_PEEK as u64)
            .read_to_end(&mut out)
            .ok()?,
        Some(_) => return None,
    };
    Some(out.into())
}
