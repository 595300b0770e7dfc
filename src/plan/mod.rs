//! What is decided: the immutable product of a configuration.
//!
//! [`Plan::of`] does all that can fail about a configuration, and changes nothing. What is learnt while the gateway runs is in
//! [`State`](crate::state::State), which is reconciled with each new plan. A request sees one plan from its head to its last
//! attempt.

mod identities;
mod tls;
mod token;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;

pub use self::{
    identities::{Identities, KeySource, Methods, SignedTokens},
    tls::ServerTls,
    token::TokenValue,
};
use crate::{
    config::{CallerRules, Config, LogAccess, Problem, Problems, RewriteMode, Roots},
    layer::telemetry::Access as AccessLog,
    policy::{
        circuit, ledger, rate, retry,
        rewrite::{Mode, Rule},
    },
    types::{QuotaRules, RequestLimits},
    upstream::{Bounds, tls::Trust},
};

/// See the module.
#[derive(Debug)]
pub struct Plan {
    /// Who may call, and how each proves it.
    pub identities: Identities,
    /// How DevRev is asked about callers' own tokens; `None` where it is not.
    pub introspection: Option<Introspection>,
    /// How many unknown tokens DevRev is asked about at once.
    pub unknown_at_once: usize,
    /// Upstream credentials by name.
    pub tokens: BTreeMap<Arc<str>, TokenValue>,
    pub rates: Rates,
    pub quota: Arc<Quota>,
    /// By the operation's normalised name.
    pub rewrite: Arc<HashMap<String, Arc<Rule>>>,
    pub retry: Retry,
    pub circuit: circuit::CircuitRules,
    pub max_in_flight: usize,
    pub request: RequestLimits,
    /// For a request's body to arrive: as long as an attempt is given to be answered, as both bound how long a place is held.
    pub body_timeout: Duration,
    pub upstream: Bounds,
    /// The upstream's authority.
    pub host: HeaderValue,
    pub access_log: AccessLog,
    /// With callers; `None` where they connect in the clear.
    pub tls: Option<ServerTls>,
}

/// Everybody's own rate.
#[derive(Debug)]
pub struct Rates {
    /// By the name of the caller.
    pub callers: BTreeMap<Arc<str>, rate::Quota>,
    /// Of each token in mode "validate".
    pub default: rate::Quota,
}

/// How the upstream quota is shared.
#[derive(Debug)]
pub struct Quota {
    pub rules: QuotaRules,
    /// The groups of the file with the names of their callers.
    pub groups: BTreeMap<Arc<str>, Vec<Arc<str>>>,
}

