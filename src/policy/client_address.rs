//! Whose request it is that a proxy passes on: what a trusted proxy says of the client's address, and whom that makes the client.
//!
//! ```
//! use http::HeaderMap;
//! use revgate::policy::client_address::{Client, ClientField, TrustedProxies};
//!
//! let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()], ClientField::XForwardedFor);
//! let mut headers = HeaderMap::new();
//! headers.insert("x-forwarded-for", "192.0.2.66, 203.0.113.7, 10.0.0.2".parse().unwrap());
//! // The client itself sent 192.0.2.66; a proxy has seen 203.0.113.7.
//! let from = |ip: &str| Client::direct(ip.parse().unwrap());
//! let client = proxies.client(from("10.0.0.1"), &headers);
//! assert_eq!(client.ip.to_string(), "203.0.113.7");
//! // Nobody else's word is taken.
//! let stranger = proxies.client(from("198.51.100.1"), &headers);
//! assert_eq!(stranger.ip.to_string(), "198.51.100.1");
//! ```

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use http::{HeaderMap, HeaderName, header::FORWARDED};
use ipnet::IpNet;

use crate::label::label_enum;

label_enum! {
    /// The field in which trusted proxies name the client. One alone: a proxy passes on what a client puts into the other.
    pub enum ClientField {
        XForwardedFor = "x-forwarded-for",
        /// RFC 7239.
        Forwarded = "forwarded",
    }
}

impl ClientField {
    fn name(self) -> HeaderName {
        match self {
            ClientField::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            ClientField::Forwarded => FORWARDED,
        }
    }
}

/// The address of a client, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub ip: IpAddr,
    /// A trusted proxy has spoken for it, and it is not known to be on this machine.
    pub is_elsewhere: bool,
}

impl Client {
    /// At the other end of a connection. IPv4 has one form, whatever the listener's.
    pub fn direct(ip: IpAddr) -> Client {
        Client {
            ip: ip.to_canonical(),
            is_elsewhere: false,
        }
    }

    /// A proxy that does not say for whom it speaks: it is the last one that is known.
    pub fn speaking_for_somebody(self) -> Client {
        Client {
            is_elsewhere: true,
            ..self
        }
    }

    /// A trusted proxy, which names the client for whom it speaks. What a machine calls loopback is that machine, so a client is on this
    /// one only if all that lies between is.
    pub fn speaking_for(self, client: IpAddr) -> Client {
        let client = client.to_canonical();
        Client {
            ip: client,
            is_elsewhere: self.is_elsewhere || !self.ip.is_loopback() || !client.is_loopback(),
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.fmt(f)
    }
}

/// Whose word about a client is taken.
#[derive(Clone, Debug)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    field: ClientField,
}

impl TrustedProxies {
    /// These networks, and the field that they use.
    pub fn new(networks: Vec<IpNet>, field: ClientField) -> TrustedProxies {
        TrustedProxies { networks, field }
    }

    /// Whether the word of this address is taken.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.networks.iter().any(|network| network.contains(&ip))
    }

    /// The client of a request that came from `peer`: each proxy appends the address from which it got the request, so the client is the
    /// right-most one that is not a trusted proxy itself; the left-most, if all are. What stands left of it is the client's own invention.
    pub fn client(&self, peer: Client, headers: &HeaderMap) -> Client {
        let mut client = peer;
        if !self.trusts(peer.ip) {
            return client;
        }
        let lines = headers.get_all(self.field.name()).iter();
        // A comma within a quoted string divides as well: whatever a client sends, what a proxy appends is judged by itself.
        let elements = lines
            .rev()
            .flat_map(|line| line.as_bytes().rsplit(is_comma));
        for element in elements.map(<[u8]>::trim_ascii) {
            // RFC 9110 section 5.6.1: an empty element is none.
            if element.is_empty() {
                continue;
            }
            let Some(ip) = self.address(element) else {
                return client.speaking_for_somebody();
            };
            client = client.speaking_for(ip);
            if !self.trusts(ip) {
                return client;
            }
        }
        client
    }

    fn address(&self, element: &[u8]) -> Option<IpAddr> {
        let element = std::str::from_utf8(element).ok()?;
        match self.field {
            ClientField::XForwardedFor => node(element),
            ClientField::Forwarded => forwarded_for(element),
        }
    }

    /// Whether this request has the other field and not this one: the configuration may name the wrong one.
    pub fn may_use_another_field(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        let others = ClientField::ALL
            .iter()
            .filter(|other| **other != self.field);
        self.trusts(peer)
            && !headers.contains_key(self.field.name())
            && others
                .into_iter()
                .any(|other| headers.contains_key(other.name()))
    }
}

