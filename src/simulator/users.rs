//! Which user a token belongs to. A JWT's `sub` names its user, and tokens of one user share a window. All other tokens belong
//! to one user, but each has its own window.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

fn claims(token: &[u8]) -> Option<Map<String, Value>> {
    let claims = token.split(|byte| *byte == b'.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

/// The user named by the token's `sub`.
pub(super) fn user(token: &[u8]) -> Option<String> {
    let claims = claims(token)?;
    let name = claims.get("sub")?.as_str()?;
    Some(format!("don:identity:dvrv-us-1:devo/0:devu/{name}"))
}

/// Whether the claims have `"refused": true`, by which tests make a token that is refused.
pub(super) fn is_refused(token: &[u8]) -> bool {
    claims(token).is_some_and(|claims| claims.get("refused") == Some(&Value::Bool(true)))
}
