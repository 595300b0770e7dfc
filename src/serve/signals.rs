//! Signals: SIGTERM, SIGINT and SIGHUP.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Gateway, reload::ReloadCause};

/// The handlers. They are installed before the listeners are logged: a program that reads that line may send a signal at once, which
/// would kill the process without a handler.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hangup: Signal,
}

impl Signals {
    /// Must be called on the runtime that waits for the signals.
    ///
    /// # Errors
    /// When a handler cannot be installed.
    pub(super) fn install() -> std::io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Reloads on SIGHUP. Drains on SIGTERM or SIGINT, and ends at once on a second one.
    pub(super) async fn run_until_shutdown(mut self, gateway: Gateway) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                _ = self.term.recv() => break,
                _ = self.int.recv() => break,
                _ = self.hangup.recv() => {
                    let reloader = gateway.control.reloader.clone();
                    // A reload blocks on files, and signals must be handled meanwhile. It logs its own result.
                    tokio::task::spawn_blocking(move || reloader.reload(ReloadCause::Signal));
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
