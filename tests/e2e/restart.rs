//! Restarts of the real program under load, with a stand-in for the service manager: it holds the listening sockets, passes them to each
//! process, and reads what the process reports. No request is lost.

use std::{
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use revgate::simulator::{self, Fault, FaultPlan, Rule, Simulator, TextDuration};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixDatagram, UnixStream},
    task::{JoinSet, block_in_place},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    http::{Client, TIMEOUT, request},
    process::Process,
    rig::{self, KEY},
};

/// Holds the sockets.
struct Manager {
    folder: tempfile::TempDir,
    proxy: TcpListener,
    admin: TcpListener,
    reports: UnixDatagram,
    devrev: Simulator,
    /// PEM, of the server's certificate.
    certificate: String,
}

impl Manager {
    async fn new() -> Manager {
        let folder = tempfile::tempdir().expect("a folder");
        let listen = || TcpListener::bind("127.0.0.1:0").expect("binds");
        let reports = UnixDatagram::bind(folder.path().join("notify")).expect("binds");
        let rule = Rule::new(
            "works.list",
            Fault::Delay(TextDuration(Duration::from_millis(30))),
        );
        let options = simulator::Options {
            limit: 1_000_000_000,
            plan: FaultPlan::none().with(rule.times(u64::MAX)),
            ..simulator::Options::default()
        };
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("signed");
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            let own = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(path, own).expect("permitted");
        };
        write("key.pem", pair.signing_key.serialize_pem());
        write("cert.pem", pair.cert.pem());
        Manager {
            certificate: pair.cert.pem(),
            proxy: listen(),
            admin: listen(),
            reports,
            devrev: simulator::start(options).await.expect("starts"),
            folder,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, tls: bool, extra: &str) {
        let text = rig::file(&self.devrev.addr().to_string(), extra);
        let tls = match tls {
            true => format!(
                "tls = {{ cert = \"{}\", key = \"{}\" }}\n",
                self.path("cert.pem").display(),
                self.path("key.pem").display()
            ),
            false => String::new(),
        };
        let listen = "[listen]\naddress = \"127.0.0.1:0\"\n";
        let text = text.replace(listen, &format!("{listen}workers = 2\n{tls}"));
        let text = text.replace("1000/s\"\nburst = 1000", "100000/s\"\nburst = 100000");
        let new = self.path("new");
        std::fs::write(&new, text).expect("written");
        std::fs::rename(new, self.path("revgate.toml")).expect("renamed");
    }

    fn sockets(&self) -> [OwnedFd; 2] {
        [&self.proxy, &self.admin].map(|socket| socket.try_clone().expect("a copy").into())
    }

    fn start(&self) -> Process {
        let file = self.path("revgate.toml");
        let arguments = ["run", "-c", file.to_str().expect("a path")];
        let notify = self.path("notify");
        Process::managed(self.sockets(), "proxy:admin", &notify, &arguments)
    }

    /// The next report that has this line. The signs of life before it are left out.
    async fn told(&self, line: &str) -> String {
        let mut seen = String::new();
        let waits = async {
            loop {
                let mut buffer = [0; 1024];
                let read = self.reports.recv(&mut buffer).await.expect("reads");
                let report = String::from_utf8_lossy(&buffer[..read]).into_owned();
                if report.lines().any(|found| found.starts_with(line)) {
                    return report;
                }
                seen += &report;
            }
        };
        match timeout(TIMEOUT, waits).await {
            Ok(report) => report,
            Err(_) => panic!("never told {line}, but {seen}"),
        }
    }

    fn address(&self) -> SocketAddr {
        self.proxy.local_addr().expect("bound")
    }

