//! `auth.jwt`: whose signed tokens are believed, and where the keys are that verify them.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use http::Uri;
use serde_json::{Value, json};

use super::{
    notation::{HTTP, any_case, authority, is_port_sound, notation, text},
    secret,
    section::{Notation, View, definition, section, table},
};
use crate::{policy::jwt::KeySet, types::Roots};

section! {
    /// Callers with a signed token; who they are says jwt_subject.
    pub struct Jwt: Debug, Clone, PartialEq, Eq {
        /// What `iss` must be, to the letter.
        issuer: String, needed("is missing; write what your tokens have as `iss`"), example("https://issuer.example");
        /// What `aud` must be or hold, to the letter, so that a token made for another service is of no use here.
        audience: String, needed("is missing; write what your tokens have as `aud` when they are for revgate, such as \"revgate\""), example("revgate");
        /// The public keys that the issuer signs with.
        jwks: Jwks, needed("is missing; write { url = ... } or { file = ... }, where the issuer's public keys are"), example({ "url": "https://issuer.example/jwks" });
    }
}

section! {
    /// A JSON Web Key Set (RFC 7517): exactly one of url and file.
    pub struct JwksTable: Debug, Clone {
        /// Where the issuer publishes it: https://, or http:// on loopback. Fetched again every five minutes (or by Cache-Control, from one minute to an hour), and when a token names a key that is not known.
        url: Option<Location>, example("https://issuer.example/jwks");
        /// A file that holds it; a new content is used at once.
        file: Option<PathBuf>, example("/etc/revgate/jwks.json");
        /// Certificate authorities for the url, as in upstream.roots. Those by default.
        roots: Option<Roots>, example({ "file": "/etc/revgate/issuer-ca.pem" });
    }
}

/// Where the issuer's public keys are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jwks {
    /// `https`, or `http` on loopback; no user info. `roots` are the upstream's where the file names none.
    Url { url: Uri, roots: Roots },
    /// With its content when the file was loaded.
    File { path: PathBuf, keys: KeySet },
}

notation! {
    [] Jwks => Jwks,
    read |value, at| {
        let JwksTable { url, file, roots } = JwksTable::read(value, at)?;
        if file.is_some() && roots.is_some() {
            at.problem("roots", "is for a url; remove it");
        }
        if (url.is_some() || at.is_faulty("url")) == (file.is_some() || at.is_faulty("file")) {
            return at.refuse("needs exactly one of `url` and `file`; write { url = ... } or { file = ... }");
        }
        if let Some(url) = url {
            let roots = roots.or_else(|| at.context.roots.clone()).unwrap_or(Roots::Bundled);
            return Some(Jwks::Url { url, roots });
        }
        let path = file?;
        let keys = keys_of(&path).map_err(|message| at.problem("file", message)).ok()?;
        Some(Jwks::File { path, keys })
    },
    show |out, view| {
        let (url, file, roots) = match out {
            Jwks::Url { url, roots } => (Some(url.clone()), None, Some(roots.clone())),
            Jwks::File { path, .. } => (None, Some(path.clone()), None),
        };
        let mut shown = JwksTable::show(&JwksTable { url, file, roots }, view);
        if let (View::Compared, Jwks::File { keys, .. }) = (view, out) {
            shown[""] = format!("{keys:?}").into();
        }
        shown
    },
    schema |shared| definition(shared, "Jwks", |shared| {
        let mut table = table(&JwksTable::keys(), shared);
        let file = json!({ "required": ["file"], "not": { "required": ["roots"] } });
        table["oneOf"] = json!([{ "required": ["url"] }, file]);
        table
    }),
    keys JwksTable::keys(),
}

/// Whoever can change what is fetched can call as anybody: so never in the clear, but to this machine.
pub struct Location;

notation! {
    [] Location => Uri,
    want "https:// (http:// only for loopback) with a host, and no user or fragment",
    parse |value| {
        let text = value.as_str()?;
        let uri: Uri = text.parse().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']);
        let loopback = host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        let safe = match uri.scheme_str()? {
            "https" => true,
            scheme => scheme == "http" && loopback,
        };
        (safe && is_port_sound(&uri) && !host.is_empty() && !text.contains(['@', '#'])).then_some(uri)
    },
    show |out| out.to_string(),
    schema |shared| {
        let rest = r"(?:[/?][^\s@#]*)?";
        let localhost = any_case("localhost");
        let loopback = format!(r"(?:{localhost}|127(?:\.[0-9]{{1,3}}){{3}}|\[[0:]*:0*1\])(?::[0-9]{{1,5}})?");
        text(&[&format!("{HTTP}[Ss]://{}{rest}", authority()), &format!("{HTTP}://{loopback}{rest}")])
    },
}

/// In KiB. No key set is larger.
const LIMIT: u64 = 1024;

fn keys_of(path: &Path) -> Result<KeySet, String> {
    let bytes = secret::read_bytes(path, LIMIT, "a key set")?;
    KeySet::parse(&bytes)
        .map_err(|fault| format!("the file is no key set: {fault}; store the issuer's JWKS there"))
}
