//! Every attempt needs leave of its quota group; every answer tells the group what upstream thinks of it.
//!
//! `policy::ledger` says whether an attempt may go, `policy::fair` whose turn it is. Here is what they lack: time, locks, and
//! a room to wait in.

mod dealer;
mod group;
mod groups;
mod peek;
mod room;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use http::{Request, Response, StatusCode};
use tokio::time::Instant;
use tower::{Layer, Service};

pub use self::groups::{Groups, Wanted};
use self::{
    group::{Asking, Group, Permit},
    peek::peek,
};
use super::{BoxFuture, Draining, record};
use crate::{
    body::Body,
    error::Error,
    policy::{
        feedback,
        ledger::{Outcome, Why},
        operation::Class,
    },
    record::Record,
    telemetry::{labels::WaitReason, metrics::Metrics},
    types::{Arrived, Caller, Deadline, Demand, Named, TokenRefused},
};

pub struct Parameters {
    pub groups: Arc<Groups>,
    /// The longest demand of upstream's that is believed.
    pub max_retry_after: Duration,
    pub draining: Draining,
    /// Requests in flight, as `admission` counts them: who waits here is not, or a crowd that waits would shut out those
    /// who need not.
    pub in_flight: Arc<AtomicUsize>,
    pub metrics: Arc<Metrics>,
}

/// Takes a request out of those in flight while it waits.
struct Parked<'a>(&'a AtomicUsize);

impl<'a> Parked<'a> {
    fn new(in_flight: &'a AtomicUsize) -> Self {
        in_flight.fetch_sub(1, Ordering::AcqRel);
        Parked(in_flight)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
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
            let group = match request.extensions().get::<Arc<Caller>>() {
                Some(caller) => parameters.groups.get(&caller.group),
                None => return Err(Error::Internal),
            };
            let mut permit = match group.try_permit() {
                Ok(permit) => permit,
                Err(why) => {
                    let asking = Asking::of(&request)?;
                    parameters
                        .wait(&group, why, asking, record(&request))
                        .await?
                }
            };
            let class = class(&request);
            let start = Instant::now();
            permit.sent();
            let result = inner.call(request).await;
            match result {
                Ok(response) => {
                    parameters
                        .metrics
                        .upstream_duration(class, start.elapsed().as_secs_f64());
                    let response = parameters.learn(&group, permit, response).await;
                    match response.extensions().get::<TokenRefused>() {
                        // What it told of the quota is learnt by now.
                        Some(refused) => Err(Error::TokenRefused {
                            retry_after: refused.0,
                        }),
                        None => Ok(response),
                    }
                }
                Err(error) => {
                    permit.settle(failed(&error));
                    Err(error)
                }
            }
        })
    }
}

fn class(request: &Request<Body>) -> Class {
    let named = request.extensions().get::<Named>();
    named.map_or(Class::Write, |Named(operation)| {
        operation.class(request.method())
    })
}

impl Asking {
    fn of(request: &Request<Body>) -> Result<Asking, Error> {
        let extensions = request.extensions();
        let now = Instant::now();
        Ok(Asking {
            caller: extensions
                .get::<Arc<Caller>>()
                .cloned()
                .ok_or(Error::Internal)?,
            arrived: extensions.get::<Arrived>().map_or(now, |at| at.0),
            deadline: extensions.get::<Deadline>().map_or(now, |at| at.0),
        })
    }
}

/// What an attempt without an answer may have cost.
fn failed(error: &Error) -> Outcome {
    match error {
        Error::Unreachable(_) | Error::Overloaded { .. } | Error::TokenUnavailable { .. } => {
            Outcome::Unsent
        }
        _ => Outcome::Doubtful,
    }
}

impl Parameters {
    async fn wait(
        &self,
        group: &Arc<Group>,
        why: Why,
        asking: Asking,
        record: Record,
    ) -> Result<Permit, Error> {
        let reason = match why {
            Why::Paused => WaitReason::Pause,
            Why::Probing | Why::Spread | Why::Spent => WaitReason::Quota,
        };
        let waiting = record.waiting(reason);
        let parked = Parked::new(&self.in_flight);
        let result = group.wait(asking, &self.draining).await;
        drop(parked);
        let waited = waiting.end();
        if !waited.is_zero() {
            self.metrics.wait(reason, waited.as_secs_f64());
        }
        result
    }

    async fn learn(
        &self,
        group: &Arc<Group>,
        permit: Permit,
        response: Response<Body>,
    ) -> Response<Body> {
        let (status, came) = (response.status(), Instant::now());
        let throttled = status == StatusCode::TOO_MANY_REQUESTS;
        let read = |response: &Response<Body>, text: Option<&[u8]>| {
            let (now, cap) = (SystemTime::now(), self.max_retry_after);
            feedback::read(status, response.headers(), text, now, cap)
        };
        let mut told = read(&response, None);
        let mut response = response;
        if throttled || status == StatusCode::SERVICE_UNAVAILABLE {
            // Nothing more leaves while the body, which may name a longer time, still comes.
            if let Some(demand) = told.demand {
                group.pause(demand);
            }
            let (whole, text) = peek(response).await;
            told = read(&whole, text.as_deref());
            // What is left of it: its time began with the head.
            told.demand = told
                .demand
                .map(|demand| demand.saturating_sub(came.elapsed()));
            response = whole;
        }
        if let Some(demand) = told.demand {
            response.extensions_mut().insert(Demand(demand));
        }
        permit.settle(Outcome::Answered { told, throttled });
        response
    }
}
