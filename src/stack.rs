//! The layers that a request goes through, outermost first.
//!
//! The extensions of requests and responses, with the layers that write and read each:
//!
//! | extension | written by | read by |
//! |---|---|---|
//! | [`InboundFault`](crate::body::InboundFault) | `serve` | `telemetry`, `rewrite`, `retry`, `circuit`, `upstream` |
//! | [`Peer`](crate::types::Peer) | `serve` | `authenticate` |
//! | [`PeerAddress`](crate::types::PeerAddress) | `serve` | `telemetry`, `authenticate`, `admission` |
//! | [`RequestId`](crate::types::RequestId) | `telemetry`, `authenticate`, `credential` | `rescue`, `protocol`, `authenticate`, `rate_limit`, `retry`, `quota`, `lane`, `headers` |
//! | [`Record`](crate::record::Record) | `telemetry`, `authenticate` | `rescue`, `protocol`, `authenticate`, `authorize`, `rate_limit`, `rewrite`, `retry`, `quota`, `lane`, `attempt` |
//! | [`Operation`](crate::policy::operation::Operation) | `protocol`, `authenticate`, `credential` | `authenticate`, `authorize`, `rewrite`, `retry`, `circuit`, `credential`, `quota`, `attempt` |
//! | [`Caller`](crate::types::Caller) | `authenticate`, `credential` | `admission`, `authorize`, `rate_limit`, `retry`, `circuit`, `credential`, `quota` |
//! | [`CallerToken`](crate::types::CallerToken) | `authenticate` | `authorize`, `rate_limit`, `circuit`, `credential` |
//! | `Verdict` | `authenticate` | `credential` |
//! | [`UnknownUser`](crate::types::UnknownUser) | `authenticate` | `retry`, `circuit` |
//! | [`OpenConnection`](crate::state::connections::OpenConnection) | `serve` | `authenticate` |
//! | [`Place`](crate::allocation::Place) | `admission`, `authenticate` | `allocation`, `quota`, `lane` |
//! | `Lane` | `lane` | `upstream` |
//! | [`Deadline`](crate::types::Deadline) | `authenticate`, `credential` | `rewrite`, `retry`, `credential`, `quota`, `lane` |
//! | [`ArrivedAt`](crate::types::ArrivedAt) | `authenticate`, `credential` | `quota` |
//! | `Confirms`, on a confirmation | `credential` | `credential` |
//! | `Unauthorized`, on the answer | `credential` | `credential` |
//! | [`RetryAfter`](crate::types::RetryAfter), on the answer | `quota` | `authenticate`, `circuit`, `retry` |
//!
//! `attempts`, from `retry` down, is a stack of its own. The introspection of a caller's token enters there, and `authenticate` writes
//! the extensions that the layers above would have written. A confirmation of a token enters at `quota`, with those of `credential`.

use std::{collections::HashMap, convert::Infallible, sync::Arc};

use http::{Request, Response};
use tower::{Service, ServiceBuilder, util::BoxCloneSyncService};

use crate::{
    allocation::PlanPool,
    body::Body,
    error::Error,
    layer::{
        BodyLimits, BoxFuture, Places, admission, attempt,
        authenticate::{
            self, Attempts, Authenticator, Introspector, Keys, KnownKey, Methods, Peers,
            SignedTokens,
        },
        authorize, circuit, collect,
        credential::{self, token_gate},
        headers, lane, protocol, quota, rate_limit, rescue, retry, rewrite, telemetry,
    },
    plan::{CallerCredentials, Identities, Plan},
    state::State,
    upstream::Lanes,
};

/// The type-erased stack. One clone serves one request.
pub type Stack = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// What attempts are sent to: the connection pool, or a model of DevRev in a test.
pub trait Upstream:
    Service<Request<Body>, Response = Response<Body>, Error = Error, Future = BoxFuture>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Upstream for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error, Future = BoxFuture>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Builds the stack for one worker. `lanes` are those of `upstream`, if it has connections. Has no side effects. `state` must have been reconciled with `plan`.
