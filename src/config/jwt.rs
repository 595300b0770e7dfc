//! `auth.jwt`: whose signed tokens are believed, and where the keys are that verify them.

use std::{fs::File, io::Read, net::IpAddr, path::Path};

use http::Uri;

use super::{Jwks, Jwt, Roots, parse::roots, tree::Section};
use crate::policy::jwt::KeySet;

/// `upstream` are the roots that hold where `jwks` names none.
pub(super) fn jwt(mut s: Section, upstream: &Roots) -> Option<Jwt> {
    let has = |s: &Section, key: &str, hint: &str| {
        if !s.has(key) {
            s.problem(key, format!("is missing; {hint}"));
        }
    };
    has(&s, "issuer", "write what your tokens have as `iss`");
    has(
        &s,
        "audience",
        "write what your tokens have as `aud` when they are for revgate, such as \"revgate\"",
    );
    has(
        &s,
        "jwks",
        "write { url = ... } or { file = ... }, where the issuer's public keys are",
    );
    let issuer = s.string("issuer");
    let audience = s.string("audience");
    let jwks = s.has("jwks").then(|| jwks(s.section("jwks"), upstream));
    s.finish();
    Some(Jwt {
        issuer: issuer?,
        audience: audience?,
        jwks: jwks??,
    })
}

fn jwks(mut s: Section, upstream: &Roots) -> Option<Jwks> {
    let (has_url, has_file) = (s.has("url"), s.has("file"));
    let url = s.parse(
        "url",
        "https:// (http:// only for loopback) with a host, and no user or fragment",
        |v| location(v.as_str()?),
    );
    let file = s.string("file");
    let own = roots(&mut s);
    if has_file && own.is_some() {
        s.problem("roots", "is for a url; remove it");
    }
    if has_url == has_file {
        s.problem(
            "",
            "needs exactly one of `url` and `file`; write { url = ... } or { file = ... }",
        );
    }
    let jwks = match (url, file) {
        (Some(url), None) => Some(Jwks::Url {
            url,
            roots: own.unwrap_or_else(|| upstream.clone()),
        }),
        (None, Some(path)) => match read(Path::new(&path)) {
            Ok(keys) => Some(Jwks::File {
                path: path.into(),
                keys,
            }),
            Err(message) => {
                s.problem("file", message);
                None
            }
        },
        _ => None,
    };
    s.finish();
    jwks
}

/// Whoever can change what is fetched can call as anybody: so never in the clear, but to this machine.
fn location(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']);
    let loopback = host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let scheme = match uri.scheme_str()? {
        "https" => true,
        "http" => loopback,
        _ => false,
    };
    let authority = uri.authority()?.as_str();
    // A port that does not fit is only found by asking for it.
    let port = uri.port_u16().is_some() || authority.ends_with(']') || !authority.contains(':');
    (scheme && port && !host.is_empty() && !text.contains(['@', '#'])).then_some(uri)
}

/// No key set is larger; a reference to a device or a wrong file must not fill the memory.
const LIMIT: u64 = 1 << 20;

fn read(path: &Path) -> Result<KeySet, String> {
    let fail = |e: std::io::Error| {
        format!(
            "the file cannot be read ({}); create it or correct the path",
            e.kind()
        )
    };
    // A pipe without a writer would hang the start for ever.
    if !std::fs::metadata(path).map_err(fail)?.is_file() {
        return Err("the path is not a regular file; point it at a key set".into());
    }
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(fail)?
        .take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > LIMIT {
        return Err("the file is larger than 1 MiB; point it at a key set".into());
    }
    KeySet::parse(&bytes)
        .map_err(|fault| format!("the file is no key set: {fault}; store the issuer's JWKS there"))
}
