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
use super::{BoxFuture, id_of, quota_group, record};
use crate::{
    allocation::Place,
    body::Body,
    error::Error,
    policy::{
        duration_words::duration_words,
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
    types::{ArrivedAt, Caller, Deadline, QuotaRules, RequestId, RetryAfter},
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
            let caller = extensions.get::<Arc<Caller>>().ok_or(Error::Internal)?;
            let caller = caller.name.clone();
            // `None` for an attempt without a group.
            let mut permit = match quota_group(extensions)? {
                Some(name) => {
                    let group = params.groups.get(name);
                    let kind = kind(&request)?;
                    Some(match group.try_permit(kind, &params.rules) {
                        Ok(permit) => {
                            tracing::debug!(
                                request_id = id_of(extensions),
                                group = &**name,
                                "the attempt takes a unit of the group {name} and goes at once"
                            );
                            permit
                        }
                        Err(reason) => {
                            tracing::debug!(
                                request_id = id_of(extensions),
                                group = &**name,
                                "the attempt waits: {}",
                                why(reason)
                            );
                            let wait_request = wait_request(&request, kind, params.rules)?;
                            let place = extensions.get::<Place>().cloned();
                            let waiting = Instant::now();
                            let waited = params
                                .wait(&group, reason, wait_request, record(&request), place)
                                .await;
                            tracing::debug!(
                                request_id = id_of(extensions),
                                waited_ms = waiting.elapsed().as_millis() as u64,
                                "the attempt {} after a wait of {}",
                                if waited.is_ok() {
                                    "goes"
                                } else {
                                    "is given up"
                                },
                                duration_words(waiting.elapsed())
                            );
                            waited?
                        }
                    })
                }
                None => None,
            };
            if let Some(permit) = &mut permit {
                permit.sent();
            }
            // For a line that is written after the request has gone.
            let id = tracing::enabled!(tracing::Level::TRACE)
                .then(|| request.extensions().get::<RequestId>().cloned());
            let result = inner.call(request).await;
            match result {
                Ok(response) => Ok(params.learn(permit, &caller, response, id.flatten()).await),
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

/// Why an attempt must wait, for people.
fn why(reason: HoldReason) -> &'static str {
    match reason {
        HoldReason::Paused => "DevRev has paused its group or its operation",
        HoldReason::Probing => "others must show first that DevRev accepts more",
        HoldReason::Spread => "the rest of the window is spread, and it is another's turn",
        HoldReason::Asks => "the fleet is asked for a unit",
        HoldReason::Spent => "the window is spent",
    }
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
            HoldReason::Asks => WaitReason::Shared,
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
    async fn learn(
        &self,
        mut permit: Option<Permit>,
        caller: &Arc<str>,
        response: Response<Body>,
        id: Option<RequestId>,
    ) -> Response<Body> {
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
            if let (Some(retry_after), Some(permit)) = (feedback.retry_after, &mut permit) {
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
        tracing::trace!(
            request_id = id.as_ref().map(RequestId::as_str),
            status = status.as_u16(),
            limit = feedback.limit,
            remaining = feedback.remaining,
            resets_in_ms = feedback.resets_in.map(|left| left.as_millis() as u64),
            retry_after_ms = feedback.retry_after.map(|left| left.as_millis() as u64),
            "what DevRev's answer says of the quota"
        );
        if let Some(permit) = permit {
            permit.answered(caller, Settlement::Answered { feedback, admitted });
        }
        response
    }
}
