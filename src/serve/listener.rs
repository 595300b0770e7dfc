//! Listening sockets: one per worker on the same port, or one unix socket for all.

use std::{io, net::SocketAddr, os::unix::net::UnixListener, path::Path};

use socket2::{Domain, Socket, Type};

use crate::config::Address;

pub enum Listener {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

/// Connections the kernel may hold before they are accepted.
const BACKLOG: i32 = 1024;

/// Binds `workers` listeners.
pub fn bind(address: &Address, workers: usize) -> io::Result<Vec<Listener>> {
    match address {
        Address::Tcp(address) => {
            let first = bind_tcp(*address, workers > 1)?;
            // Port 0 is decided by the first; the others share what it got.
            let bound = first.local_addr()?;
            let mut all = vec![Listener::Tcp(first)];
            for _ in 1..workers {
                all.push(Listener::Tcp(bind_tcp(bound, true)?));
            }
            Ok(all)
        }
        Address::Unix(path) => {
            let first = bind_unix(path)?;
            let mut all = Vec::new();
            for _ in 1..workers {
                all.push(Listener::Unix(first.try_clone()?));
            }
            all.push(Listener::Unix(first));
            Ok(all)
        }
    }
}

/// Shared among our own workers only: a second gateway on the same port is to fail, not to take half the traffic.
fn bind_tcp(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    // A socket that nobody answers was left behind by a process that died; anything else is not ours to remove.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Listener {
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Listener::Tcp(listener) => Ok(Address::Tcp(listener.local_addr()?)),
            Listener::Unix(listener) => {
                let address = listener.local_addr()?;
                Ok(Address::Unix(
                    address.as_pathname().unwrap_or(Path::new("")).to_owned(),
                ))
            }
        }
    }
}
