//! Every attempt needs leave from its quota group; every answer tells the group what upstream thinks of it.
//!
//! A 429 that names a time stops the whole group until then. The longest demand wins; who waits, waits by
//! itself, so that none stands in another's way, and leaves no trace when its caller goes.

mod groups;
mod peek;

use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{Request, Response, StatusCode};
use tokio::time::Instant;
use tower::{Layer, Service};

pub use self::groups::Groups;
use self::peek::peek;
use super::{BoxFuture, DRAIN_RETRY_AFTER, Draining, other, record};
use crate::{
    body::Body,
    error::Error,
    policy::feedback,
    record::Record,
    telemetry::metrics::Metrics,
    types::{Caller, Deadline, Demand, Named},
};

pub struct Parameters {
    pub groups: Arc<Groups>,
    pub max_waiting: usize,
    pub max_retry_after: Duration,
    pub draining: Draining,
    pub metrics: Arc<Metrics>,
}

/// A place in the waiting room, given back however the wait ends.
struct Place<'a> {
    groups: &'a Groups,
    metrics: &'a Metrics,
    group: Arc<str>,
    caller: Arc<str>,
}

impl<'a> Place<'a> {
    fn take(groups: &'a Groups, metrics: &'a Metrics, caller: &Caller, max: usize) -> Option<Self> {
        let taken = groups
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                (n < max).then_some(n + 1)
            });
        taken.ok()?;
        let group = label(caller);
        metrics.quota_waiting(&group, &caller.name, 1);
        Some(Place {
            groups,
            metrics,
            group,
            caller: caller.name.clone(),
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.groups.waiting.fetch_sub(1, Ordering::AcqRel);
        self.metrics.quota_waiting(&self.group, &self.caller, -1);
    }
}

/// See the module.
#[derive(Clone)]
pub struct QuotaLayer(Arc<Parameters>);

impl QuotaLayer {
    pub fn new(parameters: Parameters) -> Self {
        QuotaLayer(Arc::new(parameters))
    }
}

impl<S> Layer<S> for QuotaLayer {
    type Service = Quota<S>;

    fn layer(&self, inner: S) -> Quota<S> {
        Quota {
            inner,
            parameters: self.0.clone(),
        }
    }
}

#[derive(Clone)]
pub struct Quota<S> {
    inner: S,
    parameters: Arc<Parameters>,
}

impl<S> Service<Request<Body>> for Quota<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> BoxFuture {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let parameters = self.parameters.clone();
        Box::pin(async move {
            let Some(caller) = request.extensions().get::<Arc<Caller>>().cloned() else {
                return Err(Error::Internal);
            };
            let deadline = request
                .extensions()
                .get::<Deadline>()
                .map_or_else(Instant::now, |deadline| deadline.0);
            parameters
                .admit(&caller, deadline, &record(&request))
                .await?;
            let class = class(&request);
            let start = Instant::now();
            let response = inner.call(request).await?;
            parameters
                .metrics
                .upstream_duration(class, start.elapsed().as_secs_f64());
            Ok(parameters.learn(&caller, response).await)
        })
    }
}

/// Groups that are named by a caller's own token are without number; only those of the file are labels.
fn label(caller: &Caller) -> Arc<str> {
    if caller.token.is_some() {
        caller.group.clone()
    } else {
        other()
    }
}

fn class(request: &Request<Body>) -> &'static str {
    let named = request.extensions().get::<Named>();
    named.map_or("write", |Named(operation)| {
        operation.class(request.method())
    })
}

