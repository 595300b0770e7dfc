//! The TLS client configuration, with an explicit crypto provider and the configured roots.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::types::Roots;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("{path}: {source}")]
    Read {
        path: String,
        source: rustls_pki_types::pem::Error,
    },
    #[error("no usable root certificate was found")]
    NoRoots,
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// For HTTP.
///
/// # Errors
/// When there is no usable root certificate.
pub(crate) fn client_config(trust: &Roots, http2: bool) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = plain_config(trust)?;
    config.alpn_protocols = if http2 {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    } else {
        vec![b"http/1.1".to_vec()]
    };
    Ok(Arc::new(config))
}

/// Without a protocol that is negotiated.
///
/// # Errors
/// When there is no usable root certificate.
pub(crate) fn plain_config(trust: &Roots) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    match trust {
        Roots::Bundled => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
        Roots::File(path) => {
            let read = |source| TlsError::Read {
                path: path.display().to_string(),
                source,
            };
            for certificate in CertificateDer::pem_file_iter(path).map_err(read)? {
                roots.add(certificate.map_err(read)?)?;
            }
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
