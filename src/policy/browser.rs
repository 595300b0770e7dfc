//! Whether a request may come from a page of another site, in a browser that can connect here.
//!
//! A browser lends whatever it can reach to every page that it shows. A page can send a request with a body of plain text, or point a
//! name of its own at this machine and then count as the same origin (DNS rebinding). What a page cannot do is make up a credential,
//! choose `Host`, or change what its browser says of it in `Origin` and `Sec-Fetch-Site`.
//!
//! ```
//! use http::{HeaderMap, Version, header::{HOST, ORIGIN}};
//! use revgate::policy::browser::{BrowserFault, BrowserRules};
//!
//! let mut headers = HeaderMap::new();
//! headers.insert(HOST, "localhost:8080".parse().unwrap());
//! let rules = BrowserRules::HostAndPage(&[]);
//! let check = |headers: &HeaderMap| rules.check(&"/works.create".parse().unwrap(), Version::HTTP_11, headers);
//! assert_eq!(check(&headers), Ok(()));
//! headers.insert(ORIGIN, "https://elsewhere.example".parse().unwrap());
//! assert_eq!(check(&headers), Err(BrowserFault::Page));
//! ```

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderValue, Uri, Version,
    header::{HOST, ORIGIN},
    uri::Authority,
};
use thiserror::Error;

/// Why a request that may come from a page is refused. The text says what its sender can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BrowserFault {
    #[error(
        "without a credential, Host must be localhost, a loopback address, upstream's host or a name in listen.hosts"
    )]
    Host,
    #[error("a page of another origin must send a credential in Authorization")]
    Page,
}

/// What a request must obey, by what it is accepted for.
#[derive(Clone, Copy, Debug)]
pub enum BrowserRules<'a> {
    /// A credential that no browser adds by itself.
    None,
    /// A credential that a browser may add by itself, such as a client certificate, with which a false name fails in the handshake; or a
    /// socket that has no name.
    Page,
    /// That it reaches this listener. Its names are those of loopback and these, in lower case.
    HostAndPage(&'a [Box<str>]),
}

impl BrowserRules<'_> {
    /// # Errors
    /// If a page of another site may have sent the request.
    pub fn check(
        &self,
        target: &Uri,
        version: Version,
        headers: &HeaderMap,
    ) -> Result<(), BrowserFault> {
        if let BrowserRules::HostAndPage(names) = self {
            check_host(names, target, version, headers)?;
        }
        match self {
            BrowserRules::None => Ok(()),
            BrowserRules::Page | BrowserRules::HostAndPage(_) => check_page(target, headers),
        }
    }
}

