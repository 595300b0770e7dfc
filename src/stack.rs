//! The whole way of a request, outermost first.
//!
//! | extension | written by | read by |
//! |---|---|---|
//! | [`InboundFault`](crate::body::InboundFault) | `serve` | `telemetry`, `rewrite`, `retry`, `upstream` |
//! | [`Peer`](crate::types::Peer) | `serve` | `authenticate` |
//! | [`RequestId`](crate::types::RequestId), [`Record`](crate::record::Record) | `telemetry` | all below |
//! | [`Named`](crate::types::Named) | `protocol` | `authorize`, `rewrite`, `retry`, `gate`, `quota`, `credential`, `attempt` |
//! | [`Caller`], [`Deadline`](crate::types::Deadline), [`OwnToken`](crate::types::OwnToken) | `authenticate` | all below |
//! | [`Arrived`](crate::types::Arrived) | `authenticate` | `quota` |
//! | [`TokenRefused`](crate::types::TokenRefused), on the answer | `credential` | `quota` |
//! | [`Demand`](crate::types::Demand), on the answer | `quota` | `circuit`, `retry` |
//!
//! A question about a caller's own token begins at `retry`, and `authenticate` gives it what is written above that.

use std::{collections::HashMap, convert::Infallible, sync::Arc};

use http::{HeaderValue, Request, Response};
use tower::{Service, ServiceBuilder, util::BoxCloneService};

use crate::{
    body::Body,
    config::{AuthMode, CallerCredential, CallerRules, Config, Jwks},
    error::Error,
    layer::{
        BoxFuture, admission, attempt, authenticate, authorize, circuit,
        credential::{self, gate},
        headers, protocol, quota, rate_limit, rescue, retry, rewrite, telemetry,
    },
    policy::{
        access::Access,
        fair::Share,
        jwt::Expected,
        retry::Rules,
        rewrite::{Mode, Rule},
    },
    telemetry::keys::Keys,
    types::Caller,
};

mod shared;

pub use self::shared::Shared;
pub(crate) use self::shared::{circuit_of, quota_of};

/// The stack with its types forgotten; one clone serves one request.
pub type Stack = BoxCloneService<Request<Body>, Response<Body>, Infallible>;

