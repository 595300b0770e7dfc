//! `auth.jwt`: the trusted issuer of signed tokens, and the source of its public keys.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use http::Uri;
use serde_json::{Value, json};

use super::{
    files,
    notation::{HTTP, any_case, authority, is_port_sound, notation, text},
    quote,
    section::{Notation, View, section, shared_schema, table_schema},
};
use crate::{policy::jwt::KeySet, types::Roots};

section! {
    /// Callers with a signed token; jwt_subject names the caller.
    pub struct Jwt: Debug, Clone, PartialEq, Eq {
        /// What `iss` must be, exactly.
        issuer: String, required("is missing; write the `iss` of your tokens"), example("https://issuer.example");
        /// What `aud` must be or contain, exactly, so that tokens for other services are rejected.
        audience: String, required("is missing; write the `aud` of tokens that are meant for revgate, such as \"revgate\""), example("revgate");
        /// The public keys that the issuer signs with.
        jwks: Jwks, required("is missing; write { url = ... } or { file = ... } for the issuer's public keys"), example({ "url": "https://issuer.example/jwks" });
    }
}

section! {
    /// A JSON Web Key Set (RFC 7517): exactly one of url and file.
    struct JwksTable: Debug, Clone {
        /// Where the issuer publishes the key set: https://, or http:// on loopback. Fetched every five minutes (or as Cache-Control says, from one minute to an hour), and when a token names an unknown key.
        url: Option<JwksUrl>, example("https://issuer.example/jwks");
        /// A file with the key set; revgate reloads when it changes.
        file: Option<PathBuf>, example("/etc/revgate/jwks.json");
        /// Certificate authorities for url. Those of upstream.roots by default.
        roots: Option<Roots>, example({ "file": "/etc/revgate/issuer-ca.pem" });
        /// Whether url is fetched through upstream.proxy, if there is one. True by default, because where DevRev is reached through a proxy, a public issuer is too; false for an issuer in your own network. A url on loopback is always fetched directly.
        proxy: Option<bool>, example(false);
    }
}

/// The source of the issuer's public keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jwks {
    /// `https`, or `http` on loopback, without user info. Without roots of their own, those of the upstream.
    Url {
        url: Uri,
        roots: Roots,
        /// As in the file.
        proxy: Option<bool>,
    },
    /// With the keys that it held when the configuration was loaded.
    File { path: PathBuf, keys: KeySet },
}

notation! {
    [] Jwks => Jwks,
    quotable false,
    read |value, at| {
        let JwksTable { url, file, roots, proxy } = JwksTable::read(value, at)?;
        if file.is_some() && roots.is_some() {
            at.report("roots", "applies only to a url; remove it");
        }
        if file.is_some() && proxy.is_some() {
            at.report("proxy", "applies only to a url; remove it");
        }
        if (url.is_some() || at.has_problem("url")) == (file.is_some() || at.has_problem("file")) {
            return at.reject("needs exactly one of `url` and `file`; write { url = ... } or { file = ... }");
        }
        if let Some(url) = url {
            let roots = roots.or_else(|| at.context.upstream_roots.clone()).unwrap_or(Roots::Bundled);
            return Some(Jwks::Url { url, roots, proxy });
        }
        let path = file?;
        let found = || quote::public_path(&path);
        let keys = keys_of(&path).map_err(|message| files::report_file(at, "file", found(), &message)).ok()?;
        Some(Jwks::File { path, keys })
    },
    show |out, view| {
        let table = match out {
            Jwks::Url { url, roots, proxy } => JwksTable {
                url: Some(url.clone()),
                file: None,
                roots: Some(roots.clone()),
                proxy: *proxy,
            },
            Jwks::File { path, .. } => JwksTable {
                url: None,
                file: Some(path.clone()),
                roots: None,
                proxy: None,
            },
        };
        let mut shown = JwksTable::show(&table, view);
        if let (View::Compared, Jwks::File { keys, .. }) = (view, out) {
            shown[""] = format!("{keys:?}").into();
        }
        shown
    },
    schema |defs| shared_schema(defs, "Jwks", |defs| {
        let mut table = table_schema(&JwksTable::keys(), defs);
        let file = json!({ "required": ["file"], "not": { "required": ["roots"] } });
        table["oneOf"] = json!([{ "required": ["url"] }, file]);
        table
    }),
    keys JwksTable::keys(),
}

/// A URL of a key set. Whoever can change the response can impersonate any caller, so it is unencrypted only on loopback.
pub(super) struct JwksUrl;

notation! {
    [] JwksUrl => Uri,
    expected "https:// (http:// only for loopback) with a host, and no user or fragment",
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
    schema |defs| {
        let rest = r"(?:[/?][^\s@#]*)?";
        let localhost = any_case("localhost");
        let loopback = format!(r"(?:{localhost}|127(?:\.[0-9]{{1,3}}){{3}}|\[[0:]*:0*1\])(?::[0-9]{{1,5}})?");
        text(&[&format!("{HTTP}[Ss]://{}{rest}", authority()), &format!("{HTTP}://{loopback}{rest}")])
    },
}

/// The most KiB of a key set.
const LIMIT: u64 = 1024;

fn keys_of(path: &Path) -> Result<KeySet, String> {
    let bytes = files::read_bytes(path, LIMIT, "a key set")?;
    KeySet::parse(&bytes)
        .map_err(|fault| format!("is no key set: {fault}; store the issuer's JWKS there"))
}
