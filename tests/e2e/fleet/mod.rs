//! Replicas that share one quota, over real sockets: so many gateways in this process, one real Redis, and the simulator of DevRev.

mod duties;
mod fairness;
mod http2;
mod limits;
mod pauses;
mod plenty;
mod scarcity;
mod ways;

use std::{future::Future, net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use revgate::{
    serve::Gateway,
    simulator::{self, Received, Simulator},
};
use serde_json::Value;

use crate::{
    http::{Answer, exchange, request},
    redis::Server,
    rig::{self, TOKEN, hash, header},
};

/// The callers of every replica's file.
pub const CALLERS: [Caller; 5] = [
    Caller::new("alpha", "alpha-key-of-a-fleet-01"),
    Caller::new("beta", "beta-key-of-a-fleet-02"),
    Caller {
        rules: "weight = 3",
        ..Caller::new("heavy", "heavy-key-of-a-fleet-03")
    },
    Caller {
        rules: "priority = \"batch\"",
        ..Caller::new("batch", "batch-key-of-a-fleet-04")
    },
    Caller {
        rules: "rate = \"2/s\"\nburst = 4",
        ..Caller::new("limited", "limited-key-of-a-fleet-05")
    },
];
pub const ALPHA: &Caller = &CALLERS[0];
pub const BETA: &Caller = &CALLERS[1];
pub const HEAVY: &Caller = &CALLERS[2];
pub const BATCH: &Caller = &CALLERS[3];
pub const LIMITED: &Caller = &CALLERS[4];

#[derive(Clone, Copy)]
pub struct Caller {
    pub name: &'static str,
    pub key: &'static str,
    rules: &'static str,
}

impl Caller {
    const fn new(name: &'static str, key: &'static str) -> Caller {
        Caller {
            name,
            key,
            rules: "",
        }
    }
}

/// An exchange takes as long as a busy machine needs. What happens when Redis is slow is another matter.
pub const TIMEOUT: &str = "1s";

/// Longer than anything here takes, so that a hang fails the test.
const PATIENCE: Duration = Duration::from_secs(40);

pub struct Fleet {
    pub devrev: Simulator,
    pub gateways: Vec<Gateway>,
    /// Dropped last, so that replicas can leave.
    pub redis: Option<Server>,
}

impl Fleet {
    /// `count` replicas with a Redis of their own. `extra` comes at the end of each one's file.
    pub async fn new(count: usize, extra: &str, options: simulator::Options) -> Fleet {
        let redis = Server::start().await;
        let url = format!("redis://{}", redis.address());
        let mut fleet = Fleet::at(&url, "", count, extra, options).await;
        fleet.redis = Some(redis);
        fleet
    }

    /// With the Redis of this URL; `shared` is more of `[shared]`.
    pub async fn at(
        url: &str,
        shared: &str,
        count: usize,
        extra: &str,
        options: simulator::Options,
    ) -> Fleet {
        let devrev = simulator::start(options).await.expect("starts");
        let text = file(&devrev.addr().to_string(), shared, extra);
        let gateways = (0..count).map(|_| replica(&text, url)).collect();
        Fleet {
            devrev,
            gateways,
            redis: None,
        }
    }

    pub fn address(&self, replica: usize) -> SocketAddr {
        self.gateways[replica].address().expect("TCP")
    }

    /// A request that waits for so many seconds at most.
    pub async fn call(&self, replica: usize, caller: &Caller, wait: u32) -> Answer {
        call(self.address(replica), caller, "/works.list", wait).await
    }

    /// So many at once, in turn at all replicas. Each must be answered by 200.
    pub async fn serves(&self, caller: &Caller, count: usize, wait: u32) {
        let calls = (0..count).map(|n| self.call(n % self.gateways.len(), caller, wait));
        all_served(&join_all(calls).await);
    }

    pub async fn admin(&self, replica: usize, path: &str) -> Answer {
        rig::admin(self.gateways[replica].admin_address(), "GET", path, "").await
    }

    pub async fn quota(&self, replica: usize) -> Value {
        quota(&self.gateways[replica]).await
    }

    pub async fn resume(&self, replica: usize) -> Answer {
        let admin = self.gateways[replica].admin_address();
        rig::admin(admin, "POST", "/quota/main/resume", "").await
    }

    /// Until the group of this replica is so.
    pub async fn until(&self, replica: usize, so: impl Fn(&Value) -> bool) -> Value {
        until(&format!("replica {replica}"), || async {
            let quota = self.quota(replica).await;
            if so(&quota) {
                Ok(quota)
            } else {
                Err(quota.to_string())
            }
        })
        .await
    }

    /// A metric of this replica, whatever its labels: the sum.
    pub async fn metric(&self, replica: usize, name: &str) -> f64 {
        let text = self.admin(replica, "/metrics").await.text();
        let rows = text.lines().filter_map(|line| {
            let (row, value) = line.rsplit_once(' ')?;
            let rest = row.strip_prefix(name)?;
            let whole = rest.is_empty() || rest.starts_with('{');
            whole.then(|| value.parse::<f64>().expect("a number"))
        });
        rows.sum()
    }

    /// Exchanges of all replicas that succeeded.
    pub async fn exchanges(&self) -> u64 {
        let mut all = 0;
        for replica in 0..self.gateways.len() {
            let status = self.admin(replica, "/status").await.json();
            all += status["shared"]["exchanges"]["ok"]
                .as_u64()
                .expect("a count");
        }
        all
    }

    /// What DevRev has counted: calls that it answered, and those beyond the quota.
    pub fn counted(&self) -> (usize, usize) {
        let received = self.devrev.received();
        let of = |status| received.iter().filter(|r| r.status == Some(status)).count();
        (of(200), of(429))
    }

    /// No call was beyond the quota, and each of these was sent once.
    pub fn assert_sent_once(&self, count: usize) {
        let received = self.devrev.received();
        let other = received.iter().find(|r| r.status != Some(200));
        assert!(other.is_none(), "{other:?}");
        assert_eq!(received.len(), count, "each was sent once");
    }

    /// Replicas are what each of them has heard of, and none was without Redis in between.
    pub async fn assert_well(&self) {
        for replica in 0..self.gateways.len() {
            let alone = self
                .metric(replica, "revgate_shared_alone_seconds_total")
                .await;
            assert!(alone == 0.0, "replica {replica} was alone for {alone} s");
            let status = self.admin(replica, "/status").await.json();
            let exchanges = &status["shared"]["exchanges"];
            for result in [
                "timeout",
                "down",
                "broken",
                "not_writable",
                "refused",
                "denied",
            ] {
                assert_eq!(exchanges[result], 0, "replica {replica}: {exchanges}");
            }
        }
    }
}

/// The configuration of each replica.
pub fn file(devrev: &str, shared: &str, extra: &str) -> String {
    let mut text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nurl = \"http://{devrev}\"\nattempt_timeout = \"10s\"\n\
         [tokens.main]\nenv = \"DEVREV_TOKEN\"\n\
         [shared]\nredis = {{ env = \"REDIS_URL\" }}\ntimeout = \"{TIMEOUT}\"\n{shared}\n\
         [defaults]\nrate = \"10000/s\"\nburst = 10000\nmax_wait = \"2min\"\n"
    );
    for caller in CALLERS {
        text += &format!(
            "[callers.{}]\nkey_sha256 = \"{}\"\n{}\n",
            caller.name,
            hash(caller.key),
            caller.rules
        );
    }
    text + extra + "\n"
}

