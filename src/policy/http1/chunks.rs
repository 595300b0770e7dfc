//! A chunked body (RFC 9112 section 7.1).

use super::{
    HeadFault,
    fields::{Fields, Read},
};

/// Digits of the largest size that fits a number, leading zeros included.
const MAX_DIGITS: usize = 16;

/// Of a chunk's size with its extensions. The signatures that some clients put there have some 100 bytes.
pub(super) const MAX_LINE: usize = 512;

/// They are not forwarded.
pub(super) const MAX_TRAILERS: usize = 8 * 1024;

/// A chunked body, as far as it has been read.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    at: At,
    size: u64,
    /// Bytes of the present line, or of the trailers.
    length: usize,
}

#[derive(Debug, Default)]
enum At {
    #[default]
    Size,
    /// Whitespace before an extension.
    Space,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers(Box<Fields>),
}

/// A part of the input that has been read.
pub(super) struct Part {
    pub bytes: usize,
    /// The body ends with it.
    pub is_last: bool,
}

impl Chunks {
    /// Reads a byte, or as many of a chunk's data as there are.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Part, HeadFault> {
        let mut part = Part {
            bytes: 1,
            is_last: false,
        };
        let Some(&byte) = bytes.first() else {
            return Ok(Part { bytes: 0, ..part });
        };
        match (&mut self.at, byte) {
            (At::Data, _) => {
                let left = usize::try_from(self.size).unwrap_or(usize::MAX);
                part.bytes = left.min(bytes.len());
                self.size -= part.bytes as u64;
                if self.size == 0 {
                    self.at = At::DataCr;
                }
            }
            (At::DataCr, b'\r') => self.at = At::DataLf,
            (At::DataLf, b'\n') => {
                self.at = At::Size;
                self.length = 0;
            }
            (At::Trailers(fields), _) => {
                self.length += 1;
                if self.length > MAX_TRAILERS {
                    return Err(HeadFault::TrailersTooLong);
                }
                part.is_last = fields.read(byte)? == Read::End;
            }
            (At::DataCr | At::DataLf, _) => return Err(HeadFault::Chunk),
            _ => self.read_size(byte)?,
        }
        Ok(part)
    }

    fn read_size(&mut self, byte: u8) -> Result<(), HeadFault> {
        self.length += 1;
        if self.length > MAX_LINE {
            return Err(HeadFault::ChunkLineTooLong);
        }
        match (&self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                if self.length > MAX_DIGITS {
                    return Err(HeadFault::ChunkLineTooLong);
                }
                self.size = self.size << 4 | u64::from(digit);
            }
            // At least one digit.
            (At::Size, _) if self.length == 1 => return Err(HeadFault::Chunk),
            (At::Size | At::Space, b' ' | b'\t') => self.at = At::Space,
            (At::Size | At::Space, b';') => self.at = At::Extension,
            (At::Size | At::Extension, b'\r') => self.at = At::SizeLf,
            (At::Extension, b'\t' | b' '..=b'~') => {}
            (At::SizeLf, b'\n') => {
                self.at = match self.size {
                    0 => At::Trailers(Box::new(Fields::of_trailers())),
                    _ => At::Data,
                };
                self.length = 0;
            }
            _ => return Err(HeadFault::Chunk),
        }
        Ok(())
    }
}
