//! Follows a connection's input on its way to hyper, as far as heads are concerned: where each begins and ends, and how much memory an
//! incomplete one may cost. Keeps nothing of the input but a few bytes.

use memchr::memchr;

use crate::allocation::FREE_HEAD;

/// The start of every HTTP/2 connection (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the input has been so far.
pub(super) enum HeadReader {
    /// So many bytes of HTTP/2's preface. They could still be a request of HTTP/1.1.
    Undecided(usize),
    Http1(Lines),
    Http2(Frames),
}

impl HeadReader {
    pub(super) fn new() -> Self {
        HeadReader::Undecided(0)
    }

    /// Reads on. `idle` means that no request is in flight; only then does the input of HTTP/1.1 belong to a head.
    pub(super) fn read(&mut self, mut bytes: &[u8], idle: bool) {
        if let HeadReader::Undecided(matched) = self {
            let rest = &PREFACE[*matched..];
            let same = rest
                .iter()
                .zip(bytes)
                .take_while(|(want, got)| want == got)
                .count();
            let seen = *matched + same;
            if seen == PREFACE.len() {
                bytes = &bytes[same..];
                *self = HeadReader::Http2(Frames::default());
            } else if same == bytes.len() {
                return *self = HeadReader::Undecided(seen);
            } else {
                let mut lines = Lines::default();
                lines.read(&PREFACE[..*matched]);
                *self = HeadReader::Http1(lines);
            }
        }
        match self {
            HeadReader::Undecided(_) => {}
            HeadReader::Http1(lines) if idle => lines.read(bytes),
            HeadReader::Http1(lines) => *lines = Lines::default(),
            HeadReader::Http2(frames) => frames.read(bytes),
        }
    }

