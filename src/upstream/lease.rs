//! A place on a connection: how an attempt waits for one, and gives it back.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    open::Sender,
    pool::{Outcome, Pool},
};
use crate::{error::Error, policy::upstream::Id};

/// A place on a connection, for one exchange.
pub(super) struct Lease {
    pub sender: Sender,
    /// An attempt used the connection before, so DevRev may have closed it meanwhile.
    pub reused: bool,
    pub slot: Slot,
}

/// What an attempt finds.
pub(super) enum Found {
    Lease(Lease),
    /// It waits for a connection that is being opened, and looks again by then.
    Wait(Awaited, Option<Instant>),
    Full,
}

/// A connection that is being opened, for an attempt that waits for it.
pub(super) struct Awaited {
    pub outcome: watch::Receiver<Outcome>,
    /// This attempt is the one that had it opened.
    pub own: bool,
}

impl Awaited {
    async fn ended(&mut self) -> Result<(), Error> {
        let outcome = match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
            Err(_gone) => Err(Error::unreachable("connecting was given up")),
        };
        outcome.map_err(|error| match error {
            Error::Unreachable(cause) if !self.own => Error::AlsoUnreachable(cause),
            error => error,
        })
    }
}

impl Pool {
    /// A place on a connection, as soon as there is one; `None` if DevRev allows fewer than there are lanes, so that the attempt must wait
    /// for a lane again.
    ///
    /// # Errors
    /// When the connection for which it has waited cannot be opened.
    pub(super) async fn lease(self: &Arc<Self>, within: Duration) -> Result<Option<Lease>, Error> {
        let mut waiting = None;
        // The first for which it waits: if that fails, it fails. A place on any other serves as well.
        let mut awaited: Option<Awaited> = None;
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let again = match self.find(waiting.is_some(), within) {
                Found::Lease(lease) => return Ok(Some(lease)),
                Found::Full => return Ok(None),
                Found::Wait(connect, again) => {
                    waiting.get_or_insert_with(|| Waiting::new(self));
                    awaited.get_or_insert(connect);
                    again
                }
            };
            let ended = async {
                match &mut awaited {
                    Some(awaited) => awaited.ended().await,
                    None => std::future::pending().await,
                }
            };
            let again = async {
                match again {
                    Some(again) => sleep_until(again).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                outcome = ended => {
                    outcome?;
                    awaited = None;
                }
                () = changed => {}
                () = again => {}
            }
        }
    }
}

/// An attempt that waits.
struct Waiting<'a>(&'a Pool);

impl<'a> Waiting<'a> {
    fn new(pool: &'a Pool) -> Self {
        pool.state.lock().connections.wait();
        Waiting(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().connections.leave();
    }
}

/// A place that is taken. Dropping it gives it back; a connection of HTTP/1.1 ends with it.
pub(super) struct Slot {
    pool: Arc<Pool>,
    id: Id,
    back: Option<Sender>,
}

impl Slot {
    pub(super) fn new(pool: Arc<Pool>, id: Id) -> Slot {
        Slot {
            pool,
            id,
            back: None,
        }
    }

    /// There was no answer in time.
    pub(super) fn suspect(&self) {
        let id = self.id;
        self.pool
            .change(|state, now| state.connections.suspect(id, now));
    }

    /// The connection takes no more exchanges.
    pub(super) fn close(&self) {
        let id = self.id;
        self.pool.change(|state, _| state.connections.close(id));
    }

    /// DevRev has answered, and reads nothing more of the request. The connection takes no more exchanges, and is cut with its last.
    pub(super) fn abandon(&self) {
        let id = self.id;
        self.pool.change(|state, _| {
            state.connections.close(id);
            if let Some(Sender::Http2(_, wire)) = state.senders.get(&id) {
                wire.set_stalled();
            }
        });
    }

    /// The exchange is over, and its connection of HTTP/1.1 is ready for another.
    pub(super) fn give_back(mut self, sender: Sender) {
        self.back = Some(sender);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let (id, back) = (self.id, self.back.take());
        self.pool.change(|state, now| {
            if let Some(sender) = back.filter(|_| state.connections.is_open(id)) {
                state.senders.insert(id, sender);
            }
            // What sends over HTTP/1.1 was in the exchange, and has gone with it.
            if !state.senders.contains_key(&id) {
                state.connections.close(id);
            }
            state.connections.end(id, now);
        });
        self.pool.freed();
    }
}