fn is_comma(byte: &u8) -> bool {
    *byte == b','
}

/// An address, with or without a port.
fn node(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let ip = match bare {
        Some(bare) => bare.parse().ok().filter(IpAddr::is_ipv6),
        None => text.parse().ok(),
    };
    ip.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
        .map(|ip| ip.to_canonical())
}

/// The `for` of an element of Forwarded (RFC 7239 section 4). `None` too if the element is malformed, or names nobody.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut found = None;
    for pair in element.split(';') {
        let (name, value) = pair.split_once('=')?;
        let value = match value.trim().strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"')?,
            None => value.trim(),
        };
        if value.contains(['"', '\\']) {
            return None;
        }
        if name.trim().eq_ignore_ascii_case("for") && found.replace(node(value)).is_some() {
            // Each parameter occurs once.
            return None;
        }
    }
    found.flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies(field: ClientField) -> TrustedProxies {
        let networks = ["10.0.0.0/8", "127.0.0.1/32", "fd00::/8"];
        let networks = networks.map(|network| network.parse().unwrap());
        TrustedProxies::new(networks.into(), field)
    }

    /// The client, with a mark if it is elsewhere.
    fn client(field: ClientField, peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(field.name(), line.parse().unwrap());
        }
        let peer = Client::direct(peer.parse().unwrap());
        let client = proxies(field).client(peer, &headers);
        let mark = if client.is_elsewhere {
            " elsewhere"
        } else {
            ""
        };
        format!("{client}{mark}")
    }

    #[test]
    fn the_right_most_address_that_is_no_proxy_is_the_client() {
        for (peer, lines, want) in [
            // Not trusted, so nothing that it says counts.
            ("192.0.2.1", &["203.0.113.7"][..], "192.0.2.1"),
            ("192.0.2.1", &[], "192.0.2.1"),
            // The proxy's own request.
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("10.0.0.1", &["203.0.113.7"], "203.0.113.7 elsewhere"),
            ("::ffff:10.0.0.1", &["203.0.113.7"], "203.0.113.7 elsewhere"),
            ("10.0.0.1", &["::ffff:203.0.113.7"], "203.0.113.7 elsewhere"),
            (
                "10.0.0.1",
                &["9.9.9.9, 203.0.113.7,10.1.1.1"],
                "203.0.113.7 elsewhere",
            ),
            (
                "10.0.0.1",
                &["9.9.9.9", "203.0.113.7", "10.1.1.1, ,"],
                "203.0.113.7 elsewhere",
            ),
            (
                "10.0.0.1",
                &["9.9.9.9", "10.1.1.1, 203.0.113.7"],
                "203.0.113.7 elsewhere",
            ),
            // A client within a trusted network.
            ("10.0.0.1", &["10.3.3.3, 10.2.2.2"], "10.3.3.3 elsewhere"),
            // What it calls loopback is not this machine.
            ("10.0.0.1", &["127.0.0.1"], "127.0.0.1 elsewhere"),
            ("127.0.0.1", &["127.0.0.1, 10.3.3.3"], "127.0.0.1 elsewhere"),
            ("127.0.0.1", &["::1", "10.3.3.3"], "::1 elsewhere"),
            ("127.0.0.1", &["127.0.0.2"], "127.0.0.2"),
            ("127.0.0.1", &["10.3.3.3, 127.0.0.1"], "10.3.3.3 elsewhere"),
            ("127.0.0.1", &["203.0.113.7"], "203.0.113.7 elsewhere"),
            // With ports, and IPv6.
            ("10.0.0.1", &["203.0.113.7:4711"], "203.0.113.7 elsewhere"),
            ("fd00::1", &["2001:db8::7"], "2001:db8::7 elsewhere"),
            ("fd00::1", &["[2001:db8::7]"], "2001:db8::7 elsewhere"),
            ("fd00::1", &["[2001:db8::7]:4711"], "2001:db8::7 elsewhere"),
            // The proxy does not say from whom it got it.
            ("10.0.0.1", &["unknown"], "10.0.0.1 elsewhere"),
            ("127.0.0.1", &["unknown"], "127.0.0.1 elsewhere"),
            (
                "10.0.0.1",
                &["203.0.113.7, _hidden, 10.1.1.1"],
                "10.1.1.1 elsewhere",
            ),
            ("10.0.0.1", &["203.0.113.7, 10.0.0"], "10.0.0.1 elsewhere"),
            ("10.0.0.1", &["203.0.113.7 10.1.1.1"], "10.0.0.1 elsewhere"),
            ("10.0.0.1", &["[10.1.1.1]"], "10.0.0.1 elsewhere"),
            ("10.0.0.1", &["\"203.0.113.7\""], "10.0.0.1 elsewhere"),
        ] {
            let got = client(ClientField::XForwardedFor, peer, lines);
            assert_eq!(got, want, "{peer} {lines:?}");
        }
    }

    #[test]
    fn so_it_is_in_the_field_of_the_rfc() {
        for (lines, want) in [
            (&["for=203.0.113.7"][..], "203.0.113.7 elsewhere"),
            (
                &["For=203.0.113.7;proto=https; by=10.0.0.1"],
                "203.0.113.7 elsewhere",
            ),
            (
                &["proto=https;for=\"203.0.113.7:4711\""],
                "203.0.113.7 elsewhere",
            ),
            (&["for=\"[2001:db8::7]:4711\""], "2001:db8::7 elsewhere"),
            (
                &["for=9.9.9.9, for=203.0.113.7, for=10.1.1.1"],
                "203.0.113.7 elsewhere",
            ),
            (&["for=9.9.9.9", "for=203.0.113.7"], "203.0.113.7 elsewhere"),
            // What a client leaves open swallows nothing of what a proxy appends.
            (
                &["for=9.9.9.9;x=\", for=203.0.113.7"],
                "203.0.113.7 elsewhere",
            ),
            (&["for=\"9.9.9.9, for=203.0.113.7"], "203.0.113.7 elsewhere"),
            (
                &["for=203.0.113.7, for=10.1.1.1;x=\"a"],
                "10.0.0.1 elsewhere",
            ),
            (&["for=unknown"], "10.0.0.1 elsewhere"),
            (&["for=_gazonk"], "10.0.0.1 elsewhere"),
            (&["proto=https"], "10.0.0.1 elsewhere"),
            (&["for=203.0.113.7;for=203.0.113.8"], "10.0.0.1 elsewhere"),
            (&["203.0.113.7"], "10.0.0.1 elsewhere"),
            (&[], "10.0.0.1"),
        ] {
            let got = client(ClientField::Forwarded, "10.0.0.1", lines);
            assert_eq!(got, want, "{lines:?}");
        }
    }

    #[test]
    fn the_other_field_says_nothing() {
        let mut headers = HeaderMap::new();
        headers.insert("forwarded", "for=203.0.113.7".parse().unwrap());
        headers.insert("x-real-ip", "203.0.113.7".parse().unwrap());
        let proxies = proxies(ClientField::XForwardedFor);
        let peer = Client::direct("10.0.0.1".parse().unwrap());
        assert_eq!(proxies.client(peer, &headers), peer);
        assert!(proxies.may_use_another_field(peer.ip, &headers));
        headers.insert("x-forwarded-for", "203.0.113.8".parse().unwrap());
        assert!(!proxies.may_use_another_field(peer.ip, &headers));
        assert_eq!(proxies.client(peer, &headers).ip.to_string(), "203.0.113.8");
    }

    proptest! {
        /// Whatever a client sends, a proxy that appends its address is believed, and so is one that adds a line of its own.
        #[test]
        fn no_client_chooses_its_address(
            sent in prop::collection::vec("[ -~]{0,40}", 0..3),
            field in prop::sample::select(ClientField::ALL),
            appends in any::<bool>(),
        ) {
            let mut headers = HeaderMap::new();
            let mut lines: Vec<_> = sent;
            let own = match field {
                ClientField::XForwardedFor => "203.0.113.7",
                ClientField::Forwarded => "for=203.0.113.7;proto=http",
            };
            match lines.last_mut() {
                Some(last) if appends => *last = format!("{last}, {own}"),
                _ => lines.push(own.to_owned()),
            }
            for line in &lines {
                headers.append(field.name(), line.parse().unwrap());
            }
            let peer = Client::direct("10.0.0.1".parse().unwrap());
            let client = proxies(field).client(peer, &headers);
            prop_assert_eq!(client, peer.speaking_for("203.0.113.7".parse().unwrap()));
        }
    }
}
