//! What an operator says to the process by signals.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Gateway;

/// Heard from here on. Made before the listeners are announced: whoever reads the announcement may signal at once, and a
/// signal that nobody hears ends the process.
pub struct Signals {
    term: Signal,
    int: Signal,
    hangup: Signal,
}

impl Signals {
    /// Must be called on the runtime that waits for them.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn hear() -> std::io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Reloads on SIGHUP; drains on SIGTERM or SIGINT, and ends at once on a second one.
    pub async fn obey(mut self, gateway: Gateway) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                _ = self.term.recv() => break,
                _ = self.int.recv() => break,
                _ = self.hangup.recv() => {
                    let reloader = gateway.operator.reloader.clone();
                    // Reads files; a second signal must be heard meanwhile. What became of it is in the log.
                    tokio::task::spawn_blocking(move || reloader.reload());
                }
            }
        }
        tokio::select! {
            () = gateway.drain() => Ok(()),
            _ = self.term.recv() => anyhow::bail!("ended at once by a second signal"),
            _ = self.int.recv() => anyhow::bail!("ended at once by a second signal"),
        }
    }
}
