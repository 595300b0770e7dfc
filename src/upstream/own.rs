//! The gateway's own listeners, at which no attempt may arrive.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use http::Uri;

use crate::policy::own::{addresses, leads_here};

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

/// Whether `url` names one of these listeners, as far as that can be told without a look-up.
pub fn names_own(url: &Uri, own: &[SocketAddr]) -> bool {
    let default_port = if url.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let port = url.port_u16().unwrap_or(default_port);
    addresses(url.host().unwrap_or_default())
        .into_iter()
        .any(|ip| leads_here(own, SocketAddr::new(ip, port), None))
}
