//! The callers' side: listening sockets, TLS handshakes, connections.

mod activity;
pub(super) mod connection;
pub(super) mod listener;
mod refusal;
mod tls;