/// Against DNS rebinding: such a request has the other site's name in `Host`. Accepts loopback, whatever the port, because a port may be
/// forwarded; and `names`, in lower case.
///
/// # Errors
/// If the request names another host, or not exactly one.
pub fn check_host(
    names: &[Box<str>],
    target: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<(), BrowserFault> {
    let is_own = |authority: &Authority| {
        let host = authority.host();
        let is_named = || names.iter().any(|name| host.eq_ignore_ascii_case(name));
        !authority.as_str().contains('@') && (is_loopback(host) || is_named())
    };
    let mut hosts = headers.get_all(HOST).iter();
    let is_good = match (target.authority(), hosts.next()) {
        (target, Some(host)) => {
            let host = Authority::try_from(host.as_bytes());
            target.is_none_or(is_own) && host.is_ok_and(|host| is_own(&host))
        }
        // HTTP/2 has it in `:authority`.
        (Some(target), None) => is_own(target),
        // No browser sends HTTP/1.0, which has no Host.
        (None, None) => version <= Version::HTTP_10,
    };
    match is_good && hosts.next().is_none() {
        true => Ok(()),
        false => Err(BrowserFault::Host),
    }
}

/// Against cross-site requests: refuses what a browser says comes from another origin. Requests of other programs say nothing about that.
///
/// # Errors
/// If it does.
pub fn check_page(target: &Uri, headers: &HeaderMap) -> Result<(), BrowserFault> {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    let is_same_site = sites.all(|site| site == "same-origin" || site == "none");
    let own = authority(target, headers);
    let is_own = |origin: &HeaderValue| {
        let origin = origin.to_str().ok().and_then(|text| {
            let (_, authority) = text.split_once("://")?;
            authority.parse::<Authority>().ok()
        });
        origin.is_some() && origin == own
    };
    match is_same_site && headers.get_all(ORIGIN).iter().all(is_own) {
        true => Ok(()),
        false => Err(BrowserFault::Page),
    }
}

/// Whom the request is addressed to: `:authority` or the authority of a target in absolute form, else the only Host.
fn authority(target: &Uri, headers: &HeaderMap) -> Option<Authority> {
    if let Some(authority) = target.authority() {
        return Some(authority.clone());
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Authority::try_from(host.as_bytes()).ok(),
        _ => None,
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let address = bare.unwrap_or(host).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 2] = ["api.devrev.ai", "gateway"];

    fn names() -> Vec<Box<str>> {
        NAMES.map(Box::from).into()
    }

    /// A request: its target's authority if it has one, and its fields.
    fn check(authority: &str, fields: &[(&'static str, &str)]) -> Result<(), BrowserFault> {
        let (target, version) = match authority {
            "" => ("/a".to_owned(), Version::HTTP_11),
            "HTTP/1.0" => ("/a".to_owned(), Version::HTTP_10),
            authority => (format!("http://{authority}/a"), Version::HTTP_2),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let names = names();
        let target = target.parse().unwrap();
        BrowserRules::HostAndPage(&names).check(&target, version, &headers)
    }

    #[test]
    fn hosts() {
        for (host, want) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("127.0.0.1", true),
            ("127.9.9.9:9", true),
            ("[::1]:8080", true),
            ("[::ffff:127.0.0.1]", true),
            ("api.devrev.ai", true),
            ("API.devrev.ai:443", true),
            ("gateway:1", true),
            ("evil.example", false),
            ("evil.example:8080", false),
            ("api.devrev.ai.evil.example", false),
            ("xapi.devrev.ai", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example", false),
            // Some resolvers ask the network for it.
            ("evil.localhost", false),
            ("0.0.0.0:8080", false),
            ("[::]:8080", false),
            ("10.0.0.1", false),
            ("evil@localhost", false),
            ("localhost@evil.example", false),
        ] {
            let want = if want {
                Ok(())
            } else {
                Err(BrowserFault::Host)
            };
            assert_eq!(check("", &[("host", host)]), want, "{host}");
            assert_eq!(check(host, &[]), want, "HTTP/2 {host}");
            assert_eq!(check(host, &[("host", host)]), want, "both {host}");
        }
        for (authority, hosts, want) in [
            ("", &[][..], Err(BrowserFault::Host)),
            ("", &[("host", "")], Err(BrowserFault::Host)),
            (
                "",
                &[("host", "localhost"), ("host", "localhost")],
                Err(BrowserFault::Host),
            ),
            (
                "localhost",
                &[("host", "evil.example")],
                Err(BrowserFault::Host),
            ),
            (
                "evil.example",
                &[("host", "localhost")],
                Err(BrowserFault::Host),
            ),
            ("HTTP/1.0", &[], Ok(())),
            (
                "HTTP/1.0",
                &[("host", "evil.example")],
                Err(BrowserFault::Host),
            ),
        ] {
            assert_eq!(check(authority, hosts), want, "{authority} {hosts:?}");
        }
    }

    #[test]
    fn pages() {
        for (fields, want) in [
            (&[][..], true),
            (&[("sec-fetch-mode", "cors")], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            // Another port of this machine is the same site and another origin.
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "")], false),
            (
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("sec-fetch-site", "cross-site"),
                ],
                false,
            ),
            (&[("origin", "http://localhost:8080")], true),
            (&[("origin", "https://LOCALHOST:8080")], true),
            (&[("origin", "http://localhost")], false),
            (&[("origin", "http://localhost:8081")], false),
            (&[("origin", "http://127.0.0.1:8080")], false),
            (&[("origin", "https://evil.example")], false),
            (&[("origin", "http://localhost:8080.evil.example")], false),
            (&[("origin", "null")], false),
            (&[("origin", "")], false),
            (&[("origin", "localhost:8080")], false),
            (
                &[
                    ("origin", "http://localhost:8080"),
                    ("origin", "https://evil.example"),
                ],
                false,
            ),
            (
                &[
                    ("origin", "https://evil.example"),
                    ("sec-fetch-site", "same-origin"),
                ],
                false,
            ),
        ] {
            let want = if want {
                Ok(())
            } else {
                Err(BrowserFault::Page)
            };
            let mut with_host = vec![("host", "localhost:8080")];
            with_host.extend(fields);
            assert_eq!(check("", &with_host), want, "{fields:?}");
            assert_eq!(check("localhost:8080", fields), want, "HTTP/2 {fields:?}");
            let page = BrowserRules::Page;
            let mut headers = HeaderMap::new();
            for (name, value) in &with_host {
                headers.append(*name, HeaderValue::from_str(value).unwrap());
            }
            let target = "/a".parse().unwrap();
            assert_eq!(page.check(&target, Version::HTTP_11, &headers), want);
            let none = BrowserRules::None.check(&target, Version::HTTP_11, &headers);
            assert_eq!(none, Ok(()));
        }
    }

    proptest! {
        /// Whatever a page's own name and origin are, it passes neither under its name nor under one of ours.
        #[test]
        fn no_page_passes(
            name in "[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,3}\\.example(:[1-9][0-9]{0,3})?",
            scheme in "https?",
            own in "localhost:8080|127\\.0\\.0\\.1|\\[::1\\]:80|gateway|api\\.devrev\\.ai",
        ) {
            let origin = format!("{scheme}://{name}");
            prop_assert_eq!(check("", &[("host", &name)]), Err(BrowserFault::Host));
            prop_assert_eq!(check(&name, &[("origin", &origin)]), Err(BrowserFault::Host));
            prop_assert_eq!(check("", &[("host", &own), ("origin", &origin)]), Err(BrowserFault::Page));
            prop_assert_eq!(check(&own, &[("origin", &origin)]), Err(BrowserFault::Page));
        }
    }
}