/// Puts the stack together for one worker and its upstream: the socket, or a model of DevRev in its place.
///
/// # Errors
/// When a token or the upstream's authority cannot stand in a header.
pub fn build<S>(config: &Config, shared: &Shared, upstream: S) -> Result<Stack, http::Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error, Future = BoxFuture>
        + Clone
        + Send
        + 'static,
{
    let metrics = || shared.metrics.clone();
    let limiters = shared.limiters.load_full();
    // A body must arrive in the time that an attempt is given to be answered: both bound how long a place is held.
    let body_timeout = config.upstream.attempt_timeout;
    let host = config
        .upstream
        .url
        .authority()
        .map_or("", |authority| authority.as_str());

    let below = authenticate::Below::default();

    let stack = ServiceBuilder::new()
        // Sees the final status, also of refusals, panics and callers that left.
        .layer(telemetry::TelemetryLayer::new(telemetry::Parameters {
            metrics: metrics(),
            tally: shared.tally.clone(),
            access: config.log.access,
            spans: shared.spans.clone(),
        }))
        // The seam: below `Result<_, Error>`, above always an answer.
        .layer(rescue::RescueLayer)
        // The cheapest refusal, before any work; its permit lives until the answer's body has ended.
        .layer(admission::AdmissionLayer::new(admission::Parameters {
            in_flight: shared.in_flight.clone(),
            max_in_flight: config.limits.max_in_flight,
        }))
        // What hyper leaves unchecked, before anything is believed of the request. Names the operation.
        .layer(protocol::ProtocolLayer::new(protocol::Parameters {
            max_header_bytes: config.limits.max_header_bytes,
            max_headers: config.limits.max_headers,
            max_body: config.limits.max_body,
        }))
        // From here a `Caller` is known; its credential is gone.
        .layer(authenticate::AuthenticateLayer::new(
            identities(
                config,
                config
                    .auth
                    .introspect
                    .then(|| introspection(config, shared, &below)),
                shared.signing_keys.load_full(),
                &shared.keys,
            ),
            metrics(),
        ))
        // Before rate and quota: a forbidden call costs nothing.
        .layer(authorize::AuthorizeLayer::new(authorize::Parameters {
            rate: {
                let limiters = limiters.clone();
                Arc::new(move |caller, own| limiters.told(caller, own))
            },
            metrics: metrics(),
        }))
        // The caller's own rate, once per request.
        .layer(rate_limit::RateLimitLayer::new(rate_limit::Parameters {
            callers: limiters.of_callers(),
            tokens: limiters.of_tokens(),
            metrics: metrics(),
        }))
        // Once: what is retried is already right.
        .layer(rewrite::RewriteLayer::new(rewrite::Parameters {
            rules: rules(config),
            max_body: config.limits.max_body,
            body_timeout,
            metrics: metrics(),
        }))
        // `authenticate` asks DevRev about a caller's own token by the same way, from here down.
        .layer_fn(|attempts| below.keep(attempts))
        // From here down it is an attempt; waits hold no upstream slot.
        .layer(retry::RetryLayer::new(retry::Parameters {
            rules: retry_of(config),
            budget: shared.budget.clone(),
            epoch: shared.epoch,
            max_replay_body: config.retry.max_replay_body,
            max_body: config.limits.max_body,
            body_timeout,
            draining: shared.draining.clone(),
            metrics: metrics(),
        }))
        // Per attempt, so that each counts and a retry stops too. Above quota: what an open circuit refuses takes no unit
        // and waits for none. Below it, the answers' demands are read already.
        .layer(circuit::CircuitLayer::new(circuit::Parameters {
            circuit: shared.circuit.clone(),
            epoch: shared.epoch,
            metrics: metrics(),
        }))
        // What would go out with a token that DevRev refuses. Per attempt, and above quota: a dead token takes no unit and waits for
        // none. Below the circuit: while nothing is sent, no probe of a token is spent.
        .layer(gate::GateLayer::new(gate::Parameters {
            tokens: shared.tokens.clone(),
            epoch: shared.epoch,
        }))
        // Every attempt needs leave of its group, and waits its turn for it; every answer tells the group.
        .layer(quota::QuotaLayer::new(quota::Parameters {
            groups: shared.groups.clone(),
            max_retry_after: config.retry.max_retry_after,
            draining: shared.draining.clone(),
            in_flight: shared.in_flight.clone(),
            metrics: metrics(),
        }))
        // Strips what must not go on. Above the credential: a caller's `Connection: authorization` must not strip ours.
        .layer(headers::HeadersLayer::new(headers::Parameters {
            host: HeaderValue::try_from(host)?,
        }))
        // Per attempt, so that a rotated token is used.
        .layer(credential::CredentialLayer::new(credential::Parameters {
            tokens: shared.tokens.clone(),
            epoch: shared.epoch,
            metrics: metrics(),
        }))
        // Names this attempt to upstream, and times it: all that is below is upstream.
        .layer(attempt::AttemptLayer)
        // The only socket.
        .service(upstream);
    Ok(BoxCloneService::new(stack))
}

pub(crate) fn retry_of(config: &Config) -> Rules {
    Rules {
        max_attempts: config.retry.max_attempts,
        backoff_min: config.retry.backoff.min,
        backoff_max: config.retry.backoff.max,
    }
}

/// The name of callers that have none, and of groups likewise.
const OTHER: &str = "other";

fn share(caller: &str, rules: &CallerRules) -> Share {
    Share {
        caller: caller.into(),
        weight: rules.weight,
        priority: rules.priority,
    }
}

