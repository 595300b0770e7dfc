//! What a gateway starts with, and what it says when it has.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::runtime::Handle;

use super::activation::Sockets;
use crate::{
    config::{Address, Config, Http2, Problems},
    event::Event,
    fleet::replica::Replica,
    plan::Plan,
    state::{State, draining::Draining},
    telemetry::log::LevelHandle,
    upstream::{self, OwnListeners, Proxy},
};

/// What a gateway is started with beside its configuration.
#[derive(Default)]
pub(super) struct Start {
    /// From which the configuration was read.
    pub file: Option<PathBuf>,
    pub level: Option<LevelHandle>,
    pub sockets: Sockets,
    /// Of a fleet that the configuration does not name.
    pub replica: Option<Replica>,
}

/// The state of this process, which is a replica of a fleet if there is one.
pub(in crate::serve) fn of_replica(
    plan: &Plan,
    draining: Draining,
    background: Handle,
    replica: &mut Option<Replica>,
) -> anyhow::Result<State> {
    let Some(replica) = replica else {
        return Ok(State::new(plan, draining, background)?);
    };
    let mut join = |clock, lines| replica.join(clock, lines);
    Ok(State::of_replica(
        plan,
        draining,
        background,
        Some(&mut join),
    )?)
}

/// One line that says what has started, for whoever reads a log from its beginning.
pub(super) fn log_start(
    file: Option<&Path>,
    config: &Config,
    address: &Address,
    admin: SocketAddr,
) {
    let (version, callers) = (env!("CARGO_PKG_VERSION"), config.callers.len());
    let upstream = &config.upstream.url;
    tracing::info!(
        event = Event::Started.label(),
        version,
        file = file.map(|file| tracing::field::display(file.display())),
        %upstream,
        proxy = config.upstream.proxy.as_ref().map(tracing::field::display),
        mode = config.auth.mode.label(),
        callers,
        tokens = config.tokens.len(),
        workers = config.listen.workers,
        listen = %address,
        admin = %admin,
        "revgate {version} has started: {callers} callers, calls go to {upstream}"
    );
}

pub(super) fn upstream_options(
    config: &Config,
    sockets_per_connect: usize,
    own_listeners: OwnListeners,
    proxy: Option<Proxy>,
) -> anyhow::Result<upstream::Options> {
    let settings = &config.upstream;
    let https = settings.url.scheme_str() == Some("https");
    let tls = if https {
        let http2 = settings.http2 != Http2::Never;
        let tls = upstream::tls::client_config(&settings.roots, http2);
        Some(tls.map_err(|error| {
            let message =
                format!("cannot be used: {error:#}; store the certificates of its authority there");
            Problems::from(config.problem("upstream.roots", message))
        })?)
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
        failures: Arc::default(),
    })
}
