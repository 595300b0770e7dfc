//! Signals: SIGTERM, SIGINT and SIGHUP; and what the service manager learns of them.

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::interval,
};

use super::{
    Gateway,
    manager::{DRAIN_TICK, Manager},
    reload::{ReloadCause, Report},
};

/// The handlers. They are installed before the listeners are logged: a program that reads that line may send a signal at once, which
/// would kill the process without a handler.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hangup: Signal,
}

/// The reload by SIGHUP that runs, and whether the signal has come again meanwhile.
#[derive(Default)]
struct Reloads {
    running: Option<JoinHandle<Report>>,
    again: bool,
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

    /// Completes on SIGTERM or SIGINT.
    pub(super) async fn shutdown(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }

    /// Reloads on SIGHUP. Drains on SIGTERM or SIGINT, and ends at once on a second one. The service manager is told.
    pub(super) async fn run_under(
        mut self,
        manager: &Manager,
        mut gateway: Gateway,
    ) -> anyhow::Result<()> {
        let watch = manager.keep_watch(std::mem::take(&mut gateway.threads));
        tokio::pin!(watch);
        let mut reloads = Reloads::default();
        manager.ready(gateway.summary());
        loop {
            tokio::select! {
                _ = self.term.recv() => break,
                _ = self.int.recv() => break,
                _ = self.hangup.recv() => reloads.ask(&gateway, manager),
                report = reloads.next() => reloads.done(report, &gateway, manager),
                () = &mut watch => {}
            }
        }
        manager.stopping();
        let connections = gateway.connections.clone();
        let drain = gateway.drain();
        tokio::pin!(drain);
        let mut ticks = interval(DRAIN_TICK);
        loop {
            tokio::select! {
                () = &mut drain => return Ok(()),
                _ = self.term.recv() => anyhow::bail!("ended at once by a second signal"),
                _ = self.int.recv() => anyhow::bail!("ended at once by a second signal"),
                _ = ticks.tick() => {
                    manager.drains(format!("draining, {} connections are open", connections.open_now()));
                }
                () = &mut watch => {}
            }
        }
    }
}

impl Reloads {
    /// Reloads, once more if one runs: it may have read the file before it was changed.
    fn ask(&mut self, gateway: &Gateway, manager: &Manager) {
        if self.running.is_some() {
            self.again = true;
            return;
        }
        manager.reloading();
        let reloader = gateway.control.reloader.clone();
        // A reload blocks on files, and signals must be handled meanwhile. It logs its own result.
        self.running = Some(tokio::task::spawn_blocking(move || {
            reloader.reload(ReloadCause::Signal)
        }));
    }

    /// The report of the one that runs; `None` after a panic.
    async fn next(&mut self) -> Option<Report> {
        match &mut self.running {
            Some(running) => running.await.ok(),
            None => std::future::pending().await,
        }
    }

    fn done(&mut self, report: Option<Report>, gateway: &Gateway, manager: &Manager) {
        self.running = None;
        let result = report.map_or("failed", |report| report.result.label());
        manager.ready(format!("{}; last reload: {result}", gateway.summary()));
        if std::mem::take(&mut self.again) {
            self.ask(gateway, manager);
        }
    }
}
