//! A cluster.

use super::{Data, Options, Server, Value, until};

/// How many slots a cluster has.
const SLOTS: usize = 16_384;

pub(crate) struct Cluster {
    /// The slots are dealt out evenly to the first three. Then come their replicas, one for each, if there are any.
    pub(crate) nodes: Vec<Server>,
}

/// How many nodes have slots at first. A failover needs the votes of most of them.
pub(crate) const PRIMARIES: usize = 3;

impl Cluster {
    /// Three nodes.
    pub(crate) async fn start() -> Cluster {
        Cluster::with(Options::new(), false).await
    }

    /// Three nodes, each with a replica.
    pub(crate) async fn with_replicas() -> Cluster {
        Cluster::with(Options::new(), true).await
    }

    /// All nodes are started like this.
    pub(crate) async fn with(options: Options, replicas: bool) -> Cluster {
        // A node is held for dead after this many milliseconds, and a replica that is behind may stand for election.
        let options = options
            .cluster()
            .line("cluster-node-timeout 1000")
            .line("cluster-replica-validity-factor 0");
        let mut nodes = Vec::new();
        for _ in 0..PRIMARIES * (1 + usize::from(replicas)) {
            nodes.push(Server::with(options.clone()).await);
        }
        for (number, node) in nodes.iter().enumerate() {
            let epoch = (number + 1).to_string();
            node.call(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
            if number < PRIMARIES {
                let first = SLOTS * number / PRIMARIES;
                let last = SLOTS * (number + 1) / PRIMARIES - 1;
                let range = [first.to_string(), last.to_string()];
                node.call(&["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]])
                    .await;
            }
            let (port, bus) = (node.port().to_string(), node.bus().to_string());
            if number > 0 {
                nodes[0]
                    .call(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])
                    .await;
            }
        }
        let cluster = Cluster { nodes };
        let count = cluster.nodes.len();
        for node in &cluster.nodes {
            until("all nodes know each other", || async {
                let known = field(node, "cluster_known_nodes").await;
                let wanted = count.to_string();
                (known == wanted).then_some(()).ok_or(known)
            })
            .await;
        }
        for number in PRIMARIES..count {
            let primary = cluster.id(number - PRIMARIES).await;
            let node = &cluster.nodes[number];
            node.call(&["CLUSTER", "REPLICATE", &primary]).await;
            node.until_it_follows().await;
        }
        cluster.until_ok().await;
        cluster
    }

    /// Waits until all nodes that run hold the cluster for whole.
    pub(crate) async fn until_ok(&self) {
        for node in self.nodes.iter().filter(|node| node.runs()) {
            until("a cluster that is whole", || async {
                let state = field(node, "cluster_state").await;
                let slots = field(node, "cluster_slots_ok").await;
                let whole = state == "ok" && slots == SLOTS.to_string();
                whole.then_some(()).ok_or(format!("{state}, {slots} slots"))
            })
            .await;
        }
    }

    /// The addresses of all nodes, as in a URL: `127.0.0.1:1,127.0.0.1:2`.
    pub(crate) fn addresses(&self) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(Server::address).collect();
        addresses.join(",")
    }

    /// The cluster's name of a node.
    pub(crate) async fn id(&self, node: usize) -> String {
        self.nodes[node].call(&["CLUSTER", "MYID"]).await.text()
    }

    pub(crate) async fn slot(&self, key: &str) -> u16 {
        let node = self.nodes.iter().find(|node| node.runs());
        let node = node.expect("one runs");
        match node.call(&["CLUSTER", "KEYSLOT", key]).await {
            Value::Integer(slot) => u16::try_from(slot).expect("a slot"),
            other => panic!("CLUSTER KEYSLOT: {other}"),
        }
    }

    /// The node that has a key's slot, as `asked` sees it.
    pub(crate) async fn owner_seen_by(&self, asked: usize, key: &str) -> Option<usize> {
        let slot = i64::from(self.slot(key).await);
        let ranges = self.nodes[asked].call(&["CLUSTER", "SLOTS"]).await;
        let port = ranges
            .items()
            .iter()
            .find_map(|range| match range.items() {
                [Value::Integer(first), Value::Integer(last), primary, ..]
                    if (*first..=*last).contains(&slot) =>
                {
                    primary.items().get(1).map(Value::text)
                }
                _ => None,
            })?;
        let has = |node: &Server| node.port().to_string() == port;
        self.nodes.iter().position(has)
    }

    /// The node that has a key's slot.
    pub(crate) async fn owner(&self, key: &str) -> usize {
        let asked = self.nodes.iter().position(Server::runs);
        let owner = self.owner_seen_by(asked.expect("one runs"), key).await;
        owner.expect("an owner")
    }

    /// A key whose slot this node has.
    pub(crate) async fn key_of(&self, node: usize) -> String {
        for number in 0.. {
            let key = format!("key:{{{number}}}");
            if self.owner(&key).await == node {
                return key;
            }
        }
        unreachable!("one of the first keys is there");
    }

    /// Begins to move a slot: keys that are not at `from` any more are asked for at `to` (ASK).
    pub(crate) async fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let (giver, taker) = (self.id(from).await, self.id(to).await);
        self.nodes[to]
            .call(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &giver])
            .await;
        self.nodes[from]
            .call(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &taker])
            .await;
    }

    /// Moves the keys of a slot that is being moved.
    pub(crate) async fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let port = self.nodes[to].port().to_string();
        loop {
            let list = ["CLUSTER", "GETKEYSINSLOT", &slot, "100"];
            let keys = self.nodes[from].call(&list).await;
            if keys.items().is_empty() {
                return;
            }
            for key in keys.items() {
                let Value::Bytes(key) = key else { continue };
                let head = ["MIGRATE", "127.0.0.1", &port].map(str::as_bytes);
                let tail = ["0", "5000", "AUTH2", "harness", "harness"].map(str::as_bytes);
                let command = [&head[..], &[key], &tail[..]].concat();
                self.nodes[from].call(&command).await;
            }
        }
    }

    /// Ends a move: the slot is `to`'s. Others learn it from the bus, and answer MOVED to `from` until then.
    pub(crate) async fn end_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let taker = self.id(to).await;
        for node in [to, from] {
            self.nodes[node]
                .call(&["CLUSTER", "SETSLOT", &slot, "NODE", &taker])
                .await;
        }
    }

    /// The whole move.
    pub(crate) async fn move_slot(&self, slot: u16, from: usize, to: usize) {
        self.begin_move(slot, from, to).await;
        self.move_keys(slot, from, to).await;
        self.end_move(slot, from, to).await;
    }

    /// A replica takes over from its primary, with its consent.
    pub(crate) async fn fail_over_to(&self, replica: usize) {
        self.nodes[replica].call(&["CLUSTER", "FAILOVER"]).await;
        self.until_primary(replica).await;
    }

    /// Waits until a node holds itself for a primary.
    pub(crate) async fn until_primary(&self, node: usize) {
        until("a replica that took over", || async {
            match self.nodes[node].info("role").await.as_deref() {
                Some("master") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    pub(crate) async fn restart(&mut self, node: usize, data: Data) {
        self.nodes[node].restart(data).await;
    }
}

async fn field(node: &Server, name: &str) -> String {
    let info = node.call(&["CLUSTER", "INFO"]).await.text();
    let start = format!("{name}:");
    let line = info.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_default().trim().to_owned()
}
