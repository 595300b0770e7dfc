//! One connection: HTTP as long as all goes well, the bare socket when it should not.

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

/// How long the far end gets to read what was sent before its connection goes.
const LINGER: Duration = Duration::from_secs(2);
/// How long what came before a reset gets to arrive.
pub const BEFORE_RESET: Duration = Duration::from_millis(50);

/// Takes the connection away from hyper: these bytes go out, then it ends so.
#[derive(Debug)]
pub struct Trip {
    pub bytes: Bytes,
    pub end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Reset,
    Close,
}

pub type Control = mpsc::Sender<Trip>;

/// The socket is shared so that it outlives hyper's hold on it.
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

/// Serves one connection to its end, whoever ends it.
pub async fn serve(stream: TcpStream, world: Arc<super::World>) {
    // Events and drips are small writes that should leave at once; without it they are only late.
    let _ = stream.set_nodelay(true);
    let stream = Arc::new(stream);
    let (control, mut tripped) = mpsc::channel(1);
    let trip = {
        let service = hyper::service::service_fn(move |request| {
            super::handle(Arc::clone(&world), control.clone(), request)
        });
        let server = auto::Builder::new(TokioExecutor::new());
        let io = TokioIo::new(Shared(Arc::clone(&stream)));
        let connection = pin!(server.serve_connection(io, service));
        tokio::select! {
            biased;
            trip = tripped.recv() => trip,
            _ = connection => None,
        }
    };
    if let Some(trip) = trip {
        // The client may be gone already, which is its right.
        let _ = misbehave(&stream, trip).await;
    }
}

async fn misbehave(stream: &TcpStream, trip: Trip) -> io::Result<()> {
    let mut rest = &trip.bytes[..];
    while !rest.is_empty() {
        stream.writable().await?;
        match stream.try_write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let socket = SockRef::from(stream);
    if trip.end == End::Reset {
        if !trip.bytes.is_empty() {
            // A reset throws away what the far end has not read yet.
            tokio::time::sleep(BEFORE_RESET).await;
        }
        return socket.set_linger(Some(Duration::ZERO));
    }
    socket.shutdown(std::net::Shutdown::Write)?;
    // Closing with input unread would turn the orderly close into a reset.
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
