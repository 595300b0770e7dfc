//! `listen.tls`: loads the certificates and the private key that handshakes need.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{RootCertStore, crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{
    files, quote,
    reading::Location,
    section::{Notation, section},
};
use crate::{hash::sha256, label::label_enum, types::Roots};

section! {
    /// TLS 1.2 and 1.3, with HTTP/2 and HTTP/1.1. revgate watches the files: new contents apply from the next connection on.
    pub struct Tls: Clone {
        /// PEM file with the certificate, followed by its intermediates.
        cert: PathBuf, required("is required for TLS; name a PEM file"), example("cert.pem");
        /// PEM file with the certificate's private key, unencrypted.
        key: PathBuf, required("is required for TLS; name a PEM file"), hidden, example("key.pem");
        /// PEM file with the authorities that may sign client certificates; enables mTLS.
        client_ca: Option<PathBuf>, example("ca.pem");
        /// With client_ca: "required" rejects clients without a certificate, "optional" lets them present a key instead. "required" by default.
        client_auth: Option<ClientAuth>, example("required");
    }
    then load_files(cert, key, client_ca, client_auth) -> {
        /// The chain of `cert` with its private key; they match.
        identity: Arc<CertifiedKey>,
        /// When `identity` becomes valid and when it expires.
        validity: (SystemTime, SystemTime),
        /// The authorities that may sign client certificates; never empty.
        roots: Option<Arc<RootCertStore>>,
        /// Digests of `cert` and `client_ca`, to detect changes.
        digests: Digests,
    }
}

pub(super) type Digests = ([u8; 32], Option<[u8; 32]>);

label_enum! {
    pub enum ClientAuth {
        /// No connection without a certificate.
        Required = "required",
        /// A client without a certificate may present a key.
        Optional = "optional",
    }
}

/// Leaves out the private key, whatever its own `Debug` would print.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("cert", &self.cert)
            .field("key", &self.key)
            .field("client_ca", &self.client_ca)
            .field("client_auth", &self.client_auth)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Digests of the certificates in `cert` and in `client_ca`.
    pub fn digests(&self) -> Digests {
        self.digests
    }

    /// Why the certificate is not valid at `now`, if so.
    pub fn validity_warning(&self, now: SystemTime) -> Option<String> {
        let date = httpdate::fmt_http_date;
        match self.validity {
            (_, to) if to < now => Some(format!(
                "holds a certificate that has expired ({}), so clients refuse it; renew it, and revgate reloads it by itself",
                date(to)
            )),
            (from, _) if now < from => Some(format!(
                "holds a certificate that is not valid yet (until {}), so clients refuse it; check the clock, or store a valid certificate",
                date(from)
            )),
            _ => None,
        }
    }

    /// The keys whose files have other contents.
    pub(super) fn changed_files(&self, old: &Tls) -> impl Iterator<Item = String> {
        let chain = (self.digests.0 != old.digests.0).then_some("listen.tls.cert");
        let roots = (self.digests.1 != old.digests.1).then_some("listen.tls.client_ca");
        [chain, roots].into_iter().flatten().map(str::to_owned)
    }
}

/// The most KiB of a file; many certificates fit.
const LIMIT: u64 = 64;

/// The same for the roots of servers: the list of a whole system has some 250 KiB, several times that with comments.
const ROOTS_LIMIT: u64 = 8 * 1024;

const NO_CERTIFICATE: &str =
    "holds no certificate; store PEM there that begins with -----BEGIN CERTIFICATE-----";

type Loaded = (
    Arc<CertifiedKey>,
    (SystemTime, SystemTime),
    Option<Arc<RootCertStore>>,
    Digests,
);

