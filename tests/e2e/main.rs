//! The whole gateway over real sockets, in front of the DevRev simulator.

#![allow(
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test binary has no outside, and runs in real time"
)]

mod circuit;
mod deprecations;
mod double;
mod explain;
mod hostile;
mod http;
mod introspect;
mod issuer;
mod jwt;
mod keys;
mod logs;
mod lossy_log;
mod neighbours;
mod process;
mod quota;
mod reload;
mod rewrite;
mod rig;
mod scenarios;
mod signer;
mod status;
mod tls;
mod token;
mod token_health;
mod traces;
mod trial;
mod unix;
mod unknown;
mod upstream;
mod waiting;
mod wire;