pub fn build(plan: &Plan, state: &State, upstream: impl Upstream, lanes: Option<Lanes>) -> Stack {
    let metrics = || state.metrics.clone();
    let limiters = state.limiters.of_plan();
    let attempts = attempts(plan, state, upstream, lanes);
    // Introspection is an attempt like any other.
    let introspection = Attempts::new(attempts.clone());
    let authenticator = Arc::new(authenticator(plan, state, introspection));
    let telemetry = Arc::new(telemetry::TelemetryParams {
        metrics: metrics(),
        tally: state.tally.clone(),
        access: plan.access_log,
        client_lines: state.client_lines.clone(),
        spans: state.spans.clone(),
    });
    let rewrite = Arc::new(rewrite::RewriteParams {
        rules: plan.rewrite.clone(),
        max_rewrite_body: plan.max_rewrite_body,
        body: body_limits(plan, state),
        turns: PlanPool {
            pool: state.rewriting.clone(),
            capacity: 1,
        },
        draining: state.draining.clone(),
        metrics: metrics(),
    });

    let places = Places {
        pool: state.in_flight.clone(),
        max: plan.max_in_flight,
        heads: state.heads.clone(),
    };
    let callers_are_known = authenticator.callers_are_known();

    let stack = ServiceBuilder::new()
        // Sees the final status, also of refusals, panics and callers that went away.
        .layer_fn(|inner| telemetry::Telemetry::new(inner, telemetry.clone()))
        // Turns an `Error` from below into an answer, so that there always is one above.
        .layer_fn(rescue::Rescue::new)
        // Checks what hyper does not, before anything of the request is trusted. Names the operation.
        .layer_fn(|inner| protocol::Protocol::new(inner, plan.request))
        // Below it the `Caller` is known, and its credential is out of the headers.
        .layer_fn(|inner| {
            authenticate::Authenticate::new(inner, authenticator.clone(), places.clone(), metrics())
        })
        // Deals the places in flight among callers, so it must know them. Above everything that waits or costs the caller something.
        .layer_fn(|inner| admission::Admission::new(inner, places.clone(), callers_are_known))
        // Above rate limit and quota: a forbidden call costs nothing.
        .layer_fn(|inner| authorize::Authorize::new(inner, limiters.clone(), metrics()))
        // The caller's rate limit, once per request.
        .layer_fn(|inner| rate_limit::RateLimit::new(inner, limiters.clone(), metrics()))
        // Once per request: a retry sends the rewritten body.
        .layer_fn(|inner| rewrite::Rewrite::new(inner, rewrite.clone()))
        .service(attempts);
    BoxCloneSyncService::new(stack)
}

