//! One node: its connection, and what is listened to over it.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use redis::{Cmd, Value};
use tokio::task::JoinHandle;

use super::Shared;
use crate::{
    fleet::{
        hints::Hints,
        redis::{
            address::Address,
            answer::CallError,
            supervisor::{Rules, Supervised},
        },
        register::{Exchanged, Hint, Key, Link, Write},
    },
    lock::Lock,
};

pub(super) struct Node {
    supervised: Supervised,
    hints: Arc<Hints>,
    listens: Lock<HashSet<Key>>,
    /// Since this was last asked.
    used: AtomicBool,
    following: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Node {
    /// Begins to connect.
    pub(super) fn start(shared: &Arc<Shared>, address: &Address) -> Node {
        let weak = Arc::downgrade(shared);
        let own = address.clone();
        let rules = Rules {
            timeout: shared.timeout,
            probe: Arc::new(move || weak.upgrade()?.key_at(&own)),
        };
        let hints = Arc::new(Hints::new());
        let route = Box::new(shared.server.at(address.clone()));
        let supervised = Supervised::start(route, rules, hints.clone());
        let following = follow(shared, &supervised, &hints);
        Node {
            supervised,
            hints,
            listens: Lock::default(),
            used: AtomicBool::new(false),
            following: tokio::spawn(following),
        }
    }

    pub(super) fn link(&self) -> Link {
        self.supervised.link().borrow().clone()
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.link(), Link::Up)
    }

    pub(super) fn was_tried(&self) -> bool {
        !matches!(self.link(), Link::Unknown)
    }

    /// Waits until the first attempt to connect has ended, however it did.
    pub(super) async fn tried(&self) {
        let mut link = self.supervised.link();
        let tried = link.wait_for(|link| !matches!(link, Link::Unknown));
        // Without a sender nothing is tried any more.
        drop(tried.await);
    }

    pub(super) async fn exchange(
        &self,
        key: &Key,
        write: Option<&Write>,
        asking: bool,
    ) -> Result<Exchanged, CallError> {
        self.supervised.exchange(key, write, asking).await
    }

    pub(super) async fn ask(&self, question: &Cmd) -> Result<Value, CallError> {
        self.supervised.ask(question).await
    }

    /// Listens to these keys, and to no others.
    pub(super) fn listen(&self, keys: &HashSet<Key>) {
        let mut listens = self.listens.lock();
        for key in listens.difference(keys) {
            self.hints.want(key, false);
        }
        for key in keys.difference(&listens) {
            self.hints.want(key, true);
        }
        listens.clone_from(keys);
    }

    pub(super) fn use_it(&self) {
        self.used.store(true, SeqCst);
    }

    pub(super) fn was_used_of_late(&self) -> bool {
        self.used.swap(false, SeqCst)
    }
}

/// Passes on what comes over a connection, and whether there is one. Ends with the cluster or the connection's supervisor.
fn follow(
    shared: &Arc<Shared>,
    supervised: &Supervised,
    hints: &Hints,
) -> impl Future<Output = ()> + Send + use<> {
    let shared = Arc::downgrade(shared);
    let (mut link, told) = (supervised.link(), hints.take());
    async move {
        let Some(mut told) = told else { return };
        loop {
            let hint = tokio::select! {
                changed = link.changed() => match changed {
                    Ok(()) => None,
                    Err(_gone) => return,
                },
                hint = told.recv() => match hint {
                    Some(hint) => Some(hint),
                    None => return,
                },
            };
            let Some(shared) = shared.upgrade() else {
                return;
            };
            match hint {
                Some(Hint::Missed) => shared.hints.miss(),
                Some(hint) => shared.hints.tell(hint),
                None => {
                    // Its slots may have gone to another.
                    if matches!(&*link.borrow_and_update(), Link::Down(_)) {
                        shared.ask_again();
                    }
                    shared.changed.notify_one();
                }
            }
        }
    }
}
