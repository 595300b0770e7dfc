//! Introspection: a call of DevRev that names the user of a caller's token. It is made with that token, once for all requests that
//! carry it meanwhile, and again only when the result has expired.
//!
//! `policy::introspect` decides how long a result is valid. The request to DevRev is an attempt like any other (retry, circuit,
//! quota and below), so it waits, counts and fails like one.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Request, Response, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};
use tower::{ServiceExt, util::BoxCloneSyncService};

use super::{
    super::token_info_request,
    Identified,
    devrev_token::{caller, caller_token, check_shape, header_of, identity},
};
use crate::{
    allocation::Place,
    body::{Body, read_up_to},
    error::Error,
    policy::{
        feedback::{self, Feedback},
        introspect::{Lookup, Outcome, TokenFacts},
        operation::{Operation, TOKEN_INFO},
    },
    record::Record,
    state::{
        draining::Draining,
        introspection::{
            IntrospectionCache, IntrospectionResult, Key, Leader, Role, User, group_of,
        },
        quota::Groups,
    },
    telemetry::{labels, metrics::Metrics},
    types::{
        ArrivedAt, Caller, CallerToken, Deadline, QuotaRules, RequestId, RetryAfter, UnknownUser,
    },
    wall_clock,
};

/// The part of the stack that an attempt goes through, from `retry` down.
pub(crate) type Attempts = BoxCloneSyncService<Request<Body>, Response<Body>, Error>;

/// Identifies callers by their DevRev tokens.
pub(crate) struct Introspector {
    pub cache: Arc<IntrospectionCache>,
    /// How long a good result is valid.
    pub ttl: Duration,
    /// A follower waits at least this long for the leader.
    pub attempt_timeout: Duration,
    /// Where introspection requests are sent.
    pub attempts: Attempts,
    /// The unit that an introspection took before its user was known is booked to the user's group here.
    pub groups: Arc<Groups>,
    pub quota: QuotaRules,
    pub draining: Draining,
    pub metrics: Arc<Metrics>,
}

/// How long a request with a stale result waits for a new one before it goes on with the stale one.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(3);

/// The documented answer has a few hundred bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Used when an answer that says nothing about the token names no time.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A token without a valid result.
pub(super) struct UnknownToken {
    pub caller_token: CallerToken,
    pub key: Key,
    /// By the cache's clock.
    expires: Option<Duration>,
}

/// The request that an introspection is made for.
pub(super) struct Requester {
    pub id: Option<RequestId>,
    pub record: Record,
    pub place: Place,
    pub arrived: Instant,
    pub deadline: Instant,
}

impl Introspector {
    /// Identifies the caller by the cache alone; an unknown token must be introspected.
    pub(super) fn identify(
        &self,
        template: &Caller,
        token: &[u8],
        now: SystemTime,
    ) -> Result<Identified, Error> {
        let key = self.cache.key(token);
        match self.cache.lookup(&key) {
            Lookup::Good(user) => {
                let caller_token = user.caller_token(header_of(token)?);
                let mut identity = identity(template, caller_token, user.group.clone());
                identity.verdict = Some(self.cache.verdict(key));
                Ok(Identified::Caller(identity))
            }
            Lookup::Bad => Err(Error::RefusedCredential),
            Lookup::Miss => {
                let left = check_shape(token, now)?;
                Ok(Identified::UnknownToken(UnknownToken {
                    caller_token: caller_token(token)?,
                    key,
                    expires: left.map(|left| self.cache.now().saturating_add(left)),
                }))
            }
        }
    }

    /// The user of an unknown token.
    ///
    /// # Errors
    /// When DevRev refuses the token, or introspection fails.
    pub(super) async fn introspect(
        &self,
        template: &Caller,
        unknown: &UnknownToken,
        requester: &Requester,
    ) -> Result<Arc<User>, Error> {
        loop {
            let mut follower = match self.cache.join(&unknown.key) {
                Role::Good(user) => return Ok(user),
                Role::Bad => return Err(Error::RefusedCredential),
                Role::Leader(leader, stale) => {
                    return self.lead(template, leader, stale, unknown, requester).await;
                }
                Role::Follower(follower) => follower,
            };
            // The leader may have a later deadline. Every request is given the time of one attempt, as if it introspected itself.
            let until = requester
                .deadline
                .max(Instant::now() + self.attempt_timeout);
            let result = timeout_at(until, follower.wait_for(Option::is_some));
            let result = match self.draining.bound(result).await? {
                Err(_elapsed) => return Err(Error::UpstreamTimeout),
                Ok(result) => result.ok().and_then(|result| result.clone()),
            };
            match result {
                Some(IntrospectionResult::Good(user)) => return Ok(user),
                Some(IntrospectionResult::Bad) => return Err(Error::RefusedCredential),
                // The leader had an earlier deadline. This request can still wait that long.
                Some(IntrospectionResult::Failed(Error::QuotaExhausted { retry_after }))
                    if Instant::now() + retry_after <= requester.deadline => {}
                Some(IntrospectionResult::Failed(error)) => return Err(error),
                // The leader went away: another request must lead.
                None => {}
            }
        }
    }

