//! Callers that prove themselves by a key, of which only the SHA-256 is kept.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use crate::{error::Error, hash::sha256, state::key_usage::Used, types::Caller};

/// Callers by the SHA-256 of their keys; one that rotates its key stands here twice.
#[derive(Default)]
pub struct Keys(pub HashMap<[u8; 32], Known>);

/// Whose key it is, and where its uses are counted.
pub struct Known {
    pub caller: Arc<Caller>,
    pub used: Arc<Used>,
}

impl Keys {
    /// A plain look-up by hash needs no constant-time comparison: how long it takes depends on the SHA-256 of what was sent,
    /// and whoever guesses at a key cannot choose that hash byte by byte. The map's own hash is seeded at random as well.
    pub(super) fn identify(&self, key: &[u8]) -> Result<Arc<Caller>, Error> {
        let Known { caller, used } = self.0.get(&sha256(key)).ok_or(Error::UnknownCredential)?;
        used.note(SystemTime::now());
        Ok(caller.clone())
    }
}
