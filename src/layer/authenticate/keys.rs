//! Callers that prove themselves by a key, of which only the SHA-256 is kept.

use std::{collections::HashMap, sync::Arc};

use crate::{error::Error, hash::sha256, state::key_usage::KeyUse, types::Caller, wall_clock};

/// Callers by the SHA-256 of their keys. A caller that rotates its key has two.
#[derive(Default)]
pub(crate) struct Keys(pub HashMap<[u8; 32], KnownKey>);

/// The caller of a key, and the counters of the key's use.
pub(crate) struct KnownKey {
    pub caller: Arc<Caller>,
    pub usage: Arc<KeyUse>,
}

impl Keys {
    /// A plain look-up by hash needs no constant-time comparison. Its time depends on the SHA-256 of what was sent, which an
    /// attacker cannot choose byte by byte, and the map's own hash has a random seed.
    pub(super) fn identify(&self, key: &[u8]) -> Result<Arc<Caller>, Error> {
        let known = self.0.get(&sha256(key)).ok_or(Error::UnknownCredential)?;
        known.usage.count(wall_clock::now());
        Ok(known.caller.clone())
    }
}
