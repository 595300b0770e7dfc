//! What keeps no configuration from being used, and is probably a mistake.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use super::{Address, Config, reading::Location, shared};
use crate::{
    policy::{listeners::is_public, self_connection::is_on_loopback},
    wall_clock,
};

/// The window in which DevRev counts a user's requests.
const WINDOW: Duration = Duration::from_secs(300);

pub(super) fn check(config: &Config, at: &Location<'_>) {
    if let Some(tls) = &config.listen.tls
        && let Some(message) = tls.validity_warning(wall_clock::now())
    {
        // Only a warning: an unrelated change, such as removing a caller, must not wait for a renewal.
        at.warn("listen.tls.cert", message);
    }
    let largest = (config.retry.max_replay_body as u64).max(config.limits.max_rewrite_body);
    if (config.limits.max_buffered as u64) < largest {
        at.warn(
            "limits.max_buffered",
            "is below retry.max_replay_body or limits.max_rewrite_body, so larger bodies are refused as overloaded; raise it, or lower those",
        );
    }
    if let Some(variable) = unused_proxy(config, at) {
        let message = format!(
            "the environment has {variable}, which revgate does not use; if DevRev is to be reached through that proxy, write its URL here, else unset the variable"
        );
        at.warn("upstream.proxy", message);
    }
    waits(config, at);
    plain_http(config, at, own_address);
    shared::warn(config, at);
}

/// Waits that are longer than the window: what could not be sent in one is sent in the next, and hardly a client waits so long.
fn waits(config: &Config, at: &Location<'_>) {
    const MESSAGE: &str = "is longer than DevRev's window of 5 minutes, after which the whole quota is there again; write \"5m\" or less";
    if config.defaults.max_wait > WINDOW {
        at.warn("defaults.max_wait", MESSAGE);
    }
    let callers = at.key("callers");
    for (name, caller) in &config.callers {
        // One that inherits it needs no warning of its own.
        if caller.rules.max_wait > WINDOW && caller.rules.max_wait != config.defaults.max_wait {
            callers.key(name).warn("max_wait", MESSAGE);
        }
    }
    if config.retry.backoff.max > WINDOW {
        at.warn("retry.backoff.max", MESSAGE);
    }
}

/// Secrets that cross a network in the clear.
fn plain_http(config: &Config, at: &Location<'_>, own_address: fn(IpAddr) -> Option<IpAddr>) {
    let is_plain = |url: &http::Uri| url.scheme_str() == Some("http") && !is_on_loopback(url);
    if is_plain(&config.upstream.url) {
        at.warn(
            "upstream.url",
            "is plain HTTP to another host, so whoever is on the way reads the DevRev token and every answer; write https://",
        );
    }
    let spans = config.trace.otlp.as_ref();
    if spans.is_some_and(is_plain) && !config.trace.headers.is_empty() {
        at.warn(
            "trace.otlp",
            "is plain HTTP to another host, so whoever is on the way reads the secrets of trace.headers; write https://",
        );
    }
    let public = |address: SocketAddr| {
        let ip = match address.ip().is_unspecified() {
            true => own_address(address.ip())?,
            false => address.ip(),
        };
        is_public(ip).then_some(ip)
    };
    if let Address::Tcp(address) = config.listen.address
        && config.listen.tls.is_none()
        && let Some(ip) = public(address)
    {
        let message = format!(
            "is plain HTTP on a public address ({ip}), so whoever is on the way reads the credentials of callers; add listen.tls, or listen on a private address"
        );
        at.warn("listen.address", message);
    }
    if let Some(ip) = public(config.admin.address) {
        let message = format!(
            "is plain HTTP on a public address ({ip}), so whoever is on the way reads admin.key, and anyone sees who calls what; listen on a private address"
        );
        at.warn("admin.address", message);
    }
}

