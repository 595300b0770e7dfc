//! TLS handshakes with clients.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::CertificateError;
use rustls_pki_types::CertificateDer;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::{
    first_bytes::{look, may_be_tls, report_proxy_header, turn_away},
    head::Speaks,
};
use crate::{
    event::Event,
    policy::{
        first_bytes::{
            Beginning,
            WrongProtocol::{self, UnexpectedProxyHeader},
        },
        san::San,
    },
    state::{State, handshakes::Handshakes},
    telemetry::{client_lines::Topic, labels::HandshakeFailure, log::short},
    types::{Certificate, Peer, PeerAddress},
};

/// A connection whose handshake is done.
pub(super) struct TlsConnection {
    pub stream: TlsStream<TcpStream>,
    pub peer: Option<Peer>,
    pub retired: CancellationToken,
    /// What ALPN agreed on; without ALPN, HTTP/1.1.
    pub speaks: Speaks,
}

/// `None` if the handshake failed. The client gets TLS's own alert; the reason goes to the log and a metric.
pub(super) async fn handshake(
    handshakes: &Handshakes,
    mut stream: TcpStream,
    until: Instant,
    state: &State,
    peer: Option<&PeerAddress>,
) -> Option<TlsConnection> {
    let failure = match timeout_at(until, may_be_tls(&stream)).await {
        Ok(Ok(false)) => match timeout_at(until, look(&mut stream)).await {
            Ok(Ok(spoken)) => {
                refuse_plain(stream, state, peer, spoken).await;
                return None;
            }
            Ok(Err(error)) => (reason(&error), error.to_string()),
            Err(_elapsed) => too_late(),
        },
        Ok(Ok(true)) => match try_handshake(handshakes, stream, until).await {
            Ok(connection) => return Some(connection),
            Err(failure) => failure,
        },
        Ok(Err(error)) => (reason(&error), error.to_string()),
        Err(_elapsed) => too_late(),
    };
    report(state, peer, failure.0, &failure.1);
    None
}

fn too_late() -> (HandshakeFailure, String) {
    let why = "it took longer than listen.header_timeout";
    (HandshakeFailure::Timeout, why.to_owned())
}

/// Ends a connection that begins with no handshake.
async fn refuse_plain(
    stream: TcpStream,
    state: &State,
    peer: Option<&PeerAddress>,
    spoken: Beginning,
) {
    match spoken {
        Beginning::Http1 | Beginning::Http2 => {
            state
                .metrics
                .tls_handshake_failure(HandshakeFailure::PlainHttp);
            turn_away(stream, state, peer, spoken, WrongProtocol::PlainOnTls).await;
        }
        Beginning::ProxyHeader => report_proxy_header(state, peer, &UnexpectedProxyHeader),
        Beginning::Tls | Beginning::Other => {
            let why = "it does not begin with a handshake";
            report(state, peer, HandshakeFailure::NotTls, why);
        }
    }
}

/// Bytes that TLS keeps of what a client does not read.
pub(crate) const MAX_TLS_UNSENT: usize = 8 * 1024;

/// The error is the reason for the metric, and the details for the log.
async fn try_handshake(
    handshakes: &Handshakes,
    stream: TcpStream,
    until: Instant,
) -> Result<TlsConnection, (HandshakeFailure, String)> {
    let generation = handshakes.current();
    let accepting = TlsAcceptor::from(generation.tls.config.clone()).accept(stream);
    let stream = timeout_at(until, accepting)
        .await
        .map_err(|_elapsed| too_late())?;
    let mut stream = stream.map_err(|error| (reason(&error), error.to_string()))?;
    stream.get_mut().1.set_buffer_limit(Some(MAX_TLS_UNSENT));
    if generation.retired.is_cancelled() {
        let why = "the authorities changed during the handshake";
        return Err((HandshakeFailure::UnknownAuthority, why.to_owned()));
    }
    let leaf = stream.get_ref().1.peer_certificates();
    let peer = match leaf.and_then(<[_]>::first) {
        None => None,
        Some(leaf) => {
            let certificate = certificate(leaf).ok_or_else(|| {
                let why = "its names cannot be read";
                (HandshakeFailure::BadCertificate, why.to_owned())
            })?;
            Some(Peer::Certificate(Arc::new(certificate)))
        }
    };
    let speaks = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Speaks::Http2,
        _ => Speaks::Http1,
    };
    Ok(TlsConnection {
        stream,
        speaks,
        peer,
        retired: generation.retired.clone(),
    })
}

/// The names and the end of a verified leaf; `None` if its names cannot be read, since then it identifies no caller.
fn certificate(leaf: &CertificateDer<'_>) -> Option<Certificate> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let names = parsed.subject_alternative_name().ok()?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    // RFC 9525 section 2: the subject's common name does not count.
    let names = names.iter().filter_map(|name| match name {
        GeneralName::URI(name) => Some(San::Uri((*name).to_owned())),
        GeneralName::DNSName(name) => Some(San::dns(name)),
        _ => None,
    });
    let not_after = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(Certificate {
        names: names.collect(),
        not_after: end_of_second(not_after),
    })
}

/// The end of this second, which rustls still accepts.
fn end_of_second(epoch: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(epoch.saturating_add(1).min(1 << 40))
}

/// Longer than rustls's own texts.
const MAX_WHY: usize = 256;

fn report(state: &State, peer: Option<&PeerAddress>, reason: HandshakeFailure, why: &str) {
    state.metrics.tls_handshake_failure(reason);
    // Some of it is what the client sent.
    let why = short(why, MAX_WHY);
    let address = peer.and_then(PeerAddress::ip);
    let peer = peer.map(PeerAddress::shown);
    match reason {
        // Usual with port scans and health checks of load balancers.
        HandshakeFailure::Closed | HandshakeFailure::NotTls | HandshakeFailure::Timeout => {
            tracing::debug!(peer, reason = reason.label(), why, "TLS handshake failed");
        }
        _ if state
            .client_lines
            .try_pass(Topic::Handshake(reason), address) =>
        {
            tracing::info!(
                event = Event::HandshakeFailed.label(),
                peer,
                reason = reason.label(),
                why,
                "TLS handshake failed"
            );
        }
        // A summary counts it.
        _ => {}
    }
}

fn reason(error: &io::Error) -> HandshakeFailure {
    use CertificateError as Bad;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        None => HandshakeFailure::Closed,
        Some(rustls::Error::NoCertificatesPresented) => HandshakeFailure::NoCertificate,
        Some(rustls::Error::InvalidCertificate(bad)) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => HandshakeFailure::CertificateExpired,
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                HandshakeFailure::CertificateNotYetValid
            }
            Bad::UnknownIssuer => HandshakeFailure::UnknownAuthority,
            _ => HandshakeFailure::BadCertificate,
        },
        Some(rustls::Error::InvalidMessage(_)) => HandshakeFailure::NotTls,
        Some(rustls::Error::AlertReceived(_)) => HandshakeFailure::RefusedByClient,
        Some(rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol) => {
            HandshakeFailure::Incompatible
        }
        Some(_) => HandshakeFailure::Other,
    }
}
