//! Identifies the caller. Below this layer a `Caller` is known and the caller's credential is no longer in the headers.

mod devrev_token;
mod introspect;
mod keys;
mod methods;
mod peers;
mod signed_token;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use http::{Extensions, HeaderMap, Request, Response, Uri, Version, header::AUTHORIZATION};
use tokio::time::Instant;
use tower::Service;

use self::introspect::{Requester, UnknownToken};
pub(crate) use self::{
    introspect::{Attempts, Introspector},
    keys::{Keys, KnownKey},
    methods::Methods,
    peers::Peers,
    signed_token::SignedTokens,
};
use super::{Either, Places, log_caller, record};
use crate::{
    allocation::Place,
    body::Body,
    error::Error,
    policy::{allocator::Claim, fair::Priority, headers, operation::Operation},
    state::{connections::OpenConnection, introspection::Verdict},
    telemetry::metrics::Metrics,
    types::{ArrivedAt, Caller, CallerToken, Deadline, Peer, PeerAddress, RequestId},
    wall_clock,
};

/// How callers are identified.
pub(crate) enum Authenticator {
    /// They prove themselves to revgate.
    Inject(Methods),
    /// They send a DevRev token of their own.
    Validate {
        /// The caller of every token, but for its group.
        template: Arc<Caller>,
        /// `None` if tokens are not introspected.
        introspector: Option<Introspector>,
    },
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Authenticate<S> {
    inner: S,
    authenticator: Arc<Authenticator>,
    /// A request that must wait here takes one.
    places: Places,
    metrics: Arc<Metrics>,
}

impl<S> Authenticate<S> {
    pub(crate) fn new(
        inner: S,
        authenticator: Arc<Authenticator>,
        places: Places,
        metrics: Arc<Metrics>,
    ) -> Self {
        Authenticate {
            inner,
            authenticator,
            places,
            metrics,
        }
    }
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
        let arrival = Arrival {
            at: Instant::now(),
            prefer_wait: headers::take_prefer_wait(request.headers_mut()),
        };
        let context = RequestContext {
            peer: request.extensions().get::<Peer>(),
            address: request.extensions().get::<PeerAddress>().copied(),
            operation: request.extensions().get::<Operation>(),
            target: request.uri(),
            version: request.version(),
            now: wall_clock::now(),
            prefer_wait: arrival.prefer_wait,
        };
        let identified = match self.authenticator.identify(request.headers(), &context) {
            Ok(identified) => identified,
            Err(error) => {
                let extensions = request.extensions();
                return Either::refused(counted(&self.metrics, extensions, error));
            }
        };
        request.headers_mut().remove(AUTHORIZATION);
        let identified = match identified {
            Identified::Caller(identity) => {
                if let Err(error) = arrival.admit(&mut request, identity, &self.authenticator) {
                    return Either::refused(error);
                }
                return Either::inner(self.inner.call(request));
            }
            must_wait => must_wait,
        };
        let address = request.extensions().get::<PeerAddress>();
        let address = address.and_then(PeerAddress::ip);
        let mut claim = Claim::unknown(address);
        let connection = request.extensions().get::<OpenConnection>();
        if connection.is_some_and(|connection| connection.has_failed(address)) {
            claim.priority = Priority::Batch;
        }
        let place = match self.places.take(&claim, request.headers()) {
            Ok(place) => place,
            Err(error) => return Either::refused(error),
        };
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (authenticator, metrics) = (self.authenticator.clone(), self.metrics.clone());
        Either::boxed(Box::pin(async move {
            let identity = match identified {
                Identified::Caller(identity) => Ok(identity),
                Identified::Pending(pending) => pending.await,
                Identified::UnknownToken(token) => {
                    match authenticator.introspect(&request, token, &arrival, &place) {
                        Ok(introspection) => introspection.await,
                        Err(error) => Err(error),
                    }
                }
            };
            let extensions = request.extensions();
            let identity = identity.map_err(|error| counted(&metrics, extensions, error))?;
            // From here on it is the caller's own place that counts.
            drop(place);
            arrival.admit(&mut request, identity, &authenticator)?;
            inner.call(request).await
        }))
    }
}

fn counted(metrics: &Metrics, extensions: &Extensions, error: Error) -> Error {
    if let Some(failure) = error.auth_failure() {
        metrics.auth_failure(failure);
        if let Some(connection) = extensions.get::<OpenConnection>() {
            let address = extensions.get::<PeerAddress>();
            connection.fail(address.and_then(PeerAddress::ip));
        }
    }
    error
}

/// What identifies a caller besides its credential.
struct RequestContext<'a> {
    peer: Option<&'a Peer>,
    address: Option<PeerAddress>,
    operation: Option<&'a Operation>,
    target: &'a Uri,
    version: Version,
    now: SystemTime,
    /// See [`Arrival`].
    prefer_wait: Option<Duration>,
}

impl RequestContext<'_> {
    fn is_elsewhere(&self) -> bool {
        self.address.is_some_and(|address| address.is_elsewhere())
    }
}

