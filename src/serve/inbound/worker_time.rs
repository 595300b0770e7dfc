//! Shares a worker's time among its connections.
//!
//! tokio runs tasks in turn, and ends a task's turn after 128 reads or writes. That is much for a connection of tiny frames or of many
//! small requests: some hundred milliseconds, in which all other connections wait. Here a turn ends sooner.

use std::{
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    sync::Semaphore,
    task::{coop, yield_now},
};

/// Of a turn of 128 units: a read of heads or of control frames, which may be hundreds.
pub(super) const READ_OF_FRAMES: u8 = 16;

/// Another read: its bytes are only copied.
pub(super) const READ: u8 = 4;

/// A request: it goes through the whole stack.
const REQUEST: u8 = 16;

/// Takes units of the task's turn. Pending when it is over; the task runs again after all others.
pub(super) fn poll_take(cx: &mut Context<'_>, units: u8) -> Poll<()> {
    for _ in 0..units {
        ready!(coop::poll_proceed(cx)).made_progress();
    }
    Poll::Ready(())
}

/// Lets one request of a connection start in each round of the worker's tasks. Over HTTP/2 each is a task of its own; if all could start in
/// one round, a connection with a hundred of them would get a hundred turns for one of another.
#[derive(Clone)]
pub(super) struct Starts(Arc<Inner>);

struct Inner {
    turn: Arc<Semaphore>,
    /// Requests that have come and not started.
    waiting: AtomicUsize,
}

/// A request that has come.
pub(super) struct Start(Arc<Inner>);

impl Starts {
    pub(super) fn new() -> Starts {
        Starts(Arc::new(Inner {
            turn: Arc::new(Semaphore::new(1)),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// A request has come.
    pub(super) fn begin(&self) -> Start {
        self.0.waiting.fetch_add(1, Ordering::Relaxed);
        Start(self.0.clone())
    }
}

impl Start {
    /// Runs the call of the request, when it is its turn to start.
    pub(super) async fn run<T>(self, call: impl Future<Output = T>) -> T {
        let turn = self.0.turn.clone();
        let turn = turn.acquire_owned().await;
        poll_fn(|cx| poll_take(cx, REQUEST)).await;
        let others = self.0.waiting.load(Ordering::Relaxed) > 1;
        drop(self);
        if others {
            // The next round begins when all tasks that are ready have run.
            tokio::spawn(async move {
                yield_now().await;
                drop(turn);
            });
        } else {
            drop(turn);
        }
        call.await
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A connection with many requests, which came first, and one with a few take turns.
    #[tokio::test]
    async fn connections_take_turns_however_many_requests_they_have() {
        let started = Arc::new(Mutex::new(Vec::new()));
        let (many, few) = (Starts::new(), Starts::new());
        let mut tasks = Vec::new();
        for (connection, starts, count) in [("many", many, 50), ("few", few, 5)] {
            for _ in 0..count {
                let (started, start) = (started.clone(), starts.begin());
                tasks.push(tokio::spawn(start.run(async move {
                    started.lock().unwrap().push(connection);
                })));
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
        let started = started.lock().unwrap();
        assert_eq!(started.len(), 55);
        let last_of_few = started.iter().rposition(|connection| *connection == "few");
        assert!(last_of_few.is_some_and(|last| last < 15), "{started:?}");
    }

    #[tokio::test]
    async fn a_turn_ends() {
        let runs = Arc::new(Mutex::new(Vec::new()));
        let tasks = ["one", "other"].map(|name| {
            let runs = runs.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    poll_fn(|cx| poll_take(cx, READ_OF_FRAMES)).await;
                    runs.lock().unwrap().push(name);
                }
            })
        });
        for task in tasks {
            task.await.unwrap();
        }
        let runs = runs.lock().unwrap();
        let before = runs.iter().position(|name| *name == "other");
        assert!(before.is_some_and(|before| before <= 8), "{runs:?}");
    }
}