#[derive(Clone, Copy, Debug)]
pub struct Retry {
    pub rules: retry::RetryRules,
    /// Retries that the budget allows per request.
    pub budget_ratio: f64,
    pub max_replay_body: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct Introspection {
    /// How long the word "good" is believed.
    pub ttl: Duration,
}

impl Plan {
    /// Decides everything that follows from a configuration.
    ///
    /// # Errors
    /// What cannot be done about it, by key path.
    pub fn of(config: &Config) -> Result<Plan, Problems> {
        let mut problems = Vec::new();
        let mut problem = |path: String, message: String| problems.push(Problem { path, message });
        let mut tokens = BTreeMap::new();
        for (name, token) in &config.tokens {
            match TokenValue::new(&token.value) {
                Ok(value) => drop(tokens.insert(Arc::from(name.as_str()), value)),
                Err(error) => problem(format!("tokens.{name}"), error.to_string()),
            }
        }
        let authority = config.upstream.url.authority().map_or("", |a| a.as_str());
        let host = HeaderValue::try_from(authority).unwrap_or_else(|error| {
            problem("upstream.url".into(), error.to_string());
            HeaderValue::from_static("")
        });
        let tls = config.listen.tls.as_ref().map(ServerTls::of).transpose();
        let tls = tls.unwrap_or_else(|error| {
            problem("listen.tls".into(), error.to_string());
            None
        });
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        let callers = config.callers.iter();
        Ok(Plan {
            identities: Identities::of(config),
            introspection: config.auth.introspect.then_some(Introspection {
                ttl: config.auth.introspect_ttl,
            }),
            unknown_at_once: unknown_at_once(config),
            tokens,
            rates: Rates {
                callers: callers
                    .map(|(name, caller)| (name.as_str().into(), rate_of(&caller.rules)))
                    .collect(),
                default: rate_of(&config.defaults),
            },
            quota: Arc::new(quota(config)),
            rewrite: Arc::new(rewrite(config)),
            retry: Retry {
                rules: retry::RetryRules {
                    max_attempts: config.retry.max_attempts,
                    backoff_min: config.retry.backoff_min,
                    backoff_max: config.retry.backoff_max,
                },
                budget_ratio: config.retry.budget,
                max_replay_body: config.retry.max_replay_body,
            },
            circuit: circuit::CircuitRules {
                failures: usize::try_from(config.upstream.circuit.failures).unwrap_or(usize::MAX),
                within: config.upstream.circuit.within,
                open: config.upstream.circuit.open,
            },
            max_in_flight: config.limits.max_in_flight,
            request: RequestLimits {
                max_header_bytes: config.limits.max_header_bytes,
                max_headers: config.limits.max_headers,
                max_body: config.limits.max_body,
            },
            body_timeout: config.upstream.attempt_timeout,
            upstream: Bounds {
                connect_timeout: config.upstream.connect_timeout,
                attempt_timeout: config.upstream.attempt_timeout,
                idle_timeout: config.upstream.idle_timeout,
                max_body: config.limits.max_body,
            },
            host,
            access_log: match config.log.access {
                LogAccess::All => AccessLog::All,
                LogAccess::Refused => AccessLog::Refused,
                LogAccess::None => AccessLog::None,
            },
            tls,
        })
    }
}

fn rate_of(rules: &CallerRules) -> rate::Quota {
    rate::Quota {
        count: rules.rate.count,
        per: rules.rate.per,
        burst: rules.burst,
    }
}

/// A quarter of a worker's connections, and with those that wait for it about a quarter of the requests in flight. The rest is
/// for those who are known.
fn unknown_at_once(config: &Config) -> usize {
    let connections = config.upstream.max_connections / 4;
    connections.min(config.limits.max_in_flight / 36)
}

fn quota(config: &Config) -> Quota {
    let mut groups = BTreeMap::<Arc<str>, Vec<Arc<str>>>::new();
    for token in config.tokens.values() {
        groups.entry(token.quota_group.clone()).or_default();
    }
    for (name, caller) in &config.callers {
        let token = caller.token.as_ref();
        if let Some(token) = token.and_then(|token| config.tokens.get(token)) {
            let callers = groups.entry(token.quota_group.clone()).or_default();
            callers.push(name.as_str().into());
        }
    }
    Quota {
        rules: QuotaRules {
            ledger: ledger::LedgerRules {
                spread_above: config.quota.spread_above,
                reserve: config.quota.reserve,
                max_retry_after: config.retry.max_retry_after,
            },
            max_waiting: config.quota.max_waiting,
        },
        groups,
    }
}

fn rewrite(config: &Config) -> HashMap<String, Arc<Rule>> {
    let mut rules = HashMap::new();
    for rule in &config.rewrite {
        let mode = match rule.mode {
            RewriteMode::Off => continue,
            RewriteMode::Report => Mode::Report,
            RewriteMode::Rewrite => Mode::Rewrite,
            RewriteMode::Refuse => Mode::Refuse,
        };
        let rename = rule
            .rename
            .iter()
            .map(|(old, new)| (old.clone(), new.clone()))
            .collect();
        let link = rule.link.as_ref();
        let link = link
            .and_then(|page| HeaderValue::try_from(format!("<{page}>; rel=\"deprecation\"")).ok());
        let rule_of_all = Arc::new(Rule { rename, mode, link });
        for operation in &rule.operations {
            rules.insert(operation.clone(), rule_of_all.clone());
        }
    }
    rules
}

/// Roots of the file in TLS's terms.
pub fn trust(roots: &Roots) -> Trust<'_> {
    match roots {
        Roots::Bundled => Trust::Bundled,
        Roots::System => Trust::System,
        Roots::File(path) => Trust::File(path),
    }
}
