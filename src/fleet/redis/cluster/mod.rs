//! The register on a Redis cluster: a connection to each node that has a key of ours.
//!
//! The redis crate has a client for clusters. It takes no TLS of ours, and its users have seen it hang after failovers. This one does less:
//! each command has one key, so all it needs is who has the key's slot. The nodes tell, all together when one is asked (CLUSTER SLOTS), or one slot at a
//! time when the wrong one is used (MOVED, ASK). Each connection is kept by a supervisor, as that to one server is.
//!
//! Hints are published by PUBLISH, which reaches all nodes, and not by SPUBLISH, which Redis 6.2 lacks and which ends a subscription when
//! its slot moves. They are listened to at the node that has the key: there they come at once, and whoever can exchange hears them.

mod asking;
mod nodes;
pub(in crate::fleet::redis) mod slots;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use self::{
    nodes::Node,
    slots::{Redirect, SlotMap, slot_of},
};
use super::{Server, address::Address, answer::CallError};
use crate::{
    fleet::{
        hints::Hints,
        names::Names,
        register::{Answer, Exchanged, Failure, Fault, Hint, Key, Link, Register, Write},
    },
    lock::Lock,
    random,
};

/// What is needed in a cluster beside the rights of the script, as an ACL rule.
#[cfg(test)]
pub(crate) const RIGHTS: &str = "+asking +cluster|slots";

/// How often an exchange is sent on: to where the slot is, and from there to where it is being moved, and once more because the nodes
/// need not agree while it moves. Each costs a round trip of the exchange's time.
const REDIRECTS: usize = 3;

/// How often a key is made up to find one that a node has. Enough for one that has a hundredth of all slots.
const DRAWS: usize = 1000;

/// See the module.
pub(crate) struct Cluster {
    shared: Arc<Shared>,
    keeping: JoinHandle<()>,
}

struct Shared {
    /// The addresses are any nodes'.
    server: Server,
    names: Names,
    timeout: Duration,
    map: Lock<Option<SlotMap>>,
    nodes: Lock<HashMap<Address, Arc<Node>>>,
    /// The keys whose hints are wanted.
    wanted: Lock<HashSet<Key>>,
    hints: Hints,
    link: watch::Sender<Link>,
    /// The map is out of date.
    stale: AtomicBool,
    /// Why nobody told it the last time.
    problem: Lock<Option<Failure>>,
    /// Something is to be done about the map.
    due: Notify,
    /// Something is to be done about the nodes.
    changed: Notify,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.keeping.abort();
        self.shared.nodes.lock().clear();
    }
}

impl Cluster {
    /// Begins to connect, on the runtime of this thread. Each call ends within `timeout`.
    pub(crate) fn start(server: Server, names: Names, timeout: Duration) -> Cluster {
        let shared = Arc::new(Shared {
            server,
            names,
            timeout,
            map: Lock::default(),
            nodes: Lock::default(),
            wanted: Lock::default(),
            hints: Hints::new(),
            link: watch::Sender::new(Link::Unknown),
            stale: AtomicBool::new(false),
            problem: Lock::default(),
            due: Notify::new(),
            changed: Notify::new(),
        });
        let keeping = shared.clone();
        let keeping = tokio::spawn(async move {
            tokio::join!(
                keeping.keep_map(),
                keeping.keep_nodes(),
                keeping.hints.pay()
            );
        });
        Cluster { shared, keeping }
    }
}

impl Register for Cluster {
    fn exchange<'a>(&'a self, key: &'a Key, write: Option<Write>) -> Answer<'a> {
        Box::pin(self.shared.exchange(key, write))
    }

    fn listen(&self, key: &Key) {
        self.shared.wanted.lock().insert(key.clone());
        self.shared.changed.notify_one();
    }

    fn forget(&self, key: &Key) {
        self.shared.wanted.lock().remove(key);
        self.shared.changed.notify_one();
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    fn hints(&self) -> Option<mpsc::Receiver<Hint>> {
        self.shared.hints.take()
    }
}

impl Shared {
    async fn exchange(
        self: &Arc<Self>,
        key: &Key,
        write: Option<Write>,
    ) -> Result<Exchanged, Failure> {
        let until = Instant::now() + self.timeout;
        let mut address = self.owner(key)?;
        let mut asking = false;
        for redirects in 0..=REDIRECTS {
            let node = self.node(&address);
            let exchanging = async {
                node.tried().await;
                node.exchange(key, write.as_ref(), asking).await
            };
            // The first one has the same bound, and its supervisor must see whether it kept it.
            let result = match redirects == 0 && node.was_tried() {
                true => exchanging.await,
                false => match timeout_at(until, exchanging).await {
                    Ok(result) => result,
                    Err(_elapsed) => Err(CallError::TimedOut),
                },
            };
            let error = match result {
                Ok(exchanged) => return Ok(exchanged),
                Err(error) => error,
            };
            let redirect = match &error {
                CallError::Refusal(refusal) => Redirect::of(refusal, &address),
                _ => None,
            };
            match redirect {
                Some(Redirect::Moved(slot, to)) => {
                    if let Some(map) = &mut *self.map.lock() {
                        map.moved(slot, to.clone());
                    }
                    self.ask_again();
                    (address, asking) = (to, false);
                }
                Some(Redirect::Ask(to)) => (address, asking) = (to, true),
                None => return Err(error.failure()),
            }
        }
        let reason = "the nodes of the cluster do not agree on where the slot of the key is";
        Err(Failure::new(Fault::NotWritable, reason))
    }