    fn admin(&self) -> SocketAddr {
        self.admin.local_addr().expect("bound")
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// HTTP/1.1 on a connection that is kept.
    Kept,
    /// HTTP/1.1 on a new connection each time.
    Fresh,
    Http2,
}

/// Clients that call one after another, as fast as they get answers.
struct Load {
    answers: Vec<Arc<AtomicU64>>,
    faults: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

#[derive(Clone)]
struct Caller {
    address: SocketAddr,
    tls: Option<Arc<RootCertStore>>,
    kind: Kind,
    answers: Arc<AtomicU64>,
    faults: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

/// One takes a while, so that some are on their way at any time.
const TARGETS: [&str; 2] = ["/works.list", "/dev-users.self"];

impl Caller {
    async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        let text = |error: std::io::Error| format!("connecting: {error}");
        let stream = TcpStream::connect(self.address).await.map_err(text)?;
        let Some(roots) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = match self.kind {
            Kind::Http2 => vec![b"h2".to_vec()],
            Kind::Kept | Kind::Fresh => vec![b"http/1.1".to_vec()],
        };
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(text)?;
        Ok(Box::new(stream))
    }

    async fn run(self) {
        let done = match self.kind {
            Kind::Http2 => self.http2().await,
            Kind::Kept | Kind::Fresh => self.http1().await,
        };
        if let Err(fault) = done {
            let fault = format!("{:?}: {fault}", self.kind);
            self.faults.lock().expect("sound").push(fault);
        }
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, status: u16) -> Result<(), String> {
        self.answers.fetch_add(1, Ordering::Relaxed);
        match status {
            200 => Ok(()),
            _ => Err(format!("answered with {status}")),
        }
    }

    async fn http1(&self) -> Result<(), String> {
        let mut kept = None::<Client<Box<dyn Stream>>>;
        for target in TARGETS.iter().cycle() {
            // As every pool of connections does, before it uses one again.
            let is_closed = kept
                .as_mut()
                .is_some_and(|client| client.more().now_or_never().is_some_and(|more| !more));
            if is_closed {
                kept = None;
            }
            let mut client = match kept.take() {
                Some(client) => client,
                None => Client::over(self.connect().await?),
            };
            let headers = [("Authorization", KEY), ("Content-Type", "application/json")];
            let bytes = request("POST", target, &headers, "{}");
            let sent = client.0.write_all(&bytes).await;
            sent.map_err(|error| format!("sending: {error}"))?;
            let answer = client.answer().await.ok_or("no answer")?;
            if !answer.whole {
                return Err("half an answer".into());
            }
            self.count(answer.status)?;
            if matches!(self.kind, Kind::Kept) && answer.header("connection") != Some("close") {
                kept = Some(client);
            }
            if !self.goes_on() {
                break;
            }
        }
        Ok(())
    }

    async fn open(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let io = TokioIo::new(self.connect().await?);
        let opened = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
        let (sender, connection) = opened.map_err(|error| format!("opening: {error}"))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn http2(&self) -> Result<(), String> {
        let mut sender = self.open().await?;
        for target in TARGETS.iter().cycle() {
            let answer = loop {
                let request = hyper::Request::post(format!("https://localhost{target}"))
                    .header("authorization", KEY)
                    .header("content-type", "application/json")
                    .body(Full::from("{}"))
                    .expect("a request");
                if sender.ready().await.is_err() {
                    sender = self.open().await?;
                }
                match sender.try_send_request(request).await {
                    Ok(answer) => break answer,
                    Err(error) if was_not_sent(&error) => sender = self.open().await?,
                    Err(error) => return Err(format!("asking: {:?}", error.into_error())),
                }
            };
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await;
            body.map_err(|error| format!("half an answer: {error}"))?;
            self.count(status)?;
            if !self.goes_on() {
                break;
            }
        }
        Ok(())
    }
}

/// Whether the client's own library has kept the request, because it knew already that the connection ends (RFC 9113 section 6.8).
fn was_not_sent<B>(error: &hyper::client::conn::TrySendError<B>) -> bool {
    if error.message().is_some() {
        return true;
    }
    let cause = std::error::Error::source(error.error());
    let h2 = cause.and_then(|cause| cause.downcast_ref::<h2::Error>());
    h2.is_some_and(|error| {
        error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
    })
}

impl Load {
    fn start(manager: &Manager, tls: bool) -> Load {
        let roots = tls.then(|| {
            let mut roots = RootCertStore::empty();
            let pem = manager.certificate.as_bytes();
            roots
                .add(CertificateDer::from_pem_slice(pem).expect("PEM"))
                .expect("a root");
            Arc::new(roots)
        });
        let mut load = Load {
            answers: Vec::new(),
            faults: Arc::default(),
            stop: Arc::default(),
            clients: JoinSet::new(),
        };
        let kinds = [Kind::Kept, Kind::Fresh, Kind::Http2];
        for kind in kinds.into_iter().cycle().take(4 * kinds.len()) {
            let caller = Caller {
                address: manager.address(),
                tls: roots.clone(),
                kind,
                answers: Arc::default(),
                faults: load.faults.clone(),
                stop: load.stop.clone(),
            };
            load.answers.push(caller.answers.clone());
            load.clients.spawn(caller.run());
        }
        load
    }

