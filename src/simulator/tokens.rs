//! Whose a token is: a JWT's `sub` names a user of its own, and all other tokens are of one user, with a window each.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

fn claims(token: &[u8]) -> Option<Map<String, Value>> {
    let claims = token.split(|byte| *byte == b'.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

/// The user that the token names.
pub fn user(token: &[u8]) -> Option<String> {
    let claims = claims(token)?;
    let name = claims.get("sub")?.as_str()?;
    Some(format!("don:identity:dvrv-us-1:devo/0:devu/{name}"))
}

/// Made to be refused: `"refused": true` among its claims.
pub fn is_refused(token: &[u8]) -> bool {
    claims(token).is_some_and(|claims| claims.get("refused") == Some(&Value::Bool(true)))
}
