//! The upstream credential as it goes on the wire.

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

/// `Bearer TOKEN`, marked sensitive so that neither a log nor HPACK's table keeps it.
///
/// # Errors
/// When the token has bytes that no header may carry.
pub fn bearer(token: &SecretString) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))?;
    value.set_sensitive(true);
    Ok(value)
}