    async fn lead(
        &self,
        template: &Caller,
        leader: Leader<'_>,
        stale: Option<Arc<User>>,
        unknown: &UnknownToken,
        requester: &Requester,
    ) -> Result<Arc<User>, Error> {
        let hash = &unknown.caller_token.hash;
        let answer = match &stale {
            Some(user) => {
                // Its deadline has passed, so that it does not wait for quota: the stale result is at hand.
                let deadline = requester.arrived;
                let request =
                    introspection_request(template, &user.group, unknown, requester, deadline);
                let answer = timeout(RENEWAL_TIMEOUT, self.send(request)).await;
                answer.unwrap_or(Err(Error::UpstreamTimeout))
            }
            None => {
                let deadline = requester.deadline;
                let claim = requester.place.in_flight.claim();
                let permit = self.cache.admit(claim, deadline);
                let _permit = self.draining.bound(permit).await??;
                let group = group_of(hash);
                let mut request =
                    introspection_request(template, &group, unknown, requester, deadline);
                request.extensions_mut().insert(UnknownUser);
                self.send(request).await
            }
        };
        match answer {
            Ok(TokenInfo::Accepted {
                user,
                expires_in,
                feedback,
            }) => {
                let expires_at = expires_in.map(|left| self.cache.now().saturating_add(left));
                let user = Arc::new(match user {
                    Some(id) => User::named(&id),
                    // DevRev accepts the token, which is what matters, but does not say whose it is.
                    None => User::unnamed(hash),
                });
                let group = group_of(hash);
                if stale.is_none() && group != user.group {
                    self.groups
                        .attribute(&group, &user.group, &feedback, &self.quota);
                }
                self.metrics.introspection(labels::Introspection::Good);
                leader.finish(
                    Outcome::Good {
                        value: user.clone(),
                        ttl: self.ttl,
                        expires: [unknown.expires, expires_at].into_iter().flatten().min(),
                    },
                    |_| IntrospectionResult::Good(user.clone()),
                );
                Ok(user)
            }
            Ok(TokenInfo::Refused) => {
                self.metrics.introspection(labels::Introspection::Bad);
                leader.finish(Outcome::Bad, |_| IntrospectionResult::Bad);
                Err(Error::RefusedCredential)
            }
            Err(error) => {
                let stale = leader.finish(Outcome::Failed, |stale| match stale {
                    Some(user) => IntrospectionResult::Good(user),
                    None => IntrospectionResult::Failed(error.clone()),
                });
                let result = match stale {
                    Some(_) => labels::Introspection::Stale,
                    None => labels::Introspection::Failed,
                };
                self.metrics.introspection(result);
                tracing::debug!(
                    code = error.code().label(),
                    what = result.label(),
                    "the introspection of a token failed"
                );
                stale.ok_or(error)
            }
        }
    }

