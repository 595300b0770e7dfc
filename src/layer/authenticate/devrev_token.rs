//! Callers that bring a DevRev token of their own.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use sha2::{Digest, Sha256};

use super::Identity;
use crate::{
    error::Error,
    policy::{access::Access, fair::Share, token},
    types::{Caller, OwnToken},
};

/// What holds for a caller that is known by its token alone.
pub struct Rules {
    pub share: Share,
    pub access: Access,
    pub max_wait: Duration,
    pub enforce: bool,
}

impl Rules {
    pub(super) fn identify(&self, token: &[u8], now: SystemTime) -> Result<Identity, Error> {
        check_shape(token, now)?;
        let mut header = HeaderValue::try_from([b"Bearer ", token].concat())
            .map_err(|_| Error::UnknownCredential)?;
        header.set_sensitive(true);
        let hash: [u8; 32] = Sha256::digest(token).into();
        let caller = Caller {
            name: self.share.caller.clone(),
            token: None,
            // Sixteen bytes of the hash: as good as unique, and of no use for guessing the token.
            group: URL_SAFE_NO_PAD.encode(&hash[..16]).into(),
            share: self.share.clone(),
            access: self.access.clone(),
            max_wait: self.max_wait,
            enforce: self.enforce,
        };
        Ok(Identity {
            caller: Arc::new(caller),
            own: Some(OwnToken { header, hash }),
        })
    }
}

/// The shape and `exp`; the rest is for DevRev to say.
fn check_shape(token: &[u8], now: SystemTime) -> Result<(), Error> {
    let claims = token::claims(token).ok_or(Error::UnknownCredential)?;
    let now = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    match claims.get("exp") {
        None => Ok(()),
        Some(exp) => match exp.as_f64() {
            Some(exp) if exp > now => Ok(()),
            Some(_) => Err(Error::ExpiredCredential),
            None => Err(Error::UnknownCredential),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &str) -> Vec<u8> {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)).into_bytes()
    }

    #[test]
    fn a_token_is_read_for_shape_and_expiry_only() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert!(check_shape(&jwt("{}"), now).is_ok());
        assert!(check_shape(&jwt(r#"{"exp":1001}"#), now).is_ok());
        assert!(matches!(
            check_shape(&jwt(r#"{"exp":1000}"#), now),
            Err(Error::ExpiredCredential)
        ));
        for bad in [&b"opaque"[..], b"a.b", b"a.b.c.d", b"e30.!!!!.x", b".."] {
            assert!(
                matches!(check_shape(bad, now), Err(Error::UnknownCredential)),
                "{bad:?}"
            );
        }
    }
}
