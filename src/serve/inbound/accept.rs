//! Accepts connections.

use std::{io, sync::Arc};

use tokio::time::Instant;

use super::listener::Listener;
use crate::{
    state::connections::{ConnectionTable, OpenConnection},
    tcp,
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
            let (stream, peer) = loop {
                match listener.accept().await {
                    Err(error) if tcp::concerns_one_connection(&error) => {}
                    accepted => break accepted?,
                }
            };
            tcp::set_options(&stream);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_accepted_connection_has_the_options() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = AsyncListener::new(Listener::Tcp(listener)).unwrap();
        let table = ConnectionTable::new(2);
        let connecting = tokio::net::TcpStream::connect(address);
        let (client, accepted) = tokio::join!(connecting, accept(&listener, &table));
        let (client, accepted) = (client.unwrap(), accepted.unwrap());
        let Stream::Tcp(stream) = accepted.stream else {
            panic!("TCP");
        };
        assert_eq!(stream.peer_addr().unwrap(), client.local_addr().unwrap());
        tcp::assert_options(&stream);
    }
}
