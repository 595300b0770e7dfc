//! Follows the input of a connection of HTTP/1.1, head after body after head, and finds what two servers could read differently.
//!
//! It accepts less than hyper does: where it finds no fault, hyper must see the same requests in the same bytes.
//!
//! ```
//! use revgate::policy::http1::{HeadFault, Input};
//!
//! let mut input = Input::default();
//! assert_eq!(input.read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(()));
//! let cut = input.read(b"GET /\xe4 HTTP/1.1\r\n").unwrap_err();
//! assert_eq!((cut.at, cut.fault), (5, HeadFault::Target));
//! ```

mod chunks;
mod fields;

use http::{HeaderMap, Method, Uri};
use thiserror::Error;

use self::{
    chunks::Chunks,
    fields::{Fields, Framing, Read},
};
use super::target::FramingFault;

/// The longest of the methods that IANA lists has 17 characters.
pub const MAX_METHOD: usize = 32;

/// Names in use have some 40 characters at most.
pub const MAX_FIELD_NAME: usize = 256;

/// A fault of a request's head, or of the framing of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeadFault {
    /// RFC 9110 section 9.1.
    #[error("the method is no token")]
    Method,
    #[error("the method has more than {MAX_METHOD} characters")]
    MethodTooLong,
    /// RFC 9112 section 3.2.
    #[error("the target has a character that no target has")]
    Target,
    /// RFC 9112 section 2.3.
    #[error("the version is neither HTTP/1.1 nor HTTP/1.0")]
    Version,
    /// A bare CR or LF (RFC 9112 section 2.2).
    #[error("a line does not end with CR LF")]
    LineEnd,
    /// Whitespace before the colon, a folded line or a control character (RFC 9112 section 5).
    #[error("a header field is malformed")]
    Field,
    #[error("a header field's name has more than {MAX_FIELD_NAME} characters")]
    FieldNameTooLong,
    #[error(transparent)]
    Framing(#[from] FramingFault),
    /// RFC 9112 section 7.1.
    #[error("a chunk is malformed")]
    Chunk,
    #[error("the line of a chunk's size is too long")]
    ChunkLineTooLong,
    #[error("the trailers are too long")]
    TrailersTooLong,
}

/// Where the input went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// So many bytes of what was read are good.
    pub at: usize,
    pub fault: HeadFault,
    /// It is in a body, not in a head.
    pub in_body: bool,
}

/// What has been read of a connection's input.
#[derive(Debug, Default)]
pub struct Input {
    at: At,
    /// Of the present head so far, with the empty lines before it.
    head: usize,
    heads: u64,
}

#[derive(Debug, Default)]
enum At {
    /// Before a head. Empty lines may come there (RFC 9112 section 2.2).
    #[default]
    Before,
    BeforeLf,
    Method(usize),
    /// False before its first character.
    Target(bool),
    /// So many characters of it.
    Version(usize),
    VersionCr(Minor),
    VersionLf(Minor),
    Fields(Minor, Fields),
    /// So many bytes are left.
    Sized(u64),
    Chunked(Chunks),
    /// Nothing after a fault is read.
    Broken(HeadFault, bool),
}

/// HTTP/1.1 or HTTP/1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Minor {
    One,
    Zero,
}

const VERSION: &[u8] = b"HTTP/1.";

