//! What is learnt: all that outlives a configuration, shared by all workers.
//!
//! [`Plan`] is what is decided. [`State::reconcile`] makes room for what a new plan names and forgets what it names no more; it
//! cannot fail. The rules of a plan come with each call that a request makes, so that a request sees one configuration.

pub mod circuit;
mod clock;
pub mod draining;
pub mod handshakes;
pub mod in_flight;
pub mod introspection;
pub mod key_usage;
pub mod limiters;
pub mod quota;
pub mod retry_budget;
pub mod signing_keys;
pub mod tokens;

use std::sync::Arc;

use tokio::runtime::Handle;

pub use self::clock::Clock;
use self::{
    circuit::UpstreamCircuit,
    draining::Draining,
    handshakes::Handshakes,
    in_flight::InFlight,
    introspection::{IntrospectionCache, NoRandomness},
    key_usage::KeyUsage,
    limiters::Limiters,
    quota::Groups,
    retry_budget::RetryBudget,
    signing_keys::SigningKeyStore,
    tokens::Tokens,
};
use crate::{
    plan::{Identities, KeySource, Plan},
    telemetry::{metrics::Metrics, tally::Tally, trace::Spans},
};

/// See the module.
pub struct State {
    pub metrics: Arc<Metrics>,
    pub tally: Arc<Tally>,
    /// Where spans go; `None` where none are exported.
    pub spans: Option<Arc<Spans>>,
    pub draining: Draining,
    pub in_flight: Arc<InFlight>,
    pub groups: Arc<Groups>,
    pub retry_budget: Arc<RetryBudget>,
    pub circuit: Arc<UpstreamCircuit>,
    pub limiters: Limiters,
    pub tokens: Arc<Tokens>,
    /// How callers' keys are used.
    pub key_usage: KeyUsage,
    /// What introspection says about the tokens that callers bring.
    pub introspection: Arc<IntrospectionCache>,
    pub signing_keys: SigningKeyStore,
    /// `None` where callers connect in the clear.
    pub handshakes: Option<Handshakes>,
}

impl State {
    /// Nothing is known yet. `background` is for what is fetched unasked; no request is served on it.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn new(plan: &Plan, draining: Draining, background: Handle) -> Result<State, NoRandomness> {
        let clock = Clock::start();
        let groups = Arc::new(Groups::new(plan.quota.clone(), clock));
        let mut metrics = Metrics::new();
        let watched = groups.clone();
        metrics.watch_quota(move || watched.samples());
        let metrics = Arc::new(metrics);
        let state = State {
            tally: Arc::default(),
            spans: None,
            draining,
            in_flight: Arc::default(),
            groups,
            retry_budget: Arc::new(RetryBudget::new(clock)),
            circuit: Arc::new(UpstreamCircuit::new(clock, metrics.clone())),
            limiters: Limiters::new(&plan.rates, clock),
            tokens: Arc::new(Tokens::new(&plan.tokens, clock, metrics.clone())),
            key_usage: KeyUsage::default(),
            introspection: Arc::new(IntrospectionCache::new(plan.max_introspections, clock)?),
            signing_keys: SigningKeyStore::new(background, clock, metrics.clone()),
            handshakes: plan.tls.clone().map(Handshakes::new),
            metrics,
        };
        state.reconcile(plan);
        Ok(state)
    }

    /// Makes room for what this plan names, and keeps what is known of whatever stays as it is. Cannot fail, and changes no
    /// answer by itself: that is done by the stacks that are built for the plan.
    pub fn reconcile(&self, plan: &Plan) {
        self.groups.reconcile(plan.quota.clone());
        self.limiters.reconcile(&plan.rates);
        self.tokens.reconcile(&plan.tokens);
        let (keys, signed) = match &plan.identities {
            Identities::Inject(credentials) => {
                (Some(&credentials.keys), credentials.signed.as_ref())
            }
            Identities::Validate(_) => (None, None),
        };
        let hashes = keys.into_iter().flat_map(|keys| keys.keys());
        self.key_usage.reconcile(hashes.copied());
        let source: Option<&KeySource> = signed.map(|signed| &signed.source);
        self.signing_keys.reconcile(source);
        if let (Some(handshakes), Some(tls)) = (&self.handshakes, &plan.tls) {
            handshakes.reconcile(tls);
        }
    }
}
