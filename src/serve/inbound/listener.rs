//! Listening sockets: one TCP socket per worker on the same port, or one unix socket shared by all workers.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{Address, Listen};

pub(crate) enum Listener {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

/// How many connections may wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;

/// Binds a listener for each worker. Also returns the file of a unix socket.
pub(crate) fn bind(listen: &Listen) -> io::Result<(Vec<Listener>, Option<SocketFile>)> {
    let workers = listen.workers;
    match &listen.address {
        Address::Tcp(address) => {
            let first = bind_tcp(*address, workers > 1)?;
            // For port 0 the first socket gets a port, and the others share it.
            let bound = first.local_addr()?;
            let mut all = vec![Listener::Tcp(first)];
            for _ in 1..workers {
                all.push(Listener::Tcp(bind_tcp(bound, true)?));
            }
            Ok((all, None))
        }
        Address::Unix(path) => {
            let (first, file) = bind_unix(path, listen.mode)?;
            let mut all = Vec::new();
            for _ in 1..workers {
                all.push(Listener::Unix(first.try_clone()?));
            }
            all.push(Listener::Unix(first));
            Ok((all, Some(file)))
        }
    }
}

/// `shared` allows further workers on the port. With one worker the port is exclusive, so that a second gateway fails to start
/// instead of taking half the traffic.
fn bind_tcp(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale_socket(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::of(path)?;
    // Until now the umask decided the file's mode, but no client can connect before `listen`.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    Ok((socket.into(), file))
}

/// Removes a stale socket: one that refuses connections was left by a process that died. Any other file is an error.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let exists = |why| Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(meta) if !meta.file_type().is_socket() => {
            exists("there is a file that is no socket; remove it, or name another path")
        }
        Ok(_) => match probe(path) {
            Ok(_) => exists("another process serves it; stop that one, or name another path"),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            // It may be in use if we may not connect, or if its backlog is full.
            Err(error) => Err(error),
        },
    }
}

/// Tries to connect. Does not block, since a full backlog would delay the start.
fn probe(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// A unix socket's file. It is removed on drop, unless another file has replaced it.
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        let id = id(&path)?;
        Ok(SocketFile { path, id })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if id(&self.path).is_ok_and(|now| now == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

impl Listener {
    pub(crate) fn address(&self) -> io::Result<Address> {
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        for wanted in [0o660, 0o600, 0o666] {
            let (_listener, file) = bind_unix(&path, wanted).unwrap();
            assert_eq!(mode(&path), wanted);
            UnixStream::connect(&path).unwrap();
            drop(file);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (_listener, _file) = bind_unix(&path, 0o660).unwrap();
        let error = bind_unix(&path, 0o660).map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("another process serves it"));
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_is_no_socket_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "precious").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [file.as_path(), &link, folder.path()] {
            let error = bind_unix(path, 0o660).map(drop).unwrap_err();
            assert!(error.to_string().contains("no socket"), "{error}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        assert!(link.is_symlink());
    }

    #[test]
    fn a_socket_that_took_the_place_of_ours_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_old, file) = bind_unix(&path, 0o660).unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        let _new = UnixListener::bind(&path).unwrap();
        drop(file);
        UnixStream::connect(&path).unwrap();
    }
}