    fn counts(&self) -> Vec<u64> {
        let counts = self.answers.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Until each client has had some more answers, or one has failed.
    async fn goes_on(&self) {
        let before = self.counts();
        let has_more = || {
            let mut pairs = before.iter().zip(self.counts());
            pairs.all(|(before, now)| now >= before + 10)
        };
        let waits = async {
            while !has_more() && self.faults.lock().expect("sound").is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = timeout(2 * TIMEOUT, waits).await;
        let faults = self.faults.lock().expect("sound").clone();
        assert!(
            waited.is_ok(),
            "stands still: {:?} {faults:?}",
            self.counts()
        );
        assert_eq!(faults, Vec::<String>::new());
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let all = async { while self.clients.join_next().await.is_some() {} };
        timeout(TIMEOUT, all).await.expect("they end");
        assert_eq!(*self.faults.lock().expect("sound"), Vec::<String>::new());
    }
}

fn ends(mut process: Process) {
    let (code, log) = block_in_place(|| process.end());
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("drain.timeout is over"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_sockets_of_the_manager_loses_nothing() {
    for tls in [false, true] {
        let manager = Manager::new().await;
        manager.write(tls, "");
        let old = manager.start();
        let ready = manager.told("READY=1").await;
        let listens = format!("STATUS=serving callers on {}", manager.address());
        assert!(ready.contains(&listens), "{ready}");
        let load = Load::start(&manager, tls);
        load.goes_on().await;
        // As systemd restarts a unit: one ends, then the next one starts. Meanwhile new connections wait in the socket.
        old.terminate();
        manager.told("STOPPING=1").await;
        manager.told("EXTEND_TIMEOUT_USEC=").await;
        ends(old);
        let old = manager.start();
        manager.told("READY=1").await;
        load.goes_on().await;
        // As other managers do, or two units with one socket: the next one is ready before the first is told to end.
        let new = manager.start();
        manager.told("READY=1").await;
        load.goes_on().await;
        old.terminate();
        manager.told("STOPPING=1").await;
        ends(old);
        load.goes_on().await;
        load.end().await;
        new.terminate();
        ends(new);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manager_learns_of_each_reload_and_that_the_workers_turn() {
    let manager = Manager::new().await;
    // Another address than the socket's: the socket counts.
    let text = "[drain]\ndelay = \"1ms\"\n";
    manager.write(false, "");
    let file = manager.path("revgate.toml");
    let other = std::fs::read_to_string(&file).expect("a file");
    let other = other.replacen("address = \"127.0.0.1:0\"", "address = \"127.0.0.1:1\"", 1);
    std::fs::write(&file, &other).expect("written");
    let mut process = manager.start();
    let bound = block_in_place(|| (process.bound("admin"), process.bound("proxy")));
    assert_eq!(bound, (manager.admin(), manager.address()));
    let warning = block_in_place(|| process.line(|line| line["key"] == "listen.address"));
    assert_eq!(warning["level"], "WARN", "{warning}");
    manager.told("READY=1").await;
    for _ in 0..3 {
        manager.told("WATCHDOG=1").await;
    }
    let config = rig::admin(manager.admin(), "GET", "/config", "")
        .await
        .json();
    assert_eq!(
        config["listen"]["address"],
        manager.address().to_string().as_str()
    );
    for (text, result) in [
        (format!("{other}{text}"), "applied"),
        (format!("{other}[drain]\ndelay = 7\n"), "refused"),
        (other.clone(), "applied"),
    ] {
        std::fs::write(&file, text).expect("written");
        process.signal("-HUP");
        let report = manager.told("RELOADING=1").await;
        assert!(report.contains("MONOTONIC_USEC="), "{report}");
        let report = manager.told("READY=1").await;
        assert!(report.contains("last reload:"), "{report}");
        let status = rig::admin(manager.admin(), "GET", "/status", "")
            .await
            .json();
        assert_eq!(status["reload"]["result"], result, "{status}");
        let needed = status["reload"]["restart_needed"].to_string();
        assert!(!needed.contains("address"), "{needed}");
    }
    process.terminate();
    ends(process);
}

/// Its mode and its owner are the manager's affair, and so is its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_of_the_manager_is_served_and_stays() {
    let manager = Manager::new().await;
    let path = manager.path("socket");
    let socket = UnixListener::bind(&path).expect("binds");
    manager.write(false, "[callers.app]\nanonymous = true\n");
    let file = manager.path("revgate.toml");
    let arguments = ["run", "-c", file.to_str().expect("a path")];
    for _ in 0..2 {
        let sockets = [
            socket.try_clone().expect("a copy").into(),
            manager.admin.try_clone().expect("a copy").into(),
        ];
        let notify = manager.path("notify");
        let process = Process::managed(sockets, "proxy:admin", &notify, &arguments);
        let ready = manager.told("READY=1").await;
        let listens = format!("serving callers on unix:{}", path.display());
        assert!(ready.contains(&listens), "{ready}");
        let mut client = Client::over(UnixStream::connect(&path).await.expect("connects"));
        client
            .send(request("GET", "/dev-users.self", &[], ""))
            .await;
        assert_eq!(client.answer().await.expect("an answer").status, 200);
        process.terminate();
        ends(process);
        assert!(path.exists());
    }
}

/// Sockets that are of no use end the start with the reason: a client that connects to one would wait for ever.
#[test]
fn sockets_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let notify = folder.path().join("notify");
    let tcp = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").expect("binds"));
    let udp = || OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").expect("binds"));
    let unix = || {
        let pair = std::os::unix::net::UnixStream::pair().expect("a pair");
        OwnedFd::from(pair.0)
    };
    let run = |sockets: [OwnedFd; 2], names: &str, notify: &Path| {
        let arguments = ["run", "-c", "/nonexistent"];
        Process::managed(sockets, names, notify, &arguments).end()
    };
    for (sockets, names, says) in [
        ([tcp(), tcp()], "proxy:proxy", "two sockets called"),
        ([tcp(), tcp()], "proxy:other", "called \"other\""),
        ([tcp(), udp()], "proxy:admin", "ListenStream="),
        ([unix(), tcp()], "proxy:admin", "Accept=yes"),
        ([tcp(), unix()], "proxy:admin", "Accept=yes"),
    ] {
        let (code, log) = run(sockets, names, &notify);
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains(says), "{log}");
    }
}

/// A parent that was started with sockets may leave its variables in the environment.
#[tokio::test(flavor = "multi_thread")]
async fn variables_that_are_for_another_process_are_ignored() {
    let manager = Manager::new().await;
    manager.write(false, "");
    let path = manager.path("revgate.toml");
    let arguments = ["run", "-c", path.to_str().expect("a path")];
    let start = |variables: &str| Process::limited(variables, &arguments, "info");
    for inherited in [
        "export LISTEN_FDS=100 LISTEN_PID=1",
        "export LISTEN_FDS=several LISTEN_PID=1",
        "export LISTEN_FDS=2 LISTEN_FDNAMES=http:other:more LISTEN_PID=1",
    ] {
        let mut process = start(inherited);
        block_in_place(|| process.bound("proxy"));
        process.terminate();
        ends(process);
    }
    for own in [
        "export LISTEN_FDS=100 LISTEN_PID=$$",
        "export LISTEN_FDS=100",
    ] {
        let (code, log) = block_in_place(|| start(own).end());
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("LISTEN_FDS is not a number"), "{log}");
    }
}
