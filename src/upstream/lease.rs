//! A place on a connection: how an attempt waits for one, and gives it back.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

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
    Wait(watch::Receiver<Outcome>, Option<Instant>),
    Full,
    /// DevRev has closed a new connection before anything was sent on it.
    Closed,
}

/// Why a connection could not be opened, for those who waited for it. To the first that learns of it, it is a failure; to the others it is
/// the same one. Not to the one that had it opened, which may have gone, or may wait for an older one.
#[derive(Clone)]
pub(super) struct Failed {
    error: Error,
    is_counted: Arc<AtomicBool>,
}

impl Failed {
    pub(super) fn new(error: Error) -> Failed {
        Failed {
            error,
            is_counted: Arc::default(),
        }
    }

    fn learn(self) -> Error {
        match self.error {
            Error::Unreachable(cause) if self.is_counted.swap(true, Ordering::Relaxed) => {
                Error::AlsoUnreachable(cause)
            }
            error => error,
        }
    }
}

/// Whether the connection for which an attempt has waited ended before anybody used it, and how.
fn failure(opened: Option<&watch::Receiver<Outcome>>) -> Result<(), Error> {
    match opened.and_then(|opened| opened.borrow().clone()) {
        Some(Err(failed)) => Err(failed.learn()),
        _ => Ok(()),
    }
}

/// Waits for a connection that is being opened.
async fn opened(connect: &mut watch::Receiver<Outcome>) -> Result<(), Error> {
    match connect.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone().unwrap_or(Ok(())).map_err(Failed::learn),
        Err(_gone) => Err(Error::unreachable("connecting was given up")),
    }
}

/// Why a new connection is of no use.
pub(super) const CLOSED: &str = "DevRev closed a new connection before anything was sent";

impl Pool {
    /// A place on a connection, as soon as there is one; `None` if DevRev allows fewer than there are lanes, so that the attempt must wait
    /// for a lane again.
    ///
    /// # Errors
    /// When the connection for which it has waited cannot be opened, or ended before anybody could use it: then the next may end so as well.
    pub(super) async fn lease(self: &Arc<Self>, within: Duration) -> Result<Option<Lease>, Error> {
        let mut waiting = None;
        // The first for which it waits: if that fails, it fails. A place on any other serves as well.
        let mut awaited: Option<watch::Receiver<Outcome>> = None;
        // One that was opened. Others may have taken its places.
        let mut before: Option<watch::Receiver<Outcome>> = None;
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let again = match self.find(waiting.is_some(), within) {
                Found::Lease(lease) => return Ok(Some(lease)),
                Found::Full => return Ok(None),
                Found::Closed => return Err(Error::unreachable(CLOSED)),
                Found::Wait(connect, again) => {
                    failure(before.as_ref())?;
                    waiting.get_or_insert_with(|| Waiting::new(self));
                    awaited.get_or_insert(connect);
                    again
                }
            };
            let ended = async {
                match &mut awaited {
                    Some(connect) => opened(connect).await,
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
                    before = awaited.take();
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

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::{
        policy::progress::{ANSWER_STALL, ProgressRules},
        upstream::{Bounds, Options, OwnListeners},
    };

    const WITHIN: Duration = Duration::from_secs(3);

    /// A pool whose connections cannot be opened: the kernel accepts them, and nobody sends SETTINGS.
    fn silent() -> (std::net::TcpListener, Arc<Pool>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let options = Options {
            url: url.parse().unwrap(),
            tls: None,
            http2_only: true,
            max_connections: 8,
            own_listeners: OwnListeners::default(),
            sockets_per_connect: 2,
            proxy: None,
            failures: Arc::default(),
        };
        let bounds = Bounds {
            connect_timeout: WITHIN,
            attempt_timeout: WITHIN * 10,
            idle_timeout: WITHIN * 10,
            max_age: WITHIN * 10,
            max_body: 0,
            progress: ProgressRules {
                stall: ANSWER_STALL,
                min_rate: None,
            },
        };
        (listener, Pool::new(options, bounds))
    }

    /// However many wait for it, and whether or not the one that had it opened is among them.
    #[tokio::test(start_paused = true)]
    async fn each_connection_that_cannot_be_opened_is_one_failure() {
        // When each attempt begins and leaves, in milliseconds.
        for (attempts, want) in [
            (
                &[(0, 9000), (0, 9000), (0, 9000)][..],
                &["failure", "same", "same"][..],
            ),
            // One of the first two begins the second connection, and waits for the first.
            (
                &[(0, 9000), (100, 9000), (300, 9000), (310, 9000)],
                &["failure", "same", "failure", "same"],
            ),
            // Whoever began the first leaves.
            (&[(0, 150), (100, 9000)], &["left", "failure"]),
        ] {
            let (_listener, pool) = silent();
            let attempts = attempts.iter().map(|(begins, leaves)| {
                let pool = &pool;
                async move {
                    sleep(Duration::from_millis(*begins)).await;
                    let stays = Duration::from_millis(leaves - begins);
                    match timeout(stays, pool.lease(WITHIN)).await {
                        Ok(Err(Error::Unreachable(_))) => "failure",
                        Ok(Err(Error::AlsoUnreachable(_))) => "same",
                        Ok(_) => "something else",
                        Err(_elapsed) => "left",
                    }
                }
            });
            let mut found = join_all(attempts).await;
            found[..2].sort_unstable();
            let mut want = want.to_vec();
            want[..2].sort_unstable();
            assert_eq!(found, want);
        }
    }
}
