//! Where the register is, as `shared.redis` says it.
//!
//! ```text
//! redis://[user:password@]host[:port][/database]                one server; rediss:// with TLS
//! unix:/path[?db=database]                                      one server; unix://user:password@/path with credentials
//! redis+sentinel://[user:password@]host[:port],…/name[/database]
//!     [?sentinel_user=…&sentinel_password=…]                    the primary that Sentinel calls so; rediss+sentinel:// with TLS to all
//! redis+cluster://[user:password@]host[:port],…                 any nodes of a cluster; rediss+cluster:// with TLS
//! ```
//!
//! The text holds a password, which may stand in a wrong place. So no problem quotes any of it.

mod parse;

use std::{fmt, path::Path, sync::Arc};

use secrecy::SecretString;

pub use self::parse::parse;

/// What the text says.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub kind: Kind,
    /// At least one, and for one server no more.
    pub addresses: Vec<Address>,
    pub tls: bool,
    /// Zero in a cluster, which has no other.
    pub database: u32,
    /// For the servers that hold values.
    pub credentials: Option<Credentials>,
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// One server.
    Single,
    /// The addresses are those of Sentinel, which names the primary.
    Sentinel {
        master: Arc<str>,
        credentials: Option<Credentials>,
    },
    /// The addresses are those of any nodes.
    Cluster,
}

#[derive(Clone, Debug)]
pub struct Credentials {
    /// `None` is the user "default".
    pub user: Option<Arc<str>>,
    pub password: SecretString,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// The host is a name or an address, without brackets.
    Tcp {
        host: Arc<str>,
        port: u16,
    },
    Unix(Arc<Path>),
}

/// Without the credentials.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Whether what is sent there stays on this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Unix(_) => true,
            Address::Tcp { host, .. } => match host.parse::<std::net::IpAddr>() {
                Ok(address) => address.is_loopback(),
                Err(_) => &**host == "localhost",
            },
        }
    }
}

impl Endpoint {
    /// Whether a password is sent to any of its servers.
    pub fn has_password(&self) -> bool {
        let of_sentinel = match &self.kind {
            Kind::Sentinel { credentials, .. } => credentials.as_ref(),
            Kind::Single | Kind::Cluster => None,
        };
        self.credentials.as_ref().or(of_sentinel).is_some()
    }
}

/// Without the credentials.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (&self.kind, self.tls) {
            (Kind::Single, false) => "redis",
            (Kind::Single, true) => "rediss",
            (Kind::Sentinel { .. }, false) => "redis+sentinel",
            (Kind::Sentinel { .. }, true) => "rediss+sentinel",
            (Kind::Cluster, false) => "redis+cluster",
            (Kind::Cluster, true) => "rediss+cluster",
        };
        for (at, address) in self.addresses.iter().enumerate() {
            match address {
                Address::Unix(_) => {}
                Address::Tcp { .. } if at == 0 => write!(f, "{scheme}://")?,
                Address::Tcp { .. } => write!(f, ",")?,
            }
            write!(f, "{address}")?;
        }
        if let Kind::Sentinel { master, .. } = &self.kind {
            write!(f, "/{master}")?;
        }
        match (self.database, self.addresses.first()) {
            (0, _) => Ok(()),
            (database, Some(Address::Unix(_))) => write!(f, "?db={database}"),
            (database, _) => write!(f, "/{database}"),
        }
    }
}

