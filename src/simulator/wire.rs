//! One connection, served by hyper until a fault takes over the socket.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// How long the client may take to read what was sent before the connection is closed.
const LINGER: Duration = Duration::from_secs(2);
/// The time between the last bytes and a reset, so that the bytes arrive.
pub(super) const BEFORE_RESET: Duration = Duration::from_millis(50);

/// Bytes that are written to the socket past hyper, and how the connection ends then.
#[derive(Debug)]
pub(super) struct RawEnding {
    pub bytes: Bytes,
    pub end: CloseMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseMode {
    Reset,
    Close,
}

pub(super) type RawSender = mpsc::Sender<RawEnding>;

/// Shared, so that the socket outlives hyper's connection.
struct Shared(Arc<TcpStream>);

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Shared {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write))
    }
}

/// Serves one connection until either side ends it.
pub(super) async fn serve(stream: TcpStream, state: Arc<super::SimulatorState>) {
    // Sends small writes (events, drips) at once. If it fails they are only late.
    let _ = stream.set_nodelay(true);
    let stream = Arc::new(stream);
    let (raw, mut endings) = mpsc::channel(1);
    let raw_ending = {
        let service = hyper::service::service_fn(move |request| {
            super::handle(Arc::clone(&state), raw.clone(), request)
        });
        let server = auto::Builder::new(TokioExecutor::new());
        let io = TokioIo::new(Shared(Arc::clone(&stream)));
        let connection = pin!(server.serve_connection(io, service));
        tokio::select! {
            biased;
            raw_ending = endings.recv() => raw_ending,
            _ = connection => None,
        }
    };
    if let Some(raw_ending) = raw_ending {
        // It fails if the client has left, which is no error here.
        let _ = send_raw(&stream, raw_ending).await;
    }
}

async fn send_raw(stream: &TcpStream, raw_ending: RawEnding) -> io::Result<()> {
    let mut rest = &raw_ending.bytes[..];
    while !rest.is_empty() {
        stream.writable().await?;
        match stream.try_write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let socket = SockRef::from(stream);
    if raw_ending.end == CloseMode::Reset {
        if !raw_ending.bytes.is_empty() {
            // A reset discards what the client has not read yet.
            tokio::time::sleep(BEFORE_RESET).await;
        }
        return socket.set_linger(Some(Duration::ZERO));
    }
    socket.shutdown(std::net::Shutdown::Write)?;
    // A close with unread input would become a reset.
    let drained = tokio::time::timeout(LINGER, async {
        let mut scrap = [0; 4096];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut scrap) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    });
    drained.await.unwrap_or(Ok(()))
}
