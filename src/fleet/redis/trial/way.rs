//! How the server is found that has the key.

use std::sync::Arc;

use super::{CONNECT, Line, Unusable, failure};
use crate::{
    fleet::{
        redis::{
            Server,
            address::{Address, Credentials, Endpoint, Kind},
            answer::CallError,
            cluster::slots::Redirect,
            connection::Target,
            sentinel::{self, Sentinels},
        },
        register::{Failure, Fault, Key},
    },
    plan::SharedPlan,
    upstream::tls,
};

/// From node to node until the one that has the key: one step if the nodes agree.
const HOPS: usize = 3;

pub(super) struct Way<'a> {
    endpoint: &'a Endpoint,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Way<'_> {
    pub(super) fn of(plan: &SharedPlan) -> Result<Way<'_>, Failure> {
        let config = plan.endpoint.tls.then(|| tls::plain_config(&plan.roots));
        let config = config.transpose().map_err(|error| {
            Failure::new(Fault::Down, format!("shared.roots cannot be used: {error}"))
        })?;
        Ok(Way {
            endpoint: &plan.endpoint,
            tls: config.map(Arc::new),
        })
    }

    /// Also the addresses that cannot be used.
    pub(super) async fn find(
        &self,
        key: &Key,
    ) -> Result<(Line, Vec<(Address, Unusable)>), Unusable> {
        let (mut found, mut unusable) = (None, Vec::new());
        for address in &self.endpoint.addresses {
            let tried = match &self.endpoint.kind {
                Kind::Single => self.server(address.clone()).await,
                Kind::Cluster => self.node(address.clone(), key).await,
                Kind::Sentinel {
                    master,
                    credentials,
                } => self.primary(address, master, credentials).await,
            };
            match tried {
                Ok(line) => drop(found.get_or_insert(line)),
                Err(problem) => unusable.push((address.clone(), problem)),
            }
        }
        match (found, unusable.first()) {
            (Some(line), _) => Ok((line, unusable)),
            (None, Some((_, problem))) => Err(problem.clone()),
            (None, None) => Err(Failure::new(Fault::Down, "there is no address").into()),
        }
    }

    async fn server(&self, address: Address) -> Result<Line, Unusable> {
        self.open(self.target(address)).await
    }

    fn target(&self, address: Address) -> Target {
        Target::at(self.endpoint, address, self.tls.as_ref())
    }

    /// A connection, if the server is of the kind that the URL says.
    async fn open(&self, target: Target) -> Result<Line, Unusable> {
        match Line::open(target.clone()).await {
            Ok(line) => match self.of_another_kind(&line) {
                Some(problem) => Err(problem),
                None => Ok(line),
            },
            Err(failure) => Err(self.without_database(target, failure).await),
        }
    }

    fn of_another_kind(&self, line: &Line) -> Option<Unusable> {
        let (what, advice) = line.server.of_another_kind(&self.endpoint.kind)?;
        Some(Unusable {
            failure: Failure::new(Fault::NotWritable, what),
            advice: Some(advice.to_owned()),
        })
    }

    /// Why the login has failed. Sentinels and nodes of a cluster have no databases, and refuse a login to one before they say what they are.
    async fn without_database(&self, target: Target, failure: Failure) -> Unusable {
        if target.database == 0 || !matches!(failure.fault, Fault::Refused | Fault::Denied) {
            return failure.into();
        }
        let Ok(line) = Line::open(Target {
            database: 0,
            ..target
        })
        .await
        else {
            return failure.into();
        };
        self.of_another_kind(&line).unwrap_or_else(|| {
            let advice = match failure.fault {
                Fault::Denied => "give the user the right +select, or name no database",
                _ => "name a database that it has (CONFIG GET databases), or none",
            };
            Unusable {
                failure,
                advice: Some(advice.to_owned()),
            }
        })
    }

    /// The node that has the key, from this one on.
    async fn node(&self, address: Address, key: &Key) -> Result<Line, Unusable> {
        let mut line = self.server(address).await?;
        for _ in 0..HOPS {
            let Err(error) = line.exchange(key, None).await else {
                return Ok(line);
            };
            let redirect = match &error {
                CallError::Refusal(refusal) => Redirect::of(refusal, &line.target.address),
                _ => None,
            };
            let Some(Redirect::Moved(_, owner)) = redirect else {
                return Err(failure(error).into());
            };
            line = self.server(owner).await?;
        }
        let reason = "its nodes do not agree on who has the key";
        Err(Failure::new(Fault::NotWritable, reason).into())
    }

    /// The primary that this Sentinel names.
    async fn primary(
        &self,
        sentinel: &Address,
        master: &Arc<str>,
        credentials: &Option<Credentials>,
    ) -> Result<Line, Unusable> {
        let sentinels = Sentinels {
            credentials: credentials.clone(),
            master: master.clone(),
            server: Server {
                endpoint: self.endpoint.clone(),
                tls: self.tls.clone(),
            },
        };
        let named = sentinels.ask(sentinel, CONNECT).await;
        let named = named.map_err(|failure| of_sentinel(failure, credentials.is_some()))?;
        match sentinels.verified(named.clone(), CONNECT).await {
            Ok(target) => self.open(target).await,
            Err(failure) => Err(self.without_database(self.target(named), failure).await),
        }
    }
}

/// Why a Sentinel names nobody. Its users are its own, and not those of the servers.
fn of_sentinel(failure: Failure, has_user: bool) -> Unusable {
    let right = sentinel::RIGHT;
    let advice = match failure.fault {
        Fault::Denied if has_user => Some(format!(
            "correct sentinel_user and sentinel_password in the URL, and give this user of Sentinel's own the right {right}"
        )),
        Fault::Denied => Some(format!(
            "name a user of Sentinel's own in the URL (?sentinel_user=…&sentinel_password=…) that has the right {right}"
        )),
        Fault::Refused => Some(
            "name Sentinels (their port is 26379 as a rule), or write redis:// for a server that none watches"
                .to_owned(),
        ),
        _ => None,
    };
    Unusable { failure, advice }
}
