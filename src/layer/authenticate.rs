//! Who calls. From here on a `Caller` is known, and the caller's credential is out of the headers.

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Request, Response, header::AUTHORIZATION};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{Either, record};
use crate::{
    body::Body,
    error::Error,
    policy::{access::Access, fair::Share, headers, token},
    types::{Arrived, Caller, Deadline, OwnToken},
};

pub enum Parameters {
    /// Callers prove themselves to revgate.
    Inject {
        keys: HashMap<[u8; 32], Arc<Caller>>,
        anonymous: Option<Arc<Caller>>,
    },
    /// Callers bring a DevRev token of their own; `rules` hold for each.
    Validate { rules: Rules },
}

/// What holds for a caller that is known by its token alone.
pub struct Rules {
    pub share: Share,
    pub access: Access,
    pub max_wait: Duration,
    pub enforce: bool,
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

struct Identity {
    caller: Arc<Caller>,
    own: Option<OwnToken>,
}

impl Parameters {
    fn identify(&self, headers: &HeaderMap, now: SystemTime) -> Result<Identity, Error> {
        let credential = only_credential(headers)?;
        match self {
            Parameters::Inject { keys, anonymous } => {
                let caller = match credential {
                    None => anonymous.clone().ok_or(Error::NoCredential)?,
                    Some(value) => {
                        let key = headers::bearer(value).ok_or(Error::UnknownCredential)?;
                        let hash: [u8; 32] = Sha256::digest(key).into();
                        let (known, caller) =
                            keys.get_key_value(&hash).ok_or(Error::UnknownCredential)?;
                        if !bool::from(known.ct_eq(&hash)) {
                            return Err(Error::UnknownCredential);
                        }
                        caller.clone()
                    }
                };
                Ok(Identity { caller, own: None })
            }
            Parameters::Validate { rules } => {
                let token = headers::bearer(credential.ok_or(Error::NoCredential)?)
                    .ok_or(Error::UnknownCredential)?;
                check_shape(token, now)?;
                let mut header = HeaderValue::try_from([b"Bearer ", token].concat())
                    .map_err(|_| Error::UnknownCredential)?;
                header.set_sensitive(true);
                let hash: [u8; 32] = Sha256::digest(token).into();
                let caller = Caller {
                    name: rules.share.caller.clone(),
                    token: None,
                    // Sixteen bytes of the hash: as good as unique, and of no use for guessing the token.
                    group: URL_SAFE_NO_PAD.encode(&hash[..16]).into(),
                    share: rules.share.clone(),
                    access: rules.access.clone(),
                    max_wait: rules.max_wait,
                    enforce: rules.enforce,
                };
                Ok(Identity {
                    caller: Arc::new(caller),
                    own: Some(OwnToken { header, hash }),
                })
            }
        }
    }
}

/// Two `Authorization` fields are a question of which one counts; neither does.
fn only_credential(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Error> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    match (all.next(), all.next()) {
        (_, Some(_)) => Err(Error::UnknownCredential),
        (first, None) => Ok(first),
    }
}

/// The shape and `exp`; the rest is for DevRev to say.
fn check_shape(token: &[u8], now: SystemTime) -> Result<(), Error> {
    let claims = token::claims(token).ok_or(Error::UnknownCredential)?;
    let now = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    match claims.get("exp") {
        None => Ok(()),
        Some(exp) => match exp.as_f64() {
            Some(exp) if exp > now => Ok(()),
            Some(_) => Err(Error::ExpiredCredential),
            None => Err(Error::UnknownCredential),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fair::Priority;

    fn jwt(claims: &str) -> Vec<u8> {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)).into_bytes()
    }

    #[test]
    fn a_token_is_read_for_shape_and_expiry_only() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert!(check_shape(&jwt("{}"), now).is_ok());
        assert!(check_shape(&jwt(r#"{"exp":1001}"#), now).is_ok());
        assert!(matches!(
            check_shape(&jwt(r#"{"exp":1000}"#), now),
            Err(Error::ExpiredCredential)
        ));
        for bad in [&b"opaque"[..], b"a.b", b"a.b.c.d", b"e30.!!!!.x", b".."] {
            assert!(
                matches!(check_shape(bad, now), Err(Error::UnknownCredential)),
                "{bad:?}"
            );
        }
    }

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
        let parameters = Parameters::Inject {
            keys: HashMap::new(),
            anonymous,
        };
        let mut headers = HeaderMap::new();
        assert!(parameters.identify(&headers, SystemTime::now()).is_ok());
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer wrong"));
        assert!(matches!(
            parameters.identify(&headers, SystemTime::now()),
            Err(Error::UnknownCredential)
        ));
    }
}
