//! The registered claims of a token (RFC 7519 section 4.1), and whether they are as expected.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{Expected, Fault, LEEWAY};

pub(super) struct Claims {
    pub issuer: String,
    pub subject: String,
    audience: Vec<String>,
    /// Seconds since the epoch, perhaps with a fraction (RFC 7519 section 2).
    expiry: Option<f64>,
    not_before: Option<f64>,
}

impl Claims {
    /// A claim of the wrong type makes the token malformed. A missing one is empty and matches nothing.
    pub(super) fn from(mut claims: Map<String, Value>) -> Result<Claims, Fault> {
        let mut text = |name| match claims.remove(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(Fault::Malformed),
        };
        let (issuer, subject) = (text("iss")?, text("sub")?);
        let audience = match claims.remove("aud") {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many
                .into_iter()
                .map(|one| match one {
                    Value::String(one) => Ok(one),
                    _ => Err(Fault::Malformed),
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(Fault::Malformed),
        };
        let time = |name| match claims.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or(Fault::Malformed),
        };
        Ok(Claims {
            issuer,
            subject,
            audience,
            expiry: time("exp")?,
            not_before: time("nbf")?,
        })
    }

    pub(super) fn check(&self, expected: &Expected, now: Duration) -> Result<(), Fault> {
        if self.issuer != expected.issuer {
            return Err(Fault::WrongIssuer);
        }
        if !self.audience.contains(&expected.audience) {
            return Err(Fault::WrongAudience);
        }
        // In floats, because a token's numbers may have any size.
        let (now, leeway) = (now.as_secs_f64(), LEEWAY.as_secs_f64());
        let expiry = self.expiry.ok_or(Fault::NoExpiry)?;
        if now >= expiry + leeway {
            return Err(Fault::Expired);
        }
        if self.not_before.is_some_and(|from| now < from - leeway) {
            return Err(Fault::NotYetValid);
        }
        Ok(())
    }
}
