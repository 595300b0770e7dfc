//! TLS with callers: what a handshake needs, replaced when the files change, and what came of each.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, ServerConfig,
    crypto::aws_lc_rs,
    server::{ServerSessionMemoryCache, VerifierBuilderError, WebPkiClientVerifier},
    sign::SingleCertAndKey,
};
use rustls_pki_types::CertificateDer;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::{
    config::{ClientAuth, Tls},
    policy::san::San,
    telemetry::metrics::Metrics,
    types::{Certificate, Peer},
};

/// Sessions that may be resumed. A client of ours keeps its connection, so few are; each holds the client's chain, so
/// that this many take some 4 MiB at most.
const SESSIONS: usize = 1024;

/// Of all workers.
pub struct Handshakes(ArcSwap<Generation>);

/// What holds from one change of the files to the next.
pub struct Generation {
    config: Arc<ServerConfig>,
    /// Of the certificates of who may vouch for clients.
    authorities: Option<[u8; 32]>,
    /// Whoever was let in by authorities that are no longer those of the file is to come again.
    retired: CancellationToken,
}

/// A connection whose handshake is done.
pub struct Secured {
    pub stream: TlsStream<TcpStream>,
    pub peer: Option<Peer>,
    pub retired: CancellationToken,
}

impl Handshakes {
    /// # Errors
    /// See [`prepare`].
    pub fn new(tls: &Tls) -> Result<Self, TlsError> {
        Ok(Handshakes(ArcSwap::from_pointee(prepare(tls)?)))
    }

    /// Connections from now on begin with `next`.
    pub fn replace(&self, next: Generation) {
        let old = self.0.load();
        let same = old.authorities == next.authorities;
        // A certificate of ours that is renewed disturbs nobody, and the two share one end.
        let next = Generation {
            retired: if same {
                old.retired.clone()
            } else {
                next.retired
            },
            ..next
        };
        let old = self.0.swap(Arc::new(next));
        if !same {
            old.retired.cancel();
        }
    }

    /// `None` when no connection came of it; the caller has learnt no more than TLS says, the log and a metric the rest.
    pub async fn shake(
        &self,
        stream: TcpStream,
        within: Duration,
        metrics: &Metrics,
    ) -> Option<Secured> {
        let peer = stream.peer_addr().ok();
        let generation = self.0.load_full();
        let accepting = TlsAcceptor::from(generation.config.clone()).accept(stream);
        let stream = match timeout(within, accepting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                fail(metrics, peer, reason(&error), &error.to_string());
                return None;
            }
            Err(_) => {
                fail(
                    metrics,
                    peer,
                    "timeout",
                    "it took longer than listen.header_timeout",
                );
                return None;
            }
        };
        if generation.retired.is_cancelled() {
            let why = "the authorities changed meanwhile";
            fail(metrics, peer, "unknown_authority", why);
            return None;
        }
        let leaf = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first);
        let peer = match leaf.map(certificate) {
            None => None,
            Some(Some(certificate)) => Some(Peer::Certificate(Arc::new(certificate))),
            Some(None) => {
                fail(metrics, peer, "bad_certificate", "its names cannot be read");
                return None;
            }
        };
        Some(Secured {
            stream,
            peer,
            retired: generation.retired.clone(),
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    #[error(transparent)]
    Verifier(#[from] VerifierBuilderError),
}

/// Sessions are resumed within one generation only: a resumed one is not verified again, so it must not outlive the
/// authorities that vouched for it.
///
/// # Errors
/// When rustls refuses what the configuration has accepted.
pub fn prepare(tls: &Tls) -> Result<Generation, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match &tls.roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider);
            let verifier = match tls.client_auth {
                Some(ClientAuth::Optional) => verifier.allow_unauthenticated(),
                Some(ClientAuth::Required) | None => verifier,
            };
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let identity = SingleCertAndKey::from(tls.identity.clone());
    let mut config = builder.with_cert_resolver(Arc::new(identity));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    Ok(Generation {
        config: Arc::new(config),
        authorities: tls.authorities(),
        retired: CancellationToken::new(),
    })
}

/// What counts of a verified leaf; `None` when its names cannot be read, as then nobody knows whose it is.
fn certificate(leaf: &CertificateDer<'_>) -> Option<Certificate> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let names = parsed.subject_alternative_name().ok()?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    // The subject's common name is no name: RFC 9525 section 2 gave it up.
    let names = names.iter().filter_map(|name| match name {
        GeneralName::URI(name) => Some(San::Uri((*name).to_owned())),
        GeneralName::DNSName(name) => Some(San::dns(name)),
        _ => None,
    });
    let not_after = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(Certificate {
        names: names.collect(),
        not_after: at(not_after),
    })
}

/// The end of the second, as the handshake counts it.
fn at(epoch: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(epoch.saturating_add(1).min(1 << 40))
}

fn fail(metrics: &Metrics, peer: Option<SocketAddr>, reason: &'static str, why: &str) {
    metrics.tls_handshake_failure(reason);
    let peer = peer.map(|peer| peer.to_string());
    match reason {
        // Port scans and health checks of load balancers.
        "closed" | "not_tls" | "timeout" => {
            tracing::debug!(peer, reason, why, "TLS handshake failed");
        }
        _ => tracing::info!(peer, reason, why, "TLS handshake failed"),
    }
}

/// One of a fixed few, as it is a metric's label.
fn reason(error: &io::Error) -> &'static str {
    use CertificateError as Bad;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        None => "closed",
        Some(rustls::Error::NoCertificatesPresented) => "no_certificate",
        Some(rustls::Error::InvalidCertificate(bad)) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => "certificate_expired",
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => "certificate_not_yet_valid",
            Bad::UnknownIssuer => "unknown_authority",
            _ => "bad_certificate",
        },
        Some(rustls::Error::InvalidMessage(_)) => "not_tls",
        Some(rustls::Error::AlertReceived(_)) => "refused_by_client",
        Some(rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol) => {
            "incompatible"
        }
        Some(_) => "other",
    }
}
