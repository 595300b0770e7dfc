//! The bytes of one connection, of HTTP/1.1 and of HTTP/2, as revgate follows them on their way to hyper. Pieces add up, and hyper serves
//! the requests of HTTP/1.1 that are followed and no others. The first byte of the input is the size of the pieces.
#![no_main]

use std::{cell::RefCell, convert::Infallible, rc::Rc};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use revgate::{
    fuzzing::{Followed, Follower, frames},
    policy::http1::{Cut, Input},
};
use tokio::{io::AsyncWriteExt, runtime::Runtime};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fuzz_target!(|input: &[u8]| {
    let Some((size, bytes)) = input.split_first() else {
        return;
    };
    let size = usize::from(*size) + 1;
    for agreed_on_http2 in [None, Some(false), Some(true)] {
        pieces_add_up(bytes, size, agreed_on_http2);
    }
    frames_are_found(bytes, size);
    hyper_sees_the_same_requests(bytes, size);
});

/// What is known in the end, or where a fault is.
fn followed(bytes: &[u8], size: usize, agreed_on_http2: Option<bool>) -> Result<Followed, Cut> {
    let mut follower = Follower::new(agreed_on_http2);
    let mut at = 0;
    for piece in bytes.chunks(size) {
        if let Err(cut) = follower.read(piece) {
            assert!(cut.at < piece.len());
            let again = follower.read(b"GET / HTTP/1.1\r\n\r\n");
            assert!(
                again.is_err_and(|again| again.fault == cut.fault),
                "a fault stays"
            );
            let at = at + cut.at;
            return Err(Cut { at, ..cut });
        }
        at += piece.len();
    }
    Ok(follower.followed())
}

fn pieces_add_up(bytes: &[u8], size: usize, agreed_on_http2: Option<bool>) {
    let whole = followed(bytes, usize::MAX, agreed_on_http2);
    let pieces = followed(bytes, size, agreed_on_http2);
    match (whole, pieces) {
        (Err(whole), Err(pieces)) if whole.at != pieces.at => {
            // hyper has the beginning of a preface already when it turns out to be none.
            assert!(agreed_on_http2.is_none() && PREFACE.starts_with(&bytes[..whole.at]));
            assert_eq!((whole.fault, whole.in_body), (pieces.fault, pieces.in_body));
        }
        (whole, pieces) => assert_eq!(whole, pieces),
    }
}

/// The kind, the flags and the payload of each frame that is complete, and what is left.
fn split(mut bytes: &[u8]) -> (Vec<(u8, u8, &[u8])>, &[u8]) {
    let mut all = Vec::new();
    while let Some((&[a, b, c, kind, flags, ..], rest)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            break;
        };
        all.push((kind, flags, payload));
        bytes = rest;
    }
    (all, bytes)
}

/// Frames are split in another way here: whole ones, from a slice.
fn frames_are_found(bytes: &[u8], size: usize) {
    let (all, rest) = split(bytes);
    let (mut ended, mut open) = (0, false);
    let (mut said, mut heads) = (Vec::new(), 0);
    for (kind, flags, payload) in &all {
        match (kind, flags & 4 > 0) {
            (1, true) => (ended, open) = (ended + 1, false),
            (9, true) if open => (ended, open) = (ended + 1, false),
            (1, false) => open = true,
            _ => {}
        }
        match (kind, flags & 1 > 0) {
            (4, false) => {
                let (settings, _) = payload.as_chunks::<6>();
                let streams = settings.iter().rev().find(|setting| setting[..2] == [0, 3]);
                let streams = streams.map(|[_, _, value @ ..]| u32::from_be_bytes(*value));
                said.push(format!("Settings({streams:?})"));
            }
            (7, _) => said.push("GoAway".to_owned()),
            (1, false) => heads += 1,
            (0 | 1, _) => heads = 0,
            _ => {}
        }
    }
    assert_eq!(frames(bytes.chunks(size)), (said, heads > 1000));
    let of_client = [PREFACE, bytes].concat();
    for agreed_on_http2 in [None, Some(true)] {
        let found = followed(&of_client, size, agreed_on_http2).expect("no fault of HTTP/1.1");
        assert!(found.http2);
        assert_eq!(found.blocks, ended);
        // The frame that is not complete may begin a block.
        let begins = rest.len() >= 9 && rest[3] == 1;
        assert_eq!(found.incomplete, open || begins);
    }
}

