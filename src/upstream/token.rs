//! The upstream credential as it goes on the wire.

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

/// `Bearer TOKEN`, marked sensitive so that neither a log nor HPACK's table keeps it.
///
/// # Errors
/// When the token has bytes that no header may carry.
pub fn bearer(token: &SecretString) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    const SCHEME: &str = "Bearer ";
    let token = token.expose_secret();
    // Moved into the value, not copied; and not grown, which would leave copies behind.
    let mut text = String::with_capacity(SCHEME.len() + token.len());
    text.push_str(SCHEME);
    text.push_str(token);
    let mut value = HeaderValue::try_from(text)?;
    value.set_sensitive(true);
    Ok(value)
}