impl Parameters {
    async fn admit(
        &self,
        caller: &Caller,
        deadline: Instant,
        record: &Record,
    ) -> Result<(), Error> {
        let Some(mut pause) = self.groups.pause_of(&caller.group) else {
            return Ok(());
        };
        let start = Instant::now();
        let place = Place::take(&self.groups, &self.metrics, caller, self.max_waiting);
        let mut waited = false;
        let result = loop {
            let until = *pause.borrow_and_update();
            let now = Instant::now();
            let Some(until) = until.filter(|until| *until > now) else {
                break Ok(());
            };
            let retry_after = until - now;
            if until > deadline {
                break Err(Error::QuotaExhausted { retry_after });
            }
            if place.is_none() {
                break Err(Error::WaitingRoomFull { retry_after });
            }
            waited = true;
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                // Longer now, or ended by hand; a group that was forgotten changes no more.
                changed = pause.changed() => if changed.is_err() {
                    tokio::time::sleep_until(until).await;
                },
                () = self.draining.begun() => break Err(Error::Draining { retry_after: DRAIN_RETRY_AFTER }),
            }
        };
        if waited {
            record.facts().waited += start.elapsed();
            self.metrics.wait("pause", start.elapsed().as_secs_f64());
        }
        if result.is_ok() && caller.token.is_some() {
            self.metrics.quota_paused_until(&caller.group, 0.0);
        }
        result
    }

    async fn learn(&self, caller: &Caller, response: Response<Body>) -> Response<Body> {
        let status = response.status();
        let refusal = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        let (mut response, text) = if refusal {
            peek(response).await
        } else {
            (response, None)
        };
        let told = feedback::read(
            status,
            response.headers(),
            text.as_deref(),
            SystemTime::now(),
            self.max_retry_after,
        );
        if let Some(demand) = told.demand {
            response.extensions_mut().insert(Demand(demand));
        }
        let (group, named) = (label(caller), caller.token.is_some());
        if named {
            self.metrics
                .quota(&group, told.limit, told.remaining, told.reset);
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            self.metrics.throttled(&group);
            if let Some(demand) = told.demand {
                let longer = self.groups.pause(&caller.group, Instant::now() + demand);
                let epoch = (SystemTime::now() + demand)
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                if longer && named {
                    self.metrics.quota_paused_until(&group, epoch.as_secs_f64());
                }
            }
        }
        if told.limit.is_some() || told.remaining.is_some() {
            self.groups.with(&caller.group, |group| {
                group.last = told;
                group.seen = Instant::now();
            });
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::policy::access::Access;

    fn request(patience: Duration) -> Request<Body> {
        let caller = Caller {
            name: "billing".into(),
            token: Some("main".into()),
            group: "main".into(),
            access: Access::new(&["*".into()], &[]),
            max_wait: patience,
            enforce: true,
        };
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(Arc::new(caller));
        request
            .extensions_mut()
            .insert(Deadline(Instant::now() + patience));
        request
    }

    fn layer(max_waiting: usize) -> (QuotaLayer, Arc<Groups>, tokio::sync::watch::Sender<bool>) {
        let (drain, draining) = Draining::new();
        let groups = Arc::new(Groups::named(["main".into()]));
        let layer = QuotaLayer::new(Parameters {
            groups: groups.clone(),
            max_waiting,
            max_retry_after: Duration::from_secs(600),
            draining,
            metrics: Arc::default(),
        });
        (layer, groups, drain)
    }

    async fn answer(_: Request<Body>) -> Result<Response<Body>, Error> {
        Ok::<_, Infallible>(Response::new(Body::empty())).map_err(|never| match never {})
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn the_longest_demand_wins() {
        let (layer, groups, _drain) = layer(8);
        let start = Instant::now();
        assert!(groups.pause(&"main".into(), start + Duration::from_secs(30)));
        assert!(!groups.pause(&"main".into(), start + Duration::from_secs(10)));
        layer
            .layer(service_fn(answer))
            .oneshot(request(MINUTE))
            .await
            .expect("an answer");
        assert!(
            start.elapsed() >= Duration::from_secs(30),
            "{:?}",
            start.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_grows_past_the_deadline_is_refused_with_the_true_time() {
        let (layer, groups, _drain) = layer(8);
        groups.pause(&"main".into(), Instant::now() + Duration::from_secs(30));
        let waiting = tokio::spawn(layer.layer(service_fn(answer)).oneshot(request(MINUTE)));
        tokio::task::yield_now().await;
        groups.pause(&"main".into(), Instant::now() + Duration::from_secs(300));
        match waiting.await.expect("no panic") {
            Err(Error::QuotaExhausted { retry_after }) => assert_eq!(retry_after.as_secs(), 300),
            other => panic!("{:?}", other.map(|response| response.status())),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_gives_its_place_back() {
        let (layer, groups, _drain) = layer(1);
        groups.pause(&"main".into(), Instant::now() + Duration::from_secs(30));
        let waiting = tokio::spawn(layer.layer(service_fn(answer)).oneshot(request(MINUTE)));
        tokio::task::yield_now().await;
        let full = layer
            .layer(service_fn(answer))
            .oneshot(request(MINUTE))
            .await;
        assert!(matches!(full, Err(Error::WaitingRoomFull { .. })));
        waiting.abort();
        assert!(waiting.await.is_err());
        assert_eq!(groups.waiting.load(Ordering::Acquire), 0);
        layer
            .layer(service_fn(answer))
            .oneshot(request(MINUTE))
            .await
            .expect("a place again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_every_wait() {
        let (layer, groups, drain) = layer(8);
        groups.pause(&"main".into(), Instant::now() + Duration::from_secs(30));
        let waiting = tokio::spawn(layer.layer(service_fn(answer)).oneshot(request(MINUTE)));
        tokio::task::yield_now().await;
        drain.send_replace(true);
        assert!(matches!(
            waiting.await.expect("no panic"),
            Err(Error::Draining { .. })
        ));
        assert_eq!(groups.waiting.load(Ordering::Acquire), 0);
    }
}
