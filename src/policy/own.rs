//! Whether a connection leads back to this gateway, where a request would run in a circle and the credential with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Uri;

/// Whether a connection from `local` to `peer` ends at one of the gateway's `own` listeners.
pub fn leads_here(own: &[SocketAddr], peer: SocketAddr, local: Option<IpAddr>) -> bool {
    let there = peer.ip().to_canonical();
    // To "any address" the kernel connects over loopback.
    let loopback = there.is_loopback() || there.is_unspecified();
    own.iter().any(|own| {
        let here = own.ip().to_canonical();
        own.port() == peer.port()
            && if here.is_unspecified() {
                // On all of the machine's addresses; a connection to one of them comes from that same one.
                loopback || local.is_some_and(|local| local.to_canonical() == there)
            } else {
                here == there || (there.is_unspecified() && here.is_loopback())
            }
    })
}

/// The addresses that a host stands for without asking anybody; none for a name that must be looked up.
pub fn addresses(host: &str) -> Vec<IpAddr> {
    let host = host.trim_matches(['[', ']']);
    if let Ok(ip) = host.parse() {
        return vec![ip];
    }
    // RFC 6761 section 6.3: with everything below it.
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        return vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    Vec::new()
}

/// Whether `url` names one of these listeners, as far as that can be told without a look-up.
pub fn names_own(url: &Uri, own: &[SocketAddr]) -> bool {
    let default_port = if url.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let port = url.port_u16().unwrap_or(default_port);
    addresses(url.host().unwrap_or_default())
        .into_iter()
        .any(|ip| leads_here(own, SocketAddr::new(ip, port), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_listeners_are_known_in_every_spelling() {
        for (own, peer, local, want) in [
            ("127.0.0.1:80", "127.0.0.1:80", None, true),
            ("127.0.0.1:80", "127.0.0.1:81", None, false),
            ("127.0.0.1:80", "127.0.0.2:80", None, false),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", None, true),
            ("127.0.0.1:80", "0.0.0.0:80", None, true),
            ("127.0.0.1:80", "10.0.0.7:80", Some("10.0.0.9"), false),
            ("[::1]:80", "[::1]:80", None, true),
            ("0.0.0.0:80", "127.0.0.9:80", None, true),
            ("0.0.0.0:80", "10.0.0.7:80", Some("10.0.0.7"), true),
            ("0.0.0.0:80", "10.0.0.7:80", Some("10.0.0.9"), false),
            ("[::]:80", "10.0.0.7:80", Some("10.0.0.7"), true),
            ("[::]:80", "127.0.0.1:80", None, true),
            ("10.0.0.7:80", "10.0.0.7:80", Some("10.0.0.7"), true),
            ("10.0.0.7:80", "10.0.0.8:80", Some("10.0.0.8"), false),
        ] {
            let local = local.map(|local| local.parse().unwrap());
            let found = leads_here(&[own.parse().unwrap()], peer.parse().unwrap(), local);
            assert_eq!(found, want, "{own} {peer} {local:?}");
        }
    }

    #[test]
    fn hosts_that_need_no_look_up() {
        for (host, want) in [
            ("127.0.0.1", 1),
            ("[::1]", 1),
            ("LocalHost", 2),
            ("localhost.", 2),
            ("api.localhost", 2),
            ("api.devrev.ai", 0),
            ("notlocalhost", 0),
        ] {
            assert_eq!(addresses(host).len(), want, "{host}");
        }
    }
}
