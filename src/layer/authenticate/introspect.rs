//! Asks DevRev whose a caller's token is: with that token, once for all who bring it meanwhile, and rarely.
//!
//! What is believed, and for how long, is decided by `policy::introspect`. The question goes the way of every attempt
//! (retry, circuit, quota and below), so that it waits, counts and fails as any call does.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Request, Response, StatusCode, header::ACCEPT};
use tokio::time::{Instant, timeout, timeout_at};
use tower::{ServiceExt, util::BoxCloneSyncService};

use super::{
    Found,
    devrev_token::{caller, check_shape, header_of, identity, own},
};
use crate::{
    body::{Body, read_up_to},
    error::Error,
    policy::{
        feedback::{self, Feedback},
        introspect::{Ending, Known, user_of},
        operation::Operation,
    },
    record::Record,
    state::{
        introspection::{Ended, Joined, Key, Lead, Memory, User, group_of},
        quota::Groups,
    },
    telemetry::{labels, metrics::Metrics},
    types::{ArrivedAt, Caller, Deadline, Named, OwnToken, QuotaRules, RequestId, RetryAfter},
};

/// The way of an attempt, from `retry` down.
pub type Attempts = BoxCloneSyncService<Request<Body>, Response<Body>, Error>;

/// How DevRev is asked about tokens.
pub struct Introspection {
    pub memory: Arc<Memory>,
    /// How long the word "good" is believed.
    pub ttl: Duration,
    /// Whoever follows another's question waits at least so long for it.
    pub attempt_timeout: Duration,
    /// Where a question goes.
    pub attempts: Attempts,
    /// The unit that a question took before its user was known is no one else's.
    pub groups: Arc<Groups>,
    pub quota: QuotaRules,
    pub metrics: Arc<Metrics>,
}

const QUESTION: &str = "/auth-tokens.info";

/// A known token is not kept waiting for longer: what is known of it counts meanwhile.
const RENEWAL: Duration = Duration::from_secs(3);

/// The documented answer has a few hundred bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// When DevRev has failed to say anything, and named no time.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A token that is not known, or was known too long ago.
pub(super) struct Stranger {
    pub own: OwnToken,
    key: Key,
    /// By the memory's clock.
    expires: Option<Duration>,
}

/// Of the request that brings it.
pub(super) struct Asker {
    pub id: Option<RequestId>,
    pub record: Record,
    pub arrived: Instant,
    pub deadline: Instant,
}

