//! SHA-256, from the library that TLS uses as well, and hashes as text.

use aws_lc_rs::{
    digest::{SHA256, SHA256_OUTPUT_LEN, digest},
    hmac::{self, HMAC_SHA256},
};

/// The SHA-256 of `data`.
pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest(&SHA256, data).as_ref());
    hash
}

/// As lower-case hexadecimal digits.
pub(crate) fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes names of which a fleet's register must not tell. All replicas need the same secret, or they do not meet.
#[derive(Clone, Default)]
pub struct NameHash {
    key: Option<hmac::Key>,
}

impl NameHash {
    /// With a secret the hashes are keyed, so that who can guess names cannot look whether they are there.
    pub(crate) fn new(secret: Option<&[u8]>) -> NameHash {
        NameHash {
            key: secret.map(|secret| hmac::Key::new(HMAC_SHA256, secret)),
        }
    }

    pub(crate) fn of(&self, name: &str) -> [u8; 32] {
        let Some(key) = &self.key else {
            return sha256(name.as_bytes());
        };
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(hmac::sign(key, name.as_bytes()).as_ref());
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_changes_the_hash_of_a_name() {
        let keyed = |secret| NameHash::new(Some(secret)).of("billing");
        assert_eq!(NameHash::new(None).of("billing"), sha256(b"billing"));
        assert_eq!(keyed(b"one"), keyed(b"one"));
        assert_ne!(keyed(b"one"), keyed(b"two"));
        assert_ne!(keyed(b"one"), sha256(b"billing"));
    }

    #[test]
    fn matches_the_standard() {
        // FIPS 180-4, the example of one block.
        assert_eq!(sha256(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(sha256(b"abc")[28..], [0xf2, 0x00, 0x15, 0xad]);
    }
}
