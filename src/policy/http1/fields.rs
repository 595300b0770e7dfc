//! The fields of a head or of trailers, byte by byte.

use super::{FramingFault, HeadFault, MAX_FIELD_NAME, is_token, run, with_controls};

/// What a byte of the fields was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    More,
    /// The last of the empty line after them.
    End,
}

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Sized(u64),
    Chunked,
}

#[derive(Debug)]
pub(super) struct Fields {
    at: At,
    /// Of the present field, in lower case as far as it may be of interest.
    name: [u8; LONGEST],
    /// Characters of the name.
    length: usize,
    value: Value,
    transfer_encoding: bool,
    content_length: Option<Value>,
    /// Those of trailers frame nothing.
    frames: bool,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Line,
    Name,
    Value(Interest),
    Lf(Interest),
    EndLf,
}

/// What the present field says about the body.
#[derive(Clone, Copy, Debug)]
enum Interest {
    None,
    TransferEncoding,
    ContentLength,
}

const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";
const CONTENT_LENGTH: &[u8] = b"content-length";
const LONGEST: usize = TRANSFER_ENCODING.len();

/// hyper reserves the two largest lengths.
const MAX_LENGTH: u64 = u64::MAX - 2;

/// A value of interest, without the whitespace around it. One that does not fit, or that has whitespace within, has no good meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Value {
    bytes: [u8; 24],
    length: usize,
    spaced: bool,
    bad: bool,
}

impl Value {
    fn push(&mut self, byte: u8) {
        if matches!(byte, b' ' | b'\t') {
            self.spaced = self.length > 0;
            return;
        }
        self.bad |= self.spaced || self.length == self.bytes.len();
        if !self.bad {
            self.bytes[self.length] = byte.to_ascii_lowercase();
            self.length += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        match self.bad {
            true => b"",
            false => &self.bytes[..self.length],
        }
    }

    fn number(&self) -> Option<u64> {
        let text = std::str::from_utf8(self.bytes()).ok()?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse().ok())??;
        (number <= MAX_LENGTH).then_some(number)
    }
}

impl Fields {
    pub(super) fn of_head() -> Fields {
        Fields {
            at: At::Line,
            name: [0; LONGEST],
            length: 0,
            value: Value::default(),
            transfer_encoding: false,
            content_length: None,
            frames: true,
        }
    }

    pub(super) fn of_trailers() -> Fields {
        Fields {
            frames: false,
            ..Fields::of_head()
        }
    }

    /// How many bytes come next that change nothing: those within a value that says nothing about the body.
    pub(super) fn skip(&self, bytes: &[u8]) -> usize {
        if !matches!(self.at, At::Value(Interest::None)) {
            return 0;
        }
        run(bytes, are_plain, is_of_value)
    }

    pub(super) fn read(&mut self, byte: u8) -> Result<Read, HeadFault> {
        self.at = match (self.at, byte) {
            (At::Line, b'\r') => At::EndLf,
            (At::EndLf, b'\n') => return Ok(Read::End),
            (At::Line, _) if is_token(byte) => {
                self.length = 0;
                self.push_name(byte)?;
                At::Name
            }
            (At::Name, b':') => {
                self.value = Value::default();
                At::Value(self.interest())
            }
            (At::Name, _) if is_token(byte) => {
                self.push_name(byte)?;
                At::Name
            }
            (At::Line, b'\n') | (At::Name, b'\r' | b'\n') | (At::EndLf, _) => {
                return Err(HeadFault::LineEnd);
            }
            (At::Line | At::Name, _) => return Err(HeadFault::Field),
            (At::Value(interest), b'\r') => At::Lf(interest),
            (At::Value(_), b'\n') => return Err(HeadFault::LineEnd),
            (At::Value(interest), _) if is_of_value(byte) => {
                if !matches!(interest, Interest::None) {
                    self.value.push(byte);
                }
                At::Value(interest)
            }
            (At::Value(_), _) => return Err(HeadFault::Field),
            (At::Lf(interest), b'\n') => {
                self.end_field(interest)?;
                At::Line
            }
            (At::Lf(_), _) => return Err(HeadFault::LineEnd),
        };
        Ok(Read::More)
    }

    fn push_name(&mut self, byte: u8) -> Result<(), HeadFault> {
        if self.length == MAX_FIELD_NAME {
            return Err(HeadFault::FieldNameTooLong);
        }
        if let Some(place) = self.name.get_mut(self.length) {
            *place = byte.to_ascii_lowercase();
        }
        self.length += 1;
        Ok(())
    }

    fn interest(&self) -> Interest {
        match self.name.get(..self.length) {
            Some(TRANSFER_ENCODING) if self.frames => Interest::TransferEncoding,
            Some(CONTENT_LENGTH) if self.frames => Interest::ContentLength,
            _ => Interest::None,
        }
    }

    fn end_field(&mut self, interest: Interest) -> Result<(), FramingFault> {
        match interest {
            Interest::None => {}
            Interest::TransferEncoding => {
                // Twice chunked is no coding.
                let seen = std::mem::replace(&mut self.transfer_encoding, true);
                if seen || self.value.bytes() != b"chunked" {
                    return Err(FramingFault::TransferEncoding);
                }
            }
            Interest::ContentLength => {
                // Compared as text, because not all servers read `5` and `05` alike.
                let same = *self.content_length.get_or_insert(self.value);
                if self.value.number().is_none() || same.bytes() != self.value.bytes() {
                    return Err(FramingFault::ContentLength);
                }
            }
        }
        Ok(())
    }

    /// What a complete head says about its body.
    pub(super) fn framing(&self, may_be_chunked: bool) -> Result<Framing, FramingFault> {
        match (self.transfer_encoding, self.content_length) {
            (true, Some(_)) => Err(FramingFault::Both),
            (true, None) if may_be_chunked => Ok(Framing::Chunked),
            (true, None) => Err(FramingFault::TransferEncoding),
            (false, length) => {
                let length = length.and_then(|length| length.number());
                Ok(Framing::Sized(length.unwrap_or(0)))
            }
        }
    }
}

/// RFC 9110 section 5.5.
fn is_of_value(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// Whether none of these is a control character. A tab is one, too.
fn are_plain(eight: u64) -> bool {
    with_controls(eight, b' ') == 0
}
