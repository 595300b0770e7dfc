//! What TLS handshakes with clients use, replaced as a whole when the files change.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::plan::ServerTls;

/// Shared by all workers.
pub struct Handshakes(ArcSwap<HandshakeContext>);

/// What handshakes use from one change of the files to the next.
pub struct HandshakeContext {
    pub tls: ServerTls,
    /// Cancelled when the client CAs change. Connections that the old ones let in then end.
    pub retired: CancellationToken,
}

impl Handshakes {
    pub fn new(tls: ServerTls) -> Self {
        Handshakes(ArcSwap::from_pointee(HandshakeContext {
            tls,
            retired: CancellationToken::new(),
        }))
    }

    /// New handshakes use `tls`, if its certificates have changed.
    pub fn reconcile(&self, tls: &ServerTls) {
        let old = self.0.load_full();
        if old.tls.is_same(tls) {
            return;
        }
        let same_client_cas = old.tls.has_same_client_cas(tls);
        self.0.store(Arc::new(HandshakeContext {
            tls: tls.clone(),
            // A renewed server certificate ends no connection. Both contexts share one token, so a later change of the client
            // CAs ends the connections of both.
            retired: if same_client_cas {
                old.retired.clone()
            } else {
                CancellationToken::new()
            },
        }));
        if !same_client_cas {
            old.retired.cancel();
        }
    }

    /// What a handshake that begins now uses.
    pub fn current(&self) -> Arc<HandshakeContext> {
        self.0.load_full()
    }
}
