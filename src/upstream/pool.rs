//! The connections of one worker. `policy/upstream` decides; here they are opened, kept and dropped.
//!
//! No attempt opens a connection itself: a task does, and whoever needs a place waits for it, and for any other place. So nobody holds
//! anybody up, and an attempt that ends leaves a connection for the next.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use super::{
    Bounds, Options,
    connector::Connector,
    lanes::Lanes,
    lease::{CLOSED, Failed, Found, Lease, Slot},
    open::{Opened, Sender, open},
    wire::Wire,
};
use crate::{
    error::Error,
    lock::Lock,
    policy::upstream::{Choice, Connections, Id, MAX_STREAMS, Rules},
    random,
};

pub(super) struct Pool {
    pub(super) options: Options,
    connector: Connector,
    pub(super) lanes: Lanes,
    /// The zero of the times in `Connections`.
    pub(super) start: Instant,
    pub(super) state: Lock<State>,
    /// For the attempts that wait: there may be a place.
    pub(super) changed: Notify,
    /// For the task that ends idle connections, which outlives the pool by a moment.
    idle_changed: Arc<Notify>,
}

pub(super) struct State {
    rules: Rules,
    pub(super) connections: Connections,
    /// What sends on each open connection. HTTP/1.1's is away while an exchange has it.
    pub(super) senders: HashMap<Id, Sender>,
    connects: HashMap<Id, watch::Receiver<Outcome>>,
    /// Connections that nothing was sent on, until they have ended.
    unused: HashSet<Id>,
}

/// Of a connect; `None` while it goes on.
pub(super) type Outcome = Option<Result<(), Failed>>;

impl Pool {
    /// Must be called on the runtime that will drive the connections.
    pub(super) fn new(options: Options, bounds: Bounds) -> Arc<Pool> {
        let idle_changed = Arc::new(Notify::new());
        let places = match (&options.tls, options.http2_only) {
            (_, true) => Some(MAX_STREAMS),
            (Some(tls), _) if tls.alpn_protocols.len() > 1 => None,
            _ => Some(1),
        };
        let rules = bounds.rules(options.max_connections);
        let connections = Connections::new(places);
        let connector = Connector::new(
            &options.url,
            options.tls.clone(),
            options.own_listeners.clone(),
            options.proxy.clone(),
        )
        .racing(options.sockets_per_connect);
        let pool = Arc::new(Pool {
            lanes: Lanes::new(connections.capacity(&rules, Duration::ZERO)),
            connector,
            start: Instant::now(),
            state: Lock::new(State {
                rules,
                connections,
                senders: HashMap::new(),
                connects: HashMap::new(),
                unused: HashSet::new(),
            }),
            changed: Notify::new(),
            idle_changed: idle_changed.clone(),
            options,
        });
        tokio::spawn(reap(Arc::downgrade(&pool), idle_changed));
        pool
    }

    /// A reload changes the rules for all connections, old ones too.
    pub(super) fn set_bounds(&self, bounds: Bounds) {
        let max_connections = self.options.max_connections;
        self.change(|state, _| state.rules = bounds.rules(max_connections));
    }

    /// What an attempt does next. Begins to open connections if more are needed.
    pub(super) fn find(self: &Arc<Self>, waits: bool, within: Duration) -> Found {
        let mut connects = Vec::new();
        let found = self.change(|state, now| {
            state.hear(self.start);
            loop {
                let choice = match waits {
                    true => state.connections.choose_again(&state.rules, now),
                    false => state.connections.choose(&state.rules, now),
                };
                match choice {
                    Choice::Use { connection, reused } => {
                        let Some(sender) = state.take(connection) else {
                            state.connections.close(connection);
                            state.connections.end(connection, now);
                            // An attempt that has not waited took one that was left over.
                            match waits && !reused {
                                true => return Found::Closed,
                                false => continue,
                            }
                        };
                        state.unused.remove(&connection);
                        let slot = Slot::new(self.clone(), connection);
                        return Found::Lease(Lease {
                            sender,
                            reused,
                            slot,
                        });
                    }
                    Choice::Connect(id) => {
                        let (sender, receiver) = watch::channel(None);
                        state.connects.insert(id, receiver);
                        connects.push((id, sender));
                    }
                    Choice::Wait { connect, again } => {
                        let Some(outcome) = state.connects.get(&connect) else {
                            state.connections.failed(connect);
                            continue;
                        };
                        let again = again.map(|again| self.start + again);
                        return Found::Wait(outcome.clone(), again);
                    }
                    Choice::Full => return Found::Full,
                }
            }
        });
        for (id, outcome) in connects {
            tokio::spawn(self.clone().connect(id, outcome, within));
        }
        found
    }

