//! A configured DevRev token as a header value.

use std::fmt;

use http::{HeaderValue, header::InvalidHeaderValue};
use secrecy::{ExposeSecret, SecretString};

use crate::hash::sha256;

/// One value of a token.
#[derive(Clone)]
pub struct TokenValue {
    header: HeaderValue,
    /// SHA-256 of the header, for comparison.
    hash: [u8; 32],
}

impl TokenValue {
    /// # Errors
    /// When the token has bytes that a header must not contain.
    pub fn new(token: &SecretString) -> Result<TokenValue, InvalidHeaderValue> {
        const SCHEME: &str = "Bearer ";
        let token = token.expose_secret();
        // Sized at once and moved into the header: a copy, or a reallocation, would leave the token behind in freed memory.
        let mut text = String::with_capacity(SCHEME.len() + token.len());
        text.push_str(SCHEME);
        text.push_str(token);
        let mut header = HeaderValue::try_from(text)?;
        // Keeps it out of logs and of HPACK's table.
        header.set_sensitive(true);
        let hash = sha256(header.as_bytes());
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