impl Input {
    /// Reads on.
    ///
    /// # Errors
    ///
    /// The first fault. It stays.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        let mut at = 0;
        while at < bytes.len() {
            let step = match &mut self.at {
                At::Sized(left) => {
                    let some = usize::try_from(*left).unwrap_or(usize::MAX);
                    let some = some.min(bytes.len() - at);
                    *left -= some as u64;
                    if *left == 0 {
                        self.at = At::Before;
                    }
                    Ok(some)
                }
                At::Chunked(chunks) => chunks.read(&bytes[at..]).map(|read| {
                    if read.is_last {
                        self.at = At::Before;
                    }
                    read.bytes
                }),
                At::Broken(fault, _) => Err(*fault),
                _ => match self.skip(&bytes[at..]) {
                    0 => self.read_head(bytes[at]).map(|()| 1),
                    some => {
                        self.head += some;
                        Ok(some)
                    }
                },
            };
            match step {
                Ok(some) => at += some,
                Err(fault) => {
                    let in_body = matches!(self.at, At::Chunked(_) | At::Broken(_, true));
                    self.at = At::Broken(fault, in_body);
                    return Err(Cut { at, fault, in_body });
                }
            }
        }
        Ok(())
    }

    /// Bytes of a head that has begun and not ended.
    pub fn incomplete_head(&self) -> usize {
        match self.at {
            At::Sized(_) | At::Chunked(_) | At::Broken(..) => 0,
            _ => self.head,
        }
    }

    /// How many heads have ended.
    pub fn ended_heads(&self) -> u64 {
        self.heads
    }

    /// How many bytes come next that change nothing. Most of a large head is its values, or its target, and whoever sends many heads should
    /// not take a worker's time with them.
    fn skip(&self, bytes: &[u8]) -> usize {
        match &self.at {
            At::Target(true) => run(bytes, are_graphic, is_of_target),
            At::Fields(_, fields) => fields.skip(bytes),
            _ => 0,
        }
    }

    fn read_head(&mut self, byte: u8) -> Result<(), HeadFault> {
        self.head += 1;
        self.at = match (&mut self.at, byte) {
            (At::Before, b'\r') => At::BeforeLf,
            (At::BeforeLf, b'\n') => At::Before,
            (At::Before, b'\n') | (At::BeforeLf, _) => return Err(HeadFault::LineEnd),
            (At::Before, _) if is_token(byte) => At::Method(1),
            (At::Method(_), b' ') => At::Target(false),
            (At::Method(length), _) if is_token(byte) => match *length {
                MAX_METHOD => return Err(HeadFault::MethodTooLong),
                length => At::Method(length + 1),
            },
            (At::Before | At::Method(_), _) => return Err(HeadFault::Method),
            (At::Target(true), b' ') => At::Version(0),
            (At::Target(_), _) if is_of_target(byte) => At::Target(true),
            (At::Target(_), _) => return Err(HeadFault::Target),
            (At::Version(length), _) => match (VERSION.get(*length), byte) {
                (Some(want), got) if *want == got => At::Version(*length + 1),
                (None, b'1') => At::VersionCr(Minor::One),
                (None, b'0') => At::VersionCr(Minor::Zero),
                _ => return Err(HeadFault::Version),
            },
            (At::VersionCr(minor), b'\r') => At::VersionLf(*minor),
            (At::VersionCr(_), b'\n') => return Err(HeadFault::LineEnd),
            (At::VersionCr(_), _) => return Err(HeadFault::Version),
            (At::VersionLf(minor), b'\n') => At::Fields(*minor, Fields::of_head()),
            (At::VersionLf(_), _) => return Err(HeadFault::LineEnd),
            (At::Fields(minor, fields), _) => match fields.read(byte)? {
                Read::More => return Ok(()),
                Read::End => {
                    self.head = 0;
                    self.heads += 1;
                    match fields.framing(*minor == Minor::One)? {
                        Framing::Sized(0) => At::Before,
                        Framing::Sized(length) => At::Sized(length),
                        Framing::Chunked => At::Chunked(Chunks::default()),
                    }
                }
            },
            (At::Sized(_) | At::Chunked(_) | At::Broken(..), _) => return Ok(()),
        };
        Ok(())
    }
}

