//! The running gateway: listeners, worker threads, signals and the drain.

pub(crate) mod control;
mod core_dump;
mod demo;
pub(crate) mod descriptors;
mod inbound;
pub mod memory;
mod reload;
mod signals;
mod traces;
mod worker;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

pub use self::demo::demo;
#[cfg(fuzzing)]
pub use self::inbound::fuzzing;
use self::{
    control::GatewayControl,
    inbound::{
        connection::ConnectionSettings,
        listener::{self, SocketFile},
    },
    reload::{Current, FileWatcher, Reloader},
    signals::Signals,
    worker::Worker,
};
use crate::{
    admin, bind,
    config::{self, Address, Config, Http2},
    plan::Plan,
    policy::self_connection::names_own_listener,
    runtime::ThreadRuntime,
    state::{
        State,
        connections::ConnectionTable,
        draining::{Drain, Draining},
    },
    telemetry::{
        client_lines::ClientLines,
        export::Exporter,
        log::{self, LevelHandle},
    },
    upstream::{self, OwnListeners, Proxy},
};
use anyhow::Context;

/// `revgate run`: serves until a signal ends it.
///
/// # Errors
/// When a listener cannot be bound or the upstream's TLS cannot be set up.
pub fn run(file: PathBuf) -> anyhow::Result<()> {
    let mut config = config::load(&file)?;
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
        let gateway = Gateway::watching(file, config, Some(level))?;
        signals.run_until_shutdown(gateway).await
    })
}

/// A running gateway.
pub struct Gateway {
    address: Address,
    admin: admin::Admin,
    control: Arc<GatewayControl>,
    drain: Drain,
    workers: Vec<JoinHandle<()>>,
    /// Stops when it is dropped.
    _watch: Option<FileWatcher>,
    _socket: Option<SocketFile>,
    client_lines: Arc<ClientLines>,
    exporter: Option<Exporter>,
}

impl Gateway {
    /// Binds every listener and starts to serve. After it returns, nothing of the start can fail.
    ///
    /// # Errors
    /// When a listener cannot be bound or the upstream's TLS cannot be set up.
    pub fn start(config: Config, level: Option<LevelHandle>) -> anyhow::Result<Gateway> {
        Gateway::launch(None, config, level)
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
        Gateway::launch(Some(file), config, level)
    }

    fn launch(
        file: Option<PathBuf>,
        mut config: Config,
        level: Option<LevelHandle>,
    ) -> anyhow::Result<Gateway> {
        let fitting = descriptors::fit(&mut config)?;
        let plan = Arc::new(Plan::of(&config)?);
        // Before anything is started, so that a port in use is the only thing that is reported.
        let (listeners, socket) = listener::bind(&config.listen).with_context(|| {
            let address = &config.listen.address;
            format!("listen.address \"{address}\" cannot be bound")
        })?;
        let address = listeners[0].address()?;
        let admin = bind::tcp(config.admin.address).with_context(|| {
            let address = config.admin.address;
            format!("admin.address \"{address}\" cannot be bound")
        })?;
        let (drain, draining) = Draining::new();
        // The runtime of the admin listener's thread. No request of a caller runs on it.
        let background = ThreadRuntime::new()?;
        let mut state = State::new(&plan, draining, background.handle().clone())?;
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
            connections: ConnectionTable::new(config.listen.max_connections),
            state: state.clone(),
        });
        let workers = listeners.into_iter().map(|listener| {
            let (options, settings) = (options.clone(), settings.clone());
            Worker::new(listener, &plan, &state, options, settings)
        });
        let workers: Vec<_> = workers.collect::<anyhow::Result<_>>()?;
        let (workers, handles): (Vec<_>, Vec<_>) = workers.into_iter().unzip();
        let current = Current { config, plan };
        let reloader = Reloader::new(file, current, state.clone(), handles, level.clone());
        let reloader = Arc::new(reloader);
        let control = Arc::new(GatewayControl::new(reloader.clone(), state, level));
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
        anyhow::ensure!(
            !names_own_listener(&config.upstream.url, &listeners),
            "upstream.url names a listener of this gateway itself; name DevRev's API"
        );
        let proxy = config.upstream.proxy.as_ref();
        anyhow::ensure!(
            !proxy.is_some_and(|proxy| names_own_listener(proxy, &listeners)),
            "upstream.proxy names a listener of this gateway itself; name the proxy"
        );
        own_listeners.set(listeners);
        let workers = workers.into_iter().enumerate();
        let workers = workers.map(|(number, worker)| worker.spawn(number));
        let workers = workers.collect::<std::io::Result<_>>()?;
        let watch = reloader
            .file()
            .is_some()
            .then(|| FileWatcher::start(reloader.clone()))
            .transpose()?;
        let secure = config.listen.tls.is_some();
        tracing::info!(listener = "proxy", %address, tls = secure, "listening");
        reload::warn(config);
        Ok(Gateway {
            address,
            admin,
            control,
            drain,
            workers,
            _watch: watch,
            _socket: socket,
            client_lines,
            exporter,
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

    /// Fails readiness at once and still takes requests for `drain.delay`. Then each connection ends with its last request. Requests
    /// that wait are served if they can be within `drain.timeout`, and the others are refused at once.
    pub async fn drain(mut self) {
        self.control.draining.store(true, Ordering::Release);
        tracing::info!("draining");
        let current = self.control.reloader.current();
        let drain = current.config.drain;
        tokio::time::sleep(drain.delay).await;
        self.drain.begin(drain.timeout);
        let workers = std::mem::take(&mut self.workers);
        let ended = tokio::task::spawn_blocking(move || {
            workers.into_iter().for_each(|worker| drop(worker.join()));
        });
        // Each worker ends within drain.timeout by itself. This bound is for one that hangs.
        let _ = tokio::time::timeout(drain.timeout + Duration::from_secs(1), ended).await;
        // Last, so that it sends the spans of the last requests as well.
        if let Some(exporter) = self.exporter.take() {
            exporter.finish().await;
        }
        self.client_lines.log_summaries();
        tracing::info!("drained");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.drain.begin(Duration::ZERO);
    }
}

fn upstream_options(
    config: &Config,
    sockets_per_connect: usize,
    own_listeners: OwnListeners,
    proxy: Option<Proxy>,
) -> anyhow::Result<upstream::Options> {
    let settings = &config.upstream;
    let https = settings.url.scheme_str() == Some("https");
    let tls = if https {
        let http2 = settings.http2 != Http2::Never;
        Some(upstream::tls::client_config(&settings.roots, http2).context("upstream.roots")?)
    } else {
        None
    };
    Ok(upstream::Options {
        url: settings.url.clone(),
        tls,
        http2_only: settings.http2 == Http2::Always && !https,
        max_connections: settings.max_connections.div_ceil(config.listen.workers),
        sockets_per_connect,
        own_listeners,
        proxy,
    })
}