/// Loads the files, and reports those that cannot be used.
fn load_files(
    at: &Location<'_>,
    cert: &Option<PathBuf>,
    key: &Option<PathBuf>,
    client_ca: &Option<Option<PathBuf>>,
    client_auth: &mut Option<Option<ClientAuth>>,
) -> Option<Loaded> {
    let client_ca = client_ca.as_ref().and_then(Option::as_ref);
    match (client_ca, &client_auth) {
        (Some(_), Some(None)) => *client_auth = Some(Some(ClientAuth::Required)),
        (None, Some(Some(_))) => at.report(
            "client_auth",
            "needs client_ca, the authorities that sign client certificates; add it, or remove client_auth",
        ),
        _ => {}
    }
    // Invalid files are watched too, because a change may correct them.
    let all = [cert.as_ref(), key.as_ref(), client_ca];
    at.context
        .files
        .borrow_mut()
        .extend(all.into_iter().flatten().cloned());
    let public = |path: Option<&PathBuf>| path.and_then(|path| quote::public_path(path));
    let report = |name: &'static str| {
        let found = match name {
            "cert" => public(cert.as_ref()),
            "client_ca" => public(client_ca),
            _ => key.as_deref().and_then(quote::path),
        };
        move |message: String| files::report_file(at, name, found, &message)
    };
    let load_chain = |path| certificates(path, LIMIT).map_err(report("cert")).ok();
    let load_key = |path| private_key(path).map_err(report("key")).ok();
    if let Some(path) = key {
        files::warn_if_exposed(path, at, "key");
    }
    let load_roots = |path: &PathBuf| {
        certificates(path, LIMIT)
            .and_then(roots)
            .map_err(report("client_ca"))
    };
    // Reads all three before it stops, to report every problem.
    let (chain, private_key) = (
        cert.as_deref().and_then(load_chain),
        key.as_deref().and_then(load_key),
    );
    let authorities = client_ca.map(load_roots);
    let (chain, private_key) = (chain?, private_key?);
    let validity = validity(&chain[0]).map_err(report("cert")).ok()?;
    let digest_of_chain = digest(&chain);
    let provider = aws_lc_rs::default_provider();
    let identity = CertifiedKey::from_der(chain, private_key, &provider).map_err(|error| {
        let (name, message) = match error {
            rustls::Error::InconsistentKeys(_) => (
                "key",
                "is not the key of the first certificate in cert; store the certificate's own key there",
            ),
            rustls::Error::InvalidCertificate(_) => (
                "cert",
                "holds a first certificate that cannot be used; have it reissued as X.509 version 3",
            ),
            _ => ("key", "holds a key of an unsupported type; use RSA of 2048 bits or more, ECDSA P-256, P-384 or P-521, or Ed25519"),
        };
        report(name)(message.to_owned());
    });
    let (roots, digest_of_roots) = authorities.transpose().ok()?.unzip();
    let digests = (digest_of_chain, digest_of_roots);
    Some((
        Arc::new(identity.ok()?),
        validity,
        roots.map(Arc::new),
        digests,
    ))
}

fn certificates(path: &Path, limit: u64) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = files::read_bytes(path, limit, "PEM")?;
    let all = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|_| "is not valid PEM; copy the file again".to_owned())?;
    if all.is_empty() {
        return Err(NO_CERTIFICATE.into());
    }
    Ok(all)
}

/// Why no server can be verified by these roots.
pub(super) fn roots_problem(source: &Roots) -> Option<String> {
    match source {
        Roots::Bundled => None,
        Roots::System => {
            let found = rustls_native_certs::load_native_certs().certs;
            let usable = RootCertStore::empty().add_parsable_certificates(found).0;
            let message = "finds no certificate on this system; install its list of authorities (ca-certificates), or name a file";
            (usable == 0).then(|| message.into())
        }
        Roots::File(path) => {
            let problem = certificates(path, ROOTS_LIMIT).and_then(roots).err()?;
            let file = quote::public_path(path);
            Some(format!(
                "{} {problem}",
                file.as_deref().unwrap_or("the file")
            ))
        }
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let bytes: Zeroizing<Vec<u8>> = files::read_bytes(path, LIMIT, "PEM")?;
    // The parser's message may quote what it read.
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        "holds no private key that can be read; store unencrypted PEM there that begins with -----BEGIN PRIVATE KEY-----".into()
    })
}