pub fn replica(text: &str, url: &str) -> Gateway {
    rig::start(text, &[("DEVREV_TOKEN", TOKEN), ("REDIS_URL", url)])
}

/// The group of all callers.
pub async fn quota(gateway: &Gateway) -> Value {
    let answer = rig::admin(gateway.admin_address(), "GET", "/quota", "").await;
    answer.json()["main"].clone()
}

pub async fn call(address: SocketAddr, caller: &Caller, target: &str, wait: u32) -> Answer {
    let wait = format!("wait={wait}");
    // The simulator does not see the key, so this names the caller.
    let headers = [
        ("Authorization", caller.key),
        ("Prefer", wait.as_str()),
        ("X-Of", caller.name),
    ];
    let answer = exchange(address, request("GET", target, &headers, ""));
    tokio::time::timeout(PATIENCE, answer)
        .await
        .expect("an answer")
}

pub fn all_served(answers: &[Answer]) {
    let bad = answers.iter().find(|answer| answer.status != 200);
    assert!(bad.is_none(), "{bad:?}");
}

/// How many of these are this caller's.
pub fn count(received: &[Received], caller: &Caller) -> usize {
    let of = |r: &&Received| header(r, "x-of") == Some(caller.name);
    received.iter().filter(of).count()
}

/// DevRev with a window of so many calls.
pub fn window(limit: u64, seconds: u64) -> simulator::Options {
    simulator::Options {
        limit,
        window: Duration::from_secs(seconds),
        ..simulator::Options::default()
    }
}

/// Asks until it is so.
pub async fn until<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    mut so: impl FnMut() -> F,
) -> T {
    let ends = tokio::time::Instant::now() + PATIENCE;
    loop {
        match so().await {
            Ok(value) => return value,
            Err(instead) => assert!(tokio::time::Instant::now() < ends, "{what}: {instead}"),
        }
        // Others need the machine meanwhile.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