    /// The node that has the slot of a key, as far as is known.
    fn owner(&self, key: &Key) -> Result<Address, Failure> {
        match &*self.map.lock() {
            Some(map) => map.owner(slot_of(key)).cloned().ok_or_else(no_owner),
            None => Err(match &*self.link.borrow() {
                Link::Down(failure) => Failure::new(Fault::Down, failure.reason.clone()),
                Link::Unknown | Link::Up => Failure::new(Fault::Down, "not connected yet"),
            }),
        }
    }

    /// The node at this address, to which a connection is begun if there is none.
    fn node(self: &Arc<Self>, address: &Address) -> Arc<Node> {
        let mut nodes = self.nodes.lock();
        let node = nodes
            .entry(address.clone())
            .or_insert_with(|| Arc::new(Node::start(self, address)));
        node.use_it();
        node.clone()
    }

    /// A key of ours, and of no group, that this node has.
    fn key_at(&self, address: &Address) -> Option<Key> {
        let map = self.map.lock();
        let map = map.as_ref()?;
        let mut keys = (0..DRAWS).map(|_| self.names.of_probe(random::id64()));
        keys.find(|key| map.owner(slot_of(key)) == Some(address))
    }

    /// Keeps the nodes, what they listen to, and what is said of them. Runs until it is dropped.
    async fn keep_nodes(self: &Arc<Self>) {
        loop {
            self.changed.notified().await;
            self.arrange();
            self.look();
            self.due.notify_one();
        }
    }

    /// Has each node listen to the keys that it has, and parts with nodes that have none and were not used of late.
    fn arrange(self: &Arc<Self>) {
        let wanted: Vec<Key> = self.wanted.lock().iter().cloned().collect();
        let mut keys: HashMap<Address, HashSet<Key>> = HashMap::new();
        for key in wanted {
            if let Ok(owner) = self.owner(&key) {
                keys.entry(owner).or_default().insert(key);
            }
        }
        for address in keys.keys() {
            self.node(address);
        }
        // What is dropped ends outside the lock.
        let unused: Vec<Arc<Node>> = {
            let mut nodes = self.nodes.lock();
            let none = HashSet::new();
            let mut unused = Vec::new();
            nodes.retain(|address, node| {
                let keys = keys.get(address).unwrap_or(&none);
                node.listen(keys);
                let keep = !keys.is_empty() || node.was_used_of_late();
                if !keep {
                    unused.push(node.clone());
                }
                keep
            });
            unused
        };
        drop(unused);
    }

    /// Says whether all nodes that have a key of ours can be reached.
    fn look(&self) {
        let mut link = match (&*self.map.lock(), &*self.problem.lock()) {
            (Some(_), _) => Link::Up,
            (None, Some(problem)) => Link::Down(problem.clone()),
            (None, None) => Link::Unknown,
        };
        if matches!(link, Link::Up) {
            let wanted: Vec<Key> = self.wanted.lock().iter().cloned().collect();
            for key in wanted {
                let of_key = match self.owner(&key) {
                    Ok(owner) => {
                        let node = self.nodes.lock().get(&owner).cloned();
                        node.map_or(Link::Unknown, |node| node.link())
                    }
                    Err(failure) => Link::Down(failure),
                };
                match of_key {
                    Link::Up => {}
                    Link::Unknown => link = Link::Unknown,
                    down @ Link::Down(_) => {
                        link = down;
                        break;
                    }
                }
            }
        }
        self.link.send_if_modified(|now| {
            let differs = match (&*now, &link) {
                // While one is tried, what was said last holds.
                (_, Link::Unknown) | (Link::Up, Link::Up) => false,
                (Link::Down(now), Link::Down(next)) => now.reason != next.reason,
                _ => true,
            };
            if differs {
                *now = link;
            }
            differs
        });
    }
}

fn no_owner() -> Failure {
    Failure::new(
        Fault::NotWritable,
        "no node of the cluster has the slot of the key",
    )
}
