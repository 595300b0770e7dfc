//! Who calls. From here on a `Caller` is known, and the caller's credential is out of the headers.

mod devrev_token;
mod keys;
mod signed_token;
mod signing_keys;

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

pub use self::{
    devrev_token::Rules,
    keys::Keys,
    signed_token::SignedTokens,
    signing_keys::{SigningKeys, Wishes},
};
use super::{Either, record};
use crate::{
    body::Body,
    error::Error,
    policy::headers,
    telemetry::metrics::Metrics,
    types::{Arrived, Caller, Deadline, OwnToken},
};

pub enum Parameters {
    /// Callers prove themselves to revgate.
    Inject(Methods),
    /// Callers bring a DevRev token of their own; `rules` hold for each.
    Validate { rules: Rules },
}

/// See the module.
#[derive(Clone)]
pub struct AuthenticateLayer {
    parameters: Arc<Parameters>,
    metrics: Arc<Metrics>,
}

impl AuthenticateLayer {
    pub fn new(parameters: Parameters, metrics: Arc<Metrics>) -> Self {
        AuthenticateLayer {
            parameters: Arc::new(parameters),
            metrics,
        }
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        Authenticate {
            inner,
            parameters: self.parameters.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

#[derive(Clone)]
pub struct Authenticate<S> {
    inner: S,
    parameters: Arc<Parameters>,
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
        let asked = headers::take_prefer_wait(request.headers_mut());
        let arrived = Instant::now();
        let headers = request.headers();
        let answer = self.parameters.identify(headers, SystemTime::now(), asked);
        let later = match answer {
            Answer::Now(Ok(identity)) => {
                identity.admit(&mut request, arrived, asked);
                return Either::below(self.inner.call(request));
            }
            Answer::Now(Err(error)) => return Either::refused(noted(&self.metrics, error)),
            Answer::Later(later) => later,
        };
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let metrics = self.metrics.clone();
        Either::waiting(Box::pin(async move {
            let identity = later.await.map_err(|error| noted(&metrics, error))?;
            identity.admit(&mut request, arrived, asked);
            inner.call(request).await
        }))
    }
}

fn noted(metrics: &Metrics, error: Error) -> Error {
    if let Some(reason) = error.auth_reason() {
        metrics.auth_failure(reason);
    }
    error
}

/// Who calls: known at once, or when somebody has been asked.
enum Answer {
    Now(Result<Identity, Error>),
    Later(Pin<Box<dyn Future<Output = Result<Identity, Error>> + Send>>),
}

/// Who calls, and the DevRev token that it brought where it brought one.
struct Identity {
    caller: Arc<Caller>,
    own: Option<OwnToken>,
}

impl Identity {
    /// The request goes on as this caller's, without what it proved itself by. Its patience began when it arrived.
    fn admit(self, request: &mut Request<Body>, arrived: Instant, asked: Option<Duration>) {
        let Identity { caller, own } = self;
        request.headers_mut().remove(AUTHORIZATION);
        let patience = asked.map_or(caller.max_wait, |wait| wait.min(caller.max_wait));
        record(request).facts().caller = Some(caller.name.clone());
        let extensions = request.extensions_mut();
        if let Some(own) = own {
            extensions.insert(own);
        }
        extensions.insert(Arrived(arrived));
        extensions.insert(Deadline(arrived + patience));
        extensions.insert(caller);
    }
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
    pub anonymous: Option<Arc<Caller>>,
}

impl Methods {
    /// A wrong credential never falls through to the next method: the one exception is that a key, which may look like
    /// anything, is looked up before a signed token is made of it.
    fn identify(
        &self,
        credential: Option<&[u8]>,
        now: SystemTime,
        asked: Option<Duration>,
    ) -> Answer {
        let Some(credential) = credential else {
            let nobody = self.anonymous.clone().ok_or(Error::NoCredential);
            return Answer::Now(nobody.map(Identity::from));
        };
        let key = self.keys.identify(credential);
        if key.is_err()
            && let Some(signed) = &self.signed
            && let Some(answer) = signed.identify(credential, now, asked)
        {
            return answer;
        }
        Answer::Now(key.map(Identity::from))
    }
}

impl Parameters {
    fn identify(&self, headers: &HeaderMap, now: SystemTime, asked: Option<Duration>) -> Answer {
        let credential = match only_credential(headers) {
            Ok(credential) => credential,
            Err(error) => return Answer::Now(Err(error)),
        };
        match self {
            Parameters::Inject(methods) => methods.identify(credential, now, asked),
            Parameters::Validate { rules } => {
                let token = credential.ok_or(Error::NoCredential);
                Answer::Now(token.and_then(|token| rules.identify(token, now)))
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
    use http::HeaderValue;

    use super::*;
    use crate::policy::{
        access::Access,
        fair::{Priority, Share},
    };

    #[test]
    fn a_wrong_key_never_falls_through_to_the_anonymous_caller() {
        let anonymous = Some(Arc::new(Caller {
            name: "app".into(),
            token: None,
            group: "main".into(),
            share: Share {
                caller: "app".into(),
                weight: 1,
                priority: Priority::Interactive,
            },
            access: Access::new(&["*".into()], &[]),
            max_wait: Duration::ZERO,
            enforce: true,
        }));
        let parameters = Parameters::Inject(Methods {
            anonymous,
            ..Methods::default()
        });
        let mut headers = HeaderMap::new();
        let identify = |headers: &HeaderMap| parameters.identify(headers, SystemTime::now(), None);
        assert!(matches!(identify(&headers), Answer::Now(Ok(_))));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer wrong"));
        assert!(matches!(
            identify(&headers),
            Answer::Now(Err(Error::UnknownCredential))
        ));
    }
}
