//! This process as a replica of a fleet: the thread on which the connection to the register and all exchanges are.

use std::{io, sync::Arc, thread::JoinHandle, time::Duration};

use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use super::{
    driver::{Driver, Parts},
    here::Place,
    names::Names,
    redis,
    register::Register,
};
use crate::{
    plan::SharedPlan,
    random,
    runtime::{ThreadRuntime, spawn_thread},
    state::{Clock, Joining},
    telemetry::{client_lines::ClientLines, labels::RegisterKind, shared::FleetStatus},
    upstream::tls,
};

/// See the module. Its thread ends when this is dropped.
pub(crate) struct Replica {
    kind: RegisterKind,
    register: Arc<dyn Register>,
    names: Names,
    timeout: Duration,
    runtime: tokio::runtime::Handle,
    driver: Option<Arc<Driver>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Replica {
    /// Begins to connect to the register of this plan.
    ///
    /// # Errors
    /// When the certificates of its authority cannot be used, or the thread cannot be started.
    pub(crate) fn start(plan: &SharedPlan) -> anyhow::Result<Replica> {
        let tls = plan
            .endpoint
            .tls
            .then(|| tls::plain_config(&plan.roots).map(Arc::new));
        let tls = tls.transpose()?;
        let secret = plan
            .name_key
            .as_ref()
            .map(|key| key.expose_secret().as_bytes());
        let names = Names::new(&plan.prefix, secret);
        let (endpoint, of_register) = (plan.endpoint.clone(), names.clone());
        let timeout = plan.timeout;
        let start = move || redis::start(endpoint, tls.as_ref(), of_register, timeout);
        Ok(Replica::with(RegisterKind::Redis, start, names, timeout)?)
    }

    /// Of a fleet within this process.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn here(place: &Place, timeout: Duration) -> io::Result<Replica> {
        let register = || Arc::new(place.join(timeout, random::id64())) as Arc<dyn Register>;
        // Whoever reads the place is in this process.
        let names = Names::new("here", None);
        Replica::with(RegisterKind::Memory, register, names, timeout)
    }

    /// The register is made on the thread's runtime.
    fn with(
        kind: RegisterKind,
        register: impl FnOnce() -> Arc<dyn Register>,
        names: Names,
        timeout: Duration,
    ) -> io::Result<Replica> {
        let runtime = ThreadRuntime::new()?;
        let handle = runtime.handle().clone();
        let register = {
            let _entered = runtime.enter();
            register()
        };
        let stop = CancellationToken::new();
        let until = stop.clone();
        let run = move || runtime.block_on(until.cancelled());
        let thread = spawn_thread("fleet".into(), run)?;
        Ok(Replica {
            kind,
            register,
            names,
            timeout,
            runtime: handle,
            driver: None,
            stop,
            thread: Some(thread),
        })
    }

    /// The runtime of its thread.
    pub(crate) fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }

    /// What the state of this process needs to be the fleet's. `lines` decides which lines about groups are written.
    pub(crate) fn join(&mut self, clock: Clock, lines: Arc<ClientLines>) -> Joining {
        let status = FleetStatus::new(self.kind, self.timeout, lines);
        let driver = Driver::start(Parts {
            register: self.register.clone(),
            names: self.names.clone(),
            clock,
            timeout: self.timeout,
            status: status.clone(),
            runtime: self.runtime.clone(),
        });
        self.driver = Some(driver.clone());
        Joining {
            status,
            fleet: driver.fleet(),
            purses: driver.purses(),
        }
    }

    /// Returns what it holds, and ends.
    pub(crate) async fn leave(mut self) {
        if let Some(driver) = self.driver.take() {
            driver.leave().await;
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
        // It does not wait for anything that takes long.
        drop(self.thread.take());
    }
}
