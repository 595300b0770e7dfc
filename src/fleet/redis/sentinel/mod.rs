//! The primary, as Sentinel names it.
//!
//! Asked before each attempt to connect, so that a failover is followed. No Sentinel is believed alone: one that was cut off names an old
//! primary. A failover takes the consent of most of them, so what most of them name comes first; and whoever is named must say itself that
//! it is a primary.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{FuturesOrdered, FuturesUnordered},
};
use redis::{Value, cmd};

use super::{
    Server,
    address::{Address, Credentials},
    announced::announced,
    connection::{Connection, Target},
    supervisor::Route,
};
use crate::fleet::register::{Failure, Fault};

/// What is needed at a Sentinel, as an ACL rule. At the servers ROLE is asked for too, if the user may.
pub(crate) const RIGHT: &str = "+sentinel|get-master-addr-by-name";

/// Whom to ask, and what for.
#[derive(Clone)]
pub(crate) struct Sentinels {
    /// The addresses are the Sentinels', all else is the primary's. With its TLS they are asked too.
    pub server: Server,
    /// For the Sentinels.
    pub credentials: Option<Credentials>,
    /// What they call the primary.
    pub master: Arc<str>,
}

/// For asking the Sentinels, and again for asking whom they name. Leaves time to connect within the bound of an attempt.
const STEP: Duration = Duration::from_millis(600);

impl Route for Sentinels {
    fn next(&self) -> BoxFuture<'_, Result<Target, Failure>> {
        Box::pin(self.find(STEP))
    }
}

impl Sentinels {
    /// The primary. Ends within twice this time.
    ///
    /// # Errors
    /// When no Sentinel names a primary that is one, with what the last one said.
    pub(crate) async fn find(&self, within: Duration) -> Result<Target, Failure> {
        let mut problem = Failure::new(Fault::Down, "no Sentinel is configured");
        let sentinels = &self.server.endpoint.addresses;
        let mut asking: FuturesUnordered<_> = sentinels
            .iter()
            .map(|sentinel| self.ask(sentinel, within))
            .collect();
        let mut named: Vec<(usize, Address)> = Vec::new();
        while let Some(answer) = asking.next().await {
            match answer {
                Err(failure) => problem = failure,
                Ok(address) => match named.iter_mut().find(|(_, other)| *other == address) {
                    Some((votes, _)) => *votes += 1,
                    None => named.push((1, address)),
                },
            }
            // Those that are slow change nothing any more.
            if named.iter().any(|(votes, _)| votes * 2 > sentinels.len()) {
                break;
            }
        }
        named.sort_by_key(|(votes, _)| std::cmp::Reverse(*votes));
        // All are tried at once, so that the next one is known when one hangs. They are few: no more than Sentinels.
        let tried = named
            .into_iter()
            .map(|(_, address)| self.verified(address, within));
        let mut trying: FuturesOrdered<_> = tried.collect();
        while let Some(tried) = trying.next().await {
            match tried {
                Ok(target) => return Ok(target),
                Err(failure) => problem = failure,
            }
        }
        Err(problem)
    }

    /// What this Sentinel names.
    ///
    /// # Errors
    /// When it names nobody.
    pub(super) async fn ask(
        &self,
        sentinel: &Address,
        within: Duration,
    ) -> Result<Address, Failure> {
        let target = Target {
            // A Sentinel has no databases.
            database: 0,
            credentials: self.credentials.clone(),
            ..self.server.at(sentinel.clone())
        };
        let mut question = cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&*self.master);
        let answer = Connection::ask(&target, &question, within).await;
        let answer = answer.map_err(|failure| {
            Failure::new(
                failure.fault,
                format!("the Sentinel at {sentinel} does not name the primary: {failure}"),
            )
        })?;
        named(&answer).ok_or_else(|| {
            let what = match answer {
                Value::Nil => "knows no primary of this name",
                _ => "gives no address that can be used",
            };
            Failure::new(Fault::Down, format!("the Sentinel at {sentinel} {what}"))
        })
    }

    /// The server at this address, if it says that it is a primary.
    ///
    /// # Errors
    /// When it does not, or cannot be asked.
    pub(super) async fn verified(
        &self,
        address: Address,
        within: Duration,
    ) -> Result<Target, Failure> {
        let target = self.server.at(address);
        let role = match Connection::ask(&target, &cmd("ROLE"), within).await {
            // The user need not have the right to ask. Then the first write tells.
            Err(failure) if failure.fault == Fault::Denied => return Ok(target),
            role => role?,
        };
        match is_primary(&role) {
            true => Ok(target),
            false => Err(Failure::new(
                Fault::NotWritable,
                format!("Sentinel names {target}, which is no primary"),
            )),
        }
    }
}

/// The address in the answer to SENTINEL GET-MASTER-ADDR-BY-NAME.
pub(super) fn named(answer: &Value) -> Option<Address> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let [Value::BulkString(host), Value::BulkString(port)] = parts.as_slice() else {
        return None;
    };
    let (host, port) = (str::from_utf8(host).ok()?, str::from_utf8(port).ok()?);
    announced(host, port.parse().ok()?, None)
}

/// Whether the answer to ROLE is a primary's.
pub(super) fn is_primary(role: &Value) -> bool {
    let Value::Array(parts) = role else {
        return false;
    };
    matches!(parts.first(), Some(Value::BulkString(role)) if role == b"master")
}
