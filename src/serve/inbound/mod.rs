//! The callers' side: listening sockets, TLS handshakes, connections.

mod accept;
mod activity;
pub(super) mod connection;
pub(super) mod delivery;
#[cfg(fuzzing)]
pub mod fuzzing;
mod head;
pub(super) mod http;
pub(super) mod listener;
mod refusal;
pub(super) mod tls;
mod turn;
mod worker_time;
mod workload;

use crate::{
    event::Event,
    state::State,
    telemetry::{client_lines::Topic, labels::ConnectionEnd},
    types::PeerAddress,
};

/// Counts and reports that revgate ends a connection.
fn report_end(state: &State, reason: ConnectionEnd, address: Option<PeerAddress>, why: &str) {
    state.metrics.connection_ended(reason);
    let peer = address.map(|PeerAddress(address)| address);
    if state.client_lines.try_pass(Topic::Ended(reason), peer) {
        tracing::info!(
            event = Event::ConnectionEnded.label(),
            peer = peer.map(tracing::field::display),
            reason = reason.label(),
            "{why}"
        );
    }
}
