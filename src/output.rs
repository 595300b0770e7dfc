//! What commands write to standard output and standard error. The log has a queue of its own.
//!
//! The macros of the standard library panic if nobody reads: `head` closes a pipe early, and whoever starts a program may have closed
//! what it writes to.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Writes a line to standard output. A closed pipe is no error, because its reader has seen what it wanted.
///
/// # Errors
/// When it cannot be written for another reason, such as a full disk.
pub(crate) fn print(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Writes a line to standard error. If that is not possible, there is nobody to tell.
pub(crate) fn complain(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