/// What is wrong with the text. It never quotes the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressProblem {
    #[error(
        "must begin with redis://, rediss://, unix:, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"
    )]
    Scheme,
    #[error(
        "has more than one `@`, or one behind the addresses; in a user or password write `@` as %40, `/` as %2F, `?` as %3F and `#` as %23"
    )]
    At,
    #[error(
        "has a user without a password; write user:password@, or :password@ for the default user"
    )]
    NoPassword,
    #[error(
        "has a `%` that is not followed by two hexadecimal digits, or bytes that are no UTF-8; write `%` as %25"
    )]
    Percent,
    #[error("has an address without a host")]
    NoHost,
    #[error("has a host that is no name and no address; write an IPv6 address in brackets")]
    Host,
    #[error("has a port that is not a number from 1 to 65535")]
    Port,
    #[error(
        "has several addresses, but names one server; write redis+sentinel:// or redis+cluster:// if they belong together"
    )]
    Several,
    #[error("has more than {MAX_ADDRESSES} addresses; a few suffice to find the others")]
    TooMany,
    #[error("has a database that is not a number from 0 to {MAX_DATABASE}")]
    Database,
    #[error("has a database, but a cluster has none but 0")]
    DatabaseOfCluster,
    #[error("lacks the name of the primary; write redis+sentinel://host:port,host:port/name")]
    NoMaster,
    #[error(
        "has a name of the primary with other characters than letters, digits, `.`, `-` and `_`"
    )]
    Master,
    #[error("has something behind the database")]
    Path,
    #[error(
        "has a parameter behind `?` that is not known; unix: has db, redis+sentinel:// has sentinel_user and sentinel_password"
    )]
    Parameter,
    #[error("has a `#`; in a password write it as %23")]
    Fragment,
    #[error("has a path of a socket that is not absolute")]
    Relative,
    #[error(
        "has a path of a socket that is longer than {MAX_UNIX} bytes, which is all that the system takes"
    )]
    LongPath,
}

/// More are a mistake, and each is one that may be asked in vain.
const MAX_ADDRESSES: usize = 32;

/// The bytes of `sun_path` on Linux, without the final zero.
const MAX_UNIX: usize = 107;

/// Redis numbers its databases by an `int`.
const MAX_DATABASE: u32 = i32::MAX as u32;

