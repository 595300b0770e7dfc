//! What the replicas of a fleet need to share one quota.

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;

use crate::{config::Config, policy::redis_address::Endpoint, types::Roots};

/// See the module. A reload changes none of it.
#[derive(Clone, Debug)]
pub struct SharedPlan {
    pub endpoint: Endpoint,
    /// What the names of keys and channels begin with.
    pub prefix: Arc<str>,
    /// By which the names of groups are hashed. Always there in mode "validate".
    pub name_key: Option<SecretString>,
    /// For one exchange.
    pub timeout: Duration,
    /// What servers are verified by, with TLS.
    pub roots: Roots,
}

impl SharedPlan {
    /// `None` if the configuration names no Redis.
    pub(super) fn of(config: &Config) -> Option<SharedPlan> {
        let shared = config.shared.as_ref()?;
        Some(SharedPlan {
            endpoint: shared.endpoint.clone(),
            prefix: shared.prefix.as_str().into(),
            name_key: shared.name_key.as_ref().map(|key| key.value.clone()),
            timeout: shared.timeout,
            roots: shared.roots.clone(),
        })
    }
}