fn roots(all: Vec<CertificateDer<'static>>) -> Result<(RootCertStore, [u8; 32]), String> {
    let digest = digest(&all);
    let mut roots = RootCertStore::empty();
    for (number, certificate) in all.into_iter().enumerate() {
        roots.add(certificate).map_err(|_| {
            let number = number + 1;
            format!("holds a certificate, number {number}, that cannot be used as an authority; store the certificates of your own CA there")
        })?;
    }
    Ok((roots, digest))
}

/// Of the digests of all, because those are of one length.
fn digest(all: &[CertificateDer<'_>]) -> [u8; 32] {
    let digests: Vec<u8> = all.iter().flat_map(|one| sha256(one)).collect();
    sha256(&digests)
}

fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| {
        "holds a first certificate that cannot be parsed; have it reissued as X.509 version 3"
            .to_owned()
    })?;
    let validity = parsed.validity();
    let at = |time: x509_parser::time::ASN1Time| {
        // A time before 1970 counts as 1970.
        UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
    };
    Ok((at(validity.not_before), at(validity.not_after)))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt};

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

    use crate::config::{ClientAuth, Config, Problems, from_toml};

    /// A folder with an authority, certificates signed by it, and invalid files of many kinds.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        let key = || KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Issuer::new(params.clone(), key());
        write("ca.pem", &params.self_signed(issuer.key()).unwrap().pem());
        for (name, from, to) in [
            ("now", 2000, 2100),
            ("old", 2000, 2001),
            ("new", 2099, 2100),
        ] {
            let (mut params, key) = (CertificateParams::new(vec!["a".into()]).unwrap(), key());
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
            let certificate = params.signed_by(&key, &issuer).unwrap();
            write(&format!("{name}.pem"), &certificate.pem());
            write(&format!("{name}.key"), &key.serialize_pem());
        }
        write("empty", "");
        write("text", "not PEM at all");
        for (name, kind, content) in [
            ("broken.pem", "CERTIFICATE", "!!!"),
            ("junk.pem", "CERTIFICATE", "AAAA"),
            ("broken.key", "PRIVATE KEY", "c2VjcmV0"),
        ] {
            let pem = format!("-----BEGIN {kind}-----\n{content}\n-----END {kind}-----\n");
            write(name, &pem);
        }
        folder
    }

    fn load(folder: &tempfile::TempDir, tls: &str) -> Result<Config, Problems> {
        let tls = tls.replace('@', &format!("{}/", folder.path().display()));
        let text = format!(
            "[listen]\ntls = {{ {tls} }}\n[tokens.main]\nenv = \"T\"\n[callers.a]\nmtls_san = \"a.internal\"\n\
             [callers.b]\nmtls_san = \"spiffe://a/b\"\n",
        );
        from_toml(&text, &BTreeMap::from([("T".to_owned(), "t".to_owned())]))
    }

    #[test]
    fn valid_files_load_and_are_watched() {
        let folder = folder();
        let pair = "cert = \"@now.pem\", key = \"@now.key\", client_ca = \"@ca.pem\"";
        let config = load(&folder, pair).unwrap();
        let tls = config.listen.tls.as_ref().unwrap();
        assert_eq!(tls.client_auth, Some(ClientAuth::Required));
        for name in ["now.pem", "now.key", "ca.pem"] {
            assert!(config.files.contains(&folder.path().join(name)), "{name}");
        }
        assert_eq!(config.warnings, []);
        let optional = load(&folder, &format!("{pair}, client_auth = \"optional\"")).unwrap();
        assert_eq!(optional.differences(&config), ["listen.tls.client_auth"]);
        // No output shows the private key.
        let key = fs::read_to_string(folder.path().join("now.key")).unwrap();
        let line = key.lines().nth(1).unwrap();
        let shown = format!("{config:?} {}", config.redacted());
        assert!(!shown.contains(line) && shown.contains("now.key"));
    }

    #[test]
    fn new_contents_are_a_difference() {
        let folder = folder();
        let pair = "cert = \"@now.pem\", key = \"@now.key\", client_ca = \"@ca.pem\"";
        let before = load(&folder, pair).unwrap();
        assert!(load(&folder, pair).unwrap().differences(&before).is_empty());
        for (from, to) in [
            ("new.pem", "now.pem"),
            ("new.key", "now.key"),
            ("old.pem", "ca.pem"),
        ] {
            fs::copy(folder.path().join(from), folder.path().join(to)).unwrap();
        }
        let after = load(&folder, pair).unwrap();
        assert_eq!(
            after.differences(&before),
            ["listen.tls.cert", "listen.tls.client_ca"]
        );
    }

    #[test]
    fn a_certificate_that_is_not_valid_now_is_a_warning() {
        let folder = folder();
        for (name, want) in [("old", "has expired"), ("new", "not valid yet")] {
            let pair =
                format!("cert = \"@{name}.pem\", key = \"@{name}.key\", client_ca = \"@ca.pem\"");
            let config = load(&folder, &pair).unwrap();
            let warning = &config.warnings[0];
            assert_eq!(warning.path, "listen.tls.cert");
            let text = warning.text();
            assert!(
                text.contains("holds a certificate that")
                    && text.contains(" 1 Jan 2") | text.contains(" 01 Jan 2"),
                "{text}"
            );
            assert!(warning.message.contains(want), "{warning:?}");
        }
    }

    #[test]
    fn each_invalid_file_is_reported_and_never_quoted() {
        let folder = folder();
        let table = r#"
none now.key ca.pem cert: "@none" cannot be read
empty now.key ca.pem cert: "@empty" holds no certificate
text now.key ca.pem cert: "@text" holds no certificate
now.key now.key ca.pem cert: "@now.key" holds no certificate
broken.pem now.key ca.pem cert: "@broken.pem" is not valid PEM
junk.pem now.key ca.pem cert: "@junk.pem" holds a first certificate that cannot be parsed
. now.key ca.pem cert: "@." is not a regular file
now.pem none ca.pem key: "@none" cannot be read
now.pem empty ca.pem key: "@empty" holds no private key
now.pem now.pem ca.pem key: "@now.pem" holds no private key
now.pem broken.key ca.pem key: "@broken.key" holds a key of an unsupported
now.pem old.key ca.pem key: "@old.key" is not the key of
now.pem now.key none client_ca: "@none" cannot be read
now.pem now.key empty client_ca: "@empty" holds no certificate
now.pem now.key junk.pem client_ca: "@junk.pem" holds a certificate, number 1, that
"#;
        for row in table.trim().lines() {
            let [cert, key, ca, want] = *row.splitn(4, ' ').collect::<Vec<_>>() else {
                panic!("{row}")
            };
            let tls = format!("cert = \"@{cert}\", key = \"@{key}\", client_ca = \"@{ca}\"");
            let got = load(&folder, &tls).unwrap_err().to_string();
            let want = want.replace('@', &format!("{}/", folder.path().display()));
            let want = format!("listen.tls.{want}");
            assert!(got.starts_with(&want) && got.contains("; "), "{tls}\n{got}");
            assert_eq!(got.lines().count(), 1, "{got}");
            assert!(
                !got.contains("c2VjcmV0") && !got.contains("secret"),
                "{got}"
            );
        }
        let all = load(
            &folder,
            "cert = \"@none\", key = \"@none\", client_ca = \"@none\", kee = 1",
        );
        assert_eq!(all.unwrap_err().0.len(), 4);
    }

    #[test]
    fn keys_that_contradict_each_other_are_problems() {
        let folder = folder();
        let pair = "cert = \"@now.pem\", key = \"@now.key\"";
        let got = load(&folder, &format!("{pair}, client_auth = \"optional\"")).unwrap_err();
        let got = got.to_string();
        assert!(
            got.contains("listen.tls.client_auth: \"optional\" needs client_ca"),
            "{got}"
        );
        assert!(
            got.contains("callers.a.mtls_san: \"a.internal\" never matches"),
            "{got}"
        );
        let got = load(
            &folder,
            &format!("{pair}, client_ca = \"@ca.pem\", client_auth = \"no\""),
        );
        assert!(
            got.unwrap_err()
                .to_string()
                .contains("\"required\", \"optional\"")
        );
    }
}
