//! Accepts connections.

use std::{
    io, net,
    os::{fd::AsRawFd, unix},
    sync::Arc,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

use super::{
    listener::{Listener, ListeningSocket},
    workload::{Counted, Workload},
};
use crate::{
    policy::client_address::Client,
    state::connections::{ConnectionTable, OpenConnection},
    tcp,
    types::PeerAddress,
};

/// A listener on the runtime of its worker.
pub(super) struct AsyncListener {
    socket: AsyncSocket,
    workload: Workload,
}

/// The listeners of tokio do not tell that a connection has come before they take it.
enum AsyncSocket {
    Tcp(AsyncFd<net::TcpListener>),
    Unix(AsyncFd<unix::net::UnixListener>),
}

impl AsyncListener {
    pub(super) fn new(listener: Listener) -> io::Result<AsyncListener> {
        let Listener { socket, workload } = listener;
        let socket = match socket {
            ListeningSocket::Tcp(listener) => AsyncSocket::Tcp(async_fd(listener)?),
            ListeningSocket::Unix(listener) => AsyncSocket::Unix(async_fd(listener)?),
        };
        Ok(AsyncListener { socket, workload })
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, because of types whose descriptor changes; a listener's never does"
)]
fn async_fd<L: AsRawFd>(listener: L) -> io::Result<AsyncFd<L>> {
    AsyncFd::with_interest(listener, Interest::READABLE)
}

pub(super) enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

/// A connection that has been accepted.
pub(super) struct Accepted {
    pub stream: Stream,
    /// `None` on a unix socket.
    pub address: Option<PeerAddress>,
    pub at: Instant,
    pub open: OpenConnection,
    /// Held until the connection ends.
    pub counted: Counted,
}

/// Accepts the next connection, and waits until there is a place for it. Meanwhile further ones wait in the kernel's backlog, or go to
/// other workers.
pub(super) async fn accept(
    listener: &AsyncListener,
    connections: &Arc<ConnectionTable>,
) -> io::Result<Accepted> {
    let (stream, address) = loop {
        match listener.next().await {
            // Of that connection alone, whose client has gone already.
            Err(error) if tcp::concerns_one_connection(&error) => {}
            accepted => break accepted?,
        }
    };
    let counted = listener.workload.count();
    let open = connections
        .open(address.and_then(|address| address.ip()))
        .await;
    Ok(Accepted {
        stream,
        address,
        at: Instant::now(),
        open,
        counted,
    })
}

impl AsyncListener {
    async fn next(&self) -> io::Result<(Stream, Option<PeerAddress>)> {
        match &self.socket {
            AsyncSocket::Tcp(listener) => {
                let (stream, peer) = self.take(listener, net::TcpListener::accept).await?;
                stream.set_nonblocking(true)?;
                let stream = tokio::net::TcpStream::from_std(stream)?;
                tcp::set_options(&stream);
                let client = PeerAddress::Client(Client::direct(peer.ip()));
                Ok((Stream::Tcp(stream), Some(client)))
            }
            AsyncSocket::Unix(listener) => {
                let accept = unix::net::UnixListener::accept;
                let (stream, _) = self.take(listener, accept).await?;
                stream.set_nonblocking(true)?;
                let stream = tokio::net::UnixStream::from_std(stream)?;
                Ok((Stream::Unix(stream), None))
            }
        }
    }

    async fn take<L: AsRawFd, T>(
        &self,
        listener: &AsyncFd<L>,
        accept: impl Fn(&L) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            // In a flood of connections there is always a next one. What this worker has to do besides gets its turn.
            tokio::task::coop::consume_budget().await;
            let mut ready = listener.readable().await?;
            self.workload.give_way().await;
            if let Ok(accepted) = ready.try_io(|listener| accept(listener.get_ref())) {
                return accepted;
            }
            // Another worker may have taken it.
            self.workload.none_left();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{SocketAddr, TcpStream},
        sync::{Barrier, mpsc},
    };

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{bind, runtime::ThreadRuntime};

    /// Says which of the workers has taken each of the connections.
    fn takers(workers: usize, connections: usize, connect: impl FnOnce(SocketAddr)) -> Vec<usize> {
        let listener = bind::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let table = ConnectionTable::new(10_000);
        let (stop, ready) = (CancellationToken::new(), Barrier::new(workers + 1));
        let (taken, takers) = mpsc::channel();
        std::thread::scope(|scope| {
            for (number, workload) in Workload::of_workers(workers).into_iter().enumerate() {
                let socket = ListeningSocket::Tcp(listener.try_clone().unwrap());
                let listener = Listener { socket, workload };
                let (table, stop, ready, taken) = (&table, &stop, &ready, taken.clone());
                scope.spawn(move || {
                    ThreadRuntime::new().unwrap().block_on(async {
                        let listener = AsyncListener::new(listener).unwrap();
                        ready.wait();
                        let mut held = Vec::new();
                        let accepting = async {
                            loop {
                                held.push(accept(&listener, table).await.unwrap());
                                taken.send(number).unwrap();
                            }
                        };
                        stop.run_until_cancelled(accepting).await;
                    });
                });
            }
            ready.wait();
            connect(address);
            let takers = takers.iter().take(connections).collect();
            stop.cancel();
            takers
        })
    }

    #[tokio::test]
    async fn an_accepted_connection_has_the_options() {
        let listener = bind::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let workload = Workload::of_workers(1).into_iter().next().unwrap();
        let socket = ListeningSocket::Tcp(listener);
        let listener = AsyncListener::new(Listener { socket, workload }).unwrap();
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

    #[test]
    fn connections_spread_over_workers_and_each_goes_to_one() {
        const CONNECTIONS: usize = 300;
        for workers in [1, 2, 3] {
            let mut held = Vec::new();
            let takers = takers(workers, CONNECTIONS, |address| {
                held.extend((0..CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()));
            });
            let of = |worker| takers.iter().filter(|taker| **taker == worker).count();
            let counts: Vec<_> = (0..workers).map(of).collect();
            let fair = CONNECTIONS / workers;
            // Far from chance, and wide enough for a machine on which a thread waits for its turn.
            assert!(counts.iter().all(|count| *count > fair / 2), "{counts:?}");
        }
    }
}
