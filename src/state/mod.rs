//! What revgate learns while it runs. It outlives a configuration and is shared by all workers.
//!
//! A [`Plan`] holds what the configuration decides. [`State::reconcile`] adds what a new plan names and drops what it no longer
//! names; it cannot fail. Requests pass the rules of their plan with each call, so that a request sees one configuration.

pub(crate) mod circuit;
mod clock;
pub mod connections;
pub mod draining;
pub(crate) mod handshakes;
pub(crate) mod introspection;
pub(crate) mod key_usage;
pub mod limiters;
pub mod quota;
pub(crate) mod retry_budget;
pub(crate) mod signing_keys;
pub(crate) mod tokens;

use std::sync::Arc;

use tokio::runtime::Handle;

pub use self::clock::Clock;
use self::{
    circuit::UpstreamCircuit,
    draining::Draining,
    handshakes::Handshakes,
    introspection::{IntrospectionCache, NoRandomness},
    key_usage::KeyUsage,
    limiters::{Limiters, purses::Purses},
    quota::{Fleet, Groups},
    retry_budget::RetryBudget,
    signing_keys::SigningKeyStore,
    tokens::Tokens,
};
use crate::{
    allocation::Pool,
    plan::{Identities, KeySource, Plan},
    telemetry::{
        client_lines::ClientLines, metrics::Metrics, shared::FleetStatus, tally::Tally,
        trace::Spans,
    },
    upstream::Proxy,
};

/// All shared state; see the module.
pub struct State {
    pub metrics: Arc<Metrics>,
    pub tally: Arc<Tally>,
    /// Which of the log lines that any client can cause are written.
    pub client_lines: Arc<ClientLines>,
    /// The queue of spans; `None` if none are exported.
    pub spans: Option<Arc<Spans>>,
    pub draining: Draining,
    /// Places in flight.
    pub in_flight: Arc<Pool>,
    /// Bytes of bodies and answers in memory.
    pub buffered: Arc<Pool>,
    /// Turns to rewrite a body that takes long.
    pub rewriting: Arc<Pool>,
    /// Bytes of large request heads; see `allocation::HEADS`.
    pub heads: Arc<Pool>,
    /// Bytes that heads of HTTP/2 may take while they are decoded; see `allocation::DECODING`.
    pub decoding: Arc<Pool>,
    pub groups: Arc<Groups>,
    /// What is known of the fleet; `None` where there is none.
    pub fleet: Option<Arc<FleetStatus>>,
    pub retry_budget: Arc<RetryBudget>,
    /// Of retries after a 429 that names no time.
    pub throttled_budget: Arc<RetryBudget>,
    pub circuit: Arc<UpstreamCircuit>,
    pub limiters: Limiters,
    pub tokens: Arc<Tokens>,
    /// How callers' keys are used.
    pub key_usage: KeyUsage,
    /// What introspection says about callers' own tokens.
    pub introspection: Arc<IntrospectionCache>,
    pub signing_keys: SigningKeyStore,
    /// The proxy to DevRev, with the credentials of the latest plan.
    pub(crate) proxy: Option<Proxy>,
    /// `None` if clients connect without TLS.
    pub handshakes: Option<Handshakes>,
}

/// What makes a process a replica of a fleet.
pub(crate) struct Joining {
    pub status: Arc<FleetStatus>,
    pub fleet: Fleet,
    pub purses: Arc<Purses>,
}

impl State {
    /// State without any knowledge. `background` runs fetches that no request waits on; it serves no requests.
    ///
    /// # Errors
    /// If the system provides no random numbers.
    pub fn new(plan: &Plan, draining: Draining, background: Handle) -> Result<State, NoRandomness> {
        State::of_replica(plan, draining, background, None)
    }

    /// As [`State::new`], of a replica of a fleet if there is a function, which joins it.
    ///
    /// # Errors
    /// See [`State::new`].
    pub(crate) fn of_replica(
        plan: &Plan,
        draining: Draining,
        background: Handle,
        join: Option<&mut dyn FnMut(Clock, Arc<ClientLines>) -> Joining>,
    ) -> Result<State, NoRandomness> {
        let clock = Clock::start();
        let client_lines = Arc::<ClientLines>::default();
        let joining = join.map(|join| join(clock, client_lines.clone()));
        let (status, fleet, purses) = match joining {
            Some(joining) => (
                Some(joining.status),
                Some(joining.fleet),
                Some(joining.purses),
            ),
            None => (None, None, None),
        };
        let groups = Groups::in_fleet(plan.quota.clone(), clock, client_lines.clone(), fleet);
        let groups = Arc::new(groups);
        let mut metrics = Metrics::new();
        let watched = groups.clone();
        metrics.watch_quota(move || watched.samples());
        if let Some(fleet) = status.clone() {
            let named = groups.clone();
            metrics.watch_fleet(fleet, move |group| named.is_configured(group));
        }
        let metrics = Arc::new(metrics);
        let proxy = plan.proxy.as_ref().map(|proxy| Proxy::new(&proxy.url));
        let state = State {
            tally: Arc::default(),
            client_lines: client_lines.clone(),
            spans: None,
            draining,
            in_flight: Pool::new(),
            buffered: Pool::new(),
            rewriting: Pool::new(),
            heads: Pool::new(),
            decoding: Pool::new(),
            groups,
            fleet: status,
            retry_budget: Arc::new(RetryBudget::new(clock)),
            throttled_budget: Arc::new(RetryBudget::new(clock)),
            circuit: Arc::new(UpstreamCircuit::new(
                clock,
                metrics.clone(),
                client_lines.clone(),
            )),
            limiters: match purses {
                Some(purses) => Limiters::in_fleet(&plan.rates, clock, purses),
                None => Limiters::new(&plan.rates, clock),
            },
            tokens: Arc::new(Tokens::new(
                &plan.tokens,
                clock,
                metrics.clone(),
                client_lines,
            )),
            key_usage: KeyUsage::default(),
            introspection: Arc::new(IntrospectionCache::new(plan.max_introspections, clock)?),
            signing_keys: SigningKeyStore::new(background, clock, metrics.clone(), proxy.clone()),
            proxy,
            handshakes: plan.tls.clone().map(Handshakes::new),
            metrics,
        };
        state.reconcile(plan);
        Ok(state)
    }

    /// Adds what this plan names and keeps what is known of everything that stays the same. Cannot fail, and changes no answer
    /// by itself: requests follow a new plan when stacks built for it are published.
    pub fn reconcile(&self, plan: &Plan) {
        // First, because keys may be fetched through it from here on.
        if let (Some(proxy), Some(plan)) = (&self.proxy, &plan.proxy) {
            proxy.set_credentials(plan.credentials.clone());
        }
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
