//! Who calls. From here on a `Caller` is known, and the caller's credential is out of the headers.

mod devrev_token;
mod introspect;
mod keys;
mod peers;
mod signed_token;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tokio::time::Instant;
use tower::{Layer, Service};

use self::introspect::{Asker, Stranger};
pub use self::{
    introspect::{Attempts, Introspection},
    keys::{Keys, Known},
    peers::Peers,
    signed_token::SignedTokens,
};
use super::{Either, record};
use crate::{
    body::Body,
    error::Error,
    policy::headers,
    telemetry::metrics::Metrics,
    types::{ArrivedAt, Caller, Deadline, OwnToken, Peer, RequestId},
};

/// How callers are identified.
pub enum Identification {
    /// They prove themselves to revgate.
    Inject(Methods),
    /// They bring a DevRev token of their own; `everyone` is what holds for each. Without `introspection` nobody is asked whose it
    /// is.
    Validate {
        everyone: Arc<Caller>,
        introspection: Option<Introspection>,
    },
}

/// See the module.
#[derive(Clone)]
pub struct AuthenticateLayer {
    identification: Arc<Identification>,
    metrics: Arc<Metrics>,
}

impl AuthenticateLayer {
    pub fn new(identification: Identification, metrics: Arc<Metrics>) -> Self {
        AuthenticateLayer {
            identification: Arc::new(identification),
            metrics,
        }
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        Authenticate {
            inner,
            identification: self.identification.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

#[derive(Clone)]
pub struct Authenticate<S> {
    inner: S,
    identification: Arc<Identification>,
    metrics: Arc<Metrics>,
}

impl<S> Service<Request<Body>> for Authenticate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = Either<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // RFC 7240 section 4.3: a caller may ask to wait less, never more.
        let came = Came {
            at: Instant::now(),
            asked: headers::take_prefer_wait(request.headers_mut()),
        };
        let proof = Proof {
            peer: request.extensions().get::<Peer>(),
            now: SystemTime::now(),
            asked: came.asked,
        };
        let found = self.identification.identify(request.headers(), &proof);
        let found = match found {
            Ok(found) => found,
            Err(error) => return Either::refused(noted(&self.metrics, error)),
        };
        request.headers_mut().remove(AUTHORIZATION);
        let found = match found {
            Found::Caller(identity) => {
                came.admit(&mut request, identity);
                return Either::inner(self.inner.call(request));
            }
            somebody_to_ask => somebody_to_ask,
        };
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (identification, metrics) = (self.identification.clone(), self.metrics.clone());
        Either::boxed(Box::pin(async move {
            let identity = match found {
                Found::Caller(identity) => Ok(identity),
                Found::Later(later) => later.await,
                Found::Stranger(stranger) => match identification.ask(&request, stranger, &came) {
                    Ok(asked) => asked.await,
                    Err(error) => Err(error),
                },
            };
            let identity = identity.map_err(|error| noted(&metrics, error))?;
            came.admit(&mut request, identity);
            inner.call(request).await
        }))
    }
}

fn noted(metrics: &Metrics, error: Error) -> Error {
    if let Some(failure) = error.auth_failure() {
        metrics.auth_failure(failure);
    }
    error
}

/// What besides its head tells who sends a request.
struct Proof<'a> {
    peer: Option<&'a Peer>,
    now: SystemTime,
    /// How long it asked to wait at most.
    asked: Option<Duration>,
}

/// When a request came, and how long it asked to wait at most: RFC 7240 section 4.3, less than its caller may, never more.
struct Came {
    at: Instant,
    asked: Option<Duration>,
}

impl Came {
    fn deadline(&self, max_wait: Duration) -> Instant {
        self.at + self.asked.map_or(max_wait, |wait| wait.min(max_wait))
    }

    fn admit(&self, request: &mut Request<Body>, Identity { caller, own }: Identity) {
        record(request).facts().caller = Some(caller.name.clone());
        let extensions = request.extensions_mut();
        if let Some(own) = own {
            extensions.insert(own);
        }
        extensions.insert(ArrivedAt(self.at));
        extensions.insert(Deadline(self.deadline(caller.max_wait)));
        extensions.insert(caller);
    }
}

/// Who calls, when somebody has been asked.
type Later = Pin<Box<dyn Future<Output = Result<Identity, Error>> + Send>>;

/// What a credential of the operator's own tells.
enum Answer {
    Now(Result<Identity, Error>),
    Later(Later),
}

/// What a request's head tells of who calls.
enum Found {
    Caller(Identity),
    /// DevRev must be asked.
    Stranger(Stranger),
    /// The issuer's keys must be.
    Later(Later),
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
    pub signed: Option<Arc<SignedTokens>>,
    pub peers: Peers,
    pub anonymous: Option<Arc<Caller>>,
}

