//! The HTTP proxy to DevRev, and what revgate presents to it.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, Uri};
use secrecy::ExposeSecret;

use crate::config::{Config, Secret};

#[derive(Debug)]
pub struct ProxyPlan {
    pub url: Uri,
    /// The value of `Proxy-Authorization`, marked sensitive.
    pub credentials: Option<HeaderValue>,
}

impl ProxyPlan {
    /// `None` without a proxy.
    pub(super) fn of(config: &Config) -> Option<ProxyPlan> {
        let upstream = &config.upstream;
        Some(ProxyPlan {
            url: upstream.proxy.clone()?,
            credentials: upstream.proxy_credentials.as_ref().and_then(basic),
        })
    }
}

/// RFC 7617.
fn basic(credentials: &Secret) -> Option<HeaderValue> {
    const SCHEME: &str = "Basic ";
    let credentials = credentials.value.expose_secret();
    // Sized at once and moved into the header, as a token's value is.
    let mut text = String::with_capacity(SCHEME.len() + credentials.len().div_ceil(3) * 4);
    text.push_str(SCHEME);
    STANDARD.encode_string(credentials, &mut text);
    // Base64 has only characters that a header may have.
    let mut header = HeaderValue::try_from(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}
