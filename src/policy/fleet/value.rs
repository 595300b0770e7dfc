//! The pool as bytes.

use super::{Hinted, Pool};

/// A value that cannot be read. It is refused whole: a part of the truth would be worse than none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// The largest value that is read or written.
pub const MAX_SIZE: usize = 256 * 1024;

impl Pool {
    /// `None` if it would be larger than [`MAX_SIZE`].
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let bytes = postcard::to_stdvec(self).ok()?;
        (bytes.len() <= MAX_SIZE).then_some(bytes)
    }

    /// # Errors
    /// If it has another form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Pool, Unreadable> {
        if bytes.len() > MAX_SIZE {
            return Err(Unreadable);
        }
        match postcard::take_from_bytes(bytes) {
            Ok((pool, [])) => Ok(pool),
            _ => Err(Unreadable),
        }
    }
}

impl Hinted {
    /// Empty if nobody should exchange.
    pub fn to_bytes(&self) -> Vec<u8> {
        if *self == Hinted::Nobody {
            return Vec::new();
        }
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// One that cannot be read concerns all.
    pub fn from_bytes(bytes: &[u8]) -> Hinted {
        postcard::from_bytes(bytes).unwrap_or(Hinted::All)
    }
}
