//! Whose turn it is to have heads of HTTP/2 decoded.
//!
//! With HPACK one byte can stand for a whole field, and h2 decodes everything that it reads before it hands on the first request. Without a
//! bound, many connections that send such heads at once would make hundreds of MiB out of a few on the wire.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    allocation::{Allocation, DECODING, Pool},
    state::connections::OpenConnection,
};

/// What 4 KiB of heads may become in memory: 128 bytes from each.
const DECODED: u64 = 512 * 1024;

/// The longest wait for a turn. Turns last for a moment, so more would mean that something is stuck.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// How often all tasks of the worker run before a turn is over: in the first round hyper spawns those of the requests, in the second they
/// run, and whoever has no credential is refused.
const ROUNDS: u8 = 2;

/// A connection's turn.
#[derive(Default)]
pub(super) enum Turn {
    #[default]
    None,
    Waiting(Pin<Box<dyn Future<Output = Option<Allocation>> + Send>>),
    Now(Allocation),
}

impl Turn {
    /// Ready when the connection may read; with false if its turn did not come.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        pool: &Arc<Pool>,
        open: &OpenConnection,
    ) -> Poll<bool> {
        loop {
            *self = match self {
                Turn::Now(_) => return Poll::Ready(true),
                Turn::None => match pool.try_take(DECODING, open.claim(), DECODED) {
                    Some(turn) => Turn::Now(turn),
                    None => {
                        let (pool, claim) = (pool.clone(), open.claim().clone());
                        let until = Instant::now() + MAX_WAIT;
                        Turn::Waiting(Box::pin(async move {
                            pool.take(DECODING, &claim, DECODED, until).await
                        }))
                    }
                },
                Turn::Waiting(wait) => match ready!(wait.as_mut().poll(cx)) {
                    Some(turn) => Turn::Now(turn),
                    None => {
                        *self = Turn::None;
                        return Poll::Ready(false);
                    }
                },
            };
        }
    }

    /// The connection has read what there was. If there were heads, its turn is over when they have been looked at, whatever becomes of
    /// the connection.
    pub(super) fn end(&mut self, has_heads: bool) {
        if let Turn::Now(turn) = std::mem::take(self)
            && has_heads
        {
            tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    tokio::task::yield_now().await;
                }
                drop(turn);
            });
        }
    }
}
