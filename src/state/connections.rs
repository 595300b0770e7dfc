//! The connections of clients, of all workers together. `policy::connections` decides which of them make room for new ones.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    body::Guard,
    lock::Lock,
    policy::{
        allocator::Claim,
        connections::{Connections, GiveWay},
    },
    state::Clock,
};

/// All open connections.
pub struct ConnectionTable {
    max: usize,
    clock: Clock,
    table: Lock<Table>,
    /// One has ended, or another one may be chosen to give way.
    changed: Notify,
}

#[derive(Default)]
struct Table {
    connections: Connections,
    give_way: BTreeMap<u64, CancellationToken>,
}

impl Table {
    fn tell(&self, id: Option<u64>) {
        if let Some(told) = id.and_then(|id| self.give_way.get(&id)) {
            told.cancel();
        }
    }
}

impl ConnectionTable {
    /// Room for `max`, and none is open.
    pub fn new(max: usize) -> Arc<ConnectionTable> {
        Arc::new(ConnectionTable {
            max,
            clock: Clock::start(),
            table: Lock::default(),
            changed: Notify::new(),
        })
    }

    /// How many are open.
    pub fn open_now(&self) -> usize {
        self.table.lock().give_way.len()
    }

    /// Takes in a connection. At the limit another one is told to give way, and this waits until one has ended. If another becomes idle
    /// meanwhile, that one is told as well.
    pub async fn open(self: &Arc<Self>, address: Option<IpAddr>) -> OpenConnection {
        let claim = Claim::unknown(address);
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.try_open(&claim) {
                Ok(open) => return open,
                Err(None) => changed.await,
                Err(Some(until)) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(self.clock.instant(until)) => {}
                },
            }
        }
    }

    /// # Errors
    /// If there is no place; with the time at which one may be made, if that is known.
    fn try_open(self: &Arc<Self>, claim: &Claim) -> Result<OpenConnection, Option<Duration>> {
        let mut table = self.table.lock();
        let now = self.clock.now();
        let Some(id) = table.connections.open(self.max, claim.clone(), now) else {
            if table.connections.is_making_room() {
                return Err(None);
            }
            return Err(match table.connections.give_way(now) {
                GiveWay::Chosen(id) => {
                    table.tell(Some(id));
                    None
                }
                GiveWay::NotBefore(time) => Some(time),
                GiveWay::None => None,
            });
        };
        let give_way = CancellationToken::new();
        table.give_way.insert(id, give_way.clone());
        Ok(OpenConnection(Arc::new(Inner {
            table: self.clone(),
            id,
            unknown: claim.clone(),
            caller: OnceLock::new(),
            client: OnceLock::new(),
            pending: AtomicUsize::new(0),
            failed: Lock::default(),
            give_way,
        })))
    }
}

/// An extension: the connection that a request came on.
#[derive(Clone)]
pub struct OpenConnection(Arc<Inner>);

struct Inner {
    table: Arc<ConnectionTable>,
    id: u64,
    /// What it claims until its caller is known.
    unknown: Claim,
    caller: OnceLock<Claim>,
    /// As `unknown`, once a proxy has said for whom it speaks.
    client: OnceLock<Claim>,
    pending: AtomicUsize,
    /// Where the latest credential on it that was refused came from.
    failed: Lock<Option<Option<IpAddr>>>,
    give_way: CancellationToken,
}

impl OpenConnection {
    /// A credential that came on it from this address is refused.
    pub fn fail(&self, address: Option<IpAddr>) {
        *self.0.failed.lock() = Some(address);
    }

    /// Whether the latest that was refused came from this address. Others of its address then go before it: a flood of made-up credentials
    /// must not hold up those who try a good one. Behind a proxy several clients share a connection.
    pub fn has_failed(&self, address: Option<IpAddr>) -> bool {
        *self.0.failed.lock() == Some(address)
    }

    /// The caller of a request on it is known. False if that caller has too many connections, all of them busy: the request is refused
    /// then, and the connection ends.
    #[must_use]
    pub fn prove(&self, claim: &Claim) -> bool {
        let Inner { table, id, .. } = &*self.0;
        if self.0.caller.set(claim.clone()).is_err() {
            return true;
        }
        let mut state = table.table.lock();
        let gives_way = state.connections.prove(table.max, *id, claim);
        match gives_way {
            Ok(other) => state.tell(other),
            Err(_) => self.0.give_way.cancel(),
        }
        gives_way.is_ok()
    }

    /// A trusted proxy says that it speaks for this address. Until the caller is known, the connection counts for that; a proxy that
    /// passes on requests of several clients, for the first.
    pub fn speaks_for(&self, address: IpAddr) {
        let claim = Claim::unknown(Some(address));
        if self.0.client.set(claim.clone()).is_ok() {
            let mut table = self.0.table.table.lock();
            table.connections.speaks_for(self.0.id, claim);
        }
    }

    /// Whether it has brought a good credential.
    pub fn is_proven(&self) -> bool {
        self.0.caller.get().is_some()
    }

    /// With what its input claims anything shared.
    pub fn claim(&self) -> &Claim {
        let known = self.0.caller.get().or(self.0.client.get());
        known.unwrap_or(&self.0.unknown)
    }

    /// Held while it is being found out whose a request is.
    pub fn pend(&self) -> Pending {
        self.0.pending.fetch_add(1, Ordering::AcqRel);
        self.0.table.table.lock().connections.pend(self.0.id);
        Pending(self.clone())
    }

