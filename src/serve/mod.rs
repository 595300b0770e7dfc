//! The running gateway: listeners, worker threads, signals and the drain.

mod activation;
pub(crate) mod control;
mod core_dump;
mod demo;
pub(crate) mod descriptors;
mod inbound;
mod manager;
pub mod memory;
mod reload;
mod signals;
mod start;
mod traces;
mod turning;
mod worker;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context;
use tokio::time::Instant;

pub use self::demo::{DemoOptions, Load, demo};
#[cfg(fuzzing)]
pub use self::inbound::fuzzing;
use self::{
    activation::Sockets,
    control::GatewayControl,
    inbound::{
        connection::ConnectionSettings,
        listener::{self, SocketFile},
    },
    manager::Manager,
    reload::{Current, FileWatcher, Reloader},
    signals::Signals,
    start::{Start, log_start, of_replica, upstream_options},
    turning::Threads,
    worker::Worker,
};
use crate::{
    admin, bind,
    config::{self, Address, Config, Problems},
    event::Event,
    fleet::replica::Replica,
    plan::Plan,
    policy::{duration_words::duration_words, self_connection::names_own_listener},
    runtime::ThreadRuntime,
    state::{
        connections::ConnectionTable,
        draining::{Drain, Draining},
    },
    telemetry::{
        client_lines::{ClientLines, Due},
        export::Exporter,
        log::{self, LevelHandle},
    },
    upstream::OwnListeners,
};

/// `revgate run`: serves until a signal ends it.
///
/// # Errors
/// When a listener cannot be bound or the upstream's TLS cannot be set up.
pub fn run(file: PathBuf) -> anyhow::Result<()> {
    // First, while there is one thread.
    let sockets = Sockets::take()?;
    let mut config = config::load_given(&file, &sockets.addresses()?)?;
    let level = log::init(&config.log.level, config.log.format)?;
    log::log_panics();
    core_dump::forbid();
    descriptors::raise();
    // Here first, because with too few descriptors nothing that follows works.
    descriptors::fit(&mut config)?;
    // Dropping it does not wait for blocking work, so that a second signal ends the process at once.
    let runtime = ThreadRuntime::new()?;
    runtime.block_on(async {
        let signals = Signals::install()?;
        let manager = Manager::of_environment()?;
        let start = Start {
            file: Some(file),
            level: Some(level),
            sockets,
            replica: None,
        };
        let gateway = Gateway::launch(config, start)?;
        signals.run_under(&manager, gateway).await
    })
}

/// A running gateway.
pub struct Gateway {
    address: Address,
    admin: admin::Admin,
    control: Arc<GatewayControl>,
    drain: Drain,
    workers: Vec<JoinHandle<()>>,
    threads: Threads,
    connections: Arc<ConnectionTable>,
    /// Stops when it is dropped.
    _watch: Option<FileWatcher>,
    _socket: Option<SocketFile>,
    client_lines: Arc<ClientLines>,
    exporter: Option<Exporter>,
    /// In a fleet.
    replica: Option<Replica>,
}

impl Gateway {
    /// Binds every listener and starts to serve. After it returns, nothing of the start can fail.
    ///
    /// # Errors
    /// When a listener cannot be bound or the upstream's TLS cannot be set up.
    pub fn start(config: Config, level: Option<LevelHandle>) -> anyhow::Result<Gateway> {
        let start = Start {
            level,
            ..Start::default()
        };
        Gateway::launch(config, start)
    }

    /// As [`Gateway::start`], and reloads `file`, from which `config` was read, on demand and when it changes.
    ///
    /// # Errors
    /// See [`Gateway::start`].
    pub fn watching(
        file: PathBuf,
        config: Config,
        level: Option<LevelHandle>,
    ) -> anyhow::Result<Gateway> {
        let start = Start {
            file: Some(file),
            level,
            ..Start::default()
        };
        Gateway::launch(config, start)
    }