/// Checks what HTTP/2 leaves open: the lengths of the method and of names, and the characters of the target.
///
/// # Errors
///
/// The first fault found.
pub fn check(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), HeadFault> {
    if method.as_str().len() > MAX_METHOD {
        return Err(HeadFault::MethodTooLong);
    }
    if headers
        .keys()
        .any(|name| name.as_str().len() > MAX_FIELD_NAME)
    {
        return Err(HeadFault::FieldNameTooLong);
    }
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    match target.bytes().all(is_of_target) {
        true => Ok(()),
        false => Err(HeadFault::Target),
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Visible ASCII. The parser of targets knows the rest.
fn is_of_target(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

/// How many bytes at the start are good. Judges eight at once while all of those are.
fn run(bytes: &[u8], are_good: impl Fn(u64) -> bool, is_good: impl Fn(u8) -> bool) -> usize {
    let (eights, _) = bytes.as_chunks::<8>();
    let eights = eights.iter().map(|eight| u64::from_ne_bytes(*eight));
    let good = eights.take_while(|eight| are_good(*eight)).count() * 8;
    let rest = bytes[good..].iter();
    good + rest.take_while(|byte| is_good(**byte)).count()
}

const ONES: u64 = u64::MAX / 0xff;
const TOPS: u64 = ONES << 7;

/// Not 0 if one of these is an ASCII character below `least`, or DEL: subtracting borrows from its highest bit.
fn with_controls(eight: u64, least: u8) -> u64 {
    let below = eight.wrapping_sub(ONES * u64::from(least)) & !eight;
    let no_del = eight ^ (ONES * 0x7f);
    let del = no_del.wrapping_sub(ONES) & !no_del;
    (below | del) & TOPS
}

fn are_graphic(eight: u64) -> bool {
    (with_controls(eight, b'!') | eight & TOPS) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        HeadFault::{
            Chunk, ChunkLineTooLong, Field, FieldNameTooLong, Framing as Frames, LineEnd,
            MethodTooLong, Target, TrailersTooLong, Version,
        },
        chunks::{MAX_LINE, MAX_TRAILERS},
        *,
    };
    use crate::policy::target::FramingFault::{Both, ContentLength, TransferEncoding};

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// The fault of these bytes, behind other requests and in pieces.
    fn fault(bytes: &[u8]) -> Option<HeadFault> {
        let body = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        let chunks = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        let mut found = Vec::new();
        for before in [&b""[..], GET, b"\r\n", body, chunks] {
            for size in [1, 7, 100_000] {
                let mut input = Input::default();
                assert_eq!(input.read(before), Ok(()));
                let mut pieces = bytes.chunks(size);
                found.push(pieces.find_map(|piece| input.read(piece).err().map(|cut| cut.fault)));
            }
        }
        assert!(found.windows(2).all(|two| two[0] == two[1]), "{found:?}");
        found[0]
    }

    fn with(fields: &str) -> String {
        format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n")
    }

    #[test]
    fn heads() {
        let long = |length: usize| "a".repeat(length);
        let method = |length| format!("{} / HTTP/1.1\r\n", long(length));
        let name = |length| with(&format!("{}: b", long(length)));
        for (text, want) in [
            (String::new(), None),
            ("GET / HTTP/1.1\r\n\r\n".into(), None),
            ("\r\n\r\nGET / HTTP/1.0\r\n\r\n".into(), None),
            (method(MAX_METHOD), None),
            (method(MAX_METHOD + 1), Some(MethodTooLong)),
            (method(100_000), Some(MethodTooLong)),
            (" GET / HTTP/1.1".into(), Some(HeadFault::Method)),
            ("G\u{e4}T /".into(), Some(HeadFault::Method)),
            ("GET\t/ ".into(), Some(HeadFault::Method)),
            ("\nGET".into(), Some(LineEnd)),
            ("\rGET".into(), Some(LineEnd)),
            ("GET  / ".into(), Some(Target)),
            ("GET /\t".into(), Some(Target)),
            ("GET /\u{e4}".into(), Some(Target)),
            ("GET /\u{85}".into(), Some(Target)),
            ("GET /\u{a0}".into(), Some(Target)),
            ("GET /\x7f".into(), Some(Target)),
            ("GET /\0".into(), Some(Target)),
            ("GET /\r\n".into(), Some(Target)),
            ("GET / b HTTP/1.1".into(), Some(Version)),
            ("GET /  HTTP/1.1".into(), Some(Version)),
            ("GET / HTTP/1.2".into(), Some(Version)),
            ("GET / HTTP/2.0".into(), Some(Version)),
            ("GET / http/1.1".into(), Some(Version)),
            ("GET / HTTP/1.1 \r\n".into(), Some(Version)),
            ("GET / HTTP/1.1\n".into(), Some(LineEnd)),
            ("GET / HTTP/1.1\r\r\n".into(), Some(LineEnd)),
            (with("a: b\r\nc:d\r\ne:\r\nf: \tg \u{e4} \t"), None),
            (with("a : b"), Some(Field)),
            (with("a\t: b"), Some(Field)),
            (with("a"), Some(LineEnd)),
            (with(": b"), Some(Field)),
            (with(" a: b"), Some(Field)),
            (with("a: b\r\n c"), Some(Field)),
            (with("a: b\r\n\tc"), Some(Field)),
            (with("a: b\nc: d"), Some(LineEnd)),
            (with("a: b\rc: d"), Some(LineEnd)),
            (with("a: b\0"), Some(Field)),
            (with("a: \x7f"), Some(Field)),
            (with("a: b\r\n\n"), Some(LineEnd)),
            (name(MAX_FIELD_NAME), None),
            (name(MAX_FIELD_NAME + 1), Some(FieldNameTooLong)),
            (name(100_000), Some(FieldNameTooLong)),
        ] {
            assert_eq!(
                fault(text.as_bytes()),
                want,
                "{:?}",
                text.get(..60).unwrap_or(&text)
            );
        }
        // Not even UTF-8.
        assert_eq!(fault(b"GET /\xff"), Some(Target));
    }

    #[test]
    fn framings() {
        let (te, cl) = (Some(Frames(TransferEncoding)), Some(Frames(ContentLength)));
        let chunked = "Transfer-Encoding: chunked";
        for (fields, want) in [
            (chunked.into(), None),
            ("transfer-ENCODING:\tCHUNKED \t ".into(), None),
            ("Transfer-Encoding: gzip, chunked".into(), te),
            ("Transfer-Encoding: chunked, chunked".into(), te),
            ("Transfer-Encoding: chunked,".into(), te),
            ("Transfer-Encoding: chun ked".into(), te),
            ("Transfer-Encoding: \u{b}chunked".into(), Some(Field)),
            ("Transfer-Encoding: identity".into(), te),
            ("Transfer-Encoding:".into(), te),
            (format!("{chunked}\r\n{chunked}"), te),
            (
                format!("{chunked}\r\nContent-Length: 5"),
                Some(Frames(Both)),
            ),
            (
                format!("Content-Length: 5\r\n{chunked}"),
                Some(Frames(Both)),
            ),
            ("Content-Length: 0".into(), None),
            ("Content-Length: 5\r\nContent-Length: 5".into(), None),
            ("Content-Length: 5\r\nContent-Length: 05".into(), cl),
            ("Content-Length: 5\r\nContent-Length: 6".into(), cl),
            ("Content-Length: 5, 5".into(), cl),
            ("Content-Length: 5 5".into(), cl),
            ("Content-Length: +5".into(), cl),
            ("Content-Length: -5".into(), cl),
            ("Content-Length: 0x5".into(), cl),
            ("Content-Length:".into(), cl),
            ("Content-Length: 18446744073709551613".into(), None),
            ("Content-Length: 18446744073709551614".into(), cl),
            (format!("Content-Length: {}5", "0".repeat(40)), cl),
        ] {
            assert_eq!(fault(with(&fields).as_bytes()), want, "{fields:?}");
        }
        let zero = format!("POST / HTTP/1.0\r\n{chunked}\r\n\r\n");
        assert_eq!(fault(zero.as_bytes()), te);
    }

    #[test]
    fn chunks() {
        let long = |length: usize| "a".repeat(length);
        let line = |length: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", long(length - 4));
        let trailers = |length: usize| format!("0\r\na: {}\r\n\r\n", long(length - 7));
        for (body, want) in [
            ("0\r\n\r\n".into(), None),
            ("000\r\n\r\n".into(), None),
            ("1\r\nx\r\nA\r\n0123456789\r\n0\r\n\r\n".into(), None),
            (
                "1;a=b\r\nx\r\n1 ; c=\"\td\"\r\nx\r\n0;e\r\n\r\n".into(),
                None,
            ),
            ("0\r\na: b\r\nContent-Length: 9\r\n\r\n".into(), None),
            ("\r\n".into(), Some(Chunk)),
            ("g\r\n".into(), Some(Chunk)),
            (" 1\r\n".into(), Some(Chunk)),
            ("+1\r\n".into(), Some(Chunk)),
            ("0x1\r\n".into(), Some(Chunk)),
            ("1 \r\n".into(), Some(Chunk)),
            ("1\n".into(), Some(Chunk)),
            ("1\r\r\n".into(), Some(Chunk)),
            ("1;a\n".into(), Some(Chunk)),
            ("1;a\0\r\n".into(), Some(Chunk)),
            ("1;a\x08\r\n".into(), Some(Chunk)),
            ("1;a\x7f\r\n".into(), Some(Chunk)),
            ("1;\u{e4}\r\n".into(), Some(Chunk)),
            ("1;a\rb\r\n".into(), Some(Chunk)),
            ("1\r\nxy".into(), Some(Chunk)),
            ("1\r\nx\n".into(), Some(Chunk)),
            ("ffffffffffffffff\r\nx".into(), None),
            ("0ffffffffffffffff\r\nx".into(), Some(ChunkLineTooLong)),
            (
                format!("{}1\r\nx", "0".repeat(100_000)),
                Some(ChunkLineTooLong),
            ),
            (
                format!("1{};a\r\nx", " ".repeat(100_000)),
                Some(ChunkLineTooLong),
            ),
            (line(MAX_LINE), None),
            (line(MAX_LINE + 1), Some(ChunkLineTooLong)),
            (trailers(MAX_TRAILERS), None),
            (trailers(MAX_TRAILERS + 1), Some(TrailersTooLong)),
            ("0\r\na : b\r\n\r\n".into(), Some(Field)),
            ("0\r\na: b\r\n c\r\n\r\n".into(), Some(Field)),
            ("0\r\na: b\n\r\n".into(), Some(LineEnd)),
            ("0\r\n\n".into(), Some(LineEnd)),
        ] {
            let text = with("Transfer-Encoding: chunked") + &body;
            let shown = body.get(..60).unwrap_or(&body);
            assert_eq!(fault(text.as_bytes()), want, "{shown:?}");
            if want.is_some() {
                let mut input = Input::default();
                assert!(
                    input.read(text.as_bytes()).unwrap_err().in_body,
                    "{shown:?}"
                );
                assert!(input.read(b"x").unwrap_err().in_body, "{shown:?}");
            }
        }
    }

    #[test]
    fn a_head_is_incomplete_until_its_last_byte() {
        let mut input = Input::default();
        for round in 1..3 {
            assert_eq!(input.incomplete_head(), 0);
            for at in 0..GET.len() - 1 {
                assert_eq!(input.read(&GET[at..=at]), Ok(()));
                assert_eq!(input.incomplete_head(), at + 1, "{round}");
            }
            assert_eq!(input.read(&GET[GET.len() - 1..]), Ok(()));
        }
        let body = with("Content-Length: 3") + "ab";
        assert_eq!(input.read(body.as_bytes()), Ok(()));
        assert_eq!(input.incomplete_head(), 0);
        assert_eq!(input.read(b"cGET"), Ok(()));
        assert_eq!(input.incomplete_head(), 3);
    }

    #[test]
    fn what_http2_leaves_open() {
        let of = |method: &str, target: &'static [u8]| {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let uri = Uri::from_maybe_shared(bytes::Bytes::from_static(target)).unwrap();
            check(&method, &uri, &HeaderMap::new())
        };
        let named = |length| {
            let name = http::HeaderName::from_bytes("a".repeat(length).as_bytes()).unwrap();
            let headers = HeaderMap::from_iter([(name, http::HeaderValue::from_static("b"))]);
            check(&Method::GET, &Uri::from_static("/"), &headers)
        };
        assert_eq!(named(MAX_FIELD_NAME), Ok(()));
        assert_eq!(named(MAX_FIELD_NAME + 1), Err(FieldNameTooLong));
        assert_eq!(of("GET", b"http://a/b?c=%ff"), Ok(()));
        assert_eq!(of(&"A".repeat(MAX_METHOD), b"/"), Ok(()));
        assert_eq!(of(&"A".repeat(MAX_METHOD + 1), b"/"), Err(MethodTooLong));
        assert_eq!(of("GET", "/\u{e4}".as_bytes()), Err(Target));
        assert_eq!(of("GET", "/?\u{a0}".as_bytes()), Err(Target));
    }

    proptest! {
        /// Also where nearly all are good.
        #[test]
        fn eight_at_once_are_judged_like_each(random: [u8; 8], at in 0..8usize, byte: u8, fill in b'!'..=b'~') {
            let mut nearly = [fill; 8];
            nearly[at] = byte;
            for eight in [random, nearly] {
                let at_once = u64::from_ne_bytes(eight);
                prop_assert_eq!(are_graphic(at_once), eight.iter().all(|byte| is_of_target(*byte)));
                let is_plain = |byte: &u8| *byte >= b' ' && *byte != 0x7f;
                prop_assert_eq!(with_controls(at_once, b' ') == 0, eight.iter().all(is_plain));
            }
        }
    }

    proptest! {
        /// How the input is cut makes no difference.
        #[test]
        fn pieces_add_up(
            parts in prop::collection::vec("[ -~]{0,8}|\r|\n|\r\n|GET / HTTP/1\\.1\r\n|\r\n\r\n|Content-Length: [0-9]\r\n|Transfer-Encoding: chunked\r\n|[0-3]\r\n", 0..20),
            size in 1..50usize,
        ) {
            let bytes = parts.concat().into_bytes();
            let (mut whole, mut pieces) = (Input::default(), Input::default());
            let want = whole.read(&bytes);
            let mut at = 0;
            let got = bytes.chunks(size).try_for_each(|piece| {
                let read = pieces.read(piece).map_err(|cut| Cut { at: at + cut.at, ..cut });
                at += piece.len();
                read
            });
            prop_assert_eq!(got, want);
            prop_assert_eq!(whole.incomplete_head(), pieces.incomplete_head());
        }
    }
}