    async fn connect(self: Arc<Self>, id: Id, outcome: watch::Sender<Outcome>, within: Duration) {
        let connecting = Connecting { pool: &self, id };
        let result = open(&self.connector, self.options.http2_only, within).await;
        let opened = result.map(|opened| {
            let Opened {
                sender,
                places,
                connection,
            } = opened;
            let wire = match &sender {
                Sender::Http1(..) => None,
                Sender::Http2(_, wire) => Some(wire.clone()),
            };
            self.change(|state, now| {
                state.connections.opened(id, places, random::jitter(), now);
                state.senders.insert(id, sender);
                state.unused.insert(id);
            });
            (connection, wire)
        });
        drop(connecting);
        match opened {
            Ok((connection, wire)) => {
                self.options.failures.succeeded();
                outcome.send_replace(Some(Ok(())));
                let driving = drive(Arc::downgrade(&self), id, connection, wire, outcome);
                tokio::spawn(driving);
            }
            Err(error) => {
                if let Error::Unreachable(cause) = &error {
                    self.options.failures.failed(&cause.to_string());
                }
                outcome.send_replace(Some(Err(Failed::new(error))));
            }
        }
    }

    /// Changes what is known of the connections, drops those that are over, and tells whoever waits.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State, Duration) -> T) -> T {
        let now = self.start.elapsed();
        let (result, capacity, over) = {
            let mut state = self.state.lock();
            let result = change(&mut state, now);
            let State {
                rules, connections, ..
            } = &mut *state;
            let ids = connections.sweep(rules, now);
            let capacity = connections.capacity(rules, now);
            let over: Vec<_> = ids.iter().map(|id| state.senders.remove(id)).collect();
            (result, capacity, over)
        };
        // Not under the lock: this ends connections.
        over.into_iter().flatten().for_each(Sender::end);
        self.lanes.set_capacity(capacity);
        result
    }

    /// There may be a place for those who wait.
    pub(super) fn freed(&self) {
        self.changed.notify_waiters();
        self.idle_changed.notify_one();
    }

    /// What DevRev has said on a connection of HTTP/2.
    fn hear(&self) {
        self.change(|state, _| state.hear(self.start));
        self.freed();
    }
}

impl State {
    /// Takes what sends on the connection, or a copy of it.
    fn take(&mut self, id: Id) -> Option<Sender> {
        match self.senders.get(&id).filter(|sender| !sender.is_closed())? {
            Sender::Http1(..) => self.senders.remove(&id),
            Sender::Http2(sender, wire) => Some(Sender::Http2(sender.clone(), wire.clone())),
        }
    }

    fn hear(&mut self, start: Instant) {
        for (id, sender) in &self.senders {
            let Sender::Http2(_, wire) = sender else {
                continue;
            };
            let known = wire.known();
            if known.going_away {
                self.connections.close(*id);
            }
            if let Some(streams) = known.streams {
                self.connections.allow(*id, streams);
            }
            let heard = known.heard.saturating_duration_since(start);
            self.connections.heard(*id, heard);
        }
    }
}

/// Runs a connection until either side closes it. If nobody has used it by then, that is its `outcome`.
async fn drive(
    pool: Weak<Pool>,
    id: Id,
    connection: impl Future<Output = hyper::Result<()>>,
    wire: Option<Arc<Wire>>,
    outcome: watch::Sender<Outcome>,
) {
    let mut connection = pin!(connection);
    let result = match &wire {
        None => connection.await,
        Some(wire) => loop {
            tokio::select! {
                result = &mut connection => break result,
                () = wire.changed() => if let Some(pool) = pool.upgrade() {
                    pool.hear();
                }
            }
        },
    };
    if let Err(error) = result {
        tracing::debug!(%error, "upstream connection ended");
    }
    let Some(pool) = pool.upgrade() else {
        return;
    };
    let unused = pool.state.lock().unused.remove(&id);
    if unused {
        outcome.send_replace(Some(Err(Failed::new(Error::unreachable(CLOSED)))));
    }
    pool.change(|state, _| match wire {
        // After a GOAWAY its exchanges go on.
        Some(_) => state.connections.close(id),
        None => {
            state.senders.remove(&id);
            state.connections.ended(id);
        }
    });
    pool.freed();
}

/// A connection that is being opened.
struct Connecting<'a> {
    pool: &'a Pool,
    id: Id,
}

impl Drop for Connecting<'_> {
    /// However it ended.
    fn drop(&mut self) {
        self.pool.change(|state, _| {
            state.connects.remove(&self.id);
            state.connections.failed(self.id);
        });
        self.pool.freed();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.idle_changed.notify_one();
    }
}

/// Ends connections that have been idle too long or are too old. Ends when the pool is dropped.
async fn reap(pool: Weak<Pool>, idle_changed: Arc<Notify>) {
    while let Some(inner) = pool.upgrade() {
        let next = inner.change(|state, _| state.connections.next_sweep(&state.rules));
        let next = next.map(|next| inner.start + next);
        drop(inner);
        match next {
            Some(next) => {
                let now = Instant::now();
                sleep_until(next.clamp(now + MIN_PAUSE, now + MAX_PAUSE)).await;
            }
            None => idle_changed.notified().await,
        }
    }
}

/// Between two sweeps at least: each reads the whole pool.
const MIN_PAUSE: Duration = Duration::from_millis(100);

/// Between two sweeps at most: meanwhile a connection may have become idle that is to end earlier than the others.
const MAX_PAUSE: Duration = Duration::from_secs(5);
