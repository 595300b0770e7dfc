//! Callers that prove themselves by a key, of which only the SHA-256 is kept.

use std::{collections::HashMap, sync::Arc};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{error::Error, types::Caller};

/// Callers by the SHA-256 of their keys.
#[derive(Default)]
pub struct Keys(pub HashMap<[u8; 32], Arc<Caller>>);

impl Keys {
    pub(super) fn identify(&self, key: &[u8]) -> Result<Arc<Caller>, Error> {
        let hash: [u8; 32] = Sha256::digest(key).into();
        let (known, caller) = self
            .0
            .get_key_value(&hash)
            .ok_or(Error::UnknownCredential)?;
        if !bool::from(known.ct_eq(&hash)) {
            return Err(Error::UnknownCredential);
        }
        Ok(caller.clone())
    }
}
