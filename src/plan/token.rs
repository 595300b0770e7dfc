//! An upstream credential as it goes on the wire.

use std::fmt;

use http::{HeaderValue, header::InvalidHeaderValue};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// One value of a token. Two are equal when they are the same credential.
#[derive(Clone)]
pub struct TokenValue {
    header: HeaderValue,
    /// To tell one value from another.
    hash: [u8; 32],
}

impl TokenValue {
    /// # Errors
    /// When the token has bytes that no header may carry.
    pub fn new(token: &SecretString) -> Result<TokenValue, InvalidHeaderValue> {
        const SCHEME: &str = "Bearer ";
        let token = token.expose_secret();
        // Moved into the value, not copied; and not grown, which would leave copies behind.
        let mut text = String::with_capacity(SCHEME.len() + token.len());
        text.push_str(SCHEME);
        text.push_str(token);
        let mut header = HeaderValue::try_from(text)?;
        // Neither a log nor HPACK's table keeps it.
        header.set_sensitive(true);
        let hash = Sha256::digest(header.as_bytes()).into();
        Ok(TokenValue { header, hash })
    }

    /// `Bearer TOKEN`, marked sensitive.
    pub fn header(&self) -> &HeaderValue {
        &self.header
    }
}

impl PartialEq for TokenValue {
    fn eq(&self, other: &TokenValue) -> bool {
        self.hash == other.hash
    }
}

impl fmt::Debug for TokenValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenValue(<redacted>)")
    }
}
