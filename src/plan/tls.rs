//! The TLS configuration for handshakes with clients.

use std::{fmt, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ServerSessionMemoryCache, VerifierBuilderError, WebPkiClientVerifier},
    sign::SingleCertAndKey,
};

use crate::config::{ClientAuth, Tls};

/// How many sessions may be resumed. Clients keep their connections, so few are needed. Each holds the client's chain, so this
/// many take some 4 MiB at most.
const SESSIONS: usize = 1024;

/// TLS with clients. A resumed session is not verified again, so it must not outlive the client CAs that it was verified with:
/// each value has its own session cache.
#[derive(Clone)]
pub struct ServerTls {
    pub config: Arc<ServerConfig>,
    /// SHA-256 of the server certificate.
    certificate: [u8; 32],
    /// SHA-256 of the client CAs' certificates.
    client_cas: Option<[u8; 32]>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    #[error(transparent)]
    Verifier(#[from] VerifierBuilderError),
}

impl ServerTls {
    /// # Errors
    /// When rustls refuses what the configuration accepted.
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
        let (certificate, client_cas) = tls.digests();
        Ok(ServerTls {
            config: Arc::new(config),
            certificate,
            client_cas,
        })
    }

    /// Whether the server certificate and the client CAs are the same.
    pub fn is_same(&self, other: &ServerTls) -> bool {
        self.certificate == other.certificate && self.has_same_client_cas(other)
    }

    /// Whether the client CAs are the same.
    pub fn has_same_client_cas(&self, other: &ServerTls) -> bool {
        self.client_cas == other.client_cas
    }
}

/// Written by hand so that the private key is not shown, whatever rustls's types show.
impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}
