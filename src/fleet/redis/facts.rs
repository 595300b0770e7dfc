//! What a server says of itself.

use std::fmt;

use redis::Value;

use super::address::Kind;

/// From the answer to HELLO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Server {
    name: String,
    version: String,
    mode: String,
    role: String,
}

/// Such as "Redis 7.0.15, a primary".
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &*self.name {
            "redis" => "Redis",
            "valkey" => "Valkey",
            other => other,
        };
        let role = match self.is_primary() {
            true => "a primary",
            false => "a replica",
        };
        let within = match &*self.mode {
            "cluster" => " in a cluster",
            _ => "",
        };
        write!(f, "{name} {}, {role}{within}", self.version)
    }
}

/// The most characters of a server's word about itself. More than all that are known.
const WORD: usize = 40;

impl Server {
    pub(super) fn of(hello: &Value) -> Server {
        let mut server = Server::default();
        let Value::Map(pairs) = hello else {
            return server;
        };
        for (key, value) in pairs {
            let (Some(key), Some(value)) = (text(key), text(value)) else {
                continue;
            };
            let value = word(value);
            match key {
                "server" => server.name = value,
                "version" => server.version = value,
                "mode" => server.mode = value,
                "role" => server.role = value,
                _ => {}
            }
        }
        server
    }

    pub(super) fn is_primary(&self) -> bool {
        self.role == "master"
    }

    /// If it is of another kind than the URL says: what it is, and what to do.
    pub(super) fn of_another_kind(&self, kind: &Kind) -> Option<(&'static str, &'static str)> {
        match (&*self.mode, kind) {
            ("sentinel", _) => Some((
                "it is a Sentinel",
                "write redis+sentinel:// in shared.redis, with the name of the primary",
            )),
            ("cluster", Kind::Single | Kind::Sentinel { .. }) => Some((
                "it is a node of a cluster",
                "write redis+cluster:// in shared.redis, without a database",
            )),
            ("standalone", Kind::Cluster) => Some((
                "it is no node of a cluster",
                "write redis:// in shared.redis (with TLS rediss://)",
            )),
            _ => None,
        }
    }

    /// Whether it is a Redis before 6.2. Each Valkey is newer.
    pub(crate) fn is_old(&self) -> bool {
        let mut numbers = self.version.split('.').map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < (6, 2),
            _ => false,
        }
    }
}

/// What it does when its memory is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// It does not say, for this reason.
    Unknown(&'static str),
    /// It has no bound.
    Unlimited,
    Bounded {
        bytes: u64,
        policy: String,
    },
}

impl Memory {
    /// Of the answer to INFO memory.
    pub(super) fn of(info: &str) -> Memory {
        let find = |name: &str| {
            let mut lines = info.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(str::trim)
        };
        let bytes = find("maxmemory").and_then(|bytes| bytes.parse().ok());
        match (bytes, find("maxmemory_policy")) {
            (Some(0), _) => Memory::Unlimited,
            (Some(bytes), Some(policy)) => Memory::Bounded {
                bytes,
                policy: word(policy),
            },
            _ => Memory::Unknown("the server does not say in INFO memory"),
        }
    }
}

pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

/// It goes to a terminal, so nothing but one short word of it is shown.
fn word(text: &str) -> String {
    let shown = text
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c));
    shown.take(WORD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, version: &str, mode: &str, role: &str) -> Server {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let pairs = [
            ("server", name),
            ("version", version),
            ("mode", mode),
            ("role", role),
        ];
        let pairs = pairs.map(|(key, value)| (text(key), text(value)));
        let more = (text("proto"), Value::Int(3));
        Server::of(&Value::Map([&pairs[..], &[more]].concat()))
    }

    #[test]
    fn a_server_is_named() {
        for (given, want) in [
            (
                server("redis", "7.0.15", "standalone", "master"),
                "Redis 7.0.15, a primary",
            ),
            (
                server("valkey", "8.1.0", "cluster", "master"),
                "Valkey 8.1.0, a primary in a cluster",
            ),
            (
                server("redis", "6.2.0", "standalone", "replica"),
                "Redis 6.2.0, a replica",
            ),
            (
                server("x\u{1b}[31m\n", "1", "standalone", "master"),
                "x31m 1, a primary",
            ),
        ] {
            assert_eq!(given.to_string(), want);
        }
        let long = server(&"a".repeat(1000), "1", "", "");
        assert!(long.to_string().len() < 100, "{long}");
        assert_eq!(Server::of(&Value::Nil), Server::default());
    }

    #[test]
    fn a_server_that_is_not_the_one_meant_says_what_to_write() {
        let sentinel = Kind::Sentinel {
            master: "main".into(),
            credentials: None,
        };
        for (mode, kind, want) in [
            ("standalone", &Kind::Single, None),
            ("standalone", &sentinel, None),
            ("cluster", &Kind::Cluster, None),
            ("sentinel", &Kind::Single, Some("redis+sentinel://")),
            ("sentinel", &Kind::Cluster, Some("redis+sentinel://")),
            ("cluster", &Kind::Single, Some("redis+cluster://")),
            ("cluster", &sentinel, Some("redis+cluster://")),
            ("standalone", &Kind::Cluster, Some("redis://")),
        ] {
            let other = server("redis", "7.0.0", mode, "master").of_another_kind(kind);
            let scheme = other.and_then(|(_, advice)| advice.split(' ').nth(1));
            assert_eq!(scheme, want, "{mode} {kind:?}");
        }
    }

    #[test]
    fn an_old_server_is_known() {
        for (version, want) in [
            ("6.0.16", true),
            ("5.0.0", true),
            ("6.2.0", false),
            ("7.0.15", false),
            ("10.0.1", false),
            ("unstable", false),
            ("", false),
        ] {
            assert_eq!(server("redis", version, "", "").is_old(), want, "{version}");
        }
    }

    #[test]
    fn what_happens_when_memory_is_used_up_is_read() {
        let bounded = |policy: &str| Memory::Bounded {
            bytes: 1_048_576,
            policy: policy.to_owned(),
        };
        let unknown = Memory::Unknown("the server does not say in INFO memory");
        for (info, want) in [
            (
                "# Memory\r\nmaxmemory:0\r\nmaxmemory_human:0B\r\nmaxmemory_policy:allkeys-lru\r\n",
                Memory::Unlimited,
            ),
            (
                "maxmemory_policy:noeviction\r\nmaxmemory:1048576\r\n",
                bounded("noeviction"),
            ),
            (
                "maxmemory:1048576\nmaxmemory_policy:allkeys-lru",
                bounded("allkeys-lru"),
            ),
            ("maxmemory:1048576\n", unknown.clone()),
            (
                "maxmemory:x\nmaxmemory_policy:noeviction\n",
                unknown.clone(),
            ),
            ("", unknown),
        ] {
            assert_eq!(Memory::of(info), want, "{info}");
        }
    }
}