/// The address of this machine towards the public network, if it is on one. No packet is sent: to connect a UDP socket only looks for the
/// route.
fn own_address(any: IpAddr) -> Option<IpAddr> {
    // TEST-NET-3 and the documentation prefix of IPv6, which nobody has.
    let there: IpAddr = match any {
        IpAddr::V4(_) => Ipv4Addr::new(203, 0, 113, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((there, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The variable that names a proxy to other programs, if the file names none. Its value may hold a password.
fn unused_proxy(config: &Config, at: &Location<'_>) -> Option<&'static str> {
    const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    // What is on this machine needs no proxy.
    if config.upstream.proxy.is_some() || is_on_loopback(&config.upstream.url) {
        return None;
    }
    let is_set = |name: &&str| {
        at.context
            .env
            .and_then(|env| env.get(*name))
            .is_some_and(|value| !value.is_empty())
    };
    VARIABLES.into_iter().find(is_set)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::{from_toml, reading::Context},
        *,
    };

    const REST: &str = "[tokens.main]\nenv = \"T\"\n[callers.a]\nkey = { env = \"K\" }\n";

    fn load(more: &str) -> Config {
        let env = [("T", "token"), ("K", "7d8f1c0b9e34a256f7013c8ae92b645d")];
        let env: BTreeMap<_, _> = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        from_toml(&format!("{REST}{more}"), &env)
            .unwrap_or_else(|problems| panic!("{more}\n{problems}"))
    }

    /// One row for each kind: what the file has more, and the warning as a whole.
    #[test]
    fn each_probable_mistake_is_a_warning() {
        let window = "is longer than DevRev's window of 5 minutes, after which the whole quota is there again; write \"5m\" or less";
        for (more, want) in [
            ("max_wait = \"5m\"", String::new()),
            ("max_wait = \"30m\"", format!("callers.a.max_wait: \"30m\" {window}")),
            ("[defaults]\nmax_wait = \"301s\"", format!("defaults.max_wait: \"301s\" {window}")),
            ("[retry]\nbackoff = { max = \"1h\" }", format!("retry.backoff.max: \"1h\" {window}")),
            ("deny = [\"works.*\", \"work.delete\"]", "callers.a.deny[1]: \"work.delete\" matches no known operation of DevRev, so it may do nothing; did you mean `works.delete`?".into()),
            ("allow = [\"Rev-User.*\"]", "callers.a.allow[0]: \"rev-user.*\" matches no known operation of DevRev, so it may do nothing; did you mean `rev-users.*`?".into()),
            ("deny = \"works.get,newer.thing\"", "callers.a.deny: \"newer.thing\" matches no known operation of DevRev, so it may do nothing; correct it, unless it is newer than this revgate".into()),
            ("[defaults]\ndeny = [\"works.delte\"]", "defaults.deny[0]: \"works.delte\" matches no known operation of DevRev, so it may do nothing; did you mean `works.delete`?".into()),
            ("[[rewrite]]\noperations = [\"rev-users.lnk\"]\nrename = { a = \"b\" }", "rewrite[0].operations[0]: \"rev-users.lnk\" matches no known operation of DevRev, so it may do nothing; did you mean `rev-users.link`?".into()),
            ("[upstream]\nurl = \"http://devrev.internal:8081\"", "upstream.url: \"http://devrev.internal:8081\" is plain HTTP to another host, so whoever is on the way reads the DevRev token and every answer; write https://".into()),
            ("[upstream]\nurl = \"http://127.0.0.1:8081\"", String::new()),
            ("[trace]\notlp = \"http://collector:4318\"", String::new()),
            ("[trace]\notlp = \"http://collector:4318\"\nheaders = { x-key = { env = \"T\" } }", "trace.otlp: \"http://collector:4318\" is plain HTTP to another host, so whoever is on the way reads the secrets of trace.headers; write https://".into()),
            ("[listen]\naddress = \"8.8.8.8:80\"", "listen.address: \"8.8.8.8:80\" is plain HTTP on a public address (8.8.8.8), so whoever is on the way reads the credentials of callers; add listen.tls, or listen on a private address".into()),
            ("[listen]\naddress = \"10.0.0.1:80\"", String::new()),
            ("[admin]\naddress = \"8.8.8.8:80\"\nkey = { env = \"K\" }", "admin.address: \"8.8.8.8:80\" is plain HTTP on a public address (8.8.8.8), so whoever is on the way reads admin.key, and anyone sees who calls what; listen on a private address".into()),
        ] {
            let warnings: Vec<_> = load(more).warnings.iter().map(ToString::to_string).collect();
            assert_eq!(warnings.join("\n"), want, "{more}");
        }
    }

    #[test]
    fn warnings_are_in_the_order_of_the_file() {
        let config =
            load("max_wait = \"30m\"\ndeny = [\"work.*\"]\n[upstream]\nurl = \"http://h\"\n");
        let lines: Vec<_> = config
            .warnings
            .iter()
            .map(|warning| warning.place().1.unwrap().line)
            .collect();
        assert_eq!(lines, [5, 6, 8]);
    }

    #[test]
    fn all_addresses_of_a_machine_are_public_if_its_own_is() {
        for (address, own, warns) in [
            ("0.0.0.0:80", Some("8.8.8.8"), true),
            ("0.0.0.0:80", Some("10.1.2.3"), false),
            ("0.0.0.0:80", None, false),
            ("[::]:80", Some("2600::1"), true),
            ("127.0.0.1:80", Some("8.8.8.8"), false),
        ] {
            let config = load(&format!("[listen]\naddress = \"{address}\""));
            let context = Context::default();
            let own: Option<IpAddr> = own.map(|own| own.parse().unwrap());
            let look = match own {
                Some(IpAddr::V4(ip)) if ip == Ipv4Addr::new(8, 8, 8, 8) => {
                    |_| Some(Ipv4Addr::new(8, 8, 8, 8).into())
                }
                Some(IpAddr::V4(_)) => |_| Some(Ipv4Addr::new(10, 1, 2, 3).into()),
                Some(IpAddr::V6(_)) => |_| Some(Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 1).into()),
                None => |_| None,
            };
            plain_http(&config, &context.root(), look);
            let warned = context.warnings.take();
            assert_eq!(
                warned.iter().any(|w| w.path == "listen.address"),
                warns,
                "{address} {own:?}"
            );
        }
        // Whatever this machine's is, there is one answer.
        assert_eq!(
            own_address(Ipv4Addr::UNSPECIFIED.into()),
            own_address(Ipv4Addr::UNSPECIFIED.into())
        );
    }
}
