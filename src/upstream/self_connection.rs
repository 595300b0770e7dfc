//! Keeps connections from leading back to the gateway itself.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use crate::policy::self_connection::is_own_listener;

/// The addresses of the gateway's own listeners. Known once all of them are bound, since a port of 0 is decided only then.
#[derive(Clone, Default)]
pub(crate) struct OwnListeners(Arc<OnceLock<Vec<SocketAddr>>>);

impl OwnListeners {
    /// Must be called before the first request.
    pub(crate) fn set(&self, listeners: Vec<SocketAddr>) {
        // Each gateway makes its own value and sets it once.
        let _ = self.0.set(listeners);
    }

    /// Whether a connection from `local` to `peer` ends at one of them.
    pub(super) fn contains(&self, peer: SocketAddr, local: Option<IpAddr>) -> bool {
        let listeners = self.0.get();
        listeners.is_some_and(|listeners| is_own_listener(listeners, peer, local))
    }
}
