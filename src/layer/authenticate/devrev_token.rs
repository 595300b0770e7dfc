//! Callers that send a DevRev token of their own.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::HeaderValue;

use super::Identity;
use crate::{
    error::Error,
    hash::sha256,
    policy::token_claims,
    state::introspection::group_of,
    types::{Caller, CallerToken},
};

/// Without introspection: each token counts as a user of its own.
pub(super) fn identify(
    template: &Caller,
    token: &[u8],
    now: SystemTime,
) -> Result<Identity, Error> {
    check_shape(token, now)?;
    let caller_token = caller_token(token)?;
    let group = group_of(&caller_token.hash);
    Ok(identity(template, caller_token, group))
}

pub(super) fn identity(template: &Caller, caller_token: CallerToken, group: Arc<str>) -> Identity {
    Identity {
        caller: caller(template, group),
        caller_token: Some(caller_token),
        verdict: None,
    }
}

/// The caller of a token of this group.
pub(super) fn caller(template: &Caller, group: Arc<str>) -> Arc<Caller> {
    Arc::new(Caller {
        group,
        ..template.clone()
    })
}

/// The token as `Authorization` carries it to DevRev.
pub(super) fn header_of(token: &[u8]) -> Result<HeaderValue, Error> {
    let mut header = HeaderValue::try_from([b"Bearer ", token].concat())
        .map_err(|_| Error::UnknownCredential)?;
    header.set_sensitive(true);
    Ok(header)
}

/// A token whose user is not known, so that its own hash keys the rate limit.
pub(super) fn caller_token(token: &[u8]) -> Result<CallerToken, Error> {
    Ok(CallerToken {
        header: header_of(token)?,
        hash: sha256(token),
    })
}

/// DevRev's tokens are JWTs whose keys are not published, so only the shape and `exp` can be checked, not the signature.
/// Returns the time left until `exp`, if there is one.
pub(super) fn check_shape(token: &[u8], now: SystemTime) -> Result<Option<Duration>, Error> {
    let claims = token_claims::claims(token).ok_or(Error::UnknownCredential)?;
    let now = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    match claims.get("exp") {
        None => Ok(None),
        Some(exp) => match exp.as_f64() {
            // `None` for a time too long for a `Duration`, which is as good as no expiry.
            Some(exp) if exp > now => Ok(Duration::try_from_secs_f64(exp - now).ok()),
            Some(_) => Err(Error::ExpiredCredential),
            None => Err(Error::UnknownCredential),
        },
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

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
