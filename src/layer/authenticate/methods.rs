//! Callers who prove themselves to revgate: which method applies.

use std::sync::Arc;

use http::HeaderMap;

use super::{Identified, Keys, Peers, RequestContext, SignedTokens};
use crate::{
    error::Error,
    policy::{browser::BrowserRules, jwt::looks_like_jwt, operation::Operation},
    types::{Caller, Peer},
};

/// The ways in which callers prove themselves, in the order in which they are tried.
#[derive(Default)]
pub(crate) struct Methods {
    pub keys: Keys,
    pub signed: Option<Arc<SignedTokens>>,
    pub peers: Peers,
    pub anonymous: Option<Arc<Caller>>,
    /// What an anonymous request may name as its host, besides loopback.
    pub hosts: Arc<[Box<str>]>,
}

impl Methods {
    /// A wrong credential never falls through to the next method. The one exception: a key may look like a signed token, so a
    /// credential is looked up as a key first.
    pub(super) fn identify(
        &self,
        credential: Option<&[u8]>,
        headers: &HeaderMap,
        context: &RequestContext<'_>,
    ) -> Result<Identified, Error> {
        let Some(credential) = credential else {
            return self
                .without_credential(headers, context)
                .map(Identified::from);
        };
        let key = self.keys.identify(credential);
        if key.is_err()
            && let Some(signed) = &self.signed
            && looks_like_jwt(credential)
        {
            return signed.identify(
                credential,
                context.address,
                context.now,
                context.prefer_wait,
            );
        }
        key.map(Identified::from)
    }

    /// Nothing here is known to the sender alone: a browser on this machine can connect too, and shows its certificate for any page.
    fn without_credential(
        &self,
        headers: &HeaderMap,
        context: &RequestContext<'_>,
    ) -> Result<Arc<Caller>, Error> {
        let by_peer = self
            .peers
            .identify(context.peer, context.address, context.now)?;
        let rules = match (context.peer, &by_peer) {
            // Only a proxy can bring a page's request to a unix socket. It shows its own uid, and any Host.
            (Some(Peer::Uid(_)), Some(_)) => BrowserRules::None,
            (Some(Peer::Uid(_)), None) | (_, Some(_)) => BrowserRules::Page,
            (_, None) => BrowserRules::HostAndPage(&self.hosts),
        };
        let caller = match by_peer.or_else(|| self.anonymous.clone()) {
            None if context.operation.is_some_and(Operation::is_of_admin) => {
                return Err(Error::AdminPath);
            }
            None => return Err(Error::NoCredential),
            // A proxy on this machine makes nobody else a client of this machine.
            Some(_) if context.peer.is_none() && context.is_elsewhere() => {
                return Err(Error::Elsewhere);
            }
            Some(caller) => caller,
        };
        let checked = rules.check(context.target, context.version, headers);
        checked.map(|()| caller).map_err(Error::Browser)
    }
}
