//! Who has which slot, asked of the nodes.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use futures_util::future::select_ok;
use redis::{Cmd, cmd};
use tokio::time::sleep;

use super::{Shared, nodes::Node, slots::SlotMap};
use crate::{
    fleet::{
        redis::{address::Address, connection::Connection},
        register::{Failure, Fault, Link},
    },
    random,
};

/// Between two questions who has which slot: longer each time, and no longer than a second while somebody answers, for a failover may be
/// over at any moment. Then three hundred replicas ask three hundred times a second at worst, each time another node.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// While nobody answers, as with one server.
const LAST_PAUSE_WITHOUT_ANSWER: Duration = Duration::from_secs(5);

/// For a node to which there is no connection yet: a lost SYN is sent again after a second.
const ASKING: Duration = Duration::from_secs(2);

/// Nodes that are asked at the same time when there is no connection to any.
const ASKED: usize = 8;

impl Shared {
    /// The map is out of date.
    pub(super) fn ask_again(&self) {
        self.stale.store(true, SeqCst);
        self.due.notify_one();
    }

    /// Keeps the map. Runs until it is dropped.
    pub(super) async fn keep_map(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            self.stale.store(false, SeqCst);
            *self.problem.lock() = self.refresh().await.err();
            self.changed.notify_one();
            sleep(pause.mul_f64(0.5 + random::jitter() / 2.0)).await;
            let last = match &*self.problem.lock() {
                None => LAST_PAUSE,
                Some(_) => LAST_PAUSE_WITHOUT_ANSWER,
            };
            pause = match self.is_up() {
                true => FIRST_PAUSE,
                false => (pause * 2).min(last),
            };
            while self.is_up() && !self.stale.load(SeqCst) {
                self.due.notified().await;
            }
        }
    }

    fn is_up(&self) -> bool {
        matches!(&*self.link.borrow(), Link::Up)
    }

    /// Asks who has which slot.
    async fn refresh(&self) -> Result<(), Failure> {
        let mut question = cmd("CLUSTER");
        question.arg("SLOTS");
        let mut open: Vec<(Address, Arc<Node>)> = {
            let nodes = self.nodes.lock();
            let open = nodes.iter().filter(|(_, node)| node.is_up());
            open.map(|(address, node)| (address.clone(), node.clone()))
                .collect()
        };
        // Another one each time: one that was cut off may know less than others.
        shuffle(&mut open);
        for (address, node) in open {
            let answer = node.ask(&question).await;
            let map = answer
                .ok()
                .and_then(|answer| SlotMap::read(&answer, &address));
            if map.is_some() {
                *self.map.lock() = map;
                return Ok(());
            }
        }
        let [others, down] = self.others();
        let map = match self.ask_all(others, &question).await {
            Ok(map) => map,
            // With nobody else, what was of no use must do.
            Err(failure) if down.is_empty() => return Err(failure),
            Err(_) => self.ask_all(down, &question).await?,
        };
        *self.map.lock() = Some(map);
        Ok(())
    }

    /// The nodes that are known and to which there is no connection; and those of them to which none can be opened, or that take no
    /// exchanges. One of those may have been cut off from the others: it still answers, perhaps as the first, and names itself as an owner.
    fn others(&self) -> [Vec<Address>; 2] {
        let all: HashSet<Address> = {
            let map = self.map.lock();
            let nodes = map.iter().flat_map(SlotMap::nodes);
            nodes
                .chain(&self.server.endpoint.addresses)
                .cloned()
                .collect()
        };
        let nodes = self.nodes.lock();
        let is_down = |address: &Address| {
            let node = nodes.get(address);
            node.is_some_and(|node| matches!(node.link(), Link::Down(_)))
        };
        let (down, others) = all.into_iter().partition(is_down);
        [others, down]
    }

    /// Asks some of these at the same time. The first one that answers is believed.
    async fn ask_all(&self, mut all: Vec<Address>, question: &Cmd) -> Result<SlotMap, Failure> {
        shuffle(&mut all);
        all.truncate(ASKED);
        if all.is_empty() {
            return Err(Failure::new(Fault::Down, "no other node is known"));
        }
        let asking = all
            .iter()
            .map(|address| Box::pin(self.ask_at(address, question)));
        let (map, _slower) = select_ok(asking).await?;
        Ok(map)
    }

    async fn ask_at(&self, address: &Address, question: &Cmd) -> Result<SlotMap, Failure> {
        let asked = Connection::ask(&self.server.at(address.clone()), question, ASKING).await;
        let answer = asked.map_err(|Failure { fault, reason }| {
            Failure::new(
                fault,
                format!("asking {address} for CLUSTER SLOTS failed: {reason}"),
            )
        })?;
        SlotMap::read(&answer, address).ok_or_else(|| {
            let reason = format!("{address} knows no node of a cluster that has slots");
            Failure::new(Fault::NotWritable, reason)
        })
    }
}

fn shuffle<T>(all: &mut [T]) {
    let mut random = random::seeded(random::id64());
    random.shuffle(all);
}
