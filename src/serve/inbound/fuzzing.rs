//! For fuzzing: connections without sockets, and what is read of heads.

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Handle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{ConnectionSettings, Origin, Server},
    head::{HeadReader, Speaks},
};
use crate::{
    config::Config,
    plan::Plan,
    policy::{client_address::Client, http1::Cut},
    serve::{
        upstream_options,
        worker::{Published, Serving},
    },
    stack,
    state::{
        State,
        connections::ConnectionTable,
        draining::{Drain, Draining},
    },
    types::PeerAddress,
    upstream::{OwnListeners, Upstream},
};

/// Follows the input of one connection.
pub struct Follower(HeadReader);

/// What it knows.
#[derive(Debug, PartialEq, Eq)]
pub struct Followed {
    pub http2: bool,
    pub incomplete: bool,
    pub unfinished: usize,
    pub blocks: usize,
    pub cost: usize,
}

impl Follower {
    /// Of a connection on which either protocol is spoken, or the one that was agreed on.
    pub fn new(agreed_on_http2: Option<bool>) -> Follower {
        Follower(HeadReader::new(match agreed_on_http2 {
            None => Speaks::Either,
            Some(false) => Speaks::Http1,
            Some(true) => Speaks::Http2,
        }))
    }

    /// # Errors
    /// Where HTTP/1.1 went wrong.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        self.0.read(bytes)
    }

    pub fn followed(&self) -> Followed {
        Followed {
            http2: self.0.is_http2(),
            incomplete: self.0.is_incomplete(),
            unfinished: self.0.unfinished(),
            blocks: self.0.blocks(),
            cost: self.0.cost(1),
        }
    }
}

/// A worker without listeners. Belongs to the runtime on which it was made.
pub struct Gateway {
    server: Server,
    settings: Arc<ConnectionSettings>,
    max_connections: usize,
    _drain: Drain,
}

impl Gateway {
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(config: &Config) -> anyhow::Result<Gateway> {
        let plan = Arc::new(Plan::of(config)?);
        let (drain, draining) = Draining::new();
        let state = Arc::new(State::new(&plan, draining, Handle::current())?);
        let options = upstream_options(config, 2, OwnListeners::default(), None)?;
        let upstream = Upstream::new(options, plan.upstream);
        let lanes = upstream.lanes();
        let max_connections = config.listen.max_connections;
        let settings = Arc::new(ConnectionSettings {
            header_timeout: config.listen.header_timeout,
            idle_timeout: config.listen.idle_timeout,
            drain_timeout: config.drain.timeout,
            told_of_field: false.into(),
            proxy_protocol: config.listen.proxy_protocol,
            proxies: config.listen.proxies(),
            connections: ConnectionTable::new(max_connections),
            state: state.clone(),
        });
        let published = Published(Arc::new(ArcSwap::from_pointee(Serving {
            stack: stack::build(&plan, &state, upstream, Some(lanes)),
            plan,
        })));
        Ok(Gateway {
            server: Server::new(published, settings.clone()),
            settings,
            max_connections,
            _drain: drain,
        })
    }

    /// Serves one connection to its end.
    pub async fn serve<I>(&self, stream: I, address: IpAddr, agreed_on_http2: Option<bool>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let origin = Origin {
            address: Some(PeerAddress::Client(Client::direct(address))),
            peer: None,
            retired: CancellationToken::new(),
            speaks: match agreed_on_http2 {
                None => Speaks::Either,
                Some(false) => Speaks::Http1,
                Some(true) => Speaks::Http2,
            },
            at: Instant::now(),
            open: self.settings.connections.open(Some(address)).await,
        };
        self.server.clone().serve(stream, origin).await;
    }

    /// What is still held, by name. Nothing may be when no request is in flight.
    pub fn left(&self) -> Vec<&'static str> {
        let state = &self.settings.state;
        let pools = [
            ("in flight", &state.in_flight),
            ("buffered", &state.buffered),
            ("rewriting", &state.rewriting),
            ("heads", &state.heads),
            ("decoding", &state.decoding),
        ];
        let used = pools.iter().filter(|(_, pool)| pool.used() > 0);
        let mut left: Vec<_> = used.map(|(name, _)| *name).collect();
        let groups = state.groups.view();
        let mut groups = groups.as_object().into_iter().flatten();
        if groups.any(|(_, group)| group["in_flight"] != 0 || group["waiting"] != 0) {
            left.push("units of the quota");
        }
        let address = IpAddr::from([192, 0, 2, 1]);
        let open = || self.settings.connections.open(Some(address)).now_or_never();
        let all: Option<Vec<_>> = (0..self.max_connections).map(|_| open()).collect();
        if all.is_none() {
            left.push("connections");
        }
        left
    }
}
