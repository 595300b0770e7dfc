//! What a handshake with a caller needs.

use std::{fmt, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ServerSessionMemoryCache, VerifierBuilderError, WebPkiClientVerifier},
    sign::SingleCertAndKey,
};

use crate::config::{ClientAuth, Tls};

/// Sessions that may be resumed. A client of ours keeps its connection, so few are; each holds the client's chain, so
/// that this many take some 4 MiB at most.
const SESSIONS: usize = 1024;

/// TLS with callers. Sessions are resumed within one of these only: a resumed one is not verified again, so it must not
/// outlive the authorities that vouched for it.
#[derive(Clone)]
pub struct ServerTls {
    pub config: Arc<ServerConfig>,
    /// Of the certificate that the gateway shows.
    certificate: [u8; 32],
    /// Of the certificates of who may vouch for clients.
    authorities: Option<[u8; 32]>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    #[error(transparent)]
    Verifier(#[from] VerifierBuilderError),
}

impl ServerTls {
    /// # Errors
    /// When rustls refuses what the configuration has accepted.
    pub(super) fn of(tls: &Tls) -> Result<ServerTls, TlsError> {
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
        let (certificate, authorities) = tls.digests();
        Ok(ServerTls {
            config: Arc::new(config),
            certificate,
            authorities,
        })
    }

    /// Whether it shows the same certificate and trusts the same authorities.
    pub fn is_same(&self, other: &ServerTls) -> bool {
        self.certificate == other.certificate && self.trusts_the_same(other)
    }

    /// Whether the same authorities vouch for clients.
    pub fn trusts_the_same(&self, other: &ServerTls) -> bool {
        self.authorities == other.authorities
    }
}

/// The key stays out of it whatever rustls's own types would show.
impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}
