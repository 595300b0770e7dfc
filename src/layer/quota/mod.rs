//! Every attempt with a token needs a permit of the token's quota group, and every answer to it updates the group.
//!
//! An attempt without a token has no group; see [`Caller::quota_group`]. It goes through, and only its retry-after is read.
//!
//! The groups and their queues are in `state::quota`.

mod peek;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, StatusCode};
use tokio::time::Instant;
use tower::Service;

use self::peek::peek;
use super::{BoxFuture, quota_group, record};
use crate::{
    allocation::Place,
    body::Body,
    error::Error,
    policy::{
        feedback::{self, Admitted},
        ledger::{AttemptKind, HoldReason, Payload, Settlement},
        operation::Operation,
    },
    record::Record,
    state::{
        draining::Draining,
        quota::{Group, Groups, Permit, WaitRequest},
    },
    telemetry::{labels::WaitReason, metrics::Metrics, tally::Tally},
    types::{ArrivedAt, Caller, Deadline, QuotaRules, RetryAfter},
    wall_clock,
};

/// What [`Quota`] needs.
pub struct QuotaParams {
    pub groups: Arc<Groups>,
    pub rules: QuotaRules,
    pub draining: Draining,
    pub metrics: Arc<Metrics>,
    pub tally: Arc<Tally>,
}

/// See the module.
#[derive(Clone)]
pub struct Quota<S> {
    inner: S,
    params: Arc<QuotaParams>,
}

impl<S> Quota<S> {
    pub fn new(inner: S, params: Arc<QuotaParams>) -> Self {
        Quota { inner, params }
    }
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
        let params = self.params.clone();
        Box::pin(async move {
            let extensions = request.extensions();
            // `None` for an attempt without a group.
            let mut permit = match quota_group(extensions)? {
                Some(name) => {
                    let group = params.groups.get(name);
                    let kind = kind(&request)?;
                    Some(match group.try_permit(kind, &params.rules) {
                        Ok(permit) => permit,
                        Err(reason) => {
                            let wait_request = wait_request(&request, kind, params.rules)?;
                            let place = extensions.get::<Place>().cloned();
                            params
                                .wait(&group, reason, wait_request, record(&request), place)
                                .await?
                        }
                    })
                }
                None => None,
            };
            if let Some(permit) = &mut permit {
                permit.sent();
            }
            let result = inner.call(request).await;
            match result {
                Ok(response) => Ok(params.learn(permit, response).await),
                Err(error) => {
                    if let Some(permit) = permit {
                        permit.settle(failed(&error));
                    }
                    Err(error)
                }
            }
        })
    }
}

fn kind(request: &Request<Body>) -> Result<AttemptKind, Error> {
    let operation = request.extensions().get::<Operation>();
    let caller = request.extensions().get::<Arc<Caller>>();
    let priority = caller.ok_or(Error::Internal)?.share.priority;
    Ok(AttemptKind {
        operation: operation.ok_or(Error::Internal)?.id(),
        payload: if request.body().is_read() {
            Payload::Whole
        } else {
            Payload::Streamed
        },
        standing: priority.into(),
    })
}

fn wait_request(
    request: &Request<Body>,
    kind: AttemptKind,
    rules: QuotaRules,
) -> Result<WaitRequest, Error> {
    let extensions = request.extensions();
    let now = Instant::now();
    Ok(WaitRequest {
        kind,
        rules,
        caller: extensions
            .get::<Arc<Caller>>()
            .cloned()
            .ok_or(Error::Internal)?,
        arrived: extensions.get::<ArrivedAt>().map_or(now, |at| at.0),
        deadline: extensions.get::<Deadline>().map_or(now, |at| at.0),
    })
}

/// Whether an attempt without an answer may have cost a unit.
fn failed(error: &Error) -> Settlement {
    match error {
        Error::Unreachable(_) | Error::AlsoUnreachable(_) => Settlement::Unreachable,
        Error::NotProcessed(_) | Error::Overloaded { .. } | Error::TokenUnavailable { .. } => {
            Settlement::Unsent
        }
        _ => Settlement::InDoubt,
    }
}

impl QuotaParams {
    async fn wait(
        &self,
        group: &Arc<Group>,
        hold: HoldReason,
        request: WaitRequest,
        record: Record,
        place: Option<Place>,
    ) -> Result<Permit, Error> {
        let reason = match hold {
            HoldReason::Paused => WaitReason::Pause,
            HoldReason::Probing | HoldReason::Spread | HoldReason::Spent => WaitReason::Quota,
        };
        let waiting = record.waiting(reason);
        // A request that waits here is not in flight; otherwise many of them would shut out requests that need not wait.
        let parked = place.as_ref().map(|place| place.in_flight.park());
        let result = group.wait(request, &self.draining).await;
        drop(parked);
        let waited = waiting.end();
        if !waited.is_zero() {
            self.metrics.wait(reason, waited.as_secs_f64());
        }
        result
    }

    /// Reads how long upstream says to wait, and tells the group, if there is one, what the answer reports.
    async fn learn(&self, permit: Option<Permit>, response: Response<Body>) -> Response<Body> {
        let (status, arrived) = (response.status(), Instant::now());
        let admitted = Admitted::of(status);
        let throttled = admitted == Admitted::No;
        if throttled {
            // When it comes, and not when its body has been read or its request ends.
            self.tally.throttled(wall_clock::epoch_seconds());
            if let Some(permit) = &permit {
                permit.throttled();
            }
        }
        let read = |response: &Response<Body>, text: Option<&[u8]>| {
            let (now, cap) = (wall_clock::now(), self.rules.ledger.max_retry_after);
            feedback::read(status, response.headers(), text, now, cap)
        };
        let mut feedback = read(&response, None);
        let mut response = response;
        if throttled || status == StatusCode::SERVICE_UNAVAILABLE {
            // Before the body arrives, which may name a longer time.
            if let (Some(retry_after), Some(permit)) = (feedback.retry_after, &permit) {
                permit.refused(throttled, retry_after);
            }
            let (whole, text) = peek(response).await;
            feedback = read(&whole, text.as_deref());
            // The time runs from the head's arrival.
            feedback.retry_after = feedback
                .retry_after
                .map(|retry_after| retry_after.saturating_sub(arrived.elapsed()));
            response = whole;
        }
        if let Some(retry_after) = feedback.retry_after {
            response.extensions_mut().insert(RetryAfter(retry_after));
        }
        if let Some(permit) = permit {
            permit.settle(Settlement::Answered { feedback, admitted });
        }
        response
    }
}
