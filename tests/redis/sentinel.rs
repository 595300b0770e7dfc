//! A primary with replicas, watched by Sentinels.

use super::{Options, Server, Value, until};

/// What the Sentinels call the primary.
pub(crate) const MASTER: &str = "fleet";

pub(crate) struct Watched {
    /// The first is the primary at first.
    pub(crate) servers: Vec<Server>,
    pub(crate) sentinels: Vec<Server>,
}

impl Watched {
    /// A primary, a replica, and so many Sentinels.
    pub(crate) async fn start(sentinels: usize) -> Watched {
        Watched::with(Options::new(), Options::new(), sentinels).await
    }

    /// With options for the servers and for the Sentinels.
    pub(crate) async fn with(servers: Options, sentinel: Options, sentinels: usize) -> Watched {
        let primary = Server::with(servers.clone()).await;
        let replica = Server::with(servers.replica_of(&primary)).await;
        replica.until_it_follows().await;
        let quorum = sentinels / 2 + 1;
        let options = sentinel
            .sentinel()
            .line(format!(
                "sentinel monitor {MASTER} 127.0.0.1 {} {quorum}",
                primary.port()
            ))
            .line(format!("sentinel auth-user {MASTER} harness"))
            .line(format!("sentinel auth-pass {MASTER} harness"))
            // Milliseconds until a server is held for dead, and between two attempts to replace it.
            .line(format!("sentinel down-after-milliseconds {MASTER} 500"))
            .line(format!("sentinel failover-timeout {MASTER} 2000"))
            // Among each other, also where the test has given the default user a password.
            .line("sentinel sentinel-user harness")
            .line("sentinel sentinel-pass harness");
        let mut watched = Watched {
            servers: vec![primary, replica],
            sentinels: Vec::new(),
        };
        for _ in 0..sentinels {
            let sentinel = Server::with(options.clone()).await;
            // They look around more often than every ten seconds.
            let periods = ["INFO-PERIOD", "200", "PUBLISH-PERIOD", "200"];
            let periods = [&["SENTINEL", "DEBUG"][..], &periods[..]].concat();
            sentinel.call(&periods).await;
            watched.sentinels.push(sentinel);
        }
        for sentinel in &watched.sentinels {
            until("a Sentinel that knows all", || async {
                let seen = sentinel.call(&["SENTINEL", "MASTER", MASTER]).await;
                let others = (sentinels - 1).to_string();
                let replicas = sentinel.call(&["SENTINEL", "REPLICAS", MASTER]).await;
                let well = replicas.items().iter().all(|replica| {
                    replica.field("flags").as_deref() == Some("slave")
                        && replica.field("master-link-status").as_deref() == Some("ok")
                });
                let knows = seen.field("flags").as_deref() == Some("master")
                    && seen.field("num-slaves").as_deref() == Some("1")
                    && seen.field("num-other-sentinels") == Some(others)
                    && well;
                knows.then_some(()).ok_or_else(|| seen.text())
            })
            .await;
        }
        watched
    }

    /// The addresses of the Sentinels, as in a URL: `127.0.0.1:1,127.0.0.1:2`.
    pub(crate) fn addresses(&self) -> String {
        let addresses: Vec<String> = self.sentinels.iter().map(Server::address).collect();
        addresses.join(",")
    }

    /// The server that this Sentinel holds for the primary.
    pub(crate) async fn primary_seen_by(&self, sentinel: usize) -> Option<usize> {
        let command = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER];
        let answer = self.sentinels[sentinel].call(&command).await;
        let port = answer.items().get(1).map(Value::text)?;
        let has = |server: &Server| server.port().to_string() == port;
        self.servers.iter().position(has)
    }

    /// Orders a failover, and waits until all Sentinels that run name this server and it takes writes.
    pub(crate) async fn fail_over_to(&self, server: usize) {
        let sentinel = self.sentinels.iter().find(|sentinel| sentinel.runs());
        let sentinel = sentinel.expect("one runs");
        sentinel.call(&["SENTINEL", "FAILOVER", MASTER]).await;
        self.until_primary(server).await;
    }

    /// Waits until all Sentinels that run name this server, and it takes writes.
    pub(crate) async fn until_primary(&self, server: usize) {
        for (number, sentinel) in self.sentinels.iter().enumerate() {
            if !sentinel.runs() {
                continue;
            }
            until("a new primary", || async {
                let seen = self.primary_seen_by(number).await;
                let role = self.servers[server].info("role").await;
                let so = seen == Some(server) && role.as_deref() == Some("master");
                so.then_some(()).ok_or(format!("{seen:?}, {role:?}"))
            })
            .await;
        }
    }
}
