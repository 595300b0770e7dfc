//! Keys that a reload cannot change, such as addresses and the mode.

use crate::{
    config::{AuthMode, Caller, CallerCredential, Config, Problems, Tls},
    wall_clock,
};

/// Restores the old values of such keys in `new`. Returns the keys that change, and the keys that were restored.
pub(super) fn keep_what_needs_a_restart(
    old: &Config,
    new: &mut Config,
) -> Result<(Vec<String>, Vec<String>), Problems> {
    if old.auth.mode == AuthMode::Inject && new.auth.mode != AuthMode::Inject {
        if new.tokens.is_empty() || new.callers.is_empty() {
            return Err(new.problem(
                "auth.mode",
                "cannot change while the gateway runs, and without a token and a caller no request could pass until the restart; restart the gateway",
            )
            .into());
        }
        // A file for mode "validate" need not say which token a caller uses, but until the restart the caller needs one.
        let only = match new.tokens.len() {
            1 => new.tokens.keys().next().cloned(),
            _ => None,
        };
        for caller in new.callers.values_mut() {
            caller.token = caller.token.take().or_else(|| only.clone());
        }
        if let Some((name, _)) = new
            .callers
            .iter()
            .find(|(_, caller)| caller.token.is_none())
        {
            return Err(new
                .problem(
                    &format!("callers.{name}.token"),
                    "is required until the restart that auth.mode needs; name one of the tokens, or restart the gateway",
                )
                .into());
        }
    }
    let anonymous = |caller: &Caller| matches!(caller.credential, CallerCredential::Anonymous);
    if !old.listen.address.is_local()
        && let Some((name, _)) = new.callers.iter().find(|(_, caller)| anonymous(caller))
    {
        // The new address allows it, but until the restart the sockets are still at the old one.
        return Err(new
            .problem(
                &format!("callers.{name}.anonymous"),
                "would let anyone call until the restart that listen.address needs; restart the gateway",
            )
            .into());
    }
    let mut put_back = new.keep_restart_only(old);
    // Credentials of a proxy that is not in use yet must not go to the one that is.
    if put_back.iter().any(|key| key == "upstream.proxy") {
        let credentials = old.upstream.proxy_credentials.clone();
        let after = std::mem::replace(&mut new.upstream.proxy_credentials, credentials);
        if after.is_some() || new.upstream.proxy_credentials.is_some() {
            put_back.push("upstream.proxy_credentials".to_owned());
        }
    }
    put_back.sort_unstable();
    if let Some(message) = late_certificate(old.listen.tls.as_ref(), new.listen.tls.as_ref()) {
        return Err(new.problem("listen.tls.cert", message).into());
    }
    Ok((new.differences(old), put_back))
}

/// Why a new certificate is not valid now, if so. One in use that expires must not block other changes. A new one that has expired already
/// is a mistake.
fn late_certificate(old: Option<&Tls>, new: Option<&Tls>) -> Option<String> {
    let (old, new) = (old?, new?);
    let now = wall_clock::now();
    let message = new.validity_warning(now)?;
    (new.validity != old.validity && old.validity_warning(now).is_none()).then_some(message)
}
