//! The listening socket for callers. All workers accept from the same one.

use std::{
    fs::{self, TryLockError},
    io,
    net::TcpListener,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::workload::Workload;
use crate::{
    bind::{self, BACKLOG},
    config::{Address, Listen},
};

/// A worker's descriptor of the socket.
pub(crate) struct Listener {
    pub(super) socket: ListeningSocket,
    pub(super) workload: Workload,
    pub(super) owner: Owner,
}

/// Who has the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This process alone, so that what waits in the backlog is lost when it is closed.
    Process,
    /// The service manager too, which gives it to the next process.
    Shared,
}

#[derive(Debug)]
pub(crate) enum ListeningSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Binds the socket, or takes the one that is given, and gives each worker a descriptor of it. Also returns the file of a unix socket that
/// it has made.
///
/// One socket, and not one per worker with SO_REUSEPORT: that would let another process of the same user join the port and take a part
/// of the connections. It would also leave those waiting that the kernel has dealt to a worker which is busy or hangs.
pub(crate) fn bind(
    listen: &Listen,
    given: Option<ListeningSocket>,
) -> io::Result<(Vec<Listener>, Option<SocketFile>)> {
    let owner = match given {
        Some(_) => Owner::Shared,
        None => Owner::Process,
    };
    let (socket, file) = match (given, &listen.address) {
        (Some(socket), _) => (socket, None),
        (None, Address::Tcp(address)) => (ListeningSocket::Tcp(bind::tcp(*address)?), None),
        (None, Address::Unix(path)) => {
            let (listener, file) = bind_unix(path, listen.mode)?;
            (ListeningSocket::Unix(listener), Some(file))
        }
    };
    let workers = Workload::of_workers(listen.workers).into_iter();
    let listener = |workload| {
        let socket = socket.try_clone()?;
        Ok(Listener {
            socket,
            workload,
            owner,
        })
    };
    Ok((workers.map(listener).collect::<io::Result<_>>()?, file))
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    let _alone = lock_folder(path)?;
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

/// Keeps other gateways from binding in this folder meanwhile: of two that start at once over a stale socket, one would remove what the
/// other has just bound. `None` where the file system has no such locks.
fn lock_folder(path: &Path) -> io::Result<Option<fs::File>> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let Ok(folder) = fs::File::open(folder.unwrap_or(Path::new("."))) else {
        return Ok(None);
    };
    for _ in 0..100 {
        match folder.try_lock() {
            Ok(()) => return Ok(Some(folder)),
            Err(TryLockError::Error(_)) => return Ok(None),
            // Held for as long as it takes to bind.
            Err(TryLockError::WouldBlock) => wait_a_moment(),
        }
    }
    let why = "another process has locked the folder for a second; stop it, or name another folder";
    Err(io::Error::new(io::ErrorKind::AddrInUse, why))
}

#[expect(
    clippy::disallowed_methods,
    reason = "at the start, before anything is served"
)]
fn wait_a_moment() {
    std::thread::sleep(Duration::from_millis(10));
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

impl ListeningSocket {
    fn try_clone(&self) -> io::Result<ListeningSocket> {
        Ok(match self {
            ListeningSocket::Tcp(listener) => ListeningSocket::Tcp(listener.try_clone()?),
            ListeningSocket::Unix(listener) => ListeningSocket::Unix(listener.try_clone()?),
        })
    }
}

impl Listener {
    pub(crate) fn address(&self) -> io::Result<Address> {
        self.socket.address()
    }
}

impl ListeningSocket {
    pub(crate) fn address(&self) -> io::Result<Address> {
        match self {
            ListeningSocket::Tcp(listener) => Ok(Address::Tcp(listener.local_addr()?)),
            ListeningSocket::Unix(listener) => {
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
    fn of_those_that_start_at_once_one_has_the_path() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let path = folder.path().join(round.to_string());
            drop(UnixListener::bind(&path).unwrap());
            let start = std::sync::Barrier::new(8);
            let bound: Vec<_> = std::thread::scope(|scope| {
                let bind = || {
                    start.wait();
                    bind_unix(&path, 0o660)
                };
                let all: Vec<_> = (0..8).map(|_| scope.spawn(bind)).collect();
                let all = all.into_iter().map(|thread| thread.join().unwrap());
                all.filter_map(Result::ok).collect()
            });
            assert_eq!(bound.len(), 1);
            UnixStream::connect(&path).unwrap();
            let (listener, _file) = &bound[0];
            listener.accept().unwrap();
        }
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
