//! Who calls. From here on a `Caller` is known, and the caller's credential is out of the headers.

mod devrev_token;
mod keys;
mod peers;

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tokio::time::Instant;
use tower::{Layer, Service};

pub use self::{devrev_token::Rules, keys::Keys, peers::Peers};
use super::{Either, record};
use crate::{
    body::Body,
    error::Error,
    policy::headers,
    types::{Arrived, Caller, Deadline, OwnToken, Peer},
};

pub enum Parameters {
    /// Callers prove themselves to revgate.
    Inject(Methods),
    /// Callers bring a DevRev token of their own; `rules` hold for each.
    Validate { rules: Rules },
}

/// See the module.
#[derive(Clone)]
pub struct AuthenticateLayer(Arc<Parameters>);

impl AuthenticateLayer {
    pub fn new(parameters: Parameters) -> Self {
        AuthenticateLayer(Arc::new(parameters))
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        Authenticate {
            inner,
            parameters: self.0.clone(),
        }
    }
}

#[derive(Clone)]
pub struct Authenticate<S> {
    inner: S,
    parameters: Arc<Parameters>,
}

impl<S> Service<Request<Body>> for Authenticate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = Either<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let caller = match self
            .parameters
            .identify(request.headers(), peer, SystemTime::now())
        {
            Ok(identity) => {
                if let Some(own) = identity.own {
                    request.extensions_mut().insert(own);
                }
                identity.caller
            }
            Err(error) => return Either::refused(error),
        };
        request.headers_mut().remove(AUTHORIZATION);
        // RFC 7240 section 4.3: a caller may ask to wait less, never more.
        let asked = headers::take_prefer_wait(request.headers_mut());
        let patience = asked.map_or(caller.max_wait, |wait| wait.min(caller.max_wait));
        record(&request).facts().caller = Some(caller.name.clone());
        let now = Instant::now();
        request.extensions_mut().insert(Arrived(now));
        request.extensions_mut().insert(Deadline(now + patience));
        request.extensions_mut().insert(caller);
        Either::below(self.inner.call(request))
    }
}

/// Who calls, and the DevRev token that it brought where it brought one.
struct Identity {
    caller: Arc<Caller>,
    own: Option<OwnToken>,
}

impl From<Arc<Caller>> for Identity {
    fn from(caller: Arc<Caller>) -> Self {
        Identity { caller, own: None }
    }
}

/// The ways in which callers prove themselves, in the order in which they are tried.
#[derive(Default)]
pub struct Methods {
    pub keys: Keys,
    pub peers: Peers,
    pub anonymous: Option<Arc<Caller>>,
}

impl Methods {
    /// A wrong credential never falls through to the next method.
    fn identify(
        &self,
        credential: Option<&[u8]>,
        peer: Option<&Peer>,
        now: SystemTime,
    ) -> Result<Arc<Caller>, Error> {
        match credential {
            Some(credential) => self.keys.identify(credential),
            None => match self.peers.identify(peer, now)? {
                Some(caller) => Ok(caller),
                None => self.anonymous.clone().ok_or(Error::NoCredential),
            },
        }
    }
}

impl Parameters {
    fn identify(
        &self,
        headers: &HeaderMap,
        peer: Option<&Peer>,
        now: SystemTime,
    ) -> Result<Identity, Error> {
        let credential = only_credential(headers)?;
        match self {
            Parameters::Inject(methods) => {
                methods.identify(credential, peer, now).map(Identity::from)
            }
            Parameters::Validate { rules } => {
                rules.identify(credential.ok_or(Error::NoCredential)?, now)
            }
        }
    }
}

/// The credential itself. Two `Authorization` fields are a question of which one counts; neither does.
fn only_credential(headers: &HeaderMap) -> Result<Option<&[u8]>, Error> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let credential = headers::bearer(value).ok_or(Error::UnknownCredential)?;
            Ok(Some(credential))
        }
        (Some(_), Some(_)) => Err(Error::UnknownCredential),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::{
        policy::{
            access::Access,
            fair::{Priority, Share},
            san::San,
        },
        types::Certificate,
    };

    fn caller(name: &str) -> Arc<Caller> {
        Arc::new(Caller {
            name: name.into(),
            token: None,
            group: "main".into(),
            share: Share {
                caller: name.into(),
                weight: 1,
                priority: Priority::Interactive,
            },
            access: Access::new(&["*".into()], &[]),
            max_wait: Duration::ZERO,
            enforce: true,
        })
    }

    #[test]
    fn a_wrong_key_never_falls_through_to_the_anonymous_caller() {
        let parameters = Parameters::Inject(Methods {
            anonymous: Some(caller("app")),
            ..Methods::default()
        });
        let (mut headers, now) = (HeaderMap::new(), SystemTime::now());
        assert!(parameters.identify(&headers, None, now).is_ok());
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer wrong"));
        assert!(matches!(
            parameters.identify(&headers, None, now),
            Err(Error::UnknownCredential)
        ));
    }

    /// `Authorization`, else the certificate, else the uid, else anonymous; what is wrong ends the search.
    #[test]
    fn methods_are_tried_in_their_order_and_none_is_skipped() {
        let now = SystemTime::now();
        let certificate = |name: &str| {
            Peer::Certificate(Arc::new(Certificate {
                names: vec![San::dns(name)],
                not_after: now,
            }))
        };
        let key: [u8; 32] = Sha256::digest("key").into();
        let methods = |anonymous: bool| Methods {
            keys: Keys([(key, caller("by-key"))].into()),
            peers: Peers {
                sans: [(San::dns("known"), caller("by-certificate"))].into(),
                uids: [(7, caller("by-uid"))].into(),
            },
            anonymous: anonymous.then(|| caller("anonymous")),
        };
        let (good, bad) = (Some(&b"key"[..]), Some(&b"wrong"[..]));
        let (known, unknown) = (Some(certificate("known")), Some(certificate("unknown")));
        let (uid, stranger) = (Some(Peer::Uid(7)), Some(Peer::Uid(8)));
        for (credential, peer, with, without) in [
            (good, &known, "by-key", "by-key"),
            (good, &unknown, "by-key", "by-key"),
            (good, &uid, "by-key", "by-key"),
            (good, &None, "by-key", "by-key"),
            (bad, &known, "unknown credential", "unknown credential"),
            (bad, &uid, "unknown credential", "unknown credential"),
            (bad, &None, "unknown credential", "unknown credential"),
            (None, &known, "by-certificate", "by-certificate"),
            (None, &unknown, "unknown certificate", "unknown certificate"),
            (None, &uid, "by-uid", "by-uid"),
            (None, &stranger, "anonymous", "no credential"),
            (None, &None, "anonymous", "no credential"),
        ] {
            for (anonymous, want) in [(true, with), (false, without)] {
                let got = methods(anonymous).identify(credential, peer.as_ref(), now);
                let got = got.map_or_else(|error| error.to_string(), |who| who.name.to_string());
                assert_eq!(got, want, "{credential:?} {peer:?} {anonymous}");
            }
        }
    }
}
