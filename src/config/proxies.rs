//! `listen.trusted_proxies`: networks of the proxies whose word about a client's address is taken, and what goes with them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{
    Address, Listen,
    notation::{notation, text},
    reading::Location,
    section::{Notation, View},
};
use crate::policy::client_address::TrustedProxies;

/// IP addresses, and networks in CIDR notation.
pub struct Networks;

/// A pattern for an IP address with or without a prefix. Checks only the characters of an IPv6 address.
fn network_pattern() -> String {
    let octet = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    let v4 = format!(r"{octet}(?:\.{octet}){{3}}(?:/(?:3[0-2]|[12][0-9]|[1-9]))?");
    let v6 =
        "[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:/(?:12[0-8]|1[01][0-9]|[1-9][0-9]|[1-9]))?";
    format!("(?:{v4}|{v6})")
}

/// A prefix of 0 would be everybody, so that every client could choose its address.
fn network(text: &str) -> Option<IpNet> {
    let (ip, prefix) = match text.split_once('/') {
        Some((ip, prefix)) => {
            let is_plain = !prefix.starts_with('0') && prefix.bytes().all(|b| b.is_ascii_digit());
            (ip, Some(prefix.parse().ok().filter(|_| is_plain)?))
        }
        None => (text, None),
    };
    let ip: IpAddr = ip.parse().ok()?;
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    let network = IpNet::new(ip, prefix.unwrap_or(whole)).ok()?;
    Some(network.trunc())
}

fn shown(network: &IpNet) -> String {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string(),
        false => network.to_string(),
    }
}

notation! {
    [] Networks => Vec<IpNet>,
    expected "a list of IP addresses and networks such as [\"10.0.0.7\", \"10.1.0.0/16\", \"fd00::/8\"]; a prefix of 0 would trust everybody",
    parse |value| match value {
        Value::Array(items) => items.iter().map(|item| network(item.as_str()?)).collect(),
        Value::String(text) => {
            let parts = text.split(',').filter(|part| !part.is_empty());
            parts.map(|part| network(part.trim())).collect()
        }
        _ => None,
    },
    bad_item |value| {
        let items = value.as_array()?;
        items.iter().position(|item| item.as_str().and_then(network).is_none())
    },
    show |out| out.iter().map(shown).collect::<Vec<_>>(),
    schema |defs| {
        let item = network_pattern();
        let one = format!(r"\s*{item}\s*");
        json!({ "anyOf": [{ "type": "array", "items": text(&[&item]) }, text(&[&format!("(?:{one})?(?:,(?:{one})?)*")])] })
    },
}

impl Listen {
    /// Whose word about a client's address is taken.
    pub(crate) fn proxies(&self) -> TrustedProxies {
        TrustedProxies::new(self.trusted_proxies.clone(), self.client_field)
    }
}

/// Reports what does not fit together.
pub(super) fn check(listen: &Listen, at: &Location<'_>) {
    let is_good = |key| !at.has_problem("listen.address") && !at.has_problem(key);
    let names_none = listen.trusted_proxies.is_empty();
    if matches!(listen.address, Address::Unix(_)) && !names_none && is_good("listen.address") {
        at.report(
            "listen.trusted_proxies",
            "is not supported on a unix socket, where clients have no address; remove it, or listen on an IP address",
        );
    }
    if listen.proxy_protocol && names_none && is_good("listen.trusted_proxies") {
        at.report(
            "listen.proxy_protocol",
            "needs listen.trusted_proxies, whose PROXY headers are believed; name the load balancer there, or remove this",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::from_toml;

    fn load(listen: &str) -> Result<super::Listen, String> {
        let text = format!("[listen]\n{listen}\n[auth]\nmode = \"validate\"");
        let config = from_toml(&text, &Default::default());
        config
            .map(|config| config.listen)
            .map_err(|problems| problems.to_string())
    }

    #[test]
    fn networks_are_shown_as_they_count() {
        let listen =
            load(r#"trusted_proxies = ["10.1.2.3/8", "192.0.2.7/32", "FD00::1/8", "::1"]"#);
        let proxies = listen.unwrap();
        let shown: Vec<_> = proxies.trusted_proxies.iter().map(super::shown).collect();
        assert_eq!(shown, ["10.0.0.0/8", "192.0.2.7", "fd00::/8", "::1"]);
        let trusts = |ip: &str| proxies.proxies().trusts(ip.parse().unwrap());
        assert!(trusts("10.255.0.1") && trusts("::ffff:192.0.2.7") && trusts("::1"));
        assert!(!trusts("11.0.0.1") && !trusts("192.0.2.8") && !trusts("127.0.0.1"));
    }

    #[test]
    fn what_does_not_fit_is_a_problem_that_says_what_to_do() {
        for (listen, want) in [
            (
                "address = \"unix:/x\"\ntrusted_proxies = [\"10.0.0.1\"]",
                "is not supported on a unix socket",
            ),
            (
                "proxy_protocol = true",
                "listen.proxy_protocol: true needs listen.trusted_proxies",
            ),
            (
                "trusted_proxies = [\"0.0.0.0/0\"]",
                "a prefix of 0 would trust everybody",
            ),
        ] {
            let problem = load(listen).unwrap_err();
            assert!(problem.contains(want), "{problem}");
            assert_eq!(problem.lines().count(), 1, "{problem}");
        }
        // A problem of one key makes none of another.
        let problem = load("trusted_proxies = [\"10.0.0.7\", \"10.0.0.0/33\"]").unwrap_err();
        let says = "listen.trusted_proxies[1]: \"10.0.0.0/33\" is not valid; write";
        assert!(problem.contains(says), "{problem}");
        let problem = load("trusted_proxies = [\"x\"]\nproxy_protocol = true").unwrap_err();
        assert_eq!(problem.lines().count(), 1, "{problem}");
    }
}
