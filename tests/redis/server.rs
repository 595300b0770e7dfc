//! One server.

use std::{
    fs, io,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Authority, Client, Value, until};

/// The user by whom the harness speaks to each server, whatever the test does to the others.
const USER: &str = "harness";

/// How a server is started.
#[derive(Clone, Default)]
pub(crate) struct Options {
    lines: Vec<String>,
    tls: Option<Arc<Authority>>,
    bus: bool,
    sentinel: bool,
}

impl Options {
    pub(crate) fn new() -> Options {
        Options::default()
    }

    /// A line of its configuration, such as `maxmemory 2mb` or `user fleet on >password ~revgate:* +get`.
    pub(crate) fn line(mut self, line: impl Into<String>) -> Options {
        self.lines.push(line.into());
        self
    }

    /// Its port takes TLS alone, with a certificate for `localhost` and 127.0.0.1.
    pub(crate) fn tls(mut self, authority: &Arc<Authority>) -> Options {
        self.tls = Some(Arc::clone(authority));
        self
    }

    /// Writes everything to its disk before it answers, so that [`Data::Kept`] keeps everything.
    pub(crate) fn durable(self) -> Options {
        self.line("appendonly yes").line("appendfsync always")
    }

    pub(crate) fn replica_of(self, primary: &Server) -> Options {
        self.line(format!("replicaof 127.0.0.1 {}", primary.port()))
    }

    pub(super) fn cluster(mut self) -> Options {
        self.bus = true;
        self
    }

    pub(super) fn sentinel(mut self) -> Options {
        self.sentinel = true;
        self
    }
}

/// What a server finds when it starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    /// What its disk holds: everything with [`Options::durable`], nothing without.
    Kept,
    /// Nothing. A member of a cluster still knows its cluster.
    Lost,
}

pub(crate) struct Server {
    child: Option<Child>,
    folder: TempDir,
    port: u16,
    /// Of the cluster's bus.
    bus: u16,
    sentinel: bool,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The server did not come up, and said this.
struct Ended(String);

impl Ended {
    fn port_is_taken(&self) -> bool {
        self.0.contains("Address already in use")
    }
}

impl Server {
    /// Alone, in memory, for everyone.
    pub(crate) async fn start() -> Server {
        Server::with(Options::new()).await
    }

    /// # Panics
    ///
    /// When there is no `redis-server`, or when it does not come up.
    pub(crate) async fn with(options: Options) -> Server {
        // A port may be taken between our look at it and the server's bind; then others are tried.
        for _ in 0..20 {
            match Server::on(free_port(), free_port(), &options).await {
                Ok(server) => return server,
                Err(ended) if ended.port_is_taken() => {}
                Err(Ended(log)) => panic!("redis-server ended: {log}"),
            }
        }
        panic!("no free port was found for redis-server");
    }

    async fn on(port: u16, bus: u16, options: &Options) -> Result<Server, Ended> {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().display();
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            "protected-mode no".to_owned(),
            format!("dir {at}"),
            format!("logfile {at}/log"),
            format!("unixsocket {at}/socket"),
            format!("user {USER} on >{USER} ~* &* +@all"),
        ];
        if options.tls.is_some() {
            lines.push("port 0".to_owned());
            lines.push(format!("tls-port {port}"));
            lines.push(format!("tls-cert-file {at}/server.pem"));
            lines.push(format!("tls-key-file {at}/server.key"));
            lines.push(format!("tls-ca-cert-file {at}/ca.pem"));
            lines.push("tls-auth-clients no".to_owned());
            // Also to primaries, replicas and Sentinels.
            lines.push("tls-replication yes".to_owned());
        } else {
            lines.push(format!("port {port}"));
        }
        if let Some(authority) = &options.tls {
            authority.write(folder.path());
        }
        if !options.sentinel {
            // Nothing on the disk unless a test wants it; a replica gets its copy at once, and not after the five seconds in which
            // another might come; DEBUG for tests.
            lines.push("save \"\"".to_owned());
            lines.push("repl-diskless-sync-delay 0".to_owned());
            // Also where the default user is off.
            lines.push(format!("masteruser {USER}"));
            lines.push(format!("masterauth {USER}"));
            lines.push("enable-debug-command yes".to_owned());
        }
        if options.bus {
            lines.push("cluster-enabled yes".to_owned());
            if options.tls.is_some() {
                // Nodes name the port of TLS only if they use it themselves.
                lines.push("tls-cluster yes".to_owned());
            }
            lines.push(format!("cluster-port {bus}"));
        }
        lines.extend(options.lines.iter().cloned());
        fs::write(folder.path().join("conf"), lines.join("\n")).expect("written");
        let mut server = Server {
            child: None,
            folder,
            port,
            bus,
            sentinel: options.sentinel,
        };
        server.spawn().await?;
        Ok(server)
    }

