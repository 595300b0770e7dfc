//! Binds TCP listeners, each for this process alone.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Socket, Type};

/// How many connections may wait in the kernel to be accepted.
pub(crate) const BACKLOG: i32 = 1024;

/// A listener that does not block. No other process can listen on its port: it has no SO_REUSEPORT, which would let any process of the
/// same user join and take a part of the connections.
///
/// # Errors
/// With what to do about it.
pub(crate) fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    try_tcp(address).map_err(advise)
}

fn try_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of a process that has ended may still be closing on the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn advise(error: io::Error) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there; stop it, or name another port (`ss -ltnp` shows which one it is)"
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has this address; name one that has, or 0.0.0.0 for all"
        }
        io::ErrorKind::PermissionDenied => {
            "a port below 1024 needs CAP_NET_BIND_SERVICE; name a higher one"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}: {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_one_listener_whatever_the_other_allows() {
        for first in ["127.0.0.1:0", "0.0.0.0:0"] {
            let first = tcp(first.parse().unwrap()).unwrap();
            let port = first.local_addr().unwrap().port();
            for other in ["127.0.0.1", "0.0.0.0"] {
                let address: SocketAddr = format!("{other}:{port}").parse().unwrap();
                let error = tcp(address).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{address}");
                assert!(error.to_string().contains("stop it"), "{error}");
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_reuse_address(true).unwrap();
                socket.set_reuse_port(true).unwrap();
                assert!(socket.bind(&address.into()).is_err(), "{address}");
            }
        }
    }

    #[test]
    fn an_error_says_what_to_do() {
        // TEST-NET-1, which no machine has.
        let error = tcp("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("0.0.0.0"), "{error}");
    }
}
