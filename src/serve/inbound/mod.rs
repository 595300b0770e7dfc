//! The callers' side: listening sockets, TLS handshakes, connections.

mod accept;
mod activity;
pub(super) mod connection;
pub(super) mod delivery;
#[cfg(fuzzing)]
pub mod fuzzing;
mod head;
pub(super) mod http;
pub(super) mod intake;
pub(super) mod listener;
mod refusal;
#[cfg(test)]
mod tests;
pub(super) mod tls;
mod turn;
mod worker_time;
mod workload;
