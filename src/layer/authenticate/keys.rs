//! Callers that prove themselves by a key, of which only the SHA-256 is kept.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{error::Error, state::key_usage::Used, types::Caller};

/// Callers by the SHA-256 of their keys; one that rotates its key stands here twice.
#[derive(Default)]
pub struct Keys(pub HashMap<[u8; 32], Known>);

/// Whose key it is, and where its uses are counted.
pub struct Known {
    pub caller: Arc<Caller>,
    pub used: Arc<Used>,
}

impl Keys {
    pub(super) fn identify(&self, key: &[u8]) -> Result<Arc<Caller>, Error> {
        let hash: [u8; 32] = Sha256::digest(key).into();
        let (known, Known { caller, used }) = self
            .0
            .get_key_value(&hash)
            .ok_or(Error::UnknownCredential)?;
        if !bool::from(known.ct_eq(&hash)) {
            return Err(Error::UnknownCredential);
        }
        used.note(SystemTime::now());
        Ok(caller.clone())
    }
}
