//! One replica: a process of its own, whose log is read as it comes.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::lock;
use crate::{
    redis::until,
    rig::{self, TOKEN},
};

pub struct Gateway {
    child: Child,
    pub proxy: SocketAddr,
    admin: SocketAddr,
    log: Arc<Mutex<Vec<Value>>>,
    _file: tempfile::NamedTempFile,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Gateway {
    /// With this configuration, and this URL of Redis.
    pub async fn start(configuration: &str, redis: &str) -> Gateway {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), configuration).expect("written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_revgate"))
            .args(["run", "-c"])
            .arg(file.path())
            .env("DEVREV_TOKEN", TOKEN)
            .env("REDIS_URL", redis)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let told = log.clone();
        // Ends with the process.
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lock(&told).push(line);
            }
        });
        let (proxy, admin) = (bound(&log, "proxy").await, bound(&log, "admin").await);
        Gateway {
            child,
            proxy,
            admin,
            log,
            _file: file,
        }
    }

    /// As `kill -9` does. It may be dead already.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signalled");
    }

    /// What the admin listener answers: the status and the text.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let answer = rig::admin(self.admin, "GET", path, "").await;
        (answer.status, answer.text())
    }

    /// A metric without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("{name} in {text}"))
    }

    /// How its group stands in the fleet: "plenty", "scarce", "alone", or "null".
    pub async fn sharing(&self) -> String {
        let (_, text) = self.get("/quota").await;
        let quota: Value = serde_json::from_str(&text).expect("JSON");
        let sharing = &quota["main"]["fleet"]["sharing"];
        sharing.as_str().unwrap_or("null").to_owned()
    }

    /// The lines of its log that concern the fleet.
    pub fn story(&self) -> Vec<Value> {
        let about = |line: &&Value| {
            let event = line["event"].as_str().unwrap_or_default();
            event.starts_with("shared_")
        };
        lock(&self.log).iter().filter(about).cloned().collect()
    }

    /// Panics and errors, of which there must be none.
    pub fn errors(&self) -> Vec<Value> {
        let is_bad = |line: &&Value| line.is_string() || line["level"] == "ERROR";
        lock(&self.log).iter().filter(is_bad).cloned().collect()
    }
}

async fn bound(log: &Mutex<Vec<Value>>, listener: &str) -> SocketAddr {
    let address = || {
        let is_it = |line: &Value| {
            let is_bound = line["message"] == "listening" && line["listener"] == listener;
            is_bound.then(|| line["address"].as_str()?.parse().ok())?
        };
        lock(log).iter().find_map(is_it)
    };
    until("a gateway that listens", || async {
        let said = || format!("{:?}", lock(log));
        address().map(|_: SocketAddr| ()).ok_or_else(said)
    })
    .await;
    address().expect("bound")
}