    /// Whether that is being found out now.
    pub fn is_pending(&self) -> bool {
        self.0.pending.load(Ordering::Acquire) > 0
    }

    /// Held while a request is in flight.
    pub fn begin(&self) -> InUse {
        self.0.table.table.lock().connections.begin(self.0.id);
        InUse(self.clone())
    }

    /// Cancelled when it is to make room for another.
    pub fn give_way(&self) -> &CancellationToken {
        &self.0.give_way
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        {
            let mut table = self.table.table.lock();
            table.connections.close(self.id);
            table.give_way.remove(&self.id);
        }
        self.table.changed.notify_waiters();
    }
}

/// See [`OpenConnection::pend`].
pub struct Pending(OpenConnection);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.0.pending.fetch_sub(1, Ordering::AcqRel);
        let table = &self.0.0.table;
        table.table.lock().connections.settle(self.0.0.id);
        table.changed.notify_waiters();
    }
}

/// See [`OpenConnection::begin`].
pub struct InUse(OpenConnection);

impl Guard for InUse {}

impl Drop for InUse {
    fn drop(&mut self) {
        let table = &self.0.0.table;
        if table.table.lock().connections.end(self.0.0.id) {
            table.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::policy::{
        connections::TIME_TO_BEGIN,
        fair::{Priority, Share},
    };

    fn claim(name: &str) -> Claim {
        let share = Share {
            caller: name.into(),
            weight: 1,
            priority: Priority::Interactive,
        };
        Claim::caller("main".into(), &share)
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_limit_a_newcomer_waits_for_the_one_that_gives_way() {
        let table = ConnectionTable::new(2);
        let known = table.open(None).await;
        assert!(known.prove(&claim("a")));
        let unproven = table.open(None).await;
        let newcomer = tokio::spawn({
            let table = table.clone();
            async move { table.open(None).await }
        });
        unproven.give_way().cancelled().await;
        assert!(!known.give_way().is_cancelled() && !newcomer.is_finished());
        drop(unproven);
        let newcomer = newcomer.await.expect("no panic");
        drop((known, newcomer));
        assert_eq!(table.table.lock().give_way.len(), 0);
    }

    /// In a flood of connections nobody would otherwise be there for as long as a request takes.
    #[tokio::test(start_paused = true)]
    async fn a_newcomer_waits_until_the_oldest_had_time_to_begin() {
        let table = ConnectionTable::new(1);
        let first = table.open(None).await;
        let start = Instant::now();
        let newcomer = tokio::spawn({
            let table = table.clone();
            async move { table.open(None).await }
        });
        first.give_way().cancelled().await;
        assert_eq!(start.elapsed(), TIME_TO_BEGIN);
        drop(first);
        newcomer.await.expect("no panic");
    }

    /// None may be chosen at first, and later one may.
    #[tokio::test(start_paused = true)]
    async fn a_newcomer_learns_of_one_that_becomes_idle() {
        let table = ConnectionTable::new(2);
        let (one, other) = (table.open(None).await, table.open(None).await);
        let pending = (one.pend(), other.pend());
        let newcomer = tokio::spawn({
            let table = table.clone();
            async move { table.open(None).await }
        });
        tokio::task::yield_now().await;
        assert!(!one.give_way().is_cancelled() && !other.give_way().is_cancelled());
        assert!(one.prove(&claim("a")) && other.prove(&claim("a")));
        let in_use = (one.begin(), other.begin());
        drop(pending);
        tokio::task::yield_now().await;
        drop(in_use);
        timeout(Duration::from_secs(1), async {
            tokio::select! {
                () = one.give_way().cancelled() => drop(one),
                () = other.give_way().cancelled() => drop(other),
            }
            newcomer.await.expect("no panic")
        })
        .await
        .expect("one gives way");
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxys_connection_counts_for_its_first_client_and_then_for_its_caller() {
        let table = ConnectionTable::new(2);
        let address = |last| IpAddr::from([192, 0, 2, last]);
        let open = table.open(Some(address(1))).await;
        assert_eq!(open.claim(), &Claim::unknown(Some(address(1))));
        for last in [2, 3] {
            open.speaks_for(address(last));
            assert_eq!(open.claim(), &Claim::unknown(Some(address(2))));
        }
        open.fail(Some(address(3)));
        assert!(open.has_failed(Some(address(3))) && !open.has_failed(Some(address(2))));
        assert!(open.prove(&claim("a")));
        open.speaks_for(address(4));
        assert_eq!(open.claim(), &claim("a"));
        drop(open);
        assert_eq!(table.table.lock().give_way.len(), 0);
    }

    /// What holds the extension longest decides; a task of HTTP/2 may outlive its connection for a moment.
    #[tokio::test(start_paused = true)]
    async fn a_place_is_free_when_nothing_of_the_connection_is_left() {
        let table = ConnectionTable::new(1);
        let first = table.open(None).await;
        let (pending, in_use) = (first.pend(), first.begin());
        assert!(first.is_pending() && !first.is_proven());
        drop(first);
        let wait = Duration::from_secs(1);
        assert!(timeout(wait, table.open(None)).await.is_err());
        drop((pending, in_use));
        assert!(timeout(wait, table.open(None)).await.is_ok());
    }
}
