//! A proxy between a client and a server, which does to connections what networks do.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What happens to bytes, on connections that are open and on those to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Each piece of an answer comes this much later. Does not add up over pieces that wait at once.
    Delay(Duration),
    /// Connections are taken, and nothing arrives on either side.
    Swallow,
    /// What the client sends arrives; no answer does.
    LoseAnswers,
    /// Each connection is closed once it is taken. Open ones are left alone; see [`Proxy::cut`].
    Refuse,
    /// The first half of the next answer arrives, then the connection is closed.
    HalfThenCut,
    /// The first half of the next answer arrives, then nothing more.
    HalfThenSilence,
    /// In place of the next answer come these bytes.
    Say(Vec<u8>),
    /// In place of the next answer come these bytes, and then zeros without end.
    Endless(Vec<u8>),
}

pub(crate) struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    /// How often connections were cut.
    cuts: watch::Sender<u64>,
    taken: Arc<AtomicUsize>,
    accept: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
        self.cut();
    }
}

impl Proxy {
    /// In front of this address; it is connected to for each connection that is taken.
    pub(crate) async fn to(address: impl Into<String>) -> Proxy {
        let server = address.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let (mode, cuts) = (watch::Sender::new(Mode::Pass), watch::Sender::new(0));
        let taken = Arc::new(AtomicUsize::new(0));
        let (modes, cut, count) = (mode.subscribe(), cuts.subscribe(), Arc::clone(&taken));
        let accept = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let mut cut = cut.clone();
                cut.mark_unchanged();
                let carried = carry(client, server.clone(), modes.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = carried => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Proxy {
            address,
            mode,
            cuts,
            taken,
            accept,
        }
    }

    /// As in a URL: `127.0.0.1:12345`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Closes all connections that are open.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// How many connections were taken so far.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }
}

async fn carry(client: TcpStream, server: String, mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Refuse {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Either side's end ends both, as a broken connection does.
    tokio::select! {
        () = carry_questions(from_client, to_server, mode.clone()) => {}
        () = carry_answers(from_server, to_client, mode) => {}
    }
}

async fn carry_questions(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mode: watch::Receiver<Mode>,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        if *mode.borrow() == Mode::Swallow {
            continue;
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

async fn carry_answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mode: watch::Receiver<Mode>,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        let mode = mode.borrow().clone();
        let piece = &bytes[..length];
        let sent = match mode {
            Mode::Pass | Mode::Refuse => to.write_all(piece).await,
            Mode::Delay(delay) => {
                tokio::time::sleep(delay).await;
                to.write_all(piece).await
            }
            Mode::Swallow | Mode::LoseAnswers => continue,
            Mode::HalfThenCut => {
                let _ = to.write_all(&piece[..length / 2]).await;
                return;
            }
            Mode::HalfThenSilence => {
                let _ = to.write_all(&piece[..length / 2]).await;
                return std::future::pending().await;
            }
            Mode::Say(instead) => to.write_all(&instead).await,
            Mode::Endless(head) => {
                let _ = to.write_all(&head).await;
                let zeros = vec![0; 64 << 10];
                while to.write_all(&zeros).await.is_ok() {}
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}
