//! Accepts connections.

use std::{io, sync::Arc};

use tokio::time::Instant;

use super::listener::Listener;
use crate::{
    state::connections::{ConnectionTable, OpenConnection},
    types::PeerAddress,
};

/// A listener on the runtime of its worker.
pub(super) enum AsyncListener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl AsyncListener {
    pub(super) fn new(listener: Listener) -> io::Result<AsyncListener> {
        Ok(match listener {
            Listener::Tcp(listener) => {
                AsyncListener::Tcp(tokio::net::TcpListener::from_std(listener)?)
            }
            Listener::Unix(listener) => {
                AsyncListener::Unix(tokio::net::UnixListener::from_std(listener)?)
            }
        })
    }
}

pub(super) enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

/// A connection that has been accepted.
pub(super) struct Accepted {
    pub stream: Stream,
    pub address: Option<PeerAddress>,
    pub at: Instant,
    pub open: OpenConnection,
}

/// Accepts the next connection, and waits until there is a place for it. Meanwhile further ones wait in the kernel's backlog.
pub(super) async fn accept(
    listener: &AsyncListener,
    connections: &Arc<ConnectionTable>,
) -> io::Result<Accepted> {
    let (stream, address) = match listener {
        AsyncListener::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            (Stream::Tcp(stream), Some(PeerAddress(peer.ip())))
        }
        AsyncListener::Unix(listener) => (Stream::Unix(listener.accept().await?.0), None),
    };
    let open = connections.open(address.map(|PeerAddress(ip)| ip)).await;
    Ok(Accepted {
        stream,
        address,
        at: Instant::now(),
        open,
    })
}
