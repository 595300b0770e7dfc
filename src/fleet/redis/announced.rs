//! Addresses of servers, as servers announce them.

use std::sync::Arc;

use super::address::Address;

/// Of a DNS name.
const MAX_HOST: usize = 253;

/// The address of a server that has announced this. A node of a cluster that does not know its own address announces none, or that it
/// listens to all: then it is where it was `asked`. `None` if nobody can connect to it.
pub(super) fn announced(host: &str, port: u16, asked: Option<&Address>) -> Option<Address> {
    // A node of which another knows no address is a `?`.
    let known = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    if port == 0 || host.len() > MAX_HOST || !host.chars().all(known) {
        return None;
    }
    let host = match (host, asked) {
        ("" | "0.0.0.0" | "::", Some(Address::Tcp { host, .. })) => Arc::clone(host),
        ("" | "0.0.0.0" | "::", _) => return None,
        (host, _) => Arc::from(host),
    };
    Some(Address::Tcp { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let seed = Address::Tcp {
            host: "seed".into(),
            port: 1,
        };
        for (host, port, want) in [
            ("10.0.0.1", 6379, Some("10.0.0.1:6379")),
            ("redis-0.example", 1, Some("redis-0.example:1")),
            ("::1", 6379, Some("[::1]:6379")),
            ("", 2, Some("seed:2")),
            ("0.0.0.0", 2, Some("seed:2")),
            ("::", 2, Some("seed:2")),
            ("?", 2, None),
            ("a/b", 2, None),
            ("a b", 2, None),
            ("a", 0, None),
            (&"a".repeat(MAX_HOST + 1), 2, None),
        ] {
            let address = announced(host, port, Some(&seed));
            let shown = address.map(|address| address.to_string());
            assert_eq!(shown.as_deref(), want, "{host}:{port}");
        }
        assert_eq!(announced("", 2, None), None);
        assert_eq!(
            announced(
                "",
                2,
                Some(&Address::Unix(std::path::Path::new("/s").into()))
            ),
            None
        );
    }
}
