//! The callers' side: listening sockets, TLS handshakes, connections.

pub(super) mod connection;
pub(super) mod listener;
mod refusal;
mod tls;
