//! Who calls. From here on a `Caller` is known, and the caller's credential is out of the headers.

mod devrev_token;
mod keys;

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tokio::time::Instant;
use tower::{Layer, Service};

pub use self::{
    devrev_token::Rules,
    keys::{Keys, Known},
};
use super::{Either, record};
use crate::{
    body::Body,
    error::Error,
    policy::headers,
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
        let caller = match self
            .parameters
            .identify(request.headers(), SystemTime::now())
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
    pub anonymous: Option<Arc<Caller>>,
}

impl Methods {
    /// A wrong credential never falls through to the next method.
    fn identify(&self, credential: Option<&[u8]>) -> Result<Arc<Caller>, Error> {
        match credential {
            Some(credential) => self.keys.identify(credential),
            None => self.anonymous.clone().ok_or(Error::NoCredential),
        }
    }
}

impl Parameters {
    fn identify(&self, headers: &HeaderMap, now: SystemTime) -> Result<Identity, Error> {
        let credential = only_credential(headers)?;
        match self {
            Parameters::Inject(methods) => methods.identify(credential).map(Identity::from),
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
        assert!(parameters.identify(&headers, SystemTime::now()).is_ok());
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer wrong"));
        assert!(matches!(
            parameters.identify(&headers, SystemTime::now()),
            Err(Error::UnknownCredential)
        ));
    }
}
