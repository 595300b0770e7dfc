//! Callers that bring a DevRev token of their own.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;

use super::Identity;
use crate::{
    error::Error,
    hash::sha256,
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
    /// Without asking anybody: each token counts as a user of its own.
    pub(super) fn identify(&self, token: &[u8], now: SystemTime) -> Result<Identity, Error> {
        check_shape(token, now)?;
        let own = own(token)?;
        let group = group_of(&own.hash);
        Ok(self.identity(own, group))
    }

    pub(super) fn identity(&self, own: OwnToken, group: Arc<str>) -> Identity {
        Identity {
            caller: self.caller(group),
            own: Some(own),
        }
    }

    pub(super) fn caller(&self, group: Arc<str>) -> Arc<Caller> {
        Arc::new(Caller {
            name: self.share.caller.clone(),
            token: None,
            group,
            share: self.share.clone(),
            access: self.access.clone(),
            max_wait: self.max_wait,
            enforce: self.enforce,
        })
    }
}

/// The token as it is forwarded.
pub(super) fn header_of(token: &[u8]) -> Result<HeaderValue, Error> {
    let mut header = HeaderValue::try_from([b"Bearer ", token].concat())
        .map_err(|_| Error::UnknownCredential)?;
    header.set_sensitive(true);
    Ok(header)
}

/// The same, with a rate of its own.
pub(super) fn own(token: &[u8]) -> Result<OwnToken, Error> {
    Ok(OwnToken {
        header: header_of(token)?,
        hash: sha256(token),
    })
}

/// The quota group of a token whose user is not known. Sixteen bytes of the hash: as good as unique, and of no use for
/// guessing the token.
pub(super) fn group_of(hash: &[u8; 32]) -> Arc<str> {
    URL_SAFE_NO_PAD.encode(&hash[..16]).into()
}

/// DevRev's tokens are JWTs whose keys are not published: the shape and `exp` can be read, nothing verified. Tells how
/// long the token lasts, if it says so.
pub(super) fn check_shape(token: &[u8], now: SystemTime) -> Result<Option<Duration>, Error> {
    let claims = token::claims(token).ok_or(Error::UnknownCredential)?;
    let now = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    match claims.get("exp") {
        None => Ok(None),
        Some(exp) => match exp.as_f64() {
            // What does not fit is very long.
            Some(exp) if exp > now => Ok(Duration::try_from_secs_f64(exp - now).ok()),
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
        let left = |claims: &str| check_shape(&jwt(claims), now).expect("well-formed");
        assert_eq!(left("{}"), None);
        assert_eq!(left(r#"{"exp":1001}"#), Some(Duration::from_secs(1)));
        assert_eq!(left(r#"{"exp":1e300}"#), None);
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