impl Introspection {
    /// Without waiting: who calls, or that DevRev must be asked.
    pub(super) fn find(
        &self,
        everyone: &Caller,
        token: &[u8],
        now: SystemTime,
    ) -> Result<Found, Error> {
        let key = self.memory.key(token);
        match self.memory.look(&key) {
            Known::Good(user) => {
                let identity = identity(everyone, user.own(header_of(token)?), user.group.clone());
                Ok(Found::Caller(identity))
            }
            Known::Bad => Err(Error::RefusedCredential),
            Known::Nothing => {
                let lasts = check_shape(token, now)?;
                Ok(Found::Stranger(Stranger {
                    own: own(token)?,
                    key,
                    expires: lasts.map(|lasts| self.memory.now().saturating_add(lasts)),
                }))
            }
        }
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// That DevRev refuses it, or why it could not be asked.
    pub(super) async fn ask(
        &self,
        everyone: &Caller,
        stranger: &Stranger,
        asker: &Asker,
    ) -> Result<Arc<User>, Error> {
        loop {
            let mut follow = match self.memory.join(&stranger.key) {
                Joined::Good(user) => return Ok(user),
                Joined::Bad => return Err(Error::RefusedCredential),
                Joined::Lead(lead, stale) => {
                    return self.lead(everyone, lead, stale, stranger, asker).await;
                }
                Joined::Follow(follow) => follow,
            };
            // Whoever asks may be more patient. One attempt's time is had by all, as when each asks for itself.
            let until = asker.deadline.max(Instant::now() + self.attempt_timeout);
            let ended = match timeout_at(until, follow.wait_for(Option::is_some)).await {
                Err(_elapsed) => return Err(Error::UpstreamTimeout),
                Ok(ended) => ended.ok().and_then(|ended| ended.clone()),
            };
            match ended {
                Some(Ended::Good(user)) => return Ok(user),
                Some(Ended::Bad) => return Err(Error::RefusedCredential),
                // Its patience was less than ours.
                Some(Ended::Failed(Error::QuotaExhausted { retry_after }))
                    if Instant::now() + retry_after <= asker.deadline => {}
                Some(Ended::Failed(error)) => return Err(error),
                // It left: another one asks.
                None => {}
            }
        }
    }

    async fn lead(
        &self,
        everyone: &Caller,
        lead: Lead<'_>,
        stale: Option<Arc<User>>,
        stranger: &Stranger,
        asker: &Asker,
    ) -> Result<Arc<User>, Error> {
        let result = match &stale {
            Some(user) => {
                let question = question(everyone, &user.group, stranger, asker, asker.arrived);
                let asked = timeout(RENEWAL, self.put(question));
                asked.await.unwrap_or(Err(Error::UpstreamTimeout))
            }
            None => {
                let _place = self.memory.enter(asker.deadline).await?;
                let group = group_of(&stranger.own.hash);
                let question = question(everyone, &group, stranger, asker, asker.deadline);
                self.put(question).await
            }
        };
        match result {
            Ok(Answer::Good(user, told)) => {
                let user = Arc::new(match user {
                    Some(id) => User::named(&id),
                    // DevRev took the token, and that is what was asked; whose it is stays unknown.
                    None => User::unnamed(&stranger.own.hash),
                });
                let asked_in = group_of(&stranger.own.hash);
                if stale.is_none() && asked_in != user.group {
                    self.groups
                        .attribute(&asked_in, &user.group, &told, &self.quota);
                }
                self.metrics.introspection(labels::Introspection::Good);
                lead.end(
                    Ending::Good {
                        value: user.clone(),
                        ttl: self.ttl,
                        expires: stranger.expires,
                    },
                    |_| Ended::Good(user.clone()),
                );
                Ok(user)
            }
            Ok(Answer::Bad) => {
                self.metrics.introspection(labels::Introspection::Bad);
                lead.end(Ending::Bad, |_| Ended::Bad);
                Err(Error::RefusedCredential)
            }
            Err(error) => {
                let known = lead.end(Ending::Failed, |known| match known {
                    Some(user) => Ended::Good(user),
                    None => Ended::Failed(error.clone()),
                });
                let result = match known {
                    Some(_) => labels::Introspection::Stale,
                    None => labels::Introspection::Failed,
                };
                self.metrics.introspection(result);
                tracing::debug!(
                    code = error.code().label(),
                    what = result.label(),
                    "DevRev could not be asked about a token"
                );
                known.ok_or(error)
            }
        }
    }

    async fn put(&self, question: Request<Body>) -> Result<Answer, Error> {
        let response = self.attempts.clone().oneshot(question).await?;
        let (head, mut body) = response.into_parts();
        let told = feedback::read(
            head.status,
            &head.headers,
            None,
            SystemTime::now(),
            Duration::MAX,
        );
        // What the quota layer has read, the body included, and cut to what is believed.
        let demand = head.extensions.get().map(|RetryAfter(time)| *time);
        let retry_after = demand.or(told.retry_after).unwrap_or(RETRY_AFTER);
        match head.status {
            status if status.is_success() => {
                let read = timeout(RENEWAL, read_up_to(&mut body, MAX_ANSWER)).await;
                let read = read.map_err(|_elapsed| Error::UpstreamTimeout)?;
                let read = read.map_err(Error::broken)?;
                let user = if read.complete {
                    user_of(&read.bytes)
                } else {
                    None
                };
                Ok(Answer::Good(user, told))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(Answer::Bad),
            StatusCode::TOO_MANY_REQUESTS => Err(Error::QuotaExhausted { retry_after }),
            _ => Err(Error::TokenUnverified { retry_after }),
        }
    }
}

/// What DevRev said of a token.
enum Answer {
    /// It takes it; whose it is, if it said so; and what it told of the quota.
    Good(Option<String>, Feedback),
    Bad,
}

/// `auth-tokens.info`, asked with the token itself, as an attempt of whoever brings it.
fn question(
    everyone: &Caller,
    group: &Arc<str>,
    stranger: &Stranger,
    asker: &Asker,
    deadline: Instant,
) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = http::Uri::from_static(QUESTION);
    let json = http::HeaderValue::from_static("application/json");
    request.headers_mut().insert(ACCEPT, json);
    let extensions = request.extensions_mut();
    if let Some(id) = &asker.id {
        extensions.insert(id.clone());
    }
    extensions.insert(asker.record.clone());
    extensions.insert(Named(Operation::from_path(QUESTION)));
    extensions.insert(caller(everyone, group.clone()));
    extensions.insert(stranger.own.clone());
    extensions.insert(ArrivedAt(asker.arrived));
    extensions.insert(Deadline(deadline));
    request
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
    use tower::{Layer, service_fn};

    use super::{
        super::{AuthenticateLayer, Identification},
        *,
    };
    use crate::{plan::Quota, policy::ledger, state::Clock};

    const TTL: Duration = Duration::from_secs(60);
    const PATIENCE: Duration = Duration::from_secs(30);

    /// What DevRev says to one question after another; the last one is said to all that follow.
    #[derive(Clone, Copy, Debug)]
    enum Says {
        User,
        Refused,
        Throttled(u64),
        Unreachable,
        Nothing,
    }

    /// What an answer tells of the quota.
    fn window() -> HeaderMap {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let reset = now.expect("a time since 1970").as_secs() + 300;
        let mut headers = HeaderMap::new();
        headers.insert("x-ratelimit-limit", 100.into());
        headers.insert("x-ratelimit-remaining", 99.into());
        headers.insert("x-ratelimit-reset", reset.into());
        headers
    }

    fn quota() -> Quota {
        Quota {
            rules: QuotaRules {
                ledger: ledger::LedgerRules {
                    spread_above: 0.5,
                    reserve: 0.0,
                    max_retry_after: Duration::from_secs(600),
                },
                max_waiting: 1024,
            },
            groups: BTreeMap::new(),
        }
    }

    /// A question: its group, and how long it may wait.
    type Asked = Arc<Mutex<Vec<(Arc<str>, Duration)>>>;

    struct Rig {
        layer: AuthenticateLayer,
        asked: Asked,
        groups: Arc<Groups>,
    }

    impl Rig {
        fn new(says: &'static [Says]) -> Rig {
            let asked = Asked::default();
            let seen = asked.clone();
            let attempts = service_fn(move |request: Request<Body>| {
                let extensions = request.extensions();
                let caller = extensions.get::<Arc<Caller>>().expect("a caller");
                let deadline = extensions.get::<Deadline>().expect("a deadline");
                let patience = deadline.0.saturating_duration_since(Instant::now());
                let mut seen = seen.lock().expect("no panic");
                let say = says[seen.len().min(says.len() - 1)];
                seen.push((caller.group.clone(), patience));
                async move {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    let mut response =
                        Response::new(Body::full(Bytes::from_static(br#"{"user_id":"ada"}"#)));
                    *response.headers_mut() = window();
                    match say {
                        Says::User => {}
                        Says::Refused => *response.status_mut() = StatusCode::UNAUTHORIZED,
                        Says::Throttled(seconds) => {
                            return Err(Error::QuotaExhausted {
                                retry_after: Duration::from_secs(seconds),
                            });
                        }
                        Says::Unreachable => return Err(Error::unreachable("connection refused")),
                        Says::Nothing => std::future::pending().await,
                    }
                    Ok(response)
                }
            });
            let everyone = Caller {
                max_wait: PATIENCE,
                ..super::super::tests::everyone()
            };
            let quota = Arc::new(quota());
            let groups = Arc::new(Groups::new(quota.clone(), Clock::start()));
            let introspection = Introspection {
                memory: Arc::new(Memory::new(4, Clock::start()).expect("randomness")),
                ttl: TTL,
                attempt_timeout: Duration::from_secs(30),
                attempts: BoxCloneSyncService::new(attempts),
                groups: groups.clone(),
                quota: quota.rules,
                metrics: Arc::default(),
            };
            let identification = Identification::Validate {
                everyone: Arc::new(everyone),
                introspection: Some(introspection),
            };
            let layer = AuthenticateLayer::new(identification, Arc::default());
            Rig {
                layer,
                asked,
                groups,
            }
        }

        /// The group in which the request goes on.
        async fn call(&self, prefer: Option<&'static str>) -> Result<Arc<str>, Error> {
            let inner = service_fn(|request: Request<Body>| async move {
                let mut response = Response::new(Body::empty());
                let caller = request.extensions().get::<Arc<Caller>>().cloned();
                response.extensions_mut().insert(caller.expect("a caller"));
                Ok::<_, Error>(response)
            });
            let mut request = Request::new(Body::empty());
            let token = HeaderValue::from_static("Bearer e30.e30.c2ln");
            request.headers_mut().insert(AUTHORIZATION, token);
            if let Some(prefer) = prefer {
                let prefer = HeaderValue::from_static(prefer);
                request.headers_mut().insert("prefer", prefer);
            }
            let response = self.layer.layer(inner).oneshot(request).await?;
            let caller = response.extensions().get::<Arc<Caller>>();
            Ok(caller.expect("a caller").group.clone())
        }

        fn asked(&self) -> Vec<(Arc<str>, Duration)> {
            self.asked.lock().expect("no panic").clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_question_has_the_callers_patience_and_a_renewal_none() {
        let rig = Rig::new(&[Says::User]);
        for _ in 0..2 {
            assert_eq!(&*rig.call(None).await.expect("good"), "ada");
        }
        tokio::time::advance(TTL).await;
        assert_eq!(&*rig.call(None).await.expect("good"), "ada");
        let asked = rig.asked();
        assert_eq!(asked.len(), 2);
        let strange = asked[0].0.to_string();
        assert_eq!(asked[0].1, PATIENCE);
        assert_eq!((&*asked[1].0, asked[1].1), ("ada", Duration::ZERO));
        // The first unit is told to the user's group, which learns of its window; the second it would count by itself.
        let groups = rig.groups.view();
        assert_eq!(groups["ada"]["remaining"], 99, "{groups}");
        assert_eq!(groups["ada"]["external"], 0, "{groups}");
        assert!(groups.get(&strange).is_none(), "{groups}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_token_waits_three_seconds_for_an_upstream_that_hangs() {
        let rig = Rig::new(&[Says::User, Says::Nothing]);
        rig.call(None).await.expect("good");
        tokio::time::advance(TTL).await;
        let start = Instant::now();
        rig.call(None).await.expect("known");
        assert_eq!(start.elapsed(), RENEWAL);
        // The next ones do not wait at all.
        rig.call(None).await.expect("known");
        assert_eq!(start.elapsed(), RENEWAL);
        assert_eq!(rig.asked().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_takes_away_what_was_known() {
        let rig = Rig::new(&[Says::User, Says::Refused, Says::Nothing]);
        rig.call(None).await.expect("good");
        tokio::time::advance(TTL).await;
        for _ in 0..2 {
            let refused = rig.call(None).await;
            assert!(matches!(refused, Err(Error::RefusedCredential)));
        }
        assert_eq!(rig.asked().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_with_more_patience_asks_anew() {
        let rig = Rig::new(&[Says::Throttled(20), Says::User]);
        let (first, second, third) = tokio::join!(
            rig.call(Some("wait=0")),
            rig.call(None),
            rig.call(Some("wait=5"))
        );
        assert!(
            matches!(first, Err(Error::QuotaExhausted { retry_after }) if retry_after.as_secs() == 20)
        );
        assert_eq!(&*second.expect("good"), "ada");
        assert!(
            matches!(third, Err(Error::QuotaExhausted { retry_after }) if retry_after.as_secs() == 20)
        );
        assert_eq!(rig.asked().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn followers_get_the_error_of_the_question_with_its_cause() {
        let rig = Rig::new(&[Says::Unreachable]);
        let (first, second) = tokio::join!(rig.call(None), rig.call(None));
        for result in [first, second] {
            let Err(Error::Unreachable(cause)) = result else {
                panic!("{result:?}");
            };
            assert_eq!(cause.to_string(), "connection refused");
        }
        assert_eq!(rig.asked().len(), 1);
    }
}
