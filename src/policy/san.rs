//! Subject alternative names of client certificates (RFC 5280 section 4.2.1.6), which identify callers.

use std::{fmt, net::IpAddr};

/// One name. A DNS name never equals a URI, because a CA that verifies DNS names may not verify URIs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum San {
    /// Compared byte for byte; a SPIFFE id (`spiffe://domain/path`) is one.
    Uri(String),
    /// In lower case, because DNS names are case-insensitive.
    Dns(String),
}

impl San {
    /// Parses a name of the configuration. `None` if no certificate could match it, or if it looks like a pattern, because names
    /// are compared whole.
    pub fn read(text: &str) -> Option<San> {
        if let Some(id) = text.strip_prefix("spiffe://") {
            return spiffe(id).then(|| San::Uri(text.to_owned()));
        }
        if let Some((scheme, rest)) = text.split_once(':') {
            let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
            let plain = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic() && b != b'*');
            // `localhost:8080` is an address and not a URI.
            let port = rest.bytes().all(|b| b.is_ascii_digit());
            return (named && plain && !port).then(|| San::Uri(text.to_owned()));
        }
        let labels = text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        });
        let address = text.parse::<IpAddr>().is_ok();
        (labels && !address && text.len() <= 253).then(|| San::dns(text))
    }

    /// A DNS name of a certificate.
    pub fn dns(name: &str) -> San {
        San::Dns(name.to_ascii_lowercase())
    }
}

/// Trust domain and path of a SPIFFE id (SPIFFE-ID section 2).
fn spiffe(id: &str) -> bool {
    let Some((domain, path)) = id.split_once('/') else {
        return false;
    };
    let in_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    let in_path = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let segment = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(in_path);
    !domain.is_empty() && domain.bytes().all(in_domain) && path.split('/').all(segment)
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            San::Uri(name) | San::Dns(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_whole_or_not_at_all() {
        let uri = |text: &str| Some(San::Uri(text.to_owned()));
        let dns = |text: &str| Some(San::Dns(text.to_owned()));
        for (text, want) in [
            (
                "spiffe://example.org/ns/a/sa/billing",
                uri("spiffe://example.org/ns/a/sa/billing"),
            ),
            (
                "spiffe://example.org/Billing",
                uri("spiffe://example.org/Billing"),
            ),
            ("urn:service:billing", uri("urn:service:billing")),
            (
                "https://billing.internal/",
                uri("https://billing.internal/"),
            ),
            ("billing.internal", dns("billing.internal")),
            ("Billing.Internal", dns("billing.internal")),
            ("billing", dns("billing")),
            // No path, an empty segment, a trailing slash, a dot segment, a domain in upper case, a port, a query.
            ("spiffe://example.org", None),
            ("spiffe://example.org/", None),
            ("spiffe://example.org/a//b", None),
            ("spiffe://example.org/a/", None),
            ("spiffe://example.org/a/../b", None),
            ("spiffe://Example.org/a", None),
            ("spiffe://example.org:443/a", None),
            ("spiffe://example.org/a?b", None),
            ("spiffe:///a", None),
            // Patterns, addresses, empty labels, non-ASCII.
            ("*.internal", None),
            ("spiffe://example.org/*", None),
            ("https://*.internal/", None),
            ("10.0.0.1", None),
            ("::1", None),
            ("localhost:8080", None),
            ("billing..internal", None),
            ("billing.internal.", None),
            ("bílling.internal", None),
            ("a b", None),
            ("", None),
            (":x", None),
            ("x:", None),
        ] {
            assert_eq!(San::read(text), want, "{text}");
        }
    }

    #[test]
    fn the_kinds_are_never_mixed() {
        // A CA may let any text pass as a DNS name.
        let name = "spiffe://example.org/billing";
        assert_ne!(San::read(name), Some(San::dns(name)));
    }
}
