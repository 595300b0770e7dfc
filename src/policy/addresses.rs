//! In which order the addresses of a name are tried (RFC 8305, "Happy Eyeballs").

use std::{net::SocketAddr, time::Duration};

/// How long the newest attempt has the field to itself before the next address is tried as well. What RFC 8305 section 8 recommends.
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses that one connect tries. So many hold a socket each if none of them answers; resolvers rotate their answers, so the rest get
/// their turn.
pub const MAX_ADDRESSES: usize = 8;

/// The addresses to try, from the resolver's order: families take turns, beginning with that of the first address (RFC 8305 section 4), so
/// that a family that does not work here costs one delay.
///
/// ```
/// use revgate::policy::addresses::attempt_order;
/// let resolved = ["[::1]:1", "[::2]:1", "10.0.0.1:1"].map(|text| text.parse().unwrap());
/// let tried: Vec<_> = attempt_order(resolved).iter().map(ToString::to_string).collect();
/// assert_eq!(tried, ["[::1]:1", "10.0.0.1:1", "[::2]:1"]);
/// ```
pub fn attempt_order(resolved: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut distinct = Vec::new();
    for address in resolved {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    let first_is_v6 = distinct.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = distinct
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut order = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        let before = order.len();
        order.extend(pair.into_iter().flatten());
        if order.len() == before || order.len() >= MAX_ADDRESSES {
            order.truncate(MAX_ADDRESSES);
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_in_the_resolvers_order() {
        for (resolved, want) in [
            ("", ""),
            ("4a", "4a"),
            ("4a 4b 4c", "4a 4b 4c"),
            ("6a 6b", "6a 6b"),
            ("6a 6b 4a 4b", "6a 4a 6b 4b"),
            ("4a 6a 6b 6c", "4a 6a 6b 6c"),
            ("4a 4b 4c 6a", "4a 6a 4b 4c"),
            ("6a 4a 4a 6a 4b", "6a 4a 4b"),
            ("4a 4b 4c 4d 4e 4f 4g 4h 4i", "4a 4b 4c 4d 4e 4f 4g 4h"),
            ("4a 4b 4c 4d 4e 4f 4g 4h 6a", "4a 6a 4b 4c 4d 4e 4f 4g"),
            ("4a 4b 4c 4d 4e 6a 6b 6c 6d", "4a 6a 4b 6b 4c 6c 4d 6d"),
        ] {
            let address = |name: &str| -> SocketAddr {
                let last = name.as_bytes()[1] - b'a' + 1;
                match name.as_bytes()[0] {
                    b'4' => ([10, 0, 0, last], 443).into(),
                    _ => ([0, 0, 0, 0, 0, 0, 0, u16::from(last)], 443).into(),
                }
            };
            let all = |names: &'static str| names.split_whitespace().map(address);
            let want: Vec<_> = all(want).collect();
            assert_eq!(attempt_order(all(resolved)), want, "{resolved}");
        }
    }
}