/// `fetched` are the keys of an issuer that publishes them; those of a file are in the configuration.
pub(crate) fn identities(
    config: &Config,
    introspection: Option<authenticate::Introspection>,
    fetched: Option<Arc<authenticate::SigningKeys>>,
    used: &Keys,
) -> authenticate::Parameters {
    if config.auth.mode == AuthMode::Validate {
        let rules = &config.defaults;
        return authenticate::Parameters::Validate {
            rules: authenticate::Rules {
                share: share(OTHER, rules),
                access: Access::new(&rules.allow, &rules.deny),
                max_wait: rules.max_wait,
                enforce: rules.enforce,
            },
            introspection,
        };
    }
    let (mut keys, mut subjects, mut anonymous) = (HashMap::new(), HashMap::new(), None);
    let mut peers = authenticate::Peers::default();
    for (name, caller) in &config.callers {
        let token = caller.token.as_ref();
        let group = token
            .and_then(|token| config.tokens.get(token))
            .map(|token| token.quota_group.clone());
        let identity = Arc::new(Caller {
            name: name.as_str().into(),
            token: token.map(|token| Arc::from(token.as_str())),
            group: group.unwrap_or_else(|| OTHER.into()),
            share: share(name, &caller.rules),
            access: Access::new(&caller.rules.allow, &caller.rules.deny),
            max_wait: caller.rules.max_wait,
            enforce: caller.rules.enforce,
        });
        match &caller.credential {
            CallerCredential::Keys(hashes) => keys.extend(hashes.iter().map(|hash| {
                let known = authenticate::Known {
                    caller: identity.clone(),
                    used: used.of(hash),
                };
                (*hash, known)
            })),
            CallerCredential::JwtSubject(subject) => {
                drop(subjects.insert(subject.clone(), identity))
            }
            CallerCredential::San(san) => drop(peers.sans.insert(san.clone(), identity)),
            CallerCredential::Uid(uid) => drop(peers.uids.insert(*uid, identity)),
            CallerCredential::Anonymous => anonymous = Some(identity),
        }
    }
    let signed = config.auth.jwt.as_ref().map(|jwt| {
        Arc::new(authenticate::SignedTokens {
            expected: Expected {
                issuer: jwt.issuer.clone(),
                audience: jwt.audience.clone(),
            },
            subjects,
            keys: match &jwt.jwks {
                Jwks::File { keys, .. } => authenticate::SigningKeys::fixed(keys.clone()),
                Jwks::Url { .. } => fetched.unwrap_or_else(authenticate::SigningKeys::none),
            },
        })
    });
    authenticate::Parameters::Inject(authenticate::Methods {
        keys: authenticate::Keys(keys),
        signed,
        peers,
        anonymous,
    })
}

/// DevRev is asked about a token by an attempt like any other; what it costs is its user's.
fn introspection(
    config: &Config,
    shared: &Shared,
    below: &authenticate::Below,
) -> authenticate::Introspection {
    let groups = shared.groups.clone();
    authenticate::Introspection {
        memory: shared.memory.clone(),
        ttl: config.auth.introspect_ttl,
        attempt_timeout: config.upstream.attempt_timeout,
        below: below.clone(),
        adopt: Arc::new(move |stranger, owner, told| groups.adopt(stranger, owner, told)),
        metrics: shared.metrics.clone(),
    }
}

pub(crate) fn rules(config: &Config) -> HashMap<String, Arc<Rule>> {
    let mut rules = HashMap::new();
    for rule in &config.rewrite {
        if rule.mode == Mode::Off {
            continue;
        }
        let rename = rule
            .rename
            .iter()
            .map(|(old, new)| (old.clone(), new.clone()))
            .collect();
        let link = rule.link.as_ref();
        let link = link
            .and_then(|page| HeaderValue::try_from(format!("<{page}>; rel=\"deprecation\"")).ok());
        let rule_of_all = Arc::new(Rule {
            rename,
            mode: rule.mode,
            link,
        });
        for operation in &rule.operations {
            rules.insert(operation.clone(), rule_of_all.clone());
        }
    }
    rules
}