    async fn send(&self, request: Request<Body>) -> Result<TokenInfo, Error> {
        let response = self.attempts.clone().oneshot(request).await?;
        let (head, mut body) = response.into_parts();
        let feedback = feedback::read(
            head.status,
            &head.headers,
            None,
            wall_clock::now(),
            Duration::MAX,
        );
        // The quota layer has read this time from head and body, and cut it to the longest that is accepted.
        let read_below = head.extensions.get().map(|RetryAfter(time)| *time);
        let retry_after = read_below.or(feedback.retry_after).unwrap_or(RETRY_AFTER);
        match head.status {
            status if status.is_success() => {
                let read =
                    timeout(RENEWAL_TIMEOUT, read_up_to(&mut body, MAX_ANSWER, |_| true)).await;
                let read = read.map_err(|_elapsed| Error::UpstreamTimeout)?;
                let read = read.map_err(Error::broken)?;
                let facts = match read.complete {
                    true => TokenFacts::read(&read.bytes),
                    false => TokenFacts::default(),
                };
                let now = wall_clock::since_epoch();
                let expires_in = facts.expires_at.map(|at| at.saturating_sub(now));
                if expires_in.is_some_and(|left| left.is_zero()) {
                    return Ok(TokenInfo::Refused);
                }
                Ok(TokenInfo::Accepted {
                    user: facts.user,
                    expires_in,
                    feedback,
                })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(TokenInfo::Refused),
            StatusCode::TOO_MANY_REQUESTS => Err(Error::QuotaExhausted { retry_after }),
            _ => Err(Error::TokenUnverified { retry_after }),
        }
    }
}

/// DevRev's answer about a token.
enum TokenInfo {
    Accepted {
        /// The token's user, if the answer names it.
        user: Option<String>,
        /// The time until the token expires, if the answer names it.
        expires_in: Option<Duration>,
        /// What the answer says about quota.
        feedback: Feedback,
    },
    /// Or it has expired.
    Refused,
}

/// A call of `auth-tokens.info` with the token itself, as an attempt of the request that carries it.
fn introspection_request(
    template: &Caller,
    group: &Arc<str>,
    unknown: &UnknownToken,
    requester: &Requester,
    deadline: Instant,
) -> Request<Body> {
    let mut request = token_info_request();
    let extensions = request.extensions_mut();
    if let Some(id) = &requester.id {
        extensions.insert(id.clone());
    }
    extensions.insert(requester.record.clone());
    extensions.insert(requester.place.clone());
    extensions.insert(Operation::from_path(TOKEN_INFO));
    extensions.insert(caller(template, group.clone()));
    extensions.insert(unknown.caller_token.clone());
    extensions.insert(ArrivedAt(requester.arrived));
    extensions.insert(Deadline(deadline));
    request
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
    use tower::service_fn;

    use super::{
        super::{Authenticate, Authenticator},
        *,
    };
    use crate::{allocation::Pool, layer::Places, plan::QuotaPlan, policy::ledger, state::Clock};

    const TTL: Duration = Duration::from_secs(60);
    const MAX_WAIT: Duration = Duration::from_secs(30);

    /// What the upstream answers to one introspection after another; the last one repeats.
    #[derive(Clone, Copy, Debug)]
    enum Reply {
        User,
        Refused,
        Throttled(u64),
        Unreachable,
        Nothing,
    }

    /// Rate limit headers of an answer.
    fn window() -> HeaderMap {
        let now = wall_clock::now().duration_since(SystemTime::UNIX_EPOCH);
        let reset = now.expect("a time since 1970").as_secs() + 300;
        let mut headers = HeaderMap::new();
        headers.insert("x-ratelimit-limit", 100.into());
        headers.insert("x-ratelimit-remaining", 99.into());
        headers.insert("x-ratelimit-reset", reset.into());
        headers
    }

    fn quota() -> QuotaPlan {
        QuotaPlan {
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

    /// Introspections: the group of each, and how long it may wait.
    type Introspections = Arc<Mutex<Vec<(Arc<str>, Duration)>>>;

    fn places() -> Places {
        Places {
            pool: Pool::new(),
            max: 1024,
            heads: Pool::new(),
        }
    }

    struct Rig {
        authenticator: Arc<Authenticator>,
        introspections: Introspections,
        groups: Arc<Groups>,
    }

    impl Rig {
        fn new(replies: &'static [Reply]) -> Rig {
            let introspections = Introspections::default();
            let seen = introspections.clone();
            let attempts = service_fn(move |request: Request<Body>| {
                let extensions = request.extensions();
                let caller = extensions.get::<Arc<Caller>>().expect("a caller");
                let deadline = extensions.get::<Deadline>().expect("a deadline");
                let max_wait = deadline.0.saturating_duration_since(Instant::now());
                let mut seen = seen.lock().expect("no panic");
                let reply = replies[seen.len().min(replies.len() - 1)];
                seen.push((caller.group.clone(), max_wait));
                async move {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    let mut response =
                        Response::new(Body::full(Bytes::from_static(br#"{"user_id":"ada"}"#)));
                    *response.headers_mut() = window();
                    match reply {
                        Reply::User => {}
                        Reply::Refused => *response.status_mut() = StatusCode::UNAUTHORIZED,
                        Reply::Throttled(seconds) => {
                            return Err(Error::QuotaExhausted {
                                retry_after: Duration::from_secs(seconds),
                            });
                        }
                        Reply::Unreachable => return Err(Error::unreachable("connection refused")),
                        Reply::Nothing => std::future::pending().await,
                    }
                    Ok(response)
                }
            });
            let template = Caller {
                token: None,
                max_wait: MAX_WAIT,
                ..Caller::named("other")
            };
            let quota = Arc::new(quota());
            let groups = Arc::new(Groups::new(quota.clone(), Clock::start()));
            let introspector = Introspector {
                cache: Arc::new(IntrospectionCache::new(4, Clock::start()).expect("randomness")),
                ttl: TTL,
                attempt_timeout: Duration::from_secs(30),
                attempts: BoxCloneSyncService::new(attempts),
                groups: groups.clone(),
                quota: quota.rules,
                draining: Draining::new().1,
                metrics: Arc::default(),
            };
            let authenticator = Authenticator::Validate {
                template: Arc::new(template),
                introspector: Some(introspector),
            };
            Rig {
                authenticator: Arc::new(authenticator),
                introspections,
                groups,
            }
        }

        /// The group of the request below the layer.
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
            let service =
                Authenticate::new(inner, self.authenticator.clone(), places(), Arc::default());
            let response = service.oneshot(request).await?;
            let caller = response.extensions().get::<Arc<Caller>>();
            Ok(caller.expect("a caller").group.clone())
        }

        fn introspections(&self) -> Vec<(Arc<str>, Duration)> {
            self.introspections.lock().expect("no panic").clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_introspection_has_the_callers_deadline_and_a_renewal_does_not_wait() {
        let rig = Rig::new(&[Reply::User]);
        for _ in 0..2 {
            assert_eq!(&*rig.call(None).await.expect("good"), "ada");
        }
        tokio::time::advance(TTL).await;
        assert_eq!(&*rig.call(None).await.expect("good"), "ada");
        let seen = rig.introspections();
        assert_eq!(seen.len(), 2);
        let first_group = seen[0].0.to_string();
        assert_eq!(seen[0].1, MAX_WAIT);
        assert_eq!((&*seen[1].0, seen[1].1), ("ada", Duration::ZERO));
        // The first unit is booked to the user's group, which learns its window from it; the second one runs in that group.
        let groups = rig.groups.view();
        assert_eq!(groups["ada"]["remaining"], 99, "{groups}");
        assert_eq!(groups["ada"]["external"], 0, "{groups}");
        assert!(groups.get(&first_group).is_none(), "{groups}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_token_waits_three_seconds_for_an_upstream_that_hangs() {
        let rig = Rig::new(&[Reply::User, Reply::Nothing]);
        rig.call(None).await.expect("good");
        tokio::time::advance(TTL).await;
        let start = Instant::now();
        rig.call(None).await.expect("known");
        assert_eq!(start.elapsed(), RENEWAL_TIMEOUT);
        // The stale result now counts for a while without a new introspection.
        rig.call(None).await.expect("known");
        assert_eq!(start.elapsed(), RENEWAL_TIMEOUT);
        assert_eq!(rig.introspections().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_evicts_a_good_result() {
        let rig = Rig::new(&[Reply::User, Reply::Refused, Reply::Nothing]);
        rig.call(None).await.expect("good");
        tokio::time::advance(TTL).await;
        for _ in 0..2 {
            let refused = rig.call(None).await;
            assert!(matches!(refused, Err(Error::RefusedCredential)));
        }
        assert_eq!(rig.introspections().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_with_a_later_deadline_leads_next() {
        let rig = Rig::new(&[Reply::Throttled(20), Reply::User]);
        let (first, second, third) = tokio::join!(
            rig.call(Some("wait=0")),
            rig.call(None),
            rig.call(Some("wait=5"))
        );
        assert_eq!(&*second.expect("good"), "ada");
        for result in [first, third] {
            let Err(Error::QuotaExhausted { retry_after }) = result else {
                panic!("{result:?}");
            };
            assert_eq!(retry_after.as_secs(), 20);
        }
        assert_eq!(rig.introspections().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn followers_get_the_leaders_error_with_its_cause() {
        let rig = Rig::new(&[Reply::Unreachable]);
        let (first, second) = tokio::join!(rig.call(None), rig.call(None));
        for result in [first, second] {
            let Err(Error::Unreachable(cause)) = result else {
                panic!("{result:?}");
            };
            assert_eq!(cause.to_string(), "connection refused");
        }
        assert_eq!(rig.introspections().len(), 1);
    }
}