    /// Until it answers, or ends.
    async fn spawn(&mut self) -> Result<(), Ended> {
        let mut command = Command::new("redis-server");
        command.arg(self.folder.path().join("conf"));
        if self.sentinel {
            command.arg("--sentinel");
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                panic!(
                    "redis-server is not installed; tests/run.sh installs it as root on Debian, elsewhere it is part of Redis"
                )
            }
            Err(error) => panic!("redis-server does not start: {error}"),
        }
        let begun = tokio::time::Instant::now();
        loop {
            if let Some(Ok(Some(_))) = self.child.as_mut().map(Child::try_wait) {
                return Err(Ended(self.log()));
            }
            match self.try_call(&["PING"]).await {
                // A replica that has no data yet, or one that loads its data, answers too.
                Ok(Value::Text(_) | Value::Bytes(_) | Value::Error(_)) => return Ok(()),
                _ => assert!(
                    begun.elapsed() < super::PATIENCE,
                    "redis-server did not answer: {}",
                    self.log()
                ),
            }
            tokio::time::sleep(super::PAUSE).await;
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// It was not killed.
    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Of the cluster's bus.
    pub(super) fn bus(&self) -> u16 {
        self.bus
    }

    /// As in a URL: `127.0.0.1:12345`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A connection of the harness, whose user may do everything.
    pub(crate) async fn client(&self) -> io::Result<Client> {
        let mut client = Client::unix(&self.socket()).await?;
        match client.call(&["AUTH", USER, USER]).await? {
            Value::Error(error) => Err(io::Error::other(error)),
            _ => Ok(client),
        }
    }

    /// What the server says to a command, also an error. Fails when it can't be reached.
    pub(crate) async fn try_call<A: AsRef<[u8]>>(&self, command: &[A]) -> io::Result<Value> {
        self.client().await?.call(command).await
    }

    /// # Panics
    ///
    /// When it can't be reached, or says an error.
    pub(crate) async fn call<A: AsRef<[u8]>>(&self, command: &[A]) -> Value {
        let shown = || {
            let parts = command.iter().map(AsRef::as_ref);
            let parts: Vec<_> = parts.map(String::from_utf8_lossy).collect();
            parts.join(" ")
        };
        match self.try_call(command).await {
            Ok(Value::Error(error)) => panic!("{}: {error}", shown()),
            Ok(value) => value,
            Err(error) => panic!("{}: {error}; log: {}", shown(), self.log()),
        }
    }

    /// A line of `INFO`. None also when it can't be asked: a server that changes its role cuts all connections.
    pub(crate) async fn info(&self, name: &str) -> Option<String> {
        let info = self.try_call(&["INFO"]).await.ok()?.text();
        let start = format!("{name}:");
        let line = info.lines().find_map(|line| line.strip_prefix(&start))?;
        Some(line.trim().to_owned())
    }

    /// Ends it at once, as `kill -9` does. It may be down already.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Nothing of it runs until [`Server::thaw`]; the system still takes connections for it.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("signalled");
    }

    /// Kills it if it runs, and starts it again on the same port.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub(crate) async fn restart(&mut self, data: Data) {
        self.kill();
        if data == Data::Lost {
            let _ = fs::remove_dir_all(self.folder.path().join("appendonlydir"));
            for file in ["appendonly.aof", "dump.rdb"] {
                let _ = fs::remove_file(self.folder.path().join(file));
            }
        }
        if let Err(Ended(log)) = self.spawn().await {
            panic!("redis-server ended: {log}");
        }
    }

    /// Makes it a replica, and waits until it has its primary's data.
    pub(crate) async fn follow(&self, primary: &Server) {
        let port = primary.port().to_string();
        self.call(&["REPLICAOF", "127.0.0.1", &port]).await;
        self.until_it_follows().await;
    }

    /// Waits until a replica has its primary's data.
    pub(crate) async fn until_it_follows(&self) {
        until("a replica with its primary's data", || async {
            match self.info("master_link_status").await.as_deref() {
                Some("up") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

/// A port of loopback that nothing listens to. Below those that the system deals out for connections, so that a server that is started
/// again finds it free.
fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that test at the same time begin at different places.
    let own = std::process::id().wrapping_mul(7919) % u32::from(COUNT);
    let own = u16::try_from(own).unwrap_or_default();
    for _ in 0..COUNT {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (own + next) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on loopback");
}
