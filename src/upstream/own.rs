//! The gateway's own listeners, at which no attempt may arrive.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use crate::policy::own::leads_here;

/// Known once all are bound: a port of 0 is decided only then.
#[derive(Clone, Default)]
pub struct Own(Arc<OnceLock<Vec<SocketAddr>>>);

impl Own {
    /// Before the first request.
    pub fn set(&self, own: Vec<SocketAddr>) {
        // A second call would be of another gateway, which has an `Own` of its own.
        let _ = self.0.set(own);
    }

    pub(super) fn is(&self, peer: SocketAddr, local: Option<IpAddr>) -> bool {
        self.0.get().is_some_and(|own| leads_here(own, peer, local))
    }
}