    fn launch(mut config: Config, start: Start) -> anyhow::Result<Gateway> {
        let Start {
            file,
            level,
            sockets,
            mut replica,
        } = start;
        let given = sockets.addresses()?;
        let fitting = descriptors::fit(&mut config)?;
        let plan = Arc::new(Plan::of(&config)?);
        // Before anything is started, so that a port in use is the only thing that is reported.
        let unbound = |key: &str, error: std::io::Error| {
            Problems::from(config.problem(key, format!("cannot be bound: {error}")))
        };
        let (listeners, socket) = listener::bind(&config.listen, sockets.proxy)
            .map_err(|error| unbound("listen.address", error))?;
        let address = listeners[0].address()?;
        let admin = match sockets.admin {
            Some(listener) => listener,
            None => {
                bind::tcp(config.admin.address).map_err(|error| unbound("admin.address", error))?
            }
        };
        let (drain, draining) = Draining::new();
        // The runtime of the admin listener's thread. No request of a caller runs on it.
        let background = ThreadRuntime::new()?;
        let mut threads = Threads::default();
        threads.add("admin".into(), background.handle().clone());
        if let Some(shared) = &plan.shared {
            replica = Some(Replica::start(shared)?);
        }
        if let Some(replica) = &replica {
            threads.add("fleet".into(), replica.runtime().clone());
        }
        let mut state = of_replica(&plan, draining, background.handle().clone(), &mut replica)?;
        let exporter = traces::start(&config, &state.metrics)?;
        state.spans = exporter.as_ref().map(Exporter::spans);
        let state = Arc::new(state);
        let client_lines = state.client_lines.clone();
        let summaries = client_lines.clone().keep_logging_summaries();
        background.handle().spawn(summaries);
        let own_listeners = OwnListeners::default();
        let options = upstream_options(
            &config,
            fitting.sockets_per_connect,
            own_listeners.clone(),
            state.proxy.clone(),
        )?;
        let settings = Arc::new(ConnectionSettings {
            header_timeout: config.listen.header_timeout,
            idle_timeout: config.listen.idle_timeout,
            drain_timeout: config.drain.timeout,
            told_of_field: false.into(),
            proxy_protocol: config.listen.proxy_protocol,
            proxies: config.listen.proxies(),
            connections: ConnectionTable::new(config.listen.max_connections),
            state: state.clone(),
        });
        let connections = settings.connections.clone();
        let workers = listeners.into_iter().map(|listener| {
            let (options, settings) = (options.clone(), settings.clone());
            Worker::new(listener, &plan, &state, options, settings)
        });
        let workers: Vec<_> = workers.collect::<anyhow::Result<_>>()?;
        let (workers, handles): (Vec<_>, Vec<_>) = workers.into_iter().unzip();
        let current = Current { config, plan };
        let reloader = Reloader::new(file, current, state.clone(), handles, level.clone());
        let reloader = Arc::new(reloader.with_given(given));
        let control = Arc::new(GatewayControl::new(reloader.clone(), state, level));
        background.handle().spawn(control.clone().keep_observing());
        let current = reloader.current();
        let config = &current.config;
        let admin = admin::Options {
            listener: admin,
            max_connections: fitting.admin_connections,
            key: config.admin.key.as_ref().map(|key| key.value.clone()),
        };
        let admin = admin::start(admin, control.clone(), background)
            .context("the admin listener could not start")?;
        let mut listeners = vec![admin.addr()];
        if let Address::Tcp(address) = address {
            listeners.push(address);
        }
        let loops = |key: &str, instead: &str| {
            let message = format!("names a listener of this gateway itself; name {instead}");
            Problems::from(config.problem(key, message))
        };
        if names_own_listener(&config.upstream.url, &listeners) {
            return Err(loops("upstream.url", "DevRev's API").into());
        }
        let proxy = config.upstream.proxy.as_ref();
        if proxy.is_some_and(|proxy| names_own_listener(proxy, &listeners)) {
            return Err(loops("upstream.proxy", "the proxy").into());
        }
        own_listeners.set(listeners);
        let workers = workers.into_iter().enumerate();
        let workers = workers.map(|(number, worker)| {
            threads.add(format!("worker-{number}"), worker.handle().clone());
            worker.spawn(number)
        });
        let workers = workers.collect::<std::io::Result<_>>()?;
        let watch = reloader
            .file()
            .is_some()
            .then(|| FileWatcher::start(reloader.clone()))
            .transpose()?;
        let secure = config.listen.tls.is_some();
        tracing::info!(event = Event::Listening.label(), listener = "proxy", %address, tls = secure, "listening");
        log_start(reloader.file(), config, &address, admin.addr());
        reload::warn(config);
        Ok(Gateway {
            address,
            admin,
            control,
            drain,
            workers,
            threads,
            connections,
            _watch: watch,
            _socket: socket,
            client_lines,
            exporter,
            replica,
        })
    }

    /// The address for callers, with the port that was bound; `None` for a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.address {
            Address::Tcp(address) => Some(address),
            Address::Unix(_) => None,
        }
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// What it does, in a line.
    fn summary(&self) -> String {
        let admin = self.admin.addr();
        format!("serving callers on {}, operators on {admin}", self.address)
    }

    /// Fails readiness at once and still takes requests for `drain.delay`. Then each connection ends with its last request. Requests
    /// that wait are served if they can be within `drain.timeout`, and the others are refused at once.
    pub async fn drain(mut self) {
        self.control.draining.store(true, Ordering::Release);
        let current = self.control.reloader.current();
        let (drain, start) = (current.config.drain, Instant::now());
        let (in_flight, waiting) = (self.control.in_flight(), self.control.waiting());
        tracing::info!(
            event = Event::Draining.label(),
            in_flight,
            waiting,
            delay_seconds = drain.delay.as_secs_f64(),
            timeout_seconds = drain.timeout.as_secs_f64(),
            "draining; requests in flight: {in_flight}, waiting: {waiting}; new ones are accepted for {} more, and then all have {} to end",
            duration_words(drain.delay),
            duration_words(drain.timeout)
        );
        tokio::time::sleep(drain.delay).await;
        self.drain.begin(drain.timeout);
        let workers = std::mem::take(&mut self.workers);
        let ended = tokio::task::spawn_blocking(move || {
            workers.into_iter().for_each(|worker| drop(worker.join()));
        });
        // Each worker ends within drain.timeout by itself. This bound is for one that hangs.
        let _ = tokio::time::timeout(drain.timeout + Duration::from_secs(1), ended).await;
        // When nothing is sent to DevRev any more.
        if let Some(replica) = self.replica.take() {
            replica.leave().await;
        }
        // Last, so that it sends the spans of the last requests as well.
        if let Some(exporter) = self.exporter.take() {
            exporter.finish().await;
        }
        self.client_lines.log_summaries(Due::AtTheEnd);
        tracing::info!(
            event = Event::Drained.label(),
            after_seconds = start.elapsed().as_secs_f64(),
            left = self.control.in_flight(),
            "drained"
        );
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.drain.begin(Duration::ZERO);
    }
}
