//! For fuzzing: pipes instead of sockets, and what is read of HTTP/2's frames.

use std::{cell::RefCell, io};

use tokio::io::DuplexStream;

use super::frames::Frames;
use crate::error::Error;

type Connect = Box<dyn FnMut() -> io::Result<DuplexStream>>;

thread_local! {
    static CONNECT: RefCell<Option<Connect>> = const { RefCell::new(None) };
}

/// Each connection to DevRev that this thread opens from now on is made so.
pub fn connect_with(connect: impl FnMut() -> io::Result<DuplexStream> + 'static) {
    CONNECT.set(Some(Box::new(connect)));
}

/// A pipe; `None` if sockets are used.
pub(super) fn connect() -> Option<Result<DuplexStream, Error>> {
    CONNECT.with_borrow_mut(|connect| {
        let pipe = connect.as_mut()?();
        Some(pipe.map_err(Error::unreachable))
    })
}

/// What these bytes of an upstream say, and whether they are a flood of interim answers.
pub fn frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<String>, bool) {
    let (mut frames, mut all) = (Frames::default(), Vec::new());
    for piece in pieces {
        frames.read(piece, |said| all.push(format!("{said:?}")));
    }
    let is_flood = frames.is_flood();
    (all, is_flood)
}
