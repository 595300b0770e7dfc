//! The immutable product of a configuration.
//!
//! [`Plan::of`] does everything about a configuration that can fail, and has no side effects. What the gateway learns while it runs
//! is in [`State`](crate::state::State), which is reconciled with each new plan. A request uses one plan from its head to its last
//! attempt.

mod identities;
mod proxy;
mod shared;
mod tls;
mod token_value;

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU64,
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;

pub use self::{
    identities::{CallerCredentials, Identities, KeySource, SignedTokenPlan},
    proxy::ProxyPlan,
    shared::SharedPlan,
    tls::ServerTls,
    token_value::TokenValue,
};
use crate::{
    config::{CallerRules, Config, Problems},
    policy::{
        circuit, ledger,
        progress::{ANSWER_STALL, ProgressRules},
        rate::RateLimit,
        retry,
        rewrite::{Mode, Rule},
    },
    types::{AccessLog, QuotaRules, RequestLimits},
    upstream::Bounds,
};

/// See the module.
#[derive(Debug)]
pub struct Plan {
    /// Who may call, and how each proves it.
    pub identities: Identities,
    /// How long a good result of an introspection is valid; `None` if callers' tokens are not introspected.
    pub introspection_ttl: Option<Duration>,
    /// How many unknown tokens are introspected at once.
    pub max_introspections: usize,
    /// The configured DevRev tokens by name.
    pub tokens: BTreeMap<Arc<str>, TokenValue>,
    pub rates: RatePlan,
    pub quota: Arc<QuotaPlan>,
    /// `None` where each replica shares only what it sees.
    pub shared: Option<SharedPlan>,
    /// By the operation's normalised name.
    pub rewrite: Arc<HashMap<String, Arc<Rule>>>,
    /// Upper bound of a body to which a rewrite rule applies.
    pub max_rewrite_body: u64,
    pub retry: RetryPlan,
    pub circuit: circuit::CircuitRules,
    pub max_in_flight: usize,
    pub request: RequestLimits,
    /// Bytes of bodies and answers in memory at once.
    pub max_buffered: u64,
    pub upstream: Bounds,
    pub proxy: Option<ProxyPlan>,
    /// The upstream's authority.
    pub host: HeaderValue,
    pub access_log: AccessLog,
    /// `None` where clients connect without TLS.
    pub tls: Option<ServerTls>,
}

/// The rate limits of callers.
#[derive(Debug)]
pub struct RatePlan {
    /// By the caller's name.
    pub callers: BTreeMap<Arc<str>, RateLimit>,
    /// The limit of each token in mode "validate".
    pub default: RateLimit,
}

/// How callers share the upstream quota.
#[derive(Debug)]
pub struct QuotaPlan {
    pub rules: QuotaRules,
    /// The groups of the file with the names of their callers.
    pub groups: BTreeMap<Arc<str>, Vec<Arc<str>>>,
}

#[derive(Clone, Copy, Debug)]
pub struct RetryPlan {
    pub rules: retry::RetryRules,
    /// Retries that the budget allows for each request.
    pub budget_ratio: f64,
    pub max_replay_body: usize,
}

impl Plan {
    /// Makes the plan of a configuration.
    ///
    /// # Errors
    /// What is wrong with the configuration, by key path.
    pub fn of(config: &Config) -> Result<Plan, Problems> {
        let mut problems = Vec::new();
        let mut problem =
            |path: &str, message: String| problems.push(config.problem(path, message));
        let mut tokens = BTreeMap::new();
        for (name, token) in &config.tokens {
            match TokenValue::new(&token.secret.value) {
                Ok(value) => drop(tokens.insert(Arc::from(name.as_str()), value)),
                Err(_) => problem(
                    &format!("tokens.{name}"),
                    "holds characters that a header cannot have; store visible ASCII on one line"
                        .into(),
                ),
            }
        }
        let authority = config.upstream.url.authority().map_or("", |a| a.as_str());
        let host = HeaderValue::try_from(authority).unwrap_or_else(|error| {
            problem(
                "upstream.url",
                format!("cannot be a Host: {error}; write the URL of DevRev's API"),
            );
            HeaderValue::from_static("")
        });
        let tls = config.listen.tls.as_ref().map(ServerTls::of).transpose();
        let tls = tls.unwrap_or_else(|error| {
            problem(
                "listen.tls",
                format!("cannot be used: {error}; check its certificates"),
            );
            None
        });
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        let callers = config.callers.iter();
        let min_rate = NonZeroU64::new(config.limits.min_rate);
        Ok(Plan {
            identities: Identities::of(config),
            introspection_ttl: (config.auth.introspect).then_some(config.auth.introspect_ttl),
            max_introspections: max_introspections(config),
            tokens,
            rates: RatePlan {
                callers: callers
                    .map(|(name, caller)| (name.as_str().into(), rate_of(&caller.rules)))
                    .collect(),
                default: rate_of(&config.defaults),
            },
            quota: Arc::new(quota(config)),
            shared: SharedPlan::of(config),
            rewrite: Arc::new(rewrite(config)),
            max_rewrite_body: config.limits.max_rewrite_body,
            retry: RetryPlan {
                rules: retry::RetryRules {
                    max_attempts: config.retry.max_attempts,
                    backoff_min: config.retry.backoff.min,
                    backoff_max: config.retry.backoff.max,
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
                progress: ProgressRules {
                    stall: config
                        .limits
                        .stall_timeout
                        .min(config.upstream.attempt_timeout),
                    min_rate,
                },
            },
            max_buffered: config.limits.max_buffered as u64,
            upstream: Bounds {
                connect_timeout: config.upstream.connect_timeout,
                attempt_timeout: config.upstream.attempt_timeout,
                idle_timeout: config.upstream.idle_timeout,
                max_age: config.upstream.max_age,
                max_body: config.limits.max_body,
                progress: ProgressRules {
                    stall: ANSWER_STALL,
                    min_rate,
                },
            },
            proxy: ProxyPlan::of(config),
            host,
            access_log: config.log.access,
            tls,
        })
    }
}

fn rate_of(rules: &CallerRules) -> RateLimit {
    RateLimit {
        count: rules.rate.count,
        per: rules.rate.per,
        burst: rules.burst,
    }
}

/// A quarter of a worker's connections; together with the requests that wait for one, about a quarter of the requests in flight.
/// The rest is left to known tokens.
fn max_introspections(config: &Config) -> usize {
    let connections = config.upstream.max_connections / 4;
    connections.min(config.limits.max_in_flight / 36)
}

fn quota(config: &Config) -> QuotaPlan {
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
    QuotaPlan {
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
        let shared = Arc::new(Rule {
            rename,
            mode: rule.mode,
            link,
        });
        for operation in &rule.operations {
            rules.insert(operation.clone(), shared.clone());
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `attempt_timeout` is about the head of an answer. A body may take longer, whatever it is.
    #[test]
    fn a_short_attempt_ends_no_answer() {
        let file = "[upstream]\nattempt_timeout = \"1s\"\n[auth]\nmode = \"validate\"";
        let config = crate::config::from_toml(file, &BTreeMap::new()).unwrap();
        let plan = Plan::of(&config).unwrap();
        assert_eq!(plan.upstream.progress.stall, ANSWER_STALL);
        assert_eq!(plan.request.progress.stall, Duration::from_secs(1));
    }
}
