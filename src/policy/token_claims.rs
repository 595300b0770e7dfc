//! The claims of DevRev tokens. The tokens are JWTs whose keys are not published, so the claims can be read and not verified.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::label::label_enum;

/// How long before its expiry a token causes a warning, in seconds: a day, so that it is seen during working hours.
const NOTICE: f64 = 24.0 * 60.0 * 60.0;

/// The claims, unverified; `None` if the token is no JWT.
pub fn claims(token: &[u8]) -> Option<Map<String, Value>> {
    let parts: Vec<&[u8]> = token.split(|byte| *byte == b'.').collect();
    let [_, claims, _] = parts[..] else {
        return None;
    };
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

/// `exp` (RFC 7519 section 4.1.4) in epoch seconds; `None` if the token is no JWT or has none. For display only: DevRev decides
/// whether a token is good.
pub fn expires_at(token: &[u8]) -> Option<f64> {
    let expires = claims(token)?.get("exp")?.as_f64()?;
    (expires.is_finite() && expires >= 0.0).then_some(expires)
}

label_enum! {
    /// How close a token is to its expiry, by its `exp`.
    pub enum Expiry {
        /// It has no `exp` that can be read.
        Unknown = "unknown",
        Expired = "expired",
        /// Within a day.
        Soon = "expires_soon",
        Valid = "valid",
    }
}

impl Expiry {
    /// Of a token with this `exp`. Both times are in epoch seconds.
    pub fn at(expires_at: Option<f64>, now: f64) -> Expiry {
        match expires_at {
            None => Expiry::Unknown,
            Some(at) if at <= now => Expiry::Expired,
            Some(at) if at <= now + NOTICE => Expiry::Soon,
            Some(_) => Expiry::Valid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::assert_labels;

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn states_are_called_as_the_admins_json_calls_them() {
        assert_labels!(Expiry: "unknown" "expired" "expires_soon" "valid");
    }

    #[test]
    fn reads_exp_of_a_jwt_alone() {
        assert_eq!(
            expires_at(jwt(r#"{"exp":1800000000}"#).as_bytes()),
            Some(1.8e9)
        );
        for none in [
            jwt("{}"),
            jwt(r#"{"exp":"soon"}"#),
            jwt(r#"{"exp":-1}"#),
            jwt(r#"[{"exp":1}]"#),
            jwt("nonsense"),
            "opaque".into(),
            "a.b.c".into(),
            format!("{}.d", jwt(r#"{"exp":1}"#)),
            String::new(),
        ] {
            assert_eq!(expires_at(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn a_day_ahead_is_soon() {
        for (at, want) in [
            (None, "unknown"),
            (Some(1000.0), "expired"),
            (Some(1001.0), "expires_soon"),
            (Some(1000.0 + NOTICE), "expires_soon"),
            (Some(1001.0 + NOTICE), "valid"),
        ] {
            assert_eq!(Expiry::at(at, 1000.0).label(), want);
        }
    }
}