/// Of a DNS name.
const MAX_HOST: usize = 253;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    fn shown(text: &str) -> String {
        let endpoint = parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        let login = |credentials: &Option<Credentials>| match credentials {
            None => String::new(),
            Some(Credentials { user, password }) => format!(
                " as {}:{}",
                user.as_deref().unwrap_or("-"),
                password.expose_secret()
            ),
        };
        let sentinel = match &endpoint.kind {
            Kind::Sentinel { credentials, .. } => login(credentials),
            Kind::Single | Kind::Cluster => String::new(),
        };
        format!("{endpoint}{}{sentinel}", login(&endpoint.credentials))
    }

    #[test]
    fn what_is_taken() {
        for (text, want) in [
            ("redis://h", "redis://h:6379"),
            ("REDIS://h/", "redis://h:6379"),
            ("redis://h:1/3", "redis://h:1/3"),
            (
                "rediss://redis.example.com",
                "rediss://redis.example.com:6379",
            ),
            ("redis://127.0.0.1:65535", "redis://127.0.0.1:65535"),
            ("redis://[::1]:7", "redis://[::1]:7"),
            ("redis://[0:0::1]", "redis://[::1]:6379"),
            ("redis://:p@h", "redis://h:6379 as -:p"),
            ("redis://u:p:q@h", "redis://h:6379 as u:p:q"),
            ("redis://%75:%40%2f%25@h", "redis://h:6379 as u:@/%"),
            ("unix:/run/redis.sock", "unix:/run/redis.sock"),
            ("unix:///run/redis.sock?db=2", "unix:/run/redis.sock?db=2"),
            ("unix://u:p@/r%20s", "unix:/r s as u:p"),
            (
                "redis+sentinel://a,b:1/main",
                "redis+sentinel://a:26379,b:1/main",
            ),
            (
                "rediss+sentinel://u:p@a/main/4?sentinel_password=s&sentinel_user=t",
                "rediss+sentinel://a:26379/main/4 as u:p as t:s",
            ),
            (
                "redis+cluster://u:p@a,[::2]:3/0",
                "redis+cluster://a:6379,[::2]:3 as u:p",
            ),
            ("rediss+cluster://a", "rediss+cluster://a:6379"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_refused() {
        use AddressProblem as P;
        for (text, want) in [
            ("", P::Scheme),
            ("h:6379", P::Scheme),
            ("http://h", P::Scheme),
            ("redis:h", P::Scheme),
            ("redis+x://h", P::Scheme),
            ("redisss://h", P::Scheme),
            ("redis://u:a@b@h", P::At),
            ("redis://u:a/b@h", P::At),
            ("redis://u:a?b@h", P::At),
            ("redis://u@h", P::NoPassword),
            ("redis://u:@h", P::NoPassword),
            ("redis://u:%@h", P::Percent),
            ("redis://u:%4@h", P::Percent),
            ("redis://u:%ff@h", P::Percent),
            ("redis://", P::NoHost),
            ("redis://:1", P::NoHost),
            ("redis+cluster://a,,b", P::NoHost),
            ("redis://::1", P::Host),
            ("redis://[::1", P::Host),
            ("redis://[::1]x", P::Host),
            ("redis://[h]", P::Host),
            ("redis://a b", P::Host),
            ("redis://a..b", P::Host),
            ("redis://h:0", P::Port),
            ("redis://h:65536", P::Port),
            ("redis://h:+1", P::Port),
            ("redis://h:", P::Port),
            ("redis://a,b", P::Several),
            ("redis://h/x", P::Database),
            ("redis://h/-1", P::Database),
            ("redis://h/99999999999", P::Database),
            ("redis://h/0/1", P::Path),
            ("redis://h?db=1", P::Parameter),
            ("redis://h#x", P::Fragment),
            ("redis+cluster://h/1", P::DatabaseOfCluster),
            ("redis+sentinel://h", P::NoMaster),
            ("redis+sentinel://h/", P::NoMaster),
            ("redis+sentinel://h/a b", P::Master),
            ("redis+sentinel://h/m?sentinel_user=u", P::NoPassword),
            ("redis+sentinel://h/m?x=y", P::Parameter),
            (
                "redis+sentinel://h/m?sentinel_password=a&sentinel_password=b",
                P::Parameter,
            ),
            ("unix:run", P::Relative),
            ("unix://host/run", P::Relative),
            ("unix:u:p@/run", P::At),
            ("unix:/run?x=1", P::Parameter),
            ("unix:/run?db=", P::Database),
        ] {
            assert_eq!(parse(text).err(), Some(want), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(MAX_UNIX));
        assert_eq!(parse(&long).err(), Some(P::LongPath));
        let many = format!("redis+cluster://{}h", "h,".repeat(MAX_ADDRESSES));
        assert_eq!(parse(&many).err(), Some(P::TooMany));
    }

    #[test]
    fn local_is_what_stays_on_the_machine() {
        for (text, want) in [
            ("unix:/run", true),
            ("redis://localhost", true),
            ("redis://127.1.2.3", true),
            ("redis://[::1]", true),
            ("redis://10.0.0.1", false),
            ("redis://localhost.example.com", false),
        ] {
            let endpoint = parse(text).unwrap();
            assert_eq!(endpoint.addresses[0].is_local(), want, "{text}");
        }
    }

    proptest! {
        /// Wherever the password breaks off, neither the problem nor what is shown of the endpoint holds it.
        #[test]
        fn the_password_is_never_shown(
            scheme in "rediss?(\\+(sentinel|cluster))?://|unix://|unix:|[a-z:/]{0,8}",
            noise in "[a-z0-9:/@%?#,\\[\\]]{0,6}",
            tail in "[a-z0-9:/@%?#,.\\[\\]]{0,12}",
        ) {
            let text = format!("{scheme}u:{noise}S3CR3T{noise}@{tail}");
            match parse(&text) {
                Err(problem) => {
                    let said = format!("{problem} {problem:?}");
                    prop_assert!(!said.contains("S3CR3T"), "{}", text);
                }
                Ok(endpoint) => {
                    let said = format!("{endpoint} {endpoint:?}");
                    prop_assert!(!said.contains("S3CR3T"), "{}", text);
                }
            }
        }

        #[test]
        fn nothing_makes_it_panic(text in "\\PC{0,60}") {
            let _ = parse(&text);
        }
    }
}
