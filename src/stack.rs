//! The whole way of a request, outermost first.
//!
//! Who writes and who reads what travels in a request's extensions, or in its answer's:
//!
//! | extension | written by | read by |
//! |---|---|---|
//! | [`InboundFault`](crate::body::InboundFault) | `serve` | `telemetry`, `rewrite`, `retry`, `upstream` |
//! | [`AmbiguousFraming`](crate::types::AmbiguousFraming) | `serve` | `protocol` |
//! | [`Peer`](crate::types::Peer) | `serve` | `authenticate` |
//! | [`RequestId`](crate::types::RequestId) | `telemetry`, `authenticate` | `rescue`, `authenticate`, `headers` |
//! | [`Record`](crate::record::Record) | `telemetry`, `authenticate` | `rescue`, `protocol`, `authenticate`, `authorize`, `rate_limit`, `rewrite`, `retry`, `quota`, `attempt` |
//! | [`Named`](crate::types::Named) | `protocol`, `authenticate` | `authorize`, `rewrite`, `retry`, `credential`, `quota`, `attempt` |
//! | [`Caller`](crate::types::Caller) | `authenticate` | `authorize`, `rate_limit`, `credential`, `quota` |
//! | [`OwnToken`](crate::types::OwnToken) | `authenticate` | `authorize`, `rate_limit`, `credential` |
//! | [`Deadline`](crate::types::Deadline) | `authenticate` | `retry`, `quota` |
//! | [`ArrivedAt`](crate::types::ArrivedAt) | `authenticate` | `quota` |
//! | `Probing` | `credential` | `credential` |
//! | [`TokenRefused`](crate::types::TokenRefused), on the answer | `credential` | `quota` |
//! | [`RetryAfter`](crate::types::RetryAfter), on the answer | `quota` | `authenticate`, `circuit`, `retry` |
//!
//! `attempts`, from `retry` down, is a stack of its own: a question about a caller's own token begins there, and `authenticate` gives it
//! what is written above that.

use std::{collections::HashMap, convert::Infallible, sync::Arc};

use http::{Request, Response};
use tower::{Service, ServiceBuilder, util::BoxCloneSyncService};

use crate::{
    body::Body,
    error::Error,
    layer::{
        BoxFuture, admission, attempt,
        authenticate::{
            self, Attempts, Identification, Introspection, Keys, Known, Methods, Peers,
            SignedTokens,
        },
        authorize, circuit,
        credential::{self, gate},
        headers, protocol, quota, rate_limit, rescue, retry, rewrite, telemetry,
    },
    plan::{self, Identities, Plan},
    state::State,
};

/// The stack with its types forgotten; one clone serves one request.
pub type Stack = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Puts the stack together for one worker and its upstream: the socket, or a model of DevRev in its place. Changes nothing;
/// `state` must have been reconciled with `plan`.
pub fn build<S>(plan: &Plan, state: &State, upstream: S) -> Stack
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error, Future = BoxFuture>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let metrics = || state.metrics.clone();
    let limiters = state.limiters.of_plan();
    let attempts = attempts(plan, state, upstream);
    // DevRev is asked about a caller's own token by an attempt like any other.
    let questions = Attempts::new(attempts.clone());

    let stack = ServiceBuilder::new()
        // Sees the final status, also of refusals, panics and callers that left.
        .layer(telemetry::TelemetryLayer::new(telemetry::TelemetryParams {
            metrics: metrics(),
            tally: state.tally.clone(),
            access: plan.access_log,
            spans: state.spans.clone(),
        }))
        // The seam: below `Result<_, Error>`, above always an answer.
        .layer(rescue::RescueLayer)
        // The cheapest refusal, before any work; its permit lives until the answer's body has ended.
        .layer(admission::AdmissionLayer::new(
            state.in_flight.clone(),
            plan.max_in_flight,
        ))
        // What hyper leaves unchecked, before anything is believed of the request. Names the operation.
        .layer(protocol::ProtocolLayer::new(plan.request))
        // From here a `Caller` is known; its credential is gone.
        .layer(authenticate::AuthenticateLayer::new(
            identification(plan, state, questions),
            metrics(),
        ))
        // Before rate and quota: a forbidden call costs nothing.
        .layer(authorize::AuthorizeLayer::new(limiters.clone(), metrics()))
        // The caller's own rate, once per request.
        .layer(rate_limit::RateLimitLayer::new(limiters, metrics()))
        // Once: what is retried is already right.
        .layer(rewrite::RewriteLayer::new(rewrite::RewriteParams {
            rules: plan.rewrite.clone(),
            max_body: plan.request.max_body,
            body_timeout: plan.body_timeout,
            metrics: metrics(),
        }))
        .service(attempts);
    BoxCloneSyncService::new(stack)
}

