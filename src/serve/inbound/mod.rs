//! The callers' side: listening sockets, TLS handshakes, connections.

mod accept;
mod activity;
mod arrival;
pub(super) mod connection;
pub(super) mod delivery;
mod first_bytes;
#[cfg(fuzzing)]
pub mod fuzzing;
mod head;
pub(super) mod http;
pub(super) mod intake;
pub(super) mod listener;
mod refusal;
mod refused;
#[cfg(test)]
mod tests;
pub(super) mod tls;
mod turn;
mod worker_time;
mod workload;

use std::fmt::Display;

use crate::{
    event::Event,
    state::State,
    telemetry::{client_lines::Topic, labels::ConnectionEnd},
    types::PeerAddress,
};

/// Counts and reports that revgate ends a connection.
fn report_end(state: &State, reason: ConnectionEnd, peer: Option<&PeerAddress>, why: &dyn Display) {
    state.metrics.connection_ended(reason);
    let ip = peer.and_then(PeerAddress::ip);
    if state.client_lines.try_pass(Topic::Ended(reason), ip) {
        tracing::info!(
            event = Event::ConnectionEnded.label(),
            peer = peer.map(PeerAddress::shown),
            reason = reason.label(),
            "connection ended: {why}"
        );
    }
}
