//! An authority of the test's own, and a certificate for loopback that it signed.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

pub(crate) struct Authority {
    /// Its own certificate, which clients are to trust.
    pub(crate) certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signed").pem();
        Authority {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// Writes `ca.pem`, `server.pem` and `server.key`, good for `localhost` and 127.0.0.1.
    pub(super) fn write(&self, folder: &Path) {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        // OpenSSL holds a certificate for its own issuer if both have one name.
        params.distinguished_name.push(DnType::CommonName, "server");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed").pem();
        for (name, text) in [
            ("ca.pem", &self.certificate),
            ("server.pem", &certificate),
            ("server.key", &key.serialize_pem()),
        ] {
            std::fs::write(folder.join(name), text).expect("written");
        }
    }
}
