//! Whether two listeners take the same port from one another, and whether one is on a public address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Whether both addresses cannot be bound at once. For port 0 the kernel finds a free one.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && one.port() != 0 && (a == b || covers(a, b) || covers(b, a))
}

/// Whether a listener on `all` gets the connections to `one` as well.
fn covers(all: IpAddr, one: IpAddr) -> bool {
    // `[::]` listens on IPv4 too, unless the machine's `bindv6only` says otherwise.
    all.is_unspecified() && (all.is_ipv6() || one.is_ipv4())
}

/// Whether the address is one of the public network: `IpAddr::is_global` is not stable yet. See the registries of special addresses of
/// IANA (RFC 6890).
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        // 2000::/3 is what is given out, less the documentation prefix and the one of tunnels and benchmarks.
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            first & 0xe000 == 0x2000 && !(first == 0x2001 && (second == 0xdb8 || second < 0x200))
        }
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let is_shared = a == 100 && b & 0xc0 == 64;
    let is_benchmark = a == 198 && b & 0xfe == 18;
    let is_protocol = a == 192 && b == 0 && c == 0;
    let is_local =
        ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_documentation();
    !is_local && !is_shared && !is_benchmark && !is_protocol && a != 0 && a < 224
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_out_is_public() {
        for (ip, want) in [
            ("8.8.8.8", true),
            ("100.128.0.1", true),
            ("198.20.0.1", true),
            ("223.255.255.254", true),
            ("::ffff:8.8.8.8", true),
            ("2600::1", true),
            ("2001:4860::1", true),
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("172.31.0.1", false),
            ("192.168.0.1", false),
            ("169.254.1.1", false),
            ("100.64.0.1", false),
            ("198.18.0.1", false),
            ("192.0.0.8", false),
            ("203.0.113.1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("2001:db8::1", false),
            ("2001:0::1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(is_public(ip.parse().unwrap()), want, "{ip}");
        }
    }

    #[test]
    fn addresses_that_cannot_be_bound_at_once() {
        for (one, other, want) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "10.0.0.7:80", true),
            ("0.0.0.0:80", "0.0.0.0:80", true),
            ("0.0.0.0:0", "127.0.0.1:0", false),
            ("0.0.0.0:80", "[::1]:80", false),
            ("0.0.0.0:80", "[::]:80", true),
            ("127.0.0.1:80", "[::]:80", true),
            ("[::1]:80", "[::]:80", true),
            ("[::1]:80", "[::1]:80", true),
            ("[::1]:80", "127.0.0.1:80", false),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("[::ffff:127.0.0.1]:80", "0.0.0.0:80", true),
            ("[::ffff:0.0.0.0]:80", "127.0.0.1:80", true),
            ("[::ffff:0.0.0.0]:80", "[::1]:80", false),
        ] {
            let (a, b) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(overlap(a, b), want, "{one} {other}");
            assert_eq!(overlap(b, a), want, "{other} {one}");
        }
    }
}