    /// How many header blocks of HTTP/2 have ended so far.
    pub(super) fn blocks(&self) -> usize {
        match self {
            HeadReader::Undecided(_) | HeadReader::Http1(_) => 0,
            HeadReader::Http2(frames) => frames.blocks,
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        matches!(self, HeadReader::Http2(_))
    }

    /// Whether a head has begun and is not complete.
    pub(super) fn is_incomplete(&self) -> bool {
        match self {
            HeadReader::Undecided(bytes) => *bytes > 0,
            HeadReader::Http1(lines) => lines.bytes > 0 && !lines.complete,
            HeadReader::Http2(frames) => frames.block.is_some(),
        }
    }

    /// What the incomplete head may cost in bytes, beyond what every connection costs; a head of HTTP/2 that goes on in further frames
    /// costs up to `continued`, because hyper decodes it as it comes, and a byte can stand for a whole field.
    pub(super) fn cost(&self, continued: usize) -> usize {
        match self {
            HeadReader::Undecided(_) => 0,
            // hyper's buffer doubles as it grows.
            HeadReader::Http1(lines) if !lines.complete => {
                lines.bytes.saturating_sub(FREE_HEAD).saturating_mul(2)
            }
            HeadReader::Http2(Frames {
                block: Some(block), ..
            }) if block.continued => continued,
            HeadReader::Http1(_) | HeadReader::Http2(_) => 0,
        }
    }
}

/// The lines of a head of HTTP/1.1.
#[derive(Default)]
pub(super) struct Lines {
    /// Of the head so far.
    bytes: usize,
    /// The head has ended. The next byte begins another, but until then hyper may refuse this one.
    complete: bool,
    /// It has a request line.
    begun: bool,
    /// The start of the present line.
    start: [u8; LONGEST.len()],
    length: usize,
    transfer_encoding: bool,
    content_length: bool,
}

const LONGEST: &[u8] = b"transfer-encoding";

impl Lines {
    fn read(&mut self, mut bytes: &[u8]) {
        if self.complete && !bytes.is_empty() {
            *self = Lines::default();
        }
        while !self.complete && !bytes.is_empty() {
            let end = memchr(b'\n', bytes);
            let line = &bytes[..end.unwrap_or(bytes.len())];
            if let Some(room) = self.start.get_mut(self.length..) {
                let kept = line.len().min(room.len());
                room[..kept].copy_from_slice(&line[..kept]);
            }
            self.length += line.len();
            self.bytes += line.len() + usize::from(end.is_some());
            let Some(end) = end else {
                return;
            };
            bytes = &bytes[end + 1..];
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        let start = &self.start[..self.length.min(LONGEST.len())];
        if start.is_empty() || start == b"\r" {
            // Empty lines before the request line belong to no head.
            self.complete = self.begun;
        } else if std::mem::replace(&mut self.begun, true) {
            let is = |name: &[u8]| {
                let start = start.get(..name.len());
                start.is_some_and(|start| start.eq_ignore_ascii_case(name))
            };
            self.transfer_encoding |= is(LONGEST);
            self.content_length |= is(b"content-length");
        }
        self.length = 0;
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn has_content_length(&self) -> bool {
        self.content_length
    }

    /// Complete, with both Transfer-Encoding and Content-Length.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.complete && self.transfer_encoding && self.content_length
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// The frames of HTTP/2.
#[derive(Default)]
pub(super) struct Frames {
    /// The frame's own head, as far as it has come.
    head: [u8; 9],
    filled: usize,
    /// Bytes of the frame that are still to come.
    left: usize,
    /// Header blocks that have ended.
    blocks: usize,
    block: Option<Block>,
}

/// A header block that has begun.
struct Block {
    /// It does not end with its first frame.
    continued: bool,
    /// It ends with the present frame.
    last: bool,
}

impl Frames {
    /// Bytes of a body that come next.
    pub(super) fn body_left(&self) -> usize {
        match self.head[3] {
            DATA if self.filled == 0 => self.left,
            _ => 0,
        }
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = &bytes[skipped..];
            } else {
                let wanted = self.head.len() - self.filled;
                let taken = wanted.min(bytes.len());
                self.head[self.filled..][..taken].copy_from_slice(&bytes[..taken]);
                self.filled += taken;
                bytes = &bytes[taken..];
                if self.filled < self.head.len() {
                    return;
                }
                self.filled = 0;
                self.begin();
            }
            if self.left == 0 && self.block.as_ref().is_some_and(|block| block.last) {
                self.block = None;
                self.blocks += 1;
            }
        }
    }

    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.head;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let last = flags & END_HEADERS != 0;
        match (kind, &mut self.block) {
            (HEADERS, _) => {
                self.block = Some(Block {
                    continued: !last,
                    last,
                });
            }
            (CONTINUATION, Some(block)) => block.last = last,
            // h2 ends a connection on which anything else comes within a header block.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads it in pieces of this size.
    fn read(bytes: &[u8], size: usize) -> HeadReader {
        let mut reader = HeadReader::new();
        bytes
            .chunks(size)
            .for_each(|piece| reader.read(piece, true));
        reader
    }

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let length_bytes = (length as u32).to_be_bytes();
        let mut frame = length_bytes[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(std::iter::repeat_n(0x42, length));
        frame
    }

    #[test]
    fn a_head_ends_with_an_empty_line_and_both_framings_are_seen() {
        for size in [1, 3, 1000] {
            for (text, incomplete, ambiguous) in [
                ("GET / HTTP/1.1\r\nHost: x\r\n", true, false),
                ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", false, false),
                ("\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n", true, false),
                ("P", true, false),
                ("PRI * HTTP/2.0\r\n", true, false),
                ("PRI * HTTP/1.1\r\n\r\n", false, false),
                (
                    "A / HTTP/1.1\r\ncontent-LENGTH: 1\r\nTransfer-encoding:chunked\r\n\r\n",
                    false,
                    true,
                ),
                (
                    "A / HTTP/1.1\ncontent-length: 1\ntransfer-encoding:chunked\n\n",
                    false,
                    true,
                ),
                (
                    "A / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                    true,
                    false,
                ),
                (
                    "content-length\r\nTransfer-Encoding: chunked\r\n\r\n",
                    false,
                    false,
                ),
            ] {
                let reader = read(text.as_bytes(), size);
                assert_eq!(reader.is_incomplete(), incomplete, "{text:?}");
                let HeadReader::Http1(lines) = &reader else {
                    assert!(text.starts_with('P'), "{text:?}");
                    continue;
                };
                assert_eq!(lines.is_ambiguous(), ambiguous, "{text:?}");
            }
        }
    }

    #[test]
    fn each_head_is_read_anew_and_nothing_while_a_request_is_in_flight() {
        let mut reader = read(b"A / HTTP/1.1\r\nContent-Length: 1\r\n\r\n", 1000);
        reader.read(b"x", false);
        assert!(!reader.is_incomplete());
        reader.read(b"A / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", true);
        let HeadReader::Http1(lines) = &reader else {
            panic!("HTTP/1.1");
        };
        assert!(lines.complete && !lines.is_ambiguous());
    }

    #[test]
    fn only_what_goes_beyond_the_first_buffer_costs_something() {
        let head = [&b"GET / HTTP/1.1\r\nA: "[..], &[b'a'; FREE_HEAD]].concat();
        assert_eq!(read(&head[..FREE_HEAD], 1000).cost(1), 0);
        assert_eq!(read(&head, 1000).cost(1), 2 * (head.len() - FREE_HEAD));
        let whole = [&head, &b"\r\n\r\n"[..]].concat();
        assert_eq!(read(&whole, 1000).cost(1), 0);
    }

    #[test]
    fn a_header_block_of_several_frames_costs_what_it_may_become() {
        let settings = frame(4, 0, 0);
        let whole = frame(HEADERS, END_HEADERS, 10);
        let (first, more, last) = (
            frame(HEADERS, 0, 10),
            frame(CONTINUATION, 0, 7),
            frame(CONTINUATION, END_HEADERS, 7),
        );
        for size in [1, 5, 1000] {
            for (frames, incomplete, cost) in [
                (vec![&settings], false, 0),
                (vec![&settings, &whole], false, 0),
                (vec![&first], true, 9),
                (vec![&whole, &first, &more], true, 9),
                (vec![&first, &more, &last], false, 0),
                (vec![&first, &more, &last, &whole], false, 0),
            ] {
                let mut bytes = PREFACE.to_vec();
                frames.into_iter().for_each(|frame| bytes.extend(frame));
                let reader = read(&bytes, size);
                assert_eq!((reader.is_incomplete(), reader.cost(9)), (incomplete, cost));
            }
            // Not decoded before the frame is complete.
            let bytes = [&PREFACE[..], &whole[..12]].concat();
            let reader = read(&bytes, size);
            assert_eq!((reader.is_incomplete(), reader.cost(9)), (true, 0));
        }
    }

    #[test]
    fn what_is_left_of_a_body_is_known() {
        let bytes = [
            &PREFACE[..],
            &frame(HEADERS, END_HEADERS, 10),
            &frame(DATA, 0, 10),
        ]
        .concat();
        for (cut, left, blocks) in [(0, 0, 1), (4, 4, 1), (10, 10, 1), (12, 0, 1), (20, 0, 0)] {
            let HeadReader::Http2(frames) = read(&bytes[..bytes.len() - cut], 7) else {
                panic!("HTTP/2");
            };
            assert_eq!((frames.body_left(), frames.blocks), (left, blocks), "{cut}");
        }
    }

    proptest! {
        /// How the input is cut makes no difference.
        #[test]
        fn pieces_add_up(bytes in prop::collection::vec(any::<u8>(), 0..300), http2: bool, size in 1..50usize) {
            let start: &[u8] = if http2 { PREFACE } else { b"" };
            let bytes = [start, &bytes].concat();
            let (whole, pieces) = (read(&bytes, 1000), read(&bytes, size));
            if http2 {
                prop_assert!(pieces.is_http2());
                prop_assert_eq!(whole.is_incomplete(), pieces.is_incomplete());
            }
        }
    }
}
