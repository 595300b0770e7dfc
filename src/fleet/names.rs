//! Names of keys and channels. A group has one name for both.

use std::sync::Arc;

use crate::{
    fleet::register::Key,
    hash::{NameHash, hex},
    policy::fleet::FORM,
};

/// Bytes of the hash that a name has: enough that no two groups ever have the same.
const HASH: usize = 16;

const MAX_PREFIX: usize = 64;

/// Makes the names of one fleet.
#[derive(Clone)]
pub struct Names {
    prefix: Arc<str>,
    hashes: NameHash,
}

/// Whether a text may be `shared.prefix`: it has nothing that means something in an ACL rule, in a name with a hash tag, or in a shell.
pub fn is_prefix(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    (1..=MAX_PREFIX).contains(&text.len()) && text.chars().all(known)
}

impl Names {
    /// With a secret the hashes are keyed. That matters in mode "validate", where a group's name is the hash of a user's id, which can be
    /// guessed: who may list the keys could else find out who uses the gateway. All replicas need the same secret, or they do not meet.
    pub fn new(prefix: &str, secret: Option<&[u8]>) -> Names {
        Names {
            prefix: prefix.into(),
            hashes: NameHash::new(secret),
        }
    }

    /// The key and the channel of a group. The hash tag keeps what belongs to a group in one slot of a cluster.
    pub fn of_group(&self, group: &str) -> Key {
        let hash = &self.hashes.of(group)[..HASH];
        format!("{}:v{FORM}:{{{}}}", self.prefix, hex(hash)).into()
    }

    /// By which callers are named in a group's value too.
    pub(crate) fn hashes(&self) -> &NameHash {
        &self.hashes
    }

    /// A key that belongs to no group, by which a server is tried.
    pub fn of_probe(&self, id: u64) -> Key {
        format!("{}:v{FORM}:probe:{{{id:016x}}}", self.prefix).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::sha256;

    #[test]
    fn a_name_shows_its_form_and_hides_the_group() {
        let names = Names::new("revgate", None);
        let name = names.of_group("main");
        let hash = hex(&sha256(b"main")[..HASH]);
        assert_eq!(&*name, format!("revgate:v{FORM}:{{{hash}}}"));
        assert_eq!(name, Names::new("revgate", None).of_group("main"));
        assert_ne!(name, names.of_group("Main"));
        assert_ne!(name, Names::new("other", None).of_group("main"));
        let probe = format!("revgate:v{FORM}:probe:{{00000000000000ff}}");
        assert_eq!(&*names.of_probe(255), probe);
    }

    #[test]
    fn a_secret_changes_all_names() {
        let name = |secret: &[u8]| Names::new("p", Some(secret)).of_group("main");
        assert_eq!(name(b"a"), name(b"a"));
        assert_ne!(name(b"a"), name(b"b"));
        assert_ne!(name(b""), Names::new("p", None).of_group("main"));
    }

    #[test]
    fn prefixes() {
        for (text, want) in [
            ("revgate", true),
            ("team-a:revgate_2.x", true),
            ("", false),
            ("a b", false),
            ("a*", false),
            ("{a}", false),
            ("ä", false),
        ] {
            assert_eq!(is_prefix(text), want, "{text}");
        }
        assert!(!is_prefix(&"x".repeat(MAX_PREFIX + 1)));
    }
}
