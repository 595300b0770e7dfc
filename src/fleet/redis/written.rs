//! For tests: what a replica does with a register, again and again.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    fleet::{
        redis_rig::until,
        register::{Exchanged, Failure, Fault, Key, Register, Tag, Write},
    },
    random,
};

/// Tells what it does, for the hints of a test.
pub(super) const HINT: &[u8] = b"look";

/// Writes over whatever is there.
pub(super) async fn put(register: &dyn Register, key: &Key) -> Result<(), Failure> {
    let mut over = None;
    // Only one task writes, so the second attempt knows what is there.
    for _ in 0..2 {
        let write = Write {
            over,
            tag: Tag(random::id64()),
            value: Bytes::from_static(b"value"),
            keep: Duration::from_secs(60),
            hint: Bytes::from_static(HINT),
        };
        match register.exchange(key, Some(write)).await? {
            Exchanged::Written { .. } => return Ok(()),
            Exchanged::Found(found) => over = found.current.map(|(tag, _)| tag),
        }
    }
    Err(Failure::new(Fault::Broken, "the value changes by itself"))
}

/// Tries until it is written, and gives the time that it took.
pub(super) async fn until_written(register: &dyn Register, key: &Key) -> Duration {
    let begun = Instant::now();
    until("a write that is done", || async {
        put(register, key)
            .await
            .map_err(|failure| failure.to_string())
    })
    .await;
    begun.elapsed()
}
