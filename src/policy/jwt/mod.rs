//! JWTs of the operator's issuer (RFC 7515, RFC 7519; pitfalls in RFC 8725): what counts as one, and whether it is good.
//! Nothing that a token says chooses how it is checked: algorithms come from the key, keys come from the issuer's set, and
//! `jku`, `x5u`, `jwk` and `x5c` are not read.

mod claims;
mod fetch_schedule;
mod key_set;
/// Shared with the end-to-end tests, which cannot see what this crate compiles for its own tests.
#[cfg(test)]
#[path = "../../../tests/e2e/signer.rs"]
pub(crate) mod signer;
#[cfg(test)]
mod tests;

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use self::claims::Claims;
pub use self::{
    fetch_schedule::{FetchDecision, FetchSchedule, RETRY_AFTER_FAILURE, freshness},
    key_set::{Algorithm, KeySet, KeySetFault, MAX_KEYS},
};
use crate::label::label_enum;

/// Tokens of issuers have 1 to 2 KiB. This leaves room for many group claims, and bounds what an unauthenticated client can
/// have parsed and hashed.
pub const MAX_TOKEN: usize = 16 << 10;

/// Real key ids are shorter. Bounds what goes into the log.
const MAX_KID: usize = 256;

/// Tolerance for clock skew. Synchronised clocks differ by seconds, and the shortest token that Kubernetes makes lives ten
/// minutes, so this prolongs none by much.
pub const LEEWAY: Duration = Duration::from_secs(30);

label_enum! {
/// Why a token was refused. The answer to the client does not say it.
#[derive(thiserror::Error)]
pub enum Fault {
    #[error("larger than {MAX_TOKEN} bytes")]
    TooLarge = "jwt_too_large",
    #[error("not a well-formed token")]
    Malformed = "jwt_malformed",
    #[error("its `crit` asks for an extension that is not understood")]
    Critical = "jwt_critical",
    #[error("its algorithm is not one of the key's")]
    Algorithm = "jwt_algorithm",
    #[error("no key set of the issuer is known yet")]
    NoKeys = "jwt_no_keys",
    #[error("its `kid` is not in the issuer's key set")]
    UnknownKid = "jwt_unknown_kid",
    #[error("the signature does not fit")]
    BadSignature = "jwt_bad_signature",
    #[error("`iss` is not auth.jwt.issuer")]
    WrongIssuer = "jwt_wrong_issuer",
    #[error("`aud` does not hold auth.jwt.audience")]
    WrongAudience = "jwt_wrong_audience",
    #[error("`exp` is missing")]
    NoExpiry = "jwt_no_expiry",
    #[error("`exp` has passed")]
    Expired = "jwt_expired",
    #[error("`nbf` is yet to come")]
    NotYetValid = "jwt_not_yet_valid",
    #[error("`sub` is no caller's jwt_subject")]
    UnknownSubject = "jwt_unknown_subject",
}
}

/// What a good token must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub issuer: String,
    pub audience: String,
}

/// Whether a credential is to be parsed as a token: three parts of base64url, the first a JSON object with `alg`. If it is too
/// large to decode, the number of dots decides.
pub fn looks_like_jwt(credential: &[u8]) -> bool {
    let parts: Vec<&[u8]> = credential.splitn(4, |byte| *byte == b'.').collect();
    let [header, claims, signature] = parts[..] else {
        return false;
    };
    if credential.len() > MAX_TOKEN {
        return true;
    }
    let url_safe = |part: &[u8]| {
        part.iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    url_safe(claims)
        && url_safe(signature)
        && object(header).is_some_and(|header| header.contains_key("alg"))
}

/// A parsed token. Nothing of it is verified yet.
pub struct Token {
    algorithm: Algorithm,
    kid: Option<String>,
    claims: Claims,
    signed: Vec<u8>,
    signature: Vec<u8>,
}

impl Token {
    /// # Errors
    /// When it is no token, or no key could verify it.
    pub fn parse(credential: &[u8]) -> Result<Token, Fault> {
        if credential.len() > MAX_TOKEN {
            return Err(Fault::TooLarge);
        }
        let parts: Vec<&[u8]> = credential.splitn(4, |byte| *byte == b'.').collect();
        let [header, claims, signature] = parts[..] else {
            return Err(Fault::Malformed);
        };
        let signed = &credential[..header.len() + 1 + claims.len()];
        let header = object(header).ok_or(Fault::Malformed)?;
        let claims = object(claims).ok_or(Fault::Malformed)?;
        // RFC 7515 section 4.1.11: an extension that is not understood must be refused, and none is understood.
        if header.contains_key("crit") {
            return Err(Fault::Critical);
        }
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= MAX_KID => Some(kid.clone()),
            Some(_) => return Err(Fault::Malformed),
        };
        let algorithm = match header.get("alg") {
            // "none" and HS* are no `Algorithm`, so no key can ever be used with them.
            Some(Value::String(name)) => Algorithm::from_name(name).ok_or(Fault::Algorithm)?,
            _ => return Err(Fault::Malformed),
        };
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| Fault::Malformed)?;
        Ok(Token {
            algorithm,
            // An empty `kid` counts as none.
            kid: kid.filter(|kid| !kid.is_empty()),
            claims: Claims::from(claims)?,
            signed: signed.to_vec(),
            signature,
        })
    }

    /// The key id that the token names, for look-up and log.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The issuer that the token names. Not verified.
    pub fn issuer(&self) -> &str {
        &self.claims.issuer
    }

    /// The subject according to the claims, without a check of the signature.
    ///
    /// # Errors
    /// When the claims alone suffice to refuse the token. `now` is since the epoch.
    pub fn unverified_subject(&self, expected: &Expected, now: Duration) -> Result<&str, Fault> {
        self.claims.check(expected, now)?;
        Ok(&self.claims.subject)
    }

    /// The subject, verified: the signature is the issuer's, and the claims hold.
    ///
    /// # Errors
    /// [`Fault::UnknownKid`] when a newer key set might help; else the token is bad. `now` is since the epoch.
    pub fn verify(&self, keys: &KeySet, expected: &Expected, now: Duration) -> Result<&str, Fault> {
        keys.verify(
            self.kid.as_deref(),
            self.algorithm,
            &self.signed,
            &self.signature,
        )?;
        self.unverified_subject(expected, now)
    }
}

/// A key that is given twice has its last value (RFC 7519 section 4). There is no second parser that could disagree.
fn object(part: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
