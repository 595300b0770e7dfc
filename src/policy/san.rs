//! Names of a client certificate (RFC 5280 section 4.2.1.6), as a caller is bound to one.

use std::{fmt, net::IpAddr};

/// One name. The kinds are never mixed: an issuer that vouches for DNS names only does not vouch for what a URI says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum San {
    /// Compared byte for byte; a SPIFFE id (`spiffe://domain/path`) is one.
    Uri(String),
    /// In lower case, as DNS does not tell the cases apart.
    Dns(String),
}

impl San {
    /// What an operator wrote. `None` for what no certificate could match, or what would look like a pattern: names are
    /// compared whole.
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
            // `localhost:8080` is an address somebody mistook for a name.
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

    /// A DNS name as a certificate has it.
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
            // No workload, an empty segment, an end that no id has, a domain in capitals, a port, a query.
            ("spiffe://example.org", None),
            ("spiffe://example.org/", None),
            ("spiffe://example.org/a//b", None),
            ("spiffe://example.org/a/", None),
            ("spiffe://example.org/a/../b", None),
            ("spiffe://Example.org/a", None),
            ("spiffe://example.org:443/a", None),
            ("spiffe://example.org/a?b", None),
            ("spiffe:///a", None),
            // Patterns, addresses, empty labels, what is not ASCII.
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
        // A certificate's DNS name may hold anything that its issuer let pass.
        let name = "spiffe://example.org/billing";
        assert_ne!(San::read(name), Some(San::dns(name)));
    }
}
