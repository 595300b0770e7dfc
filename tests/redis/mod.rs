//! Real Redis servers for tests: one alone, a primary with a replica and Sentinels, a cluster; and a proxy that treats connections badly.
//!
//! Shared by the library's own tests and by those of `tests/`. Each server has a folder of its own, listens on loopback alone, and is
//! killed when it is dropped, also by a panic. Needs real time: with the clock stopped, a wait for a server would end at once.
#![allow(
    dead_code,
    unused_imports,
    reason = "each of those who share it uses a part"
)]

mod client;
mod cluster;
mod fake;
mod proxy;
mod sentinel;
mod server;
#[cfg(test)]
mod tests;
mod tls;

use std::{future::Future, time::Duration};

pub(crate) use self::{
    client::{Client, Value},
    cluster::Cluster,
    fake::Fake,
    proxy::{Mode, Proxy},
    sentinel::{MASTER, Watched},
    server::{Data, Options, Server},
    tls::Authority,
};

/// For what a server does in a moment, on a machine that is busy with other tests too.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two questions whether it is so.
const PAUSE: Duration = Duration::from_millis(20);

/// Prints what was measured, for whoever runs the test by hand.
#[allow(clippy::print_stdout, reason = "captured, unless it is asked for")]
pub(crate) fn report(what: &str, took: Duration) {
    println!("{what}: {} ms", took.as_millis());
}

/// Asks until it is so.
///
/// # Panics
///
/// When it is not so for long, and says what was waited for, and what the last answer was.
pub(crate) async fn until<F: Future<Output = Result<(), String>>>(
    what: &str,
    mut so: impl FnMut() -> F,
) {
    let begun = tokio::time::Instant::now();
    while let Err(instead) = so().await {
        assert!(
            begun.elapsed() < PATIENCE,
            "waited {PATIENCE:?} for: {what}; instead: {instead}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}
