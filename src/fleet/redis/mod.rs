//! The register on a real Redis or Valkey.
//!
//! `address` reads where it is, `connection` goes there, `supervisor` keeps the connection, `script` is the exchange, `pushed` is what
//! comes over the same connection by itself, `answer` says what refusals mean, and `meter` bounds what a server may send. `sentinel` finds the
//! primary, and `cluster` keeps a connection to each node that has a key; both take addresses as `announced`. `trial` is for
//! `revgate check --connect`, with `facts`, what a server says of itself.

use std::{future::ready, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

mod announced;
pub(crate) mod answer;
pub(crate) mod cluster;
pub(crate) mod connection;
pub(crate) mod facts;
#[cfg(fuzzing)]
pub mod fuzzing;
mod meter;
mod pushed;
pub(crate) mod script;
pub(crate) mod sentinel;
pub(crate) mod supervisor;
#[cfg(test)]
mod tests;
pub(crate) mod trial;
#[cfg(test)]
mod written;

// Below the configuration, which reads it too.
pub use crate::policy::redis_address as address;

use self::{
    address::{Address, Endpoint, Kind},
    cluster::Cluster,
    connection::Target,
    sentinel::Sentinels,
    supervisor::{Route, Rules, Supervised, any_key},
};
use crate::fleet::{
    hints::Hints,
    names::Names,
    register::{Answer, Failure, Fault, Hint, Key, Link, Register, Write},
};

/// Begins to connect, on the runtime of this thread. The configuration of TLS is used if the endpoint wants TLS. Each call of the register
/// ends within `timeout`.
pub fn start(
    endpoint: Endpoint,
    tls: Option<&Arc<rustls::ClientConfig>>,
    names: Names,
    timeout: Duration,
) -> Arc<dyn Register> {
    let tls = tls.filter(|_| endpoint.tls).cloned();
    let server = Server { endpoint, tls };
    match server.endpoint.kind.clone() {
        Kind::Single => Arc::new(Redis::start(Box::new(server), names, timeout)),
        Kind::Sentinel {
            master,
            credentials,
        } => {
            let sentinels = Sentinels {
                server,
                credentials,
                master,
            };
            Arc::new(Redis::start(Box::new(sentinels), names, timeout))
        }
        Kind::Cluster => Arc::new(Cluster::start(server, names, timeout)),
    }
}

/// What is known of all servers of an endpoint.
#[derive(Clone)]
pub(crate) struct Server {
    pub endpoint: Endpoint,
    /// With it, TLS to all of them.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

impl Server {
    fn at(&self, address: Address) -> Target {
        Target::at(&self.endpoint, address, self.tls.as_ref())
    }
}

/// The one that is named.
impl Route for Server {
    fn next(&self) -> BoxFuture<'_, Result<Target, Failure>> {
        let address = self.endpoint.addresses.first().cloned();
        let target = address.map(|address| self.at(address));
        let none = || Failure::new(Fault::Down, "no address is configured");
        Box::pin(ready(target.ok_or_else(none)))
    }
}

/// One server: the one that is named, or the one that Sentinel names.
pub(crate) struct Redis {
    supervised: Supervised,
    hints: Arc<Hints>,
}

impl Redis {
    /// Begins to connect, on the runtime of this thread. Each call ends within `timeout`.
    pub(crate) fn start(route: Box<dyn Route>, names: Names, timeout: Duration) -> Redis {
        let hints = Arc::new(Hints::new());
        let rules = Rules {
            timeout,
            probe: any_key(names),
        };
        Redis {
            supervised: Supervised::start(route, rules, hints.clone()),
            hints,
        }
    }
}

impl Register for Redis {
    fn exchange<'a>(&'a self, key: &'a Key, write: Option<Write>) -> Answer<'a> {
        Box::pin(async move {
            let exchanged = self.supervised.exchange(key, write.as_ref(), false).await;
            exchanged.map_err(|error| {
                // One server has all keys, so this one is the wrong one.
                if error.is_redirection() {
                    self.supervised.give_up(error.failure());
                }
                error.failure()
            })
        })
    }

    fn listen(&self, key: &Key) {
        self.hints.want(key, true);
    }

    fn forget(&self, key: &Key) {
        self.hints.want(key, false);
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.supervised.link()
    }

    fn hints(&self) -> Option<mpsc::Receiver<Hint>> {
        self.hints.take()
    }
}