impl Methods {
    /// A wrong credential never falls through to the next method: the one exception is that a key, which may look like
    /// anything, is looked up before a signed token is made of it.
    fn identify(&self, credential: Option<&[u8]>, proof: &Proof<'_>) -> Answer {
        let Some(credential) = credential else {
            let caller = match self.peers.identify(proof.peer, proof.now) {
                Ok(None) => self.anonymous.clone().ok_or(Error::NoCredential),
                Ok(Some(caller)) => Ok(caller),
                Err(error) => Err(error),
            };
            return Answer::Now(caller.map(Identity::from));
        };
        let key = self.keys.identify(credential);
        if key.is_err()
            && let Some(signed) = &self.signed
            && let Some(answer) = signed.identify(credential, proof.now, proof.asked)
        {
            return answer;
        }
        Answer::Now(key.map(Identity::from))
    }
}

impl Identification {
    fn identify(&self, headers: &HeaderMap, proof: &Proof<'_>) -> Result<Found, Error> {
        let credential = only_credential(headers)?;
        match self {
            Identification::Inject(methods) => match methods.identify(credential, proof) {
                Answer::Now(caller) => caller.map(Found::Caller),
                Answer::Later(later) => Ok(Found::Later(later)),
            },
            Identification::Validate {
                everyone,
                introspection,
            } => {
                let token = credential.ok_or(Error::NoCredential)?;
                match introspection {
                    Some(introspection) => introspection.find(everyone, token, proof.now),
                    None => devrev_token::identify(everyone, token, proof.now).map(Found::Caller),
                }
            }
        }
    }

    /// Who the stranger is that `identify` has found. The request is read before the wait, for a body is not to be shared.
    fn ask(
        &self,
        request: &Request<Body>,
        stranger: Stranger,
        came: &Came,
    ) -> Result<impl Future<Output = Result<Identity, Error>> + Send + use<'_>, Error> {
        let Identification::Validate {
            everyone,
            introspection: Some(introspection),
        } = self
        else {
            return Err(Error::Internal);
        };
        let asker = Asker {
            id: request.extensions().get::<RequestId>().cloned(),
            record: record(request),
            arrived: came.at,
            deadline: came.deadline(everyone.max_wait),
        };
        Ok(async move {
            let user = introspection.ask(everyone, &stranger, &asker).await?;
            let own = user.own(stranger.own.header);
            Ok(devrev_token::identity(everyone, own, user.group.clone()))
        })
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
    use http::HeaderValue;

    use super::*;
    use crate::{
        hash::sha256,
        policy::{
            access::Access,
            fair::{Priority, Share},
            san::San,
        },
        types::Certificate,
    };

    /// The caller that the tests of every method expect.
    pub(super) fn caller(name: &str) -> Arc<Caller> {
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
            max_wait: Duration::from_secs(30),
            enforce: true,
        })
    }

    /// What holds for each token in mode "validate".
    pub(super) fn everyone() -> Caller {
        Caller {
            name: "other".into(),
            token: None,
            group: "other".into(),
            share: Share {
                caller: "other".into(),
                weight: 1,
                priority: Priority::Interactive,
            },
            access: Access::new(&["*".into()], &[]),
            max_wait: Duration::from_secs(30),
            enforce: true,
        }
    }

    #[test]
    fn a_wrong_key_never_falls_through_to_the_anonymous_caller() {
        let identification = Identification::Inject(Methods {
            anonymous: Some(caller("app")),
            ..Methods::default()
        });
        let mut headers = HeaderMap::new();
        let proof = Proof {
            peer: None,
            now: SystemTime::now(),
            asked: None,
        };
        assert!(identification.identify(&headers, &proof).is_ok());
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer wrong"));
        assert!(matches!(
            identification.identify(&headers, &proof),
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
        let key = sha256(b"key");
        let methods = |anonymous: bool| {
            let by_key = Known {
                caller: caller("by-key"),
                used: Arc::default(),
            };
            Methods {
                keys: Keys([(key, by_key)].into()),
                peers: Peers {
                    sans: Arc::new([(San::dns("known"), caller("by-certificate"))].into()),
                    uids: Arc::new([(7, caller("by-uid"))].into()),
                },
                anonymous: anonymous.then(|| caller("anonymous")),
                signed: None,
            }
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
                let proof = Proof {
                    peer: peer.as_ref(),
                    now,
                    asked: None,
                };
                let Answer::Now(got) = methods(anonymous).identify(credential, &proof) else {
                    panic!("nobody need be asked");
                };
                let got =
                    got.map_or_else(|error| error.to_string(), |who| who.caller.name.to_string());
                assert_eq!(got, want, "{credential:?} {peer:?} {anonymous}");
            }
        }
    }
}