/// When a request arrived, and how long it is willing to wait.
struct Arrival {
    at: Instant,
    /// `Prefer: wait` (RFC 7240 section 4.3). It can shorten the caller's `max_wait` and not extend it.
    prefer_wait: Option<Duration>,
}

impl Arrival {
    fn deadline(&self, max_wait: Duration) -> Instant {
        self.at + self.prefer_wait.map_or(max_wait, |wait| wait.min(max_wait))
    }

    /// # Errors
    /// If the caller has too many connections.
    fn admit(
        &self,
        request: &mut Request<Body>,
        identity: Identity,
        authenticator: &Authenticator,
    ) -> Result<(), Error> {
        let Identity {
            caller,
            caller_token,
            verdict,
        } = identity;
        record(request).facts().caller = Some(caller.name.clone());
        log_caller(request, &caller, caller_token.is_some());
        let extensions = request.extensions_mut();
        if let Some(connection) = extensions.get::<OpenConnection>() {
            let claim = match authenticator.callers_are_known() {
                true => Claim::caller(caller.group.clone(), &caller.share),
                false => Claim::unknown(extensions.get::<PeerAddress>().and_then(PeerAddress::ip)),
            };
            if !connection.prove(&claim) {
                return Err(Error::OVERLOADED);
            }
        }
        if let Some(caller_token) = caller_token {
            extensions.insert(caller_token);
        }
        if let Some(verdict) = verdict {
            extensions.insert(verdict);
        }
        extensions.insert(ArrivedAt(self.at));
        extensions.insert(Deadline(self.deadline(caller.max_wait)));
        extensions.insert(caller);
        Ok(())
    }
}

/// An identity that is known after a wait.
type Pending = Pin<Box<dyn Future<Output = Result<Identity, Error>> + Send>>;

/// What is known of the caller from the request's head.
enum Identified {
    Caller(Identity),
    /// A DevRev token that must be introspected.
    UnknownToken(UnknownToken),
    /// A signed token that waits for its issuer's keys.
    Pending(Pending),
}

/// The caller, and its DevRev token if it sent one.
struct Identity {
    caller: Arc<Caller>,
    caller_token: Option<CallerToken>,
    /// That its token is good.
    verdict: Option<Verdict>,
}

impl From<Arc<Caller>> for Identity {
    fn from(caller: Arc<Caller>) -> Self {
        Identity {
            caller,
            caller_token: None,
            verdict: None,
        }
    }
}

impl From<Arc<Caller>> for Identified {
    fn from(caller: Arc<Caller>) -> Self {
        Identified::Caller(caller.into())
    }
}

impl Authenticator {
    /// False if anybody can make up another caller, because nobody asks DevRev about tokens.
    pub(crate) fn callers_are_known(&self) -> bool {
        match self {
            Authenticator::Inject(_) => true,
            Authenticator::Validate { introspector, .. } => introspector.is_some(),
        }
    }

    fn identify(
        &self,
        headers: &HeaderMap,
        context: &RequestContext<'_>,
    ) -> Result<Identified, Error> {
        let credential = single_credential(headers)?;
        match self {
            Authenticator::Inject(methods) => methods.identify(credential, headers, context),
            Authenticator::Validate {
                template,
                introspector,
            } => {
                let token = credential.ok_or(Error::NoCredential)?;
                match introspector {
                    Some(introspector) => introspector.identify(template, token, context.now),
                    None => {
                        devrev_token::identify(template, token, context.now).map(Identified::Caller)
                    }
                }
            }
        }
    }

    /// Introspects a token that `identify` did not know. Reads the request before the wait, because a `Body` is not `Sync`.
    fn introspect(
        &self,
        request: &Request<Body>,
        token: UnknownToken,
        arrival: &Arrival,
        place: &Place,
    ) -> Result<impl Future<Output = Result<Identity, Error>> + Send + use<'_>, Error> {
        let Authenticator::Validate {
            template,
            introspector: Some(introspector),
        } = self
        else {
            return Err(Error::Internal);
        };
        let requester = Requester {
            id: request.extensions().get::<RequestId>().cloned(),
            record: record(request),
            place: place.clone(),
            arrived: arrival.at,
            deadline: arrival.deadline(template.max_wait),
        };
        Ok(async move {
            let user = introspector.introspect(template, &token, &requester);
            let user = user.await?;
            let caller_token = user.caller_token(token.caller_token.header);
            let group = user.group.clone();
            let mut identity = devrev_token::identity(template, caller_token, group);
            identity.verdict = Some(introspector.cache.verdict(token.key));
            Ok(identity)
        })
    }
}

