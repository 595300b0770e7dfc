//! The caller's rate limit, once per request (GCRA by governor). In a fleet it may have to be asked for first.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response};
use tower::Service;

use super::{Either, id_of, record, refuse_if_enforced};
use crate::{
    body::Body,
    error::Error,
    policy::rate::Verdict,
    state::limiters::{PlanLimiters, purses::Check},
    telemetry::{labels::WaitReason, metrics::Metrics},
    types::{Caller, CallerToken},
};

/// See the module.
#[derive(Clone)]
pub(crate) struct RateLimit<S> {
    inner: S,
    limiters: Arc<PlanLimiters>,
    metrics: Arc<Metrics>,
}

impl<S> RateLimit<S> {
    pub(crate) fn new(inner: S, limiters: Arc<PlanLimiters>, metrics: Arc<Metrics>) -> Self {
        RateLimit {
            inner,
            limiters,
            metrics,
        }
    }
}

impl<S> Service<Request<Body>> for RateLimit<S>
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let extensions = request.extensions();
        let Some(caller) = extensions.get::<Arc<Caller>>() else {
            return Either::refused(Error::Internal);
        };
        let caller_token = extensions.get::<CallerToken>();
        let Some(limiter) = self.limiters.of_request(caller, caller_token) else {
            return Either::refused(Error::Internal);
        };
        let waiting = match self.limiters.check(caller, caller_token, &limiter) {
            Check::Decided(verdict) => {
                let policy = limiter.policy_header();
                return match obey(&request, caller, policy, &verdict, &self.metrics) {
                    Ok(()) => Either::inner(self.inner.call(request)),
                    Err(error) => Either::refused(error),
                };
            }
            Check::Asks(waiting) => waiting,
        };
        let (caller, metrics) = (caller.clone(), self.metrics.clone());
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Either::boxed(Box::pin(async move {
            let record = record(&request);
            let asks = record.waiting(WaitReason::Shared);
            let verdict = waiting.verdict().await;
            metrics.wait(WaitReason::Shared, asks.end().as_secs_f64());
            obey(
                &request,
                &caller,
                limiter.policy_header(),
                &verdict,
                &metrics,
            )?;
            inner.call(request).await
        }))
    }
}

/// Records the verdict.
///
/// # Errors
/// If it refuses the request.
fn obey(
    request: &Request<Body>,
    caller: &Caller,
    policy: HeaderValue,
    verdict: &Verdict,
    metrics: &Metrics,
) -> Result<(), Error> {
    let extensions = request.extensions();
    tracing::debug!(
        request_id = id_of(extensions),
        caller = &*caller.name,
        allowed = verdict.allowed,
        remaining = verdict.remaining,
        "the caller's rate: {}",
        if verdict.allowed {
            "within it"
        } else {
            "above it"
        }
    );
    let record = record(request);
    record.facts().rate = Some((policy, verdict.header()));
    if verdict.allowed {
        return Ok(());
    }
    let refusal = Error::CallerRateLimited {
        retry_after: verdict.retry_after,
    };
    refuse_if_enforced(refusal, caller, &record, metrics)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            OnceLock,
            atomic::{AtomicBool, AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use tokio::time::Instant;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        hash::NameHash,
        lock::Lock,
        plan::RatePlan,
        policy::{
            fleet::{ReplicaId, tokens::Limits},
            rate,
        },
        record::Record,
        state::{
            Clock,
            limiters::{
                Limiters,
                purses::{Purses, Teller},
            },
        },
    };

    /// Makes an exchange as soon as there is something to say, unless the register hangs.
    #[derive(Default)]
    struct AtOnce {
        purses: OnceLock<Arc<Purses>>,
        pool: Lock<Limits>,
        hangs: AtomicBool,
    }

    impl Teller for AtOnce {
        fn wants_changed(&self, group: &Arc<str>) {
            let purses = self.purses.get().unwrap();
            let statement = purses.statement(group);
            if !self.hangs.load(Ordering::Relaxed) {
                let now = Duration::from_secs(1_700_000_000);
                let sales = self.pool.lock().sync(ReplicaId(1), &statement, now);
                purses.apply(group, &sales);
            }
            purses.due(group);
        }
    }

    const LIMIT: rate::RateLimit = rate::RateLimit {
        count: 1,
        per: Duration::from_secs(60),
        burst: 2,
    };

    /// The answers to so many requests with the values of `RateLimit` that their records hold, and how many came through.
    async fn answers(teller: Arc<AtOnce>, count: usize) -> (Vec<(Option<Error>, String)>, usize) {
        let clock = Clock::start();
        let purses = Purses::new(
            clock,
            Duration::from_millis(50),
            teller.clone(),
            NameHash::default(),
        );
        assert!(teller.purses.set(purses.clone()).is_ok());
        let rates = RatePlan {
            callers: [("billing".into(), LIMIT)].into(),
            default: LIMIT,
        };
        let limiters = Limiters::in_fleet(&rates, clock, purses);
        let through = Arc::new(AtomicUsize::new(0));
        let counted = through.clone();
        let inner = service_fn(move |_: Request<Body>| {
            counted.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok(Response::new(Body::empty())))
        });
        let layer = RateLimit::new(inner, limiters.of_plan(), Arc::default());
        let mut answers = Vec::new();
        for _ in 0..count {
            let record = Record::default();
            let mut request = Request::new(Body::empty());
            let extensions = request.extensions_mut();
            extensions.insert(Arc::new(Caller::named("billing")));
            extensions.insert(record.clone());
            let error = layer.clone().oneshot(request).await.err();
            let rate = record.facts().rate.clone();
            let rate = rate.map(|(_, state)| state.to_str().unwrap().to_owned());
            answers.push((error, rate.unwrap_or_default()));
        }
        (answers, through.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_has_to_be_asked_for_goes_on_afterwards() {
        let teller = Arc::new(AtOnce::default());
        let (answers, through) = answers(teller, 3).await;
        assert_eq!(through, 2);
        assert!(answers[0].0.is_none() && answers[1].0.is_none());
        let refusal = Some(Error::CallerRateLimited {
            retry_after: Duration::from_secs(60),
        });
        assert_eq!(format!("{:?}", answers[2].0), format!("{refusal:?}"));
        let rates: Vec<&str> = answers.iter().map(|(_, rate)| &**rate).collect();
        let expected = ["r=1;t=60", "r=0;t=120", "r=0;t=60"];
        assert_eq!(rates, expected.map(|value| format!("\"caller\";{value}")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_register_that_hangs_costs_the_timeout_and_no_answer() {
        let teller = Arc::new(AtOnce::default());
        teller.hangs.store(true, Ordering::Relaxed);
        let start = Instant::now();
        let (answers, through) = answers(teller, 2).await;
        assert_eq!((through, answers.len()), (2, 2));
        assert_eq!(start.elapsed(), Duration::from_millis(100));
    }
}