/// The head of each request that is complete.
fn heads(bytes: &[u8]) -> (Vec<&[u8]>, Option<Cut>) {
    let (mut input, mut begun, mut heads) = (Input::default(), 0, Vec::new());
    for at in 0..bytes.len() {
        let before = input.incomplete_head();
        if let Err(cut) = input.read(&bytes[at..=at]) {
            return (
                heads,
                Some(Cut {
                    at: at + cut.at,
                    ..cut
                }),
            );
        }
        match (before, input.incomplete_head()) {
            (0, 1) => begun = at,
            (1.., 0) => heads.push(bytes[begun..=at].trim_ascii_start()),
            _ => {}
        }
    }
    (heads, None)
}

/// Method and target as hyper writes them; `None` if it refuses the target.
fn request(head: &[u8]) -> Option<String> {
    let mut words = head.split(|byte| *byte == b' ');
    let (method, target) = (words.next()?, words.next()?);
    let target = Uri::try_from(target).ok()?;
    Some(format!("{} {target}", String::from_utf8_lossy(method)))
}

/// Whether hyper reads no further request behind this one.
fn may_be_the_last(head: &[u8]) -> bool {
    let head = head.to_ascii_lowercase();
    let has = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
    has(b" http/1.0\r\n") || has(b"connection") || head.starts_with(b"connect ")
}

fn hyper_sees_the_same_requests(bytes: &[u8], size: usize) {
    let mut bytes = bytes.to_vec();
    let (_, cut) = heads(&bytes);
    if cut.is_none() {
        bytes.extend_from_slice(b"GET /last HTTP/1.1\r\n\r\n");
    }
    let (heads, cut) = heads(&bytes);
    let mut input = bytes.clone();
    if let Some(cut) = cut {
        input.truncate(cut.at);
        // As revgate does.
        input.extend_from_slice(if cut.in_body { b"" } else { b"\0\r\n\r\n" });
    }
    let served = served(&input, size);
    let wanted: Vec<_> = heads.iter().map_while(|head| request(head)).collect();
    assert!(wanted.starts_with(&served), "{served:?} {wanted:?}");
    let ended = served.len().checked_sub(1).map(|last| heads[last]);
    assert!(
        served.len() == wanted.len() || ended.is_some_and(may_be_the_last),
        "{served:?} {wanted:?}"
    );
}

/// The requests that hyper serves, whose buffer it reads in pieces of this size.
fn served(bytes: &[u8], size: usize) -> Vec<String> {
    thread_local! {
        static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    }
    let served = Rc::new(RefCell::new(Vec::new()));
    let seen = served.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let line = format!("{} {}", request.method(), request.uri());
            seen.borrow_mut().push(line);
            let _ = request.into_body().collect().await;
            // Not a success, which would turn CONNECT into a tunnel.
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = StatusCode::NOT_FOUND;
            Ok::<_, Infallible>(response)
        }
    });
    let (near, far) = tokio::io::duplex(size);
    let server = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        // revgate has a bound of its own behind this one.
        .max_headers(10_000)
        .serve_connection(TokioIo::new(near), service);
    let (mut answers, mut requests) = tokio::io::split(far);
    let mut sink = tokio::io::sink();
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let write = async {
                let _ = requests.write_all(bytes).await;
                let _ = requests.shutdown().await;
            };
            let _ = tokio::join!(server, write, tokio::io::copy(&mut answers, &mut sink));
        });
    });
    served.take()
}