/// The credential in `Authorization`. With two such fields it is ambiguous which one applies, so neither does.
fn single_credential(headers: &HeaderMap) -> Result<Option<&[u8]>, Error> {
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
    use http::{HeaderValue, header::HOST};

    use super::*;
    use crate::{hash::sha256, policy::san::San, types::Certificate};

    /// The caller that the tests of every method expect.
    pub(super) fn caller(name: &str) -> Arc<Caller> {
        Arc::new(Caller::named(name))
    }

    #[test]
    fn a_wrong_key_never_falls_through_to_the_anonymous_caller() {
        let authenticator = Authenticator::Inject(Methods {
            anonymous: Some(caller("app")),
            ..Methods::default()
        });
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        let context = RequestContext {
            peer: None,
            address: None,
            operation: None,
            target: &Uri::from_static("/works.list"),
            version: Version::HTTP_11,
            now: wall_clock::now(),
            prefer_wait: None,
        };
        assert!(authenticator.identify(&headers, &context).is_ok());
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer wrong"));
        assert!(matches!(
            authenticator.identify(&headers, &context),
            Err(Error::UnknownCredential)
        ));
    }

    /// `Authorization`, else the certificate, else the uid, else the anonymous caller. A wrong credential ends the search.
    #[test]
    fn methods_are_tried_in_their_order_and_none_is_skipped() {
        let now = wall_clock::now();
        let certificate = |name: &str| {
            Peer::Certificate(Arc::new(Certificate {
                names: vec![San::dns(name)],
                not_after: now,
            }))
        };
        let key = sha256(b"key");
        let methods = |anonymous: bool| {
            let by_key = KnownKey {
                caller: caller("by-key"),
                usage: Arc::default(),
            };
            Methods {
                keys: Keys([(key, by_key)].into()),
                peers: Peers {
                    sans: Arc::new([(San::dns("known"), caller("by-certificate"))].into()),
                    uids: Arc::new([(7, caller("by-uid"))].into()),
                    client_lines: Arc::default(),
                },
                anonymous: anonymous.then(|| caller("anonymous")),
                signed: None,
                hosts: Arc::default(),
            }
        };
        let target = Uri::from_static("/works.list");
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("localhost"))]);
        let (good, bad) = (Some(&b"key"[..]), Some(&b"wrong"[..]));
        let (known, unknown) = (Some(certificate("known")), Some(certificate("unknown")));
        let (uid, other_uid) = (Some(Peer::Uid(7)), Some(Peer::Uid(8)));
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
            (None, &other_uid, "anonymous", "no credential"),
            (None, &None, "anonymous", "no credential"),
        ] {
            for (anonymous, want) in [(true, with), (false, without)] {
                let context = RequestContext {
                    peer: peer.as_ref(),
                    address: None,
                    operation: None,
                    target: &target,
                    version: Version::HTTP_11,
                    now,
                    prefer_wait: None,
                };
                let got = match methods(anonymous).identify(credential, &headers, &context) {
                    Ok(Identified::Caller(identity)) => identity.caller.name.to_string(),
                    Ok(_) => panic!("nothing to wait for"),
                    Err(error) => error.to_string(),
                };
                assert_eq!(got, want, "{credential:?} {peer:?} {anonymous}");
            }
        }
    }

    /// What a browser brings by itself is no proof that its user wants the request.
    #[test]
    fn a_page_becomes_a_caller_only_by_a_credential() {
        let now = wall_clock::now();
        let certificate = Peer::Certificate(Arc::new(Certificate {
            names: vec![San::dns("known")],
            not_after: now,
        }));
        let by_key = KnownKey {
            caller: caller("by-key"),
            usage: Arc::default(),
        };
        let methods = Methods {
            keys: Keys([(sha256(b"key"), by_key)].into()),
            peers: Peers {
                sans: Arc::new([(San::dns("known"), caller("by-certificate"))].into()),
                uids: Arc::new([(7, caller("by-uid"))].into()),
                client_lines: Arc::default(),
            },
            anonymous: Some(caller("anonymous")),
            signed: None,
            hosts: ["devrev".into()].into(),
        };
        let target = Uri::from_static("/works.list");
        let foreign = ("origin", "https://evil.example");
        let host = "no credential, and without a credential, Host must be";
        let page = "no credential, and a page of another origin";
        let (uid, other_uid) = (Peer::Uid(7), Peer::Uid(8));
        for (credential, peer, fields, want) in [
            (None, None, vec![("host", "devrev")], "anonymous"),
            (None, None, vec![("host", "evil.example")], host),
            (None, None, vec![("host", "devrev"), foreign], page),
            (
                Some(&b"key"[..]),
                None,
                vec![("host", "evil.example"), foreign],
                "by-key",
            ),
            (
                None,
                Some(&certificate),
                vec![("host", "any.internal")],
                "by-certificate",
            ),
            (
                None,
                Some(&certificate),
                vec![("host", "any.internal"), foreign],
                page,
            ),
            (None, Some(&uid), vec![("host", "x"), foreign], "by-uid"),
            (None, Some(&other_uid), vec![("host", "x")], "anonymous"),
            (None, Some(&other_uid), vec![("host", "x"), foreign], page),
        ] {
            let context = RequestContext {
                peer,
                address: None,
                operation: None,
                target: &target,
                version: Version::HTTP_11,
                now,
                prefer_wait: None,
            };
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
                .collect();
            let headers = HeaderMap::from_iter(fields);
            let got = match methods.identify(credential, &headers, &context) {
                Ok(Identified::Caller(identity)) => identity.caller.name.to_string(),
                Ok(_) => panic!("nothing to wait for"),
                Err(error) => error.to_string(),
            };
            assert!(got.starts_with(want), "{headers:?} {peer:?}: {got}");
        }
    }
}
