//! Accepts connections.

use std::{
    cell::Cell,
    io, net,
    os::{fd::AsRawFd, unix},
    sync::Arc,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

use super::{
    listener::{Listener, ListeningSocket, Owner},
    workload::{Counted, Workload},
};
use crate::{
    bind::BACKLOG,
    policy::client_address::Client,
    state::{
        connections::{ConnectionTable, OpenConnection},
        draining::Draining,
    },
    tcp,
    types::PeerAddress,
};

/// A listener on the runtime of its worker.
pub(super) struct AsyncListener {
    socket: AsyncSocket,
    workload: Workload,
    owner: Owner,
    /// So many connections it may still take in a drain.
    left: Cell<usize>,
}

/// The listeners of tokio do not tell that a connection has come before they take it.
enum AsyncSocket {
    Tcp(AsyncFd<net::TcpListener>),
    Unix(AsyncFd<unix::net::UnixListener>),
}

impl AsyncListener {
    pub(super) fn new(listener: Listener) -> io::Result<AsyncListener> {
        let Listener {
            socket,
            workload,
            owner,
        } = listener;
        let socket = match socket {
            ListeningSocket::Tcp(listener) => AsyncSocket::Tcp(async_fd(listener)?),
            ListeningSocket::Unix(listener) => AsyncSocket::Unix(async_fd(listener)?),
        };
        Ok(AsyncListener {
            socket,
            workload,
            owner,
            left: Cell::new(BACKLOG as usize),
        })
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
/// other workers. In a drain, `None` once none is left for this process.
pub(super) async fn accept(
    listener: &AsyncListener,
    connections: &Arc<ConnectionTable>,
    draining: &Draining,
) -> io::Result<Option<Accepted>> {
    let (stream, address) = loop {
        let taken = tokio::select! {
            biased;
            () = draining.begun() => match listener.take_left() {
                Ok(None) => return Ok(None),
                Ok(Some(taken)) => Ok(taken),
                Err(error) => Err(error),
            },
            taken = listener.next() => taken,
        };
        match taken {
            // Of that connection alone, whose client has gone already.
            Err(error) if tcp::concerns_one_connection(&error) => {}
            taken => break taken?,
        }
    };
    let counted = listener.workload.count();
    let open = connections
        .open(address.and_then(|address| address.ip()))
        .await;
    Ok(Some(Accepted {
        stream,
        address,
        at: Instant::now(),
        open,
        counted,
    }))
}

type Taken = (Stream, Option<PeerAddress>);

impl AsyncListener {
    /// Loses no connection if it is dropped.
    async fn next(&self) -> io::Result<Taken> {
        match &self.socket {
            AsyncSocket::Tcp(listener) => {
                of_tcp(self.take(listener, net::TcpListener::accept).await?)
            }
            AsyncSocket::Unix(listener) => {
                let accept = unix::net::UnixListener::accept;
                of_unix(self.take(listener, accept).await?)
            }
        }
    }

    /// A connection that has come before the drain began, since closing the socket would break it. If somebody else has the socket as
    /// well, the next process serves it. They are as many as fit into the backlog, however many clients go on to connect.
    fn take_left(&self) -> io::Result<Option<Taken>> {
        let left = self.left.get();
        if self.owner == Owner::Shared || left == 0 {
            return Ok(None);
        }
        self.left.set(left - 1);
        let taken = match &self.socket {
            AsyncSocket::Tcp(listener) => listener.get_ref().accept().and_then(of_tcp),
            AsyncSocket::Unix(listener) => listener.get_ref().accept().and_then(of_unix),
        };
        match taken {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            taken => taken.map(Some),
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

fn of_tcp((stream, peer): (net::TcpStream, net::SocketAddr)) -> io::Result<Taken> {
    stream.set_nonblocking(true)?;
    let stream = tokio::net::TcpStream::from_std(stream)?;
    tcp::set_options(&stream);
    Ok((
        Stream::Tcp(stream),
        Some(PeerAddress::Client(Client::direct(peer.ip()))),
    ))
}

fn of_unix((stream, _): (unix::net::UnixStream, unix::net::SocketAddr)) -> io::Result<Taken> {
    stream.set_nonblocking(true)?;
    let stream = tokio::net::UnixStream::from_std(stream)?;
    Ok((Stream::Unix(stream), None))
}

#[cfg(test)]
mod tests {
    use std::{
        net::{SocketAddr, TcpStream},
        sync::{Barrier, mpsc},
        time::Duration,
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
                let listener = Listener {
                    socket,
                    workload,
                    owner: Owner::Process,
                };
                let (table, stop, ready, taken) = (&table, &stop, &ready, taken.clone());
                scope.spawn(move || {
                    ThreadRuntime::new().unwrap().block_on(async {
                        let listener = AsyncListener::new(listener).unwrap();
                        let (_never, draining) = Draining::new();
                        ready.wait();
                        let mut held = Vec::new();
                        let accepting = async {
                            loop {
                                held.push(accept(&listener, table, &draining).await.unwrap());
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
        let listener = Listener {
            socket,
            workload,
            owner: Owner::Process,
        };
        let listener = AsyncListener::new(listener).unwrap();
        let (_never, draining) = Draining::new();
        let table = ConnectionTable::new(2);
        let connecting = tokio::net::TcpStream::connect(address);
        let (client, accepted) = tokio::join!(connecting, accept(&listener, &table, &draining));
        let (client, accepted) = (client.unwrap(), accepted.unwrap().unwrap());
        let Stream::Tcp(stream) = accepted.stream else {
            panic!("TCP");
        };
        assert_eq!(stream.peer_addr().unwrap(), client.local_addr().unwrap());
        tcp::assert_options(&stream);
    }

    /// In the backlog when the drain begins. If somebody else has the socket, the next process takes it.
    #[tokio::test]
    async fn in_a_drain_what_has_come_is_taken_unless_somebody_else_can() {
        for (owner, taken) in [(Owner::Process, 2), (Owner::Shared, 0)] {
            let listener = bind::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            let _clients = [(); 2].map(|()| TcpStream::connect(address).unwrap());
            let listener = Listener {
                socket: ListeningSocket::Tcp(listener),
                workload: Workload::of_workers(1).into_iter().next().unwrap(),
                owner,
            };
            let listener = AsyncListener::new(listener).unwrap();
            let (drain, draining) = Draining::new();
            drain.begin(Duration::from_secs(10));
            let table = ConnectionTable::new(10);
            let mut all = Vec::new();
            while let Some(accepted) = accept(&listener, &table, &draining).await.unwrap() {
                all.push(accepted);
            }
            assert_eq!(all.len(), taken, "{owner:?}");
        }
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
            // Without a head start for the others nearly all would go to one. On a busy machine the others may not get their turn in it.
            assert!(counts.iter().all(|count| *count > fair / 5), "{counts:?}");
        }
    }
}
