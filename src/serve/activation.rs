//! Listening sockets that the process is started with (socket activation): `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES`, as systemd and
//! others set them. Whoever has opened them keeps them open while one process ends and the next one starts, so that no client is refused.

use std::{
    env::{self, VarError},
    io,
    net::TcpListener,
    os::fd::AsFd,
    process,
};

use anyhow::{Context, bail, ensure};
use listenfd::ListenFd;
use socket2::SockRef;

use super::inbound::listener::ListeningSocket;
use crate::config::Given;

/// The sockets that the process was given.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub proxy: Option<ListeningSocket>,
    pub admin: Option<TcpListener>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Proxy,
    Admin,
}

impl Sockets {
    /// Must be called before there is a second thread, because `listenfd` removes the variables.
    ///
    /// # Errors
    /// When one of them is of no use, because clients that connect to it would wait for ever.
    pub(crate) fn take() -> anyhow::Result<Sockets> {
        let names = env::var("LISTEN_FDNAMES").ok();
        let process = env::var("LISTEN_PID");
        if let Ok(count) = env::var("LISTEN_FDS")
            && is_for(process.as_deref(), process::id())
        {
            // `listenfd` makes a list of as many.
            let is_some = count.parse().is_ok_and(|count: usize| count <= 64);
            ensure!(is_some, "LISTEN_FDS is not a number of sockets up to 64");
        }
        let mut passed = ListenFd::from_env();
        let roles = roles(names.as_deref(), passed.len()).map_err(anyhow::Error::msg)?;
        let mut sockets = Sockets::default();
        for (number, role) in roles.into_iter().enumerate() {
            let socket = take(&mut passed, number).with_context(|| {
                let name = match role {
                    Role::Proxy => "for callers",
                    Role::Admin => "admin",
                };
                format!("the socket {name} that the service manager has passed cannot be used")
            })?;
            match (role, socket) {
                (Role::Proxy, socket) => sockets.proxy = Some(socket),
                (Role::Admin, ListeningSocket::Tcp(listener)) => sockets.admin = Some(listener),
                (Role::Admin, ListeningSocket::Unix(_)) => bail!(
                    "the socket admin that the service manager has passed is a unix socket; the admin listener is for TCP, so name an IP \
                     address and port in ListenStream="
                ),
            }
        }
        Ok(sockets)
    }

    /// # Errors
    /// When the system does not tell.
    pub(crate) fn addresses(&self) -> io::Result<Given> {
        let listen = self.proxy.as_ref().map(ListeningSocket::address);
        let admin = self.admin.as_ref().map(TcpListener::local_addr);
        Ok(Given {
            listen: listen.transpose()?,
            admin: admin.transpose()?,
        })
    }
}

/// Whether the variables are for this process, as `listenfd` sees it. Those that a parent was started with are inherited, and its sockets are not.
fn is_for(process: Result<&str, &VarError>, own: u32) -> bool {
    match process {
        Err(VarError::NotPresent) | Ok("") => true,
        Ok(id) => id.parse() == Ok(own),
        Err(VarError::NotUnicode(_)) => false,
    }
}

/// A socket that listens and does not block.
fn take(passed: &mut ListenFd, number: usize) -> anyhow::Result<ListeningSocket> {
    const WRONG: &str = "it is neither a TCP nor a unix stream socket; ListenStream= makes one, ListenDatagram= does not";
    const CONNECTED: &str = "it does not listen; a unit of systemd must not say Accept=yes";
    // A socket of another kind is an error, and stays where it is.
    let socket = match passed.take_tcp_listener(number) {
        Ok(Some(listener)) => ListeningSocket::Tcp(listener),
        _ => match passed.take_unix_listener(number) {
            Ok(Some(listener)) => ListeningSocket::Unix(listener),
            _ => bail!(WRONG),
        },
    };
    let listens = |socket: &dyn AsFd| SockRef::from(&socket.as_fd()).is_listener();
    match &socket {
        ListeningSocket::Tcp(listener) => {
            ensure!(listens(listener)?, CONNECTED);
            listener.set_nonblocking(true)?;
        }
        ListeningSocket::Unix(listener) => {
            ensure!(listens(listener)?, CONNECTED);
            listener.set_nonblocking(true)?;
            let is_file = listener.local_addr()?.as_pathname().is_some();
            ensure!(
                is_file,
                "a unix socket needs a path; an abstract name has no file mode that protects it"
            );
        }
    }
    Ok(socket)
}

/// What each of the sockets is for. A single one without a name is the one for callers: systemd calls it by its unit if
/// FileDescriptorName= is not set.
fn roles(names: Option<&str>, count: usize) -> Result<Vec<Role>, String> {
    const NAME_THEM: &str = "give each a name of its own, `proxy` or `admin`: FileDescriptorName= in a .socket unit, LISTEN_FDNAMES elsewhere";
    let names: Vec<&str> = match names {
        Some(names) if !names.is_empty() => names.split(':').collect(),
        _ => vec!["unknown"; count],
    };
    if count == 0 {
        return Ok(Vec::new());
    }
    if names.len() != count {
        let named = names.len();
        return Err(format!(
            "the service manager has passed {count} sockets and {named} names; {NAME_THEM}"
        ));
    }
    let mut roles = Vec::new();
    for name in names {
        let role = match name {
            "proxy" => Role::Proxy,
            "admin" => Role::Admin,
            _ if count == 1 && (name == "unknown" || name.ends_with(".socket")) => Role::Proxy,
            _ => {
                return Err(format!(
                    "the service manager has passed a socket called {name:?}; {NAME_THEM}"
                ));
            }
        };
        if roles.contains(&role) {
            return Err(format!(
                "the service manager has passed two sockets called {name:?}, and revgate listens on one; {NAME_THEM}"
            ));
        }
        roles.push(role);
    }
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_another_process_are_not_for_this_one() {
        for (process, want) in [
            (Err(VarError::NotPresent), true),
            (Ok(""), true),
            (Ok("42"), true),
            (Ok("1"), false),
            (Ok("-42"), false),
            (Ok("a"), false),
            (Err(VarError::NotUnicode("".into())), false),
        ] {
            assert_eq!(is_for(process.as_ref().copied(), 42), want, "{process:?}");
        }
    }

    #[test]
    fn names_say_what_a_socket_is_for() {
        use Role::{Admin, Proxy};
        for (names, count, want) in [
            (None, 0, &[][..]),
            (Some("proxy"), 0, &[]),
            (None, 1, &[Proxy]),
            (Some(""), 1, &[Proxy]),
            (Some("unknown"), 1, &[Proxy]),
            (Some("revgate.socket"), 1, &[Proxy]),
            (Some("admin"), 1, &[Admin]),
            (Some("admin:proxy"), 2, &[Admin, Proxy]),
        ] {
            assert_eq!(roles(names, count).as_deref(), Ok(want), "{names:?}");
        }
        for (names, count, says) in [
            (None, 2, "\"unknown\""),
            (Some("revgate.socket:admin"), 2, "\"revgate.socket\""),
            (Some("prxy"), 1, "\"prxy\""),
            (Some("proxy:proxy"), 2, "two sockets called \"proxy\""),
            (Some("proxy"), 2, "2 sockets and 1 names"),
            (Some("proxy:admin"), 1, "1 sockets and 2 names"),
        ] {
            let error = roles(names, count).unwrap_err();
            assert!(error.contains(says), "{error}");
            assert!(error.contains("FileDescriptorName="), "{error}");
        }
    }
}
