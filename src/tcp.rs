//! What holds for every TCP connection, of clients and to upstream: small writes go out at once, and a peer that vanished is noticed.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Silence after which the kernel asks whether the peer is still there. As short as a stream of events may be without a comment, so that
/// most connections are never asked.
const IDLE: Duration = Duration::from_secs(30);

/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(10);

/// Questions without an answer that end the connection. One or two may be lost.
const PROBES: u32 = 3;

/// How long the peer may leave unacknowledged what was sent to it, or accept none of what is to be sent. Linux judges unanswered questions by
/// it too, and not by their number, so it is the time that all of them take. It is above `policy::progress::ANSWER_STALL`: of a peer that is
/// there and does not read, revgate decides first.
const VANISHED: Duration = Duration::from_secs(60);

/// How long a peer that has been told something last may take to close, and how much it may send meanwhile.
const LINGER: Duration = Duration::from_secs(2);
const MAX_LINGER: usize = 256 * 1024;

/// Writes an answer and closes the connection. If that were closed at once, bytes of the peer's under way would have the kernel reset it, and
/// the peer might never read the answer.
pub(crate) async fn last_words(mut stream: TcpStream, answer: &[u8]) {
    let telling = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        let (mut piece, mut left) = (vec![0; 1024], MAX_LINGER);
        while left > 0 {
            match stream.read(&mut piece).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    };
    // Whether it has read the answer or left, it ends.
    let _ = timeout(LINGER, telling).await;
}

/// Sets the options of a connection. What cannot be set is left: if the peer has gone already, the first read shows it.
pub(crate) fn set_options(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(IDLE);
    #[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
    let keepalive = keepalive.with_interval(INTERVAL).with_retries(PROBES);
    // Messages are small and written as a whole, so Nagle's algorithm would only delay them.
    report(stream.set_nodelay(true));
    report(socket.set_tcp_keepalive(&keepalive));
    #[cfg(target_os = "linux")]
    report(socket.set_tcp_user_timeout(Some(VANISHED)));
}

fn report(set: io::Result<()>) {
    if let Err(error) = set {
        tracing::debug!(%error, "an option of a TCP connection could not be set");
    }
}

/// Whether an error of `accept` is that of one connection, which ended before it was accepted. The next one may be accepted at once.
pub(crate) fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::NetworkUnreachable
            | ErrorKind::TimedOut
            | ErrorKind::Interrupted
    )
}

/// Fails unless a connection has the options, as the kernel shows them.
#[cfg(test)]
pub(crate) fn assert_options(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    assert!(socket.tcp_nodelay().unwrap(), "TCP_NODELAY");
    assert!(socket.keepalive().unwrap(), "SO_KEEPALIVE");
    assert_eq!(socket.tcp_keepalive_time().unwrap(), IDLE);
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), INTERVAL);
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES);
    #[cfg(target_os = "linux")]
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(VANISHED));
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::policy::progress::ANSWER_STALL;

    #[test]
    fn all_questions_are_asked_and_revgate_decides_first() {
        assert_eq!(VANISHED, IDLE + INTERVAL * PROBES);
        assert!(VANISHED > ANSWER_STALL);
    }

    #[tokio::test]
    async fn a_connection_whose_peer_has_gone_is_no_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(client);
        // The reset has arrived.
        accepted.readable().await.unwrap();
        set_options(&accepted);
    }

    #[test]
    fn errors_of_accept() {
        for (kind, want) in [
            (ErrorKind::ConnectionAborted, true),
            (ErrorKind::ConnectionReset, true),
            (ErrorKind::NetworkUnreachable, true),
            (ErrorKind::OutOfMemory, false),
            (ErrorKind::PermissionDenied, false),
            (ErrorKind::InvalidInput, false),
        ] {
            let found = concerns_one_connection(&io::Error::from(kind));
            assert_eq!(found, want, "{kind:?}");
        }
        // EMFILE, ENFILE: an immediate retry would spin.
        for code in [24, 23] {
            assert!(!concerns_one_connection(&io::Error::from_raw_os_error(
                code
            )));
        }
    }
}