/// The layers that every attempt goes through, outermost first.
fn attempts(
    plan: &Plan,
    state: &State,
    upstream: impl Upstream,
    lanes: Option<Lanes>,
) -> impl Upstream {
    let metrics = || state.metrics.clone();
    let tokens = state.tokens.of_plan();
    let retry = Arc::new(retry::RetryParams {
        rules: plan.retry.rules,
        budget: state.retry_budget.clone(),
        budget_ratio: plan.retry.budget_ratio,
        throttled: state.throttled_budget.clone(),
        max_replay_body: plan.retry.max_replay_body,
        body: body_limits(plan, state),
        draining: state.draining.clone(),
        metrics: metrics(),
    });
    let quota = Arc::new(quota::QuotaParams {
        groups: state.groups.clone(),
        rules: plan.quota.rules,
        draining: state.draining.clone(),
        metrics: metrics(),
        tally: state.tally.clone(),
    });

    ServiceBuilder::new()
        // Each attempt of a request goes through the layers below. Waits hold no connection to DevRev.
        .layer_fn(|inner| retry::Retry::new(inner, retry.clone()))
        // Above `quota`, which may put back a part of what it has read.
        .layer_fn(|inner| collect::Collect::new(inner, buffered(plan, state)))
        // Per attempt, so that each counts and an open circuit stops retries too. Above `quota`: a refused attempt takes no unit
        // and waits for none, and answers come with the retry-after that `quota` has read.
        .layer_fn(|inner| circuit::CircuitBreaker::new(inner, state.circuit.clone(), plan.circuit))
        // Stops attempts with a token that DevRev refuses, and has a 401 confirmed. Above `quota`: refused attempts take no unit and
        // wait for none, and a confirmation takes one as an attempt does. Below `circuit`: while nothing is sent, no probe of a token
        // is wasted, and an open circuit does not stop a confirmation.
        .layer_fn(|inner| token_gate::TokenGate::new(inner, tokens.clone(), state.draining.clone()))
        // Every attempt waits its turn for a grant of its group; every answer updates the group.
        .layer_fn(|inner| quota::Quota::new(inner, quota.clone()))
        // Every attempt waits its turn for a connection. Below `quota`, so that no wait for quota holds one.
        .layer_fn(|inner| lane::Lane::new(inner, lanes.clone(), state.draining.clone(), metrics()))
        // Strips headers that are not forwarded. Above `credential`: a caller's `Connection: authorization` must not strip the token.
        .layer_fn(|inner| headers::Headers::new(inner, plan.host.clone()))
        // Per attempt, so that a rotated token is used.
        .layer_fn(|inner| credential::Credential::new(inner, tokens.clone()))
        // Propagates the trace to DevRev and times the attempt: below is nothing but DevRev.
        .layer_fn(|inner| attempt::Attempt::new(inner, metrics(), state.tally.clone()))
        // The only socket.
        .service(upstream)
}

fn body_limits(plan: &Plan, state: &State) -> BodyLimits {
    BodyLimits {
        max: plan.request.max_body,
        buffered: buffered(plan, state),
    }
}

fn buffered(plan: &Plan, state: &State) -> PlanPool {
    PlanPool {
        pool: state.buffered.clone(),
        capacity: plan.max_buffered,
    }
}

fn authenticator(plan: &Plan, state: &State, attempts: Attempts) -> Authenticator {
    match &plan.identities {
        Identities::Inject(credentials) => Authenticator::Inject(methods(credentials, state)),
        Identities::Validate(template) => Authenticator::Validate {
            template: template.clone(),
            introspector: plan.introspection_ttl.map(|ttl| Introspector {
                cache: state.introspection.clone(),
                ttl,
                attempt_timeout: plan.upstream.attempt_timeout,
                attempts,
                groups: state.groups.clone(),
                quota: plan.quota.rules,
                draining: state.draining.clone(),
                metrics: state.metrics.clone(),
            }),
        },
    }
}

/// The callers of the plan, with the signing keys and the counters of the state.
fn methods(credentials: &CallerCredentials, state: &State) -> Methods {
    let keys = credentials.keys.iter().map(|(hash, caller)| {
        let usage = state.key_usage.of(hash);
        let caller = caller.clone();
        (*hash, KnownKey { caller, usage })
    });
    let signed = credentials
        .signed
        .as_ref()
        .zip(state.signing_keys.current());
    Methods {
        keys: Keys(keys.collect::<HashMap<_, _>>()),
        signed: signed.map(|(signed, keys)| {
            Arc::new(SignedTokens {
                expected: signed.expected.clone(),
                subjects: signed.subjects.clone(),
                keys,
                client_lines: state.client_lines.clone(),
            })
        }),
        peers: Peers {
            client_lines: state.client_lines.clone(),
            sans: credentials.sans.clone(),
            uids: credentials.uids.clone(),
        },
        anonymous: credentials.anonymous.clone(),
        hosts: credentials.hosts.clone(),
    }
}
