//! Pure decisions. No module here uses a socket, clock, lock or the environment; time and randomness are arguments.
// The types that .clippy.toml bans from here: locks, clocks, files, sockets, randomness.
#![warn(clippy::disallowed_types)]

pub mod access;
pub mod addresses;
pub mod alerts;
pub mod allocator;
pub mod browser;
pub mod chart;
pub mod circuit;
pub mod client_address;
pub mod connections;
pub mod cookies;
pub mod descriptors;
pub mod duration_words;
pub mod explain;
pub mod exposition;
pub mod fair;
pub mod feedback;
pub mod file_changes;
pub mod first_bytes;
pub mod fleet;
pub mod headers;
pub mod http1;
pub mod introspect;
pub mod jwt;
pub mod key_strength;
pub mod ledger;
pub mod line_limit;
pub mod listeners;
pub mod operation;
pub mod percentile;
pub mod progress;
pub mod proxy_header;
pub mod rate;
pub mod retry;
pub mod rewrite;
pub mod san;
pub mod self_connection;
pub mod target;
pub mod token_claims;
pub mod token_health;
pub mod trace;
pub mod trailers;
pub mod trouble;
pub mod upstream;