/// The way of an attempt, outermost first: from here down, each try of a request comes anew.
fn attempts<S>(
    plan: &Plan,
    state: &State,
    upstream: S,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Error, Future = BoxFuture>
+ Clone
+ Send
+ Sync
+ 'static
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error, Future = BoxFuture>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let metrics = || state.metrics.clone();
    let tokens = state.tokens.of_plan();

    ServiceBuilder::new()
        // From here down it is an attempt; waits hold no upstream slot.
        .layer(retry::RetryLayer::new(retry::RetryParams {
            rules: plan.retry.rules,
            budget: state.retry_budget.clone(),
            budget_ratio: plan.retry.budget_ratio,
            max_replay_body: plan.retry.max_replay_body,
            max_body: plan.request.max_body,
            body_timeout: plan.body_timeout,
            draining: state.draining.clone(),
            metrics: metrics(),
        }))
        // Per attempt, so that each counts and a retry stops too. Above quota: what an open circuit refuses takes no unit
        // and waits for none. Below it, the answers' demands are read already.
        .layer(circuit::CircuitLayer::new(
            state.circuit.clone(),
            plan.circuit,
        ))
        // What would go out with a token that DevRev refuses. Per attempt, and above quota: a dead token takes no unit and waits for
        // none. Below the circuit: while nothing is sent, no probe of a token is spent.
        .layer(gate::GateLayer::new(tokens.clone()))
        // Every attempt needs leave of its group, and waits its turn for it; every answer tells the group.
        .layer(quota::QuotaLayer::new(quota::QuotaParams {
            groups: state.groups.clone(),
            rules: plan.quota.rules,
            draining: state.draining.clone(),
            in_flight: state.in_flight.clone(),
            metrics: metrics(),
        }))
        // Strips what must not go on. Above the credential: a caller's `Connection: authorization` must not strip ours.
        .layer(headers::HeadersLayer::new(plan.host.clone()))
        // Per attempt, so that a rotated token is used.
        .layer(credential::CredentialLayer::new(tokens))
        // Names this attempt to upstream, and times it: all that is below is upstream.
        .layer(attempt::AttemptLayer)
        // The only socket.
        .service(upstream)
}

fn identification(plan: &Plan, state: &State, questions: Attempts) -> Identification {
    match &plan.identities {
        Identities::Inject(methods) => Identification::Inject(known(methods, state)),
        Identities::Validate(everyone) => Identification::Validate {
            everyone: everyone.clone(),
            introspection: plan.introspection.map(|asking| Introspection {
                memory: state.introspection.clone(),
                ttl: asking.ttl,
                attempt_timeout: plan.upstream.attempt_timeout,
                attempts: questions,
                groups: state.groups.clone(),
                quota: plan.quota.rules,
                metrics: state.metrics.clone(),
            }),
        },
    }
}

/// The plan's callers, with what the state has to know them by.
fn known(methods: &plan::Methods, state: &State) -> Methods {
    let keys = methods.keys.iter().map(|(hash, caller)| {
        let used = state.key_usage.of(hash);
        let caller = caller.clone();
        (*hash, Known { caller, used })
    });
    let signed = methods.signed.as_ref().zip(state.signing_keys.current());
    Methods {
        keys: Keys(keys.collect::<HashMap<_, _>>()),
        signed: signed.map(|(signed, keys)| {
            Arc::new(SignedTokens {
                expected: signed.expected.clone(),
                subjects: signed.subjects.clone(),
                keys,
            })
        }),
        peers: Peers {
            sans: methods.sans.clone(),
            uids: methods.uids.clone(),
        },
        anonymous: methods.anonymous.clone(),
    }
}
