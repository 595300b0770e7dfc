//! What comes on a TCP connection before HTTP or TLS: a PROXY header, or something else than the port speaks.

use std::{fmt::Display, io};

use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::refused::refuse;
use crate::{
    error::Error,
    policy::{
        first_bytes::{Beginning, WrongProtocol, beginning},
        proxy_header::{For, ProxyFault, Read, read},
    },
    state::State,
    tcp::last_words,
    telemetry::labels::ConnectionEnd,
    types::PeerAddress,
};

/// What is looked at in one go. A PROXY header is seldom longer.
const PIECE: usize = 512;

/// A first line that is longer is not looked at.
const MAX_LINE: usize = 8 * 1024;

/// Why a PROXY header could not be read.
pub(super) enum Unread {
    Fault(ProxyFault),
    Closed(io::Error),
    /// It did not come in time.
    Late,
}

/// Takes the PROXY header, and no byte behind it.
pub(super) async fn read_proxy_header(stream: &mut TcpStream) -> Result<For, Unread> {
    let (mut header, mut piece) = (Vec::new(), vec![0; PIECE]);
    loop {
        let new = stream.peek(&mut piece).await.map_err(Unread::Closed)?;
        if new == 0 {
            return Err(Unread::Closed(io::ErrorKind::UnexpectedEof.into()));
        }
        let before = header.len();
        header.extend_from_slice(&piece[..new]);
        let (taken, whole) = match read(&header).map_err(Unread::Fault)? {
            // All of it belongs to the header.
            Read::Incomplete => (new, None),
            Read::Whole { length, speaks } => (length.saturating_sub(before), Some(speaks)),
        };
        let taken = stream.read_exact(&mut piece[..taken]).await;
        taken.map_err(Unread::Closed)?;
        if let Some(speaks) = whole {
            return Ok(speaks);
        }
    }
}

/// Whether the connection may begin with a TLS handshake; otherwise it begins with something like a word. Waits for the first byte.
pub(super) async fn may_be_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    let is_word = |byte: u8| byte.is_ascii_alphabetic() || byte == b'\r';
    Ok(read == 0 || !is_word(first[0]))
}

/// Reads on until it is known what the connection begins with.
pub(super) async fn look(stream: &mut TcpStream) -> io::Result<Beginning> {
    let mut bytes = Vec::with_capacity(PIECE);
    loop {
        match beginning(&bytes) {
            Some(beginning) => return Ok(beginning),
            None if bytes.len() >= MAX_LINE => return Ok(Beginning::Other),
            None => {}
        }
        let room = MAX_LINE - bytes.len();
        if (&mut *stream)
            .take(room as u64)
            .read_buf(&mut bytes)
            .await?
            == 0
        {
            return Ok(Beginning::Other);
        }
    }
}

/// Tells a client of HTTP what is wrong, in the version that it speaks, and closes; others are only closed.
pub(super) async fn turn_away(
    stream: TcpStream,
    state: &State,
    peer: Option<&PeerAddress>,
    spoken: Beginning,
    wrong: WrongProtocol,
) {
    let http2 = match spoken {
        Beginning::Http1 => false,
        Beginning::Http2 => true,
        Beginning::Tls | Beginning::ProxyHeader | Beginning::Other => return,
    };
    let answer = refuse(state, peer, &Error::Protocol(wrong), http2);
    last_words(stream, &answer).await;
}

/// Ends a connection of a trusted proxy whose PROXY header could not be read.
pub(super) async fn refuse_unread(
    mut stream: TcpStream,
    state: &State,
    peer: Option<&PeerAddress>,
    unread: Unread,
    until: Instant,
) {
    match unread {
        // Usual with port scans and health checks of load balancers.
        Unread::Closed(error) => {
            let peer = peer.map(PeerAddress::shown);
            tracing::debug!(peer, %error, "connection ended before a PROXY header");
        }
        Unread::Late => {
            let why = "its PROXY header did not come within listen.header_timeout";
            report_proxy_header(state, peer, &why);
        }
        Unread::Fault(fault) => {
            report_proxy_header(state, peer, &fault);
            if fault == ProxyFault::Missing
                && let Ok(Ok(spoken)) = timeout_at(until, look(&mut stream)).await
            {
                let wrong = WrongProtocol::NoProxyHeader;
                turn_away(stream, state, peer, spoken, wrong).await;
            }
        }
    }
}

/// Counts and logs a connection that ends because of its PROXY header.
pub(super) fn report_proxy_header(state: &State, peer: Option<&PeerAddress>, why: &dyn Display) {
    super::report_end(state, ConnectionEnd::ProxyHeader, peer, why);
}
