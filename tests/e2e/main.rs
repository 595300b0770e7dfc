//! The whole gateway over real sockets, in front of the DevRev simulator.

#![allow(
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test binary has no outside, and runs in real time"
)]

mod alerts;
mod answers;
mod browser;
mod circuit;
mod day;
mod demo;
mod deprecations;
mod descriptors;
mod double;
mod drain;
mod edge;
mod environment;
mod expect;
mod explain;
mod fleet;
mod fleet_bad_days;
mod heads;
mod healthcheck;
mod hostile;
mod http;
mod introspect;
mod issuer;
mod jwt;
mod keys;
mod logs;
mod lossy_log;
mod mistakes;
mod neighbours;
mod output;
mod peers;
mod ports;
mod process;
mod proxy;
mod quota;
mod readings;
#[path = "../redis/mod.rs"]
mod redis;
mod reload;
mod restart;
mod restless;
mod rewrite;
mod rig;
mod scenarios;
mod shared;
mod signer;
mod simulator;
mod start;
mod status;
mod tls;
mod token;
mod token_health;
mod traces;
mod trailers;
mod trial;
mod unix;
mod unknown;
mod upstream;
mod vanished;
mod waiting;
mod wire;
