//! Follows what DevRev sends over HTTP/2, as far as it decides which connection takes a call: SETTINGS and GOAWAY. hyper obeys both and
//! reports neither. Also counts heads that no answer follows, which hyper does not bound. Keeps nothing of the input but a few bytes, and
//! believes nothing: what breaks the protocol ends the connection in h2.

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const GOAWAY: u8 = 7;
const MAX_CONCURRENT_STREAMS: u16 = 3;

/// Heads in a row, of all streams, without anything of an answer's body or its end between them. A hundred answers may begin at once, each
/// after a few interim ones (1xx); more is a flood, which no flow control stops.
const MAX_HEADS: usize = 1000;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// SETTINGS, with the streams that DevRev allows at once if it names them.
    Settings(Option<u32>),
    GoAway,
}

#[derive(Default)]
pub(super) struct Frames {
    /// The frame's own head, as far as it has come.
    head: [u8; 9],
    filled: usize,
    /// Bytes of the frame that are still to come.
    left: usize,
    /// One of the SETTINGS, as far as it has come.
    setting: [u8; 6],
    setting_filled: usize,
    streams: Option<u32>,
    /// Heads in a row.
    heads: usize,
}

impl Frames {
    /// Whether interim answers come without end.
    pub(super) fn is_flood(&self) -> bool {
        self.heads > MAX_HEADS
    }

    /// Reads on. Calls `says` for each frame that has ended.
    pub(super) fn read(&mut self, mut bytes: &[u8], mut says: impl FnMut(Said)) {
        while !bytes.is_empty() {
            if self.filled < self.head.len() {
                let taken = fill(&mut self.head, &mut self.filled, bytes);
                bytes = &bytes[taken..];
                if self.filled < self.head.len() {
                    return;
                }
                let [a, b, c, ..] = self.head;
                self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.setting_filled = 0;
                self.streams = None;
            } else {
                let (of_frame, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.left -= of_frame.len();
                self.payload(of_frame);
                bytes = rest;
            }
            if self.left == 0 {
                self.filled = 0;
                match self.head[3] {
                    HEADERS if self.head[4] & END_STREAM == 0 => self.heads += 1,
                    HEADERS | DATA => self.heads = 0,
                    SETTINGS if self.head[4] & ACK == 0 => says(Said::Settings(self.streams)),
                    GOAWAY => says(Said::GoAway),
                    _ => {}
                }
            }
        }
    }

    fn payload(&mut self, mut bytes: &[u8]) {
        if self.head[3] != SETTINGS {
            return;
        }
        while !bytes.is_empty() {
            let taken = fill(&mut self.setting, &mut self.setting_filled, bytes);
            bytes = &bytes[taken..];
            if self.setting_filled == self.setting.len() {
                self.setting_filled = 0;
                let [a, b, value @ ..] = self.setting;
                if u16::from_be_bytes([a, b]) == MAX_CONCURRENT_STREAMS {
                    self.streams = Some(u32::from_be_bytes(value));
                }
            }
        }
    }
}

/// Fills `into` up from `bytes`, and returns how many it took.
fn fill(into: &mut [u8], filled: &mut usize, bytes: &[u8]) -> usize {
    let room = &mut into[*filled..];
    let taken = room.len().min(bytes.len());
    room[..taken].copy_from_slice(&bytes[..taken]);
    *filled += taken;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    fn setting(name: u16, value: u32) -> Vec<u8> {
        [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()
    }

    #[test]
    fn heads_that_no_answer_follows_are_a_flood() {
        let interim = frame(HEADERS, 4, b"\x08\x03103").repeat(MAX_HEADS);
        let head = frame(HEADERS, 4, &[0x88]);
        for (last, is_flood) in [
            (frame(HEADERS, 4, b"\x08\x03103"), true),
            (frame(HEADERS, 4 | END_STREAM, &[0x88]), false),
            ([frame(DATA, 0, b"x"), head].concat(), false),
        ] {
            let mut frames = Frames::default();
            frames.read(&interim, |said| panic!("{said:?}"));
            assert!(!frames.is_flood());
            frames.read(&last, |said| panic!("{said:?}"));
            assert_eq!(frames.is_flood(), is_flood);
        }
    }

    #[test]
    fn settings_and_goaway_are_found_however_the_input_is_cut() {
        let both = [setting(4, 3), setting(3, 2), setting(5, 16_384)].concat();
        let input = [
            frame(SETTINGS, 0, &both),
            frame(SETTINGS, ACK, &[]),
            // DATA that looks like one.
            frame(0, 1, &frame(SETTINGS, 0, &setting(3, 9))),
            frame(SETTINGS, 0, &setting(4, 3)),
            frame(SETTINGS, 0, &[]),
            frame(0, 0, &[]),
            frame(SETTINGS, 0, &setting(3, 0)),
            frame(GOAWAY, 0, &[0; 8]),
            frame(SETTINGS, 0, &both)[..20].to_vec(),
        ]
        .concat();
        for size in [1, 2, 5, 9, 10, 1000] {
            let (mut frames, mut said) = (Frames::default(), Vec::new());
            for piece in input.chunks(size) {
                frames.read(piece, |one| said.push(one));
            }
            let expected = [
                Said::Settings(Some(2)),
                Said::Settings(None),
                Said::Settings(None),
                Said::Settings(Some(0)),
                Said::GoAway,
            ];
            assert_eq!(said, expected, "in pieces of {size}");
        }
    }
}
