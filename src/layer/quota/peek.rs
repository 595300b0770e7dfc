//! Reads the start of a refusal for its `retry_after`, within bounds, and puts it back.

use std::{io::Read, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Response, header};
use http_body_util::BodyExt;

use crate::body::Body;

/// A refusal's JSON is far smaller.
const MAX_PEEK: usize = 64 * 1024;
/// A refusal that drips is judged by its headers.
const PEEK_TIME: Duration = Duration::from_secs(1);

pub async fn peek(response: Response<Body>) -> (Response<Body>, Option<Bytes>) {
    let (head, mut body) = response.into_parts();
    let (mut seen, mut last, mut ended) = (Vec::new(), None, false);
    let read = tokio::time::timeout(PEEK_TIME, async {
        while seen.len() < MAX_PEEK {
            match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => seen.extend_from_slice(&data),
                    Err(trailers) => {
                        last = Some(Ok(trailers));
                        break;
                    }
                },
                // What breaks off here breaks off for the caller as well.
                Some(Err(error)) => {
                    last = Some(Err(error));
                    break;
                }
                None => {
                    ended = true;
                    break;
                }
            }
        }
    });
    let _ = read.await;
    let bytes = Bytes::from(seen);
    let text = decode(&head.headers, &bytes);
    let body = if ended {
        Body::full(bytes)
    } else {
        Body::resumed(bytes, last, body)
    };
    (Response::from_parts(head, body), text)
}

/// Answers are compressed as the caller's `Accept-Encoding` allows; what cannot be decoded is judged by its headers.
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
