//! A gateway and the DevRev simulator, each on its own port.

use std::{net::SocketAddr, path::Path};

use aws_lc_rs::digest::{SHA256, digest};
use revgate::{
    config,
    serve::Gateway,
    simulator::{self, Fault, FaultPlan, Received, Rule, Simulator, Status},
};

use crate::http::{Answer, exchange, request};

pub const KEY: &str = "billing-key-0001";
pub const OTHER_KEY: &str = "reports-key-0002";
pub const TOKEN: &str = "devrev-token-0003";

pub struct Rig {
    pub devrev: Simulator,
    pub gateway: Gateway,
    pub address: SocketAddr,
}

impl Rig {
    pub async fn new(extra: &str) -> Rig {
        Rig::with(extra, simulator::Options::default()).await
    }

    pub async fn with(extra: &str, options: simulator::Options) -> Rig {
        let devrev = simulator::start(options).await.expect("starts");
        let gateway = gateway(&devrev.addr().to_string(), extra);
        let address = gateway.address().expect("TCP");
        Rig {
            devrev,
            gateway,
            address,
        }
    }

    /// As [`Rig::with`], with more in the tables of the file that already stand there.
    pub async fn tables(
        listen: &str,
        upstream: &str,
        extra: &str,
        options: simulator::Options,
    ) -> Rig {
        let devrev = simulator::start(options).await.expect("starts");
        let text = file(&devrev.addr().to_string(), extra)
            .replacen("[listen]\n", &format!("[listen]\n{listen}\n"), 1)
            .replacen("attempt_timeout = \"2s\"\n", &format!("{upstream}\n"), 1);
        let gateway = start(&text, &[("DEVREV_TOKEN", TOKEN)]);
        let address = gateway.address().expect("TCP");
        Rig {
            devrev,
            gateway,
            address,
        }
    }

    pub async fn send(&self, bytes: impl AsRef<[u8]>) -> Answer {
        exchange(self.address, bytes).await
    }

    pub async fn call(&self, method: &str, target: &str, body: &str) -> Answer {
        let authorization = format!("Bearer {KEY}");
        let headers = [
            ("Authorization", authorization.as_str()),
            ("Content-Type", "application/json"),
        ];
        self.send(request(method, target, &headers, body)).await
    }

    pub async fn admin(&self, path: &str) -> Answer {
        admin(self.gateway.admin_address(), "GET", path, "").await
    }

    pub async fn resume(&self) -> Answer {
        admin(
            self.gateway.admin_address(),
            "POST",
            "/quota/main/resume",
            "",
        )
        .await
    }

    pub fn last(&self) -> Received {
        self.devrev
            .received()
            .last()
            .cloned()
            .expect("a request at the simulator")
    }
}

/// The simulator without faults.
pub async fn simulator() -> Simulator {
    let options = simulator::Options::default();
    simulator::start(options).await.expect("starts")
}

/// A gateway with this configuration.
pub fn start(text: &str, env: &[(&str, &str)]) -> Gateway {
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let config = config::from_toml(text, &env.collect());
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    Gateway::start(config, None).unwrap_or_else(|error| panic!("{error:#}"))
}

/// A gateway with the configuration in this file, which it watches.
pub fn watching(file: &Path) -> Gateway {
    let config = config::load(file).unwrap_or_else(|problems| panic!("{problems}"));
    Gateway::watching(file.to_owned(), config, None).expect("starts")
}

/// Asks the admin listener.
pub async fn admin(address: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    let length = body.len();
    let bytes = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    exchange(address, bytes).await
}

/// A gateway in front of `upstream`, with two callers.
pub fn gateway(upstream: &str, extra: &str) -> Gateway {
    start(&file(upstream, extra), &[("DEVREV_TOKEN", TOKEN)])
}

/// Its configuration.
pub fn file(upstream: &str, extra: &str) -> String {
    format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstream]\nurl = \"http://{upstream}\"\nattempt_timeout = \"2s\"\n\
         [tokens.main]\nenv = \"DEVREV_TOKEN\"\n\
         [callers.billing]\nkey_sha256 = \"{}\"\nrate = \"1000/s\"\nburst = 1000\n\
         [callers.reports]\nkey_sha256 = \"{}\"\nrate = \"1/min\"\nburst = 2\n{extra}\n",
        hash(KEY),
        hash(OTHER_KEY),
    )
}

pub fn hash(key: &str) -> String {
    digest(&SHA256, key.as_bytes())
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The simulator answers the first `times` calls of `operation` with `fault`.
pub fn plan(operation: &str, fault: Fault, times: u64) -> FaultPlan {
    FaultPlan::none().with(Rule::new(operation, fault).times(times))
}

pub fn status(code: u16, retry_after: Option<u64>) -> Fault {
    let mut status = Status::new(code);
    status.retry_after = retry_after;
    Fault::Status(status)
}

pub fn header<'a>(received: &'a Received, name: &str) -> Option<&'a str> {
    received
        .headers
        .iter()
        .find(|(n, _)| n == name)
        .map(|(_, v)| v.as_str())
}
