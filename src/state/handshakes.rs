//! What TLS handshakes with callers need, replaced as a whole when the files change.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::plan::ServerTls;

/// Of all workers.
pub struct Handshakes(ArcSwap<Generation>);

/// What holds from one change of the files to the next.
pub struct Generation {
    pub tls: ServerTls,
    /// Whoever was let in by authorities that are no longer those of the file is to come again.
    pub retired: CancellationToken,
}

impl Handshakes {
    pub fn new(tls: ServerTls) -> Self {
        Handshakes(ArcSwap::from_pointee(Generation {
            tls,
            retired: CancellationToken::new(),
        }))
    }

    /// Connections from now on begin with `tls`, if its files hold something new.
    pub fn reconcile(&self, tls: &ServerTls) {
        let old = self.0.load_full();
        if old.tls.is_same(tls) {
            return;
        }
        let trusts_the_same = old.tls.trusts_the_same(tls);
        self.0.store(Arc::new(Generation {
            tls: tls.clone(),
            // A certificate of ours that is renewed disturbs nobody, and the two share one end.
            retired: if trusts_the_same {
                old.retired.clone()
            } else {
                CancellationToken::new()
            },
        }));
        if !trusts_the_same {
            old.retired.cancel();
        }
    }

    /// What a handshake that begins now is done with.
    pub fn current(&self) -> Arc<Generation> {
        self.0.load_full()
    }
}
