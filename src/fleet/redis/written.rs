//! For tests: what a replica does with a register, again and again.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    fleet::{
        redis_rig::{Server, until},
        register::{Exchanged, Failure, Fault, Key, Register, Tag, Write},
    },
    random,
};

/// Tells what it does, for the hints of a test.
pub(super) const HINT: &[u8] = b"look";

/// Writes over whatever is there, and gives the tag of it.
pub(super) async fn put(register: &dyn Register, key: &Key) -> Result<Tag, Failure> {
    let mut over = None;
    // Only one task writes, so the second attempt knows what is there.
    for _ in 0..2 {
        let tag = Tag(random::id64());
        let write = Write {
            over,
            tag,
            value: Bytes::from_static(b"value"),
            keep: Duration::from_secs(60),
            hint: Bytes::from_static(HINT),
        };
        match register.exchange(key, Some(write)).await? {
            Exchanged::Written { .. } => return Ok(tag),
            Exchanged::Found(found) => over = found.current.map(|(tag, _)| tag),
        }
    }
    Err(Failure::new(Fault::Broken, "the value changes by itself"))
}

/// Tries until it is written, and gives the time that it took.
pub(super) async fn until_written(register: &dyn Register, key: &Key) -> Duration {
    let begun = Instant::now();
    until("a write that is done", || async {
        let put = put(register, key).await;
        put.map(drop).map_err(|failure| failure.to_string())
    })
    .await;
    begun.elapsed()
}

/// Tries until it is written to this server, which must be no replica of another, and gives the time that it took.
pub(super) async fn until_written_to(
    server: &Server,
    register: &dyn Register,
    key: &Key,
) -> Duration {
    let begun = Instant::now();
    until("a write to the new primary", || async {
        let put = put(register, key).await;
        let Tag(tag) = put.map_err(|failure| failure.to_string())?;
        let there = server.try_call(&["GET", key]).await;
        let there = there.map_err(|error| error.to_string())?.text();
        let so = there.starts_with(&format!("{tag:016x}"));
        so.then_some(()).ok_or(there)
    })
    .await;
    begun.elapsed()
}
